// monitor.cc - see monitor.h.
//
// Going to sleep, as steps:            Waking up:
//   M1 asleep = 1                        C1 worker: sleeping_count -= 1 (seq_cst)
//   M2 every worker sleeping? wait       C2 worker: asleep? exchange(0), futex wake
// Either M2 sees C1 or C2 sees M1.
#include "runtime/monitor.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <sys/prctl.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "runtime/abi/glibc.h"
#include "runtime/abi/x86_64.h"
#include "runtime/base/check.h"
#include "runtime/base/clock.h"
#include "runtime/base/sys.h"
#include "runtime/carrier.h"
#include "runtime/signals.h"

namespace weft::monitor {
namespace {

constexpr int64_t kShortTick = kMillisecond / 25;  // in a burst of handoffs
constexpr int64_t kTick = kMillisecond / 2;        // something may be stuck; also the unit of the sweep's age
constexpr int64_t kLongTick = 4 * kMillisecond;    // all is well
constexpr int64_t kBurst = 2 * kMillisecond;       // so long after a handoff the next one is expected
constexpr uint32_t kSweepTicks = 100;  // how often, and after how long, waiters on descriptors are checked
constexpr int64_t kQuiet = (2 * kSweepTicks + 20) * kTick;  // so long must all workers sleep before the monitor does

std::atomic<uint32_t> asleep{0};
std::atomic<uint64_t> handoff_count{0};
std::atomic<uint64_t> look_count{0};
std::atomic<int> own_tid{0};
Options options;
bool warned = false;  // that no carrier can be made

// --- where ------------------------------------------------------------------------------------------------

// Program counters; those in the same kPlace bytes are one place.  Added to by the monitor and by signal handlers.
constexpr uintptr_t kPlace = 64;
constexpr uint32_t kSites = 256;
struct Site {
  std::atomic<uintptr_t> place{0};
  std::atomic<uint64_t> count{0};
};
Site sites[kSites];
std::atomic<uint64_t> elsewhere{0};

// True: the first time.
bool note(uintptr_t place) noexcept {
  const auto start = static_cast<uint32_t>((place / kPlace) * 0x9e3779b97f4a7c15ULL >> 32);
  for (uint32_t i = 0; i < kSites; ++i) {
    Site& site = sites[(start + i) % kSites];
    uintptr_t there = 0;
    const bool fresh = site.place.load(std::memory_order_relaxed) == 0 && site.place.compare_exchange_strong(there, place);
    if (!fresh && site.place.load(std::memory_order_relaxed) / kPlace != place / kPlace) continue;
    site.count.fetch_add(1, std::memory_order_relaxed);
    return fresh;
  }
  elsewhere.fetch_add(1, std::memory_order_relaxed);
  return false;
}

const char* base_name(const char* path) noexcept {
  const char* slash = strrchr(path, '/');
  return slash != nullptr ? slash + 1 : path;
}

// "flock in libc.so.6", "pigz+0x1234".  The dynamic linker's lock: never on behalf of the monitor's own tick.
void describe(uintptr_t place, char* text, size_t size) noexcept {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(place), &info) == 0 || info.dli_fname == nullptr)
    snprintf(text, size, "%#lx", static_cast<unsigned long>(place));
  else if (info.dli_sname != nullptr)
    snprintf(text, size, "%s in %s", info.dli_sname, base_name(info.dli_fname));
  else
    snprintf(text, size, "%s+%#lx", base_name(info.dli_fname),
             static_cast<unsigned long>(place - reinterpret_cast<uintptr_t>(info.dli_fbase)));
}

long read_task_file(int tid, const char* name, char* text, size_t size) noexcept {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/task/%d/%s", tid, name);
  const long file = sys::call(SYS_openat, AT_FDCWD, sys::word(path), O_RDONLY | O_CLOEXEC);
  if (file < 0) return file;
  const long got = sys::call(SYS_read, file, sys::word(text), static_cast<long>(size - 1));
  sys::close(static_cast<int>(file));
  text[got > 0 ? got : 0] = 0;
  return got;
}

// Where a thread that is blocked in the kernel left user space; 0 when it runs, or that cannot be told.
uintptr_t blocked_at(int tid) noexcept {
  char text[256];
  if (read_task_file(tid, "syscall", text, sizeof text) <= 0) return 0;
  const char* last = strrchr(text, ' ');
  return last != nullptr && text[0] != 'r' ? strtoull(last, nullptr, 16) : 0;
}

// A name for it without the dynamic linker's lock, which a stuck fiber may hold: module and offset.
void describe_at_once(uintptr_t place, char* text, size_t size) noexcept {
  dl_find_object object;
  if (_dl_find_object(reinterpret_cast<void*>(place), &object) != 0) {
    snprintf(text, size, "%#lx", static_cast<unsigned long>(place));
    return;
  }
  const char* name = base_name(object.dlfo_link_map->l_name);
  snprintf(text, size, "%s+%#lx", *name != 0 ? name : "the program",
           static_cast<unsigned long>(place - object.dlfo_link_map->l_addr));
}

void note_handoff(Carrier* from) noexcept {
  const uintptr_t place = blocked_at(from->kernel_tid);
  if (place == 0) {
    options.ask_for_sample(from);
    return;
  }
  if (!note(place) || !options.log) return;
  char text[128];
  describe_at_once(place, text, sizeof text);
  say("handoff: blocked in the kernel at %s", text);
}

// Nobody stalls, as long as there are carriers.  Once.
void warn() noexcept {
  if (warned) return;
  warned = true;
  char text[300] = "";
  size_t used = 0;
  int shown = 0;
  for (uint32_t i = 0, n = carriers::count(); i < n && shown < 3; ++i) {
    const Carrier* carrier = carriers::at(i);
    const Fiber* fiber = carrier->running;
    if (fiber == nullptr || carrier->kernel_tid == 0) continue;
    const uintptr_t place = blocked_at(carrier->kernel_tid);
    char where[96] = "computing";
    if (place != 0) describe_at_once(place, where, sizeof where);
    const int length = snprintf(text + used, sizeof text - used, "%s thread %d%s%s%s at %s", shown != 0 ? "," : ":", fiber->tid,
                                fiber->name[0] != 0 ? " \"" : "", fiber->name, fiber->name[0] != 0 ? "\"" : "", where);
    if (length > 0 && used + static_cast<size_t>(length) < sizeof text) used += static_cast<size_t>(length);
    ++shown;
  }
  say("all %u carriers are busy and there can be no more, so other threads wait%s", carriers::threads(), text);
}

// --- the decision -----------------------------------------------------------------------------------------

bool has_work(const Worker& w, int64_t time) noexcept {
  return w.ready() != 0 || w.timers.next() <= time || w.reactor.registered() != 0;
}

// Handoffs that came one upon the other.  A few are chance (a fault, a busy machine) and must not cost kernel threads;
// from here on they are a burst: where one fiber after another blocks, the next will too.
constexpr uint32_t kManyHandoffs = 4;
uint32_t in_a_row = 0;
int64_t last_handoff = 0;

// In a burst one spare is kept in stock.
void restock() noexcept {
  if (carriers::spares() + carriers::newborns() == 0 && carriers::create(nullptr) == nullptr &&
      carriers::spares() + carriers::newborns() == 0)
    warn();
}

// CPU time that another kernel thread of this process has used; 0 when it cannot be told.
int64_t cpu_time_of(int tid) noexcept {
  timespec t{};
  const clockid_t clock = static_cast<clockid_t>(~static_cast<unsigned>(tid) << 3 | 6);  // CPUCLOCK_SCHED, per thread
  return sys::call(SYS_clock_gettime, clock, sys::word(&t)) == 0 ? t.tv_sec * kSecond + t.tv_nsec : 0;
}

// Does the kernel have the thread in a run queue (as opposed to blocked in a call or a fault)?
bool is_runnable(int tid) noexcept {
  char text[256];
  if (read_task_file(tid, "stat", text, sizeof text) <= 0) return false;
  const char* end = strrchr(text, ')');
  return end != nullptr && end[1] == ' ' && end[2] == 'R';
}

// In program code since the last look.  Blocked there: the worker is needed elsewhere at once.  Computing: after the
// threshold.  Neither, the kernel has just not let it run: another kernel thread would only compete for the same CPUs.
bool is_stuck(const Worker& w, int64_t time) noexcept {
  const int tid = w.seen_owner->kernel_tid;
  const int64_t waited = time - w.seen_at, used = cpu_time_of(tid) - w.seen_cpu;
  if (waited >= options.threshold_ns && used >= options.threshold_ns / 2) return true;
  return used < waited / 2 && !is_runnable(tid);
}

bool hand_over(Worker& w, Carrier* from, uint64_t stay) noexcept {
  Carrier* to = carriers::take_spare();
  if (to == nullptr) {
    restock();
    return false;
  }
  if (!carriers::claim(w, from, stay)) {
    carriers::put_spare(to);
    return false;
  }
  carriers::hand_over(w, to);
  carriers::release(w);
  handoff_count.fetch_add(1, std::memory_order_relaxed);
  const int64_t time = now();
  in_a_row = time - last_handoff < kBurst ? in_a_row + 1 : 1;
  last_handoff = time;
  if (in_a_row >= kManyHandoffs) restock();
  if (options.sites && !options.force) note_handoff(from);
  return true;
}

// Somebody idle can take what is ready here sooner than the handoff comes.
void share(Worker& w, const Carrier* owner, uint64_t stay) noexcept {
  if (!carriers::claim(w, owner, stay)) return;
  w.inbox.drain_into(w.local);
  workers::offer(w, w.local.size());
  carriers::release(w);
}

enum class Look : uint8_t { kFine, kWaiting, kHandedOver };

Look look_at(Worker& w, int64_t time, bool burst) noexcept {
  Carrier* owner = w.owner.load(std::memory_order_acquire);
  const uint64_t stay = owner->stay.load(std::memory_order_acquire);
  const bool in_program = (stay & Carrier::kInProgram) != 0;
  if (in_program) w.poll_due.store(true, std::memory_order_relaxed);
  if (options.force)
    return in_program && hand_over(w, owner, carriers::kAnyStay) ? Look::kHandedOver : Look::kFine;
  if (stay != w.seen_stay || owner != w.seen_owner) {
    w.seen_owner = owner;
    w.seen_stay = stay;
    w.seen_at = time;
    if (!in_program) return Look::kFine;
    w.seen_cpu = cpu_time_of(owner->kernel_tid);
    // Where one fiber after another blocks, the next one need not be seen twice.
    if (!burst || !has_work(w, time) || is_runnable(owner->kernel_tid)) return Look::kFine;
    return hand_over(w, owner, stay) ? Look::kHandedOver : Look::kWaiting;
  }
  if (!in_program || !has_work(w, time)) return Look::kFine;
  if (is_stuck(w, time)) return hand_over(w, owner, stay) ? Look::kHandedOver : Look::kWaiting;
  if (w.ready() != 0 && workers::sleeping_count.load(std::memory_order_relaxed) != 0) share(w, owner, stay);
  return Look::kWaiting;
}

// How long until the next look.
class Tick {
 public:
  void after(Look look, int64_t time) noexcept {
    if (look == Look::kHandedOver && in_a_row >= kManyHandoffs) burst_until_ = time + kBurst;
    if (time < burst_until_)
      length_ = kShortTick;
    else if (look != Look::kFine || length_ < kTick)
      length_ = kTick;
    else
      length_ = length_ * 2 < kLongTick ? length_ * 2 : kLongTick;
  }
  void reset() noexcept { length_ = kTick; }
  bool is_short() const noexcept { return length_ == kShortTick; }
  void sleep() const noexcept {
    if (options.force) return sys::yield();
    const timespec pause = to_timespec(length_);
    sys::call(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, sys::word(&pause), 0);
  }

 private:
  int64_t length_ = kTick;
  int64_t burst_until_ = 0;
};

bool all_sleep() noexcept {
  return workers::sleeping_count.load(std::memory_order_seq_cst) == workers::count;
}

void* run(void*) {
  self.busy = 1;
  const uint64_t all = ~(1ULL << (signals::kPrivate - 1));  // but setuid and its like concern it as well
  sys::sigprocmask(SIG_SETMASK, &all, nullptr);
  sys::call(SYS_prctl, PR_SET_TIMERSLACK, 1000);
  own_tid.store(sys::gettid(), std::memory_order_relaxed);
  Tick tick;
  int64_t quiet_since = now(), sweep_at = quiet_since + kSweepTicks * kTick, counted = quiet_since;
  for (;;) {
    tick.sleep();
    look_count.fetch_add(1, std::memory_order_relaxed);
    const int64_t time = now();
    Look look = Look::kFine;
    for (uint32_t i = 0; i < workers::count; ++i) {
      const Look one = look_at(workers::all[i], time, tick.is_short());
      if (one > look) look = one;
    }
    tick.after(look, time);
    const auto ticks = static_cast<uint32_t>((time - counted) / kTick);
    counted += ticks * kTick;
    const uint32_t sum = reactor::sweep_tick.fetch_add(ticks, std::memory_order_relaxed) + ticks;
    if (time >= sweep_at) {
      reactor::sweep(sum, kSweepTicks);
      sweep_at = time + kSweepTicks * kTick;
    }
    if (!all_sleep()) quiet_since = time;
    if (time - quiet_since < kQuiet) continue;
    asleep.store(1, std::memory_order_seq_cst);
    if (all_sleep())
      while (asleep.load(std::memory_order_acquire) == 1) sys::futex_wait(&asleep, 1);
    asleep.store(0, std::memory_order_relaxed);
    quiet_since = counted = now();
    tick.reset();
  }
  return nullptr;
}

}  // namespace

bool start(const Options& wanted) noexcept {
  options = wanted;
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

uint64_t looks() noexcept { return look_count.load(std::memory_order_relaxed); }

int64_t cpu_time() noexcept {
  const int tid = own_tid.load(std::memory_order_relaxed);
  return tid != 0 ? cpu_time_of(tid) : 0;
}

void sample(Carrier* carrier, const void* context) noexcept {
  if (!carrier->sampled.load(std::memory_order_relaxed)) [[likely]]
    return;
  carrier->sampled.store(false, std::memory_order_relaxed);
  const auto place = abi::program_counter(context);
  if (!note(place) || !options.log) return;
  char text[128];
  describe_at_once(place, text, sizeof text);
  say("handoff: computing at %s", text);
}

void print_sites() noexcept {
  struct Line {
    char text[128];
    uint64_t count;
  };
  static Line lines[kSites];
  uint32_t used = 0;
  for (const Site& site : sites) {
    const uintptr_t place = site.place.load(std::memory_order_relaxed);
    if (place == 0) continue;
    describe(place, lines[used].text, sizeof lines[used].text);
    uint32_t same = 0;
    while (strcmp(lines[same].text, lines[used].text) != 0) ++same;
    if (same == used) lines[used++].count = 0;
    lines[same].count += site.count.load(std::memory_order_relaxed);
  }
  for (int shown = 0; shown < 10; ++shown) {
    Line* most = nullptr;
    for (uint32_t i = 0; i < used; ++i)
      if (lines[i].count != 0 && (most == nullptr || lines[i].count > most->count)) most = &lines[i];
    if (most == nullptr) return;
    say("handoffs at %s: %llu", most->text, static_cast<unsigned long long>(most->count));
    most->count = 0;
  }
}

void forget() noexcept {
  asleep.store(0, std::memory_order_relaxed);
  own_tid.store(0, std::memory_order_relaxed);
  warned = false;
}

}  // namespace weft::monitor
