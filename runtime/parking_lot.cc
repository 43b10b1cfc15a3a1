// parking_lot.cc - see parking_lot.h.
#include "runtime/parking_lot.h"

#include <cstddef>

namespace weft::lot {
namespace {

constexpr unsigned kBucketBits = 10;
constexpr size_t kBuckets = size_t{1} << kBucketBits;

// Zero bytes are an unlocked bucket with an empty list (list.h), so the lot works before any constructor has run
// and costs no relocation and no page until it is used.
alignas(Bucket) constinit std::byte storage[kBuckets * sizeof(Bucket)] = {};

Bucket* all_buckets() noexcept { return reinterpret_cast<Bucket*>(storage); }

// The buckets of two addresses, locked in the order of their own addresses.
class LockedPair {
 public:
  LockedPair(Bucket& a, Bucket& b) noexcept : low_(&a < &b ? a : b), high_(&a < &b ? b : a) {
    low_.lock.lock();
    if (&low_ != &high_) high_.lock.lock();
  }
  ~LockedPair() {
    if (&low_ != &high_) high_.lock.unlock();
    low_.lock.unlock();
  }
  LockedPair(const LockedPair&) = delete;
  LockedPair& operator=(const LockedPair&) = delete;

 private:
  Bucket& low_;
  Bucket& high_;
};

// A bucket that was never locked is all zeros; the child need not copy its page.
bool was_used(size_t index) noexcept {
  for (size_t i = 0; i < sizeof(Bucket); ++i)
    if (storage[index * sizeof(Bucket) + i] != std::byte{0}) return true;
  return false;
}

LotWaiter* matching(Bucket& bucket, LotWaiter* waiter, const void* address, uint32_t tags) noexcept {
  while (waiter != nullptr &&
         (waiter->address.load(std::memory_order_relaxed) != address || (waiter->tag & tags) == 0))
    waiter = bucket.waiters.after(waiter);
  return waiter;
}

int wake_in(Bucket& bucket, const void* address, int count, uint32_t tags) noexcept {
  int woken = 0;
  LotWaiter* waiter = first(bucket, address, tags);
  while (waiter != nullptr && woken < count) {
    LotWaiter* following = next(bucket, *waiter, tags);
    if (rouse(*waiter)) {
      release(*waiter);
      ++woken;
    }
    waiter = following;
  }
  return woken;
}

int move_between(Bucket& from_bucket, const void* from, Bucket& to_bucket, const void* to, int count) noexcept {
  int moved = 0;
  LotWaiter* waiter = first(from_bucket, from);
  while (waiter != nullptr && moved < count) {
    LotWaiter* following = next(from_bucket, *waiter);
    List<LotWaiter>::remove(waiter);
    waiter->address.store(to, std::memory_order_relaxed);  // lock_bucket_of() looks again once it has a lock
    to_bucket.waiters.push_back(waiter);
    ++moved;
    waiter = following;
  }
  return moved;
}

}  // namespace

Bucket& bucket_of(const void* address) noexcept {
  constexpr uint64_t kGoldenRatio = 0x9E3779B97F4A7C15;
  return all_buckets()[(reinterpret_cast<uintptr_t>(address) >> 2) * kGoldenRatio >> (64 - kBucketBits)];
}

LotWaiter* first(Bucket& bucket, const void* address, uint32_t tags) noexcept {
  return matching(bucket, bucket.waiters.front(), address, tags);
}

LotWaiter* next(Bucket& bucket, LotWaiter& waiter, uint32_t tags) noexcept {
  return matching(bucket, bucket.waiters.after(&waiter), waiter.address.load(std::memory_order_relaxed), tags);
}

Bucket* lock_bucket_of(LotWaiter& waiter) noexcept {
  for (;;) {
    const void* address = waiter.address.load(std::memory_order_acquire);
    if (address == nullptr) return nullptr;
    Bucket& bucket = bucket_of(address);
    bucket.lock.lock();
    if (waiter.address.load(std::memory_order_relaxed) == address) return &bucket;
    bucket.lock.unlock();  // woken or requeued meanwhile
  }
}

int wake(const void* address, int count, uint32_t tags) noexcept {
  Bucket& bucket = bucket_of(address);
  Locked locked(bucket.lock);
  return wake_in(bucket, address, count, tags);
}

Requeued requeue(const uint32_t* from, int wake_count, const void* to, int count,
                 const uint32_t* expected) noexcept {
  Requeued result;
  Bucket& from_bucket = bucket_of(from);
  Bucket& to_bucket = bucket_of(to);
  LockedPair locked(from_bucket, to_bucket);
  if (expected != nullptr && __atomic_load_n(from, __ATOMIC_SEQ_CST) != *expected) {
    result.matched = false;
    return result;
  }
  result.woken = wake_in(from_bucket, from, wake_count, ~0u);
  if (from != to) result.moved = move_between(from_bucket, from, to_bucket, to, count);
  return result;
}

bool has_waiters(const void* address, uint32_t tags) noexcept {
  Bucket& bucket = bucket_of(address);
  Locked locked(bucket.lock);
  return first(bucket, address, tags) != nullptr;
}

void reset_after_fork() noexcept {
  for (size_t i = 0; i < kBuckets; ++i) {
    if (!was_used(i)) continue;
    all_buckets()[i].lock.reset();
    all_buckets()[i].waiters.reset();
  }
}

}  // namespace weft::lot
