// parking_lot.h - wait queues keyed by the address of a lock, condition, semaphore or futex word.
//
// Owns:        hashed buckets of LotWaiters, each under its own lock.
// Keeps true:  FIFO per address.  A waiter is linked only while `check` (run under the bucket's lock) says that there
//              is something to wait for; a waker that changes the word first and then calls wake() cannot be missed.
//              A waiter is taken off its list by a waker exactly if that waker's wake() won; one that timed out or was
//              interrupted takes itself off, and is passed over until then: no wake is spent on it.
//              Wakes happen under the bucket's lock, so a waiter's frame outlives every touch of it.
// Called by:   sync/ and hooks, fibers and kernel threads alike, inside Busy.  Lock order: bucket, then ready queue;
//              two buckets (requeue only) in the order of their addresses.
//
// Why no touch comes after the frame is gone, as steps:
//   W1 waker, holding the bucket: rouse() = wake() of the parker, which may run from here on
//   W2 waker: release() = `granted`, off the list, last of all address = null (release)
//   F1 waiter, back from park(): address null (acquire)?  Then W2 is over and nobody knows the waiter any more
//   F2 else it takes the lock of the bucket, which it gets after W2 or after it was passed over, and looks again
//
// See also:    park.h, sync/ (who decides what a waker gives).
#pragma once

#include <atomic>
#include <cstdint>

#include "runtime/base/list.h"
#include "runtime/base/lock.h"
#include "runtime/park.h"

namespace weft {

struct LotWaiter : Link {
  std::atomic<const void*> address{nullptr};  // null: on no list; changed under the bucket's lock
  Parker* parker = nullptr;
  uint64_t stamp = 0;
  uint32_t tag = ~0u;    // wakes choose by bits of it (futex bitset, reader/writer)
  bool granted = false;  // the waker gave what was waited for, not only the news of it; written before `address`
};

namespace lot {

struct alignas(64) Bucket {
  SpinLock lock;
  List<LotWaiter> waiters;  // of all addresses that hash here; guarded by lock
};
Bucket& bucket_of(const void* address) noexcept;

enum class Place : uint8_t { kBack, kFront };  // kFront: one that was woken in vain keeps its turn

// Waits at `address` while check() is true; check runs under the bucket's lock and must not wait or fault.
// kReady: woken, or check() was false (then *checked is set false, if given).
template <class Check>
Why wait(const void* address, Reason reason, Deadline deadline, Check&& check, uint32_t tag = ~0u,
         bool* checked = nullptr) noexcept;

// The same with a waiter that the caller looks at afterwards (granted).
template <class Check>
Why wait(LotWaiter& waiter, const void* address, Reason reason, Deadline deadline, Check&& check, uint32_t tag,
         Place place, bool* checked = nullptr) noexcept;

// Wakes up to `count` waiters at the address whose tag has a bit of `tags`, oldest first.  Returns how many.
int wake(const void* address, int count, uint32_t tags = ~0u) noexcept;

struct Requeued {
  bool matched = true;  // false: *from was not `*expected`, and nothing happened
  int woken = 0;
  int moved = 0;
};
// Wakes up to `wake_count` waiters at `from` and moves up to `count` of the others to `to`; with `expected` only
// if *from holds it, looked at under both buckets' locks.
Requeued requeue(const uint32_t* from, int wake_count, const void* to, int count,
                 const uint32_t* expected = nullptr) noexcept;

// Were there waiters a moment ago?  Takes the bucket's lock.
bool has_waiters(const void* address, uint32_t tags = ~0u) noexcept;

// The fork child: the waiters are gone.
void reset_after_fork() noexcept;

// --- for wakers that decide under the bucket's lock ---------------------------------------------------------------

// The oldest waiter at the address with a bit of `tags`, and the next one after it.
LotWaiter* first(Bucket& bucket, const void* address, uint32_t tags = ~0u) noexcept;
LotWaiter* next(Bucket& bucket, LotWaiter& waiter, uint32_t tags = ~0u) noexcept;

// W1.  False: it has timed out or is interrupted, and stays on the list until it leaves by itself.
inline bool rouse(LotWaiter& waiter) noexcept { return wake(waiter.parker, waiter.stamp, Why::kReady); }
// W2.  What the waiter is to find in `granted` has been written before.
inline void release(LotWaiter& waiter) noexcept {
  List<LotWaiter>::remove(&waiter);
  waiter.address.store(nullptr, std::memory_order_release);
}

// --- the parts of wait(), for callers that must do something between linking and parking (cond: unlock) ---------

// Links; false when check() was false.
template <class Check>
bool link(LotWaiter& waiter, const void* address, const Arming& arming, uint32_t tag, Check&& check,
          Place place = Place::kBack) noexcept {
  waiter.parker = arming.parker;
  waiter.stamp = arming.stamp;
  waiter.tag = tag;
  waiter.granted = false;
  Bucket& bucket = bucket_of(address);
  Locked locked(bucket.lock);
  if (!check()) return false;
  waiter.address.store(address, std::memory_order_relaxed);
  if (place == Place::kFront)
    bucket.waiters.push_front(&waiter);
  else
    bucket.waiters.push_back(&waiter);
  return true;
}

// F1, F2: the bucket, locked, in which the waiter is linked; null if a waker took it off.
Bucket* lock_bucket_of(LotWaiter& waiter) noexcept;

// Unlinks if no wake did, and says whether it was so; then leave() has run under the bucket's lock.
// Must follow every successful link().
template <class Leave>
bool unlink(LotWaiter& waiter, Leave&& leave) noexcept {
  Bucket* bucket = lock_bucket_of(waiter);
  if (bucket == nullptr) return false;
  release(waiter);
  leave();
  bucket->lock.unlock();
  return true;
}
inline bool unlink(LotWaiter& waiter) noexcept {
  return unlink(waiter, [] {});
}

template <class Check>
Why wait(LotWaiter& waiter, const void* address, Reason reason, Deadline deadline, Check&& check, uint32_t tag,
         Place place, bool* checked) noexcept {
  for (;;) {
    Arming arming(reason, address);
    if (!link(waiter, address, arming, tag, check, place)) {
      arming.abandon();
      if (checked != nullptr) *checked = false;
      return Why::kReady;
    }
    const Why why = park(arming, deadline);
    if (!unlink(waiter) || why != Why::kReady) return why;
    (void)deadline.reached();  // its clock was set back: moves the deadline, and the wait goes on
  }
}

template <class Check>
Why wait(const void* address, Reason reason, Deadline deadline, Check&& check, uint32_t tag, bool* checked) noexcept {
  LotWaiter waiter;
  return wait(waiter, address, reason, deadline, check, tag, Place::kBack, checked);
}

}  // namespace lot
}  // namespace weft
