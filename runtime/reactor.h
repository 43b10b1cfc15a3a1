// reactor.h - readiness of descriptors, on epoll.
//
// Owns:        one epoll instance per worker and a nudge descriptor in it; arming and waking of FdWaiters.
// Keeps true:  one edge-triggered registration per descriptor and generation, for both directions, whatever the
//              number of waiters.  No edge is lost: a waiter is queued only if no edge came since `seen` was read.
//              Nothing of the program's is changed: neither O_NONBLOCK nor its own epoll instances.
// Called by:   wait() and friends by hooks on a fiber, inside Busy; poll() by the owner of the worker.
//
// try, arm, wake, both sides as steps:
//   A1 seen = edges                          E1 epoll_wait reports (fd, generation)
//   A2 the call: EAGAIN                      E2 lock; generation equal? edges += 1
//   A3 lock; edges == seen? else back to A1  E3 wake and unlink the waiters of that direction; unlock
//   A4 link the waiter; unlock; park
// Data that comes after A2 makes an edge; if E2 precedes A3 the numbers differ, else E3 finds the waiter.
//
// An exclusive waiter (accept, epoll_wait) that is woken owes the next one a look, since several connections may have
// made one edge: pass_on().
//
// See also:    fd_table.h, DECISIONS.md "accept and connect", "The sweep".
#pragma once

#include <atomic>
#include <cstdint>

#include "runtime/fd_table.h"
#include "runtime/park.h"

namespace weft {

class Reactor {
 public:
  bool open(uint32_t index) noexcept;
  void close() noexcept;
  // Waits at most wait_ns (Deadline::kNever: for ever; 0: not at all) and wakes whoever is concerned.
  void poll(int64_t wait_ns, int64_t now) noexcept;
  void nudge() noexcept;  // any thread: ends a poll
  void poke() noexcept;   // the same from a signal handler: no lock
  uint32_t registered() const noexcept { return registered_.load(std::memory_order_relaxed); }
  // How many FdWaiters are armed at descriptors that are registered here.
  uint32_t waiters() const noexcept { return waiters_.load(std::memory_order_relaxed); }
  int epoll_fd() const noexcept { return epoll_.load(std::memory_order_relaxed); }

 private:
  friend struct ReactorAccess;
  std::atomic<int> epoll_{-1};  // changes only when the program wants the number (relocate)
  std::atomic<int> nudge_{-1};
  SpinLock nudge_lock_;  // held while nudge_ is written to, so that relocate() cannot give the number away meanwhile
  uint32_t index_ = 0;
  std::atomic<uint32_t> registered_{0};
  std::atomic<uint32_t> waiters_{0};
};

namespace reactor {

enum class Armed : uint8_t {
  kYes,        // queued
  kEdge,       // something happened since `seen`: try again
  kClosed,     // the number no longer means that open file
  kUnpollable  // epoll does not take this file (a regular one, or it is out of resources): only handoff helps
};

// Queues `waiter` (parker, stamp, events, exclusive filled in).  Called on a fiber.
Armed arm(int fd, Descriptor& d, FdWaiter& waiter, const Seen& seen) noexcept;
// Takes it off again, if a wake did not; must follow every kYes, whatever the wait came to.
void disarm(FdWaiter& waiter) noexcept;

enum class Waited : uint8_t { kReady, kTimeout, kSignal, kClosed, kUnpollable };

// Parks the calling fiber until the descriptor may be ready in that direction.  kReady is a hint: try again.
Waited wait(int fd, Descriptor& d, Direction direction, Reason reason, const Seen& seen, Deadline deadline,
            bool exclusive = false) noexcept;
// After an exclusive wait whose call succeeded or was given up, and after a fiber kept others from trying: the next
// one in line may try; who is about to wait looks again.
void pass_on(Descriptor& d) noexcept;

// For fd_table.cc, lock held: takes the number out of epoll / wakes every waiter.
void leave(int fd, Descriptor& d) noexcept;
void wake_all(Descriptor& d) noexcept;

// The program wants a hidden number for itself: moves weft's descriptor elsewhere.  False: it cannot be moved.
bool relocate(int fd) noexcept;

// The safety net: waiters that have been parked for `age` ticks get their registration checked once, so that a
// descriptor that was closed and replaced behind weft's back cannot wait for ever.  Monitor only.
void sweep(uint32_t tick, uint32_t age) noexcept;
extern std::atomic<uint32_t> sweep_tick;

}  // namespace reactor
}  // namespace weft
