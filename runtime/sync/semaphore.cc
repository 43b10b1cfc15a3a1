// semaphore.cc - see semaphore.h.
#include "runtime/sync/semaphore.h"

#include "runtime/base/sys.h"

namespace weft::sync {
namespace {

constexpr uint64_t kToken = 1, kWaiter = uint64_t{1} << 32;
constexpr uint32_t kMaxValue = SEM_VALUE_MAX;

constexpr int kPatience = 3;
constexpr uint32_t kPatientTag = 1, kImpatientTag = 2;

constexpr uint32_t value_in(uint64_t data) noexcept { return static_cast<uint32_t>(data); }
constexpr bool has_waiters(uint64_t data) noexcept { return data >= kWaiter; }

std::atomic_ref<uint64_t> data_of(Semaphore& semaphore) noexcept {
  return std::atomic_ref<uint64_t>(semaphore.data);
}

// Subtracts `amount` (a token, or a token and a waiter) if there is a token.  Acquire: pairs with the posts.
bool take(Semaphore& semaphore, uint64_t amount) noexcept {
  std::atomic_ref<uint64_t> word = data_of(semaphore);
  uint64_t data = word.load(std::memory_order_relaxed);
  while (value_in(data) != 0)
    if (word.compare_exchange_weak(data, data - amount, std::memory_order_acquire, std::memory_order_relaxed))
      return true;
  return false;
}

// U2: true: a waiter is on its way.
bool post_to_waiter(Semaphore& semaphore, lot::Bucket& bucket) noexcept {
  for (LotWaiter* waiter = lot::first(bucket, &semaphore); waiter != nullptr; waiter = lot::next(bucket, *waiter)) {
    if (!lot::rouse(*waiter)) continue;
    waiter->granted = waiter->tag == kImpatientTag;
    if (waiter->granted)
      data_of(semaphore).fetch_sub(kWaiter, std::memory_order_relaxed);
    else
      data_of(semaphore).fetch_add(kToken, std::memory_order_release);
    lot::release(*waiter);
    return true;
  }
  return false;
}

}  // namespace

bool try_take(Semaphore& semaphore) noexcept { return take(semaphore, kToken); }

int try_post(Semaphore& semaphore) noexcept {
  std::atomic_ref<uint64_t> word = data_of(semaphore);
  uint64_t data = word.load(std::memory_order_relaxed);
  do {
    if (value_in(data) == kMaxValue) return EOVERFLOW;
    if (has_waiters(data)) return EAGAIN;
  } while (!word.compare_exchange_weak(data, data + kToken, std::memory_order_release, std::memory_order_relaxed));
  return 0;
}

int post_contended(Semaphore& semaphore) noexcept {
  std::atomic_ref<uint64_t> word = data_of(semaphore);
  {
    lot::Bucket& bucket = lot::bucket_of(&semaphore);
    Locked locked(bucket.lock);
    uint64_t data = word.load(std::memory_order_relaxed);
    if (value_in(data) == kMaxValue) return EOVERFLOW;
    if (post_to_waiter(semaphore, bucket)) return 0;
    while (!word.compare_exchange_weak(data, data + kToken, std::memory_order_release, std::memory_order_relaxed))
      if (value_in(data) == kMaxValue) return EOVERFLOW;
    if (!has_waiters(data)) return 0;  // it left meanwhile
  }
  sys::futex_wake(&semaphore.data, 1);  // the value is the low half
  return 0;
}

Why take_contended(Semaphore& semaphore, Deadline deadline) noexcept {
  data_of(semaphore).fetch_add(kWaiter, std::memory_order_seq_cst);
  for (int losses = 0;; ++losses) {
    LotWaiter waiter;
    bool waited = true;
    const Why why = lot::wait(
        waiter, &semaphore, Reason::kSemaphore, deadline, [&] { return !take(semaphore, kToken + kWaiter); },
        losses < kPatience ? kPatientTag : kImpatientTag, losses == 0 ? lot::Place::kBack : lot::Place::kFront,
        &waited);
    if (!waited || waiter.granted) return Why::kReady;
    if (why == Why::kReady) continue;
    data_of(semaphore).fetch_sub(kWaiter, std::memory_order_relaxed);
    return why;
  }
}

}  // namespace weft::sync
