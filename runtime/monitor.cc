// monitor.cc - see monitor.h.
//
// Going to sleep, as steps:            Waking up:
//   M1 asleep = 1                        C1 worker: sleeping_count -= 1 (seq_cst)
//   M2 every worker sleeping? wait       C2 worker: asleep? exchange(0), futex wake
// Either M2 sees C1 or C2 sees M1.
#include "runtime/monitor.h"

#include <pthread.h>

#include <atomic>
#include <cstdio>
#include <cstring>

#include "runtime/abi/glibc.h"
#include "runtime/base/check.h"
#include "runtime/base/clock.h"
#include "runtime/base/sys.h"
#include "runtime/carrier.h"

namespace weft::monitor {
namespace {

constexpr int64_t kTick = kMillisecond / 2;
constexpr uint32_t kSweepTicks = 100;  // how often, and after how long, waiters on descriptors are checked
constexpr int kQuietTicks = 2 * kSweepTicks + 20;  // so long must all workers sleep before the monitor does

std::atomic<uint32_t> asleep{0};
std::atomic<uint64_t> handoff_count{0};
uint32_t threshold_ticks = 4;
Carrier* pending = nullptr;  // a spare that is being born; asked for once, not at every tick

bool has_work(const Worker& w, int64_t time) noexcept {
  return w.ready() != 0 || w.timers.next() <= time || w.reactor.registered() != 0;
}

// A spare, or null; then one is being born and will be there at a later tick.
Carrier* spare() noexcept {
  Carrier* carrier = carriers::take_spare();
  if (carrier != nullptr) return carrier;
  if (pending == nullptr || pending->born.load(std::memory_order_acquire)) pending = carriers::create(nullptr);
  return nullptr;
}

// CPU time that another kernel thread of this process has used; 0 when it cannot be told.
int64_t cpu_time(int tid) noexcept {
  timespec t{};
  const clockid_t clock = static_cast<clockid_t>(~static_cast<unsigned>(tid) << 3 | 6);  // CPUCLOCK_SCHED, per thread
  return sys::call(SYS_clock_gettime, clock, sys::word(&t)) == 0 ? t.tv_sec * kSecond + t.tv_nsec : 0;
}

// Does the kernel have the thread in a run queue (as opposed to blocked in a call or a fault)?
bool is_runnable(int tid) noexcept {
  char path[64], text[256];
  snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
  const long file = sys::call(SYS_openat, AT_FDCWD, sys::word(path), O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  const long size = sys::call(SYS_read, file, sys::word(text), sizeof text - 1);
  sys::close(static_cast<int>(file));
  if (size <= 0) return false;
  text[size] = 0;
  const char* end = strrchr(text, ')');
  return end != nullptr && end[1] == ' ' && end[2] == 'R';
}

// In program code since the last ticks.  Blocked there: the worker is needed elsewhere at once.  Computing: after the
// threshold.  Neither, the kernel has just not let it run: another kernel thread would only compete for the same CPUs.
bool is_stuck(const Worker& w) noexcept {
  const int tid = w.owner.load(std::memory_order_acquire)->kernel_tid;
  if (!is_runnable(tid)) return true;
  return w.seen_ticks >= threshold_ticks && cpu_time(tid) - w.seen_cpu >= threshold_ticks * kTick / 2;
}

void hand_over(Worker& w, uint64_t stay) noexcept {
  Carrier* to = spare();
  if (to == nullptr) return;
  if (!carriers::claim(w, stay)) {
    carriers::put_spare(to);
    return;
  }
  carriers::hand_over(w, to);
  carriers::release(w);
  handoff_count.fetch_add(1, std::memory_order_relaxed);
}

// Somebody idle can take what is ready here sooner than the handoff comes.
void share(Worker& w, uint64_t stay) noexcept {
  if (!carriers::claim(w, stay)) return;
  w.inbox.drain_into(w.local);
  workers::offer(w, w.local.size());
  carriers::release(w);
}

void look_at(Worker& w, int64_t time) noexcept {
  const uint64_t stay = w.owner.load(std::memory_order_acquire)->stay.load(std::memory_order_acquire);
  const bool in_program = (stay & Carrier::kInProgram) != 0;
  if (in_program) w.poll_due.store(true, std::memory_order_relaxed);
  if (stay != w.seen_stay) {
    w.seen_stay = stay;
    w.seen_ticks = 0;
    return;
  }
  if (!in_program) return;
  if (++w.seen_ticks == 1) w.seen_cpu = cpu_time(w.owner.load(std::memory_order_acquire)->kernel_tid);
  if (has_work(w, time) && is_stuck(w))
    hand_over(w, stay);
  else if (w.ready() != 0 && workers::sleeping_count.load(std::memory_order_relaxed) != 0)
    share(w, stay);
}

void tick() noexcept {
  const timespec pause = to_timespec(kTick);
  sys::call(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, sys::word(&pause), 0);
}

bool all_sleep() noexcept {
  return workers::sleeping_count.load(std::memory_order_seq_cst) == workers::count;
}

void* run(void*) {
  self.busy = 1;
  uint64_t all = ~0ULL;
  sys::sigprocmask(SIG_SETMASK, &all, nullptr);
  for (int quiet = 0;;) {
    tick();
    const int64_t time = now();
    for (uint32_t i = 0; i < workers::count; ++i) look_at(workers::all[i], time);
    const uint32_t ticks = reactor::sweep_tick.fetch_add(1, std::memory_order_relaxed) + 1;
    if (ticks % kSweepTicks == 0) reactor::sweep(ticks, kSweepTicks);
    quiet = all_sleep() ? quiet + 1 : 0;
    if (quiet < kQuietTicks) continue;
    asleep.store(1, std::memory_order_seq_cst);
    if (all_sleep())
      while (asleep.load(std::memory_order_acquire) == 1) sys::futex_wait(&asleep, 1);
    asleep.store(0, std::memory_order_relaxed);
    quiet = 0;
  }
  return nullptr;
}

}  // namespace

bool start(int64_t threshold_ns) noexcept {
  threshold_ticks = static_cast<uint32_t>(threshold_ns / kTick);
  if (threshold_ticks == 0) threshold_ticks = 1;
  pthread_attr_t attributes;
  pthread_t thread;
  if (pthread_attr_init(&attributes) != 0) return false;
  pthread_attr_setstacksize(&attributes, 64 * 1024);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  const int error = abi::libc.pthread_create(&thread, &attributes, run, nullptr);
  pthread_attr_destroy(&attributes);
  return error == 0;
}

void worker_awake() noexcept {
  if (asleep.load(std::memory_order_seq_cst) == 0) return;
  if (asleep.exchange(0, std::memory_order_seq_cst) == 1) sys::futex_wake(&asleep, 1);
}

uint64_t handoffs() noexcept { return handoff_count.load(std::memory_order_relaxed); }

void forget() noexcept {
  asleep.store(0, std::memory_order_relaxed);
  pending = nullptr;
}

}  // namespace weft::monitor
