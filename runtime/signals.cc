// signals.cc - see signals.h.
#include "runtime/signals.h"

#include <ucontext.h>

#include <cerrno>
#include <cstring>

#include "runtime/abi/glibc.h"
#include "runtime/base/check.h"
#include "runtime/base/lock.h"
#include "runtime/base/sys.h"
#include "runtime/carrier.h"
#include "runtime/park.h"
#include "runtime/thread.h"

namespace weft::signals {

std::atomic<uint64_t> wanted_kernel_mask{0};

namespace {

constexpr int kSignals = 65;

constexpr uint64_t bit(int signal) noexcept { return 1ULL << (signal - 1); }
constexpr uint64_t kFaults =
    bit(SIGSEGV) | bit(SIGBUS) | bit(SIGILL) | bit(SIGFPE) | bit(SIGTRAP) | bit(SIGSYS);
constexpr uint64_t kNeverBlocked = kFaults | bit(SIGKILL) | bit(SIGSTOP);

uint64_t to_bits(const sigset_t& set) noexcept {
  uint64_t bits;
  memcpy(&bits, &set, sizeof bits);
  return bits;
}

void from_bits(uint64_t bits, sigset_t* set) noexcept {
  memset(set, 0, sizeof *set);
  memcpy(set, &bits, sizeof bits);
}

SpinLock table_lock;
struct sigaction table[kSignals];  // what the program asked for
bool ours[kSignals];               // the kernel has our trampoline
Fiber* main_fiber = nullptr;
const char kick_mark = 0;  // its address, as the value of a queued signal, says "look at your pending set"

// Infos of pending signals; when there is no room the signal still comes, with a plain info.
struct Kept {
  Fiber* fiber;
  int signal;
  siginfo_t info;
};
SpinLock kept_lock;
Kept kept[512];

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

bool has_handler(const struct sigaction& a) noexcept {
  return (a.sa_flags & SA_SIGINFO) != 0 || (a.sa_handler != SIG_DFL && a.sa_handler != SIG_IGN);
}

// What the kernel gets in place of the program's handler.  Nothing is blocked by the kernel while it runs: the
// handler may migrate, so its mask is the fiber's (run_handler).
void install(int signal, const struct sigaction& wanted) noexcept {
  struct sigaction a = wanted;
  a.sa_sigaction = trampoline;
  a.sa_flags = SA_SIGINFO | SA_NODEFER | (wanted.sa_flags & (SA_RESTART | SA_NOCLDSTOP | SA_NOCLDWAIT));
  sigemptyset(&a.sa_mask);
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

// --- pending ------------------------------------------------------------------------------------------------

void keep(Fiber* fiber, int signal, const siginfo_t* info) noexcept {
  Quiet quiet;
  Locked locked(kept_lock);
  const bool already = (fiber->pending.load(std::memory_order_relaxed) & bit(signal)) != 0;
  if (!already || signal >= SIGRTMIN) {  // standard signals are not queued twice
    for (Kept& k : kept) {
      if (k.fiber != nullptr) continue;
      k.fiber = fiber;
      k.signal = signal;
      if (info != nullptr) {
        k.info = *info;
      } else {
        memset(&k.info, 0, sizeof k.info);
        k.info.si_signo = signal;
        k.info.si_code = SI_TKILL;
        k.info.si_pid = sys::getpid();
        k.info.si_uid = static_cast<uid_t>(sys::call(SYS_getuid));
      }
      break;
    }
  }
  fiber->pending.fetch_or(bit(signal), std::memory_order_seq_cst);
}

// Takes the lowest deliverable signal of the fiber.  0: none.
int take(Fiber* fiber, siginfo_t& info) noexcept {
  Quiet quiet;
  Locked locked(kept_lock);
  const uint64_t bits = fiber->pending.load(std::memory_order_relaxed) &
                        ~fiber->signal_mask.load(std::memory_order_relaxed);
  if (bits == 0) return 0;
  const int signal = __builtin_ctzll(bits) + 1;
  memset(&info, 0, sizeof info);
  info.si_signo = signal;
  bool found = false, more = false;
  for (Kept& k : kept) {
    if (k.fiber != fiber || k.signal != signal) continue;
    if (found) {
      more = true;
      break;
    }
    info = k.info;
    k.fiber = nullptr;
    found = true;
  }
  if (!more) fiber->pending.fetch_and(~bit(signal), std::memory_order_relaxed);
  return signal;
}

// --- running handlers ---------------------------------------------------------------------------------------

struct sigaction handler_of(int signal) noexcept {
  Quiet quiet;
  Locked locked(table_lock);
  struct sigaction a = table[signal];
  if ((a.sa_flags & SA_RESETHAND) != 0 && has_handler(a)) {
    table[signal] = {};
    ours[signal] = false;
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

// On the fiber's own stack, not Busy.
void run_handler(Fiber* fiber, int signal, siginfo_t* info, void* context) {
  const struct sigaction a = handler_of(signal);
  if (!has_handler(a)) return;
  const uint64_t before = fiber->signal_mask.load(std::memory_order_relaxed);
  const uint64_t during = before | to_bits(a.sa_mask) | ((a.sa_flags & SA_NODEFER) != 0 ? 0 : bit(signal));
  fiber->signal_mask.store(during & ~kNeverBlocked, std::memory_order_relaxed);
  ++fiber->handled;
  call(a, signal, info, context);
  fiber->signal_mask.store(before, std::memory_order_relaxed);
  if ((a.sa_flags & SA_RESTART) == 0) fiber->interrupted = true;
}

// Everything deliverable of the calling fiber.  context: the interrupted one, or null at a hook.
void deliver(Fiber* fiber, void* context) {
  ucontext_t here;
  siginfo_t info;
  self.signals_waiting.store(false, std::memory_order_seq_cst);
  while (const int signal = take(fiber, info)) {
    if (context == nullptr) {
      getcontext(&here);
      context = &here;
    }
    run_handler(fiber, signal, &info, context);
  }
}

// --- sending ------------------------------------------------------------------------------------------------

void kick(Carrier* carrier, int signal) noexcept {
  siginfo_t info;
  memset(&info, 0, sizeof info);
  info.si_signo = signal;
  info.si_code = SI_QUEUE;
  info.si_pid = sys::getpid();
  info.si_value.sival_ptr = const_cast<char*>(&kick_mark);
  sys::call(SYS_rt_tgsigqueueinfo, sys::getpid(), carrier->kernel_tid, signal, sys::word(&info));
}

// S2, S3
void notify(Fiber* fiber, int signal) noexcept {
  Quiet quiet;
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

void post(Fiber* fiber, int signal, const siginfo_t* info) noexcept {
  keep(fiber, signal, info);
  if ((fiber->signal_mask.load(std::memory_order_relaxed) & bit(signal)) == 0) notify(fiber, signal);
}

bool blocks(const Fiber* fiber, int signal) noexcept {
  return (fiber->signal_mask.load(std::memory_order_relaxed) & bit(signal)) != 0;
}

bool is_alive(const Fiber* fiber) noexcept {
  const State state = state_of(*fiber);
  return state != State::kFree && state != State::kFinished;
}

// Which fiber handles a signal that was sent to the process.
Fiber* choose(int signal) noexcept {
  Fiber* first = main_fiber;
  if (first != nullptr && !blocks(first, signal)) return first;
  if (self.fiber != nullptr && !blocks(self.fiber, signal)) return self.fiber;
  for (uint32_t id = 0, n = fibers::count(); id < n; ++id) {
    Fiber* fiber = fibers::at(id);
    if (!is_alive(fiber)) continue;
    if (!blocks(fiber, signal)) return fiber;
    if (first == nullptr) first = fiber;
  }
  return first;
}

bool is_kick(const siginfo_t* info) noexcept {
  return info->si_code == SI_QUEUE && info->si_value.sival_ptr == &kick_mark;
}

// A kernel thread of the program: the handler runs here, unless it interrupts the runtime's code.
void on_kernel_thread(int signal, siginfo_t* info, void* context) {
  if (self.busy == 0) {
    call(handler_of(signal), signal, info, context);
    return;
  }
  self.kept.fetch_or(bit(signal), std::memory_order_relaxed);
  self.signals_waiting.store(true, std::memory_order_relaxed);
  interrupt(&self.parker);  // if it is parked: SA_RESTART would put it back to sleep
}

void trampoline(int signal, siginfo_t* info, void* context) {
  const int saved = errno;
  if (current_carrier() == nullptr) {
    on_kernel_thread(signal, info, context);
  } else {
    if (!is_kick(info)) {
      // tgkill at this kernel thread, most likely by its own code (raise, abort): the fiber that runs here.
      const bool directed = info->si_code == SI_TKILL && self.fiber != nullptr && self.busy == 0;
      Fiber* fiber = directed ? self.fiber : choose(signal);
      if (fiber != nullptr) {
        keep(fiber, signal, info);
        if (fiber != self.fiber || self.busy != 0) {
          if (!blocks(fiber, signal)) notify(fiber, signal);
        }
      }
    }
    if (self.fiber != nullptr && self.busy == 0) deliver(self.fiber, context);
  }
  errno = saved;
}

}  // namespace

void start(Fiber* main) noexcept {
  main_fiber = main;
  uint64_t mask = 0;
  sys::sigprocmask(SIG_BLOCK, nullptr, &mask);
  main->signal_mask.store(mask, std::memory_order_relaxed);
  {
    Locked locked(mask_lock);
    count_mask(mask, 1);
    recount();
  }
  main->carrier->kernel_mask = mask;
  for (int signal = 1; signal < kSignals; ++signal) {
    if (signal == SIGKILL || signal == SIGSTOP || (signal >= 32 && signal < SIGRTMIN)) continue;
    if (abi::libc.sigaction(signal, nullptr, &table[signal]) != 0) continue;
    ours[signal] = has_handler(table[signal]) && (bit(signal) & kFaults) == 0;
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
  ours[signal] = has_handler(asked);
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
  post(fiber, signal, info);
  if (fiber == self.fiber && self.busy == 0) deliver(fiber, nullptr);
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
  if (fiber == nullptr) return -1;
  return send_to(fiber, signal, info);
}

void interrupt_for_cancel(Fiber* fiber) noexcept {
  Busy busy;
  if (fiber == self.fiber) return;
  self_of(*fiber).signals_waiting.store(true, std::memory_order_seq_cst);  // S2, S3: it may be about to park
  interrupt(fiber);
}

bool handle_pending() noexcept {
  Fiber* fiber = self.fiber;
  if (fiber == nullptr) return true;  // a kernel thread: its handler ran already, whether it restarts is unknown
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
      Busy busy;
      Locked locked(mask_lock);
      count_mask(bits & ~before, 1);
      count_mask(before & ~bits, -1);
      fiber->signal_mask.store(bits, std::memory_order_relaxed);
      recount();
      apply_kernel_mask(fiber->carrier);
    }
  }
  if (old != nullptr) from_bits(before, old);
  if ((fiber->pending.load(std::memory_order_relaxed) & ~fiber->signal_mask.load(std::memory_order_relaxed)) != 0)
    deliver(fiber, nullptr);
  return 0;
}

uint64_t pending() noexcept {
  uint64_t kernel = 0;
  sys::call(SYS_rt_sigpending, sys::word(&kernel), sizeof kernel);
  const Fiber* fiber = self.fiber;
  return (kernel | fiber->pending.load(std::memory_order_relaxed)) & fiber->signal_mask.load(std::memory_order_relaxed);
}

void inherit_mask(Fiber* fiber) noexcept {
  const uint64_t mask = self.fiber != nullptr ? self.fiber->signal_mask.load(std::memory_order_relaxed) : 0;
  fiber->signal_mask.store(mask, std::memory_order_relaxed);
  if (mask == 0 && blocked_by_any.load(std::memory_order_relaxed) == 0) return;
  Locked locked(mask_lock);
  count_mask(mask, 1);
  recount();
}

void leave(Fiber* fiber) noexcept {
  if (fiber == main_fiber) main_fiber = nullptr;
  if (fiber->pending.load(std::memory_order_relaxed) != 0) {
    Locked locked(kept_lock);
    for (Kept& k : kept)
      if (k.fiber == fiber) k.fiber = nullptr;
  }
  const uint64_t mask = fiber->signal_mask.load(std::memory_order_relaxed);
  if (mask == 0 && blocked_by_any.load(std::memory_order_relaxed) == 0) return;
  Locked locked(mask_lock);
  count_mask(mask, -1);
  recount();
}

void enter_carrier() noexcept { apply_kernel_mask(self.carrier); }

void apply_kernel_mask(Carrier* carrier) noexcept {
  const uint64_t wanted = wanted_kernel_mask.load(std::memory_order_acquire);
  carrier->kernel_mask = wanted;
  sys::sigprocmask(SIG_SETMASK, &wanted, nullptr);
}

void reset_after_fork(Fiber* survivor) noexcept {
  table_lock.reset();
  kept_lock.reset();
  mask_lock.reset();
  for (Kept& k : kept) k.fiber = nullptr;
  memset(blocked_by, 0, sizeof blocked_by);
  blocked_by_any.store(0, std::memory_order_relaxed);
  main_fiber = nullptr;
  // The child is an ordinary thread again: handlers are the program's own, the mask is the survivor's.
  for (int signal = 1; signal < kSignals; ++signal) {
    if (!ours[signal]) continue;
    abi::libc.sigaction(signal, &table[signal], nullptr);
    ours[signal] = false;
  }
  if (survivor != nullptr) {
    const uint64_t mask = survivor->signal_mask.load(std::memory_order_relaxed);
    sys::sigprocmask(SIG_SETMASK, &mask, nullptr);
  }
}

}  // namespace weft::signals

namespace weft {

void deliver_kept_signals() noexcept {
  const int saved = errno;
  if (self.fiber != nullptr) {
    signals::deliver(self.fiber, nullptr);
  } else {
    self.signals_waiting.store(false, std::memory_order_relaxed);
    uint64_t bits = self.kept.exchange(0, std::memory_order_relaxed);
    siginfo_t info = {};
    ucontext_t here;
    getcontext(&here);
    for (; bits != 0; bits &= bits - 1) {
      info.si_signo = __builtin_ctzll(bits) + 1;
      signals::call(signals::handler_of(info.si_signo), info.si_signo, &info, &here);
    }
  }
  errno = saved;
}

}  // namespace weft
