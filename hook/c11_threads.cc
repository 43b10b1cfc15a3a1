// c11_threads.cc - C11 threads: mtx_*, cnd_*, call_once, thrd_create and its like.
//
// Owns:        the translation of error numbers; everything else is the pthread hooks'.
// Keeps true:  as in glibc a mtx_t is a pthread_mutex_t, a cnd_t a pthread_cond_t, a thrd_t a pthread_t.  libc's own
//              functions reach its pthread functions inside, past every hook: that is why these exist.
//              *_init, *_destroy and tss_* are libc's own.
// Called by:   the program.
// See also:    pthread_mutex.cc, pthread_cond.cc, pthread_thread.cc, sleep.cc (thrd_sleep).
#include "hook/gate.h"

namespace {

static_assert(sizeof(mtx_t) <= sizeof(pthread_mutex_t) && sizeof(cnd_t) == sizeof(pthread_cond_t));

pthread_mutex_t* mutex_of(mtx_t* mutex) noexcept { return reinterpret_cast<pthread_mutex_t*>(mutex); }
pthread_cond_t* condition_of(cnd_t* condition) noexcept { return reinterpret_cast<pthread_cond_t*>(condition); }

int thread_error(int error) noexcept {
  switch (error) {
    case 0:
      return thrd_success;
    case EBUSY:
      return thrd_busy;
    case ENOMEM:
      return thrd_nomem;
    case ETIMEDOUT:
      return thrd_timedout;
    default:
      return thrd_error;
  }
}

}  // namespace

WEFT_HOOK int mtx_lock(mtx_t* mutex) { return thread_error(pthread_mutex_lock(mutex_of(mutex))); }
WEFT_HOOK int mtx_trylock(mtx_t* mutex) { return thread_error(pthread_mutex_trylock(mutex_of(mutex))); }
WEFT_HOOK int mtx_unlock(mtx_t* mutex) { return thread_error(pthread_mutex_unlock(mutex_of(mutex))); }
WEFT_HOOK int mtx_timedlock(mtx_t* mutex, const timespec* until) {
  return thread_error(pthread_mutex_timedlock(mutex_of(mutex), until));
}

WEFT_HOOK int cnd_signal(cnd_t* condition) { return thread_error(pthread_cond_signal(condition_of(condition))); }
WEFT_HOOK int cnd_broadcast(cnd_t* condition) { return thread_error(pthread_cond_broadcast(condition_of(condition))); }
WEFT_HOOK int cnd_wait(cnd_t* condition, mtx_t* mutex) {
  return thread_error(pthread_cond_wait(condition_of(condition), mutex_of(mutex)));
}
WEFT_HOOK int cnd_timedwait(cnd_t* condition, mtx_t* mutex, const timespec* until) {
  return thread_error(pthread_cond_timedwait(condition_of(condition), mutex_of(mutex), until));
}

WEFT_HOOK void call_once(once_flag* flag, void (*routine)()) {
  pthread_once(reinterpret_cast<pthread_once_t*>(flag), routine);
}

// The start function returns an int, the thread a pointer.  On x86-64 both come back in the same register, and
// thrd_join looks at the half that an int has; a function between the two would need memory for each thread.
WEFT_HOOK int thrd_create(thrd_t* thread, thrd_start_t start, void* argument) {
  auto* returns_pointer = reinterpret_cast<void* (*)(void*)>(reinterpret_cast<void (*)()>(start));
  return thread_error(pthread_create(thread, nullptr, returns_pointer, argument));
}
WEFT_HOOK int thrd_join(thrd_t thread, int* result) {
  void* value = nullptr;
  const int error = pthread_join(thread, &value);
  if (error == 0 && result != nullptr) *result = static_cast<int>(reinterpret_cast<intptr_t>(value));
  return thread_error(error);
}
WEFT_HOOK int thrd_detach(thrd_t thread) { return thread_error(pthread_detach(thread)); }
WEFT_HOOK void thrd_exit(int result) { pthread_exit(reinterpret_cast<void*>(static_cast<intptr_t>(result))); }
WEFT_HOOK void thrd_yield() { sched_yield(); }
