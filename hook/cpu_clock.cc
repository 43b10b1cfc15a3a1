// cpu_clock.cc - CPU-time clocks of threads: pthread_getcpuclockid, clock_gettime, getrusage(RUSAGE_THREAD).
//
// Owns:        the clock ids of fibers: the kernel's form for a thread, with a number that no kernel thread has.
// Keeps true:  every other clock is libc's own call, which is a jump away.
// Called by:   the program.
// Limits:      a fiber's time is counted from the first question that anybody asks; how it divides into user and system
//              time is told in the proportion of the kernel thread that runs it; timers on a fiber's clock are refused.
// See also:    runtime/cpu_time.h.
#include "runtime/cpu_time.h"

#include <sys/resource.h>

#include "hook/gate.h"
#include "runtime/base/clock.h"
#include "runtime/runtime.h"

using namespace weft;

namespace {

// ~(kFiberBit | low bits of the tid, against reuse | id) << 3 | 6
constexpr unsigned kKind = 6, kFiberBit = 1u << 27, kIdBits = 22, kTidMask = 15;

unsigned number_of(const Fiber& fiber) noexcept {
  return kFiberBit | (static_cast<unsigned>(fiber.tid) & kTidMask) << kIdBits | fiber.id;
}

bool is_of_fiber(clockid_t clock) noexcept {
  return clock < 0 && (static_cast<unsigned>(clock) & 7) == kKind && (static_cast<unsigned>(~(clock >> 3)) & kFiberBit) != 0;
}

// Null: it has ended.
Fiber* fiber_of(clockid_t clock) noexcept {
  const auto number = static_cast<unsigned>(~(clock >> 3));
  const unsigned id = number & ((1u << kIdBits) - 1);
  if (id >= fibers::count()) return nullptr;
  Fiber* fiber = fibers::at(id);
  const auto state = static_cast<State>(fiber->word.load(std::memory_order_acquire) & 0xff);
  return state == State::kFree || state == State::kFinished || number_of(*fiber) != number ? nullptr : fiber;
}

int64_t time_of(Fiber& fiber) noexcept {
  Busy busy;
  return cpu_time::of(fiber);
}

}  // namespace

WEFT_HOOK int pthread_getcpuclockid(pthread_t thread, clockid_t* clock) noexcept {
  Fiber* fiber = runtime::is_active() ? fibers::from(thread) : nullptr;
  if (fiber == nullptr) return real::pthread_getcpuclockid(thread, clock);
  *clock = static_cast<clockid_t>(~number_of(*fiber) << 3 | kKind);
  return 0;
}

WEFT_HOOK int clock_gettime(clockid_t clock, timespec* time) noexcept {
  if (clock != CLOCK_THREAD_CPUTIME_ID && clock >= 0) [[likely]]
    return real::clock_gettime(clock, time);
  Fiber* fiber = nullptr;
  if (clock == CLOCK_THREAD_CPUTIME_ID)
    fiber = on_fiber() ? self.fiber : nullptr;
  else if (is_of_fiber(clock) && (fiber = fiber_of(clock)) == nullptr)
    return static_cast<int>(minus_one(-EINVAL));
  if (fiber == nullptr) return real::clock_gettime(clock, time);
  *time = to_timespec(time_of(*fiber));
  return 0;
}

WEFT_HOOK int clock_getres(clockid_t clock, timespec* resolution) noexcept {
  return real::clock_getres(is_of_fiber(clock) && fiber_of(clock) != nullptr ? CLOCK_THREAD_CPUTIME_ID : clock, resolution);
}

WEFT_HOOK int getrusage(__rusage_who_t who, rusage* usage) noexcept {
  const int result = real::getrusage(who, usage);
  if (result != 0 || who != RUSAGE_THREAD || !on_fiber()) return result;
  const auto microseconds = [](const timeval& t) { return t.tv_sec * 1'000'000L + t.tv_usec; };
  const auto to_timeval = [](long us) { return timeval{us / 1'000'000, us % 1'000'000}; };
  const long user = microseconds(usage->ru_utime), system = microseconds(usage->ru_stime);
  const auto total = static_cast<long>(time_of(*self.fiber) / kMicrosecond);
  const long of_user = user + system == 0 ? total : static_cast<long>(static_cast<__int128>(total) * user / (user + system));
  usage->ru_utime = to_timeval(of_user);
  usage->ru_stime = to_timeval(total - of_user);
  return 0;
}
