// descriptor_call.h - what the hooks of calls on descriptors have in common.
//
// Owns:        small questions (does weft keep the table? is it ready now?), SIGPIPE for a fiber that blocks it, and
//              Rest, the part of an iovec array that is still to be moved.
// Keeps true:  nothing here waits.
// Called by:   file.cc, socket.cc, poll.cc, epoll.cc.  See also: shape.h for the waiting.
#pragma once

#include <poll.h>
#include <sys/uio.h>

#include <cstddef>

#include "hook/gate.h"
#include "runtime/base/sys.h"
#include "runtime/carrier.h"
#include "runtime/fd_table.h"
#include "runtime/runtime.h"

// Another exported name of a hook, defined in the same file.
#define WEFT_ALIAS(alias_name, name) WEFT_HOOK decltype(name) alias_name __attribute__((alias(#name)))

namespace weft {

// Does the table of descriptors matter now?  While the runtime is off nothing is remembered; inside it, nothing of
// the program's changes.
inline bool tracking() noexcept { return runtime::is_active() && self.busy == 0; }

// libc's convention (-1 and errno) to the kernel's (-errno).
inline long kernel_result(long result) noexcept { return result == -1 ? -errno : result; }

// poll() with no timeout; what is always reported (an end, an error, not open) counts.
inline short ready_now(int fd, short events) noexcept {
  pollfd one = {fd, events, 0};
  return sys::poll(&one, 1, 0) > 0 ? one.revents : 0;
}

// Writing to where nobody reads, by a fiber that blocks SIGPIPE on a carrier that does not: the kernel would take the
// signal for one that may be delivered, and end the process.
inline bool keeps_sigpipe() noexcept {
  constexpr uint64_t bit = 1ULL << (SIGPIPE - 1);
  const Fiber* fiber = self.fiber;
  return (fiber->signal_mask.load(std::memory_order_relaxed) & bit) != 0 && (fiber->carrier->kernel_mask & bit) == 0;
}
long keeping_sigpipe(long (*call)(void*), void* argument) noexcept;

// call(): one system call that does not wait and may raise SIGPIPE.
template <class Call>
long may_raise_sigpipe(Call call) noexcept {
  if (!keeps_sigpipe()) [[likely]]
    return call();
  return keeping_sigpipe([](void* c) -> long { return (*static_cast<Call*>(c))(); }, &call);
}

// What is left of an array of buffers after some bytes were moved, without a copy of the array: a part that was
// begun is finished alone, then come the parts that were not.
class Rest {
 public:
  Rest(const iovec* parts, size_t count) noexcept : next_(parts), count_(count) {}

  const iovec* parts() const noexcept { return begun() ? &begun_ : next_; }
  size_t count() const noexcept { return begun() ? 1 : count_; }
  bool begun() const noexcept { return begun_.iov_len != 0; }
  bool done() const noexcept { return !begun() && count_ == 0; }
  size_t bytes() const noexcept {
    size_t sum = begun_.iov_len;
    for (size_t i = 0; i < count_; ++i) sum += next_[i].iov_len;
    return sum;
  }
  // The beginning of what is left, at most `limit` bytes long.
  iovec head(size_t limit) const noexcept {
    const iovec& first = *parts();
    return {first.iov_base, first.iov_len < limit ? first.iov_len : limit};
  }

  // n bytes of parts() were moved.
  void advance(size_t n) noexcept {
    moved += n;
    if (begun()) {
      begun_ = after(begun_, n);
      n = 0;
    }
    for (; count_ != 0 && !begun() && n >= next_->iov_len; ++next_, --count_) n -= next_->iov_len;
    if (n == 0) return;
    begun_ = after(*next_, n);
    ++next_;
    --count_;
  }

  size_t moved = 0;

 private:
  static iovec after(const iovec& part, size_t n) noexcept {
    return {static_cast<char*>(part.iov_base) + n, part.iov_len - n};
  }
  const iovec* next_;
  size_t count_;
  iovec begun_ = {nullptr, 0};
};

}  // namespace weft
