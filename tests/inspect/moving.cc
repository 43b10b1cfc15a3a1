// moving.cc - threads that never stand still for long, to be looked at all the same.
//
// Owns:        eight pairs of threads; each pair hands a number to and fro through a socket.
// Keeps true:  no number is lost or changed, whoever looks; it ends, status 0, as soon as standard
//              input does.
// Called by:   stacks_test.py; runs natively, too.
// See also:    parked.cc (the opposite).

#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <vector>

#include "../programs/check.h"

constexpr int kPairs = 8;
constexpr long kLast = -1;
std::atomic<bool> over{false};
std::atomic<long> exchanged{0};

// True: there may be more.
bool take(int fd, long expected) {
  long number;
  CHECK_EQ(recv(fd, &number, sizeof number, MSG_WAITALL), static_cast<ssize_t>(sizeof number));
  if (number == kLast) return false;
  CHECK_EQ(number, expected);
  ++exchanged;
  return true;
}

void give(int fd, long number) {
  CHECK_EQ(send(fd, &number, sizeof number, 0), static_cast<ssize_t>(sizeof number));
}

void* serve(void* argument) {
  const int fd = static_cast<int>(reinterpret_cast<long>(argument));
  for (long i = 0; !over; ++i) {
    give(fd, i);
    CHECK(take(fd, i));
  }
  give(fd, kLast);
  return nullptr;
}

void* answer(void* argument) {
  const int fd = static_cast<int>(reinterpret_cast<long>(argument));
  for (long i = 0; take(fd, i); ++i) give(fd, i);
  return nullptr;
}

int main() {
  std::vector<pthread_t> threads;
  for (int i = 0; i < kPairs; ++i) {
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    for (const auto body : {serve, answer}) {
      pthread_t thread;
      void* fd = reinterpret_cast<void*>(static_cast<long>(pair[body == answer ? 1 : 0]));
      CHECK_EQ(pthread_create(&thread, nullptr, body, fd), 0);
      threads.push_back(thread);
    }
  }
  puts("started");
  fflush(stdout);
  char byte;
  while (read(0, &byte, 1) > 0) {
  }
  over = true;
  for (const pthread_t thread : threads) CHECK_EQ(pthread_join(thread, nullptr), 0);
  CHECK(exchanged > 0);
  puts("ended well");
  return 0;
}
