// robust.cc - see robust.h.
#include "runtime/sync/robust.h"

#include <cstddef>

#include "runtime/abi/glibc.h"
#include "runtime/abi/x86_64.h"
#include "runtime/base/sys.h"

namespace weft::sync {
namespace {

constexpr int kLimit = 1 << 20;  // entries of one list; a broken list does not keep a thread from ending

std::atomic<ptrdiff_t> head_offset{0};  // of the list from the thread pointer; 0: no fiber has locked a robust mutex

char* thread_control_block() noexcept { return reinterpret_cast<char*>(abi::thread_pointer()); }

// The words of the mutex whose link `entry` is.  libc sets bit 0 in links to priority-inheritance mutexes.
Mutex& mutex_at(uintptr_t entry) noexcept {
  return *reinterpret_cast<Mutex*>((entry & ~uintptr_t{1}) - offsetof(Mutex, __list.__next));
}

void tell_owner_died(Mutex& mutex, uint32_t tid) noexcept {
  auto* word = reinterpret_cast<uint32_t*>(&mutex.__lock);
  uint32_t seen = __atomic_load_n(word, __ATOMIC_RELAXED);
  do {
    if ((seen & FUTEX_TID_MASK) != tid) return;
  } while (!__atomic_compare_exchange_n(word, &seen, (seen & FUTEX_WAITERS) | FUTEX_OWNER_DIED, false,
                                        __ATOMIC_RELEASE, __ATOMIC_RELAXED));
  if ((seen & FUTEX_WAITERS) != 0) sys::call(SYS_futex, sys::word(word), FUTEX_WAKE, 1);  // not private, as libc waits
}

}  // namespace

void note_robust_lock(const Mutex& mutex) noexcept {
  if (head_offset.load(std::memory_order_relaxed) != 0) return;
  const ptrdiff_t offset = reinterpret_cast<char*>(mutex.__list.__prev) - thread_control_block();
  // Else it is not the first of the list: a recursive one, entered once more.
  if (offset > 0 && offset < static_cast<ptrdiff_t>(abi::facts.tcb_size))
    head_offset.store(offset, std::memory_order_relaxed);
}

void abandon_robust_locks() noexcept {
  const ptrdiff_t offset = head_offset.load(std::memory_order_relaxed);
  if (offset == 0) return;
  auto* head = reinterpret_cast<uintptr_t*>(thread_control_block() + offset);
  const auto tid = static_cast<uint32_t>(*abi::tid_of(thread_control_block()));
  uintptr_t entry = *head;
  for (int i = 0; i < kLimit && (entry & ~uintptr_t{1}) != reinterpret_cast<uintptr_t>(head); ++i) {
    Mutex& mutex = mutex_at(entry);
    entry = reinterpret_cast<uintptr_t>(mutex.__list.__next);  // before it is given away
    tell_owner_died(mutex, tid);
  }
  *head = reinterpret_cast<uintptr_t>(head);
}

}  // namespace weft::sync
