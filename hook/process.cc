// process.cc - fork variants and dlopen.
//
// Owns:        what pthread_atfork handlers do not reach: _Fork and vfork.
// Keeps true:  a vfork child must not run weft's scheduler in its parent's memory (it would exit as the parent):
//              it gets memory of its own.  The parent goes on when the child has become another program or has ended.
// Called by:   the program.  See also: runtime/process.h.
#include "hook/gate.h"
#include "runtime/process.h"

using namespace weft;

namespace {

// Open in the child until it executes a program or ends.  Made and, in the parent, closed while forks are locked out,
// so that no other child inherits it.
class ChildsLife {
 public:
  ChildsLife() noexcept {
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
  int ends_[2];
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

// A tail call: libc finds the caller's RUNPATH and namespace by the return address.
WEFT_HOOK void* dlopen(const char* file, int mode) noexcept {
  abi::note_dlopen();
  return real::dlopen.get()(file, mode);
}
