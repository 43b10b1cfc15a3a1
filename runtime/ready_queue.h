// ready_queue.h - fibers that are runnable, in order.
//
// Owns:        FiberList, a plain intrusive FIFO, and SharedQueue, the same under its own short lock.
// Keeps true:  a queued fiber is Ready and on one list.  A pusher that reads `sleeping` of the worker inside the lock
//              and a worker that sets it before it pops under the lock cannot miss each other.
// Called by:   worker.cc, carrier.cc; inside Busy.  Innermost lock.
#pragma once

#include <atomic>

#include "runtime/base/lock.h"
#include "runtime/fiber.h"

namespace weft {

// One owner at a time; others may read size().
class FiberList {
 public:
  void push(Fiber* fiber) noexcept {
    fiber->next = nullptr;
    if (tail_ != nullptr)
      tail_->next = fiber;
    else
      head_ = fiber;
    tail_ = fiber;
    set_size(size() + 1);
  }
  Fiber* pop() noexcept {
    Fiber* fiber = head_;
    if (fiber == nullptr) return nullptr;
    head_ = fiber->next;
    if (head_ == nullptr) tail_ = nullptr;
    set_size(size() - 1);
    return fiber;
  }
  // Appends the first n of `from` (all of it if it has fewer).
  void take(FiberList& from, uint32_t n) noexcept {
    for (Fiber* fiber; n > 0 && (fiber = from.pop()) != nullptr; --n) push(fiber);
  }
  void take_all(FiberList& from) noexcept {
    if (from.head_ == nullptr) return;
    if (tail_ != nullptr)
      tail_->next = from.head_;
    else
      head_ = from.head_;
    tail_ = from.tail_;
    set_size(size() + from.size());
    from.reset();
  }
  uint32_t size() const noexcept { return size_.load(std::memory_order_relaxed); }
  void reset() noexcept {
    head_ = tail_ = nullptr;
    set_size(0);
  }

 private:
  void set_size(uint32_t n) noexcept { size_.store(n, std::memory_order_relaxed); }
  std::atomic<uint32_t> size_{0};
  Fiber* head_ = nullptr;
  Fiber* tail_ = nullptr;
};

class SharedQueue {
 public:
  // True: `flag` was set at a moment inside the lock.
  bool push(Fiber* fiber, const std::atomic<uint32_t>& flag) noexcept {
    Locked locked(lock_);
    list_.push(fiber);
    return flag.load(std::memory_order_relaxed) != 0;
  }
  void push_from(FiberList& from, uint32_t n) noexcept {
    Locked locked(lock_);
    list_.take(from, n);
  }
  Fiber* pop() noexcept {
    Locked locked(lock_);
    return list_.pop();
  }
  void drain_into(FiberList& to) noexcept {
    Locked locked(lock_);
    to.take_all(list_);
  }
  // Takes half, at least one; nothing when somebody else is at it.  Returns how many.
  uint32_t steal_into(FiberList& to) noexcept {
    if (size() == 0 || !lock_.try_lock()) return 0;
    const uint32_t n = (size() + 1) / 2;
    to.take(list_, n);
    lock_.unlock();
    return n;
  }
  uint32_t size() const noexcept { return list_.size(); }
  void reset() noexcept {  // fork child
    lock_.reset();
    list_.reset();
  }

 private:
  SpinLock lock_;
  FiberList list_;
};

}  // namespace weft
