// threads.h - groups of threads, and how one waits for another without sleeping and hoping.
#pragma once

#include <thread>
#include <vector>

#include <semaphore.h>

#include "check.h"
#include "clock.h"

// Happens once; any number of threads may wait for it, before or after.
class event {
 public:
  event() { MUST(sem_init(&happened_, 0, 0)); }
  event(const event&) = delete;

  void set() { MUST(sem_post(&happened_)); }

  void wait() {
    while (sem_wait(&happened_) != 0) CHECK_EQ(errno, EINTR);
    set();
  }

 private:
  sem_t happened_;
};

// Runs body(0) .. body(n - 1), each in a thread of its own, and joins them all.
template <class Body>
void crowd(int n, Body body) {
  std::vector<std::thread> threads;
  threads.reserve(n);
  for (int i = 0; i < n; ++i) threads.emplace_back([&body, i] { body(i); });
  for (std::thread& one : threads) one.join();
}

// Waits for something that will become true and that nobody announces.
template <class Predicate>
void eventually(Predicate holds) {
  for (stopwatch waited; !holds(); usleep(500)) CHECK(waited.ms() < kHangMs);
}

// Makes it likely that another thread has blocked by now. A case must be right whether or not it
// has.
inline void let_it_block() { usleep(20'000); }
