// socket.cc - sockets: their birth, connect, accept, sending and receiving.
//
// Owns:        how each call tries without blocking: MSG_DONTWAIT for data, readiness first for accept, a window of
//              O_NONBLOCK for connect on a TCP socket that nobody else can have.
// Keeps true:  O_NONBLOCK is never on while somebody else could see it; in the window fcntl(F_GETFL) tells what the
//              program set, and F_SETFL and close wait for its end.
// Limits:      connect on sockets that are shared, inherited or not TCP is the kernel's, under handoff; so is an accept
//              whose connection another process took first, and a datagram sent by address to a UNIX socket that is
//              full.
// Called by:   the program; file.cc through socket_call.h.
// See also:    DECISIONS.md "accept and connect".
#include "hook/socket_call.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>

#include "hook/descriptor_call.h"
#include "hook/shape.h"

using namespace weft;

namespace weft {
namespace {

constexpr int kNeverWaits = MSG_DONTWAIT | MSG_ERRQUEUE | MSG_OOB;  // receiving; urgent bytes are there or not

// --- descriptors that travel --------------------------------------------------------------------------------

// Calls each(fd) for the descriptors in the control data.
template <class Each>
void for_each_passed(const msghdr& message, Each each) noexcept {
  if (message.msg_control == nullptr) return;
  auto* all = const_cast<msghdr*>(&message);
  for (cmsghdr* c = CMSG_FIRSTHDR(all); c != nullptr; c = CMSG_NXTHDR(all, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const auto* fds = reinterpret_cast<const int*>(CMSG_DATA(c));
    for (size_t i = 0; CMSG_LEN((i + 1) * sizeof(int)) <= c->cmsg_len; ++i) each(fds[i]);
  }
}

void note_received(const msghdr& message) noexcept {
  if (message.msg_controllen == 0 || !tracking()) return;
  Busy busy;
  for_each_passed(message, descriptors::closing);  // whatever the number meant, it is something else now
}

void note_sent(const msghdr& message) noexcept {
  if (message.msg_controllen == 0 || !tracking()) return;
  Busy busy;
  for_each_passed(message, descriptors::shared);
}

bool carries_descriptors(const msghdr& message) noexcept {
  bool any = false;
  if (message.msg_controllen != 0) for_each_passed(message, [&](int) { any = true; });
  return any;
}

// --- receiving ----------------------------------------------------------------------------------------------

long receive_now(int fd, msghdr* message, int flags) noexcept {
  return sys::call(SYS_recvmsg, fd, sys::word(message), (flags & ~MSG_WAITALL) | MSG_DONTWAIT);
}

bool is_stream(int fd, Descriptor& d) noexcept { return descriptors::flow_of(fd, d) != Flow::kMessages; }

// How many bytes a blocking receive waits for.
size_t least_of(int fd, Descriptor* d, size_t size, int flags) noexcept {
  if (d == nullptr) return 1;
  if ((flags & MSG_WAITALL) != 0) return is_stream(fd, *d) ? size : 1;
  const auto low = static_cast<size_t>(d->low_water.load(std::memory_order_relaxed));
  return low <= 1 || !is_stream(fd, *d) ? 1 : low < size ? low : size;
}

// May a read that comes out short park without another system call, next time?
size_t drains_below(int fd, Descriptor* d, size_t size, int flags) noexcept {
  const bool plain = (flags & ~MSG_NOSIGNAL) == 0;
  return plain && d != nullptr && descriptors::flow_of(fd, *d) == Flow::kTcp ? size : 0;
}

// Would the next receive take an error away that belongs to the next call?  After some bytes were moved the kernel
// leaves it there.  (POLLHUP: a stream that failed is over; POLLERR also stands for notes in the error queue.)
bool error_is_next(int fd) noexcept {
  if ((ready_now(fd, 0) & POLLHUP) == 0) return false;
  int unread = 0;
  return sys::call(SYS_ioctl, fd, SIOCINQ, sys::word(&unread)) < 0 || unread == 0;
}

long receive_least(int fd, msghdr* message, int flags, size_t least) {
  const msghdr asked = *message;
  Rest rest(asked.msg_iov, asked.msg_iovlen);
  const auto moved = [&] { return static_cast<long>(rest.moved); };
  const auto aim = [&] {
    *message = asked;
    message->msg_iov = const_cast<iovec*>(rest.parts());
    message->msg_iovlen = rest.count();
  };
  const auto now = [&]() -> long {
    for (;;) {
      if (rest.moved != 0 && error_is_next(fd)) return moved();
      aim();
      const long result = receive_now(fd, message, flags);
      if (result <= 0) return result == 0 ? moved() : result;
      rest.advance(static_cast<size_t>(result));
      if (rest.moved >= least || carries_descriptors(*message)) return moved();
    }
  };
  const auto blocking = [&] {
    aim();
    return kernel_result(real::recvmsg(fd, message, flags));
  };
  ReadyOptions options;
  options.socket_timeouts = true;
  options.moved = &rest.moved;
  const long result = when_ready(fd, Direction::kIn, Reason::kRead, options, now, blocking);
  message->msg_iov = asked.msg_iov;
  message->msg_iovlen = asked.msg_iovlen;
  return result;
}

// MSG_PEEK that waits for more than one byte: looks again from the start when more has come.
long peek_least(int fd, msghdr* message, int flags, size_t least) {
  const msghdr asked = *message;
  size_t peeked = 0;
  const auto now = [&]() -> long {
    *message = asked;
    const long result = receive_now(fd, message, flags);
    if (result < 0) return result;
    peeked = static_cast<size_t>(result);
    return peeked >= least || (ready_now(fd, POLLRDHUP) != 0) ? result : -EAGAIN;
  };
  const auto blocking = [&] {
    *message = asked;
    peeked = 0;
    return kernel_result(real::recvmsg(fd, message, flags));
  };
  ReadyOptions options;
  options.socket_timeouts = true;
  options.moved = &peeked;
  return when_ready(fd, Direction::kIn, Reason::kRead, options, now, blocking);
}

long receive_at_least(int fd, msghdr* message, int flags, size_t least) {
  return (flags & MSG_PEEK) != 0 ? peek_least(fd, message, flags, least) : receive_least(fd, message, flags, least);
}

long receive_at_least(int fd, void* buffer, size_t size, int flags, size_t least, sockaddr* from, socklen_t* length) {
  iovec whole = {buffer, size};
  msghdr message = {};
  message.msg_iov = &whole;
  message.msg_iovlen = 1;
  message.msg_name = from;
  message.msg_namelen = from != nullptr && length != nullptr ? *length : 0;
  const long result = receive_at_least(fd, &message, flags, least);
  if (result >= 0 && from != nullptr && length != nullptr) *length = message.msg_namelen;
  return result;
}

long receive_one_message(int fd, msghdr* message, int flags) {
  if ((flags & kNeverWaits) != 0) {
    cancellation_point();
    return receive_now(fd, message, flags);
  }
  Descriptor* d = descriptors::get(fd);
  const bool stream = d != nullptr && is_stream(fd, *d);
  const size_t size = stream ? Rest(message->msg_iov, message->msg_iovlen).bytes() : 0;
  const size_t least = least_of(fd, d, size, flags);
  if (least > 1) return receive_at_least(fd, message, flags, least);
  ReadyOptions options;
  options.socket_timeouts = true;
  options.drains_below = drains_below(fd, d, size, flags);
  return when_ready(
      fd, Direction::kIn, Reason::kRead, options, [&] { return receive_now(fd, message, flags); },
      [&] { return kernel_result(real::recvmsg(fd, message, flags)); });
}

// recvmmsg: the timeout is looked at after each datagram, and never ends a wait.
long receive_messages(int fd, mmsghdr* messages, unsigned count, int flags, timespec* timeout) {
  if (timeout != nullptr && (timeout->tv_sec < 0 || timeout->tv_nsec < 0 || timeout->tv_nsec >= kSecond))
    return -EINVAL;
  const Deadline end = timeout == nullptr ? Deadline::never() : Deadline::in(to_nanoseconds(*timeout));
  const auto left = [&] { return to_timespec(end.is_never() ? kSecond : end.passed() ? 0 : end.left()); };
  size_t moved = 0;
  const auto now = [&]() -> long {
    timespec limit = left();
    const long result = sys::call(SYS_recvmmsg, fd, sys::word(messages + moved), count - static_cast<unsigned>(moved),
                                  flags | MSG_DONTWAIT, end.is_never() ? 0 : sys::word(&limit));
    if (result <= 0) return result;
    moved += static_cast<size_t>(result);
    const bool enough = moved >= count || (flags & MSG_WAITFORONE) != 0 || end.passed() ||
                        (messages[moved - 1].msg_hdr.msg_flags & MSG_OOB) != 0;
    return enough ? static_cast<long>(moved) : -EAGAIN;
  };
  const auto blocking = [&] {
    return kernel_result(real::recvmmsg(fd, messages + moved, count - static_cast<unsigned>(moved), flags, nullptr));
  };
  ReadyOptions options;
  options.socket_timeouts = true;
  options.moved = &moved;
  const long result = when_ready(fd, Direction::kIn, Reason::kRead, options, now, blocking);
  if (result > 0 && timeout != nullptr) *timeout = left();
  return result;
}

// --- sending ------------------------------------------------------------------------------------------------

// After some bytes were moved the kernel leaves an error, or the news of a closed connection, to the next call.
bool trouble_is_next(int fd, const Descriptor* d) noexcept {
  return d != nullptr && d->troubled.load(std::memory_order_relaxed) && (ready_now(fd, 0) & POLLHUP) != 0;
}

// A first try that says EINPROGRESS started a TCP Fast Open connection; a blocking call waits for it.
bool started_to_connect(int fd, Descriptor* d, long result) noexcept {
  return result == -EINPROGRESS && d != nullptr && !descriptors::is_nonblocking(fd, *d);
}

// From an attempt: EAGAIN is the answer, there is nothing to wait for any more.
constexpr long kTimedOut = -4095;
long final_answer(long result) noexcept { return result == kTimedOut ? -EAGAIN : result; }
long as_final(long result) noexcept { return result == -EAGAIN ? kTimedOut : result; }

// A UNIX socket whose receiver is full: readiness of the sender says nothing about it, so the kernel must wait.
bool waits_for_receiver(int fd, Descriptor* d, const void* to, long result) noexcept {
  return result == -EAGAIN && to != nullptr && static_cast<const sockaddr*>(to)->sa_family == AF_UNIX &&
         d != nullptr && !descriptors::is_nonblocking(fd, *d);
}

// One sendmsg, the whole of it: the rest of `rest` goes out, name and control data with the first part only.
long send_rest(int fd, const msghdr& asked, int flags, Rest& rest) {
  Descriptor* d = descriptors::get(fd);
  msghdr part = asked;
  const auto aim = [&] {
    part.msg_iov = const_cast<iovec*>(rest.parts());
    part.msg_iovlen = rest.count();
  };
  const auto goes_on = [&] {
    part.msg_name = part.msg_control = nullptr;
    part.msg_namelen = 0;
    part.msg_controllen = 0;
    flags = (flags & ~MSG_FASTOPEN) | MSG_NOSIGNAL;
  };
  const auto blocking = [&] {
    aim();
    return kernel_result(real::sendmsg(fd, &part, flags));
  };
  if (rest.moved != 0) goes_on();
  const auto now = [&]() -> long {
    for (;;) {
      if (rest.moved != 0 && trouble_is_next(fd, d)) return static_cast<long>(rest.moved);
      aim();
      const long result =
          may_raise_sigpipe([&] { return sys::call(SYS_sendmsg, fd, sys::word(&part), flags | MSG_DONTWAIT); });
      if (waits_for_receiver(fd, d, part.msg_name, result)) return as_final(blocking());
      if (started_to_connect(fd, d, result)) {
        part.msg_name = nullptr;
        part.msg_namelen = 0;
        flags &= ~MSG_FASTOPEN;
        return -EAGAIN;
      }
      if (result < 0) return result;
      rest.advance(static_cast<size_t>(result));
      if (rest.done() || result == 0) return static_cast<long>(rest.moved);
      goes_on();
      if (rest.begun()) return -EAGAIN;  // it was short: the socket is full
    }
  };
  ReadyOptions options;
  options.socket_timeouts = true;
  options.moved = &rest.moved;
  return final_answer(when_ready(fd, Direction::kOut, Reason::kWrite, options, now, blocking));
}

// sendmmsg on streams, where a message may be cut.
long send_stream_messages(int fd, mmsghdr* messages, unsigned count, int flags) {
  for (unsigned i = 0; i < count; ++i) {
    const long result = send_message(fd, &messages[i].msg_hdr, flags);
    if (result < 0) return i == 0 ? result : i;
    messages[i].msg_len = static_cast<unsigned>(result);
    if (static_cast<size_t>(result) < Rest(messages[i].msg_hdr.msg_iov, messages[i].msg_hdr.msg_iovlen).bytes())
      return i + 1;
  }
  return count;
}

long send_datagrams(int fd, mmsghdr* messages, unsigned count, int flags) {
  size_t moved = 0;
  const auto call = [&](int extra) {
    const unsigned left = count - static_cast<unsigned>(moved);
    return sys::call(SYS_sendmmsg, fd, sys::word(messages + moved), left, flags | extra);
  };
  const auto now = [&]() -> long {
    const long result = call(MSG_DONTWAIT);
    Descriptor* d = descriptors::get(fd);
    if (waits_for_receiver(fd, d, messages[moved].msg_hdr.msg_name, result)) {
      const long rest = call(0);
      return rest < 0 ? as_final(rest) : static_cast<long>(moved) + rest;
    }
    if (result <= 0) return result;
    moved += static_cast<size_t>(result);
    return moved >= count ? static_cast<long>(moved) : -EAGAIN;
  };
  ReadyOptions options;
  options.socket_timeouts = true;
  options.moved = &moved;
  return final_answer(when_ready(fd, Direction::kOut, Reason::kWrite, options, now, [&] { return call(0); }));
}

long send_messages(int fd, mmsghdr* messages, unsigned count, int flags) {
  if (count > IOV_MAX) count = IOV_MAX;  // as the kernel
  for (unsigned i = 0; i < count; ++i) note_sent(messages[i].msg_hdr);
  if ((flags & MSG_DONTWAIT) != 0) {
    cancellation_point();
    return sys::call(SYS_sendmmsg, fd, sys::word(messages), count, flags);
  }
  Descriptor* d = descriptors::get(fd);
  return d != nullptr && is_stream(fd, *d) ? send_stream_messages(fd, messages, count, flags)
                                           : send_datagrams(fd, messages, count, flags);
}

// --- accept -------------------------------------------------------------------------------------------------

// The right to be between readiness and accept on one listener, so that two fibers do not see one connection:
//   C1 0 -> 1: mine                      L1 1 -> 2: somebody else's; he will say when he is done
//   C2 poll, accept                      L2 -EAGAIN: wait for the next edge
//   C3 back to 0; was it 2? pass_on()    (pass_on counts as an edge, so an L2 that comes late does not sleep)
class AcceptTurn {
 public:
  explicit AcceptTurn(Descriptor& d) noexcept : mine(take(d.accepting)), d_(d) {}
  ~AcceptTurn() {
    if (mine && d_.accepting.exchange(0, std::memory_order_acq_rel) == 2) reactor::pass_on(d_);
  }
  AcceptTurn(const AcceptTurn&) = delete;
  AcceptTurn& operator=(const AcceptTurn&) = delete;
  const bool mine;

 private:
  static bool take(std::atomic<uint8_t>& state) noexcept {
    uint8_t seen = 0;
    while (!state.compare_exchange_weak(seen, seen == 0 ? 1 : 2, std::memory_order_acq_rel)) {
    }
    return seen == 0;
  }
  Descriptor& d_;
};

long accept_now(int fd, Descriptor& d, sockaddr* address, socklen_t* length, int flags) {
  Busy busy;
  const auto call = [&] { return sys::call(SYS_accept4, fd, sys::word(address), sys::word(length), flags); };
  const bool wrong = (flags & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) != 0 || !descriptors::is_listening(fd, d);
  if (wrong || descriptors::is_nonblocking(fd, d)) return call();
  const AcceptTurn turn(d);
  return turn.mine && ready_now(fd, POLLIN) != 0 ? call() : -EAGAIN;
}

long accept_on_fiber(int fd, sockaddr* address, socklen_t* length, int flags) {
  Descriptor* d = descriptors::get(fd);
  ReadyOptions options;
  options.socket_timeouts = true;
  options.exclusive = true;
  return when_ready(
      fd, Direction::kIn, Reason::kAccept, options, [&] { return accept_now(fd, *d, address, length, flags); },
      [&] { return kernel_result(real::accept4(fd, address, length, flags)); });
}

void note_accepted(int listener, int fd, int flags) noexcept {
  if (fd < 0 || !tracking()) return;
  Busy busy;
  descriptors::accepted(listener, fd, (flags & SOCK_NONBLOCK) != 0);
}

// --- connect ------------------------------------------------------------------------------------------------

// Only a socket that nobody else can have may get O_NONBLOCK for a moment; and only TCP, of the blocking kinds,
// reports the end of a connect as readiness.
bool may_open_window(int fd, Descriptor* d, const sockaddr* address, socklen_t length) noexcept {
  return d != nullptr && address != nullptr && length >= sizeof address->sa_family &&
         (address->sa_family == AF_INET || address->sa_family == AF_INET6) &&
         d->exclusive.load(std::memory_order_acquire) && descriptors::flow_of(fd, *d) == Flow::kTcp &&
         !descriptors::is_nonblocking(fd, *d);
}

void enter_window(Descriptor& d) noexcept {
  for (;;) {
    uint32_t count = d.windows.load(std::memory_order_relaxed);
    if ((count & 1) == 0 && d.windows.compare_exchange_strong(count, count + 1, std::memory_order_acq_rel)) return;
    sys::yield();
  }
}

long connect_in_window(int fd, Descriptor& d, const sockaddr* address, socklen_t length) noexcept {
  Busy busy;
  const auto set_nonblocking = [&](int on) { sys::call(SYS_ioctl, fd, FIONBIO, sys::word(&on)); };
  enter_window(d);
  set_nonblocking(1);
  const long result = sys::call(SYS_connect, fd, sys::word(address), length);
  set_nonblocking(0);
  d.windows.fetch_add(1, std::memory_order_release);
  return result;
}

// Once the connection is made or refused, connect() says so, and does not wait.
long connect_on_fiber(int fd, const sockaddr* address, socklen_t length) {
  const auto blocking = [&] { return kernel_result(real::connect(fd, address, length)); };
  Descriptor* d = descriptors::get(fd);
  if (!may_open_window(fd, d, address, length)) return blocking();
  long pending = 0;  // EINPROGRESS or EALREADY: what a call says that runs out of time
  const auto now = [&]() -> long {
    if (pending != 0 && ready_now(fd, POLLOUT) == 0) return -EAGAIN;
    const long result = pending == 0 ? connect_in_window(fd, *d, address, length)
                                     : sys::call(SYS_connect, fd, sys::word(address), length);
    if (result != -EINPROGRESS && result != -EALREADY) return result;
    pending = result;
    return -EAGAIN;
  };
  ReadyOptions options;
  options.socket_timeouts = true;
  const long result = when_ready(fd, Direction::kOut, Reason::kConnect, options, now, blocking);
  return result == -EAGAIN && pending != 0 ? pending : result;
}

// --- options ------------------------------------------------------------------------------------------------

constexpr int kReceiveTimeouts[] = {20, 66};  // SO_RCVTIMEO_OLD, SO_RCVTIMEO_NEW; SO_SNDTIMEO is one more each

bool is_timeout(int option) noexcept {
  for (const int number : kReceiveTimeouts)
    if (option == number || option == number + 1) return true;
  return false;
}

void note_option(int fd, int level, int option) noexcept {
  Descriptor* d = descriptors::get(fd);
  if (d == nullptr) return;
  Busy busy;
  if (level == SOL_SOCKET && is_timeout(option)) descriptors::timeouts_changed(fd);
  if (level == SOL_SOCKET && option == SO_RCVLOWAT) {
    int low = 1;
    socklen_t size = sizeof low;
    sys::call(SYS_getsockopt, fd, SOL_SOCKET, SO_RCVLOWAT, sys::word(&low), sys::word(&size));
    d->low_water.store(low, std::memory_order_relaxed);
  }
  if (level == IPPROTO_TCP && option == TCP_ULP) d->flow.store(Flow::kStream, std::memory_order_relaxed);
}

}  // namespace

// --- socket_call.h ------------------------------------------------------------------------------------------

long receive(int fd, void* buffer, size_t size, int flags, sockaddr* from, socklen_t* length) {
  const auto now = [&] {
    return sys::call(SYS_recvfrom, fd, sys::word(buffer), static_cast<long>(size), flags | MSG_DONTWAIT,
                     sys::word(from), sys::word(length));
  };
  if ((flags & kNeverWaits) != 0) {
    cancellation_point();
    return now();
  }
  Descriptor* d = descriptors::get(fd);
  const size_t least = least_of(fd, d, size, flags);
  if (least > 1) return receive_at_least(fd, buffer, size, flags, least, from, length);
  ReadyOptions options;
  options.socket_timeouts = true;
  options.drains_below = drains_below(fd, d, size, flags);
  return when_ready(fd, Direction::kIn, Reason::kRead, options, now,
                    [&] { return kernel_result(real::recvfrom(fd, buffer, size, flags, from, length)); });
}

long receive_message(int fd, msghdr* message, int flags) {
  const long result = receive_one_message(fd, message, flags);
  if (result >= 0) note_received(*message);
  return result;
}

// Nearly always there is room for all of it: that way is kept short.
long send_bytes(int fd, const void* data, size_t size, int flags, const sockaddr* to, socklen_t length) {
  cancellation_point();
  long result = -EAGAIN;
  if ((flags & MSG_FASTOPEN) == 0)
    result = may_raise_sigpipe([&] {
      return sys::call(SYS_sendto, fd, sys::word(data), static_cast<long>(size), flags | MSG_DONTWAIT, sys::word(to),
                       length);
    });
  if ((flags & MSG_DONTWAIT) != 0 || result == static_cast<long>(size)) return result;
  if (result < 0 && result != -EAGAIN && result != -EINPROGRESS) return result;
  iovec whole = {const_cast<void*>(data), size};
  msghdr message = {};
  message.msg_name = const_cast<sockaddr*>(to);
  message.msg_namelen = to != nullptr ? length : 0;
  message.msg_iov = &whole;
  message.msg_iovlen = 1;
  Rest rest(&whole, 1);
  if (result > 0) rest.advance(static_cast<size_t>(result));
  return send_rest(fd, message, flags, rest);
}

long send_message(int fd, const msghdr* message, int flags) {
  note_sent(*message);
  if ((flags & MSG_DONTWAIT) != 0) {
    cancellation_point();
    return may_raise_sigpipe([&] { return sys::call(SYS_sendmsg, fd, sys::word(message), flags); });
  }
  Rest rest(message->msg_iov, message->msg_iovlen);
  return send_rest(fd, *message, flags, rest);
}

}  // namespace weft

// --- hooks --------------------------------------------------------------------------------------------------

WEFT_HOOK int socket(int family, int type, int protocol) noexcept {
  const int fd = real::socket(family, type, protocol);
  if (fd >= 0 && tracking()) {
    Busy busy;
    descriptors::born_socket(fd, family, type, protocol);
  }
  return fd;
}

WEFT_HOOK int socketpair(int family, int type, int protocol, int* ends) noexcept {
  const int result = real::socketpair(family, type, protocol, ends);
  if (result == 0 && tracking()) {
    Busy busy;
    for (int i = 0; i < 2; ++i) descriptors::born_socket(ends[i], family, type, protocol);
  }
  return result;
}

WEFT_HOOK int accept4(int fd, sockaddr* address, socklen_t* length, int flags) {
  const int result = on_fiber() ? static_cast<int>(minus_one(accept_on_fiber(fd, address, length, flags)))
                                : real::accept4(fd, address, length, flags);
  note_accepted(fd, result, flags);
  return result;
}
WEFT_HOOK int accept(int fd, sockaddr* address, socklen_t* length) { return accept4(fd, address, length, 0); }

WEFT_HOOK int connect(int fd, const sockaddr* address, socklen_t length) {
  return on_fiber() ? static_cast<int>(minus_one(connect_on_fiber(fd, address, length)))
                    : real::connect(fd, address, length);
}
WEFT_ALIAS(__connect, connect);

WEFT_HOOK ssize_t recv(int fd, void* buffer, size_t size, int flags) {
  return on_fiber() ? minus_one(receive(fd, buffer, size, flags, nullptr, nullptr))
                    : real::recv(fd, buffer, size, flags);
}

WEFT_HOOK ssize_t __recv_chk(int fd, void* buffer, size_t size, size_t room, int flags) {
  return !on_fiber() || size > room ? real::__recv_chk(fd, buffer, size, room, flags) : recv(fd, buffer, size, flags);
}

WEFT_HOOK ssize_t recvfrom(int fd, void* buffer, size_t size, int flags, sockaddr* from, socklen_t* length) {
  return on_fiber() ? minus_one(receive(fd, buffer, size, flags, from, length))
                    : real::recvfrom(fd, buffer, size, flags, from, length);
}

WEFT_HOOK ssize_t __recvfrom_chk(int fd, void* buffer, size_t size, size_t room, int flags, sockaddr* from,
                                 socklen_t* length) {
  return !on_fiber() || size > room ? real::__recvfrom_chk(fd, buffer, size, room, flags, from, length)
                                    : recvfrom(fd, buffer, size, flags, from, length);
}

WEFT_HOOK ssize_t recvmsg(int fd, msghdr* message, int flags) {
  return on_fiber() && message != nullptr ? minus_one(receive_message(fd, message, flags))
                                          : real::recvmsg(fd, message, flags);
}

WEFT_HOOK int recvmmsg(int fd, mmsghdr* messages, unsigned count, int flags, timespec* timeout) {
  if (!on_fiber() || messages == nullptr) return real::recvmmsg(fd, messages, count, flags, timeout);
  const long result = (flags & kNeverWaits) != 0 ? kernel_result(real::recvmmsg(fd, messages, count, flags, timeout))
                                                 : receive_messages(fd, messages, count, flags, timeout);
  for (long i = 0; i < result; ++i) note_received(messages[i].msg_hdr);
  return static_cast<int>(minus_one(result));
}

WEFT_HOOK ssize_t send(int fd, const void* data, size_t size, int flags) {
  return on_fiber() ? minus_one(send_bytes(fd, data, size, flags, nullptr, 0)) : real::send(fd, data, size, flags);
}
WEFT_ALIAS(__send, send);

WEFT_HOOK ssize_t sendto(int fd, const void* data, size_t size, int flags, const sockaddr* to, socklen_t length) {
  return on_fiber() ? minus_one(send_bytes(fd, data, size, flags, to, length))
                    : real::sendto(fd, data, size, flags, to, length);
}

WEFT_HOOK ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  return on_fiber() && message != nullptr ? minus_one(send_message(fd, message, flags))
                                          : real::sendmsg(fd, message, flags);
}

WEFT_HOOK int sendmmsg(int fd, mmsghdr* messages, unsigned count, int flags) {
  return on_fiber() && messages != nullptr ? static_cast<int>(minus_one(send_messages(fd, messages, count, flags)))
                                           : real::sendmmsg(fd, messages, count, flags);
}

WEFT_HOOK int setsockopt(int fd, int level, int option, const void* value, socklen_t size) noexcept {
  const int result = real::setsockopt(fd, level, option, value, size);
  if (result == 0 && tracking()) note_option(fd, level, option);
  return result;
}
