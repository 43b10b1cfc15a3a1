// timers.h - deadlines of parked fibers.
//
// Owns:        Timers, one per worker: an intrusive pairing heap of TimerNodes that live on parked stacks.
// Keeps true:  insert O(1), removal O(log n) amortised and real (nothing stale stays behind), no allocation.
// Called by:   park() arms and disarms; the worker's loop fires.  Any thread, inside Busy; the lock is its own
//              and may be followed only by a ready queue's.
#pragma once

#include <atomic>

#include "runtime/base/clock.h"
#include "runtime/base/lock.h"

namespace weft {

struct Parker;

struct TimerNode {
  int64_t when = 0;
  Parker* parker = nullptr;
  uint64_t stamp = 0;
  bool armed = false;
  TimerNode* child = nullptr;
  TimerNode* sibling = nullptr;
  TimerNode** back = nullptr;  // the pointer that points here
};

class Timers {
 public:
  void arm(TimerNode& node) noexcept;
  void disarm(TimerNode& node) noexcept;
  // Wakes (Why::kTimeout) everything that is due.  Returns how many.
  int fire(int64_t now) noexcept;
  // When the next one is due, Deadline::kNever if none.  May be read by anyone.
  int64_t next() const noexcept { return next_.load(std::memory_order_acquire); }
  void reset() noexcept;  // fork child

 private:
  TimerNode* pop() noexcept;
  void publish() noexcept;
  SpinLock lock_;
  TimerNode* root_ = nullptr;
  std::atomic<int64_t> next_{Deadline::kNever};
};

}  // namespace weft
