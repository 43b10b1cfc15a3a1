// thread.cc - see thread.h.
#include "runtime/thread.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "runtime/abi/glibc.h"
#include "runtime/abi/static_tls.h"
#include "runtime/abi/x86_64.h"
#include "runtime/base/check.h"
#include "runtime/base/sys.h"
#include "runtime/carrier.h"
#include "runtime/park.h"
#include "runtime/signals.h"
#include "runtime/sync/robust.h"

extern "C" {
void __pthread_register_cancel(__pthread_unwind_buf_t*) __attribute__((nothrow));
int __sigsetjmp(__jmp_buf_tag*, int) __attribute__((returns_twice));
}

namespace weft::threads {
namespace {

std::atomic<uint32_t> live_count{1};
std::atomic<uint32_t> peak_count{1};

void count_birth() noexcept {
  const uint32_t n = live_count.fetch_add(1, std::memory_order_relaxed) + 1;
  uint32_t peak = peak_count.load(std::memory_order_relaxed);
  while (n > peak && !peak_count.compare_exchange_weak(peak, n, std::memory_order_relaxed)) {
  }
}

// Runs the start function so that pthread_exit and pthread_cancel unwind to here, as in libc's start_thread.
// Not inlined: the unwinder compares this frame's address.
[[gnu::noinline]] void run_start_function(Fiber* fiber) {
  __pthread_unwind_buf_t landing;
  if (__sigsetjmp(reinterpret_cast<__jmp_buf_tag*>(landing.__cancel_jmp_buf), 0) == 0) {
    __pthread_register_cancel(&landing);
    fiber->result = fiber->start(fiber->argument);
  } else if (!fiber->exited_by_call) {
    fiber->result = PTHREAD_CANCELED;
  }
}

void fiber_main() {
  Fiber* fiber = self.fiber;
  fiber->carrier->arrive();
  abi::begin_thread();
  --self.busy;  // from here on it is the program's thread
  if (self.signals_waiting.load(std::memory_order_relaxed)) deliver_kept_signals();
  run_start_function(fiber);
  end_current();
}

void reclaim(Fiber* fiber) noexcept {
  mark_free(fiber);
  if (fiber->is_main) return;  // its stack and TCB are the process's
  fibers::release(fiber);
}

// J3
void collect(Fiber* fiber, void** result) noexcept {
  while (state_of(*fiber) != State::kFinished) sys::yield();
  if (result != nullptr) *result = fiber->result;
  reclaim(fiber);
}

void prepare(Fiber* fiber, void* (*start)(void*), void* argument, bool detached) noexcept {
  fiber->start = start;
  fiber->argument = argument;
  fiber->result = nullptr;
  fiber->exited_by_call = false;
  fiber->own_cache = false;
  fiber->async_handlers = 0;
  fiber->exit.store(detached ? kDetached : kJoinable, std::memory_order_relaxed);
  fiber->is_main = false;
  fiber->stray_runs = 0;
  fiber->lost_at = 0;
  fiber->interrupted = false;
  fiber->pending.store(0, std::memory_order_relaxed);
  fiber->awaited.store(0, std::memory_order_relaxed);
  fiber->alternate_stack = {nullptr, SS_DISABLE, 0};
  const Fiber* creator = self.fiber;
  memcpy(fiber->name, creator != nullptr ? creator->name : "", creator != nullptr ? sizeof fiber->name : 1);
  fiber->schedule.store(creator != nullptr ? creator->schedule.load(std::memory_order_relaxed) : nullptr,
                        std::memory_order_relaxed);
  fiber->worker = creator != nullptr ? creator->worker : nullptr;
  prepare_context(fiber->context, fiber->stack.top, reinterpret_cast<uintptr_t>(fiber->stack.tcb), fiber_main);
  Self& its = self_of(*fiber);
  its.fiber = fiber;
  its.busy = 1;
}

}  // namespace

int create(pthread_t* thread, const Attributes& attributes, void* (*start)(void*), void* argument) noexcept {
  Busy busy;
  Fiber* fiber = attributes.caller_stack != nullptr
                     ? fibers::allocate_on(attributes.caller_stack, attributes.stack_size)
                     : fibers::allocate(attributes.stack_size, attributes.guard_size);
  if (fiber == nullptr) return EAGAIN;
  fiber->objects = abi::objects_at_last_make();
  prepare(fiber, start, argument, attributes.detached);
  signals::inherit_mask(fiber);
  count_birth();
  signals::after_birth();
  if (Carrier* carrier = current_carrier(); carrier != nullptr) ++carrier->counters.created;
  *thread = reinterpret_cast<pthread_t>(fiber->stack.tcb);
  mark_ready(fiber);
  make_ready(fiber);
  return 0;
}

int join(Fiber* fiber, void** result, Deadline deadline) noexcept {
  if (fiber == self.fiber) return EDEADLK;
  for (;;) {
    Why why;
    {
      Busy busy;
      // Two that join each other would wait for ever.
      if (self.fiber != nullptr && self.fiber->exit.load(std::memory_order_acquire) == kJoining &&
          self.fiber->joiner == fiber)
        return EDEADLK;
      Arming arming(Reason::kJoin, fiber);
      uint32_t expected = fiber->exit.load(std::memory_order_acquire);
      if (expected == kJoinable) {
        fiber->joiner = arming.parker;
        fiber->joiner_stamp = arming.stamp;
        fiber->exit.compare_exchange_strong(expected, kJoining, std::memory_order_acq_rel);  // J1
      }
      if (expected != kJoinable) {
        arming.abandon();
        if (expected != kExited) return EINVAL;
        collect(fiber, result);
        return 0;
      }
      why = park(arming, deadline);
      expected = kJoining;
      if (why == Why::kReady ||
          !fiber->exit.compare_exchange_strong(expected, kJoinable, std::memory_order_acq_rel)) {  // J2
        collect(fiber, result);
        return 0;
      }
    }
    if (why == Why::kTimeout) return ETIMEDOUT;
    if (self.fiber != nullptr) signals::handle_pending();
    // Cancellation is acted upon by the hook, which knows whether it is a cancellation point.
    if (self.fiber != nullptr &&
        (*abi::cancelhandling_of(reinterpret_cast<void*>(abi::thread_pointer())) & 8) != 0)
      return EINTR;
  }
}

int try_join(Fiber* fiber, void** result) noexcept {
  Busy busy;
  if (fiber == self.fiber) return EDEADLK;
  const uint32_t exit = fiber->exit.load(std::memory_order_acquire);
  if (exit == kDetached || exit == kJoining) return EINVAL;
  if (exit == kJoinable) return EBUSY;
  collect(fiber, result);
  return 0;
}

int detach(Fiber* fiber) noexcept {
  Busy busy;
  uint32_t expected = kJoinable;
  if (fiber->exit.compare_exchange_strong(expected, kDetached, std::memory_order_acq_rel)) return 0;
  if (expected == kDetached) return EINVAL;
  if (expected == kExited) collect(fiber, nullptr);
  return 0;
}

void note_exit(void* result) noexcept {
  self.fiber->result = result;
  self.fiber->exited_by_call = true;
}

void end_current() noexcept {
  abi::end_thread();
  Fiber* fiber = self.fiber;
  // In a fork child this thread was the only one: its end is the end of the process, as for the last thread.
  if (fiber == nullptr || live_count.fetch_sub(1, std::memory_order_acq_rel) == 1) exit(0);
  ++self.busy;
  sync::abandon_robust_locks();
  signals::leave(fiber);
  Carrier::switch_away(fiber, Carrier::After::kFinish);
  WEFT_CHECK(false, "a finished fiber was resumed");
  __builtin_unreachable();
}

void finish(Fiber* fiber) noexcept {
  const uint32_t old = fiber->exit.exchange(kExited, std::memory_order_acq_rel);  // F1
  if (old == kDetached) {
    mark_finished(fiber);
    if (!fiber->is_main) reclaim(fiber);
    return;
  }
  if (old == kJoining) wake(fiber->joiner, fiber->joiner_stamp, Why::kReady);  // F2
  mark_finished(fiber);                                                        // F3
}

uint64_t begin_load() noexcept {
  Busy busy;
  abi::begin_load();
  return abi::count_objects();
}

// A fiber whose block is older than the load gets the initial image; one made while the load went on may have got it
// from libc; the calling one may have run the library's constructors.  One that ends meanwhile may be written to after
// its slot was given back: no harm, since libc sets a module's part of a new block whatever it held.
void end_load(uint64_t begun) noexcept {
  Busy busy;
  abi::StaticTlsModules added;
  abi::end_load(added);
  abi::count_objects();
  if (added.count == 0) return;
  for (uint32_t id = 0, n = fibers::count(); id < n; ++id) {
    Fiber* fiber = fibers::at(id);
    const State state = state_of(*fiber);
    if (fiber->on_native_stack || fiber->stack.tcb == nullptr || state == State::kFree) continue;
    const auto block = fiber != self.fiber && fiber->objects <= begun ? abi::Block::kUntouched : abi::Block::kMaybeUsed;
    for (size_t i = 0; i < added.count; ++i) abi::give_static_tls(fiber->stack.tcb, added.all[i], block);
  }
}

uint64_t created() noexcept {
  uint64_t sum = 0;
  for (uint32_t i = 0, n = carriers::count(); i < n; ++i) sum += carriers::at(i)->counters.created;
  return sum;
}
uint32_t live() noexcept { return live_count.load(std::memory_order_relaxed); }
uint32_t peak() noexcept { return peak_count.load(std::memory_order_relaxed); }

void forget_all_but_caller() noexcept {
  live_count.store(1, std::memory_order_relaxed);
  peak_count.store(1, std::memory_order_relaxed);
}

}  // namespace weft::threads
