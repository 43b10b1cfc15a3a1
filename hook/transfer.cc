// transfer.cc - calls that move data in other ways than read and write: between two descriptors, with flags, as messages
// of a queue.
//
// Owns:        how each tries without blocking: splice, tee and vmsplice by SPLICE_F_NONBLOCK, POSIX message queues by a
//              timeout that has passed, sendfile to something that may fill up by reading and writing.
// Keeps true:  O_NONBLOCK of the program is honoured; sendfile moves the position of its input by what arrived.
// Limits:      splice to a socket with some room, but not enough: handoff.
// Called by:   the program.  See also: file.cc.
#include <fcntl.h>
#include <limits.h>
#include <mqueue.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include "hook/descriptor_call.h"
#include "hook/object_wait.h"
#include "hook/shape.h"

using namespace weft;

namespace {

// Waits until the descriptor is ready.  0, or what ended the wait.
long await(int fd, Direction direction, Reason reason) {
  const short event = direction == Direction::kIn ? POLLIN : POLLOUT;
  return when_ready(fd, direction, reason, {}, [&] { return ready_now(fd, event) != 0 ? 0L : -EAGAIN; }, [] { return 0L; });
}

// attempt() says EAGAIN while `in` is empty or `out` is full.  -1: there is no such end.
template <class Attempt>
long between(int in, int out, Attempt attempt) {
  cancellation_point();
  for (;;) {
    const bool is_empty = in >= 0 && ready_now(in, POLLIN) == 0;
    const bool is_full = out >= 0 && ready_now(out, POLLOUT) == 0;
    if (!is_empty && !is_full)
      if (const long result = attempt(); result != -EAGAIN) return result;
    // Ready and yet EAGAIN: a pipe whose free slots are all begun; its next change says more.
    const long waited = is_empty || (!is_full && out < 0) ? await(in, Direction::kIn, Reason::kRead) : await(out >= 0 ? out : in, out >= 0 ? Direction::kOut : Direction::kIn, Reason::kWrite);
    if (waited < 0) return waited;
    if (!is_empty && !is_full) {
      Busy busy;
      yield_fiber();
    }
  }
}

bool is_nonblocking(int fd) noexcept {
  Descriptor* d = descriptors::get(fd);
  Busy busy;
  return d != nullptr && descriptors::is_nonblocking(fd, *d);
}

bool may_fill_up(int fd) noexcept {
  Descriptor* d = descriptors::get(fd);
  if (d == nullptr) return false;
  const Kind kind = descriptors::kind_of(fd, *d);
  return (kind == Kind::kSocket || kind == Kind::kPipe) && !is_nonblocking(fd);
}

bool is_file(int fd) noexcept {
  Descriptor* d = descriptors::get(fd);
  return d != nullptr && descriptors::kind_of(fd, *d) == Kind::kFile;
}

// As the kernel: what was written before an error is the answer, and the error waits for the next call.
long send_file(int out, int in, off_t* offset, size_t count) {
  constexpr size_t kPiece = 16 * 1024;
  char piece[kPiece];
  const off_t start = offset != nullptr ? *offset : lseek(in, 0, SEEK_CUR);
  if (start < 0) return -EINVAL;
  size_t moved = 0;
  long result = 0;
  while (moved < count) {
    const size_t wanted = count - moved < kPiece ? count - moved : kPiece;
    const long got = sys::call(SYS_pread64, in, sys::word(piece), static_cast<long>(wanted), start + static_cast<off_t>(moved));
    if (got <= 0) {
      result = got;
      break;
    }
    result = kernel_result(::write(out, piece, static_cast<size_t>(got)));
    if (result < 0) break;
    moved += static_cast<size_t>(result);
    if (result < got) break;
  }
  if (moved == 0 && result < 0) return result;
  if (offset != nullptr)
    *offset = start + static_cast<off_t>(moved);
  else
    lseek(in, start + static_cast<off_t>(moved), SEEK_SET);
  return static_cast<long>(moved);
}

// --- message queues -----------------------------------------------------------------------------------------

// call(timeout) is the kernel's call; with a time that has passed it never waits.
template <class Call>
long with_queue(mqd_t queue, Direction direction, const timespec* until, Call call) {
  constexpr timespec kPassed = {0, 0};
  constexpr long kNonblocking = -4095;  // EAGAIN of a queue with O_NONBLOCK is the answer
  if (until != nullptr && (until->tv_sec < 0 || !is_valid(*until))) return call(until);
  const auto now = [&] {
    const long result = call(&kPassed);
    return result == -ETIMEDOUT ? -EAGAIN : result == -EAGAIN ? kNonblocking : result;
  };
  ReadyOptions options;
  options.nonblocking_counts = false;
  options.timeout_error = ETIMEDOUT;
  if (until != nullptr) options.deadline = Deadline::at(CLOCK_REALTIME, *until);
  const long result = when_ready(static_cast<int>(queue), direction, direction == Direction::kIn ? Reason::kRead : Reason::kWrite, options, now, [&] { return call(until); });
  return result == kNonblocking ? -EAGAIN : result;
}

long receive_message(mqd_t queue, char* text, size_t size, unsigned* priority, const timespec* until) {
  return with_queue(queue, Direction::kIn, until, [&](const timespec* t) {
    return sys::call(SYS_mq_timedreceive, queue, sys::word(text), static_cast<long>(size), sys::word(priority), sys::word(t));
  });
}

long send_message(mqd_t queue, const char* text, size_t size, unsigned priority, const timespec* until) {
  return with_queue(queue, Direction::kOut, until, [&](const timespec* t) {
    return sys::call(SYS_mq_timedsend, queue, sys::word(text), static_cast<long>(size), priority, sys::word(t));
  });
}

}  // namespace

WEFT_HOOK ssize_t splice(int in, off64_t* in_offset, int out, off64_t* out_offset, size_t size, unsigned flags) {
  if (!on_fiber() || (flags & SPLICE_F_NONBLOCK) != 0) return real::splice(in, in_offset, out, out_offset, size, flags);
  return minus_one(between(is_file(in) ? -1 : in, is_file(out) ? -1 : out, [&] {
    return kernel_result(real::splice(in, in_offset, out, out_offset, size, flags | SPLICE_F_NONBLOCK));
  }));
}

WEFT_HOOK ssize_t tee(int in, int out, size_t size, unsigned flags) {
  if (!on_fiber() || (flags & SPLICE_F_NONBLOCK) != 0) return real::tee(in, out, size, flags);
  return minus_one(between(in, out, [&] { return kernel_result(real::tee(in, out, size, flags | SPLICE_F_NONBLOCK)); }));
}

WEFT_HOOK ssize_t vmsplice(int fd, const iovec* parts, size_t count, unsigned flags) {
  if (!on_fiber() || (flags & SPLICE_F_NONBLOCK) != 0) return real::vmsplice(fd, parts, count, flags);
  const int mode = sys::fcntl(fd, F_GETFL);
  const bool writes = mode >= 0 && (mode & O_ACCMODE) != O_RDONLY;
  return minus_one(between(writes ? -1 : fd, writes ? fd : -1, [&] {
    return kernel_result(real::vmsplice(fd, parts, count, flags | SPLICE_F_NONBLOCK));
  }));
}

WEFT_HOOK ssize_t sendfile(int out, int in, off_t* offset, size_t count) noexcept {
  if (!on_fiber() || !may_fill_up(out) || !is_file(in)) return real::sendfile(out, in, offset, count);
  int state;
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);  // no cancellation point, but write() is one
  const long result = send_file(out, in, offset, count);
  pthread_setcancelstate(state, nullptr);
  return minus_one(result);
}
WEFT_ALIAS(sendfile64, sendfile);

WEFT_HOOK ssize_t preadv2(int fd, const iovec* parts, int count, off_t offset, int flags) {
  return on_fiber() && offset == -1 && flags == 0 ? ::readv(fd, parts, count) : real::preadv2(fd, parts, count, offset, flags);
}
WEFT_ALIAS(preadv64v2, preadv2);
WEFT_HOOK ssize_t pwritev2(int fd, const iovec* parts, int count, off_t offset, int flags) {
  return on_fiber() && offset == -1 && flags == 0 ? ::writev(fd, parts, count) : real::pwritev2(fd, parts, count, offset, flags);
}
WEFT_ALIAS(pwritev64v2, pwritev2);

WEFT_HOOK ssize_t mq_timedreceive(mqd_t queue, char* text, size_t size, unsigned* priority, const timespec* until) {
  if (!on_fiber()) return real::mq_timedreceive(queue, text, size, priority, until);
  return minus_one(receive_message(queue, text, size, priority, until));
}
WEFT_HOOK ssize_t mq_receive(mqd_t queue, char* text, size_t size, unsigned* priority) {
  return on_fiber() ? minus_one(receive_message(queue, text, size, priority, nullptr)) : real::mq_receive(queue, text, size, priority);
}
WEFT_HOOK int mq_timedsend(mqd_t queue, const char* text, size_t size, unsigned priority, const timespec* until) {
  if (!on_fiber()) return real::mq_timedsend(queue, text, size, priority, until);
  return static_cast<int>(minus_one(send_message(queue, text, size, priority, until)));
}
WEFT_HOOK int mq_send(mqd_t queue, const char* text, size_t size, unsigned priority) {
  if (!on_fiber()) return real::mq_send(queue, text, size, priority);
  return static_cast<int>(minus_one(send_message(queue, text, size, priority, nullptr)));
}
WEFT_HOOK int mq_close(mqd_t queue) noexcept {
  if (tracking()) {
    Busy busy;
    descriptors::closing(static_cast<int>(queue));
  }
  return real::mq_close(queue);
}
