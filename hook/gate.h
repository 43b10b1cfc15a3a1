// gate.h - the one place that decides: fiber, or pass through?
//
// Owns:        on_fiber(), the cancellation point, and the two return conventions.
// Keeps true:  a hook called on a kernel thread, before start, after exit, or from inside the runtime is libc's own
//              call; a hook that succeeds leaves errno as libc would.
// Called by:   every hook, first.
#pragma once

#include <pthread.h>

#include <cerrno>

#include "hook/real.h"
#include "runtime/abi/glibc.h"
#include "runtime/base/sys.h"
#include "runtime/fiber.h"

// A definition that takes the place of libc's.
#define WEFT_HOOK extern "C" __attribute__((visibility("default")))

namespace weft {

// What the library's constructor does, for a pthread_create from another library's constructor that runs earlier.
void ensure_loaded() noexcept;

// Is the caller a fiber in program code?  One TLS load and a compare.
inline bool on_fiber() noexcept { return self.fiber != nullptr && self.busy == 0; }

// Acts on a pending pthread_cancel, as every POSIX cancellation point does.  May not return (unwinds).
inline void cancellation_point() {
  constexpr int kCanceled = 8;  // glibc's CANCELED_BITMASK
  const int* word = abi::cancelhandling_of(reinterpret_cast<void*>(pthread_self()));
  if ((__atomic_load_n(word, __ATOMIC_RELAXED) & kCanceled) != 0) [[unlikely]]
    pthread_testcancel();
}

// The same, if the thread may be cancelled anywhere: for waits that are no cancellation point.
inline void asynchronous_cancellation_point() {
  constexpr int kAsynchronousAndCanceled = 0x0a;  // glibc's CANCELTYPE_BITMASK | CANCELED_BITMASK
  const int* word = abi::cancelhandling_of(reinterpret_cast<void*>(pthread_self()));
  if ((~__atomic_load_n(word, __ATOMIC_RELAXED) & kAsynchronousAndCanceled) == 0) [[unlikely]]
    pthread_testcancel();
}

// Kernel convention (-errno) to libc's (-1 and errno).
inline long minus_one(long result) noexcept {
  if (result < 0 && result > -4096) {
    errno = static_cast<int>(-result);
    return -1;
  }
  return result;
}

}  // namespace weft
