// worker.h - a scheduler: data that any carrier can run.
//
// Owns:        per worker the queues of ready fibers, the timers, the epoll instance, and who runs it.
// Keeps true:  exactly one carrier owns a worker at any time.  A worker whose carrier is in program code may be claimed
//              by the monitor; one whose carrier is inside the runtime may not (carrier.h, handoff).
// Called by:   carrier.cc (owner), monitor.cc (claiming), make_ready() by anyone inside Busy.
// See also:    carrier.h for the ownership protocol, DECISIONS.md "Queues and stealing".
#pragma once

#include <atomic>
#include <cstdint>

#include "runtime/reactor.h"
#include "runtime/ready_queue.h"
#include "runtime/timers.h"

namespace weft {

constexpr uint32_t kMaxWorkers = 256;

struct alignas(64) Worker {
  // Ownership.  `owner` is changed by the claimer only; see carrier.h.
  std::atomic<Carrier*> owner{nullptr};
  std::atomic<uint32_t> claim{0};     // 1: the monitor is deciding about it, its owner must not enter
  std::atomic<bool> poll_due{false};  // the monitor asks for a look at timers and epoll at the next switch
  std::atomic<uint32_t> sleeping{0};  // 1: its carrier waits in epoll, or is about to
  uint32_t index = 0;
  int64_t now = 0;  // the clock when it last looked; owner only

  alignas(64) FiberList local;  // owner (or claimer) only; no lock, no atomic read-modify-write
  SharedQueue offered;          // a backlog that sleeping workers may take; the owner takes it back last
  alignas(64) SharedQueue inbox;  // wakes from outside: other workers, stray carriers, kernel threads

  alignas(64) Timers timers;
  Reactor reactor;

  // The monitor's memory of it.
  const Carrier* seen_owner = nullptr;
  uint64_t seen_stay = 0;
  int64_t seen_at = 0;   // when that stay was first seen
  int64_t seen_cpu = 0;  // CPU time of its carrier then

  uint32_t ready() const noexcept { return local.size() + inbox.size() + offered.size(); }
};

namespace workers {

extern Worker all[kMaxWorkers];
extern uint32_t count;                         // immutable after start
extern std::atomic<uint32_t> sleeping_count;  // how many wait in epoll

// Opens epoll instances for n workers.  False: no descriptors.
bool open(uint32_t n) noexcept;

// Takes about half of what some other worker offers into w.local.  Owner of w.
bool steal_into(Worker& w) noexcept;
// Makes part of w's backlog available to others and nudges one of them.  Owner or claimer of w.
void offer(Worker& w, uint32_t n) noexcept;

// Ends the epoll wait of a sleeping worker.  Cost: one write() if it slept.
void nudge(Worker& w) noexcept;
// Nudges some sleeping worker other than w, so that it steals.
void nudge_one(const Worker* except) noexcept;

}  // namespace workers

// Queues a Ready fiber: at the worker of the calling carrier, else where it ran last.
void make_ready(Fiber* fiber) noexcept;

}  // namespace weft
