// parked.cc - threads that wait, in every way that has a name, for something to look at.
//
// Owns:        per kind of wait as many threads as the first argument says (10), and one that
//              computes.
// Keeps true:  each kind waits in a function of its own that shows in backtraces; it all ends well,
//              status 0, as soon as standard input does.
// Called by:   stacks_test.py; runs natively, too.
// See also:    moving.cc (the opposite).

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <vector>

#include "../programs/check.h"

#define SEEN_IN_BACKTRACES __attribute__((noinline))

pthread_mutex_t gate_mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_mutex_t cond_mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t gate_cond = PTHREAD_COND_INITIALIZER;
std::atomic<bool> over{false};
std::atomic<int> ended{0};
volatile unsigned long computed = 0;

SEEN_IN_BACKTRACES void wait_in_recv(int fd) {
  char byte;
  CHECK_EQ(recv(fd, &byte, 1, 0), 0);  // the other end closes
}

SEEN_IN_BACKTRACES void wait_in_cond() {
  CHECK_EQ(pthread_mutex_lock(&cond_mutex), 0);
  while (!over) CHECK_EQ(pthread_cond_wait(&gate_cond, &cond_mutex), 0);
  CHECK_EQ(pthread_mutex_unlock(&cond_mutex), 0);
}

SEEN_IN_BACKTRACES void wait_in_mutex() {
  CHECK_EQ(pthread_mutex_lock(&gate_mutex), 0);
  CHECK_EQ(pthread_mutex_unlock(&gate_mutex), 0);
}

SEEN_IN_BACKTRACES void wait_in_sleep() {
  const timespec step = {3600, 0};
  while (!over) nanosleep(&step, nullptr);
}

SEEN_IN_BACKTRACES void wait_in_join(pthread_t thread) {
  CHECK_EQ(pthread_join(thread, nullptr), 0);
  ++ended;
}

SEEN_IN_BACKTRACES void compute_without_pause() {
  while (!over) computed = computed + 1;
}

void* receiver(void* fd) {
  wait_in_recv(static_cast<int>(reinterpret_cast<long>(fd)));
  ++ended;
  return nullptr;
}
void* cond_waiter(void*) {
  wait_in_cond();
  ++ended;
  return nullptr;
}
void* mutex_waiter(void*) {
  wait_in_mutex();
  ++ended;
  return nullptr;
}
void* sleeper(void*) {
  wait_in_sleep();
  ++ended;
  return nullptr;
}
void* joiner(void* thread) {
  wait_in_join(reinterpret_cast<pthread_t>(thread));
  return nullptr;
}
void* computer(void*) {
  compute_without_pause();
  ++ended;
  return nullptr;
}

pthread_t start(void* (*body)(void*), void* argument, const char* name) {
  pthread_t thread;
  CHECK_EQ(pthread_create(&thread, nullptr, body, argument), 0);
  CHECK_EQ(pthread_setname_np(thread, name), 0);
  return thread;
}

SEEN_IN_BACKTRACES void wait_for_the_end_of_input() {
  char byte;
  while (read(0, &byte, 1) > 0) {
  }
}

int main(int argc, char** argv) {
  const int n = argc > 1 ? atoi(argv[1]) : 10;
  struct sigaction nothing = {};
  nothing.sa_handler = [](int) {};
  MUST(sigaction(SIGUSR1, &nothing, nullptr));
  CHECK_EQ(pthread_mutex_lock(&gate_mutex), 0);

  std::vector<pthread_t> others, sleepers;
  std::vector<int> ends;
  for (int i = 0; i < n; ++i) {
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    ends.push_back(pair[0]);
    others.push_back(
        start(receiver, reinterpret_cast<void*>(static_cast<long>(pair[1])), "receiver"));
    others.push_back(start(cond_waiter, nullptr, "cond"));
    others.push_back(start(mutex_waiter, nullptr, "mutex"));
    sleepers.push_back(start(sleeper, nullptr, "sleeper"));
    others.push_back(start(joiner, reinterpret_cast<void*>(sleepers.back()), "joiner"));
  }
  others.push_back(start(computer, nullptr, "computer"));
  puts("started");
  fflush(stdout);

  wait_for_the_end_of_input();
  over = true;
  for (const int fd : ends) MUST(close(fd));
  CHECK_EQ(pthread_mutex_lock(&cond_mutex), 0);
  CHECK_EQ(pthread_cond_broadcast(&gate_cond), 0);
  CHECK_EQ(pthread_mutex_unlock(&cond_mutex), 0);
  CHECK_EQ(pthread_mutex_unlock(&gate_mutex), 0);
  for (const pthread_t thread : sleepers) pthread_kill(thread, SIGUSR1);
  for (const pthread_t thread : others) CHECK_EQ(pthread_join(thread, nullptr), 0);
  CHECK_EQ(ended.load(), 5 * n + 1);
  puts("ended well");
  return 0;
}
