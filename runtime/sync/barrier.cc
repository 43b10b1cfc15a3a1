// barrier.cc - see barrier.h.
#include "runtime/sync/barrier.h"

namespace weft::sync {

// Under the bucket's lock.
bool BarrierPlace::is_last() noexcept {
  if (barrier_.in + 1 < barrier_.count) {
    ++barrier_.in;
    return false;
  }
  barrier_.in = 0;
  lot::Bucket& bucket = lot::bucket_of(&barrier_);
  while (LotWaiter* waiter = lot::first(bucket, &barrier_)) {
    lot::rouse(*waiter);  // one that runs a signal handler finds its place released
    lot::release(*waiter);
  }
  return true;
}

bool BarrierPlace::arrive() noexcept {
  Arming arming(Reason::kBarrier, &barrier_);
  const bool linked = lot::link(waiter_, &barrier_, arming, ~0u, [this] { return !is_last(); });
  arming.abandon();  // wait() arms for itself
  return linked;
}

Why BarrierPlace::wait() noexcept {
  for (;;) {
    Arming arming(Reason::kBarrier, &barrier_);
    lot::Bucket* bucket = lot::lock_bucket_of(waiter_);
    if (bucket == nullptr) {
      arming.abandon();
      return Why::kReady;
    }
    waiter_.stamp = arming.stamp;
    bucket->lock.unlock();
    if (park(arming) == Why::kSignal) return Why::kSignal;
  }
}

// Still in the queue only if a signal handler threw or ended the thread.
BarrierPlace::~BarrierPlace() { lot::unlink(waiter_); }

}  // namespace weft::sync
