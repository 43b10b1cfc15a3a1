// sleep.cc - the sleep family.
//
// Owns:        nothing.  Shape: sleep_until().
// Keeps true:  a sleep never ends early but by a handler, and then says what is left; wrong arguments and the clocks
//              that weft does not keep (CPU time, alarms, devices) are libc's own call.
// Called by:   the program.
#include "hook/descriptor_call.h"
#include "hook/shape.h"

using namespace weft;

namespace {

bool is_valid(const timespec* t) noexcept {
  return t != nullptr && t->tv_sec >= 0 && t->tv_nsec >= 0 && t->tv_nsec < kSecond;
}

bool is_kept(clockid_t clock) noexcept {
  return clock == CLOCK_REALTIME || clock == CLOCK_MONOTONIC || clock == CLOCK_BOOTTIME || clock == CLOCK_TAI;
}

// 0 or -EINTR, with what is left in *left.
long sleep_for(int64_t ns, timespec* left) {
  const Deadline deadline = Deadline::in(ns);
  const long result = sleep_until(deadline);
  if (result == -EINTR && deadline.passed()) return 0;
  if (result == -EINTR && left != nullptr) *left = to_timespec(deadline.is_never() ? ns : deadline.left());
  return result;
}

// Does weft sleep, or libc?
bool is_ours(clockid_t clock, const timespec* t) noexcept { return on_fiber() && is_kept(clock) && is_valid(t); }

}  // namespace

WEFT_HOOK int nanosleep(const timespec* time, timespec* left) {
  if (!is_ours(CLOCK_REALTIME, time)) return real::nanosleep(time, left);
  return static_cast<int>(minus_one(sleep_for(to_nanoseconds(*time), left)));
}
WEFT_ALIAS(__nanosleep, nanosleep);

WEFT_HOOK int clock_nanosleep(clockid_t clock, int flags, const timespec* time, timespec* left) {
  if (!is_ours(clock, time)) return real::clock_nanosleep(clock, flags, time, left);
  return static_cast<int>((flags & TIMER_ABSTIME) != 0 ? -sleep_until(Deadline::at(clock, *time))
                                                       : -sleep_for(to_nanoseconds(*time), left));
}

WEFT_HOOK unsigned sleep(unsigned seconds) {
  if (!on_fiber()) return real::sleep(seconds);
  timespec left = {0, 0};
  return minus_one(sleep_for(seconds * kSecond, &left)) == 0 ? 0 : static_cast<unsigned>(left.tv_sec);
}

WEFT_HOOK int usleep(useconds_t microseconds) {
  if (!on_fiber()) return real::usleep(microseconds);
  return static_cast<int>(minus_one(sleep_for(microseconds * kMicrosecond, nullptr)));
}

WEFT_HOOK int thrd_sleep(const timespec* time, timespec* left) {
  if (!is_ours(CLOCK_REALTIME, time)) return real::thrd_sleep(time, left);
  return sleep_for(to_nanoseconds(*time), left) == 0 ? 0 : -1;
}
