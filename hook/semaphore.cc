// semaphore.cc - POSIX semaphores: wait, timedwait, clockwait, post.  The others are libc's own.
//
// Owns:        the answers; words and waiting are sync/semaphore.h's.
// Keeps true:  process-shared (and so all named) semaphores, and all of them before the runtime is active, are libc's:
//              a fiber that waits for one blocks its carrier, and the handoff covers for it.
//              A wait is a cancellation point even if there is a token.  Handlers end it with EINTR: a plain wait only
//              if one of them lacks SA_RESTART, a timed one always (futex(2) restarts no wait that has a timeout).
// Called by:   the program; post also from signal handlers.
// See also:    runtime/sync/semaphore.h.
#include "runtime/sync/semaphore.h"

#include "hook/object_wait.h"
#include "runtime/carrier.h"

using namespace weft;
using sync::Semaphore;

namespace {

bool is_ours(sem_t* semaphore) noexcept {
  return runtime::is_active() && !sync::is_process_shared(sync::words_of(semaphore));
}
bool may_wait(sem_t* semaphore) noexcept { return is_ours(semaphore) && self.busy == 0; }

long wait_until(Semaphore& semaphore, Deadline deadline) {
  const bool restartable = deadline.is_never();
  for (;;) {
    const InterruptWatch watch;
    Why why;
    {
      Busy busy;
      why = sync::take_contended(semaphore, deadline);
    }
    if (why == Why::kReady) return 0;
    if (why == Why::kTimeout) return -ETIMEDOUT;
    if (watch.is_interrupted(restartable)) return -EINTR;
  }
}

int clock_wait(Semaphore& semaphore, clockid_t clock, const timespec& until) {
  if (!is_waitable(clock) || !is_valid(until)) return static_cast<int>(minus_one(-EINVAL));
  cancellation_point();
  if (sync::try_take(semaphore)) return 0;
  return static_cast<int>(minus_one(wait_until(semaphore, Deadline::at(clock, until))));
}

// A wait that libc will do: try before it, and if it will block let the worker go.
bool taken_or_blocks(sem_t* semaphore) {
  if (!on_fiber()) return false;
  cancellation_point();
  if (sync::try_take(sync::words_of(semaphore))) return true;
  about_to_block();
  return false;
}

}  // namespace

WEFT_HOOK int sem_wait(sem_t* semaphore) {
  if (!may_wait(semaphore)) return taken_or_blocks(semaphore) ? 0 : real::sem_wait(semaphore);
  cancellation_point();
  Semaphore& words = sync::words_of(semaphore);
  if (sync::try_take(words)) return 0;
  return static_cast<int>(minus_one(wait_until(words, Deadline::never())));
}

WEFT_HOOK int sem_timedwait(sem_t* semaphore, const timespec* until) {
  if (!may_wait(semaphore)) return taken_or_blocks(semaphore) ? 0 : real::sem_timedwait(semaphore, until);
  return clock_wait(sync::words_of(semaphore), CLOCK_REALTIME, *until);
}

WEFT_HOOK int sem_clockwait(sem_t* semaphore, clockid_t clock, const timespec* until) {
  if (!may_wait(semaphore)) return taken_or_blocks(semaphore) ? 0 : real::sem_clockwait(semaphore, clock, until);
  return clock_wait(sync::words_of(semaphore), clock, *until);
}

WEFT_HOOK int sem_post(sem_t* semaphore) noexcept {
  if (!is_ours(semaphore)) return real::sem_post(semaphore);
  Semaphore& words = sync::words_of(semaphore);
  int error = sync::try_post(words);
  if (error == EAGAIN) {
    Busy busy;
    error = sync::post_contended(words);
  }
  return static_cast<int>(minus_one(-error));
}
