// pthread_mutex.cc - mutexes: lock, trylock, timedlock, clocklock, unlock.  init and destroy are libc's own.
//
// Owns:        the answers of every type and kind; the wait itself is sync/mutex.h's.
// Keeps true:  an uncontended lock or unlock of a plain mutex is one compare-and-swap and a few stores.
//              Robust, priority-protected and process-shared mutexes, and all of them before the runtime is active,
//              are libc's: a fiber that waits for one blocks its carrier, and the handoff covers for it.
//              Compiled without exceptions: a handler, or asynchronous cancellation, may end the thread in here, and
//              libc's header says that these functions do not throw.
// Called by:   the program; not a cancellation point, never EINTR.
// See also:    runtime/sync/mutex.h, robust.h.
#include "hook/pthread_mutex.h"

#include "hook/object_wait.h"
#include "runtime/carrier.h"
#include "runtime/sync/mutex.h"
#include "runtime/sync/robust.h"

using namespace weft;
using sync::Mutex;
using sync::Users;

namespace {

bool is_ours(const Mutex& mutex) noexcept {
  return runtime::is_active() && sync::waits_in_lot(sync::kind_of(mutex));
}

bool is_ours_and_plain(const Mutex& mutex) noexcept {
  return runtime::is_active() && sync::is_plain(sync::kind_of(mutex));
}

// Somebody else holds it.
int wait_until_locked(Mutex& mutex, Deadline deadline) {
  for (sync::MutexAttempt attempt;;) {
    Why why;
    {
      Busy busy;
      why = sync::lock_contended(mutex, deadline, attempt);
    }
    if (why == Why::kReady) return 0;
    if (why == Why::kTimeout) return ETIMEDOUT;
    run_handlers();
  }
}

// deadline(): asked only if there is something to wait for; none: EINVAL.
template <class MakeDeadline>
int lock_ours(Mutex& mutex, Users users, MakeDeadline&& deadline) {
  const int kind = sync::kind_of(mutex), tid = current_tid();
  if (const int answer = sync::before_lock(mutex, kind, tid); answer != sync::kGoOn) return answer;
  if (!sync::try_lock(mutex)) {
    const std::optional<Deadline> until = deadline();
    if (!until) return EINVAL;
    if (const int error = wait_until_locked(mutex, *until); error != 0) return error;
  }
  if ((kind & sync::kMutexType) == PTHREAD_MUTEX_RECURSIVE) mutex.__count = 1;
  sync::note_owner(mutex, tid, users);
  return 0;
}

std::optional<Deadline> never() noexcept { return Deadline::never(); }

int try_lock_ours(Mutex& mutex) noexcept {
  const int kind = sync::kind_of(mutex), tid = current_tid();
  const bool recursive = (kind & sync::kMutexType) == PTHREAD_MUTEX_RECURSIVE;
  if (recursive)
    if (const int answer = sync::before_lock(mutex, kind, tid); answer != sync::kGoOn) return answer;
  if (!sync::try_lock(mutex)) return EBUSY;
  if (recursive) mutex.__count = 1;
  sync::note_owner(mutex, tid);
  return 0;
}

void unlock_word(Mutex& mutex) noexcept {
  if (sync::try_unlock(mutex)) [[likely]]
    return;
  Busy busy;
  sync::unlock_contended(mutex);
}

int unlock_ours(Mutex& mutex, Users users) noexcept {
  if (const int answer = sync::before_unlock(mutex, sync::kind_of(mutex), current_tid()); answer != sync::kGoOn)
    return answer;
  sync::forget_owner(mutex, users);
  unlock_word(mutex);
  return 0;
}

// libc's own lock or trylock of a mutex that is not ours.
int locked_by_libc(Mutex& mutex, int result) noexcept {
  if ((result == 0 || result == EOWNERDEAD) && self.fiber != nullptr && sync::is_robust(mutex))
    sync::note_robust_lock(mutex);
  return result;
}

[[gnu::noinline]] int lock_any(pthread_mutex_t* mutex) noexcept {
  Mutex& words = sync::words_of(mutex);
  if (!is_ours(words) || self.busy != 0) {
    if (on_fiber()) {
      if (const int result = real::pthread_mutex_trylock(mutex); result != EBUSY) return locked_by_libc(words, result);
      about_to_block();
    }
    return locked_by_libc(words, real::pthread_mutex_lock(mutex));
  }
  return lock_ours(words, Users::kCount, never);
}

[[gnu::noinline]] int unlock_any(pthread_mutex_t* mutex) noexcept {
  Mutex& words = sync::words_of(mutex);
  return is_ours(words) ? unlock_ours(words, Users::kCount) : real::pthread_mutex_unlock(mutex);
}

}  // namespace

namespace weft {

ConditionMutex::ConditionMutex(pthread_mutex_t* mutex) noexcept
    : mutex_(mutex), ours_(is_ours(sync::words_of(mutex))) {}

int ConditionMutex::unlock() noexcept {
  return ours_ ? unlock_ours(sync::words_of(mutex_), Users::kKeep) : real::pthread_mutex_unlock(mutex_);
}

int ConditionMutex::lock() noexcept {
  return ours_ ? lock_ours(sync::words_of(mutex_), Users::kKeep, never) : real::pthread_mutex_lock(mutex_);
}

}  // namespace weft

WEFT_HOOK int pthread_mutex_lock(pthread_mutex_t* mutex) noexcept {
  Mutex& words = sync::words_of(mutex);
  if (!is_ours_and_plain(words) || !sync::try_lock(words)) [[unlikely]]
    return lock_any(mutex);
  sync::note_owner(words, current_tid());
  return 0;
}

WEFT_HOOK int pthread_mutex_unlock(pthread_mutex_t* mutex) noexcept {
  Mutex& words = sync::words_of(mutex);
  if (!is_ours_and_plain(words)) [[unlikely]]
    return unlock_any(mutex);
  sync::forget_owner(words);
  unlock_word(words);
  return 0;
}

WEFT_HOOK int pthread_mutex_trylock(pthread_mutex_t* mutex) noexcept {
  Mutex& words = sync::words_of(mutex);
  return is_ours(words) ? try_lock_ours(words) : locked_by_libc(words, real::pthread_mutex_trylock(mutex));
}

WEFT_HOOK int pthread_mutex_clocklock(pthread_mutex_t* mutex, clockid_t clock, const timespec* until) noexcept {
  Mutex& words = sync::words_of(mutex);
  if (!is_ours(words) || self.busy != 0)
    return locked_by_libc(words, real::pthread_mutex_clocklock(mutex, clock, until));
  if (!is_waitable(clock)) return EINVAL;
  return lock_ours(words, Users::kCount, [=]() -> std::optional<Deadline> {
    if (!is_valid(*until)) return std::nullopt;
    return Deadline::at(clock, *until);
  });
}

WEFT_HOOK int pthread_mutex_timedlock(pthread_mutex_t* mutex, const timespec* until) noexcept {
  Mutex& words = sync::words_of(mutex);
  if (!is_ours(words) || self.busy != 0)
    return locked_by_libc(words, real::pthread_mutex_timedlock(mutex, until));
  return pthread_mutex_clocklock(mutex, CLOCK_REALTIME, until);
}

WEFT_HOOK int __pthread_mutex_lock(pthread_mutex_t* mutex) noexcept { return pthread_mutex_lock(mutex); }
WEFT_HOOK int __pthread_mutex_unlock(pthread_mutex_t* mutex) noexcept { return pthread_mutex_unlock(mutex); }
WEFT_HOOK int __pthread_mutex_trylock(pthread_mutex_t* mutex) noexcept { return pthread_mutex_trylock(mutex); }
