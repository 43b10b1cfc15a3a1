// cpu_time.cc - see cpu_time.h.
#include "runtime/cpu_time.h"

#include <time.h>

#include "runtime/base/clock.h"
#include "runtime/base/sys.h"
#include "runtime/carrier.h"

namespace weft::cpu_time {

std::atomic<bool> counting{false};

namespace {

int64_t read_clock(clockid_t clock) noexcept {
  timespec t{};
  return sys::call(SYS_clock_gettime, clock, sys::word(&t)) == 0 ? to_nanoseconds(t) : 0;
}

clockid_t clock_of(int kernel_tid) noexcept {
  constexpr unsigned kThreadScheduled = 6;  // CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED
  return static_cast<clockid_t>(~static_cast<unsigned>(kernel_tid) << 3 | kThreadScheduled);
}

}  // namespace

void begin(Carrier& carrier, Fiber& fiber) noexcept {
  carrier.charged_since.store(read_clock(CLOCK_THREAD_CPUTIME_ID), std::memory_order_relaxed);
  carrier.charged.store(&fiber, std::memory_order_release);
}

void end(Carrier& carrier, Fiber& fiber) noexcept {
  if (carrier.charged.load(std::memory_order_relaxed) != &fiber) return;  // it began before the counting
  const int64_t used = read_clock(CLOCK_THREAD_CPUTIME_ID) - carrier.charged_since.load(std::memory_order_relaxed);
  carrier.charged.store(nullptr, std::memory_order_release);
  fiber.cpu_time.fetch_add(used, std::memory_order_acq_rel);
}

int64_t of(Fiber& fiber) noexcept {
  counting.store(true, std::memory_order_relaxed);
  if (&fiber == self.fiber) {
    Carrier& own = *fiber.carrier;
    if (own.charged.load(std::memory_order_relaxed) != &fiber) begin(own, fiber);
    return fiber.cpu_time.load(std::memory_order_relaxed) + read_clock(CLOCK_THREAD_CPUTIME_ID) -
           own.charged_since.load(std::memory_order_relaxed);
  }
  for (;;) {
    const int64_t sum = fiber.cpu_time.load(std::memory_order_acquire);
    int64_t running = 0;
    if (Carrier* carrier = fiber.carrier; carrier != nullptr && carrier->charged.load(std::memory_order_acquire) == &fiber) {
      const int64_t since = carrier->charged_since.load(std::memory_order_acquire);
      running = read_clock(clock_of(carrier->kernel_tid)) - since;
      // It went on meanwhile: what was read may belong to another, or be counted twice.
      if (carrier->charged.load(std::memory_order_acquire) != &fiber ||
          carrier->charged_since.load(std::memory_order_acquire) != since)
        continue;
    }
    if (fiber.cpu_time.load(std::memory_order_acquire) == sum) return sum + running;
  }
}

}  // namespace weft::cpu_time
