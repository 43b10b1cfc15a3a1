// pthread_cond.cc - condition variables: wait, timedwait, clockwait, signal, broadcast.
//
// Owns:        the order of unlocking, waiting, running signal handlers and locking again.
// Keeps true:  init and destroy are libc's own; process-shared conditions are libc's altogether.  The others are
//              weft's from the first call on, runtime active or not: libc's algorithm uses the same words otherwise.
//              A wait is a cancellation point: the mutex is held again when the cleanup handlers run.
// Called by:   the program, on fibers and kernel threads.
// See also:    runtime/sync/condition.h.
#include "runtime/sync/condition.h"

#include "hook/object_wait.h"
#include "hook/pthread_mutex.h"
#include "runtime/carrier.h"

using namespace weft;
using sync::Condition;

namespace {

Why give_up_and_wait(Condition& condition, ConditionMutex& mutex, Deadline deadline, int& error) noexcept {
  Busy busy;
  sync::ConditionWait wait(condition);
  wait.arm();
  error = mutex.unlock();
  if (error == 0) return wait.wait(deadline);
  wait.give_up();
  return Why::kNone;
}

int wait_on(pthread_cond_t* condition, pthread_mutex_t* mutex, Deadline deadline) {
  cancellation_point();
  ConditionMutex its_mutex(mutex);
  int error;
  const Why why = give_up_and_wait(sync::words_of(condition), its_mutex, deadline, error);
  if (error != 0) return error;
  // The handlers run without the mutex, as they would natively; then the wait ends as a spurious wake-up.
  if (why == Why::kSignal) run_handlers();
  error = its_mutex.lock();
  if (why == Why::kSignal) cancellation_point();
  return error == 0 && why == Why::kTimeout ? ETIMEDOUT : error;
}

bool is_shared(pthread_cond_t* condition) noexcept { return sync::is_process_shared(sync::words_of(condition)); }

// The wait is libc's, and it blocks.
bool left_to_libc(pthread_cond_t* condition) noexcept {
  if (!is_shared(condition)) return false;
  about_to_block();
  return true;
}

}  // namespace

WEFT_HOOK int pthread_cond_wait(pthread_cond_t* condition, pthread_mutex_t* mutex) {
  if (left_to_libc(condition)) return real::pthread_cond_wait(condition, mutex);
  return wait_on(condition, mutex, Deadline::never());
}

WEFT_HOOK int pthread_cond_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex, const timespec* until) {
  if (left_to_libc(condition)) return real::pthread_cond_timedwait(condition, mutex, until);
  if (!is_valid(*until)) return EINVAL;
  return wait_on(condition, mutex, Deadline::at(sync::clock_of(sync::words_of(condition)), *until));
}

WEFT_HOOK int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock,
                                     const timespec* until) {
  if (left_to_libc(condition)) return real::pthread_cond_clockwait(condition, mutex, clock, until);
  if (!is_valid(*until) || !is_waitable(clock)) return EINVAL;
  return wait_on(condition, mutex, Deadline::at(clock, *until));
}

WEFT_HOOK int pthread_cond_signal(pthread_cond_t* condition) noexcept {
  if (is_shared(condition)) return real::pthread_cond_signal(condition);
  if (!sync::has_waiters(sync::words_of(condition))) return 0;
  Busy busy;
  sync::signal(sync::words_of(condition));
  return 0;
}

WEFT_HOOK int pthread_cond_broadcast(pthread_cond_t* condition) noexcept {
  if (is_shared(condition)) return real::pthread_cond_broadcast(condition);
  if (!sync::has_waiters(sync::words_of(condition))) return 0;
  Busy busy;
  sync::broadcast(sync::words_of(condition));
  return 0;
}
