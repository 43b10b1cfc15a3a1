// mutex.h - pthread_mutex_t on glibc's own words, waiting in the parking lot.
//
// Owns:        what __lock, __owner, __count and __nusers mean while weft is active.
// Keeps true:  glibc's meaning of the words, so that a mutex that was locked before weft became active, or is used
//              by code that bypasses the hooks, stays valid; the uncontended paths touch nothing else.
// Called by:   hook/pthread_mutex.cc and, around a wait, hook/pthread_cond.cc.  lock_contended() and
//              unlock_contended(): inside Busy; the others anywhere.
// Limits:      code that bypasses the hooks and unlocks a mutex wakes only waiters in the kernel (libc itself never
//              locks a mutex of the program outside the calls that are hooked).
//
// __lock    0 free | 1 held | 2 held, waiters in the kernel and perhaps in the lot | 3 held, waiters only in the lot
//
// glibc knows 0, 1 and "more", and stores 2.  3 saves the futex call that every contended unlock would need: it is
// only ever stored over 0 and 1, so whoever waits in the kernel has left a 2, or will leave one when it is woken.
//
//   L1 try: CAS 0 -> 1; done
//   L2 under the bucket's lock: 0 -> 3, done; 1 -> 3, or leave 2 or 3; link
//   L3 park; woken: again L2, at the head of the queue; or the mutex was handed over
//   U1 CAS 1 -> 0; done
//   U2 under the bucket's lock: wake the oldest waiter, which is patient: store 0; which is not: leave the word as it
//      is, the mutex is now the waiter's; none: store 0
//   U3 the word was 2: wake one in the kernel, which will leave a 2 again
// L2 and U2 exclude each other.  A waiter linked before U2 is found; one that comes after it sees the 0.  The waiter
// that U2 woke is not linked while it is on its way, and the mutex may be taken and given back at L1/U1 meanwhile:
// that is why its L2 stores 3 whether or not anybody else waits.
//
// Barging keeps a mutex fast; a waiter that lost kPatience times is handed the mutex, so everybody gets it.
//
// Priority inheritance: a fiber has no priority of its own, and the kernel does not know its thread id, so a private
// mutex of that kind is served as a plain one while weft is active (also between kernel threads: one word, one
// protocol).  One that is held while weft becomes active holds a thread id; L2 stores 3 over it, U2 takes it for 3.
//
// See also:    parking_lot.h, FACTS.md 2.4.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cerrno>

#include "runtime/parking_lot.h"

namespace weft::sync {

using Mutex = __pthread_mutex_s;
inline Mutex& words_of(pthread_mutex_t* mutex) noexcept { return mutex->__data; }

enum MutexKind : int {  // bits of __kind
  kMutexType = 3,       // PTHREAD_MUTEX_NORMAL, _RECURSIVE, _ERRORCHECK, _ADAPTIVE_NP
  kMutexRobust = 16,
  kMutexInherit = 32,
  kMutexProtect = 64,
  kMutexShared = 128,
};

inline int kind_of(const Mutex& mutex) noexcept { return __atomic_load_n(&mutex.__kind, __ATOMIC_RELAXED); }

// Is waiting for it the lot's business?  Robust, priority-protected and process-shared ones are the kernel's.
inline bool waits_in_lot(int kind) noexcept { return (kind & (kMutexRobust | kMutexProtect | kMutexShared)) == 0; }
// Nothing to be looked at but the lock word?
inline bool is_plain(int kind) noexcept { return (kind & (kMutexType | 0xf0)) == PTHREAD_MUTEX_NORMAL; }

inline std::atomic_ref<int> lock_word(Mutex& mutex) noexcept { return std::atomic_ref<int>(mutex.__lock); }

// L1.  Acquire: pairs with U1 and U2, so that what the last owner wrote is seen.
inline bool try_lock(Mutex& mutex) noexcept {
  int expected = 0;
  return lock_word(mutex).compare_exchange_strong(expected, 1, std::memory_order_acquire, std::memory_order_relaxed);
}
// U1.  False: somebody waits.
inline bool try_unlock(Mutex& mutex) noexcept {
  int expected = 1;
  return lock_word(mutex).compare_exchange_strong(expected, 0, std::memory_order_release, std::memory_order_relaxed);
}

// Is the user of a condition variable counted (in __nusers) while it waits?  glibc: yes, so that the mutex cannot
// be destroyed under it.
enum class Users : bool { kKeep, kCount };

inline void note_owner(Mutex& mutex, int tid, Users users = Users::kCount) noexcept {
  __atomic_store_n(&mutex.__owner, tid, __ATOMIC_RELAXED);
  if (users == Users::kCount) ++mutex.__nusers;
}
inline void forget_owner(Mutex& mutex, Users users = Users::kCount) noexcept {
  __atomic_store_n(&mutex.__owner, 0, __ATOMIC_RELAXED);
  if (users == Users::kCount) --mutex.__nusers;
}
// Only the owner itself can see its own tid there.
inline bool is_owner(const Mutex& mutex, int tid) noexcept {
  return __atomic_load_n(&mutex.__owner, __ATOMIC_RELAXED) == tid;
}

// What remains to be done after a look at the type and the owner.
constexpr int kGoOn = -1;
// Before locking: kGoOn, or the answer (0: a recursive mutex was entered once more; EDEADLK; EAGAIN).
int before_lock(Mutex& mutex, int kind, int tid) noexcept;
// Before unlocking: kGoOn, or the answer (0: a recursive mutex is still held; EPERM).
int before_unlock(Mutex& mutex, int kind, int tid) noexcept;

// One thread's attempt at a contended mutex, over any number of waits.
struct MutexAttempt {
  int losses = 0;
};
// L2, L3 until the mutex is held (kReady), the deadline has passed or a signal wants to be handled.
Why lock_contended(Mutex& mutex, Deadline deadline, MutexAttempt& attempt) noexcept;
// U2, U3.
void unlock_contended(Mutex& mutex) noexcept;

}  // namespace weft::sync
