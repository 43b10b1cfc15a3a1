// once.h - pthread_once_t on glibc's own word, waiting in the parking lot.
//
// Owns:        the steps around one call of an init routine.
// Keeps true:  glibc's meaning of the word: 0 not yet | fork generation | 1 in progress | 2 done.  One that was in
//              progress in another thread when the process forked has an older generation, and is begun anew.  An
//              init routine that throws, or whose thread is cancelled, leaves 0 and lets the next one try.
// Called by:   hook/pthread_barrier_once.cc; wait_while(), finish(): inside Busy.
//
//   I1 CAS (0, or an older generation) -> in progress     W1 under the bucket's lock: in progress? link
//   I2 run the routine                                     W2 park, then look again
//   I3 store 2 (or 0)
//   I4 wake everybody, in the lot and in the kernel
// Either W1 sees I3 or I4 finds the waiter.
#pragma once

#include <pthread.h>

#include <atomic>

#include "runtime/parking_lot.h"

namespace weft::sync {

constexpr int kOnceInProgress = 1, kOnceDone = 2;

// Acquire: pairs with the release in finish(), so that what the routine wrote is seen.
inline bool is_done(pthread_once_t& once) noexcept {
  return (std::atomic_ref<int>(once).load(std::memory_order_acquire) & kOnceDone) != 0;
}

// I1.  `in_progress`: with the generation of this process.
enum class OnceState : uint8_t { kDone, kMine, kOthers };
OnceState begin(pthread_once_t& once, int in_progress) noexcept;
// W1, W2.
Why wait_while(pthread_once_t& once, int in_progress) noexcept;
// I3, I4.
void finish(pthread_once_t& once, bool done) noexcept;

}  // namespace weft::sync
