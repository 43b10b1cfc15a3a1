// file.cc - read and write on anything, and the life of descriptor numbers.
//
// Owns:        the choice of how to try without blocking, by kind of file: sockets receive and send, pipes and what
//              else supports it say RWF_NOWAIT, the rest is asked for readiness first and then called for real.
// Keeps true:  a write to a blocking pipe moves all its bytes, and at most PIPE_BUF of them as one; O_NONBLOCK is never
//              set here.  The table of descriptors hears of every number before it changes its meaning; weft's own
//              numbers look closed.
// Limits:      what two readers of one tty or eventfd both see ready may block one of them: handoff.
// Called by:   the program.  See also: socket.cc, runtime/fd_table.h.
#include <limits.h>
#include <linux/fs.h>
#include <sys/file.h>

#include <cstdarg>

#include "hook/descriptor_call.h"
#include "hook/shape.h"
#include "hook/socket_call.h"
#include "runtime/carrier.h"

using namespace weft;

long weft::keeping_sigpipe(long (*call)(void*), void* argument) noexcept {
  const uint64_t sigpipe = 1ULL << (SIGPIPE - 1);
  const timespec now = {0, 0};
  uint64_t mask;
  sys::sigprocmask(SIG_BLOCK, &sigpipe, &mask);
  const long result = call(argument);
  const auto take = [&] { return sys::call(SYS_rt_sigtimedwait, sys::word(&sigpipe), 0, sys::word(&now), sizeof mask); };
  const bool raised = result == -EPIPE && take() == SIGPIPE;
  sys::sigprocmask(SIG_SETMASK, &mask, nullptr);
  if (raised) signals::send_to(self.fiber, SIGPIPE, nullptr);  // pending, for when it unblocks it or waits for it
  return result;
}

namespace {

// --- reading and writing on a fiber -------------------------------------------------------------------------

// A call with RWF_NOWAIT; -EOPNOTSUPP, and never again, where the file does not know it.
long nowait(Direction direction, int fd, Descriptor& d, const iovec* parts, size_t count) noexcept {
  std::atomic<bool>& refuses = d.refuses_nowait[static_cast<size_t>(direction)];
  if (refuses.load(std::memory_order_relaxed)) return -EOPNOTSUPP;
  const auto call = [&](long number) {
    return sys::call(number, fd, sys::word(parts), static_cast<long>(count), -1, 0, RWF_NOWAIT);
  };
  const long result =
      direction == Direction::kIn ? call(SYS_preadv2) : may_raise_sigpipe([&] { return call(SYS_pwritev2); });
  if (result == -EOPNOTSUPP) refuses.store(true, std::memory_order_relaxed);
  return result;
}

template <class Real>
long read_pollable(int fd, Descriptor& d, const iovec* parts, size_t count, Real& call) {
  const auto blocking = [&] { return kernel_result(call()); };
  const auto now = [&] {
    const long result = nowait(Direction::kIn, fd, d, parts, count);
    if (result != -EOPNOTSUPP) return result;
    return ready_now(fd, POLLIN) != 0 ? blocking() : -EAGAIN;
  };
  return when_ready(fd, Direction::kIn, Reason::kRead, {}, now, blocking);
}

// To a pipe that has room, without RWF_NOWAIT: PIPE_BUF bytes fit for sure.
long write_some(int fd, const Rest& rest) noexcept {
  if (ready_now(fd, POLLOUT) == 0) return -EAGAIN;
  const iovec head = rest.head(PIPE_BUF);
  const bool all = rest.bytes() <= PIPE_BUF;
  const iovec* parts = all ? rest.parts() : &head;
  const long count = all ? static_cast<long>(rest.count()) : 1;
  return may_raise_sigpipe([&] { return sys::call(SYS_writev, fd, sys::word(parts), count); });
}

template <class Real>
long write_pipe(int fd, Descriptor& d, const iovec* parts, size_t count, Real& call) {
  Rest rest(parts, count);
  const auto now = [&]() -> long {
    for (;;) {
      long result = nowait(Direction::kOut, fd, d, rest.parts(), rest.count());
      const bool refused = result == -EOPNOTSUPP;
      if (refused) result = write_some(fd, rest);
      if (result <= 0) return result;
      rest.advance(static_cast<size_t>(result));
      if (rest.done()) return static_cast<long>(rest.moved);
      if (rest.begun() && !refused) return -EAGAIN;  // it was short: the pipe is full
    }
  };
  const auto blocking = [&] {
    return rest.moved == 0 ? kernel_result(call())
                           : sys::call(SYS_writev, fd, sys::word(rest.parts()), static_cast<long>(rest.count()));
  };
  ReadyOptions options;
  options.moved = &rest.moved;
  return when_ready(fd, Direction::kOut, Reason::kWrite, options, now, blocking);
}

template <class Real>
long write_other(int fd, Descriptor& d, const iovec* parts, size_t count, Real& call) {
  const auto blocking = [&] { return kernel_result(call()); };
  const auto now = [&] {
    const long result = nowait(Direction::kOut, fd, d, parts, count);
    if (result != -EOPNOTSUPP) return result;
    return ready_now(fd, POLLOUT) != 0 ? blocking() : -EAGAIN;
  };
  return when_ready(fd, Direction::kOut, Reason::kWrite, {}, now, blocking);
}

msghdr message_of(const iovec* parts, size_t count) noexcept {
  msghdr message = {};
  message.msg_iov = const_cast<iovec*>(parts);
  message.msg_iovlen = count;
  return message;
}

long read_socket(int fd, const iovec* parts, size_t count) {
  if (count == 1) return parts->iov_len == 0 ? 0 : receive(fd, parts->iov_base, parts->iov_len, 0, nullptr, nullptr);
  if (Rest(parts, count).bytes() == 0) return 0;
  msghdr message = message_of(parts, count);
  return receive_message(fd, &message, 0);
}

long write_socket(int fd, const iovec* parts, size_t count) {
  if (count == 1) return send_bytes(fd, parts->iov_base, parts->iov_len, 0, nullptr, 0);
  const msghdr message = message_of(parts, count);
  return send_message(fd, &message, 0);
}

// The number was a socket when weft last looked.
void forget(int fd) noexcept {
  Busy busy;
  descriptors::closing(fd);
}

// call(): libc's own, for what cannot block or cannot be tried.
template <class Real>
long read_any(int fd, const iovec* parts, size_t count, Real call) {
  Descriptor* d = descriptors::get(fd);
  switch (d != nullptr ? descriptors::kind_of(fd, *d) : Kind::kUnknown) {
    case Kind::kSocket: {
      const long result = read_socket(fd, parts, count);
      if (result != -ENOTSOCK) return result;
      forget(fd);
      break;
    }
    case Kind::kPipe:
    case Kind::kOther:
      return read_pollable(fd, *d, parts, count, call);
    default:
      break;
  }
  return kernel_result(call());
}

template <class Real>
long write_any(int fd, const iovec* parts, size_t count, Real call) {
  Descriptor* d = descriptors::get(fd);
  switch (d != nullptr ? descriptors::kind_of(fd, *d) : Kind::kUnknown) {
    case Kind::kSocket: {
      const long result = write_socket(fd, parts, count);
      if (result != -ENOTSOCK) return result;
      forget(fd);
      break;
    }
    case Kind::kPipe:
      return write_pipe(fd, *d, parts, count, call);
    case Kind::kOther:
      return write_other(fd, *d, parts, count, call);
    default:
      break;
  }
  return kernel_result(call());
}

// Arrays that the kernel refuses anyhow are not looked at here.
bool is_array(int count) noexcept { return count > 0 && count <= IOV_MAX; }

// --- numbers ------------------------------------------------------------------------------------------------

// weft's own numbers look closed.  True: answer EBADF.
bool refused(int fd) noexcept {
  if (!tracking() || !descriptors::is_hidden(fd)) return false;
  errno = EBADF;
  return true;
}

void note_closing(int fd) noexcept {
  if (!tracking()) return;
  Busy busy;
  descriptors::closing(fd);
}

void note_duplicate(int from, int to) noexcept {
  if (to < 0 || !tracking()) return;
  Busy busy;
  descriptors::duplicated(from, to);
}

// Before `to` becomes a copy of `from`.  Nothing happens to it when that will fail.
void note_replacing(int from, int to) noexcept {
  if (from == to || !tracking() || sys::fcntl(from, F_GETFD) < 0) return;
  Busy busy;
  if (descriptors::is_hidden(to)) reactor::relocate(to);
  descriptors::closing(to);
}

void note_pipe(int result, const int* ends, int flags) noexcept {
  if (result != 0 || !tracking()) return;
  Busy busy;
  for (int i = 0; i < 2; ++i) descriptors::born(ends[i], Kind::kPipe, (flags & O_NONBLOCK) != 0, true);
}

// A connect that has O_NONBLOCK set for a moment (socket.cc) comes first.
void await_window(int fd) noexcept {
  const Descriptor* d = tracking() ? descriptors::find(fd) : nullptr;
  while (d != nullptr && (d->windows.load(std::memory_order_acquire) & 1) != 0) sys::yield();
}

void note_nonblocking(int result, int fd, bool nonblocking) noexcept {
  if (result == -1 || !tracking()) return;
  Busy busy;
  descriptors::set_nonblocking(fd, nonblocking);
}

// The flags as the program set them, whatever a window shows.
int get_flags(int fd) noexcept {
  const Descriptor* d = tracking() ? descriptors::find(fd) : nullptr;
  if (d == nullptr) return real::fcntl(fd, F_GETFL);
  const uint32_t before = d->windows.load(std::memory_order_acquire);
  const int flags = real::fcntl(fd, F_GETFL);
  const bool window = (before & 1) != 0 || d->windows.load(std::memory_order_acquire) != before;
  return window && flags >= 0 ? flags & ~O_NONBLOCK : flags;
}

int set_flags(int fd, long flags) noexcept {
  await_window(fd);
  const int result = real::fcntl(fd, F_SETFL, flags);
  note_nonblocking(result, fd, (flags & O_NONBLOCK) != 0);
  return result;
}

// The kernel's wait, without the worker; only if there is one.
int lock_range(int fd, int command, long argument) {
  if (on_fiber()) {
    const int saved = errno;
    cancellation_point();
    if (real::fcntl(fd, command == F_SETLKW ? F_SETLK : F_OFD_SETLK, argument) == 0) return 0;
    errno = saved;
    about_to_block();
  }
  return real::fcntl(fd, command, argument);
}

int control(int fd, int command, long argument) {
  if (refused(fd)) return -1;
  switch (command) {
    case F_DUPFD:
    case F_DUPFD_CLOEXEC: {
      const int copy = real::fcntl(fd, command, argument);
      note_duplicate(fd, copy);
      return copy;
    }
    case F_GETFL:
      return get_flags(fd);
    case F_SETFL:
      return set_flags(fd, argument);
    case F_SETLKW:
    case F_OFD_SETLKW:
      return lock_range(fd, command, argument);
    default:
      return real::fcntl(fd, command, argument);
  }
}

int close_between(unsigned first, unsigned last, int flags) noexcept {
  if (first > last) return 0;
  {
    Busy busy;
    descriptors::closing_range(first, last);
  }
  return real::close_range(first, last, flags);
}

// All but weft's own.
int close_all(unsigned first, unsigned last, int flags) noexcept {
  while (first <= last && first <= INT_MAX) {
    const int hidden = descriptors::next_hidden(static_cast<int>(first));
    if (hidden < 0 || static_cast<unsigned>(hidden) > last) break;
    if (const int result = close_between(first, static_cast<unsigned>(hidden) - 1, flags); result != 0) return result;
    first = static_cast<unsigned>(hidden) + 1;
  }
  return close_between(first, last, flags);
}

}  // namespace

WEFT_HOOK ssize_t read(int fd, void* buffer, size_t size) {
  if (!on_fiber()) return real::read(fd, buffer, size);
  const iovec whole = {buffer, size};
  return minus_one(read_any(fd, &whole, 1, [&] { return real::read(fd, buffer, size); }));
}
WEFT_ALIAS(__read, read);

WEFT_HOOK ssize_t __read_chk(int fd, void* buffer, size_t size, size_t room) {
  return !on_fiber() || size > room ? real::__read_chk(fd, buffer, size, room) : read(fd, buffer, size);
}

WEFT_HOOK ssize_t write(int fd, const void* data, size_t size) {
  if (!on_fiber()) return real::write(fd, data, size);
  const iovec whole = {const_cast<void*>(data), size};
  return minus_one(write_any(fd, &whole, 1, [&] { return real::write(fd, data, size); }));
}
WEFT_ALIAS(__write, write);

WEFT_HOOK ssize_t readv(int fd, const iovec* parts, int count) {
  if (!on_fiber() || !is_array(count)) return real::readv(fd, parts, count);
  return minus_one(read_any(fd, parts, static_cast<size_t>(count), [&] { return real::readv(fd, parts, count); }));
}

WEFT_HOOK ssize_t writev(int fd, const iovec* parts, int count) {
  if (!on_fiber() || !is_array(count)) return real::writev(fd, parts, count);
  return minus_one(write_any(fd, parts, static_cast<size_t>(count), [&] { return real::writev(fd, parts, count); }));
}

WEFT_HOOK int eventfd_read(int fd, eventfd_t* value) {
  return read(fd, value, sizeof *value) == static_cast<ssize_t>(sizeof *value) ? 0 : -1;
}
WEFT_HOOK int eventfd_write(int fd, eventfd_t value) {
  return write(fd, &value, sizeof value) == static_cast<ssize_t>(sizeof value) ? 0 : -1;
}

WEFT_HOOK int close(int fd) {
  if (refused(fd)) return -1;
  note_closing(fd);
  return real::close(fd);
}
WEFT_ALIAS(__close, close);

WEFT_HOOK int fclose(FILE* file) {
  if (tracking() && file != nullptr) {
    const int saved = errno;
    const int fd = fileno(file);
    errno = saved;
    note_closing(fd);
  }
  return real::fclose(file);
}

WEFT_HOOK int close_range(unsigned first, unsigned last, int flags) noexcept {
  if (!tracking() || first > last || (flags & CLOSE_RANGE_CLOEXEC) != 0) return real::close_range(first, last, flags);
  return close_all(first, last, flags);
}

WEFT_HOOK void closefrom(int first) noexcept {
  if (!tracking()) return real::closefrom(first);
  close_all(first < 0 ? 0 : static_cast<unsigned>(first), ~0u, 0);
}

WEFT_HOOK int dup(int fd) noexcept {
  if (refused(fd)) return -1;
  const int copy = real::dup(fd);
  note_duplicate(fd, copy);
  return copy;
}

WEFT_HOOK int dup2(int from, int to) noexcept {
  if (refused(from)) return -1;
  note_replacing(from, to);
  const int copy = real::dup2(from, to);
  if (from != to) note_duplicate(from, copy);
  return copy;
}
WEFT_ALIAS(__dup2, dup2);

WEFT_HOOK int dup3(int from, int to, int flags) noexcept {
  if (refused(from)) return -1;
  note_replacing(from, to);
  const int copy = real::dup3(from, to, flags);
  note_duplicate(from, copy);
  return copy;
}

WEFT_HOOK int fcntl(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  const long argument = va_arg(arguments, long);
  va_end(arguments);
  return control(fd, command, argument);
}
WEFT_ALIAS(fcntl64, fcntl);
WEFT_ALIAS(__fcntl, fcntl);

WEFT_HOOK int flock(int fd, int operation) noexcept {
  if (on_fiber() && (operation & LOCK_NB) == 0 && (operation & LOCK_UN) == 0) {
    const int saved = errno;
    if (real::flock(fd, operation | LOCK_NB) == 0) return 0;
    errno = saved;
    about_to_block();
  }
  return real::flock(fd, operation);
}

WEFT_HOOK int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list arguments;
  va_start(arguments, request);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  if (request != FIONBIO) return real::ioctl(fd, request, argument);
  await_window(fd);
  const int result = real::ioctl(fd, request, argument);
  note_nonblocking(result, fd, result != -1 && *static_cast<const int*>(argument) != 0);
  return result;
}

WEFT_HOOK int pipe(int* ends) noexcept {
  const int result = real::pipe(ends);
  note_pipe(result, ends, 0);
  return result;
}
WEFT_ALIAS(__pipe, pipe);

WEFT_HOOK int pipe2(int* ends, int flags) noexcept {
  const int result = real::pipe2(ends, flags);
  note_pipe(result, ends, flags);
  return result;
}
