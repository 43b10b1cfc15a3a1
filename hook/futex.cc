// futex.cc - syscall(): futexes, the thread id and sched_yield; every other number is libc's own.
//
// Owns:        which futex calls are the lot's, their timeouts, the answers to signals.
// Keeps true:  a call that weft does not serve reaches libc's syscall() by a jump, with the stack as the program made
//              it (clone and vfork need that).  Process-shared and priority-inheritance futexes are the kernel's: a
//              fiber that waits for one blocks its carrier.  A wait without FUTEX_PRIVATE_FLAG counts as private unless
//              its word lies in memory that the program has mapped shared (libstdc++ waits so for futures, latches,
//              semaphores and the guards of static locals).
//              A wait without a timeout is restarted after handlers with SA_RESTART, one with a timeout never is
//              (futex(2)); it is no cancellation point.
// Called by:   the program, on fibers and kernel threads.
// See also:    runtime/sync/futex.h.
#include "runtime/sync/futex.h"

#include <cerrno>

#include "hook/object_wait.h"
#include "hook/shared_memory.h"
#include "runtime/process.h"

using namespace weft;

namespace {

using Syscall = long(long, long, long, long, long, long, long);

Syscall* real_syscall() noexcept { return reinterpret_cast<Syscall*>(real::syscall.get()); }

bool is_word(uint32_t* word) noexcept {
  return word != nullptr && reinterpret_cast<uintptr_t>(word) % sizeof *word == 0;
}

// Is the call weft's?  Not with flags that the kernel would refuse, or words that it would not touch: it shall say so
// itself.  Every wake is: it looks for waiters in the lot and in the kernel.
bool is_ours(int operation, uint32_t* word, uint32_t* word2) noexcept {
  if (!is_word(word)) return false;
  const int command = operation & FUTEX_CMD_MASK;
  const bool realtime = (operation & FUTEX_CLOCK_REALTIME) != 0;
  switch (command) {
    case FUTEX_WAIT:
    case FUTEX_WAIT_BITSET:
      if (realtime && command == FUTEX_WAIT) return false;
      return (operation & FUTEX_PRIVATE_FLAG) != 0 || !may_be_shared(word);
    case FUTEX_WAKE:
    case FUTEX_WAKE_BITSET:
      return !realtime;
    case FUTEX_REQUEUE:
    case FUTEX_CMP_REQUEUE:
    case FUTEX_WAKE_OP:
      return !realtime && is_word(word2);
    default:
      return false;
  }
}

// FUTEX_WAIT counts from now, FUTEX_WAIT_BITSET to a time.  None: EINVAL.
std::optional<Deadline> deadline_of(int operation, const timespec* timeout) noexcept {
  if (timeout == nullptr) return Deadline::never();
  if (timeout->tv_sec < 0 || !is_valid(*timeout)) return std::nullopt;
  if ((operation & FUTEX_CMD_MASK) == FUTEX_WAIT) return Deadline::in(to_nanoseconds(*timeout));
  return Deadline::at((operation & FUTEX_CLOCK_REALTIME) != 0 ? CLOCK_REALTIME : CLOCK_MONOTONIC, *timeout);
}

long wait_for(uint32_t* word, int operation, uint32_t value, const timespec* timeout, uint32_t bitset) noexcept {
  const std::optional<Deadline> deadline = deadline_of(operation, timeout);
  if (!deadline || bitset == 0) return -EINVAL;
  for (;;) {
    const InterruptWatch watch;
    bool unequal = false;
    Why why;
    {
      Busy busy;
      why = sync::futex_wait(word, value, *deadline, bitset, unequal);
    }
    if (why == Why::kReady) return unequal ? -EAGAIN : 0;
    if (why == Why::kTimeout) return -ETIMEDOUT;
    if (watch.is_interrupted(timeout == nullptr, false)) return -EINTR;
  }
}

long serve_futex(uint32_t* word, int operation, uint32_t value, long timeout_or_value2, long word2,
                 uint32_t value3) noexcept {
  const int command = operation & FUTEX_CMD_MASK;
  const auto* timeout = reinterpret_cast<const timespec*>(timeout_or_value2);
  if (command == FUTEX_WAIT) return wait_for(word, operation, value, timeout, ~0u);
  if (command == FUTEX_WAIT_BITSET) return wait_for(word, operation, value, timeout, value3);
  Busy busy;
  return sync::futex_wake({.word = word,
                           .command = command,
                           .flags = operation & FUTEX_PRIVATE_FLAG,
                           .value = value,
                           .value2 = static_cast<uint32_t>(timeout_or_value2),
                           .word2 = reinterpret_cast<uint32_t*>(word2),
                           .value3 = value3});
}

long fork_by_clone(long flags, long parent_tid, long child_tid, long tls) noexcept {
  process::before_fork();
  const long child = sys::call(SYS_clone, flags, 0, parent_tid, child_tid, tls);
  if (child == 0)
    process::after_fork_in_child();
  else
    process::after_fork_in_parent();
  return minus_one(child);
}

}  // namespace

// Not declared as the variadic function that it is called as: a variadic call of it passes its arguments in the same
// places, and only so the pass-through is a jump.
extern "C" __attribute__((visibility("default"))) long hooked_syscall(long, long, long, long, long, long,
                                                                      long) __asm__("syscall");

long hooked_syscall(long number, long a, long b, long c, long d, long e, long f) {
  switch (number) {
    case SYS_futex: {
      auto* word = reinterpret_cast<uint32_t*>(a);
      const int operation = static_cast<int>(b);
      if (!lot_serves() || !is_ours(operation, word, reinterpret_cast<uint32_t*>(e))) break;
      return minus_one(serve_futex(word, operation, static_cast<uint32_t>(c), d, e, static_cast<uint32_t>(f)));
    }
    case SYS_mmap: {
      const long result = real_syscall()(number, a, b, c, d, e, f);
      note_mapping(static_cast<unsigned long>(result), static_cast<unsigned long>(b), static_cast<int>(d));
      return result;
    }
    case SYS_gettid:
      return gettid();
    case SYS_sched_yield:
      return sched_yield();
    case SYS_fork:
      return _Fork();
    case SYS_clone:  // on the caller's stack and with memory of its own: a fork
      if ((a & CLONE_VM) == 0 && b == 0 && self.busy == 0) return fork_by_clone(a, c, d, e);
      break;
    case SYS_tgkill:
      return tgkill(static_cast<pid_t>(a), static_cast<pid_t>(b), static_cast<int>(c));
    default:
      break;
  }
  return real_syscall()(number, a, b, c, d, e, f);
}
