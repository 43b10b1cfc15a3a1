// fiber.cc - see fiber.h.
#include "runtime/fiber.h"

#include "runtime/abi/glibc.h"
#include "runtime/abi/x86_64.h"
#include "runtime/base/check.h"
#include "runtime/base/lock.h"
#include "runtime/base/sys.h"

namespace weft {

thread_local constinit Self self;

constinit const char* const reason_names[] = {
    "nothing", "sleep", "read", "write", "accept", "connect", "poll", "epoll", "mutex", "cond", "rdlock",
    "wrlock", "semaphore", "barrier", "once", "join", "futex", "signal", "yield", "child", "spin"};
constinit const char* const state_names[] = {"free", "ready", "running", "parking", "parked", "finished"};

const char* name_of(Reason reason) noexcept { return reason_names[static_cast<size_t>(reason)]; }
const char* name_of(State state) noexcept { return state_names[static_cast<size_t>(state)]; }

Self& self_of(const Fiber& fiber) noexcept {
  const auto own = reinterpret_cast<uintptr_t>(&self) - abi::thread_pointer();
  return *reinterpret_cast<Self*>(fiber.context.thread_pointer + own);
}

namespace fibers {

constinit Fiber* table[kCapacity] = {};
constinit std::atomic<uint32_t> table_size{0};

namespace {

SpinLock lock;
std::atomic<uint32_t> tids{0};
constexpr uint32_t kTids = (1U << 30) - kFirstTid;
constinit Fiber main_fiber;

// Locks in shared memory name their owner by tid: processes (a fork's two sides above all) count from places far apart.
uint32_t first_of_process = 0;

int new_tid() noexcept {
  return kFirstTid + static_cast<int>((first_of_process + tids.fetch_add(1, std::memory_order_relaxed)) % kTids);
}

// An id for a fiber at this address.  False: the table is full.
bool enrol(Fiber* fiber) noexcept {
  Locked locked(lock);
  const uint32_t id = count();
  if (id == kCapacity) return false;
  fiber->id = id;
  table[id] = fiber;
  table_size.store(id + 1, std::memory_order_release);
  return true;
}

Remembered what_to_remember(const Fiber* fiber) noexcept {
  return {fiber->id + 1, fiber->word.load(std::memory_order_relaxed) >> 16};
}

Fiber* settle_in(const Stack& stack, int tid, const Remembered& remembered) noexcept {
  auto* fiber = new (stacks::owner_room(stack)) Fiber;
  fiber->word.store(remembered.stamp << 16 | static_cast<uint64_t>(State::kFree), std::memory_order_relaxed);
  fiber->is_fiber = true;
  fiber->tid = tid;
  fiber->stack = stack;
  if (remembered.id != 0) {
    fiber->id = remembered.id - 1;
  } else if (!enrol(fiber)) {
    stacks::put(stack, remembered);
    return nullptr;
  }
  return fiber;
}

}  // namespace

uint32_t count() noexcept { return table_size.load(std::memory_order_acquire); }
Fiber* at(uint32_t id) noexcept { return table[id]; }

Fiber* allocate(size_t stack_size, size_t guard_size) noexcept {
  Stack stack;
  Remembered remembered;
  const int tid = new_tid();
  return stacks::take(stack, stack_size, guard_size, tid, remembered) ? settle_in(stack, tid, remembered) : nullptr;
}

Fiber* allocate_on(void* caller_stack, size_t stack_size) noexcept {
  Stack stack;
  Remembered remembered;
  const int tid = new_tid();
  return stacks::take_for_caller_stack(stack, caller_stack, stack_size, tid, remembered)
             ? settle_in(stack, tid, remembered)
             : nullptr;
}

Fiber* allocate_main(int tid) noexcept {
  if (count() == 0 || table[main_fiber.id] != &main_fiber) {
    if (!enrol(&main_fiber)) return nullptr;
    main_fiber.word.store(0, std::memory_order_relaxed);
  }
  first_of_process = static_cast<uint32_t>(tid) * 2654435761U % kTids;
  main_fiber.is_fiber = true;
  main_fiber.is_main = main_fiber.on_native_stack = true;
  main_fiber.tid = tid;
  main_fiber.context.thread_pointer = abi::thread_pointer();
  main_fiber.stack.tcb = reinterpret_cast<void*>(abi::thread_pointer());
  return &main_fiber;
}

void release(Fiber* fiber) noexcept {
  const Stack stack = fiber->stack;
  stacks::put(stack, what_to_remember(fiber));
}

Fiber* from(pthread_t thread) noexcept {
  const auto own = reinterpret_cast<uintptr_t>(&self) - abi::thread_pointer();
  return reinterpret_cast<Self*>(thread + own)->fiber;
}

Fiber* from_tid(int tid) noexcept {
  for (uint32_t id = 0, n = count(); id < n; ++id) {
    Fiber* fiber = at(id);
    const auto state = static_cast<State>(fiber->word.load(std::memory_order_acquire) & 0xff);
    if (fiber->tid == tid && state != State::kFree && state != State::kFinished) return fiber;
  }
  return nullptr;
}

void before_fork() noexcept { lock.lock(); }
void after_fork() noexcept { lock.unlock(); }

void forget_all() noexcept {
  for (uint32_t id = 0, n = count(); id < n; ++id) {
    Fiber* fiber = at(id);
    const uint64_t word = fiber->word.load(std::memory_order_relaxed);
    if (static_cast<State>(word & 0xff) == State::kFree) continue;
    fiber->word.store(((word >> 16) + 1) << 16 | static_cast<uint64_t>(State::kFree), std::memory_order_relaxed);
  }
}

}  // namespace fibers
}  // namespace weft
