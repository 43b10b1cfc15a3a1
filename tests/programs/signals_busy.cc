// signals_busy.cc - clauses 1 and 5: signals that come at the worst moments. Whatever code they interrupt, nobody is
// lost, malloc stays whole, and the process's first thread may be joined like any other.

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "check.h"
#include "child.h"
#include "threads.h"

namespace {

std::atomic<long> handled;

void install(int signal, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  MUST(sigaction(signal, &action, nullptr));
}

CASE(a_storm_from_another_process_loses_no_thread) {
  install(SIGUSR1, [](int) { ++handled; });
  const pid_t target = getpid();
  std::atomic<int> rounds = 0;
  pid_t sender = fork();
  if (sender == 0) {
    for (int i = 0; i < 20'000; ++i) {
      if (kill(target, SIGUSR1) != 0) _exit(1);
      if (i % 8 == 0) usleep(20);
    }
    _exit(0);
  }
  MUST(sender);
  crowd(8, [&](int) {
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    for (int i = 0; i < 400; ++i) {
      CHECK_EQ(pthread_mutex_lock(&mutex), 0);
      usleep(50);
      CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
      if (i % 5 == 0) std::thread([&] { ++rounds; }).join();
    }
  });
  int status;
  pid_t waited;
  while ((waited = waitpid(sender, &status, 0)) < 0) CHECK_EQ(errno, EINTR);
  CHECK_EXITED(status, 0);
  CHECK_EQ(rounds, 8 * 80);
  CHECK(handled > 0);
}

CASE(a_handler_that_sleeps_leaves_malloc_whole) {
  install(SIGUSR2, [](int) {
    const timespec little = {0, 50'000};
    nanosleep(&little, nullptr);
    ++handled;
  });
  std::atomic<bool> stop = false;
  std::vector<std::thread> users;
  for (int id = 1; id <= 4; ++id) {
    users.emplace_back([&, id] {
      std::vector<char*> mine(64, nullptr);
      for (unsigned i = 0; !stop; ++i) {
        char*& slot = mine[i % mine.size()];
        const size_t size = 24 + i % 5 * 16;
        if (slot != nullptr)
          for (size_t k = 0; k < 24; ++k) CHECK(slot[k] == id);  // nobody else got the same memory
        free(slot);
        slot = static_cast<char*>(malloc(size));
        memset(slot, id, size);
      }
      for (char* slot : mine) free(slot);
    });
  }
  for (int i = 0; i < 400; ++i) {
    CHECK_EQ(pthread_kill(users[static_cast<size_t>(i) % users.size()].native_handle(), SIGUSR2), 0);
    usleep(100);
  }
  stop = true;
  for (std::thread& one : users) one.join();
}

pthread_t first;

CASE(the_first_thread_may_be_joined_when_it_has_ended) {
  const int status = in_child([] {
    first = pthread_self();
    pthread_t other;
    CHECK_EQ(pthread_create(
                 &other, nullptr,
                 [](void*) -> void* {
                   void* result;
                   CHECK_EQ(pthread_join(first, &result), 0);
                   CHECK(result == &first);
                   crowd(20, [](int) {
                     char stack[16 * 1024];
                     memset(stack, 1, sizeof stack);
                     usleep(100);
                     CHECK_EQ(stack[sizeof stack - 1], 1);
                   });
                   exit(7);
                 },
                 nullptr),
             0);
    pthread_exit(&first);
  });
  CHECK_EXITED(status, 7);
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
