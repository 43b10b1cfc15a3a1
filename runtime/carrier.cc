// carrier.cc - see carrier.h.
#include "runtime/carrier.h"

#include <cerrno>
#include <new>

#include "runtime/abi/x86_64.h"
#include "runtime/base/check.h"
#include "runtime/base/sys.h"
#include "runtime/cpu_time.h"
#include "runtime/monitor.h"
#include "runtime/park.h"
#include "runtime/schedule.h"
#include "runtime/signals.h"
#include "runtime/thread.h"

namespace weft {

namespace {

bool have_membarrier = false;

constexpr uint32_t kStray = 1u << 31;                     // in assigned_: a fiber to run, no worker
constexpr uint32_t kStrayRuns = 16;                       // resumes without a worker, once demoted
constexpr uint32_t kLossesWithin = 1000;                  // milliseconds: two losses so close together demote
constexpr int64_t kShortRun = kMillisecond;               // a stray run below it counts as no burst
constexpr uint64_t kSwitchesPerLook = 256;                // how often a busy carrier reads the clock
constexpr int64_t kLookEvery = kMillisecond / 2;          // and looks at timers and epoll

}  // namespace

// --- the table's own data -----------------------------------------------------------------------------------

class Carriers {
 public:
  static SpinLock lock;
  static Carrier* spares;
  static Carrier* unborn;  // records whose kernel thread could not be made
  static std::atomic<uint32_t> threads;
  static std::atomic<uint32_t> peak;
  static std::atomic<uint32_t> spare_count;
  static std::atomic<uint32_t> newborns;
  static uint32_t limit;  // of threads; 0: none
  static int64_t idle_time;
  static bool demotes;
  static bool gives_always;

  static Carrier* allocate() noexcept {
    Locked locked(lock);
    if (limit != 0 && threads.load(std::memory_order_relaxed) >= limit) return nullptr;
    if (Carrier* carrier = unborn; carrier != nullptr) {
      unborn = carrier->next_spare_;
      count_birth();
      return carrier;
    }
    const uint32_t id = carriers::table_size.load(std::memory_order_relaxed);
    if (id == kMaxCarriers) return nullptr;
    if (carriers::table[id / carriers::kChunk] == nullptr) {
      carriers::table[id / carriers::kChunk] =
          static_cast<Carrier*>(sys::map(sizeof(Carrier) * carriers::kChunk));
      if (carriers::table[id / carriers::kChunk] == nullptr) return nullptr;
    }
    auto* carrier = new (carriers::at(id)) Carrier;
    carrier->id = id;
    carriers::table_size.store(id + 1, std::memory_order_release);
    count_birth();
    return carrier;
  }

  // lock held.
  static void count_birth() noexcept {
    const uint32_t n = threads.fetch_add(1, std::memory_order_relaxed) + 1;
    if (n > peak.load(std::memory_order_relaxed)) peak.store(n, std::memory_order_relaxed);
  }

  static void give_up(Carrier* carrier) noexcept {
    Locked locked(lock);
    forget(carrier);
  }

  // The record is free for another kernel thread.  lock held; the last touch by the thread that had it.
  static void forget(Carrier* carrier) noexcept {
    __atomic_store_n(&carrier->kernel_tid, 0, __ATOMIC_RELAXED);
    carrier->assigned_.store(0, std::memory_order_relaxed);
    if (carrier->newborn.exchange(false, std::memory_order_relaxed)) newborns.fetch_sub(1, std::memory_order_relaxed);
    carrier->owns = false;
    carrier->next_spare_ = unborn;
    unborn = carrier;
    threads.fetch_sub(1, std::memory_order_relaxed);
  }

  // An idle spare takes itself out of the list.  False: it is the last one, or somebody has just taken it.
  static bool retire(Carrier* carrier) noexcept {
    Locked locked(lock);
    if (spare_count.load(std::memory_order_relaxed) <= 1) return false;
    for (Carrier** link = &spares; *link != nullptr; link = &(*link)->next_spare_) {
      if (*link != carrier) continue;
      *link = carrier->next_spare_;
      spare_count.fetch_sub(1, std::memory_order_relaxed);
      return true;
    }
    return false;
  }
  static void bury(Carrier* carrier) noexcept {
    Locked locked(lock);
    forget(carrier);
  }
  static void keep_thread(Carrier* carrier) noexcept { carrier->keeps_thread_ = true; }

  static void assign(Carrier* carrier, Worker* worker) noexcept {
    carrier->assigned_.store(worker->index + 1, std::memory_order_release);
    sys::futex_wake(&carrier->assigned_, 1);
  }
  static void preassign(Carrier* carrier, Worker* worker) noexcept {
    carrier->assigned_.store(worker->index + 1, std::memory_order_release);
  }
  static Carrier*& next(Carrier* carrier) noexcept { return carrier->next_spare_; }
};

// --- ownership ----------------------------------------------------------------------------------------------

[[gnu::always_inline]] inline bool Carrier::enter() noexcept {
  const uint64_t tick = stay.load(std::memory_order_relaxed) & ~kInProgram;
  if (have_membarrier) [[likely]] {
    stay.store(tick, std::memory_order_relaxed);  // C3
    std::atomic_signal_fence(std::memory_order_seq_cst);
  } else {
    stay.exchange(tick, std::memory_order_seq_cst);
  }
  inside = true;
  if (!owns) return false;  // but inside all the same: as a spare it may be given a worker
  if (worker->claim.load(std::memory_order_acquire) == 0 &&  // C4
      worker->owner.load(std::memory_order_relaxed) == this) [[likely]]
    return true;
  return enter_slow();
}

bool Carrier::enter_slow() noexcept {
  while (worker->claim.load(std::memory_order_acquire) != 0) sys::yield();  // C4b
  owns = worker->owner.load(std::memory_order_acquire) == this;
  if (!owns) note_loss();
  return owns;
}

void Carrier::note_loss() noexcept {
  Fiber* fiber = running;
  if (fiber == nullptr || fiber->is_main || !Carriers::demotes) return;
  const uint32_t time = static_cast<uint32_t>(now() / kMillisecond) | 1;
  if (fiber->lost_at != 0 && time - fiber->lost_at < kLossesWithin) fiber->stray_runs = kStrayRuns;
  fiber->lost_at = time;
}

// A demoted fiber comes in from its run without a worker.
void Carrier::end_stray_run(Fiber* fiber) noexcept {
  if (now() - stray_since_ >= kShortRun)
    fiber->stray_runs = kStrayRuns;
  else if (fiber->stray_runs != 0)
    --fiber->stray_runs;
  stray_since_ = 0;
}

// Inside, owner.
bool Carrier::give_away() noexcept {
  Worker& w = *worker;
  if (Carrier* to = carriers::take_spare(); to != nullptr) {
    owns = false;
    ++counters.given_away;
    carriers::hand_over(w, to);
    return true;
  }
  if (carriers::create(&w) != nullptr) {
    owns = false;
    ++counters.given_away;
    return true;
  }
  w.owner.store(this, std::memory_order_release);
  return false;
}

void about_to_block() noexcept {
  Fiber* fiber = self.fiber;
  if (fiber == nullptr || self.busy != 0) return;
  Busy busy;
  Carrier* c = fiber->carrier;
  if (c->enter()) c->give_away();
  c->leave();
}

void Carrier::leave() noexcept {  // C1
  inside = false;
  stay.store((stay.load(std::memory_order_relaxed) | kInProgram) + 2, std::memory_order_release);
}

bool Carrier::push_local(Fiber* fiber) noexcept {
  const bool was_inside = inside;
  const uint64_t stay_before = stay.load(std::memory_order_relaxed);
  if (was_inside ? !owns : !enter()) {
    if (!was_inside) leave();
    return false;
  }
  worker->local.push(fiber);
  if (worker->local.size() >= 2 && workers::sleeping_count.load(std::memory_order_relaxed) != 0) [[unlikely]]
    workers::offer(*worker, (worker->local.size() + 1) / 2);
  if (was_inside) return true;
  // The same stay goes on: a program that computes and wakes others all the while is as stuck as one that only computes.
  inside = false;
  stay.store(stay_before, std::memory_order_release);
  return true;
}

// --- switching ----------------------------------------------------------------------------------------------

// In an asynchronous handler the program may be inside malloc, with this carrier's cache in its hands: the fiber keeps the
// cache for good.  The carrier goes on without; the next of its fibers that allocates makes one, in program code, where
// waiting for an arena that the parked fiber may have locked stops nobody else, and leaves it here.
void Carrier::pass_cache(Fiber* fiber) noexcept {
  if (fiber->is_main || fiber->own_cache || abi::facts.tcache == 0) return;
  if (fiber->async_handlers != 0) {
    fiber->own_cache = true;
    cache_given_ = true;
    malloc_words.tcache = nullptr;
    abi::tcache_of(reinterpret_cast<void*>(context.thread_pointer)) = nullptr;  // the loop's
  } else if (void* cache = abi::tcache_of(fiber->stack.tcb); cache != nullptr) {
    malloc_words.tcache = cache;
    cache_given_ = false;
  }
}

[[gnu::always_inline]] inline void Carrier::start(Fiber* fiber) noexcept {
  mark_running(fiber);
  fiber->carrier = this;
  fiber->worker = worker;
  running = fiber;
  if (!fiber->is_main && !fiber->own_cache) abi::install_malloc_words(fiber->stack.tcb, malloc_words);
  if (++counters.switches % kSwitchesPerLook == 0 && owns && now() - worker->now >= kLookEvery)
    worker->poll_due.store(true, std::memory_order_relaxed);
  if (kernel_mask != signals::wanted_kernel_mask.load(std::memory_order_relaxed)) [[unlikely]]
    signals::apply_kernel_mask(this);
  if (alternate_stack != fiber->alternate_stack.ss_sp) [[unlikely]]
    signals::wear_alternate_stack(this, fiber);
  if (schedule != fiber->schedule.load(std::memory_order_relaxed)) [[unlikely]]
    schedule::wear(*this, *fiber);
  if (cpu_time::counting.load(std::memory_order_relaxed)) [[unlikely]]
    cpu_time::begin(*this, *fiber);
}

// Gives a demoted fiber to a spare.  False: it runs here.
bool Carrier::send_away(Fiber* fiber) noexcept {
  if (fiber->stray_runs == 0) [[likely]]
    return false;
  Carrier* to = carriers::take_spare();
  if (to == nullptr) return false;
  to->stray_ = fiber;
  to->assigned_.store(kStray | (worker->index + 1), std::memory_order_release);
  sys::futex_wake(&to->assigned_, 1);
  return true;
}

// Inside, owner.  What others sent comes first to the end of the own queue; what was offered comes last.
[[gnu::always_inline]] inline Fiber* Carrier::next_ready() noexcept {
  Worker& w = *worker;
  if (w.inbox.size() != 0) [[unlikely]]
    w.inbox.drain_into(w.local);
  for (;;) {
    Fiber* fiber = w.local.pop();
    if (fiber == nullptr && w.offered.size() != 0) fiber = w.offered.pop();
    if (fiber == nullptr || !send_away(fiber)) [[likely]]
      return fiber;
  }
}

void Carrier::switch_away(Fiber* fiber, After after) noexcept {
  Carrier* c = fiber->carrier;
  Fiber* next = nullptr;
  if (fiber->async_handlers != 0 || c->cache_given_) [[unlikely]]
    c->pass_cache(fiber);
  if (!c->enter()) {
    workers::nudge(*c->worker);  // it may be asleep past the deadline that the fiber has just armed there
    if (c->stray_since_ != 0) c->end_stray_run(fiber);
  } else if (!c->worker->poll_due.load(std::memory_order_relaxed)) {
    next = c->next_ready();
    if (next == nullptr && after == After::kYield) {
      c->leave();
      return;
    }
  }
  if (cpu_time::counting.load(std::memory_order_relaxed)) [[unlikely]]
    cpu_time::end(*c, *fiber);
  c->after_ = after;
  c->left_ = fiber;
  if (after == After::kYield) mark_ready(fiber);
  if (next != nullptr) {
    c->start(next);
    switch_context(fiber->context, next->context);
  } else {
    switch_context(fiber->context, c->context);
  }
  fiber->carrier->arrive();
}

[[gnu::always_inline]] inline void Carrier::settle() noexcept {
  const After after = after_;
  Fiber* fiber = left_;
  after_ = After::kNothing;
  left_ = nullptr;
  switch (after) {
    case After::kNothing:
      break;
    case After::kPark:
      if (!commit_park(fiber)) make_ready(fiber);
      break;
    case After::kYield:
      make_ready(fiber);
      break;
    case After::kFinish:
      threads::finish(fiber);
      break;
  }
  if (!mail.empty()) [[unlikely]]
    signals::sort_mail(this);
}

void Carrier::arrive() noexcept {
  settle();
  leave();
}

// --- the loop -----------------------------------------------------------------------------------------------

void Carrier::loop() noexcept {
  for (;;) {
    running = nullptr;
    settle();
    if (!owns && !wait_as_spare()) return;
    Fiber* fiber = stray_;
    if (fiber != nullptr) {
      stray_ = nullptr;
      stray_since_ = now();
    } else {
      fiber = find_work();
    }
    start(fiber);
    if (Carriers::gives_always && owns) [[unlikely]]
      give_away();
    switch_context(context, fiber->context);
  }
}

Fiber* Carrier::find_work() noexcept {
  Worker& w = *worker;
  for (;;) {
    if (!mail.empty()) [[unlikely]]
      signals::sort_mail(this);
    if (w.poll_due.load(std::memory_order_relaxed)) {
      w.poll_due.store(false, std::memory_order_relaxed);
      // A worker that had to be taken from a stuck fiber: where one blocks, those behind it may do so too, one after
      // another, and what is due by now would come after all of them.
      FiberList behind;
      if (took_over_) behind.take_all(w.local);
      took_over_ = false;
      w.now = now();
      w.timers.fire(w.now);
      w.reactor.poll(0, w.now);
      w.local.take_all(behind);
      ++counters.epoll_waits;
    }
    if (Fiber* fiber = next_ready()) return fiber;
    if (workers::count > 1 && workers::steal_into(w)) continue;
    if (Fiber* fiber = sleep(); fiber != nullptr && !send_away(fiber)) return fiber;
  }
}

// The worker has nothing to run: waits in epoll until something is ready, due, or pushed by somebody else.
//   S1 sleeping = 1            N1 push to the inbox under its lock, reading sleeping there
//   S2 look under the lock     N2 if it was 1: exchange(0), write to the nudge descriptor
// Either S2 sees N1's fiber or N1 sees S1.
Fiber* Carrier::sleep() noexcept {
  Worker& w = *worker;
  w.sleeping.store(1, std::memory_order_seq_cst);
  workers::sleeping_count.fetch_add(1, std::memory_order_seq_cst);
  Fiber* fiber = w.inbox.pop();
  if (fiber == nullptr) {
    const int64_t next = w.timers.next();
    int64_t wait = Deadline::kNever;
    if (next != Deadline::kNever) {
      w.now = now();
      wait = next > w.now ? next - w.now : 0;
    }
    w.reactor.poll(wait, w.now);
    ++counters.epoll_waits;
  }
  workers::sleeping_count.fetch_sub(1, std::memory_order_seq_cst);
  w.sleeping.store(0, std::memory_order_seq_cst);
  monitor::worker_awake();
  w.poll_due.store(false, std::memory_order_relaxed);
  w.now = now();
  w.timers.fire(w.now);
  return fiber;
}

// Until there is something to do.  False: there was nothing for so long that the kernel thread is to end.
bool Carrier::wait_as_spare() noexcept {
  if (assigned_.load(std::memory_order_acquire) == 0) {
    // A signal that came here while it waits would find nobody to sort it.
    masked.store(true, std::memory_order_seq_cst);
    signals::block_all_for(this);
    if (!mail.empty()) signals::sort_mail(this);
    carriers::put_spare(this);
    if (newborn.exchange(false, std::memory_order_acq_rel)) Carriers::newborns.fetch_sub(1, std::memory_order_relaxed);
    bool may_end = !keeps_thread_;
    timespec until = to_timespec(now() + Carriers::idle_time);
    while (assigned_.load(std::memory_order_acquire) == 0) {
      if (sys::futex_wait(&assigned_, 0, may_end ? &until : nullptr) != -ETIMEDOUT) continue;
      if (Carriers::retire(this)) return false;
      may_end = false;
    }
    masked.store(false, std::memory_order_seq_cst);
    signals::apply_kernel_mask(this);
  }
  const uint32_t what = assigned_.load(std::memory_order_acquire);
  worker = &workers::all[(what & ~kStray) - 1];
  assigned_.store(0, std::memory_order_release);
  owns = (what & kStray) == 0;
  took_over_ = owns;
  if (owns) worker->poll_due.store(true, std::memory_order_relaxed);
  return true;
}

// --- the table of carriers ----------------------------------------------------------------------------------

Carrier* carriers::table[kMaxCarriers / kChunk];
std::atomic<uint32_t> carriers::table_size{0};

SpinLock Carriers::lock;
Carrier* Carriers::spares = nullptr;
Carrier* Carriers::unborn = nullptr;
std::atomic<uint32_t> Carriers::threads{0};
std::atomic<uint32_t> Carriers::peak{0};
std::atomic<uint32_t> Carriers::spare_count{0};
std::atomic<uint32_t> Carriers::newborns{0};
uint32_t Carriers::limit = 0;
int64_t Carriers::idle_time = 10 * kSecond;
bool Carriers::demotes = true;
bool Carriers::gives_always = false;

namespace carriers {
namespace {

constexpr size_t kLoopStack = 128 * 1024;

void* carrier_thread(void* argument) {
  auto* carrier = static_cast<Carrier*>(argument);
  self.carrier = carrier;
  self.busy = 1;  // for good: the loop is the runtime
  carrier->context.thread_pointer = abi::thread_pointer();
  carrier->kernel_tid = sys::gettid();
  carrier->malloc_words = abi::own_malloc_words();
  signals::enter_carrier();
  carrier->loop();
  self.carrier = nullptr;
  Carriers::bury(carrier);
  return nullptr;
}

void first_loop() {
  self.carrier->loop();
  WEFT_CHECK(false, "the first carrier's loop does not end");
}

// The first carrier's loop wears a TLS block of its own: libc's per-thread start runs there, and malloc makes the
// cache that this carrier's fibers will share (never main's, which stays with main wherever it runs).
abi::MallocWords prepare_loop_tls(void* tcb) noexcept {
  const uintptr_t mine = abi::thread_pointer();
  uint64_t all = ~0ULL, old;
  sys::sigprocmask(SIG_SETMASK, &all, &old);
  abi::set_thread_pointer(reinterpret_cast<uintptr_t>(tcb));
  abi::begin_thread();
  const abi::MallocWords words = abi::own_malloc_words();
  abi::set_thread_pointer(mine);
  sys::sigprocmask(SIG_SETMASK, &old, nullptr);
  return words;
}

}  // namespace

uint32_t count() noexcept { return table_size.load(std::memory_order_acquire); }
Carrier* at(uint32_t id) noexcept { return &table[id / kChunk][id % kChunk]; }
uint32_t threads() noexcept { return Carriers::threads.load(std::memory_order_relaxed); }

bool adopt_calling_thread(Fiber* fiber, Worker* worker) noexcept {
  Carrier* carrier = Carriers::allocate();
  if (carrier == nullptr) return false;
  // The loop gets a TCB and stack of its own: the process's first ones belong to the main fiber.
  Remembered nobody;
  if (!stacks::take(carrier->stack, kLoopStack, 4096, fibers::kFirstTid - 1, nobody)) return false;
  prepare_context(carrier->context, carrier->stack.top, reinterpret_cast<uintptr_t>(carrier->stack.tcb),
                  first_loop);
  const auto own = reinterpret_cast<uintptr_t>(&self) - abi::thread_pointer();
  auto* loop_self = reinterpret_cast<Self*>(reinterpret_cast<uintptr_t>(carrier->stack.tcb) + own);
  loop_self->carrier = carrier;
  loop_self->busy = 1;
  carrier->kernel_tid = sys::gettid();
  carrier->thread = pthread_self();
  carrier->malloc_words = prepare_loop_tls(carrier->stack.tcb);
  carrier->worker = worker;
  carrier->owns = true;
  carrier->running = fiber;
  fiber->carrier = carrier;
  fiber->worker = worker;
  carrier->inside = false;
  carrier->stay.store(Carrier::kInProgram, std::memory_order_relaxed);
  worker->owner.store(carrier, std::memory_order_release);
  Carriers::keep_thread(carrier);
  return true;
}

Carrier* create(Worker* worker) noexcept {
  Carrier* carrier = Carriers::allocate();
  if (carrier == nullptr) return nullptr;
  if (worker != nullptr) {
    carrier->worker = worker;
    Carriers::preassign(carrier, worker);
    worker->owner.store(carrier, std::memory_order_release);
  } else {
    carrier->newborn.store(true, std::memory_order_relaxed);
    Carriers::newborns.fetch_add(1, std::memory_order_relaxed);
  }
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) {
    Carriers::give_up(carrier);
    return nullptr;
  }
  pthread_attr_setstacksize(&attributes, kLoopStack + 64 * 1024);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  const int error = abi::libc.pthread_create(&carrier->thread, &attributes, carrier_thread, carrier);
  pthread_attr_destroy(&attributes);
  if (error != 0) {
    Carriers::give_up(carrier);
    return nullptr;
  }
  return carrier;
}

Carrier* take_spare() noexcept {
  Locked locked(Carriers::lock);
  Carrier* carrier = Carriers::spares;
  if (carrier == nullptr) return nullptr;
  Carriers::spares = Carriers::next(carrier);
  Carriers::spare_count.fetch_sub(1, std::memory_order_relaxed);
  return carrier;
}

void put_spare(Carrier* carrier) noexcept {
  Locked locked(Carriers::lock);
  Carriers::next(carrier) = Carriers::spares;
  Carriers::spares = carrier;
  Carriers::spare_count.fetch_add(1, std::memory_order_relaxed);
}

uint32_t spares() noexcept { return Carriers::spare_count.load(std::memory_order_relaxed); }
uint32_t newborns() noexcept { return Carriers::newborns.load(std::memory_order_relaxed); }
uint32_t peak() noexcept { return Carriers::peak.load(std::memory_order_relaxed); }
void set_limit(uint32_t carriers) noexcept { Carriers::limit = carriers; }
void set_idle_time(int64_t ns) noexcept { Carriers::idle_time = ns; }
void set_demotion(bool on) noexcept { Carriers::demotes = on; }
void set_give_away_always(bool on) noexcept { Carriers::gives_always = on; }
uint64_t given_away() noexcept {
  uint64_t sum = 0;
  for (uint32_t i = 0, n = count(); i < n; ++i) sum += at(i)->counters.given_away;
  return sum;
}

void prepare_membarrier() noexcept {
  constexpr long kRegisterPrivateExpedited = 1 << 4;
  have_membarrier = sys::call(SYS_membarrier, kRegisterPrivateExpedited, 0, 0) == 0;
}

bool claim(Worker& worker, const Carrier* owner, uint64_t stay) noexcept {
  constexpr long kPrivateExpedited = 1 << 3;
  worker.claim.store(1, std::memory_order_seq_cst);  // M2
  if (have_membarrier) sys::call(SYS_membarrier, kPrivateExpedited, 0, 0);
  if (worker.owner.load(std::memory_order_seq_cst) == owner) {  // M4
    const uint64_t now_at = owner->stay.load(std::memory_order_seq_cst);
    if (stay == kAnyStay ? (now_at & Carrier::kInProgram) != 0 : now_at == stay) return true;
  }
  release(worker);
  return false;
}

void release(Worker& worker) noexcept { worker.claim.store(0, std::memory_order_release); }

void hand_over(Worker& worker, Carrier* to) noexcept {
  worker.owner.store(to, std::memory_order_release);
  Carriers::assign(to, &worker);
}

void forget_all() noexcept {
  Carriers::lock.reset();
  table_size.store(0, std::memory_order_relaxed);
  Carriers::spares = Carriers::unborn = nullptr;
  Carriers::threads.store(0, std::memory_order_relaxed);
  Carriers::peak.store(0, std::memory_order_relaxed);
  Carriers::spare_count.store(0, std::memory_order_relaxed);
  Carriers::newborns.store(0, std::memory_order_relaxed);
}

}  // namespace carriers
}  // namespace weft
