// process.cc - see process.h.
#include "runtime/process.h"

#include <dlfcn.h>

#include "runtime/abi/glibc.h"
#include "runtime/abi/x86_64.h"
#include "runtime/base/sys.h"
#include "runtime/carrier.h"
#include "runtime/fd_table.h"
#include "runtime/monitor.h"
#include "runtime/park.h"
#include "runtime/parking_lot.h"
#include "runtime/runtime.h"
#include "runtime/signals.h"
#include "runtime/thread.h"

namespace weft::process {

void before_fork() noexcept {
  ++self.busy;
  if (!runtime::is_active()) return;
  fibers::before_fork();
  stacks::before_fork();
}

void after_fork_in_parent() noexcept {
  if (runtime::is_active()) {
    stacks::after_fork();
    fibers::after_fork();
    descriptors::shared_by_fork();
  }
  --self.busy;
  if (self.busy == 0 && self.signals_waiting.load(std::memory_order_relaxed)) deliver_kept_signals();
}

void after_fork_in_child() noexcept {
  if (runtime::is_active()) {
    Fiber* survivor = self.fiber;
    stacks::after_fork();
    fibers::after_fork();
    for (uint32_t i = 0; i < workers::count; ++i) {
      Worker& w = workers::all[i];
      w.owner.store(nullptr, std::memory_order_relaxed);
      w.claim.store(0, std::memory_order_relaxed);
      w.local.reset();
      w.offered.reset();
      w.inbox.reset();
      w.timers.reset();
      w.reactor.close();
      w.sleeping.store(0, std::memory_order_relaxed);
      w.seen_stay = 0;
      w.seen_owner = nullptr;
    }
    workers::count = 0;
    workers::sleeping_count.store(0, std::memory_order_relaxed);
    carriers::forget_all();
    monitor::forget();
    lot::reset_after_fork();
    descriptors::reset_after_fork();
    signals::reset_after_fork(survivor);
    fibers::forget_all();
    threads::forget_all_but_caller();
    self.fiber = nullptr;
    self.carrier = nullptr;
    self.signals_waiting.store(false, std::memory_order_relaxed);
    runtime::active.store(false, std::memory_order_release);
  }
  --self.busy;
}

bool has_global_lock() noexcept {
  return dlsym(RTLD_DEFAULT, "PyGILState_Ensure") != nullptr || dlsym(RTLD_DEFAULT, "rb_thread_call_without_gvl") != nullptr;
}

}  // namespace weft::process
