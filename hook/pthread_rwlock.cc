// pthread_rwlock.cc - reader-writer locks: rdlock, wrlock, their try, timed and clock forms, unlock.
//
// Owns:        the answers; states and waiting are sync/rwlock.h's.
// Keeps true:  init and destroy are libc's own.  Process-shared locks, and all of them before the runtime is active,
//              are libc's: a fiber that waits for one blocks its carrier, and the handoff covers for it.
// Called by:   the program; not a cancellation point, never EINTR.
// See also:    runtime/sync/rwlock.h.
#include "runtime/sync/rwlock.h"

#include "hook/object_wait.h"

using namespace weft;
using sync::Access;
using sync::RwLock;

namespace {

bool is_ours(const RwLock& lock) noexcept { return runtime::is_active() && !sync::is_process_shared(lock); }

int wait_until_locked(RwLock& lock, Access access, Deadline deadline) noexcept {
  for (sync::RwLockAttempt attempt;;) {
    Why why;
    {
      Busy busy;
      why = sync::lock_contended(lock, access, current_tid(), deadline, attempt);
    }
    if (why == Why::kReady) return attempt.error;
    if (why == Why::kTimeout) return ETIMEDOUT;
    run_handlers();
  }
}

int lock_for(pthread_rwlock_t* lock, Access access) noexcept {
  RwLock& words = sync::words_of(lock);
  const int error = sync::try_lock(words, access, current_tid());
  if (error != EBUSY) return error;
  if (sync::is_writer(words, current_tid())) return EDEADLK;
  return wait_until_locked(words, access, Deadline::never());
}

int lock_until(pthread_rwlock_t* lock, Access access, clockid_t clock, const timespec& until) noexcept {
  RwLock& words = sync::words_of(lock);
  if (!is_waitable(clock) || !is_valid(until)) return EINVAL;
  const int error = sync::try_lock(words, access, current_tid());
  if (error != EBUSY) return error;
  if (sync::is_writer(words, current_tid())) return EDEADLK;
  return wait_until_locked(words, access, Deadline::at(clock, until));
}

int try_lock(RwLock& lock, Access access) noexcept {
  const int error = sync::try_lock(lock, access, current_tid());
  if (error != EBUSY || !sync::is_nonrecursive_reader(lock, access)) return error;
  Busy busy;
  return sync::try_read_in_turn(lock);
}

int unlock(pthread_rwlock_t* lock) noexcept {
  RwLock& words = sync::words_of(lock);
  const bool prefers_writers = sync::prefers_writers(words);
  int error = 0;
  switch (sync::unlock(words, current_tid())) {
    case sync::Unlocked::kDone:
      return 0;
    case sync::Unlocked::kWaiters:
      break;
    case sync::Unlocked::kForeign:
      error = real::pthread_rwlock_unlock(lock);
      break;
  }
  Busy busy;
  sync::hand_over(words, prefers_writers);
  return error;
}

bool may_wait(pthread_rwlock_t* lock) noexcept { return is_ours(sync::words_of(lock)) && self.busy == 0; }

}  // namespace

WEFT_HOOK int pthread_rwlock_rdlock(pthread_rwlock_t* lock) noexcept {
  return may_wait(lock) ? lock_for(lock, Access::kRead) : real::pthread_rwlock_rdlock(lock);
}

WEFT_HOOK int pthread_rwlock_wrlock(pthread_rwlock_t* lock) noexcept {
  return may_wait(lock) ? lock_for(lock, Access::kWrite) : real::pthread_rwlock_wrlock(lock);
}

WEFT_HOOK int pthread_rwlock_tryrdlock(pthread_rwlock_t* lock) noexcept {
  RwLock& words = sync::words_of(lock);
  return is_ours(words) ? try_lock(words, Access::kRead) : real::pthread_rwlock_tryrdlock(lock);
}

WEFT_HOOK int pthread_rwlock_trywrlock(pthread_rwlock_t* lock) noexcept {
  RwLock& words = sync::words_of(lock);
  return is_ours(words) ? try_lock(words, Access::kWrite) : real::pthread_rwlock_trywrlock(lock);
}

WEFT_HOOK int pthread_rwlock_timedrdlock(pthread_rwlock_t* lock, const timespec* until) noexcept {
  if (!may_wait(lock)) return real::pthread_rwlock_timedrdlock(lock, until);
  return lock_until(lock, Access::kRead, CLOCK_REALTIME, *until);
}

WEFT_HOOK int pthread_rwlock_timedwrlock(pthread_rwlock_t* lock, const timespec* until) noexcept {
  if (!may_wait(lock)) return real::pthread_rwlock_timedwrlock(lock, until);
  return lock_until(lock, Access::kWrite, CLOCK_REALTIME, *until);
}

WEFT_HOOK int pthread_rwlock_clockrdlock(pthread_rwlock_t* lock, clockid_t clock, const timespec* until) noexcept {
  if (!may_wait(lock)) return real::pthread_rwlock_clockrdlock(lock, clock, until);
  return lock_until(lock, Access::kRead, clock, *until);
}

WEFT_HOOK int pthread_rwlock_clockwrlock(pthread_rwlock_t* lock, clockid_t clock, const timespec* until) noexcept {
  if (!may_wait(lock)) return real::pthread_rwlock_clockwrlock(lock, clock, until);
  return lock_until(lock, Access::kWrite, clock, *until);
}

WEFT_HOOK int pthread_rwlock_unlock(pthread_rwlock_t* lock) noexcept {
  return is_ours(sync::words_of(lock)) ? unlock(lock) : real::pthread_rwlock_unlock(lock);
}

WEFT_HOOK int __pthread_rwlock_rdlock(pthread_rwlock_t* lock) noexcept { return pthread_rwlock_rdlock(lock); }
WEFT_HOOK int __pthread_rwlock_wrlock(pthread_rwlock_t* lock) noexcept { return pthread_rwlock_wrlock(lock); }
WEFT_HOOK int __pthread_rwlock_tryrdlock(pthread_rwlock_t* lock) noexcept { return pthread_rwlock_tryrdlock(lock); }
WEFT_HOOK int __pthread_rwlock_trywrlock(pthread_rwlock_t* lock) noexcept { return pthread_rwlock_trywrlock(lock); }
WEFT_HOOK int __pthread_rwlock_unlock(pthread_rwlock_t* lock) noexcept { return pthread_rwlock_unlock(lock); }
