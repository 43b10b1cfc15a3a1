// condition.cc - see condition.h.
#include "runtime/sync/condition.h"

namespace weft::sync {
namespace {

// Changed under the bucket's lock only; S1 reads it without.
void count(Condition& condition, int change) noexcept {
  __atomic_fetch_add(&condition.__wseq.__value32.__low, static_cast<unsigned>(change), __ATOMIC_SEQ_CST);
}

}  // namespace

void ConditionWait::arm() noexcept {
  lot::link(waiter_, &condition_, arming_, ~0u, [this] {
    count(condition_, +1);
    return true;
  });
}

// True: this wait was still armed.
bool ConditionWait::leave() noexcept {
  return lot::unlink(waiter_, [this] {
    if (!waiter_.granted) count(condition_, -1);  // else a broadcast has uncounted it already
  });
}

Why ConditionWait::wait(Deadline deadline) noexcept {
  const Why why = park(arming_, deadline);
  leave();
  return why;
}

void ConditionWait::give_up() noexcept {
  arming_.abandon();
  if (!leave()) signal(condition_);
}

void signal(Condition& condition) noexcept {
  lot::Bucket& bucket = lot::bucket_of(&condition);
  Locked locked(bucket.lock);
  LotWaiter* waiter = lot::first(bucket, &condition);
  while (waiter != nullptr && !lot::rouse(*waiter)) waiter = lot::next(bucket, *waiter);
  if (waiter == nullptr) return;
  count(condition, -1);
  lot::release(*waiter);
}

void broadcast(Condition& condition) noexcept {
  lot::Bucket& bucket = lot::bucket_of(&condition);
  Locked locked(bucket.lock);
  LotWaiter* waiter = lot::first(bucket, &condition);
  // The first waiter that goes on may destroy the condition: it is not touched after this.
  if (waiter != nullptr) __atomic_store_n(&condition.__wseq.__value32.__low, 0, __ATOMIC_SEQ_CST);
  while (waiter != nullptr) {
    LotWaiter* following = lot::next(bucket, *waiter);
    if (lot::rouse(*waiter))
      lot::release(*waiter);
    else
      waiter->granted = true;
    waiter = following;
  }
}

}  // namespace weft::sync
