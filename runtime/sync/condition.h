// condition.h - pthread_cond_t: an algorithm of weft's own in glibc's words.
//
// Owns:        the low half of __wseq as the number of linked waiters; the rest stays as pthread_cond_init left it.
// Keeps true:  FIFO; every signal that finds a waiter lets exactly one go on; one that times out takes no signal.
//              Nobody touches the condition after the signal that woke him (or, in a broadcast, the first), so it may
//              be destroyed right after; pthread_cond_destroy (libc's own) finds no reference in __wrefs, never waits.
// Called by:   hook/pthread_cond.cc, inside Busy; before and after weft is active (there is no going back to
//              glibc's algorithm in the same words).  Process-shared ones never come here.
//
//   W1 waiter, holding the mutex: under the bucket's lock: count += 1, link      S1 signaller: count == 0?  done
//   W2 waiter: unlock the mutex                                                  S2 under the bucket's lock: wake the
//   W3 waiter: park                                                                 oldest waiter, count -= 1
//   W4 waiter, not woken by S2: under the bucket's lock: unlink, count -= 1
//   W5 waiter: lock the mutex
//
// S1 needs no lock (FACTS.md trap 4): a signaller that owes W a wake-up changed the predicate after W had looked at
// it, so it locked the mutex after W2, and the mutex orders W1 before S1.
//
// See also:    mutex.h, parking_lot.h.
#pragma once

#include <pthread.h>

#include "runtime/parking_lot.h"

namespace weft::sync {

using Condition = __pthread_cond_s;
inline Condition& words_of(pthread_cond_t* condition) noexcept { return condition->__data; }

inline bool is_process_shared(const Condition& condition) noexcept { return (condition.__wrefs & 1) != 0; }
inline clockid_t clock_of(const Condition& condition) noexcept {
  return (condition.__wrefs & 2) != 0 ? CLOCK_MONOTONIC : CLOCK_REALTIME;
}

// One wait: W1 by arm(), then the caller unlocks the mutex, then W3 and W4 by wait().
class ConditionWait {
 public:
  explicit ConditionWait(Condition& condition) noexcept
      : condition_(condition), arming_(Reason::kCond, &condition) {}
  void arm() noexcept;
  // kReady: woken by a signal, or (a clock was set back) by nothing: a spurious wake-up.
  Why wait(Deadline deadline) noexcept;
  // Instead of wait(): the mutex could not be unlocked.  A signal that came already goes to somebody else.
  void give_up() noexcept;

 private:
  bool leave() noexcept;
  Condition& condition_;
  Arming arming_;
  LotWaiter waiter_;
};

// S2, for the oldest waiter or for all.
void signal(Condition& condition) noexcept;
void broadcast(Condition& condition) noexcept;
// S1.
inline bool has_waiters(const Condition& condition) noexcept {
  return __atomic_load_n(&condition.__wseq.__value32.__low, __ATOMIC_SEQ_CST) != 0;
}

}  // namespace weft::sync
