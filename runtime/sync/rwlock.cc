// rwlock.cc - see rwlock.h.
#include "runtime/sync/rwlock.h"

#include <climits>

#include "runtime/base/sys.h"

namespace weft::sync {
namespace {

constexpr uint32_t kWritePhase = 1, kWriteLocked = 2, kWaiters = 4, kReader = 8;  // of __readers
constexpr uint32_t kTooManyReaders = 1u << 31;
constexpr uint32_t kFutexUsed = 2;  // of __wrphase_futex and __writers_futex

constexpr uint32_t tag_of(Access access) noexcept { return static_cast<uint32_t>(access); }
constexpr uint32_t readers_in(uint32_t state) noexcept { return state / kReader; }

std::atomic_ref<uint32_t> state_of(RwLock& lock) noexcept { return std::atomic_ref<uint32_t>(lock.__readers); }

bool is_nonrecursive(const RwLock& lock) noexcept {
  return lock.__flags == PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP;
}

void note_writer(RwLock& lock, int tid) noexcept { __atomic_store_n(&lock.__cur_writer, tid, __ATOMIC_RELAXED); }

// What the state becomes when the lock is taken; the same state: it cannot be.
uint32_t taken_by_reader(const RwLock& lock, uint32_t state) noexcept {
  if ((state & kWritePhase) != 0) return (state & kWriteLocked) != 0 ? state : (state + kReader) ^ kWritePhase;
  if ((state & kWriteLocked) != 0 && is_nonrecursive(lock)) return state;
  return state + kReader;
}
uint32_t taken_by_writer(uint32_t state) noexcept {
  return (state & kWriteLocked) != 0 || readers_in(state) != 0 ? state : state | kWritePhase | kWriteLocked;
}
uint32_t taken(const RwLock& lock, Access access, uint32_t state) noexcept {
  return access == Access::kRead ? taken_by_reader(lock, state) : taken_by_writer(state);
}

// The other words follow the phase, as libc's own lock functions expect of whoever began it.
void note_taken(RwLock& lock, Access access, uint32_t before) noexcept {
  const bool began_phase = ((before & kWritePhase) != 0) == (access == Access::kRead);
  if (access == Access::kWrite) {
    __atomic_store_n(&lock.__writers_futex, 1, __ATOMIC_RELAXED);
    if (began_phase) __atomic_store_n(&lock.__wrphase_futex, 1, __ATOMIC_RELAXED);
  } else if (began_phase) {
    if ((__atomic_exchange_n(&lock.__wrphase_futex, 0, __ATOMIC_RELAXED) & kFutexUsed) != 0)
      sys::futex_wake(&lock.__wrphase_futex, INT_MAX);
  }
}

// The core of L1, L2 and U2: takes the lock, with the mark if `mark`; or else leaves the mark if `mark`.
int take(RwLock& lock, Access access, bool mark) noexcept {
  const uint32_t bit = mark ? kWaiters : 0;
  std::atomic_ref<uint32_t> word = state_of(lock);
  uint32_t state = word.load(std::memory_order_relaxed);
  for (;;) {
    const uint32_t next = taken(lock, access, state);
    const bool possible = next != state;
    if (possible && access == Access::kRead && next >= kTooManyReaders) return EAGAIN;
    if (!possible && (state | bit) == state) return EBUSY;
    // Acquire: pairs with the release of U1, so that what the last holder wrote is seen.
    if (!word.compare_exchange_weak(state, next | bit, std::memory_order_acquire, std::memory_order_relaxed)) continue;
    if (!possible) return EBUSY;
    note_taken(lock, access, state);
    return 0;
  }
}

// Under the bucket's lock: must this reader let a writer go first?
bool must_wait_for_writer(lot::Bucket& bucket, const RwLock& lock, Access access) noexcept {
  return access == Access::kRead && is_nonrecursive(lock) &&
         lot::first(bucket, &lock, tag_of(Access::kWrite)) != nullptr;
}

// Leaves the mark, unless the lock can be taken.
bool mark_if_taken(RwLock& lock, Access access) noexcept {
  std::atomic_ref<uint32_t> word = state_of(lock);
  uint32_t state = word.load(std::memory_order_relaxed);
  for (;;) {
    if (taken(lock, access, state) != state) return false;
    if (word.compare_exchange_weak(state, state | kWaiters, std::memory_order_relaxed)) return true;
  }
}

// U2 for one waiter.
enum class Given : uint8_t { kGiven, kLeaving, kTaken };
Given give(RwLock& lock, LotWaiter& waiter) noexcept {
  if (mark_if_taken(lock, static_cast<Access>(waiter.tag))) return Given::kTaken;
  if (!lot::rouse(waiter)) return Given::kLeaving;
  waiter.granted = take(lock, static_cast<Access>(waiter.tag), true) == 0;
  const bool granted = waiter.granted;
  lot::release(waiter);
  return granted ? Given::kGiven : Given::kTaken;
}

// U2 for one kind of waiter, at most `count`.  True: the lock has found its next holders (or somebody barged in).
bool give_to(RwLock& lock, lot::Bucket& bucket, Access access, int count) noexcept {
  bool found = false;
  LotWaiter* waiter = lot::first(bucket, &lock, tag_of(access));
  for (; waiter != nullptr && count > 0; --count) {
    LotWaiter* following = lot::next(bucket, *waiter, tag_of(access));
    switch (give(lock, *waiter)) {
      case Given::kLeaving:
        ++count;
        break;
      case Given::kTaken:
        return true;
      case Given::kGiven:
        found = true;
        break;
    }
    waiter = following;
  }
  return found;
}

void hand_over_locked(RwLock& lock, lot::Bucket& bucket, bool prefer_writers) noexcept {
  if (prefer_writers) {
    if (!give_to(lock, bucket, Access::kWrite, 1)) give_to(lock, bucket, Access::kRead, INT_MAX);
  } else {
    if (!give_to(lock, bucket, Access::kRead, INT_MAX)) give_to(lock, bucket, Access::kWrite, 1);
  }
}

// L2: true: wait; false: `result` is the answer.  No mark is needed behind a writer that waits: it has left one.
bool take_or_mark(RwLock& lock, lot::Bucket& bucket, Access access, int& result) noexcept {
  if (must_wait_for_writer(bucket, lock, access)) return true;
  result = take(lock, access, true);
  return result == EBUSY;
}

Unlocked unlock_by_reader(RwLock& lock) noexcept {
  std::atomic_ref<uint32_t> word = state_of(lock);
  uint32_t state = word.load(std::memory_order_relaxed);
  for (;;) {
    if ((state & (kWritePhase | kWriteLocked)) != 0) return Unlocked::kForeign;
    const uint32_t next = readers_in(state) == 1 ? 0 : state - kReader;
    // Release: pairs with the acquire of the next holder.
    if (!word.compare_exchange_weak(state, next, std::memory_order_release, std::memory_order_relaxed)) continue;
    return next == 0 && (state & kWaiters) != 0 ? Unlocked::kWaiters : Unlocked::kDone;
  }
}

Unlocked unlock_by_writer(RwLock& lock, int tid) noexcept {
  std::atomic_ref<uint32_t> word = state_of(lock);
  uint32_t state = word.load(std::memory_order_relaxed);
  if (readers_in(state) != 0 || __atomic_load_n(&lock.__writers, __ATOMIC_RELAXED) != 0) return Unlocked::kForeign;
  note_writer(lock, 0);
  const uint32_t writers_futex = __atomic_exchange_n(&lock.__writers_futex, 0, __ATOMIC_RELAXED);
  while (readers_in(state) == 0) {
    // To "free, in a write phase", as libc does: the next holder begins its phase.  Release: as above.
    if (!word.compare_exchange_weak(state, kWritePhase, std::memory_order_release, std::memory_order_relaxed)) continue;
    if ((writers_futex & kFutexUsed) != 0) sys::futex_wake(&lock.__writers_futex, 1);
    return (state & kWaiters) != 0 ? Unlocked::kWaiters : Unlocked::kDone;
  }
  // A reader that bypasses the hooks has come to wait in the kernel: as if nothing had been done.
  __atomic_store_n(&lock.__writers_futex, writers_futex, __ATOMIC_RELAXED);
  note_writer(lock, tid);
  return Unlocked::kForeign;
}

}  // namespace

bool prefers_writers(const RwLock& lock) noexcept { return lock.__flags != PTHREAD_RWLOCK_PREFER_READER_NP; }

bool is_nonrecursive_reader(const RwLock& lock, Access access) noexcept {
  return access == Access::kRead && is_nonrecursive(lock);
}

int try_lock(RwLock& lock, Access access, int tid) noexcept {
  if (is_nonrecursive_reader(lock, access) && (__atomic_load_n(&lock.__readers, __ATOMIC_RELAXED) & kWaiters) != 0)
    return EBUSY;
  const int result = take(lock, access, false);
  if (result == 0 && access == Access::kWrite) note_writer(lock, tid);
  return result;
}

int try_read_in_turn(RwLock& lock) noexcept {
  lot::Bucket& bucket = lot::bucket_of(&lock);
  Locked locked(bucket.lock);
  return must_wait_for_writer(bucket, lock, Access::kRead) ? EBUSY : take(lock, Access::kRead, false);
}

Why lock_contended(RwLock& lock, Access access, int tid, Deadline deadline, RwLockAttempt& attempt) noexcept {
  lot::Bucket& bucket = lot::bucket_of(&lock);
  const Reason reason = access == Access::kRead ? Reason::kReadLock : Reason::kWriteLock;
  for (;; attempt.woken_in_vain = true) {
    LotWaiter waiter;
    bool waited = true;
    const Why why = lot::wait(
        waiter, &lock, reason, deadline, [&] { return take_or_mark(lock, bucket, access, attempt.error); },
        tag_of(access), attempt.woken_in_vain ? lot::Place::kFront : lot::Place::kBack, &waited);
    if (waited) {
      attempt.error = 0;
      if (why != Why::kReady) {
        if (access == Access::kWrite && is_nonrecursive(lock)) hand_over(lock, true);  // to those that it held off
        return why;
      }
      if (!waiter.granted) continue;
    }
    if (attempt.error == 0 && access == Access::kWrite) note_writer(lock, tid);
    return Why::kReady;
  }
}

Unlocked unlock(RwLock& lock, int tid) noexcept {
  return is_writer(lock, tid) ? unlock_by_writer(lock, tid) : unlock_by_reader(lock);
}

void hand_over(RwLock& lock, bool prefer_writers) noexcept {
  lot::Bucket& bucket = lot::bucket_of(&lock);
  Locked locked(bucket.lock);
  hand_over_locked(lock, bucket, prefer_writers);
}

}  // namespace weft::sync
