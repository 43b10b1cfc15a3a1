// signals.cc - see signals.h.
#include "runtime/signals.h"

#include <sys/signalfd.h>
#include <ucontext.h>

#include <cerrno>
#include <cstring>

#include "runtime/abi/glibc.h"
#include "runtime/abi/x86_64.h"
#include "runtime/base/check.h"
#include "runtime/base/lock.h"
#include "runtime/base/sys.h"
#include "runtime/carrier.h"
#include "runtime/fd_table.h"
#include "runtime/monitor.h"
#include "runtime/park.h"
#include "runtime/process.h"
#include "runtime/reactor.h"
#include "runtime/thread.h"

namespace weft::signals {

std::atomic<uint64_t> wanted_kernel_mask{0};

namespace {

constexpr int kSignals = 65;

constexpr uint64_t bit(int signal) noexcept { return 1ULL << (signal - 1); }
constexpr uint64_t kFaults =
    bit(SIGSEGV) | bit(SIGBUS) | bit(SIGILL) | bit(SIGFPE) | bit(SIGTRAP) | bit(SIGSYS);
constexpr uint64_t kNeverBlocked = kFaults | bit(SIGKILL) | bit(SIGSTOP) | bit(32) | bit(kPrivate);

uint64_t to_bits(const sigset_t& set) noexcept {
  uint64_t bits;
  memcpy(&bits, &set, sizeof bits);
  return bits;
}

void from_bits(uint64_t bits, sigset_t* set) noexcept {
  memset(set, 0, sizeof *set);
  memcpy(set, &bits, sizeof bits);
}

// In the kernel's frame it is one word.
uint64_t& mask_in(void* context) noexcept {
  return *reinterpret_cast<uint64_t*>(&static_cast<ucontext_t*>(context)->uc_sigmask);
}

SpinLock table_lock;
struct sigaction table[kSignals];  // what the program asked for
bool ours[kSignals];               // the kernel has our trampoline
std::atomic<uint64_t> our_signals{0};  // the same as a set
Fiber* main_fiber = nullptr;

// Infos of pending signals; when there is no room the signal still comes, with a plain info.
struct Kept {
  Fiber* fiber;
  int signal;
  uint64_t number;  // in the order of their coming
  siginfo_t info;
};
SpinLock kept_lock;
Kept kept[4096];
uint32_t kept_end = 0;  // none is in use from here on
uint64_t kept_number = 0;

// How many fibers block each signal, and which are blocked by any.
SpinLock mask_lock;
uint32_t blocked_by[kSignals];
std::atomic<uint64_t> blocked_by_any{0};

// Not Busy: that would deliver at its end, which is what its users here are about to do themselves.
class Quiet {
 public:
  Quiet() noexcept { ++self.busy; }
  ~Quiet() { --self.busy; }
};

void trampoline(int signal, siginfo_t* info, void* context);

// table_lock held.
void set_ours(int signal, bool is_ours) noexcept {
  ours[signal] = is_ours;
  if (is_ours)
    our_signals.fetch_or(bit(signal), std::memory_order_relaxed);
  else
    our_signals.fetch_and(~bit(signal), std::memory_order_relaxed);
}

bool has_handler(const struct sigaction& a) noexcept {
  return (a.sa_flags & SA_SIGINFO) != 0 || (a.sa_handler != SIG_DFL && a.sa_handler != SIG_IGN);
}

// What the kernel gets in place of the program's handler.  The kernel blocks everything until the trampoline has collected
// what is pending (it would otherwise build the frames of all at once, and the last one's handler would run first).  While
// the handler itself runs the kernel blocks nothing more than before: it may migrate, so its mask is the fiber's.
void install(int signal, const struct sigaction& wanted) noexcept {
  struct sigaction a = wanted;
  a.sa_sigaction = trampoline;
  a.sa_flags = SA_SIGINFO | SA_NODEFER | (wanted.sa_flags & (SA_RESTART | SA_NOCLDSTOP | SA_NOCLDWAIT));
  from_bits(~kFaults, &a.sa_mask);
  abi::libc.sigaction(signal, &a, nullptr);
}

// --- masks --------------------------------------------------------------------------------------------------

// mask_lock held.
void count_mask(uint64_t bits, int by) noexcept {
  uint64_t any = blocked_by_any.load(std::memory_order_relaxed);
  for (; bits != 0; bits &= bits - 1) {
    const int signal = __builtin_ctzll(bits) + 1;
    blocked_by[signal] += static_cast<uint32_t>(by);
    any = blocked_by[signal] != 0 ? any | bit(signal) : any & ~bit(signal);
  }
  blocked_by_any.store(any, std::memory_order_relaxed);
}

// mask_lock held.
void recount() noexcept {
  uint64_t wanted = 0;
  const uint32_t live = threads::live();
  for (uint64_t bits = blocked_by_any.load(std::memory_order_relaxed); bits != 0; bits &= bits - 1) {
    const int signal = __builtin_ctzll(bits) + 1;
    if (blocked_by[signal] >= live) wanted |= bit(signal);
  }
  wanted_kernel_mask.store(wanted & ~kNeverBlocked, std::memory_order_release);
}

// A signal is now blocked by all: from the moment that this returns no carrier takes it.  mask_lock held.
void apply_everywhere() noexcept;

// --- pending ------------------------------------------------------------------------------------------------

// kept_lock held.  Null: no room.
Kept* free_slot() noexcept {
  for (uint32_t i = 0; i < kept_end; ++i)
    if (kept[i].fiber == nullptr) return &kept[i];
  return kept_end < sizeof kept / sizeof kept[0] ? &kept[kept_end++] : nullptr;
}

// False: no room for a real-time signal; nothing has changed.
bool keep(Fiber* fiber, int signal, const siginfo_t* info) noexcept {
  Quiet quiet;
  Locked locked(kept_lock);
  const bool already = (fiber->pending.load(std::memory_order_relaxed) & bit(signal)) != 0;
  if (already && signal < SIGRTMIN) return true;  // standard signals are not queued twice
  Kept* slot = free_slot();
  if (slot == nullptr && signal >= SIGRTMIN) return false;
  if (slot != nullptr) {
    slot->fiber = fiber;
    slot->signal = signal;
    slot->number = kept_number++;
    if (info != nullptr) {
      slot->info = *info;
    } else {
      memset(&slot->info, 0, sizeof slot->info);
      slot->info.si_signo = signal;
      slot->info.si_code = SI_TKILL;
      slot->info.si_pid = sys::getpid();
      slot->info.si_uid = static_cast<uid_t>(sys::call(SYS_getuid));
    }
  }
  fiber->pending.fetch_or(bit(signal), std::memory_order_seq_cst);
  return true;
}

// Takes the lowest pending signal of the fiber that is in `among`, the eldest of these.  0: none.
int take(Fiber* fiber, uint64_t among, siginfo_t& info) noexcept {
  Quiet quiet;
  Locked locked(kept_lock);
  const uint64_t bits = fiber->pending.load(std::memory_order_relaxed) & among;
  if (bits == 0) return 0;
  const int signal = __builtin_ctzll(bits) + 1;
  memset(&info, 0, sizeof info);
  info.si_signo = signal;
  Kept* eldest = nullptr;
  bool more = false;
  for (uint32_t i = 0; i < kept_end; ++i) {
    Kept& k = kept[i];
    if (k.fiber != fiber || k.signal != signal) continue;
    more = eldest != nullptr;
    if (eldest == nullptr || k.number < eldest->number) eldest = &k;
  }
  if (eldest != nullptr) {
    info = eldest->info;
    eldest->fiber = nullptr;
    while (kept_end > 0 && kept[kept_end - 1].fiber == nullptr) --kept_end;
  }
  if (!more) fiber->pending.fetch_and(~bit(signal), std::memory_order_relaxed);
  return signal;
}

// Signals sent to the process while every fiber blocks them (in its handler, for instance): whoever lets one in first has it.
Fiber unclaimed;

int take_unclaimed(uint64_t among, siginfo_t& info) noexcept {
  return (unclaimed.pending.load(std::memory_order_seq_cst) & among) != 0 ? take(&unclaimed, among, info) : 0;
}

int take_deliverable(Fiber* fiber, siginfo_t& info) noexcept {
  const uint64_t open = ~fiber->signal_mask.load(std::memory_order_relaxed);
  const int signal = take(fiber, open, info);
  return signal != 0 ? signal : take_unclaimed(open, info);
}

// --- running handlers ---------------------------------------------------------------------------------------

struct sigaction handler_of(int signal) noexcept {
  Quiet quiet;
  Locked locked(table_lock);
  struct sigaction a = table[signal];
  if ((a.sa_flags & SA_RESETHAND) != 0 && has_handler(a)) {
    table[signal] = {};
    set_ours(signal, false);
    struct sigaction fresh = {};
    abi::libc.sigaction(signal, &fresh, nullptr);
  }
  return a;
}

void call(const struct sigaction& a, int signal, siginfo_t* info, void* context) {
  if ((a.sa_flags & SA_SIGINFO) != 0)
    a.sa_sigaction(signal, info, context);
  else if (has_handler(a))
    a.sa_handler(signal);
}

// The calling fiber's mask, and what follows from it for the kernel's.
void set_mask(Fiber* fiber, uint64_t bits) noexcept {
  fiber->signal_mask.store(bits, std::memory_order_relaxed);
  if (bits == fiber->counted_mask) return;
  Quiet quiet;
  Locked locked(mask_lock);
  count_mask(bits & ~fiber->counted_mask, 1);
  count_mask(fiber->counted_mask & ~bits, -1);
  fiber->counted_mask = bits;
  const uint64_t wanted_before = wanted_kernel_mask.load(std::memory_order_relaxed);
  recount();
  apply_kernel_mask(fiber->carrier);
  if ((wanted_kernel_mask.load(std::memory_order_relaxed) & ~wanted_before) != 0) apply_everywhere();
}

// On the fiber's own stack, not Busy.  Its mask during the handler is not counted: the kernel would have to be told twice
// for each signal.
void run_handler(Fiber* fiber, int signal, siginfo_t* info, void* context, bool asynchronous) {
  const struct sigaction a = handler_of(signal);
  if (!has_handler(a)) return;
  if (asynchronous) ++fiber->async_handlers;
  const uint64_t before = fiber->signal_mask.load(std::memory_order_relaxed);
  const uint64_t during = before | to_bits(a.sa_mask) | ((a.sa_flags & SA_NODEFER) != 0 ? 0 : bit(signal));
  fiber->signal_mask.store(during & ~kNeverBlocked, std::memory_order_relaxed);
  ++fiber->handled;
  call(a, signal, info, context);
  if (asynchronous) --fiber->async_handlers;
  set_mask(fiber, before);
  if ((a.sa_flags & SA_RESTART) == 0) fiber->interrupted = true;
}

// Everything deliverable of the calling fiber.  context: the interrupted one, or null at a hook.
void deliver(Fiber* fiber, void* context) {
  ucontext_t here;
  siginfo_t info;
  const bool asynchronous = context != nullptr;
  // Once more when something came while this was Quiet: nobody else would look.
  do {
    self.signals_waiting.store(false, std::memory_order_seq_cst);
    if (Carrier* carrier = fiber->carrier; !carrier->mail.empty()) sort_mail(carrier);
    while (const int signal = take_deliverable(fiber, info)) {
      if (context == nullptr) {
        getcontext(&here);
        context = &here;
      }
      run_handler(fiber, signal, &info, context, asynchronous);
    }
  } while (self.busy == 0 && self.signals_waiting.load(std::memory_order_relaxed));
}

// --- sending ------------------------------------------------------------------------------------------------

const char kick_mark = 0;  // its address, as the value of a queued signal: "look at what is pending for your fiber"

// For a signal: the same signal again, so that a call of libc that blocks there is interrupted or restarted as the
// program's SA_RESTART says.
void kick(const Carrier* carrier, int signal) noexcept {
  if (signal == 0) {
    sys::tgkill(sys::getpid(), carrier->kernel_tid, kPrivate);
    return;
  }
  siginfo_t info;
  memset(&info, 0, sizeof info);
  info.si_signo = signal;
  info.si_code = SI_QUEUE;
  info.si_pid = sys::getpid();
  info.si_value.sival_ptr = const_cast<char*>(&kick_mark);
  sys::call(SYS_rt_tgsigqueueinfo, sys::getpid(), carrier->kernel_tid, signal, sys::word(&info));
}

bool is_kick(const siginfo_t* info) noexcept {
  return info->si_code == SI_QUEUE && info->si_value.sival_ptr == &kick_mark;
}

// Asynchronous cancellation, or a cancellation point of libc that blocks here: acts in the middle of the program.
void act_on_cancellation() {
  constexpr int kAsynchronous = 2, kCanceled = 8;  // glibc's CANCELTYPE_BITMASK, CANCELED_BITMASK
  const int word = __atomic_load_n(abi::cancelhandling_of(reinterpret_cast<void*>(abi::thread_pointer())), __ATOMIC_RELAXED);
  if ((word & (kAsynchronous | kCanceled)) == (kAsynchronous | kCanceled)) pthread_testcancel();
}

// Not noexcept: cancellation unwinds through it.
void kicked(int, siginfo_t*, void* context) {
  process::take_part();
  const int saved = errno;
  if (Carrier* carrier = current_carrier();
      carrier != nullptr && !carrier->masked.load(std::memory_order_relaxed) && carrier->kernel_tid == sys::gettid()) {
    // The mask that the kernel puts back when this handler returns.
    carrier->kernel_mask = wanted_kernel_mask.load(std::memory_order_acquire);
    mask_in(context) = carrier->kernel_mask;
  }
  if (self.fiber != nullptr && self.busy == 0) {
    monitor::sample(self.fiber->carrier, context);
    if (self.signals_waiting.load(std::memory_order_relaxed)) deliver(self.fiber, context);
    act_on_cancellation();
  }
  errno = saved;
}

void apply_everywhere() noexcept {
  const uint64_t wanted = wanted_kernel_mask.load(std::memory_order_relaxed);
  const Carrier* own = current_carrier();
  for (uint32_t id = 0, n = carriers::count(); id < n; ++id) {
    Carrier* carrier = carriers::at(id);
    if (carrier == own || carrier->kernel_tid == 0 || carrier->masked.load(std::memory_order_seq_cst)) continue;
    kick(carrier, 0);
    // It runs the handler as soon as the kernel lets it; bounded for one that is stuck in the kernel.
    for (int i = 0; i < 10'000 && __atomic_load_n(&carrier->kernel_mask, __ATOMIC_ACQUIRE) != wanted &&
                    !carrier->masked.load(std::memory_order_seq_cst);
         ++i)
      sys::yield();
  }
}

sys::KernelSigaction libcs_private = {};  // what a fork child gets back: it is libc's process again

void install_kick() noexcept {
  sys::KernelSigaction action = {};
  constexpr unsigned long kRestorer = 0x04000000;  // SA_RESTORER
  action.handler = reinterpret_cast<void*>(&kicked);
  action.flags = SA_SIGINFO | SA_NODEFER | SA_RESTART | kRestorer;
  action.restorer = abi::weft_signal_return;
  sys::sigaction(kPrivate, &action, &libcs_private);
}

// S2, S3
void notify(Fiber* fiber, int signal) noexcept {
  Quiet quiet;
  if (fiber->context.thread_pointer == 0) return;  // it has ended meanwhile, and its slot is cold
  self_of(*fiber).signals_waiting.store(true, std::memory_order_seq_cst);
  const uint64_t word = fiber->word.load(std::memory_order_seq_cst);
  switch (static_cast<State>(word & 0xff)) {
    case State::kParking:
    case State::kParked:
      interrupt(fiber);
      break;
    case State::kRunning:
      if (fiber != self.fiber && fiber->carrier != nullptr && fiber->carrier != current_carrier())
        kick(fiber->carrier, signal);
      break;
    default:
      break;
  }
}

// Not blocked, or what it waits for.
bool lets_in(const Fiber* fiber, int signal) noexcept {
  return ((~fiber->signal_mask.load(std::memory_order_relaxed) | fiber->awaited.load(std::memory_order_seq_cst)) &
          bit(signal)) != 0;
}

bool post(Fiber* fiber, int signal, const siginfo_t* info) noexcept {
  if (!keep(fiber, signal, info)) return false;
  if (lets_in(fiber, signal)) notify(fiber, signal);
  return true;
}

bool blocks(const Fiber* fiber, int signal) noexcept {
  return (fiber->signal_mask.load(std::memory_order_relaxed) & bit(signal)) != 0;
}

bool is_alive(const Fiber* fiber) noexcept {
  const State state = state_of(*fiber);
  return state != State::kFree && state != State::kFinished;
}

// Which fiber handles a signal that was sent to the process; &unclaimed: none at the moment.
Fiber* choose(int signal) noexcept {
  if (main_fiber != nullptr && !blocks(main_fiber, signal)) return main_fiber;
  if (self.fiber != nullptr && !blocks(self.fiber, signal)) return self.fiber;
  for (uint32_t id = 0, n = fibers::count(); id < n; ++id) {
    Fiber* fiber = fibers::at(id);
    if (!is_alive(fiber)) continue;
    if (!blocks(fiber, signal) || (fiber->awaited.load(std::memory_order_seq_cst) & bit(signal)) != 0) return fiber;
  }
  return &unclaimed;
}

// It has been kept as unclaimed: somebody may have let it in meanwhile, and looked before it was there.
void offer_unclaimed(int signal) noexcept {
  Fiber* fiber = choose(signal);
  siginfo_t info;
  if (fiber != &unclaimed && take(&unclaimed, bit(signal), info) != 0) post(fiber, signal, &info);
}

// A kernel thread of the program: the handler runs here, unless it interrupts the runtime's code.
void on_kernel_thread(int signal, siginfo_t* info, void* context) {
  if (self.busy == 0) {
    const struct sigaction a = handler_of(signal);
    const uint64_t during = mask_in(context) | to_bits(a.sa_mask) | ((a.sa_flags & SA_NODEFER) != 0 ? 0 : bit(signal));
    sys::sigprocmask(SIG_SETMASK, &during, nullptr);  // until the kernel puts back the old one
    call(a, signal, info, context);
    return;
  }
  self.kept.fetch_or(bit(signal), std::memory_order_relaxed);
  self.signals_waiting.store(true, std::memory_order_relaxed);
  interrupt(&self.parker);  // if it is parked: SA_RESTART would put it back to sleep
}

// Timers of SIGEV_THREAD_ID; the kernel knows nothing of the tids of fibers.
struct Aim {
  int timer;  // 1 + the kernel's number; 0: free
  int tid;
};
SpinLock aims_lock;
Aim aims[1024];
uint32_t aims_end = 0;  // none is in use from here on

// The fiber that a timer's signal is for, or null.
Fiber* aimed_at(const siginfo_t* info) noexcept {
  if (info->si_code != SI_TIMER || aims_end == 0) return nullptr;
  int tid = 0;
  {
    Quiet quiet;
    Locked locked(aims_lock);
    for (uint32_t i = 0; i < aims_end; ++i)
      if (aims[i].timer == info->si_timerid + 1) tid = aims[i].tid;
  }
  return tid != 0 ? fibers::from_tid(tid) : nullptr;
}

// Finds the fiber of a signal that came to the calling carrier.
void accept(int signal, const siginfo_t* info) noexcept {
  if (is_kick(info)) return;
  // tgkill at this kernel thread, most likely by its own code (raise, abort): the fiber that runs here.  And what the
  // kernel sends for a write that the fiber has just made (kill() does not come here, see send_to_process).
  const bool by_call = (signal == SIGPIPE || signal == SIGXFSZ) && info->si_code == SI_USER && info->si_pid == sys::getpid();
  const bool directed = by_call || (info->si_code == SI_TKILL && self.busy == 0);
  Fiber* fiber = aimed_at(info);
  if (fiber == nullptr) fiber = directed && self.fiber != nullptr ? self.fiber : choose(signal);
  if (fiber == nullptr) return;
  // The kernel has let go of it: without room it comes with a plain info, and once at least.
  if (!keep(fiber, signal, info)) fiber->pending.fetch_or(bit(signal), std::memory_order_seq_cst);
  if (fiber == &unclaimed)
    offer_unclaimed(signal);
  else if ((fiber != self.fiber || self.busy != 0) && lets_in(fiber, signal))
    notify(fiber, signal);
}

// What else of ours the kernel would deliver here next.
void collect_pending() noexcept {
  const timespec none = {0, 0};
  siginfo_t info;
  for (;;) {
    const uint64_t set = our_signals.load(std::memory_order_relaxed) & ~wanted_kernel_mask.load(std::memory_order_relaxed);
    const long signal = sys::call(SYS_rt_sigtimedwait, sys::word(&set), sys::word(&info), sys::word(&none), 8);
    if (signal <= 0) return;
    accept(static_cast<int>(signal), &info);
  }
}

// The mask that the kernel sets when a handler returns is the one it saw when that began: meanwhile all fibers may have
// changed theirs, or the fiber may have moved to another carrier.  Everything is blocked here, kicks too.
void put_back_kernel_mask(void* context) noexcept {
  Carrier* carrier = current_carrier();
  carrier->kernel_mask = wanted_kernel_mask.load(std::memory_order_acquire);
  mask_in(context) = carrier->kernel_mask;
}

void trampoline(int signal, siginfo_t* info, void* context) {
  const int saved = errno;
  if (current_carrier() == nullptr) {
    on_kernel_thread(signal, info, context);
  } else if (self.busy != 0) {
    Carrier* carrier = current_carrier();
    if (!is_kick(info)) carrier->mail.put(signal, *info);
    if (self.fiber != nullptr) self.signals_waiting.store(true, std::memory_order_relaxed);
    if (carrier->worker != nullptr) carrier->worker->reactor.poke();
    put_back_kernel_mask(context);
  } else {
    accept(signal, info);
    collect_pending();
    if (self.fiber != nullptr && self.busy == 0) {
      apply_kernel_mask(current_carrier());
      deliver(self.fiber, context);
      constexpr uint64_t kAll = ~kFaults;
      sys::sigprocmask(SIG_SETMASK, &kAll, nullptr);
    }
    put_back_kernel_mask(context);
  }
  errno = saved;
}

}  // namespace

void sort_mail(Carrier* carrier) noexcept {
  Quiet quiet;
  SignalMail& mail = carrier->mail;
  mail.any.store(false, std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  while (mail.read != mail.written.load(std::memory_order_relaxed)) {
    std::atomic_signal_fence(std::memory_order_acquire);
    const SignalMail::Letter letter = mail.letters[mail.read % SignalMail::kRoom];
    std::atomic_signal_fence(std::memory_order_release);
    mail.read = mail.read + 1;
    accept(letter.signal, &letter.info);
  }
  for (uint64_t bits = mail.without_info.exchange(0, std::memory_order_relaxed); bits != 0; bits &= bits - 1) {
    siginfo_t info = {};
    info.si_signo = __builtin_ctzll(bits) + 1;
    info.si_code = SI_KERNEL;
    accept(info.si_signo, &info);
  }
}

void block_all_for(Carrier* carrier) noexcept {
  const uint64_t all = ~(kFaults | bit(kPrivate));
  carrier->kernel_mask = all;
  sys::sigprocmask(SIG_SETMASK, &all, nullptr);
}

void wear_alternate_stack(Carrier* carrier, const Fiber* fiber) noexcept {
  const stack_t wanted = fiber->alternate_stack;
  // Fails while a handler runs on it; then it stays for the next switch.
  if (sys::call(SYS_sigaltstack, sys::word(&wanted), 0) == 0) carrier->alternate_stack = wanted.ss_sp;
}

int change_alternate_stack(const stack_t* wanted, stack_t* old) noexcept {
  Fiber* fiber = self.fiber;
  Busy busy;
  const long result = sys::call(SYS_sigaltstack, sys::word(wanted), sys::word(old));
  if (result == 0 && wanted != nullptr) {
    fiber->alternate_stack = (wanted->ss_flags & SS_DISABLE) != 0 ? stack_t{nullptr, SS_DISABLE, 0} : *wanted;
    fiber->carrier->alternate_stack = fiber->alternate_stack.ss_sp;
  }
  return static_cast<int>(result);
}

void start(Fiber* main) noexcept {
  main_fiber = main;
  sys::call(SYS_sigaltstack, 0, sys::word(&main->alternate_stack));
  main->alternate_stack.ss_flags &= SS_DISABLE;
  main->carrier->alternate_stack = main->alternate_stack.ss_sp;
  install_kick();
  uint64_t mask = 0;
  sys::sigprocmask(SIG_BLOCK, nullptr, &mask);
  if ((mask & bit(kPrivate)) != 0) {  // inherited through exec
    const uint64_t let_in = bit(kPrivate);
    sys::sigprocmask(SIG_UNBLOCK, &let_in, nullptr);
    mask &= ~bit(kPrivate);
  }
  main->signal_mask.store(mask, std::memory_order_relaxed);
  main->counted_mask = mask;
  {
    Locked locked(mask_lock);
    count_mask(mask, 1);
    recount();
  }
  main->carrier->kernel_mask = mask;
  for (int signal = 1; signal < kSignals; ++signal) {
    if (signal == SIGKILL || signal == SIGSTOP || (signal >= 32 && signal < SIGRTMIN)) continue;
    if (abi::libc.sigaction(signal, nullptr, &table[signal]) != 0) continue;
    set_ours(signal, has_handler(table[signal]) && (bit(signal) & kFaults) == 0);
    if (ours[signal]) install(signal, table[signal]);
  }
}

int action(int signal, const struct sigaction* wanted, struct sigaction* old) noexcept {
  struct sigaction current;
  if (signal <= 0 || signal >= kSignals || (bit(signal) & kFaults) != 0 ||
      abi::libc.sigaction(signal, nullptr, &current) != 0)
    return abi::libc.sigaction(signal, wanted, old) == 0 ? 0 : -errno;
  Busy busy;
  Locked locked(table_lock);
  const struct sigaction asked = wanted != nullptr ? *wanted : current;
  if (old != nullptr) *old = ours[signal] ? table[signal] : current;
  if (wanted == nullptr) return 0;
  table[signal] = asked;
  set_ours(signal, has_handler(asked));
  if (ours[signal])
    install(signal, asked);
  else if (abi::libc.sigaction(signal, &asked, nullptr) != 0)
    return -errno;
  return 0;
}

int send_to(Fiber* fiber, int signal, const siginfo_t* info) noexcept {
  if (signal < 0 || signal >= kSignals || (signal >= 32 && signal < SIGRTMIN)) return EINVAL;
  if (signal == 0 || !is_alive(fiber)) return 0;
  bool handled;
  {
    Busy busy;
    Locked locked(table_lock);
    handled = ours[signal];
  }
  if (!handled && !blocks(fiber, signal)) {  // default action, ignored, or a fault's native handler: the kernel's
    return -sys::tgkill(sys::getpid(), sys::gettid(), signal);
  }
  if (!post(fiber, signal, info)) return EAGAIN;
  if (self.fiber != nullptr && self.busy == 0 &&
      (fiber == self.fiber || self.signals_waiting.load(std::memory_order_relaxed)))
    deliver(self.fiber, nullptr);
  return 0;
}

int send_to_process(int signal, const siginfo_t* info) noexcept {
  if (signal <= 0 || signal >= kSignals) return EINVAL;
  {
    Busy busy;
    Locked locked(table_lock);
    if (!ours[signal]) return -1;
  }
  Fiber* fiber = choose(signal);
  if (fiber != &unclaimed) return send_to(fiber, signal, info);
  keep(fiber, signal, info);
  offer_unclaimed(signal);
  return 0;
}

void interrupt_for_cancel(Fiber* fiber) {
  if (fiber == self.fiber) {
    act_on_cancellation();
    return;
  }
  Busy busy;
  notify(fiber, 0);
}

void interrupt_for_cancel(pthread_t thread) noexcept {
  Busy busy;
  const auto own = reinterpret_cast<uintptr_t>(&self) - abi::thread_pointer();
  auto& its = *reinterpret_cast<Self*>(thread + own);
  its.signals_waiting.store(true, std::memory_order_seq_cst);
  interrupt(&its.parker);
}

bool handle_pending() {
  Fiber* fiber = self.fiber;
  if (fiber == nullptr) {  // a kernel thread: its handlers ran when its Busy section ended
    const bool interrupted = self.interrupted;
    self.interrupted = false;
    return interrupted;
  }
  const int saved = errno;
  deliver(fiber, nullptr);
  errno = saved;
  const bool interrupted = fiber->interrupted;
  fiber->interrupted = false;
  return interrupted;
}

int change_mask(int how, const sigset_t* set, sigset_t* old) noexcept {
  Fiber* fiber = self.fiber;
  const uint64_t before = fiber->signal_mask.load(std::memory_order_relaxed);
  if (set != nullptr) {
    uint64_t bits = to_bits(*set) & ~kNeverBlocked;
    if (how == SIG_BLOCK)
      bits |= before;
    else if (how == SIG_UNBLOCK)
      bits = before & ~bits;
    else if (how != SIG_SETMASK)
      return EINVAL;
    if (bits != before) {
      Busy busy;  // what has been kept meanwhile is delivered at its end
      set_mask(fiber, bits);
    }
  }
  if (old != nullptr) from_bits(before, old);
  if (((fiber->pending.load(std::memory_order_relaxed) | unclaimed.pending.load(std::memory_order_relaxed)) &
       ~fiber->signal_mask.load(std::memory_order_relaxed)) != 0)
    deliver(fiber, nullptr);
  return 0;
}

void let_faults_in() noexcept {
  Busy busy;
  apply_kernel_mask(self.fiber->carrier);
}

bool lets_faults_in(int how, const sigset_t& set) noexcept {
  const uint64_t bits = to_bits(set) & kFaults;
  return how == SIG_SETMASK ? bits != kFaults : how == SIG_UNBLOCK && bits != 0;
}

void restore_mask(const sigset_t* mask) noexcept {
  let_faults_in();
  change_mask(SIG_SETMASK, mask, nullptr);
}

int wait_for(uint64_t set, siginfo_t* info, Deadline deadline) noexcept {
  Fiber* fiber = self.fiber;
  siginfo_t ignored;
  if (info == nullptr) info = &ignored;
  Busy busy;
  // What is sent to this fiber wakes it (post); what is sent to the process is pending in the kernel, since all fibers
  // block it, and shows on a signalfd.
  fiber->awaited.store(set, std::memory_order_seq_cst);
  int watch = -1;
  int result;
  for (;;) {
    const Seen seen = watch >= 0 ? descriptors::get(watch)->seen() : Seen{};
    self.signals_waiting.store(false, std::memory_order_seq_cst);
    if ((result = take(fiber, set, *info)) != 0 || (result = take_unclaimed(set, *info)) != 0) break;
    if ((fiber->pending.load(std::memory_order_relaxed) & ~fiber->signal_mask.load(std::memory_order_relaxed)) != 0) {
      self.signals_waiting.store(true, std::memory_order_relaxed);  // handlers run when Busy ends
      result = -EINTR;
      break;
    }
    const timespec none = {0, 0};
    if ((result = static_cast<int>(sys::call(SYS_rt_sigtimedwait, sys::word(&set), sys::word(info), sys::word(&none), 8))) > 0)
      break;
    if (deadline.passed()) {
      result = -EAGAIN;
      break;
    }
    if (watch < 0) {
      watch = static_cast<int>(sys::call(SYS_signalfd4, -1, sys::word(&set), 8, SFD_CLOEXEC | SFD_NONBLOCK));
      if (watch < 0) {
        result = watch;
        break;
      }
      watch = descriptors::hide(watch);
      continue;
    }
    const reactor::Waited waited =
        reactor::wait(watch, *descriptors::get(watch), Direction::kIn, Reason::kSignal, seen, deadline);
    if (waited == reactor::Waited::kSignal &&
        (*abi::cancelhandling_of(reinterpret_cast<void*>(abi::thread_pointer())) & 8) != 0) {
      result = -EINTR;
      break;
    }
  }
  fiber->awaited.store(0, std::memory_order_relaxed);
  if (watch >= 0) {
    descriptors::closing(watch);
    descriptors::unhide(watch);
    sys::close(watch);
  }
  return result;
}

uint64_t pending() noexcept {
  uint64_t kernel = 0;
  sys::call(SYS_rt_sigpending, sys::word(&kernel), sizeof kernel);
  const Fiber* fiber = self.fiber;
  return (kernel | fiber->pending.load(std::memory_order_relaxed) | unclaimed.pending.load(std::memory_order_relaxed)) & fiber->signal_mask.load(std::memory_order_relaxed);
}

bool aim_timer(int timer, int tid) noexcept {
  Busy busy;
  Locked locked(aims_lock);
  uint32_t i = 0;
  while (i < aims_end && aims[i].timer != 0) ++i;
  if (i == sizeof aims / sizeof aims[0]) return false;
  aims[i] = {timer + 1, tid};
  if (i == aims_end) ++aims_end;
  return true;
}

void forget_timer(int timer) noexcept {
  Busy busy;
  Locked locked(aims_lock);
  for (uint32_t i = 0; i < aims_end; ++i)
    if (aims[i].timer == timer + 1) aims[i].timer = 0;
  while (aims_end > 0 && aims[aims_end - 1].timer == 0) --aims_end;
}

void inherit_mask(Fiber* fiber) noexcept {
  const uint64_t mask = self.fiber != nullptr ? self.fiber->signal_mask.load(std::memory_order_relaxed) : 0;
  fiber->signal_mask.store(mask, std::memory_order_relaxed);
  fiber->counted_mask = mask;
  if (mask == 0) return;
  Locked locked(mask_lock);
  count_mask(mask, 1);
}

void after_birth() noexcept {
  if (blocked_by_any.load(std::memory_order_relaxed) == 0) return;
  Locked locked(mask_lock);
  recount();
}

void leave(Fiber* fiber) noexcept {
  if (fiber == main_fiber) main_fiber = nullptr;
  if (fiber->pending.load(std::memory_order_relaxed) != 0) {
    Locked locked(kept_lock);
    for (uint32_t i = 0; i < kept_end; ++i)
      if (kept[i].fiber == fiber) kept[i].fiber = nullptr;
  }
  const uint64_t mask = fiber->counted_mask;
  if (mask == 0 && blocked_by_any.load(std::memory_order_relaxed) == 0) return;
  Locked locked(mask_lock);
  count_mask(mask, -1);
  const uint64_t wanted_before = wanted_kernel_mask.load(std::memory_order_relaxed);
  recount();
  if ((wanted_kernel_mask.load(std::memory_order_relaxed) & ~wanted_before) == 0) return;
  apply_kernel_mask(fiber->carrier);
  apply_everywhere();
}

void enter_carrier() noexcept { apply_kernel_mask(self.carrier); }

void apply_kernel_mask(Carrier* carrier) noexcept {
  const uint64_t wanted = wanted_kernel_mask.load(std::memory_order_acquire);
  carrier->kernel_mask = wanted;
  sys::sigprocmask(SIG_SETMASK, &wanted, nullptr);
}

void ask_for_sample(Carrier* carrier) noexcept {
  carrier->sampled.store(true, std::memory_order_relaxed);
  kick(carrier, 0);
}

void reset_after_fork(Fiber* survivor) noexcept {
  table_lock.reset();
  kept_lock.reset();
  mask_lock.reset();
  aims_lock.reset();
  aims_end = 0;
  for (uint32_t i = 0; i < kept_end; ++i) kept[i].fiber = nullptr;
  kept_end = 0;
  memset(blocked_by, 0, sizeof blocked_by);
  blocked_by_any.store(0, std::memory_order_relaxed);
  main_fiber = nullptr;
  sys::sigaction(kPrivate, &libcs_private, nullptr);
  unclaimed.pending.store(0, std::memory_order_relaxed);
  // The child is an ordinary thread again: handlers are the program's own, the mask is the survivor's.
  for (int signal = 1; signal < kSignals; ++signal) {
    if (!ours[signal]) continue;
    abi::libc.sigaction(signal, &table[signal], nullptr);
    set_ours(signal, false);
  }
  if (survivor != nullptr) {
    const uint64_t mask = survivor->signal_mask.load(std::memory_order_relaxed);
    sys::sigprocmask(SIG_SETMASK, &mask, nullptr);
  }
}

}  // namespace weft::signals

namespace weft {

void deliver_kept_signals() {
  const int saved = errno;
  if (self.fiber != nullptr) {
    signals::deliver(self.fiber, nullptr);
    signals::act_on_cancellation();  // its kick found the thread busy
  } else {
    self.signals_waiting.store(false, std::memory_order_relaxed);
    uint64_t bits = self.kept.exchange(0, std::memory_order_relaxed);
    siginfo_t info = {};
    ucontext_t here;
    getcontext(&here);
    for (; bits != 0; bits &= bits - 1) {
      info.si_signo = __builtin_ctzll(bits) + 1;
      const struct sigaction a = signals::handler_of(info.si_signo);
      signals::call(a, info.si_signo, &info, &here);
      self.handled = true;
      if ((a.sa_flags & SA_RESTART) == 0) self.interrupted = true;
    }
  }
  errno = saved;
}

}  // namespace weft
