// stacks.cc - see stacks.h.
#include "runtime/memory/stacks.h"

#include <atomic>

#include "runtime/abi/glibc.h"
#include "runtime/base/check.h"
#include "runtime/base/lock.h"
#include "runtime/base/sys.h"

namespace weft::stacks {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kChunk = 64UL << 20;  // slots are carved from mappings of about this size: few VMAs
constexpr size_t kClasses = 48;
constexpr size_t kHotSlots = 64;  // free slots per class that keep their memory
constexpr int kGuardInstall = 102;  // MADV_GUARD_INSTALL, Linux 6.13: a guard without a VMA of its own

size_t round_up(size_t n, size_t to) noexcept { return (n + to - 1) / to * to; }

// A free slot is described by a record of its own, so that the slot itself need not be touched.
struct Free {
  Free* next;
  char* slot;
  void* tcb;
  Remembered remembered;
};

struct Class {
  SpinLock lock;
  size_t size = 0;   // usable bytes
  size_t guard = 0;
  Free* hot = nullptr;   // TCB made, memory resident
  Free* cold = nullptr;  // no memory behind it
  size_t hot_count = 0;
  char* fresh = nullptr;  // never used part of the newest chunk
  size_t fresh_left = 0;
};

constinit Class classes[kClasses];
std::atomic<size_t> class_count{0};
SpinLock classes_lock;

SpinLock records_lock;
Free* free_records = nullptr;
char* record_chunk = nullptr;
size_t record_chunk_left = 0;

Free* new_record() noexcept {
  Locked locked(records_lock);
  if (free_records != nullptr) {
    Free* record = free_records;
    free_records = record->next;
    return record;
  }
  if (record_chunk_left < sizeof(Free)) {
    record_chunk = static_cast<char*>(sys::map(64 * kPage));
    if (record_chunk == nullptr) return nullptr;
    record_chunk_left = 64 * kPage;
  }
  auto* record = reinterpret_cast<Free*>(record_chunk);
  record_chunk += sizeof(Free);
  record_chunk_left -= sizeof(Free);
  return record;
}

void drop_record(Free* record) noexcept {
  Locked locked(records_lock);
  record->next = free_records;
  free_records = record;
}

// Few classes: sizes are rounded so that odd requests share one.
Class* find_class(size_t size, size_t guard) noexcept {
  size = round_up(size, size <= 16 * kPage ? kPage : size <= (1UL << 20) ? 16 * kPage : (1UL << 20));
  guard = round_up(guard, kPage);
  for (size_t i = 0, n = class_count.load(std::memory_order_acquire); i < n; ++i)
    if (classes[i].size == size && classes[i].guard == guard) return &classes[i];
  Locked locked(classes_lock);
  const size_t n = class_count.load(std::memory_order_relaxed);
  Class* fits = nullptr;
  for (size_t i = 0; i < n; ++i) {
    Class& c = classes[i];
    if (c.size == size && c.guard == guard) return &c;
    if (c.size >= size && c.guard >= guard && (fits == nullptr || c.size < fits->size)) fits = &c;
  }
  if (n == kClasses) return fits;
  classes[n].size = size;
  classes[n].guard = guard;
  class_count.store(n + 1, std::memory_order_release);
  return &classes[n];
}

// Class lock held.
char* carve(Class& c) noexcept {
  const size_t slot = c.size + c.guard;
  if (c.fresh_left < slot) {
    size_t chunk = slot * (kChunk / slot > 0 ? kChunk / slot : 1);
    c.fresh = static_cast<char*>(sys::map(chunk, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK));
    if (c.fresh == nullptr && chunk > slot) {  // a limit on address space: as much as one thread would take
      chunk = slot;
      c.fresh = static_cast<char*>(sys::map(chunk));
    }
    c.fresh_left = c.fresh == nullptr ? 0 : chunk;
    if (c.fresh == nullptr) return nullptr;
    sys::advise(c.fresh, chunk, MADV_NOHUGEPAGE);
  }
  char* p = c.fresh;
  if (c.guard != 0 && sys::advise(p, c.guard, kGuardInstall) != 0 &&
      sys::protect(p, c.guard, PROT_NONE) != 0)
    return nullptr;
  c.fresh += slot;
  c.fresh_left -= slot;
  return p;
}

void describe(Stack& stack, const Class& c, char* slot, size_t size) noexcept {
  char* end = slot + c.guard + c.size;
  stack.size_class = static_cast<uint16_t>(&c - classes);
  stack.guard = static_cast<uint32_t>(c.guard);
  stack.low = end - size;
  stack.size = size;
  stack.tcb = end - abi::facts.tcb_size;
  stack.top = static_cast<char*>(owner_room(stack));
}

// Where the slot of a stack begins; the TCB lies at its end.
char* slot_of(const Stack& stack, const Class& c) noexcept {
  return static_cast<char*>(stack.tcb) + abi::facts.tcb_size - c.size - c.guard;
}

// What a TCB on its own needs: a class whose "stack" is just the block.
size_t block_size() noexcept { return round_up(abi::facts.tcb_size + abi::facts.tls_size + kOwnerRoom, kPage); }

bool take_slot(Stack& stack, size_t size, size_t guard, Remembered& remembered) noexcept {
  Class* c = find_class(size, guard);
  if (c == nullptr) return false;
  Free* record = nullptr;
  char* slot = nullptr;
  {
    Locked locked(c->lock);
    if ((record = c->hot) != nullptr) {
      c->hot = record->next;
      --c->hot_count;
    } else if ((record = c->cold) != nullptr) {
      c->cold = record->next;
    } else {
      slot = carve(*c);
    }
  }
  stack.tcb_made = record != nullptr && record->tcb != nullptr;
  if (record != nullptr) {
    slot = record->slot;
    remembered = record->remembered;
    drop_record(record);
  }
  if (slot == nullptr) return false;
  describe(stack, *c, slot, size);
  return true;
}

bool ready_tcb(Stack& stack, void* low, size_t size, size_t guard, int tid, const Remembered& remembered) noexcept {
  const bool ok = stack.tcb_made ? abi::reset_tcb(stack.tcb, low, size, guard, tid)
                                 : abi::make_tcb(stack.tcb, low, size, guard, tid);
  stack.tcb_made = ok;
  if (!ok) put(stack, remembered);
  return ok;
}

}  // namespace

void* owner_room(const Stack& stack) noexcept {
  return static_cast<char*>(stack.tcb) - abi::facts.tls_size - kOwnerRoom;
}

bool take(Stack& stack, size_t size, size_t guard, int tid, Remembered& remembered) noexcept {
  const size_t least = round_up(abi::facts.tcb_size + abi::facts.tls_size, kPage) + 2 * kPage;
  size = round_up(size < least ? least : size, kPage);
  return take_slot(stack, size, guard, remembered) &&
         ready_tcb(stack, stack.low, stack.size, stack.guard, tid, remembered);
}

bool take_for_caller_stack(Stack& stack, void* low, size_t size, int tid, Remembered& remembered) noexcept {
  if (!take_slot(stack, block_size(), 0, remembered)) return false;
  stack.low = static_cast<char*>(low);
  stack.size = size;
  stack.guard = 0;
  stack.top = static_cast<char*>(low) + size;
  return ready_tcb(stack, low, size, 0, tid, remembered);
}

void put(const Stack& stack, const Remembered& remembered) noexcept {
  Class& c = classes[stack.size_class];
  Free* record = new_record();
  if (record == nullptr) return;  // the address range is lost, nothing else
  record->slot = slot_of(stack, c);
  record->remembered = remembered;
  record->tcb = stack.tcb_made ? stack.tcb : nullptr;
  bool hot = false;
  {
    Locked locked(c.lock);
    if (record->tcb != nullptr && c.hot_count < kHotSlots) {
      record->next = c.hot;
      c.hot = record;
      ++c.hot_count;
      hot = true;
    }
  }
  if (!hot) {
    if (record->tcb != nullptr) abi::destroy_tcb(record->tcb);
    record->tcb = nullptr;
    sys::advise(record->slot + c.guard, c.size, MADV_DONTNEED);
    Locked locked(c.lock);
    record->next = c.cold;
    c.cold = record;
  }
}

void before_fork() noexcept {
  classes_lock.lock();
  for (Class& c : classes) c.lock.lock();
  records_lock.lock();
}

void after_fork() noexcept {
  records_lock.unlock();
  for (Class& c : classes) c.lock.unlock();
  classes_lock.unlock();
}

}  // namespace weft::stacks
