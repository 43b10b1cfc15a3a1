// reactor_epoll.cc - see reactor.h.
#include <sys/eventfd.h>

#include <cerrno>

#include "runtime/base/sys.h"
#include "runtime/carrier.h"
#include "runtime/reactor.h"
#include "runtime/worker.h"

namespace weft {
namespace {

constexpr uint32_t kInterest = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET;
constexpr uint32_t kAlways = EPOLLERR | EPOLLHUP;
constexpr uint32_t kInEvents = EPOLLIN | EPOLLRDHUP | EPOLLPRI | kAlways;
constexpr uint32_t kOutEvents = EPOLLOUT | kAlways;
constexpr uint32_t kTrouble = EPOLLRDHUP | EPOLLPRI | kAlways;
constexpr uint64_t kNudge = ~0ULL;
constexpr int kBatch = 256;  // events a poll takes at once; they lie on the loop's stack

epoll_event interest(int fd, const Descriptor& d) noexcept {
  epoll_event event = {};
  event.events = kInterest;
  const uint64_t generation = d.generation.load(std::memory_order_relaxed);
  event.data.u64 = generation << 32 | static_cast<uint32_t>(fd);
  return event;
}

int64_t milliseconds_up(int64_t ns) noexcept {
  return ns == Deadline::kNever ? -1 : (ns + kMillisecond - 1) / kMillisecond;
}

// Before Linux 5.11 there are only milliseconds.
std::atomic<bool> has_nanoseconds{true};

int wait_for_events(int epoll, epoll_event* events, int64_t ns) noexcept {
  if (has_nanoseconds.load(std::memory_order_relaxed)) {
    const timespec timeout = to_timespec(ns == Deadline::kNever ? 0 : ns);
    const int n = sys::epoll_wait(epoll, events, kBatch, ns == Deadline::kNever ? nullptr : &timeout);
    if (n != -ENOSYS) return n;
    has_nanoseconds.store(false, std::memory_order_relaxed);
  }
  return static_cast<int>(sys::call(SYS_epoll_wait, epoll, sys::word(events), kBatch, milliseconds_up(ns)));
}

// --- waking; Descriptor::lock held --------------------------------------------------------------------------

// E3.  True: the waiter was still waiting.
bool wake_one(Descriptor& d, FdWaiter& waiter) noexcept;

void wake_for(Descriptor& d, uint32_t events) noexcept {
  bool exclusive_is_served = false;
  for (FdWaiter *w = d.waiters.front(), *next; w != nullptr; w = next) {
    next = d.waiters.after(w);
    if (((w->events | kAlways) & events) == 0 || (w->exclusive && exclusive_is_served)) continue;
    const bool exclusive = w->exclusive;
    if (wake_one(d, *w) && exclusive) exclusive_is_served = true;
  }
}

}  // namespace

struct ReactorAccess {
  static Reactor& of(const Descriptor& d) noexcept {
    return workers::all[d.registered.load(std::memory_order_relaxed) - 1].reactor;
  }
  static void count_registered(Reactor& r, int by) noexcept {
    r.registered_.fetch_add(static_cast<uint32_t>(by), std::memory_order_relaxed);
  }
  static void count_waiters(Reactor& r, uint32_t by) noexcept {
    r.waiters_.fetch_add(by, std::memory_order_relaxed);
  }

  // The waiters of a descriptor count where it is registered.
  static void unlink(Descriptor& d, FdWaiter& waiter) noexcept {
    List<FdWaiter>::remove(&waiter);
    d.waiting.fetch_sub(1, std::memory_order_relaxed);
    if (d.registered.load(std::memory_order_relaxed) != 0) count_waiters(of(d), ~0u);
  }
  static void link(Descriptor& d, FdWaiter& waiter) noexcept {
    waiter.descriptor = &d;
    d.waiters.push_back(&waiter);
    d.waiting.fetch_add(1, std::memory_order_relaxed);
    count_waiters(of(d), 1);
  }
  // The registration is gone, here or in the kernel.
  static void unregister(Descriptor& d) noexcept {
    Reactor& r = of(d);
    count_registered(r, -1);
    count_waiters(r, 0u - d.waiting.load(std::memory_order_relaxed));
    d.registered.store(0, std::memory_order_relaxed);
  }
  static void set_registered(Descriptor& d, Worker& w) noexcept {
    d.registered.store(w.index + 1, std::memory_order_relaxed);
    count_registered(w.reactor, 1);
    count_waiters(w.reactor, d.waiting.load(std::memory_order_relaxed));
  }

  static bool relocate(Reactor& r, int fd) noexcept {
    if (r.epoll_.load(std::memory_order_relaxed) == fd) return move(r.epoll_, fd);
    Locked locked(r.nudge_lock_);
    return r.nudge_.load(std::memory_order_relaxed) == fd && move(r.nudge_, fd);
  }
  // A carrier that has read the old number and not entered the kernel yet gets an error and comes again.
  static bool move(std::atomic<int>& number, int fd) noexcept {
    const int copy = sys::fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) return false;
    number.store(descriptors::hide(copy), std::memory_order_seq_cst);
    descriptors::unhide(fd);
    return true;
  }
};

namespace {

bool wake_one(Descriptor& d, FdWaiter& waiter) noexcept {
  ReactorAccess::unlink(d, waiter);
  return wake(waiter.parker, waiter.stamp, Why::kReady);
}

// E2, E3
void deliver(uint64_t data, uint32_t events) noexcept {
  Descriptor* d = descriptors::find(static_cast<int>(data & 0x7fffffff));
  if (d == nullptr) return;
  Locked locked(d->lock);
  if (d->generation.load(std::memory_order_relaxed) != data >> 32) return;
  if ((events & kTrouble) != 0) d->troubled.store(true, std::memory_order_relaxed);
  if ((events & kInEvents) != 0) d->in_edges.fetch_add(1, std::memory_order_release);
  if ((events & kOutEvents) != 0) d->out_edges.fetch_add(1, std::memory_order_release);
  if (d->waiting.load(std::memory_order_relaxed) != 0) wake_for(*d, events);
}

}  // namespace

// --- Reactor ------------------------------------------------------------------------------------------------

bool Reactor::open(uint32_t index) noexcept {
  index_ = index;
  const int epoll = sys::epoll_create();
  if (epoll < 0) return false;
  epoll_.store(descriptors::hide(epoll), std::memory_order_relaxed);
  const int nudge = static_cast<int>(sys::call(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (nudge < 0) {
    close();
    return false;
  }
  nudge_.store(descriptors::hide(nudge), std::memory_order_relaxed);
  // Edge-triggered and never read: each write is an edge.
  epoll_event event = {};
  event.events = EPOLLIN | EPOLLET;
  event.data.u64 = kNudge;
  if (sys::epoll_control(epoll_fd(), EPOLL_CTL_ADD, nudge_.load(std::memory_order_relaxed), &event) == 0) return true;
  close();
  return false;
}

void Reactor::close() noexcept {
  for (std::atomic<int>* number : {&epoll_, &nudge_}) {
    const int fd = number->exchange(-1, std::memory_order_relaxed);
    if (fd < 0) continue;
    descriptors::unhide(fd);
    sys::close(fd);
  }
  nudge_lock_.reset();
  registered_.store(0, std::memory_order_relaxed);
  waiters_.store(0, std::memory_order_relaxed);
}

void Reactor::poll(int64_t wait_ns, int64_t) noexcept {
  epoll_event events[kBatch];
  const int n = wait_for_events(epoll_fd(), events, wait_ns);
  for (int i = 0; i < n; ++i) {
    const uint64_t data = events[i].data.u64;
    if (data != kNudge) deliver(data, events[i].events);
  }
}

void Reactor::nudge() noexcept {
  Locked locked(nudge_lock_);
  const uint64_t one = 1;
  sys::write(nudge_.load(std::memory_order_relaxed), &one, sizeof one);
}

// The number may be given away at this very moment (relocate): then a write goes astray or fails, and the poll ends later.
void Reactor::poke() noexcept {
  const uint64_t one = 1;
  sys::write(nudge_.load(std::memory_order_relaxed), &one, sizeof one);
}

// --- reactor ------------------------------------------------------------------------------------------------

namespace reactor {

std::atomic<uint32_t> sweep_tick{0};

namespace {

// Adds the descriptor to the epoll instance of the worker that the caller runs on.  Lock held.
Armed enroll(int fd, Descriptor& d) noexcept {
  Worker& worker = *self.fiber->carrier->worker;
  epoll_event event = interest(fd, d);
  int result = sys::epoll_control(worker.reactor.epoll_fd(), EPOLL_CTL_ADD, fd, &event);
  if (result == -EEXIST) result = sys::epoll_control(worker.reactor.epoll_fd(), EPOLL_CTL_MOD, fd, &event);
  switch (result) {
    case 0:
      ReactorAccess::set_registered(d, worker);
      return Armed::kYes;
    case -EBADF:  // closed behind weft's back
    case -ENOENT:
      return Armed::kClosed;
    case -EPERM:
      d.kind.store(Kind::kFile, std::memory_order_relaxed);
      return Armed::kUnpollable;
    default:  // ENOMEM, ENOSPC (max_user_watches), ELOOP (epoll instances nested too deep)
      return Armed::kUnpollable;
  }
}

// A3: has anything happened in a direction that the waiter wants?  Errors and ends count in both.
bool moved_on(const Descriptor& d, uint32_t events, const Seen& seen) noexcept {
  const bool wants_out = (events & EPOLLOUT) != 0;
  const bool wants_in = !wants_out || (events & kInEvents) != 0;
  return (wants_in && d.in_edges.load(std::memory_order_relaxed) != seen.in_edges) ||
         (wants_out && d.out_edges.load(std::memory_order_relaxed) != seen.out_edges);
}

// The sweep takes the age of the oldest waiter that it has not looked at.
void note_age(Descriptor& d) noexcept {
  if (d.waiting.load(std::memory_order_relaxed) != 0 && !d.verified.load(std::memory_order_relaxed)) return;
  d.verified.store(false, std::memory_order_relaxed);
  d.armed_tick = sweep_tick.load(std::memory_order_relaxed);
}

}  // namespace

Armed arm(int fd, Descriptor& d, FdWaiter& waiter, const Seen& seen) noexcept {
  Locked locked(d.lock);
  if (d.generation.load(std::memory_order_relaxed) != seen.generation) return Armed::kClosed;
  if (moved_on(d, waiter.events, seen)) return Armed::kEdge;
  if (d.registered.load(std::memory_order_relaxed) == 0)
    if (const Armed armed = enroll(fd, d); armed != Armed::kYes) return armed;
  note_age(d);
  ReactorAccess::link(d, waiter);
  return Armed::kYes;
}

void disarm(FdWaiter& waiter) noexcept {
  // Always under the lock, linked or not: whoever is waking this waiter holds it.
  Locked locked(waiter.descriptor->lock);
  if (waiter.linked()) ReactorAccess::unlink(*waiter.descriptor, waiter);
}

Waited wait(int fd, Descriptor& d, Direction direction, Reason reason, const Seen& seen, Deadline deadline,
            bool exclusive) noexcept {
  Arming arming(reason, nullptr, fd);
  FdWaiter waiter;
  waiter.parker = arming.parker;
  waiter.stamp = arming.stamp;
  waiter.events = direction == Direction::kIn ? EPOLLIN : EPOLLOUT;
  waiter.exclusive = exclusive;
  const Armed armed = arm(fd, d, waiter, seen);
  if (armed != Armed::kYes) {
    arming.abandon();
    return armed == Armed::kEdge ? Waited::kReady : armed == Armed::kClosed ? Waited::kClosed : Waited::kUnpollable;
  }
  const Why why = park(arming, deadline);
  disarm(waiter);
  if (d.generation.load(std::memory_order_acquire) != seen.generation) return Waited::kClosed;
  return why == Why::kTimeout ? Waited::kTimeout : why == Why::kSignal ? Waited::kSignal : Waited::kReady;
}

void pass_on(Descriptor& d) noexcept {
  Locked locked(d.lock);
  d.in_edges.fetch_add(1, std::memory_order_release);
  for (FdWaiter *w = d.waiters.front(), *next; w != nullptr; w = next) {
    next = d.waiters.after(w);
    if (w->exclusive && wake_one(d, *w)) return;
  }
}

void leave(int fd, Descriptor& d) noexcept {
  // The kernel forgets a file that is closed for good; what others keep open has to be taken out.
  if (!d.exclusive.load(std::memory_order_relaxed))
    sys::epoll_control(ReactorAccess::of(d).epoll_fd(), EPOLL_CTL_DEL, fd, nullptr);
  ReactorAccess::unregister(d);
}

void wake_all(Descriptor& d) noexcept {
  while (FdWaiter* waiter = d.waiters.front()) wake_one(d, *waiter);
}

bool relocate(int fd) noexcept {
  for (uint32_t i = 0; i < workers::count; ++i)
    if (ReactorAccess::relocate(workers::all[i].reactor, fd)) return true;
  return false;
}

namespace {

bool is_overdue(const Descriptor& d, uint32_t tick, uint32_t age) noexcept {
  return d.waiting.load(std::memory_order_relaxed) != 0 && !d.verified.load(std::memory_order_relaxed) &&
         tick - d.armed_tick >= age;
}

// Asks the kernel for the registration again: it reports at once what is ready, and denies what it does not have.
void verify(int fd, Descriptor& d) noexcept {
  d.verified.store(true, std::memory_order_relaxed);
  if (d.registered.load(std::memory_order_relaxed) == 0) return;
  epoll_event event = interest(fd, d);
  const int result = sys::epoll_control(ReactorAccess::of(d).epoll_fd(), EPOLL_CTL_MOD, fd, &event);
  if (result != -ENOENT && result != -EBADF) return;
  ReactorAccess::unregister(d);
  wake_all(d);
}

}  // namespace

void sweep(uint32_t tick, uint32_t age) noexcept {
  uint32_t waiters = 0;
  for (uint32_t i = 0; i < workers::count; ++i) waiters += workers::all[i].reactor.waiters();
  if (waiters == 0) return;
  for (int fd = 0, end = descriptors::highest(); fd <= end; ++fd) {
    Descriptor* d = descriptors::find(fd);
    if (d == nullptr || d->waiting.load(std::memory_order_relaxed) == 0) continue;
    if (d->verified.load(std::memory_order_relaxed)) continue;
    Locked locked(d->lock);
    if (is_overdue(*d, tick, age)) verify(fd, *d);
  }
}

}  // namespace reactor
}  // namespace weft
