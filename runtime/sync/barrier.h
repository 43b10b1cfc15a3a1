// barrier.h - pthread_barrier_t: an algorithm of weft's own in glibc's words.
//
// Owns:        `in` as the number of threads that wait in this round; the rest stays as pthread_barrier_init left it.
// Keeps true:  a round is a queue in the parking lot, and ends in one critical section of its bucket: exactly `count`
//              threads go on, one of them told so.  `in` is 0 between rounds and `out` always, so libc's
//              pthread_barrier_destroy never waits; nobody but the last thread touches the barrier at its end.
// Called by:   hook/pthread_barrier_once.cc, inside Busy; before and after weft is active.  Process-shared ones never come
//              here.
// See also:    parking_lot.h.
#pragma once

#include <pthread.h>

#include "runtime/parking_lot.h"

namespace weft::sync {

struct Barrier {  // glibc's struct pthread_barrier
  uint32_t in;
  uint32_t current_round;
  uint32_t count;
  int shared;
  uint32_t out;
};
static_assert(sizeof(Barrier) <= sizeof(pthread_barrier_t));

inline Barrier& words_of(pthread_barrier_t* barrier) noexcept { return *reinterpret_cast<Barrier*>(barrier); }
inline bool is_process_shared(const Barrier& barrier) noexcept { return barrier.shared != 0; }

// One thread's place in a round.  It stays in the queue while the thread runs a signal handler, because afterwards
// the barrier may be gone: whether the round is over is to be seen in the place alone.
class BarrierPlace {
 public:
  explicit BarrierPlace(Barrier& barrier) noexcept : barrier_(barrier) {}
  ~BarrierPlace();
  BarrierPlace(const BarrierPlace&) = delete;
  BarrierPlace& operator=(const BarrierPlace&) = delete;

  // Takes the place.  False: it was the last one, all others are on their way.
  bool arrive() noexcept;
  // kReady: the round is over.  kSignal: not yet; handle it and wait again.
  Why wait() noexcept;

 private:
  bool is_last() noexcept;
  Barrier& barrier_;
  LotWaiter waiter_;
};

}  // namespace weft::sync
