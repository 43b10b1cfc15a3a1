// mutex.cc - see mutex.h.
#include "runtime/sync/mutex.h"

#include "runtime/base/sys.h"

namespace weft::sync {
namespace {

constexpr int kPatience = 3;  // so often is a waiter woken in vain before it is handed the mutex
constexpr uint32_t kPatientTag = 1, kImpatientTag = 2;

constexpr int kFree = 0, kWaitersAnywhere = 2, kWaitersInLot = 3;  // of __lock; 1: held

// L2: true: the caller holds it; false: it is marked as waited for.
bool take_or_mark(Mutex& mutex) noexcept {
  std::atomic_ref<int> word = lock_word(mutex);
  int seen = word.load(std::memory_order_relaxed);
  while (seen != kWaitersAnywhere && seen != kWaitersInLot)
    if (word.compare_exchange_weak(seen, kWaitersInLot, std::memory_order_acquire, std::memory_order_relaxed))
      return seen == kFree;
  return false;
}

// The oldest waiter that can be woken, off the queue and on its way; kNobody if there is none.
enum class Heir : uint8_t { kNobody, kPatient, kImpatient };
Heir wake_heir(lot::Bucket& bucket, const void* address) noexcept {
  for (LotWaiter* waiter = lot::first(bucket, address); waiter != nullptr; waiter = lot::next(bucket, *waiter)) {
    const bool impatient = waiter->tag == kImpatientTag;
    if (!lot::rouse(*waiter)) continue;
    waiter->granted = impatient;
    lot::release(*waiter);
    return impatient ? Heir::kImpatient : Heir::kPatient;
  }
  return Heir::kNobody;
}

}  // namespace

int before_lock(Mutex& mutex, int kind, int tid) noexcept {
  const int type = kind & kMutexType;
  if (type == PTHREAD_MUTEX_NORMAL || type == PTHREAD_MUTEX_ADAPTIVE_NP || !is_owner(mutex, tid)) return kGoOn;
  if (type == PTHREAD_MUTEX_ERRORCHECK) return EDEADLK;
  if (mutex.__count + 1 == 0) return EAGAIN;
  ++mutex.__count;
  return 0;
}

int before_unlock(Mutex& mutex, int kind, int tid) noexcept {
  const int type = kind & kMutexType;
  if (type == PTHREAD_MUTEX_NORMAL || type == PTHREAD_MUTEX_ADAPTIVE_NP) return kGoOn;
  if (!is_owner(mutex, tid)) return EPERM;
  if (type == PTHREAD_MUTEX_ERRORCHECK || --mutex.__count == 0) return kGoOn;
  return 0;
}

Why lock_contended(Mutex& mutex, Deadline deadline, MutexAttempt& attempt) noexcept {
  for (;; ++attempt.losses) {
    LotWaiter waiter;
    bool waited = true;
    const auto place = attempt.losses == 0 ? lot::Place::kBack : lot::Place::kFront;
    const Why why = lot::wait(waiter, &mutex, Reason::kMutex, deadline, [&] { return !take_or_mark(mutex); },
                              attempt.losses < kPatience ? kPatientTag : kImpatientTag, place, &waited);
    if (!waited || waiter.granted) return Why::kReady;
    if (why != Why::kReady) return why;
  }
}

void unlock_contended(Mutex& mutex) noexcept {
  lot::Bucket& bucket = lot::bucket_of(&mutex);
  int seen;
  {
    Locked locked(bucket.lock);
    if (wake_heir(bucket, &mutex) == Heir::kImpatient) return;
    seen = lock_word(mutex).exchange(kFree, std::memory_order_release);
  }
  if (seen == kWaitersAnywhere) sys::futex_wake(&mutex.__lock, 1);
}

}  // namespace weft::sync
