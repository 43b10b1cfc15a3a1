// clock.h - one notion of "until when".
//
// Owns:        Deadline: an absolute time on CLOCK_MONOTONIC in nanoseconds, or never.
// Keeps true:  every timeout of libc (relative, absolute, any clock, milliseconds) is converted once, at the
//              edge; loops compare and never subtract.  A deadline on CLOCK_REALTIME keeps that clock: it is
//              checked again when it fires, so a clock set back is waited for.
// Called by:   anyone.  Reading the clock is a vDSO call (about 25 ns), no system call.
#pragma once

#include <time.h>

#include <cstdint>
#include <limits>

namespace weft {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kMillisecond = 1'000'000;
constexpr int64_t kMicrosecond = 1'000;

// libc's own clock_gettime: the hook layer, which takes that name, says which it is.
inline int (*libc_clock_gettime)(clockid_t, timespec*) noexcept = ::clock_gettime;

inline int64_t now(clockid_t clock = CLOCK_MONOTONIC) noexcept {
  timespec t;
  libc_clock_gettime(clock, &t);
  return t.tv_sec * kSecond + t.tv_nsec;
}

inline timespec to_timespec(int64_t nanoseconds) noexcept {
  return {nanoseconds / kSecond, nanoseconds % kSecond};
}

// Saturates: seconds beyond 292 years mean never.
inline int64_t to_nanoseconds(const timespec& t) noexcept {
  if (t.tv_sec >= std::numeric_limits<int64_t>::max() / kSecond - 1)
    return std::numeric_limits<int64_t>::max();
  if (t.tv_sec < 0) return 0;
  return t.tv_sec * kSecond + t.tv_nsec;
}

class Deadline {
 public:
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  constexpr Deadline() = default;
  static constexpr Deadline never() noexcept { return {}; }
  static Deadline in(int64_t nanoseconds) noexcept {
    if (nanoseconds >= kNever / 2) return never();
    return Deadline(now() + (nanoseconds < 0 ? 0 : nanoseconds), CLOCK_MONOTONIC, 0);
  }
  // An absolute time on the given clock.
  static Deadline at(clockid_t clock, const timespec& t) noexcept {
    const int64_t target = to_nanoseconds(t);
    if (target == kNever) return never();
    if (clock == CLOCK_MONOTONIC) return Deadline(target, clock, target);
    const int64_t left = target - now(clock);
    if (left >= kNever / 2) return never();
    return Deadline(now() + (left < 0 ? 0 : left), clock, target);
  }

  bool is_never() const noexcept { return monotonic_ == kNever; }
  int64_t monotonic() const noexcept { return monotonic_; }
  bool passed() const noexcept { return !is_never() && now() >= monotonic_; }
  // After the monotonic time has come: is it really time on the deadline's own clock?  If that clock was set
  // back meanwhile, moves the monotonic time and answers false.
  bool reached() noexcept {
    if (is_never()) return false;
    if (clock_ == CLOCK_MONOTONIC) return now() >= monotonic_;
    const int64_t left = target_ - now(clock_);
    if (left <= 0) return true;
    monotonic_ = now() + left;
    return false;
  }
  int64_t left() const noexcept { return is_never() ? kNever : monotonic_ - now(); }

 private:
  constexpr Deadline(int64_t monotonic, clockid_t clock, int64_t target) noexcept
      : monotonic_(monotonic), target_(target), clock_(clock) {}
  int64_t monotonic_ = kNever;
  int64_t target_ = 0;
  clockid_t clock_ = CLOCK_MONOTONIC;
};

}  // namespace weft
