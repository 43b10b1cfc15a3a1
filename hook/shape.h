// shape.h - the shapes of blocking calls.  A hook is a name, arguments and one expression in one of these.
//
// Owns:        when_ready (a descriptor), wait_for (an object at an address), sleep_until (a time).
// Keeps true:  try first, park only on "would block"; O_NONBLOCK and timeouts of the program are honoured; signals:
//              handlers run on the caller, then EINTR or once more, by SA_RESTART; cancellation is acted upon.
// Called by:   hooks, on a fiber, outside Busy.  Results are in the kernel's convention: -errno.
#pragma once

#include <unistd.h>

#include "hook/gate.h"
#include "runtime/parking_lot.h"
#include "runtime/reactor.h"
#include "runtime/signals.h"

namespace weft {

// What came of a wait that a signal ended.
enum class Signalled : uint8_t {
  kNothing,    // no handler ran: a cancellation that is disabled, or somebody else took the signal
  kRestart,    // handlers ran, all with SA_RESTART
  kInterrupt,  // handlers ran
};

// Around a wait: acts on cancellation, runs the handlers of what came, and tells.
class SignalWatch {
 public:
  SignalWatch() noexcept : handled_(self.fiber->handled) { self.fiber->interrupted = false; }
  Signalled after_wait() const {
    cancellation_point();
    const bool interrupted = signals::handle_pending();
    if (self.fiber->handled == handled_) return Signalled::kNothing;
    return interrupted ? Signalled::kInterrupt : Signalled::kRestart;
  }

 private:
  uint32_t handled_;
};

struct ReadyOptions {
  bool restartable = true;         // SA_RESTART applies (signal(7): not to calls with a timeout set by SO_*TIMEO)
  bool socket_timeouts = false;    // SO_RCVTIMEO / SO_SNDTIMEO bound the wait
  bool exclusive = false;          // one of several waiters is enough (accept)
  bool nonblocking_counts = true;  // O_NONBLOCK means: do not wait (not so for epoll_wait)
  int timeout_error = EAGAIN;
  Deadline deadline = {};          // the caller's; socket_timeouts replaces it
  const size_t* moved = nullptr;   // bytes moved so far: once there are some, they are the answer to signals and errors
  size_t drains_below = 0;         // TCP: a result below this took all there was (fd_table.h, note_drained); 0: unknown
};

// Runs attempt() (never blocking; -EAGAIN when it would) until it says something else.
// blocking(): the program's call as it is, for files that epoll does not know.
template <class Attempt, class Blocking>
long when_ready(int fd, Direction direction, Reason reason, ReadyOptions options, Attempt&& attempt,
                Blocking&& blocking) {
  cancellation_point();
  const auto moved = [&] { return options.moved == nullptr ? 0L : static_cast<long>(*options.moved); };
  const auto answer = [&](long result) { return result < 0 && moved() != 0 ? moved() : result; };
  Descriptor* d = descriptors::get(fd);
  if (d == nullptr) return answer(blocking());
  bool waited_exclusively = false;
  for (bool first = true;; first = false) {
    const Seen seen = d->seen();
    const bool surely_empty = first && options.drains_below != 0 && d->is_drained(seen);
    const long result = surely_empty ? -EAGAIN : attempt();
    if (result != -EAGAIN) {
      if (waited_exclusively) {
        Busy busy;
        reactor::pass_on(*d);
      }
      if (result > 0 && static_cast<size_t>(result) < options.drains_below) d->note_drained(seen);
      return answer(result);
    }
    reactor::Waited waited;
    const SignalWatch signal_watch;
    {
      Busy busy;
      if (first) {
        if (options.nonblocking_counts && descriptors::is_nonblocking(fd, *d)) return answer(-EAGAIN);
        if (options.socket_timeouts) options.deadline = descriptors::socket_deadline(fd, *d, direction);
        if (!options.deadline.is_never()) options.restartable = false;
      }
      waited = reactor::wait(fd, *d, direction, reason, seen, options.deadline, options.exclusive);
      if (options.exclusive && waited != reactor::Waited::kReady) reactor::pass_on(*d);
      waited_exclusively = options.exclusive;
    }
    switch (waited) {
      case reactor::Waited::kReady:
        break;
      case reactor::Waited::kTimeout:
        return answer(-options.timeout_error);
      case reactor::Waited::kClosed:
        return answer(-EBADF);
      case reactor::Waited::kUnpollable: {
        const long rest = blocking();
        return rest < 0 ? answer(rest) : moved() + rest;
      }
      case reactor::Waited::kSignal: {
        const Signalled signalled = signal_watch.after_wait();
        const bool again = signalled == Signalled::kRestart && options.restartable && moved() == 0;
        if (signalled == Signalled::kNothing || again) break;
        return answer(-EINTR);
      }
    }
  }
}

// Waits until `deadline`.  0, or -EINTR when a handler ran (sleeps are never restarted).
inline long sleep_until(Deadline deadline, Reason reason = Reason::kSleep) {
  cancellation_point();
  if (deadline.passed()) {  // also a sleep of no length lets the others run
    Busy busy;
    yield_fiber();
    return 0;
  }
  const SignalWatch signal_watch;
  for (;;) {
    Why why;
    {
      Busy busy;
      Arming arming(reason);
      why = park(arming, deadline);
    }
    if (why == Why::kTimeout) return 0;
    if (why == Why::kSignal && signal_watch.after_wait() != Signalled::kNothing) return -EINTR;
  }
}

}  // namespace weft
