// semaphore.h - sem_t on glibc's own words, waiting in the parking lot.
//
// Owns:        taking and giving tokens while nobody shares the semaphore with another process.
// Keeps true:  glibc's meaning of the words: value and number of waiters in one 64-bit word, so that whoever bypasses
//              the hooks and waits in the kernel is woken by our post.  The word is not touched by a post once its
//              token can be taken, so the taker may free the semaphore at once.
// Called by:   hook/semaphore.cc; *_contended() inside Busy.  post is async-signal-safe (Busy keeps handlers out).
// Limits:      a post that bypasses the hooks wakes only waiters in the kernel.
//
//   L1 value > 0: CAS -1; done
//   L2 waiters += 1; under the bucket's lock: value > 0: CAS value -1, waiters -1; done; else link
//   L3 park; woken: again L2's second half, at the head of the queue; or the token was handed over
//   L4 timed out, interrupted, cancelled: waiters -= 1
//   U1 waiters == 0: CAS value +1; done
//   U2 under the bucket's lock: wake the oldest waiter; patient: value +1; which is not: waiters -1, the token is its
//   U3 nobody in the lot: value +1; wake one in the kernel
// The waiters are raised (L2) before the value is looked at, and the post's one CAS (U1) sees both: either L2 sees
// the token or U1 sees the waiter, and U2 finds it linked or is seen by the check, which runs under the same lock.
//
// See also:    mutex.h (barging and patience), parking_lot.h.
#pragma once

#include <semaphore.h>

#include <atomic>
#include <cerrno>
#include <cstdint>

#include "runtime/parking_lot.h"

namespace weft::sync {

struct Semaphore {  // glibc's struct new_sem
  uint64_t data;    // value (32 bits) | waiters (32 bits)
  int shared;       // 0: private
  int padding;
};
static_assert(sizeof(Semaphore) <= sizeof(sem_t) && alignof(Semaphore) <= alignof(sem_t));

inline Semaphore& words_of(sem_t* semaphore) noexcept { return *reinterpret_cast<Semaphore*>(semaphore); }
inline bool is_process_shared(const Semaphore& semaphore) noexcept { return semaphore.shared != 0; }

// L1.
bool try_take(Semaphore& semaphore) noexcept;
// U1.  0, EOVERFLOW, or EAGAIN: somebody waits.
int try_post(Semaphore& semaphore) noexcept;
// U2, U3.  0 or EOVERFLOW.
int post_contended(Semaphore& semaphore) noexcept;

// L2 to L4.  kReady: the token is the caller's.
Why take_contended(Semaphore& semaphore, Deadline deadline) noexcept;

}  // namespace weft::sync
