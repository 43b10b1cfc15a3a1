// fd_table.cc - see fd_table.h.
#include "runtime/fd_table.h"

#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>

#include <cerrno>
#include <cstring>

#include "runtime/base/sys.h"
#include "runtime/fiber.h"
#include "runtime/reactor.h"

namespace weft::descriptors {
namespace {

constexpr int kChunk = 1024;
constexpr int kChunks = 4096;

std::atomic<Descriptor*> chunks[kChunks];
std::atomic<int> top{-1};
SpinLock growth;

// Counts changes of O_NONBLOCK and of socket options through descriptors that are not exclusive: each of them may be
// seen through any other such descriptor.
std::atomic<uint32_t> shared_changes{1};

uint32_t epoch() noexcept { return shared_changes.load(std::memory_order_acquire); }

Descriptor* grow(int chunk) noexcept {
  Busy busy;
  Locked locked(growth);
  Descriptor* p = chunks[chunk].load(std::memory_order_relaxed);
  if (p != nullptr) return p;
  p = static_cast<Descriptor*>(sys::map(sizeof(Descriptor) * kChunk));  // zero is a valid record
  chunks[chunk].store(p, std::memory_order_release);
  return p;
}

void raise_top(int fd) noexcept {
  int seen = top.load(std::memory_order_relaxed);
  while (seen < fd && !top.compare_exchange_weak(seen, fd, std::memory_order_acq_rel)) {
  }
}

void forget_settings(Descriptor& d) noexcept {
  d.nonblocking.store(0, std::memory_order_relaxed);
  d.receive_timeout.store(0, std::memory_order_relaxed);
  d.send_timeout.store(0, std::memory_order_relaxed);
}

void forget(Descriptor& d) noexcept {
  forget_settings(d);
  d.kind.store(Kind::kUnknown, std::memory_order_relaxed);
  d.flow.store(Flow::kUnknown, std::memory_order_relaxed);
  d.exclusive.store(false, std::memory_order_relaxed);
  d.troubled.store(false, std::memory_order_relaxed);
  d.listening.store(false, std::memory_order_relaxed);
  for (std::atomic<bool>& refuses : d.refuses_nowait) refuses.store(false, std::memory_order_relaxed);
  d.low_water.store(0, std::memory_order_relaxed);
}

// The number means nothing any more.  Lock held.
void retire(int fd, Descriptor& d) noexcept {
  if (d.registered.load(std::memory_order_relaxed) != 0) reactor::leave(fd, d);
  d.generation.fetch_add(1, std::memory_order_release);
  forget(d);
  if (d.waiting.load(std::memory_order_relaxed) != 0) reactor::wake_all(d);
}

void set(std::atomic<uint8_t>& state, bool nonblocking) noexcept {
  state.store(nonblocking ? Descriptor::kNonblocking : Descriptor::kBlocking, std::memory_order_relaxed);
}

// What is remembered is right as of now, and stays so until something shared changes.
void share(Descriptor& d) noexcept {
  if (!d.exclusive.load(std::memory_order_relaxed)) return;
  d.shared_epoch.store(epoch(), std::memory_order_relaxed);
  d.exclusive.store(false, std::memory_order_release);
}

// Before a cached setting is used.
void refresh(Descriptor& d, uint32_t now) noexcept {
  if (d.exclusive.load(std::memory_order_acquire) || d.shared_epoch.load(std::memory_order_relaxed) == now) return;
  forget_settings(d);
  d.shared_epoch.store(now, std::memory_order_relaxed);
}

// A change through this descriptor; everybody who may share the open file has to ask again.
void note_change(Descriptor& d) noexcept {
  if (d.exclusive.load(std::memory_order_relaxed)) return;
  const uint32_t now = shared_changes.fetch_add(1, std::memory_order_acq_rel) + 1;
  d.shared_epoch.store(now, std::memory_order_relaxed);
}

bool is_memory_device(dev_t device) noexcept { return major(device) == 1; }  // null, zero, full, random, ...

Kind kind_from(const struct stat& s) noexcept {
  switch (s.st_mode & S_IFMT) {
    case S_IFSOCK:
      return Kind::kSocket;
    case S_IFIFO:
      return Kind::kPipe;
    case S_IFCHR:
      return is_memory_device(s.st_rdev) ? Kind::kFile : Kind::kOther;
    case S_IFREG:
    case S_IFDIR:
    case S_IFBLK:
    case S_IFLNK:
      return Kind::kFile;
    default:
      return Kind::kOther;  // anonymous inodes: eventfd, timerfd, epoll, ...
  }
}

Flow flow_from(int family, int type, int protocol) noexcept {
  if (type != SOCK_STREAM) return Flow::kMessages;
  const bool tcp = (family == AF_INET || family == AF_INET6) && (protocol == 0 || protocol == IPPROTO_TCP);
  return tcp ? Flow::kTcp : Flow::kStream;
}

bool socket_option(int fd, int option, void* value, socklen_t size) noexcept {
  return sys::call(SYS_getsockopt, fd, SOL_SOCKET, option, sys::word(value), sys::word(&size)) == 0;
}

int socket_number(int fd, int option) noexcept {
  int value = 0;
  return socket_option(fd, option, &value, sizeof value) ? value : -1;
}

int64_t timeout_of(int fd, Descriptor& d, Direction direction) noexcept {
  std::atomic<int64_t>& cached = direction == Direction::kIn ? d.receive_timeout : d.send_timeout;
  refresh(d, epoch());
  int64_t timeout = cached.load(std::memory_order_relaxed);
  if (timeout != 0) return timeout;
  timeval t = {};
  const bool known = socket_option(fd, direction == Direction::kIn ? SO_RCVTIMEO : SO_SNDTIMEO, &t, sizeof t);
  timeout = known ? t.tv_sec * kSecond + t.tv_usec * kMicrosecond : 0;
  if (timeout <= 0) timeout = Descriptor::kNoTimeout;
  cached.store(timeout, std::memory_order_relaxed);
  return timeout;
}

}  // namespace

Descriptor* get(int fd) noexcept {
  if (static_cast<unsigned>(fd) >= static_cast<unsigned>(kChunk * kChunks)) return nullptr;
  Descriptor* p = chunks[fd / kChunk].load(std::memory_order_acquire);
  if (p == nullptr) [[unlikely]]
    if ((p = grow(fd / kChunk)) == nullptr) return nullptr;
  if (fd > top.load(std::memory_order_relaxed)) [[unlikely]]
    raise_top(fd);
  return &p[fd % kChunk];
}

Descriptor* find(int fd) noexcept {
  if (fd < 0 || fd > top.load(std::memory_order_acquire)) return nullptr;
  Descriptor* p = chunks[fd / kChunk].load(std::memory_order_acquire);
  return p == nullptr ? nullptr : &p[fd % kChunk];
}

int highest() noexcept { return top.load(std::memory_order_acquire); }

// --- life ---------------------------------------------------------------------------------------------------

void born(int fd, Kind kind, bool nonblocking, bool exclusive) noexcept {
  Descriptor* d = get(fd);
  if (d == nullptr) return;
  Locked locked(d->lock);
  retire(fd, *d);
  d->kind.store(kind, std::memory_order_relaxed);
  set(d->nonblocking, nonblocking);
  d->shared_epoch.store(epoch(), std::memory_order_relaxed);
  d->exclusive.store(exclusive, std::memory_order_release);
}

void born_socket(int fd, int family, int type, int protocol) noexcept {
  Descriptor* d = get(fd);
  if (d == nullptr) return;
  born(fd, Kind::kSocket, (type & SOCK_NONBLOCK) != 0, true);
  d->flow.store(flow_from(family, type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC), protocol), std::memory_order_relaxed);
  d->receive_timeout.store(Descriptor::kNoTimeout, std::memory_order_relaxed);
  d->send_timeout.store(Descriptor::kNoTimeout, std::memory_order_relaxed);
}

void accepted(int listener, int fd, bool nonblocking) noexcept {
  Descriptor* from = get(listener);
  Descriptor* d = get(fd);
  if (from == nullptr || d == nullptr) return;
  const Flow flow = flow_of(listener, *from);
  const bool untimed = timeout_of(listener, *from, Direction::kIn) == Descriptor::kNoTimeout &&
                       timeout_of(listener, *from, Direction::kOut) == Descriptor::kNoTimeout;
  born(fd, Kind::kSocket, nonblocking, true);
  d->flow.store(flow, std::memory_order_relaxed);
  // TCP hands its options down, UNIX sockets do not: when there are timeouts, ask.
  d->receive_timeout.store(untimed ? Descriptor::kNoTimeout : 0, std::memory_order_relaxed);
  d->send_timeout.store(untimed ? Descriptor::kNoTimeout : 0, std::memory_order_relaxed);
  const int32_t low_water = flow == Flow::kTcp ? from->low_water.load(std::memory_order_relaxed) : 0;
  d->low_water.store(low_water, std::memory_order_relaxed);
}

void duplicated(int from, int to) noexcept {
  Descriptor* f = get(from);
  Descriptor* t = get(to);
  if (f == nullptr || t == nullptr || f == t) return;
  share(*f);
  Locked locked(t->lock);
  retire(to, *t);
  t->kind.store(f->kind.load(std::memory_order_relaxed), std::memory_order_relaxed);
  t->flow.store(f->flow.load(std::memory_order_relaxed), std::memory_order_relaxed);
  t->low_water.store(f->low_water.load(std::memory_order_relaxed), std::memory_order_relaxed);
}

void shared(int fd) noexcept {
  if (Descriptor* d = find(fd); d != nullptr) share(*d);
}

void closing(int fd) noexcept {
  Descriptor* d = find(fd);
  if (d == nullptr) return;
  // A connect that has O_NONBLOCK set for a moment must not take it back from the number's next owner.
  while ((d->windows.load(std::memory_order_acquire) & 1) != 0) sys::yield();
  Locked locked(d->lock);
  retire(fd, *d);
}

void closing_range(unsigned first, unsigned last) noexcept {
  const int end = highest();
  if (end < 0 || first > static_cast<unsigned>(end)) return;
  const int until = last < static_cast<unsigned>(end) ? static_cast<int>(last) : end;
  for (int fd = static_cast<int>(first); fd <= until; ++fd)
    if (!is_hidden(fd)) closing(fd);
}

// --- what it is ---------------------------------------------------------------------------------------------

Kind kind_of(int fd, Descriptor& d) noexcept {
  Kind kind = d.kind.load(std::memory_order_relaxed);
  if (kind != Kind::kUnknown) return kind;
  struct stat s;
  if (sys::call(SYS_fstat, fd, sys::word(&s)) != 0) return Kind::kUnknown;
  kind = kind_from(s);
  d.kind.store(kind, std::memory_order_relaxed);
  return kind;
}

Flow flow_of(int fd, Descriptor& d) noexcept {
  Flow flow = d.flow.load(std::memory_order_relaxed);
  if (flow != Flow::kUnknown) return flow;
  flow = flow_from(socket_number(fd, SO_DOMAIN), socket_number(fd, SO_TYPE), socket_number(fd, SO_PROTOCOL));
  d.flow.store(flow, std::memory_order_relaxed);
  return flow;
}

bool is_listening(int fd, Descriptor& d) noexcept {
  if (d.listening.load(std::memory_order_relaxed)) return true;
  const bool listening = socket_number(fd, SO_ACCEPTCONN) == 1;
  d.listening.store(listening, std::memory_order_relaxed);
  return listening;
}

// --- settings that the program may change -------------------------------------------------------------------

bool is_nonblocking(int fd, Descriptor& d) noexcept {
  refresh(d, epoch());
  const uint8_t known = d.nonblocking.load(std::memory_order_relaxed);
  if (known != 0) return known == Descriptor::kNonblocking;
  const int flags = sys::fcntl(fd, F_GETFL);
  if (flags < 0) return false;
  set(d.nonblocking, (flags & O_NONBLOCK) != 0);
  return (flags & O_NONBLOCK) != 0;
}

void set_nonblocking(int fd, bool nonblocking) noexcept {
  Descriptor* d = get(fd);
  if (d == nullptr) {  // no record of this number, but perhaps of another that shares its file
    shared_changes.fetch_add(1, std::memory_order_acq_rel);
    return;
  }
  note_change(*d);
  set(d->nonblocking, nonblocking);
}

Deadline socket_deadline(int fd, Descriptor& d, Direction direction) noexcept {
  const int64_t timeout = timeout_of(fd, d, direction);
  return timeout == Descriptor::kNoTimeout ? Deadline::never() : Deadline::in(timeout);
}

void timeouts_changed(int fd) noexcept {
  Descriptor* d = get(fd);
  if (d == nullptr) return;
  note_change(*d);
  d->receive_timeout.store(0, std::memory_order_relaxed);
  d->send_timeout.store(0, std::memory_order_relaxed);
}

// --- weft's own ---------------------------------------------------------------------------------------------

namespace {

// Not higher: each fork copies a table as long as the highest number; and select(getdtablesize(), ...) of a plain
// fd_set, which the kernel cuts at the size of the table, would be cut beyond the fd_set.
constexpr int kHighest = FD_SETSIZE;
constexpr int kMaxHidden = 1024;

SpinLock hiding;  // guards hidden_count and the writing of `hidden`
std::atomic<int> hidden[kMaxHidden];
std::atomic<int> hidden_count{0};
std::atomic<int> lowest_hidden{kChunk * kChunks};

int duplicate_from(int fd, int from) noexcept { return sys::fcntl(fd, F_DUPFD_CLOEXEC, from); }

// Numbers beyond the soft limit do not count against the program: the limit is raised for one call.
int duplicate_beyond(int fd, const rlimit& limit) noexcept {
  rlimit raised = limit;
  raised.rlim_cur = limit.rlim_max - limit.rlim_cur > kMaxHidden ? limit.rlim_cur + kMaxHidden : limit.rlim_max;
  if (sys::call(SYS_prlimit64, 0, RLIMIT_NOFILE, sys::word(&raised), 0) != 0) return -EMFILE;
  const int number = duplicate_from(fd, static_cast<int>(limit.rlim_cur));
  sys::call(SYS_prlimit64, 0, RLIMIT_NOFILE, sys::word(&limit), 0);
  return number;
}

// The highest that is free, give or take: room for the descriptors of 32 workers first, then lower and lower.
int duplicate_below(int fd, int end) noexcept {
  int number = -EMFILE;
  for (int from = end - 64; from > 2 && number < 0; from -= end - from < kMaxHidden ? 1 : from / 4 + 1)
    number = duplicate_from(fd, from);
  return number;
}

int duplicate_high(int fd) noexcept {
  rlimit limit = {1024, 1024};
  sys::call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, sys::word(&limit));
  int number = -EMFILE;
  if (limit.rlim_cur < limit.rlim_max && limit.rlim_cur <= kHighest) number = duplicate_beyond(fd, limit);
  if (number < 0) number = duplicate_below(fd, limit.rlim_cur < kHighest ? static_cast<int>(limit.rlim_cur) : kHighest);
  return number;
}

// hiding held.
void find_lowest() noexcept {
  int lowest = kChunk * kChunks;
  for (int i = 0; i < hidden_count.load(std::memory_order_relaxed); ++i) {
    const int number = hidden[i].load(std::memory_order_relaxed);
    if (number < lowest) lowest = number;
  }
  lowest_hidden.store(lowest, std::memory_order_release);
}

}  // namespace

int hide(int fd) noexcept {
  const int moved = duplicate_high(fd);
  const int number = moved < 0 ? fd : moved;
  if (moved >= 0) sys::close(fd);
  Locked locked(hiding);
  const int n = hidden_count.load(std::memory_order_relaxed);
  if (n == kMaxHidden) return number;  // works, but the program can see it
  hidden[n].store(number, std::memory_order_relaxed);
  hidden_count.store(n + 1, std::memory_order_release);
  find_lowest();
  return number;
}

bool is_hidden(int fd) noexcept {
  return fd >= lowest_hidden.load(std::memory_order_acquire) && next_hidden(fd) == fd;
}

int next_hidden(int from) noexcept {
  int next = -1;
  for (int i = 0, n = hidden_count.load(std::memory_order_acquire); i < n; ++i) {
    const int number = hidden[i].load(std::memory_order_relaxed);
    if (number >= from && (next < 0 || number < next)) next = number;
  }
  return next;
}

void unhide(int fd) noexcept {
  Locked locked(hiding);
  const int n = hidden_count.load(std::memory_order_relaxed);
  for (int i = 0; i < n; ++i) {
    if (hidden[i].load(std::memory_order_relaxed) != fd) continue;
    hidden[i].store(hidden[n - 1].load(std::memory_order_relaxed), std::memory_order_relaxed);
    hidden_count.store(n - 1, std::memory_order_release);
    break;
  }
  find_lowest();
}

// --- fork ---------------------------------------------------------------------------------------------------

void shared_by_fork() noexcept {
  for (int fd = 0; fd <= highest(); ++fd)
    if (Descriptor* d = find(fd); d != nullptr) share(*d);
}

namespace {

// Such records are left alone after a fork: writing to them would copy their pages.
bool is_untouched(const Descriptor& d) noexcept {
  uint64_t words[sizeof d / sizeof(uint64_t)], any = 0;
  memcpy(words, static_cast<const void*>(&d), sizeof d);
  for (const uint64_t word : words) any |= word;
  return any == 0;
}

}  // namespace

// Hidden numbers stay hidden until their reactors close them.
void reset_after_fork() noexcept {
  growth.reset();
  hiding.reset();
  for (int fd = 0; fd <= highest(); ++fd) {
    Descriptor* d = find(fd);
    if (d == nullptr || is_untouched(*d)) continue;
    d->lock.reset();
    d->registered.store(0, std::memory_order_relaxed);
    d->waiters.reset();
    d->waiting.store(0, std::memory_order_relaxed);
    d->accepting.store(0, std::memory_order_relaxed);
    d->windows.store(0, std::memory_order_relaxed);
    d->generation.fetch_add(1, std::memory_order_relaxed);
    forget(*d);
  }
}

}  // namespace weft::descriptors
