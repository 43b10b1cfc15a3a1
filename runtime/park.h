// park.h - the one way a thread of execution stops running and starts again.
//
// Owns:        Arming (one wait of one thread), park(), wake(), and every change of a wait word.
// Keeps true:  an Arming is woken at most once; a wake that comes before the park is not lost; a wake that comes
//              late (its stamp is no longer current) does nothing.  When park() returns, no timer is armed.
// Called by:   Arming, park(): the waiting thread, in a Busy section, holding no runtime lock;
//              wake(): anyone in a Busy section, any thread, with or without runtime locks.
//
// States of the wait word (State in fiber.h), and who moves them:
//
//   Running --arm (own thread)--> Parking --commit (whoever runs next on that carrier)--> Parked
//      ^                             |                                                      |
//      |<---- wake before commit ----+  (to Ready: the commit fails)                        |
//      |                                                                                    v
//      +------ resume (carrier that took it off a queue) <------------ Ready <---- wake ----+
//
// The race between park and wake, as steps:
//   P1 thread: word = (stamp+1, Parking)          W1 waker: finds the waiter at the source (source's lock)
//   P2 thread: queue the waiter at each source    W2 waker: CAS word (stamp, Parking|Parked) -> (stamp, why, Ready)
//   P3 thread: check the condition once more      W3 waker: if it was Parked: queue the fiber
//   P4 thread: switch away
//   P5 whoever runs next: CAS (stamp, Parking) -> Parked; if that fails the word is Ready: queue the fiber
// A wake after P2 and before P5 is seen by P5 (same word); a wake after P5 sees Parked and queues.  Exactly one of
// W3 and P5 queues, since exactly one of the two CASes on Parking succeeds.  P3 closes the gap before P2: what
// happened before the waiter was visible is seen by the check (sources make check and W1 ordered by their lock).
//
// A kernel thread that weft does not own parks on a futex of the same word; W3 is then a futex wake.
//
// See also:    parking_lot.h, timers.h, reactor.h (sources), carrier.h (switching).
#pragma once

#include "runtime/base/clock.h"
#include "runtime/fiber.h"

namespace weft {

// One wait of the calling thread.  Lives on its stack, from before the first source is armed until after park().
struct Arming {
  // Moves the calling thread from Running to Parking.
  explicit Arming(Reason reason, const void* object = nullptr, int fd = -1) noexcept;
  // An arming that is given up without park() must be ended by abandon().
  void abandon() noexcept;

  Parker* parker;
  uint64_t stamp;
};

// Parks until woken or until the deadline.  Returns at once if a wake came already.
// kTimeout is said only when the deadline has passed on its own clock.
Why park(Arming& arming, Deadline deadline = Deadline::never()) noexcept;

// Wakes the thread if it still waits with that stamp.  True: this call is the one that woke it.
bool wake(Parker* parker, uint64_t stamp, Why why) noexcept;

// Wakes whatever wait the thread is in now, for a signal.  False: it was not waiting.
bool interrupt(Parker* parker) noexcept;

// Lets other ready fibers run first.  Fibers only.
void yield_fiber() noexcept;

// For carrier.cc: the steps of the diagram that are not the thread's own.
bool commit_park(Fiber* fiber) noexcept;  // P5; false: it was woken meanwhile and must be queued
void mark_running(Fiber* fiber) noexcept;
void mark_ready(Fiber* fiber) noexcept;     // Running or Free -> Ready (yield, spawn)
void mark_finished(Fiber* fiber) noexcept;  // Running -> Finished
void mark_free(Fiber* fiber) noexcept;      // Finished -> Free

inline State state_of(const Parker& parker) noexcept {
  return static_cast<State>(parker.word.load(std::memory_order_acquire) & 0xff);
}

}  // namespace weft
