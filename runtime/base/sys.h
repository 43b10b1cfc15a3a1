// sys.h - kernel calls that no hook can intercept.
//
// Owns:        the system call instruction; every call returns the kernel's answer, -errno on failure.
// Keeps true:  errno is never touched, nothing is allocated, nothing is a cancellation point.
// Called by:   all of runtime/ and the hooks; async-signal-safe.
// See also:    hook/real.h for libc's own functions, which only hooks may call.
#pragma once

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include <cstddef>
#include <cstdint>

namespace weft::sys {

inline long call(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0,
                 long f = 0) noexcept {
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}

template <class T>
inline long word(T* p) noexcept {
  return reinterpret_cast<long>(p);
}

inline bool failed(long result) noexcept { return result < 0 && result > -4096; }

inline long write(int fd, const void* data, size_t size) noexcept {
  return call(SYS_write, fd, word(data), static_cast<long>(size));
}
inline int close(int fd) noexcept { return static_cast<int>(call(SYS_close, fd)); }
inline int fcntl(int fd, int command, long argument = 0) noexcept {
  return static_cast<int>(call(SYS_fcntl, fd, command, argument));
}
inline int gettid() noexcept { return static_cast<int>(call(SYS_gettid)); }
inline int getpid() noexcept { return static_cast<int>(call(SYS_getpid)); }
inline int tgkill(int pid, int tid, int signal) noexcept {
  return static_cast<int>(call(SYS_tgkill, pid, tid, signal));
}
inline void yield() noexcept { call(SYS_sched_yield); }

inline void* map(size_t size, int protection = PROT_READ | PROT_WRITE,
                 int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE) noexcept {
  const long p = call(SYS_mmap, 0, static_cast<long>(size), protection, flags, -1, 0);
  return failed(p) ? nullptr : reinterpret_cast<void*>(p);
}
inline void unmap(void* p, size_t size) noexcept { call(SYS_munmap, word(p), static_cast<long>(size)); }
inline int advise(void* p, size_t size, int advice) noexcept {
  return static_cast<int>(call(SYS_madvise, word(p), static_cast<long>(size), advice));
}
inline int protect(void* p, size_t size, int protection) noexcept {
  return static_cast<int>(call(SYS_mprotect, word(p), static_cast<long>(size), protection));
}

// Blocks the kernel thread while *address == expected, at most until the absolute monotonic time.
inline int futex_wait(const void* address, uint32_t expected, const timespec* until = nullptr) noexcept {
  return static_cast<int>(call(SYS_futex, word(address), FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG,
                               expected, word(until), 0, static_cast<int>(FUTEX_BITSET_MATCH_ANY)));
}
inline int futex_wake(const void* address, int count) noexcept {
  return static_cast<int>(call(SYS_futex, word(address), FUTEX_WAKE | FUTEX_PRIVATE_FLAG, count));
}

inline int poll(pollfd* fds, nfds_t count, int milliseconds) noexcept {
  return static_cast<int>(call(SYS_poll, word(fds), static_cast<long>(count), milliseconds));
}

inline int epoll_create() noexcept {
  return static_cast<int>(call(SYS_epoll_create1, EPOLL_CLOEXEC));
}
inline int epoll_control(int epoll, int operation, int fd, epoll_event* event) noexcept {
  return static_cast<int>(call(SYS_epoll_ctl, epoll, operation, fd, word(event)));
}
// timeout: nullptr waits for ever.  Nanosecond timeouts: epoll_wait's milliseconds would make a 10 us sleep 1 ms.
inline int epoll_wait(int epoll, epoll_event* events, int capacity, const timespec* timeout) noexcept {
  return static_cast<int>(
      call(SYS_epoll_pwait2, epoll, word(events), capacity, word(timeout), 0, 8));
}

// The kernel's own sigaction layout; libc's rewrites flags and the restorer.
struct KernelSigaction {
  void* handler;
  unsigned long flags;
  void (*restorer)();
  uint64_t mask;
};
inline int sigaction(int signal, const KernelSigaction* action, KernelSigaction* old) noexcept {
  return static_cast<int>(call(SYS_rt_sigaction, signal, word(action), word(old), 8));
}
inline int sigprocmask(int how, const uint64_t* set, uint64_t* old) noexcept {
  return static_cast<int>(call(SYS_rt_sigprocmask, how, word(set), word(old), 8));
}

}  // namespace weft::sys
