// pthread_spin.cc - pthread_spin_lock; the other functions of spin locks are libc's own.
//
// Owns:        how long a fiber spins, yields and naps for a lock whose holder may be ready here, or parked.
// Keeps true:  it is not a cancellation point, but a handler or an asynchronous cancellation may end the thread in it.
// Called by:   the program.
#include "hook/object_wait.h"
#include "runtime/base/lock.h"
#include "runtime/park.h"

using namespace weft;

namespace {

constexpr int kSpins = 30;    // while the holder may be running on another processor
constexpr int kYields = 100;  // while it may be ready here
constexpr int64_t kNap = 20 * kMicrosecond;

// 1 is free, as in glibc.
bool try_spin_lock(pthread_spinlock_t* lock) noexcept {
  return __atomic_load_n(lock, __ATOMIC_RELAXED) == 1 && __atomic_exchange_n(lock, 0, __ATOMIC_ACQUIRE) == 1;
}

void let_others_run(pthread_spinlock_t* lock, int attempt) {
  if (attempt < kSpins) {
    __builtin_ia32_pause();
    return;
  }
  Why why = Why::kReady;
  {
    Busy busy;
    if (attempt < kYields) {
      yield_fiber();
    } else {
      Arming arming(Reason::kSpin, const_cast<const int*>(lock));
      why = park(arming, Deadline::in(kNap));  // the holder sleeps, or waits for a descriptor
    }
  }
  if (why == Why::kSignal) run_handlers();
  asynchronous_cancellation_point();
}

}  // namespace

WEFT_HOOK int pthread_spin_lock(pthread_spinlock_t* lock) noexcept {
  if (!on_fiber()) return real::pthread_spin_lock(lock);
  for (int attempt = 0; !try_spin_lock(lock); ++attempt) let_others_run(lock, attempt);
  return 0;
}
