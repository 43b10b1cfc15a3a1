// pthread_barrier_once.cc - pthread_barrier_wait and pthread_once.
//
// Owns:        their answers, and what follows when they are left by an exception or by the end of the thread.
// Keeps true:  process-shared barriers are libc's; all others, and every once, are weft's from the first call on (the
//              routine of a once may be what makes the runtime active).  Neither is a cancellation point.
// Called by:   the program, on fibers and kernel threads.
// See also:    runtime/sync/barrier.h, once.h.

#include "hook/object_wait.h"
#include "runtime/base/lock.h"
#include "runtime/park.h"
#include "runtime/sync/barrier.h"
#include "runtime/sync/once.h"

using namespace weft;

namespace {

// --- barrier --------------------------------------------------------------------------------------------------

int wait_in(sync::Barrier& barrier) {
  sync::BarrierPlace place(barrier);
  Why why;
  {
    Busy busy;
    if (!place.arrive()) return PTHREAD_BARRIER_SERIAL_THREAD;
    why = place.wait();
  }
  while (why == Why::kSignal) {
    run_handlers();
    Busy busy;
    why = place.wait();
  }
  return 0;
}

// --- once -----------------------------------------------------------------------------------------------------

// libc counts forks in the word of a once that is in progress, and keeps the count to itself: a once of our own tells.
int in_progress_word() noexcept {
  static constinit SpinLock lock;
  static constinit pthread_once_t probe = PTHREAD_ONCE_INIT;
  static int seen;
  Busy busy;
  Locked locked(lock);
  probe = PTHREAD_ONCE_INIT;
  real::pthread_once(&probe, [] { seen = probe; });
  return seen;
}

// I2 to I4: however the routine is left.
class OnceRun {
 public:
  explicit OnceRun(pthread_once_t& once) noexcept : once_(once) {}
  ~OnceRun() {
    Busy busy;
    sync::finish(once_, done_);
  }
  OnceRun(const OnceRun&) = delete;
  OnceRun& operator=(const OnceRun&) = delete;
  void run(void (*routine)()) {
    routine();
    done_ = true;
  }

 private:
  pthread_once_t& once_;
  bool done_ = false;
};

int run_or_wait(pthread_once_t& once, void (*routine)()) {
  const int in_progress = in_progress_word();
  for (;;) {
    switch (sync::begin(once, in_progress)) {
      case sync::OnceState::kDone:
        return 0;
      case sync::OnceState::kMine:
        OnceRun(once).run(routine);
        return 0;
      case sync::OnceState::kOthers: {
        Why why;
        {
          Busy busy;
          why = sync::wait_while(once, in_progress);
        }
        if (why == Why::kSignal) run_handlers();
        break;
      }
    }
  }
}

}  // namespace

WEFT_HOOK int pthread_once(pthread_once_t* once, void (*routine)()) {
  if (sync::is_done(*once)) [[likely]]
    return 0;
  return self.busy == 0 ? run_or_wait(*once, routine) : real::pthread_once(once, routine);
}

WEFT_HOOK int __pthread_once(pthread_once_t* once, void (*routine)()) { return pthread_once(once, routine); }

// Not as libc's header declares it: a handler may end the thread in here, and its place in the round is then given up.
extern "C" __attribute__((visibility("default"))) int hooked_barrier_wait(pthread_barrier_t*) __asm__("pthread_barrier_wait");
int hooked_barrier_wait(pthread_barrier_t* barrier) {
  sync::Barrier& words = sync::words_of(barrier);
  return sync::is_process_shared(words) ? real::pthread_barrier_wait(barrier) : wait_in(words);
}
