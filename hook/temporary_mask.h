// temporary_mask.h - the signal mask of ppoll, pselect and epoll_pwait.
//
// Owns:        the exchange of the calling fiber's mask for the time of one wait.
// Keeps true:  what was pending and is let through is handled, and said to interrupt the wait; the old mask comes back
//              on every way out, cancellation included.
// Called by:   poll.cc, epoll.cc, on a fiber.
#pragma once

#include "runtime/fiber.h"
#include "runtime/signals.h"

namespace weft {

class TemporaryMask {
 public:
  explicit TemporaryMask(const sigset_t* mask) noexcept : in_force_(mask != nullptr) {
    if (!in_force_) return;
    const uint32_t handled = self.fiber->handled;
    signals::change_mask(SIG_SETMASK, mask, &old_);
    interrupted = self.fiber->handled != handled;
  }
  ~TemporaryMask() {
    if (in_force_) signals::change_mask(SIG_SETMASK, &old_, nullptr);
  }
  TemporaryMask(const TemporaryMask&) = delete;
  TemporaryMask& operator=(const TemporaryMask&) = delete;

  bool interrupted = false;  // a handler ran already: the call is over unless something is ready

 private:
  bool in_force_;
  sigset_t old_;
};

}  // namespace weft
