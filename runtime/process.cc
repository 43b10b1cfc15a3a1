// process.cc - see process.h.
#include "runtime/process.h"

#include <dirent.h>
#include <dlfcn.h>

#include <cerrno>
#include <cstring>

#include "runtime/abi/glibc.h"
#include "runtime/abi/x86_64.h"
#include "runtime/base/check.h"
#include "runtime/base/clock.h"
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

namespace {

// The call that is being made on every thread, and whose turn it is.  calling: futex, 1 taken, 2 taken and waited for.
struct Broadcast {
  std::atomic<uint32_t> calling{0};
  std::atomic<uint32_t> target{0};  // futex: the tid that is asked; 0: it has answered
  long number = 0, a = 0, b = 0, c = 0, expected = 0;
};
Broadcast broadcast;

}  // namespace

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
    descriptors::reset_after_fork();  // its locks first: closing the reactors takes one
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
    broadcast.calling.store(0, std::memory_order_relaxed);
    broadcast.target.store(0, std::memory_order_relaxed);
    signals::reset_after_fork(survivor);
    fibers::forget_all();
    threads::forget_all_but_caller();
    *abi::tid_of(reinterpret_cast<void*>(abi::thread_pointer())) = sys::gettid();  // not done by the bare call clone
    self.fiber = nullptr;
    self.carrier = nullptr;
    self.signals_waiting.store(false, std::memory_order_relaxed);
    runtime::active.store(false, std::memory_order_release);
  }
  --self.busy;
}

// --- calls on every thread ----------------------------------------------------------------------------------

namespace {

constexpr int kTids = 1 << 22;  // PID_MAX_LIMIT

// Which tids were asked; most of it is never touched.
class Asked {
 public:
  Asked() noexcept : bits_(static_cast<uint8_t*>(sys::map(kTids / 8))) {}
  ~Asked() {
    if (bits_ != nullptr) sys::unmap(bits_, kTids / 8);
  }
  Asked(const Asked&) = delete;
  Asked& operator=(const Asked&) = delete;
  explicit operator bool() const noexcept { return bits_ != nullptr; }
  // True the first time.
  bool add(int tid) noexcept {
    uint8_t& byte = bits_[tid / 8];
    const auto bit = static_cast<uint8_t>(1u << (tid % 8));
    const bool fresh = (byte & bit) == 0;
    byte = static_cast<uint8_t>(byte | bit);
    return fresh;
  }

 private:
  uint8_t* bits_;
};

// E2 for one thread.
void ask(int process, int tid) noexcept {
  broadcast.target.store(static_cast<uint32_t>(tid), std::memory_order_seq_cst);
  for (long sent; (sent = sys::tgkill(process, tid, signals::kPrivate)) != 0;) {
    if (sent == -ESRCH) return;
    WEFT_CHECK(sent == -EAGAIN, "a thread of this process cannot be signalled");
    sys::yield();  // its queue of signals is full
  }
  while (broadcast.target.load(std::memory_order_acquire) != 0) {
    const timespec look_again = to_timespec(now() + 10 * kMillisecond);
    sys::futex_wait(&broadcast.target, static_cast<uint32_t>(tid), &look_again);
    if (sys::tgkill(process, tid, 0) == -ESRCH) return;  // it ended before it answered
  }
}

// E2 for all threads that the directory shows.  True: there were new ones.
bool ask_listed(int tasks, int process, Asked& asked) noexcept {
  alignas(dirent64) char buffer[4096];
  bool found = false;
  sys::call(SYS_lseek, tasks, 0, SEEK_SET);
  for (long size; (size = sys::call(SYS_getdents64, tasks, sys::word(buffer), sizeof buffer)) > 0;) {
    for (long at = 0; at < size;) {
      const auto* entry = reinterpret_cast<const dirent64*>(buffer + at);
      at += entry->d_reclen;
      int tid = 0;
      for (const char* c = entry->d_name; *c >= '0' && *c <= '9'; ++c) tid = tid * 10 + (*c - '0');
      if (tid <= 0 || tid >= kTids || !asked.add(tid)) continue;
      ask(process, tid);
      found = true;
    }
  }
  return found;
}

// The same where there is no /proc (chroot): every number is tried, which takes a second.
bool ask_all_numbers(int process, Asked& asked) noexcept {
  bool found = false;
  for (int tid = 1; tid < kTids; ++tid) {
    if (sys::tgkill(process, tid, 0) != 0 || !asked.add(tid)) continue;
    ask(process, tid);
    found = true;
  }
  return found;
}

}  // namespace

long on_every_thread(long number, long a, long b, long c) noexcept {
  Busy busy;
  for (uint32_t free = 0; !broadcast.calling.compare_exchange_strong(free, 1, std::memory_order_acq_rel); free = 0) {
    uint32_t taken = 1;
    broadcast.calling.compare_exchange_strong(taken, 2, std::memory_order_relaxed);
    sys::futex_wait(&broadcast.calling, 2);
  }
  const long result = sys::call(number, a, b, c);  // E1
  Asked asked;
  if (!sys::failed(result)) {
    WEFT_CHECK(static_cast<bool>(asked), "no memory to change every thread's credentials");
    broadcast.number = number;
    broadcast.a = a;
    broadcast.b = b;
    broadcast.c = c;
    broadcast.expected = result;
    const int process = sys::getpid();
    asked.add(sys::gettid());
    const long tasks = sys::call(SYS_openat, AT_FDCWD, sys::word("/proc/self/task"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (tasks >= 0 ? ask_listed(static_cast<int>(tasks), process, asked) : ask_all_numbers(process, asked)) {
    }
    if (tasks >= 0) sys::close(static_cast<int>(tasks));
  }
  if (broadcast.calling.exchange(0, std::memory_order_acq_rel) == 2) sys::futex_wake(&broadcast.calling, 1 << 30);
  return result;
}

void take_part() noexcept {
  const uint32_t target = broadcast.target.load(std::memory_order_acquire);
  if (target == 0 || target != static_cast<uint32_t>(sys::gettid())) return;
  const long result = sys::call(broadcast.number, broadcast.a, broadcast.b, broadcast.c);
  // As libc: a process whose threads differ in their credentials must not go on.
  WEFT_CHECK(result == broadcast.expected, "the threads of the process would differ in their credentials");
  broadcast.target.store(0, std::memory_order_release);
  sys::futex_wake(&broadcast.target, 1);
}

bool has_global_lock() noexcept {
  return dlsym(RTLD_DEFAULT, "PyGILState_Ensure") != nullptr || dlsym(RTLD_DEFAULT, "rb_thread_call_without_gvl") != nullptr;
}

}  // namespace weft::process
