// process.cc - fork variants.
//
// Owns:        what pthread_atfork handlers do not reach: _Fork, vfork, clone.
// Keeps true:  a vfork child must not run weft's scheduler in its parent's memory (it would exit as the parent):
//              it gets memory of its own.  The parent goes on when the child has become another program or has ended.
// Called by:   the program.  See also: runtime/process.h.
#include <sched.h>

#include <cstdarg>

#include "hook/gate.h"
#include "runtime/process.h"

using namespace weft;

namespace {

// Open in the child until it executes a program or ends.  Made and, in the parent, closed while forks are locked out,
// so that no other child inherits it.
class ChildsLife {
 public:
  explicit ChildsLife(bool awaited = true) noexcept {
    if (!awaited) return;
    if (sys::call(SYS_pipe2, sys::word(ends_), O_CLOEXEC) != 0) ends_[0] = ends_[1] = -1;
    for (int& end : ends_) lift(end);
  }
  void in_child() noexcept { drop(ends_[0]); }
  void in_parent() noexcept { drop(ends_[1]); }
  // The parent, without a lock.  Blocks its carrier; signals do not end it, as natively.
  void wait() noexcept {
    char none;
    if (ends_[0] < 0) return;
    while (sys::call(SYS_read, ends_[0], sys::word(&none), 1) == -EINTR) {
    }
    drop(ends_[0]);
  }

 private:
  // Away from the numbers that the child counts on.
  static void lift(int& fd) noexcept {
    constexpr int kHigh = 900;
    if (fd < 0) return;
    const int high = sys::fcntl(fd, F_DUPFD_CLOEXEC, kHigh);
    if (high >= 0) drop(fd), fd = high;
  }
  static void drop(int& fd) noexcept {
    if (fd >= 0) sys::close(fd);
    fd = -1;
  }
  int ends_[2] = {-1, -1};
};

}  // namespace

WEFT_HOOK pid_t _Fork() noexcept {
  process::before_fork();
  const pid_t child = real::_Fork();
  if (child == 0)
    process::after_fork_in_child();
  else
    process::after_fork_in_parent();
  return child;
}

WEFT_HOOK pid_t vfork() noexcept {
  process::before_fork();
  ChildsLife life;
  const pid_t child = real::_Fork();
  if (child == 0) {
    life.in_child();
    process::after_fork_in_child();
    return 0;
  }
  life.in_parent();
  process::after_fork_in_parent();
  life.wait();
  return child;
}

namespace {

struct Start {
  int (*function)(void*);
  void* argument;
};

int start_in_child(void* start) {
  process::after_fork_in_child();
  const Start& given = *static_cast<Start*>(start);
  const int status = given.function(given.argument);
  // libc would end the kernel thread alone, and what weft started in the child would keep the process.
  sys::call(SYS_exit_group, status);
  __builtin_unreachable();
}

}  // namespace

// Memory of its own: a fork.  CLONE_VM with CLONE_VFORK: as vfork, so it gets memory of its own too; the kernel makes the
// parent wait.  Threads and all else that shares memory are the kernel's.
WEFT_HOOK int clone(int (*function)(void*), void* stack, int flags, void* argument, ...) noexcept {
  va_list rest;
  va_start(rest, argument);
  auto* parent_tid = va_arg(rest, pid_t*);
  void* tls = va_arg(rest, void*);
  auto* child_tid = va_arg(rest, pid_t*);
  va_end(rest);
  const bool as_vfork = (flags & (CLONE_VM | CLONE_VFORK | CLONE_THREAD)) == (CLONE_VM | CLONE_VFORK);
  if (self.busy != 0 || function == nullptr || stack == nullptr || (!as_vfork && (flags & CLONE_VM) != 0))
    return real::clone(function, stack, flags, argument, parent_tid, tls, child_tid);
  Start start = {function, argument};
  process::before_fork();
  ChildsLife life(as_vfork);
  const int child = real::clone(start_in_child, stack, flags & ~(CLONE_VM | CLONE_VFORK), static_cast<void*>(&start),
                                parent_tid, tls, child_tid);
  life.in_parent();
  process::after_fork_in_parent();
  life.wait();
  return child;
}
