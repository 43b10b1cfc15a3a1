// rwlock.h - pthread_rwlock_t on glibc's own words, waiting in the parking lot.
//
// Owns:        locking and unlocking while nobody waits in the kernel; who gets the lock next.
// Keeps true:  glibc's meaning of the words, so that a lock that was taken before weft became active, or by code that
//              bypasses the hooks, stays valid.  States in which somebody waits in the kernel are left to libc's own
//              functions: try_*() say EBUSY or kForeign.  The lock is handed over: who was woken with `granted`
//              holds it.
// Called by:   hook/pthread_rwlock.cc; *_contended() and hand_over() inside Busy.
// Limits:      code that bypasses the hooks and unlocks, or gives up a timed write lock, wakes only waiters in the
//              kernel.
//
// __readers (glibc):  bit 0 write phase | bit 1 locked by a writer, or a writer waits for the readers to leave |
//                     bit 2 readers wait for a writer to go first | bits 3.. readers
// Here bit 2 says as well: somebody waits in the lot (kWaiters).  libc's own code carries the bit along, or clears it
// when the last reader leaves and wakes whoever waits on the word in the kernel.
//
//   L1 try: CAS __readers; done
//   L2 under the bucket's lock: CAS __readers to "taken" or, while that is impossible, to "| kWaiters"; link
//   L3 park; woken: it is mine if granted, else L2 at the head of the queue
//   U1 CAS __readers to "given back", without kWaiters if that makes it free; kWaiters was not set: done
//   U2 under the bucket's lock: choose waiters, rouse them, take the lock for each (as L2 does), granted
// L2's CAS and U1's are on one word: either L2 sees the lock free or U1 sees kWaiters.  While a waiter is linked,
// kWaiters is set or a U2 is under way; between U1 and U2 the lock may be taken at L1, and then U2 marks it again.
//
// Order: a lock that prefers readers (the default) goes to all readers that wait, else to the oldest writer; one that
// prefers writers to the oldest writer, else to all readers.  PREFER_WRITER_NONRECURSIVE: a reader does not pass a
// writer that waits; when that writer gives up, the readers are let in by it.
//
// See also:    parking_lot.h; "States" in glibc's nptl/pthread_rwlock_common.c.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cerrno>

#include "runtime/parking_lot.h"

namespace weft::sync {

using RwLock = __pthread_rwlock_arch_t;
inline RwLock& words_of(pthread_rwlock_t* lock) noexcept { return lock->__data; }

inline bool is_process_shared(const RwLock& lock) noexcept { return lock.__shared != 0; }
inline bool is_writer(const RwLock& lock, int tid) noexcept {
  return __atomic_load_n(&lock.__cur_writer, __ATOMIC_RELAXED) == tid;
}

enum class Access : uint32_t { kRead = 1, kWrite = 2 };  // also the tag of a waiter

// L1.  0, EBUSY, or EAGAIN (too many readers).  A reader that would have to let writers go first says EBUSY whenever
// anybody waits; the second form looks who it is, inside Busy.
int try_lock(RwLock& lock, Access access, int tid) noexcept;
bool is_nonrecursive_reader(const RwLock& lock, Access access) noexcept;
int try_read_in_turn(RwLock& lock) noexcept;

// L2, L3 until the lock is held (kReady), the deadline has passed or a signal wants to be handled.
struct RwLockAttempt {
  bool woken_in_vain = false;
  int error = 0;  // EAGAIN: too many readers; then kReady is said and nothing is held
};
Why lock_contended(RwLock& lock, Access access, int tid, Deadline deadline, RwLockAttempt& attempt) noexcept;

enum class Unlocked : uint8_t {
  kDone,
  kWaiters,  // U2 is to follow: hand_over()
  kForeign,  // nothing was done: somebody waits in the kernel; libc's unlock is to follow, then hand_over()
};
// U1.
Unlocked unlock(RwLock& lock, int tid) noexcept;
// U2.  `prefers_writers` was read before U1: without waiters the lock may be gone by now, and is not touched.
bool prefers_writers(const RwLock& lock) noexcept;
void hand_over(RwLock& lock, bool prefer_writers) noexcept;

}  // namespace weft::sync
