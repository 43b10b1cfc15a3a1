// thread.h - the life of a fiber as a thread: create, run, end, join, detach.
//
// Owns:        attributes turned into a stack and a TCB, the trampoline, the exit protocol.
// Keeps true:  a fiber's stack and TCB are reused only after it left them (settle()) and was joined or detached.
// Called by:   hook/pthread_thread.cc; finish() by carrier.cc.  All but finish() enter Busy themselves.
//
// Exit word (Fiber::exit), both sides as steps:
//   F1 the fiber ends and leaves its stack; on the next context: old = exchange(kExited)
//   F2 old == kJoining: wake (joiner, joiner_stamp); old == kDetached: reclaim, done
//   F3 state = Finished
//   J1 join: joiner, joiner_stamp = own Arming; CAS kJoinable -> kJoining; park
//   J2 woken: collect.  Timeout or signal: CAS kJoining -> kJoinable; if that fails it exited: collect
//   J3 collect: wait until state is Finished (F3: the finisher touches nothing any more), then reclaim
#pragma once

#include <pthread.h>

#include "runtime/base/clock.h"
#include "runtime/fiber.h"

namespace weft::threads {

enum ExitState : uint32_t { kJoinable, kDetached, kJoining, kExited };

struct Attributes {
  size_t stack_size = 0;
  size_t guard_size = 4096;
  void* caller_stack = nullptr;  // lowest address, as pthread_attr_setstack
  bool detached = false;
};

// Makes a ready fiber.  0, or EAGAIN when memory or address space is short.
int create(pthread_t* thread, const Attributes& attributes, void* (*start)(void*), void* argument) noexcept;

// Waits for its end; at most until the deadline (ETIMEDOUT).  EDEADLK, EINVAL, as libc; ESRCH is the caller's affair.
// A signal interrupts the wait only for its handler; join itself goes on.
int join(Fiber* fiber, void** result, Deadline deadline) noexcept;
int try_join(Fiber* fiber, void** result) noexcept;
int detach(Fiber* fiber) noexcept;

// pthread_exit(result) was called on the calling fiber: notes the result; the unwinding is libc's.
void note_exit(void* result) noexcept;

// The calling fiber's start function has returned or was unwound: runs destructors and leaves for good.
[[noreturn]] void end_current() noexcept;

// F1, F2; called off the fiber's stack.
void finish(Fiber* fiber) noexcept;

// Around a dlopen: the static TLS of what it loads reaches the fibers that exist.  Neither is called inside Busy.
uint64_t begin_load() noexcept;
void end_load(uint64_t begun) noexcept;

uint64_t created() noexcept;
uint32_t live() noexcept;  // fibers that have not ended, main included
uint32_t peak() noexcept;

void forget_all_but_caller() noexcept;  // fork child

}  // namespace weft::threads
