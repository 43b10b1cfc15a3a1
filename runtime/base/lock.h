// lock.h - the runtime's own short lock.
//
// Owns:        SpinLock: held for tens of instructions, never across a park, a hook or a call that blocks.
// Keeps true:  the holder is inside a Busy section (fiber.h), so no signal handler of the program runs on top
//              of it; a preempted holder costs the others a sched_yield, not a spin.
// Called by:   runtime/ only.  Lock order: runtime/README.md "Lock order".
#pragma once

#include <atomic>
#include <cstdint>

#include "runtime/base/sys.h"

namespace weft {

class SpinLock {
 public:
  constexpr SpinLock() = default;
  SpinLock(const SpinLock&) = delete;
  SpinLock& operator=(const SpinLock&) = delete;

  void lock() noexcept {
    if (!try_lock()) lock_slow();
  }
  bool try_lock() noexcept { return held_.exchange(1, std::memory_order_acquire) == 0; }
  void unlock() noexcept { held_.store(0, std::memory_order_release); }
  // Only for a fork child, where the holder no longer exists.
  void reset() noexcept { held_.store(0, std::memory_order_relaxed); }

 private:
  void lock_slow() noexcept {
    for (int spins = 0;; ++spins) {
      if (held_.load(std::memory_order_relaxed) == 0 && try_lock()) return;
      if (spins < 100)
        __builtin_ia32_pause();
      else
        sys::yield();
    }
  }
  std::atomic<uint32_t> held_{0};
};

template <class Lock>
class [[nodiscard]] Locked {
 public:
  explicit Locked(Lock& lock) noexcept : lock_(lock) { lock_.lock(); }
  ~Locked() { lock_.unlock(); }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;

 private:
  Lock& lock_;
};

}  // namespace weft
