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
#include <cstring>

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

template <class T>
T* pointer(long word) noexcept {
  return reinterpret_cast<T*>(word);
}

// The kernel's mask argument is given to libc's call, which has the same first 64 bits in a larger type.
struct WideMask {
  explicit WideMask(const void* kernel_mask) noexcept : is_given(kernel_mask != nullptr) {
    sigemptyset(&mask);
    if (is_given) memcpy(&mask, kernel_mask, sizeof(uint64_t));
  }
  const sigset_t* get() const noexcept { return is_given ? &mask : nullptr; }
  bool is_given;
  sigset_t mask;
};

// Numbers of calls that may block, or that the table of descriptors must hear of.  False: not one of them.
bool serve_by_hook(long number, long a, long b, long c, long d, long e, long f, long& result) {
  const int fd = static_cast<int>(a);
  const auto size = static_cast<size_t>(c);
  const int flags = static_cast<int>(d);
  switch (number) {
    case SYS_read: result = read(fd, pointer<void>(b), size); return true;
    case SYS_write: result = write(fd, pointer<void>(b), size); return true;
    case SYS_readv: result = readv(fd, pointer<iovec>(b), static_cast<int>(c)); return true;
    case SYS_writev: result = writev(fd, pointer<iovec>(b), static_cast<int>(c)); return true;
    case SYS_recvfrom: result = recvfrom(fd, pointer<void>(b), size, flags, pointer<sockaddr>(e), pointer<socklen_t>(f)); return true;
    case SYS_sendto: result = sendto(fd, pointer<void>(b), size, flags, pointer<sockaddr>(e), static_cast<socklen_t>(f)); return true;
    case SYS_recvmsg: result = recvmsg(fd, pointer<msghdr>(b), static_cast<int>(c)); return true;
    case SYS_sendmsg: result = sendmsg(fd, pointer<msghdr>(b), static_cast<int>(c)); return true;
    case SYS_recvmmsg: result = recvmmsg(fd, pointer<mmsghdr>(b), static_cast<unsigned>(c), flags, pointer<timespec>(e)); return true;
    case SYS_sendmmsg: result = sendmmsg(fd, pointer<mmsghdr>(b), static_cast<unsigned>(c), flags); return true;
    case SYS_accept: result = accept(fd, pointer<sockaddr>(b), pointer<socklen_t>(c)); return true;
    case SYS_accept4: result = accept4(fd, pointer<sockaddr>(b), pointer<socklen_t>(c), flags); return true;
    case SYS_connect: result = connect(fd, pointer<sockaddr>(b), static_cast<socklen_t>(c)); return true;
    case SYS_poll: result = poll(pointer<pollfd>(a), static_cast<nfds_t>(b), static_cast<int>(c)); return true;
    case SYS_ppoll: {
      const WideMask mask(pointer<void>(d));
      result = ppoll(pointer<pollfd>(a), static_cast<nfds_t>(b), pointer<timespec>(c), mask.get());
      return true;
    }
    case SYS_select: result = select(fd, pointer<fd_set>(b), pointer<fd_set>(c), pointer<fd_set>(d), pointer<timeval>(e)); return true;
    case SYS_epoll_wait: result = epoll_wait(fd, pointer<epoll_event>(b), static_cast<int>(c), flags); return true;
    case SYS_epoll_pwait: {
      const WideMask mask(pointer<void>(e));
      result = epoll_pwait(fd, pointer<epoll_event>(b), static_cast<int>(c), flags, mask.get());
      return true;
    }
    case SYS_nanosleep: result = nanosleep(pointer<timespec>(a), pointer<timespec>(b)); return true;
    case SYS_clock_nanosleep:
      result = minus_one(-clock_nanosleep(static_cast<clockid_t>(a), static_cast<int>(b), pointer<timespec>(c), pointer<timespec>(d)));
      return true;
    case SYS_pause: result = pause(); return true;
    case SYS_wait4: result = wait4(static_cast<pid_t>(a), pointer<int>(b), static_cast<int>(c), pointer<rusage>(d)); return true;
    case SYS_waitid:
      if (e != 0) return false;  // libc's call has no rusage
      result = waitid(static_cast<idtype_t>(a), static_cast<id_t>(b), pointer<siginfo_t>(c), flags);
      return true;
    case SYS_close: result = close(fd); return true;
    case SYS_dup: result = dup(fd); return true;
    case SYS_dup2: result = dup2(fd, static_cast<int>(b)); return true;
    case SYS_dup3: result = dup3(fd, static_cast<int>(b), static_cast<int>(c)); return true;
    case SYS_close_range: result = close_range(static_cast<unsigned>(a), static_cast<unsigned>(b), static_cast<int>(c)); return true;
    case SYS_fcntl: result = fcntl(fd, static_cast<int>(b), c); return true;
    case SYS_socket: result = socket(fd, static_cast<int>(b), static_cast<int>(c)); return true;
    default: return false;
  }
}

// Apart, so that the pass-through below needs no frame.
__attribute__((noinline)) long serve_or_pass(long number, long a, long b, long c, long d, long e, long f) {
  long result;
  if (serve_by_hook(number, a, b, c, d, e, f, result)) return result;
  return real_syscall()(number, a, b, c, d, e, f);
}

// Those of serve_by_hook(): not clone and vfork, which need the program's own frame.
bool has_hook(long number) noexcept {
  switch (number) {
    case SYS_read: case SYS_write: case SYS_readv: case SYS_writev: case SYS_recvfrom: case SYS_sendto: case SYS_recvmsg:
    case SYS_sendmsg: case SYS_recvmmsg: case SYS_sendmmsg: case SYS_accept: case SYS_accept4: case SYS_connect:
    case SYS_poll: case SYS_ppoll: case SYS_select: case SYS_epoll_wait: case SYS_epoll_pwait: case SYS_nanosleep:
    case SYS_clock_nanosleep: case SYS_pause: case SYS_wait4: case SYS_waitid: case SYS_close: case SYS_dup:
    case SYS_dup2: case SYS_dup3: case SYS_close_range: case SYS_fcntl: case SYS_socket:
      return true;
    default:
      return false;
  }
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
      if (has_hook(number) && on_fiber()) return serve_or_pass(number, a, b, c, d, e, f);
      break;
  }
  return real_syscall()(number, a, b, c, d, e, f);
}
