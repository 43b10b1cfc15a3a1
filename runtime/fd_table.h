// fd_table.h - what weft remembers per descriptor.
//
// Owns:        one Descriptor per number, in chunks that are mapped when first needed and never unmapped; which
//              numbers are weft's own (hidden from the program).
// Keeps true:  everything here is a cache: a descriptor that no hook saw born (inherited, received, made inside
//              libc) starts as kUnknown and is learned at its first use.  `generation` changes whenever the number
//              stops meaning the open file that it meant.  All zero is a valid record of a number never seen.
// Called by:   hook/ (born, duplicated, closing), reactor_epoll.cc.  Inside Busy.
// Lock order:  Descriptor::lock, then a ready queue's.
// See also:    reactor.h for the waiting; DECISIONS.md "Non-blocking without O_NONBLOCK".
#pragma once

#include <atomic>
#include <cstdint>

#include "runtime/base/clock.h"
#include "runtime/base/list.h"
#include "runtime/base/lock.h"

namespace weft {

struct Parker;
struct Descriptor;

enum class Kind : uint8_t {
  kUnknown,
  kSocket,
  kPipe,   // pipe or FIFO
  kOther,  // pollable, without a call that surely does not block: ttys, eventfd, timerfd, inotify, ...
  kFile,   // regular files, directories, memory devices: never "would block"
};

// What a socket carries.
enum class Flow : uint8_t {
  kUnknown,
  kTcp,       // a stream whose short read says that nothing is left
  kStream,    // another stream: UNIX, MPTCP, VSOCK, TLS in the kernel, ...
  kMessages,  // datagrams and packets; also: not a socket
};

enum class Direction : uint8_t { kIn, kOut };

// One thread's interest in one descriptor; lives on the parked stack.
struct FdWaiter : Link {
  Parker* parker = nullptr;
  uint64_t stamp = 0;
  uint32_t events = 0;     // EPOLL* bits: any of them wakes; EPOLLERR and EPOLLHUP always do
  bool exclusive = false;  // one such waiter per edge is enough (accept)
  Descriptor* descriptor = nullptr;
};

// Snapshot taken before a call is tried; arming fails when the world moved on since.
struct Seen {
  uint32_t generation = 0;
  uint32_t in_edges = 0;
  uint32_t out_edges = 0;
};

struct Descriptor {  // 104 bytes; aligning it to cache lines would cost every connection 24 more
  // --- with every wait ---
  SpinLock lock;
  std::atomic<Kind> kind{Kind::kUnknown};
  std::atomic<Flow> flow{Flow::kUnknown};
  std::atomic<uint8_t> nonblocking{0};  // what the program set: 0 unknown, or kBlocking, kNonblocking
  std::atomic<bool> exclusive{false};   // seen born, and nobody else (dup, child, receiver) shares its open file
  std::atomic<uint32_t> generation{0};
  std::atomic<uint32_t> in_edges{0};    // how often epoll said so
  std::atomic<uint32_t> out_edges{0};
  std::atomic<uint32_t> shared_epoch{0};  // when what an fcntl or setsockopt elsewhere may change was learned
  std::atomic<uint32_t> registered{0};    // 1 + index of the worker whose epoll has it; 0: none
  uint32_t armed_tick = 0;                // sweep_tick when the oldest waiter came that the sweep has not looked at
  std::atomic<uint64_t> drained{0};       // in_edges and generation (key()) at which a TCP read came out short
  List<FdWaiter> waiters;

  // --- less often ---
  std::atomic<uint32_t> waiting{0};  // length of `waiters`
  std::atomic<bool> verified{false};  // the sweep has looked at the current waiters
  std::atomic<bool> troubled{false};  // an end, error or urgent mark was reported: short reads prove nothing any more
  std::atomic<bool> listening{false};       // SO_ACCEPTCONN was true
  std::atomic<bool> refuses_nowait[2] = {};  // by Direction: this kind of file does not know RWF_NOWAIT
  std::atomic<uint8_t> accepting{0};        // 1: a fiber is between readiness and accept; 2: and others gave up for it
  std::atomic<uint32_t> windows{0};         // odd: a connect has O_NONBLOCK set for a moment (hook/socket.cc)
  std::atomic<int32_t> low_water{0};        // SO_RCVLOWAT as the program set it; 0: the default
  std::atomic<int64_t> receive_timeout{0};  // SO_RCVTIMEO, SO_SNDTIMEO in ns; 0 unknown, kNoTimeout none
  std::atomic<int64_t> send_timeout{0};

  static constexpr uint8_t kBlocking = 1;
  static constexpr uint8_t kNonblocking = 2;
  static constexpr int64_t kNoTimeout = -1;

  Seen seen() const noexcept {
    return {generation.load(std::memory_order_acquire), in_edges.load(std::memory_order_acquire),
            out_edges.load(std::memory_order_acquire)};
  }

  // A drained socket: a TCP read that came out short at `seen` took all there was, so until the next edge another
  // read can only say EAGAIN.  Ends, errors and urgent marks break this; they are edges too, and set `troubled`
  // before they count.  Only where nobody else can have set O_NONBLOCK: then EAGAIN would be the answer.
  void note_drained(const Seen& s) noexcept { drained.store(key(s), std::memory_order_relaxed); }
  bool is_drained(const Seen& s) const noexcept {
    return drained.load(std::memory_order_relaxed) == key(s) && !troubled.load(std::memory_order_relaxed) &&
           nonblocking.load(std::memory_order_relaxed) == kBlocking && exclusive.load(std::memory_order_relaxed);
  }

 private:
  static uint64_t key(const Seen& s) noexcept { return (static_cast<uint64_t>(s.generation) << 32 | s.in_edges) + 1; }
};

namespace descriptors {

// The record of a number; null when the number cannot be a descriptor or there is no memory.
Descriptor* get(int fd) noexcept;
// As get(), but null when no number near it was ever used (nothing to forget).
Descriptor* find(int fd) noexcept;
int highest() noexcept;  // largest number ever asked for

// A hook saw it come into being.  `exclusive`: its open file is this descriptor's alone.
void born(int fd, Kind kind, bool nonblocking, bool exclusive) noexcept;
// Sockets: the same, and what socket() was asked for is known ...
void born_socket(int fd, int family, int type, int protocol) noexcept;
// ... or the listener, from which a connection inherits.
void accepted(int listener, int fd, bool nonblocking) noexcept;
// `to` now shares the open file of `from`.
void duplicated(int from, int to) noexcept;
// Somebody else will share its open file (SCM_RIGHTS).
void shared(int fd) noexcept;
// The number is about to be closed or replaced: leaves epoll, wakes whoever waits (they see the generation).
// Also for a number that turned out to mean something else than what is remembered.
void closing(int fd) noexcept;
void closing_range(unsigned first, unsigned last) noexcept;

// What kind of file it is; asks the kernel (fstat) once.  kUnknown: not open.
Kind kind_of(int fd, Descriptor& d) noexcept;
// What a socket carries; asks the kernel once.
Flow flow_of(int fd, Descriptor& d) noexcept;
// Is it a socket that listen() was called on?
bool is_listening(int fd, Descriptor& d) noexcept;

// Has the program asked for O_NONBLOCK?  Cached; asks the kernel when somebody else may have changed it.
bool is_nonblocking(int fd, Descriptor& d) noexcept;
// The program changed it through fcntl or ioctl.
void set_nonblocking(int fd, bool nonblocking) noexcept;

// SO_RCVTIMEO / SO_SNDTIMEO as a deadline from now; never when unset.
Deadline socket_deadline(int fd, Descriptor& d, Direction direction) noexcept;
// setsockopt changed them.
void timeouts_changed(int fd) noexcept;

// weft's own descriptors, invisible to the program: numbers at the soft limit if that may be passed, else below
// FD_SETSIZE (kHighest in fd_table.cc says why not higher).
int hide(int fd) noexcept;  // returns the new number, marks it; the old one is closed
bool is_hidden(int fd) noexcept;
int next_hidden(int from) noexcept;  // the lowest hidden number >= from; -1: none
void unhide(int fd) noexcept;

// Every open file may now be shared with a child.
void shared_by_fork() noexcept;
// Fork child: nothing is registered, nobody waits, nothing is known.
void reset_after_fork() noexcept;

}  // namespace descriptors
}  // namespace weft
