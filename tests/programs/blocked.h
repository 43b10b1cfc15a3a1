// blocked.h - a hundred threads blocked in one call, a ticker beside them, and what that costs in kernel threads.
//
// The ticker's worst gap is printed, and claimed only to be far below a stall: a busy machine delays it too.  Under
// weft (WEFT_WORKERS says with how many workers) the number of kernel threads is claimed.
#pragma once

#include <atomic>
#include <thread>
#include <vector>

#include <stdlib.h>

#include "check.h"
#include "clock.h"
#include "threads.h"

constexpr int kBlocked = 100;

inline int kernel_threads() {
  FILE* status = fopen("/proc/self/status", "re");
  CHECK(status != nullptr);
  char line[256];
  int threads = 0;
  while (threads == 0 && fgets(line, sizeof line, status) != nullptr) sscanf(line, "Threads: %d", &threads);
  fclose(status);
  return threads;
}

// Workers if the program runs under weft, else 0.
inline int weft_workers() {
  const char* text = getenv("WEFT_WORKERS");
  return text != nullptr ? atoi(text) : 0;
}

class blocked_crowd {
 public:
  // Returns when body(0..99) have begun and probably blocked.
  template <class Body>
  explicit blocked_crowd(Body body, int n = kBlocked) {
    ticker_ = std::thread([this] { tick(); });
    for (int i = 0; i < n; ++i)
      threads_.emplace_back([this, body, i] {
        ++begun_;
        body(i);
      });
    eventually([&] { return begun_.load() == n; });
    usleep(100'000);
    seen_threads_ = kernel_threads();
  }

  // allowed: kernel threads beside the workers; -1: no claim (the call is marked "handoff").
  void join(const char* what, int allowed = 3) {
    for (std::thread& one : threads_) one.join();
    done_ = true;
    ticker_.join();
    dprintf(STDOUT_FILENO, "  %s: %d kernel threads while blocked, worst gap of the ticker %.1f ms\n", what,
            seen_threads_, worst_ms_);
    if (weft_workers() != 0 && allowed >= 0) CHECK(seen_threads_ <= weft_workers() + allowed);
    CHECK(worst_ms_ < kHangMs);
  }

 private:
  void tick() {
    while (!done_) {
      stopwatch gap;
      usleep(1000);
      if (gap.ms() - 1 > worst_ms_) worst_ms_ = gap.ms() - 1;
    }
  }

  std::vector<std::thread> threads_;
  std::thread ticker_;
  std::atomic<int> begun_{0};
  std::atomic<bool> done_{false};
  double worst_ms_ = 0;
  int seen_threads_ = 0;
};
