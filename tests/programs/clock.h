// clock.h - deadlines and elapsed time. In these programs time is only ever a bound: "not before",
// or "hangs".
#pragma once

#include <time.h>

#include "check.h"

constexpr long kNsPerMs = 1'000'000;
constexpr long kNsPerSecond = 1'000'000'000;

// Longer than anything that works can take, shorter than a test's time limit.
constexpr long kHangMs = 60'000;

inline long long ns_of(const timespec& t) {
  return static_cast<long long>(t.tv_sec) * kNsPerSecond + t.tv_nsec;
}

inline long long ns_now(clockid_t clock) {
  timespec t;
  MUST(clock_gettime(clock, &t));
  return ns_of(t);
}

inline timespec timespec_of_ms(long ms) { return {ms / 1000, ms % 1000 * kNsPerMs}; }

inline timespec from_now(clockid_t clock, long ms) {
  const long long ns = ns_now(clock) + static_cast<long long>(ms) * kNsPerMs;
  return {static_cast<time_t>(ns / kNsPerSecond), static_cast<long>(ns % kNsPerSecond)};
}

inline bool has_passed(clockid_t clock, const timespec& deadline) {
  return ns_now(clock) >= ns_of(deadline);
}

class stopwatch {
 public:
  double ms() const { return static_cast<double>(ns_now(CLOCK_MONOTONIC) - start_) / kNsPerMs; }

 private:
  long long start_ = ns_now(CLOCK_MONOTONIC);
};
