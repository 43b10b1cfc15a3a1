// object_wait.h - what the hooks of locks, conditions and semaphores share: waiting on an object at an address.
//
// Owns:        the gate of these hooks, the caller's thread id, deadlines, what follows an interrupted wait.
// Keeps true:  unlike other hooks these serve kernel threads as well as fibers (both wait in the parking lot), from
//              the moment the runtime is active; before that, and from inside the runtime, they are libc's own.
// Called by:   hook/pthread_mutex.cc, pthread_cond.cc, pthread_rwlock.cc, pthread_barrier_once.cc, pthread_spin.cc, semaphore.cc, futex.cc.
// See also:    gate.h, runtime/sync/.
#pragma once

#include <cerrno>
#include <optional>

#include "hook/gate.h"
#include "runtime/abi/x86_64.h"
#include "runtime/base/clock.h"
#include "runtime/runtime.h"
#include "runtime/signals.h"

namespace weft {

// May the calling thread wait in the lot?  (Wakers ask is_active() alone: a wake is harmless anywhere.)
inline bool lot_serves() noexcept { return runtime::is_active() && self.busy == 0; }

// What locks know their owner by.  Only while the runtime is active.
inline int current_tid() noexcept { return *abi::tid_of(reinterpret_cast<void*>(abi::thread_pointer())); }

inline bool is_valid(const timespec& t) noexcept { return t.tv_nsec >= 0 && t.tv_nsec < kSecond; }
inline bool is_waitable(clockid_t clock) noexcept { return clock == CLOCK_REALTIME || clock == CLOCK_MONOTONIC; }

// For waits that no signal ends: runs the handlers.  (On a kernel thread they ran when the Busy section ended.)
// Asynchronous cancellation acts here as it does in the middle of any call.  Neither may return.
inline void run_handlers() {
  if (self.fiber == nullptr) return;
  signals::handle_pending();
  asynchronous_cancellation_point();
}

// For waits that a signal may end: begun before the wait, asked after it.
class InterruptWatch {
 public:
  InterruptWatch() noexcept {
    self.handled = self.interrupted = false;
    if (self.fiber == nullptr) return;
    handled_ = self.fiber->handled;
    self.fiber->interrupted = false;
  }
  // Acts on cancellation (if the call is a cancellation point), runs the handlers.  True: the call fails with EINTR.
  bool is_interrupted(bool restartable, bool is_cancellation_point = true) const {
    if (is_cancellation_point) cancellation_point();
    const bool interrupted = signals::handle_pending();
    const bool handled = self.fiber != nullptr ? self.fiber->handled != handled_ : self.handled;
    return handled && (interrupted || !restartable);
  }

 private:
  uint32_t handled_ = 0;
};

}  // namespace weft
