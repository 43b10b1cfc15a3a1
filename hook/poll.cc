// poll.cc - poll, ppoll, select, pselect.
//
// Owns:        waiting for any of many descriptors.
// Keeps true:  what is ready, and what is an error, is said by the kernel's own call with a timeout of zero; weft only
//              decides when to ask again.  These calls are never restarted.  select() leaves the time that is left.
// Limits:      a descriptor that epoll does not take (nested too deep, no more watches) makes the wait the kernel's.
// Called by:   the program.
#include <sys/select.h>

#include <cstdlib>
#include <cstring>
#include <new>

#include "hook/descriptor_call.h"
#include "hook/shape.h"
#include "hook/temporary_mask.h"

using namespace weft;

namespace {

// One descriptor of a wait for several.
struct Watch {
  FdWaiter waiter;
  Descriptor* descriptor;
  Seen seen;
  int fd;
};

// All of them; lives on the waiting stack.
class Watches {
 public:
  static constexpr size_t kInline = 24;

  Watches() noexcept = default;
  ~Watches() {
    if (all_ != inline_) sys::unmap(all_, capacity_ * sizeof(Watch));
  }
  Watches(const Watches&) = delete;
  Watches& operator=(const Watches&) = delete;

  bool reserve(size_t n) noexcept {
    if (n <= capacity_) return true;
    void* memory = sys::map(n * sizeof(Watch));
    if (memory == nullptr) return false;
    all_ = static_cast<Watch*>(memory);
    capacity_ = n;
    return true;
  }

  void add(int fd, uint32_t events) noexcept {
    Descriptor* d = descriptors::get(fd);
    if (d == nullptr) {
      watchable_ = false;
      return;
    }
    Watch& w = *new (&all_[size_++]) Watch;
    w.descriptor = d;
    w.fd = fd;
    w.waiter.events = events;
  }

  // A1 for all; before the kernel is asked.
  void look() noexcept {
    for (size_t i = 0; i < size_; ++i) all_[i].seen = all_[i].descriptor->seen();
  }

  enum class Ended : uint8_t { kReady, kTimeout, kSignal, kUnpollable };

  // A3 and A4.  Nothing is armed when it returns.
  Ended park_until(Deadline deadline) noexcept {
    Busy busy;
    if (!watchable_) return Ended::kUnpollable;
    Arming arming(Reason::kPoll, nullptr, size_ == 1 ? all_[0].fd : -1);
    Ended ended = Ended::kReady;
    if (arm_all(arming, ended)) {
      const Why why = park(arming, deadline);
      ended = why == Why::kTimeout ? Ended::kTimeout : why == Why::kSignal ? Ended::kSignal : Ended::kReady;
    } else {
      arming.abandon();
    }
    for (size_t i = 0; i < size_; ++i)
      if (all_[i].waiter.descriptor != nullptr) reactor::disarm(all_[i].waiter);
    return ended;
  }

 private:
  // False: no park; `ended` says why.
  bool arm_all(const Arming& arming, Ended& ended) noexcept {
    for (size_t i = 0; i < size_; ++i) all_[i].waiter.descriptor = nullptr;
    for (size_t i = 0; i < size_; ++i) {
      Watch& w = all_[i];
      w.waiter.parker = arming.parker;
      w.waiter.stamp = arming.stamp;
      switch (reactor::arm(w.fd, *w.descriptor, w.waiter, w.seen)) {
        case reactor::Armed::kYes:
          break;
        case reactor::Armed::kEdge:
          return false;
        case reactor::Armed::kClosed:
          // Replaced: ask again.  Not open: the kernel's call did not mind, and closing it now ends no wait.
          if (w.descriptor->generation.load(std::memory_order_acquire) != w.seen.generation) return false;
          break;
        case reactor::Armed::kUnpollable:
          // What has no poll of its own is always ready; if it was not reported, it was not asked for.
          if (w.descriptor->kind.load(std::memory_order_relaxed) == Kind::kFile) break;
          ended = Ended::kUnpollable;
          return false;
      }
    }
    return true;
  }

  alignas(Watch) unsigned char storage_[kInline * sizeof(Watch)];
  Watch* const inline_ = reinterpret_cast<Watch*>(storage_);
  Watch* all_ = inline_;
  size_t capacity_ = kInline;
  size_t size_ = 0;
  bool watchable_ = true;
};

// check(): the kernel's call with no timeout.  collect(watches): adds at most `count` descriptors.
// blocking(ns): the kernel's call with one, or for ever.
template <class Check, class Collect, class Blocking>
long wait_for_any(size_t count, Deadline deadline, bool interrupted, Check check, Collect collect, Blocking blocking) {
  cancellation_point();
  const bool only_a_look = interrupted || deadline.passed();
  Watches watches;
  if (only_a_look || count > Watches::kInline) {
    const long result = check();
    if (result != 0 || only_a_look) return result == 0 && interrupted ? -EINTR : result;
    if (!watches.reserve(count)) return blocking(deadline);
  }
  collect(watches);
  const SignalWatch signal_watch;
  for (;;) {
    watches.look();
    if (const long result = check(); result != 0) return result;
    switch (watches.park_until(deadline)) {
      case Watches::Ended::kReady:
        break;
      case Watches::Ended::kTimeout:
        return check();
      case Watches::Ended::kSignal:
        if (signal_watch.after_wait() != Signalled::kNothing) return -EINTR;
        break;
      case Watches::Ended::kUnpollable:
        return blocking(deadline);
    }
  }
}

bool is_valid(const timespec* t) noexcept {
  return t == nullptr || (t->tv_sec >= 0 && t->tv_nsec >= 0 && t->tv_nsec < kSecond);
}

Deadline after(const timespec* t) noexcept {
  return t == nullptr ? Deadline::never() : Deadline::in(to_nanoseconds(*t));
}

// What is left of a timeout, for a call to libc; null: for ever.
struct Left {
  explicit Left(Deadline deadline) noexcept
      : forever(deadline.is_never()), time(to_timespec(forever || deadline.passed() ? 0 : deadline.left())) {}
  const timespec* get() const noexcept { return forever ? nullptr : &time; }
  bool forever;
  timespec time;
};

// --- poll ---------------------------------------------------------------------------------------------------

// poll's bits to the edges that can change them.
uint32_t edges_for(short events) noexcept {
  uint32_t edges = 0;
  if ((events & (POLLIN | POLLRDNORM | POLLRDBAND)) != 0) edges |= EPOLLIN;
  if ((events & (POLLOUT | POLLWRNORM | POLLWRBAND)) != 0) edges |= EPOLLOUT;
  if ((events & POLLPRI) != 0) edges |= EPOLLPRI;
  if ((events & POLLRDHUP) != 0) edges |= EPOLLRDHUP;
  return edges;
}

// An address that no process has; the kernel says EFAULT.
bool is_wild(const void* p) noexcept {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return address < 4096 || address >> 47 != 0;
}

long poll_on_fiber(pollfd* fds, nfds_t count, Deadline deadline, bool interrupted = false) {
  const auto look = [&] { return sys::call(SYS_poll, sys::word(fds), static_cast<long>(count), 0); };
  if (count != 0 && is_wild(fds)) return look();
  return wait_for_any(
      count, deadline, interrupted, look,
      [&](Watches& watches) {
        for (nfds_t i = 0; i < count; ++i)
          if (fds[i].fd >= 0) watches.add(fds[i].fd, edges_for(fds[i].events));
      },
      [&](Deadline until) { return kernel_result(real::ppoll(fds, count, Left(until).get(), nullptr)); });
}

// --- select -------------------------------------------------------------------------------------------------

// FDSize of /proc/self/status: beyond the table that it has now, the kernel does not look at sets.  0: unknown.
int table_size() noexcept {
  const long file = sys::call(SYS_openat, AT_FDCWD, sys::word("/proc/self/status"), O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  char text[512] = {};
  sys::call(SYS_read, file, sys::word(text), sizeof text - 1);
  sys::close(static_cast<int>(file));
  const char* line = strstr(text, "FDSize:");
  return line == nullptr ? 0 : atoi(line + sizeof "FDSize:");
}

// How much of a set of `count` bits is there: programs say select(getdtablesize(), ...) of a plain fd_set.
int bits_of(int count) noexcept {
  if (count <= FD_SETSIZE) return count;
  const int size = table_size();
  return size < count ? size : count;
}

// The three sets of a select, which the kernel's call overwrites.
class SelectSets {
 public:
  SelectSets(int count, fd_set* in, fd_set* out, fd_set* except) noexcept
      : count_(count),
        words_(count <= 0 ? 0 : (static_cast<size_t>(count) + kBits - 1) / kBits),
        sets_{in, out, except} {
    if (words_ > kInline) saved_ = static_cast<unsigned long*>(sys::map(bytes() * 3));
    usable = saved_ != nullptr;
    for (size_t s = 0; s < 3; ++s)
      if (usable && sets_[s] != nullptr) copy(saved(s), words(s));
  }
  ~SelectSets() {
    if (saved_ != inline_ && saved_ != nullptr) sys::unmap(saved_, bytes() * 3);
  }
  SelectSets(const SelectSets&) = delete;
  SelectSets& operator=(const SelectSets&) = delete;

  // Nothing was ready, so the kernel has emptied the sets: they say again what is asked for.
  void restore() noexcept {
    for (size_t s = 0; s < 3; ++s)
      if (sets_[s] != nullptr) copy(words(s), saved(s));
  }

  long check() noexcept {
    if (asked_) restore();
    asked_ = true;
    const timespec zero = {0, 0};
    timespec limit = zero;
    return sys::call(SYS_pselect6, count_, sys::word(sets_[0]), sys::word(sets_[1]), sys::word(sets_[2]),
                     sys::word(&limit), 0);
  }

  size_t members() const noexcept {
    size_t n = 0;
    for (size_t w = 0; w < words_; ++w) n += static_cast<size_t>(__builtin_popcountl(any(w)));
    return n;
  }
  void collect(Watches& watches) const noexcept {
    for (size_t w = 0; w < words_; ++w)
      for (unsigned long bits = any(w); bits != 0; bits &= bits - 1) {
        const auto bit = static_cast<size_t>(__builtin_ctzl(bits));
        watches.add(static_cast<int>(w * kBits + bit), edges_for(w, 1UL << bit));
      }
  }

  bool usable = false;

 private:
  static constexpr size_t kBits = 8 * sizeof(unsigned long);
  static constexpr size_t kInline = FD_SETSIZE / kBits;

  size_t bytes() const noexcept { return words_ * sizeof(unsigned long); }
  unsigned long* words(size_t s) const noexcept { return reinterpret_cast<unsigned long*>(sets_[s]); }
  unsigned long* saved(size_t s) const noexcept { return saved_ + s * words_; }
  void copy(unsigned long* to, const unsigned long* from) const noexcept {
    for (size_t w = 0; w < words_; ++w) to[w] = from[w];
  }
  // Bits beyond count_ are not part of the sets.
  unsigned long in_range(size_t w) const noexcept {
    const size_t beyond = (w + 1) * kBits - static_cast<size_t>(count_);
    return w + 1 < words_ || beyond == 0 ? ~0UL : ~0UL >> beyond;
  }
  unsigned long asked(size_t s, size_t w) const noexcept { return sets_[s] == nullptr ? 0 : saved(s)[w] & in_range(w); }
  unsigned long any(size_t w) const noexcept { return asked(0, w) | asked(1, w) | asked(2, w); }
  uint32_t edges_for(size_t w, unsigned long bit) const noexcept {
    return ((asked(0, w) & bit) != 0 ? EPOLLIN : 0u) | ((asked(1, w) & bit) != 0 ? EPOLLOUT : 0u) |
           ((asked(2, w) & bit) != 0 ? EPOLLPRI : 0u);
  }
  int count_;
  size_t words_;
  fd_set* sets_[3];
  bool asked_ = false;
  unsigned long inline_[kInline * 3];
  unsigned long* saved_ = inline_;
};

long select_on_fiber(int asked, fd_set* in, fd_set* out, fd_set* except, Deadline deadline, bool interrupted = false) {
  const int count = bits_of(asked);
  SelectSets sets(count, in, out, except);
  const auto blocking = [&](Deadline until) {
    return kernel_result(real::pselect(asked, in, out, except, Left(until).get(), nullptr));
  };
  if (!sets.usable || (count == 0 && asked != 0)) return blocking(deadline);
  const long result = wait_for_any(
      sets.members(), deadline, interrupted, [&] { return sets.check(); },
      [&](Watches& watches) { sets.collect(watches); },
      [&](Deadline until) {
        sets.restore();
        return blocking(until);
      });
  if (result < 0) sets.restore();  // as the kernel: sets are written on success only
  return result;
}

constexpr int64_t kMicrosecondsPerSecond = kSecond / kMicrosecond;

bool is_valid(const timeval* t) noexcept { return t == nullptr || (t->tv_sec >= 0 && t->tv_usec >= 0); }

// More than a second of microseconds is carried, as libc does.
Deadline after(const timeval* t) noexcept {
  if (t == nullptr) return Deadline::never();
  const timespec sum = {t->tv_sec + t->tv_usec / kMicrosecondsPerSecond,
                        t->tv_usec % kMicrosecondsPerSecond * kMicrosecond};
  return Deadline::in(to_nanoseconds(sum));
}

void tell_what_is_left(timeval* t, Deadline deadline) noexcept {
  if (t == nullptr || deadline.is_never()) return;
  const timespec left = Left(deadline).time;
  *t = {left.tv_sec, left.tv_nsec / kMicrosecond};
}

}  // namespace

WEFT_HOOK int poll(pollfd* fds, nfds_t count, int timeout) {
  if (!on_fiber()) return real::poll(fds, count, timeout);
  const Deadline deadline = timeout < 0 ? Deadline::never() : Deadline::in(timeout * kMillisecond);
  return static_cast<int>(minus_one(poll_on_fiber(fds, count, deadline)));
}
WEFT_ALIAS(__poll, poll);

WEFT_HOOK int __poll_chk(pollfd* fds, nfds_t count, int timeout, size_t room) {
  return !on_fiber() || room / sizeof *fds < count ? real::__poll_chk(fds, count, timeout, room)
                                                   : poll(fds, count, timeout);
}

WEFT_HOOK int ppoll(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask) {
  if (!on_fiber() || !is_valid(timeout)) return real::ppoll(fds, count, timeout, mask);
  const Deadline deadline = after(timeout);
  const TemporaryMask temporary(mask);
  return static_cast<int>(minus_one(poll_on_fiber(fds, count, deadline, temporary.interrupted)));
}

WEFT_HOOK int __ppoll_chk(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask, size_t room) {
  return !on_fiber() || room / sizeof *fds < count ? real::__ppoll_chk(fds, count, timeout, mask, room)
                                                   : ppoll(fds, count, timeout, mask);
}

WEFT_HOOK int select(int count, fd_set* in, fd_set* out, fd_set* except, timeval* timeout) {
  if (!on_fiber() || !is_valid(timeout)) return real::select(count, in, out, except, timeout);
  const Deadline deadline = after(timeout);
  const long result = select_on_fiber(count, in, out, except, deadline);
  tell_what_is_left(timeout, deadline);
  return static_cast<int>(minus_one(result));
}
WEFT_ALIAS(__select, select);

WEFT_HOOK int pselect(int count, fd_set* in, fd_set* out, fd_set* except, const timespec* timeout,
                      const sigset_t* mask) {
  if (!on_fiber() || !is_valid(timeout)) return real::pselect(count, in, out, except, timeout, mask);
  const Deadline deadline = after(timeout);
  const TemporaryMask temporary(mask);
  return static_cast<int>(minus_one(select_on_fiber(count, in, out, except, deadline, temporary.interrupted)));
}
