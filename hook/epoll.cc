// epoll.cc - waiting on the program's own epoll instances.
//
// Owns:        epoll_wait and its variants.
// Keeps true:  the program's epoll descriptor is waited for as a descriptor and then asked with no timeout, so that
//              level, edge, one-shot and exclusive keep their meaning; one waiter is woken at a time, as by the
//              kernel.  Never restarted.
// Called by:   the program.  See also: poll.cc.
#include "hook/descriptor_call.h"
#include "hook/shape.h"
#include "hook/temporary_mask.h"

using namespace weft;

namespace {

timespec* timeout_in(Deadline deadline, timespec& left) noexcept {
  if (deadline.is_never()) return nullptr;
  left = to_timespec(deadline.passed() ? 0 : deadline.left());
  return &left;
}

long wait_on_fiber(int epoll, epoll_event* events, int capacity, Deadline deadline, bool interrupted = false) {
  const auto look = [&] { return sys::call(SYS_epoll_wait, epoll, sys::word(events), capacity, 0); };
  if (interrupted || deadline.passed()) {
    cancellation_point();
    const long result = look();
    return result == 0 && interrupted ? -EINTR : result;
  }
  const auto now = [&] {
    const long result = look();
    return result == 0 ? -EAGAIN : result;
  };
  const auto blocking = [&] {
    timespec left;
    return kernel_result(real::epoll_pwait2(epoll, events, capacity, timeout_in(deadline, left), nullptr));
  };
  ReadyOptions options;
  options.restartable = false;
  options.exclusive = true;
  options.nonblocking_counts = false;
  options.timeout_error = 0;
  options.deadline = deadline;
  return when_ready(epoll, Direction::kIn, Reason::kEpoll, options, now, blocking);
}

bool is_valid(const timespec* t) noexcept {
  return t == nullptr || (t->tv_sec >= 0 && t->tv_nsec >= 0 && t->tv_nsec < kSecond);
}

Deadline in_milliseconds(int timeout) noexcept {
  return timeout < 0 ? Deadline::never() : Deadline::in(timeout * kMillisecond);
}

}  // namespace

WEFT_HOOK int epoll_wait(int epoll, epoll_event* events, int capacity, int timeout) {
  if (!on_fiber()) return real::epoll_wait(epoll, events, capacity, timeout);
  return static_cast<int>(minus_one(wait_on_fiber(epoll, events, capacity, in_milliseconds(timeout))));
}

WEFT_HOOK int epoll_pwait(int epoll, epoll_event* events, int capacity, int timeout, const sigset_t* mask) {
  if (!on_fiber()) return real::epoll_pwait(epoll, events, capacity, timeout, mask);
  const Deadline deadline = in_milliseconds(timeout);
  const TemporaryMask temporary(mask);
  return static_cast<int>(minus_one(wait_on_fiber(epoll, events, capacity, deadline, temporary.interrupted)));
}

WEFT_HOOK int epoll_pwait2(int epoll, epoll_event* events, int capacity, const timespec* timeout,
                           const sigset_t* mask) {
  if (!on_fiber() || !is_valid(timeout)) return real::epoll_pwait2(epoll, events, capacity, timeout, mask);
  const Deadline deadline = timeout == nullptr ? Deadline::never() : Deadline::in(to_nanoseconds(*timeout));
  const TemporaryMask temporary(mask);
  return static_cast<int>(minus_one(wait_on_fiber(epoll, events, capacity, deadline, temporary.interrupted)));
}
