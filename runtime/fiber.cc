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

Fiber* table[kChunks];
std::atomic<uint32_t> table_size{0};

namespace {

SpinLock lock;
Fiber* free_list = nullptr;
int next_tid = kFirstTid;
constexpr int kLastTid = (1 << 30) - 1;

}  // namespace

uint32_t count() noexcept { return table_size.load(std::memory_order_acquire); }
Fiber* at(uint32_t id) noexcept { return &table[id / kChunk][id % kChunk]; }

Fiber* allocate() noexcept {
  Locked locked(lock);
  Fiber* fiber = free_list;
  if (fiber != nullptr) {
    free_list = fiber->next;
  } else {
    const uint32_t id = count();
    if (id == kChunk * kChunks) return nullptr;
    if (id % kChunk == 0 && table[id / kChunk] == nullptr) {
      void* memory = sys::map(sizeof(Fiber) * kChunk);
      if (memory == nullptr) return nullptr;
      table[id / kChunk] = static_cast<Fiber*>(memory);
    }
    fiber = new (at(id)) Fiber;
    fiber->word.store(0, std::memory_order_relaxed);
    fiber->id = id;
    fiber->is_fiber = true;
    table_size.store(id + 1, std::memory_order_release);
  }
  fiber->next = nullptr;
  fiber->tid = next_tid;
  next_tid = next_tid == kLastTid ? kFirstTid : next_tid + 1;
  return fiber;
}

void release(Fiber* fiber) noexcept {
  Locked locked(lock);
  fiber->next = free_list;
  free_list = fiber;
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

void forget_all_but(Fiber* survivor) noexcept {
  for (uint32_t id = 0, n = count(); id < n; ++id) {
    Fiber* fiber = at(id);
    if (fiber == survivor) continue;
    const uint64_t stamp = fiber->word.load(std::memory_order_relaxed) >> 16;
    const auto state = static_cast<State>(fiber->word.load(std::memory_order_relaxed) & 0xff);
    if (state == State::kFree) continue;
    fiber->word.store((stamp + 1) << 16 | static_cast<uint64_t>(State::kFree), std::memory_order_relaxed);
    fiber->next = free_list;
    free_list = fiber;
  }
}

}  // namespace fibers
}  // namespace weft
