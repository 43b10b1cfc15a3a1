// signal.cc - dispositions, masks and sending, as far as fibers change their meaning.
//
// Owns:        the argument conventions of libc's older names for sigaction.
// Keeps true:  while the runtime is inactive, and on kernel threads, every call is libc's own.
// Called by:   the program.  See also: runtime/signals.h, pthread_thread.cc for pthread_kill.
#include <cstring>

#include "hook/gate.h"
#include "hook/shape.h"
#include "hook/temporary_mask.h"
#include "runtime/runtime.h"
#include "runtime/signals.h"

using namespace weft;

namespace {

int act(int signal, const struct sigaction* wanted, struct sigaction* old) {
  if (!runtime::is_active() || self.busy != 0) return real::sigaction(signal, wanted, old);
  return static_cast<int>(minus_one(signals::action(signal, wanted, old)));
}

__sighandler_t install(int signal, __sighandler_t handler, int flags) {
  struct sigaction wanted = {}, old = {};
  wanted.sa_handler = handler;
  wanted.sa_flags = flags;
  if ((flags & SA_RESTART) != 0) sigaddset(&wanted.sa_mask, signal);
  return act(signal, &wanted, &old) == 0 ? old.sa_handler : SIG_ERR;
}

}  // namespace

WEFT_HOOK int sigaction(int signal, const struct sigaction* wanted, struct sigaction* old) noexcept {
  return act(signal, wanted, old);
}
WEFT_HOOK int __sigaction(int signal, const struct sigaction* wanted, struct sigaction* old) noexcept {
  return act(signal, wanted, old);
}

WEFT_HOOK __sighandler_t signal(int number, __sighandler_t handler) noexcept {
  return runtime::is_active() ? install(number, handler, SA_RESTART) : real::signal(number, handler);
}
WEFT_HOOK __sighandler_t bsd_signal(int number, __sighandler_t handler) noexcept { return signal(number, handler); }
WEFT_HOOK __sighandler_t ssignal(int number, __sighandler_t handler) noexcept { return signal(number, handler); }
WEFT_HOOK __sighandler_t __sysv_signal(int number, __sighandler_t handler) noexcept {
  return runtime::is_active() ? install(number, handler, static_cast<int>(SA_RESETHAND | SA_NODEFER))
                              : real::__sysv_signal(number, handler);
}
WEFT_HOOK __sighandler_t sysv_signal(int number, __sighandler_t handler) noexcept {
  return __sysv_signal(number, handler);
}

namespace {

int change_mask(int how, const sigset_t* set, sigset_t* old) noexcept {
  if (set != nullptr && signals::lets_faults_in(how, *set)) signals::let_faults_in();
  return signals::change_mask(how, set, old);
}

}  // namespace

WEFT_HOOK int sigprocmask(int how, const sigset_t* set, sigset_t* old) noexcept {
  if (!on_fiber()) return real::sigprocmask(how, set, old);
  return static_cast<int>(minus_one(-change_mask(how, set, old)));
}
WEFT_HOOK int pthread_sigmask(int how, const sigset_t* set, sigset_t* old) noexcept {
  return on_fiber() ? change_mask(how, set, old) : real::pthread_sigmask(how, set, old);
}

WEFT_HOOK int sigpending(sigset_t* set) noexcept {
  if (!on_fiber()) return real::sigpending(set);
  const uint64_t bits = signals::pending();
  sigemptyset(set);
  memcpy(set, &bits, sizeof bits);
  return 0;
}

WEFT_HOOK int sigaltstack(const stack_t* wanted, stack_t* old) noexcept {
  if (!on_fiber()) return real::sigaltstack(wanted, old);
  return static_cast<int>(minus_one(signals::change_alternate_stack(wanted, old)));
}

// --- waiting for a signal -----------------------------------------------------------------------------------

namespace {

uint64_t bits_of(const sigset_t* set) noexcept {
  uint64_t bits;
  memcpy(&bits, set, sizeof bits);
  return bits;
}

int wait_for(const sigset_t* set, siginfo_t* info, Deadline deadline) {
  cancellation_point();
  const int result = signals::wait_for(bits_of(set), info, deadline);
  if (result == -EINTR) cancellation_point();
  return result;
}

// Parks until a handler has run.
int wait_for_handler(const SignalWatch& watch) {
  for (;;) {
    {
      Busy busy;
      Arming arming(Reason::kSignal);
      park(arming);
    }
    if (watch.after_wait() != Signalled::kNothing) return static_cast<int>(minus_one(-EINTR));
  }
}

}  // namespace

WEFT_HOOK int sigtimedwait(const sigset_t* set, siginfo_t* info, const timespec* timeout) {
  if (!on_fiber()) return real::sigtimedwait(set, info, timeout);
  if (timeout != nullptr && (timeout->tv_sec < 0 || timeout->tv_nsec < 0 || timeout->tv_nsec >= kSecond))
    return static_cast<int>(minus_one(-EINVAL));
  const Deadline deadline = timeout == nullptr ? Deadline::never() : Deadline::in(to_nanoseconds(*timeout));
  return static_cast<int>(minus_one(wait_for(set, info, deadline)));
}

WEFT_HOOK int sigwaitinfo(const sigset_t* set, siginfo_t* info) { return sigtimedwait(set, info, nullptr); }

WEFT_HOOK int sigwait(const sigset_t* set, int* number) {
  if (!on_fiber()) return real::sigwait(set, number);
  int result;
  while ((result = wait_for(set, nullptr, Deadline::never())) == -EINTR) {
  }
  if (result < 0) return -result;
  *number = result;
  return 0;
}

WEFT_HOOK int pause() {
  if (!on_fiber()) return real::pause();
  cancellation_point();
  return wait_for_handler(SignalWatch());
}

WEFT_HOOK int sigsuspend(const sigset_t* mask) {
  if (!on_fiber()) return real::sigsuspend(mask);
  cancellation_point();
  const SignalWatch watch;
  const TemporaryMask temporary(mask);
  if (temporary.interrupted) return static_cast<int>(minus_one(-EINTR));
  return wait_for_handler(watch);
}

WEFT_HOOK int kill(pid_t process, int number) noexcept {
  if (on_fiber() && number != 0 && process == sys::getpid()) {
    siginfo_t info = {};
    info.si_signo = number;
    info.si_code = SI_USER;
    info.si_pid = process;
    info.si_uid = getuid();
    const int error = signals::send_to_process(number, &info);
    if (error >= 0) return static_cast<int>(minus_one(-error));
  }
  return real::kill(process, number);
}

WEFT_HOOK int raise(int number) noexcept {
  if (!on_fiber()) return real::raise(number);
  return static_cast<int>(minus_one(-signals::send_to(self.fiber, number, nullptr)));
}

WEFT_HOOK int tgkill(pid_t process, pid_t thread, int number) {
  if (runtime::is_active() && self.busy == 0 && process == sys::getpid())
    if (Fiber* fiber = fibers::from_tid(thread); fiber != nullptr)
      return static_cast<int>(minus_one(-signals::send_to(fiber, number, nullptr)));
  return real::tgkill(process, thread, number);
}

// --- timers -------------------------------------------------------------------------------------------------

// libc's timer_t is the kernel's number, unless it is negative: a pointer to libc's record of a SIGEV_THREAD timer.
WEFT_HOOK int timer_create(clockid_t clock, sigevent* event, timer_t* timer) noexcept {
  const bool aimed = runtime::is_active() && event != nullptr && event->sigev_notify == SIGEV_THREAD_ID;
  const int tid = aimed ? event->_sigev_un._tid : 0;
  if (!aimed || fibers::from_tid(tid) == nullptr) return real::timer_create(clock, event, timer);
  sigevent to_process = *event;
  to_process.sigev_notify = SIGEV_SIGNAL;
  if (real::timer_create(clock, &to_process, timer) != 0) return -1;
  if (signals::aim_timer(static_cast<int>(reinterpret_cast<intptr_t>(*timer)), tid)) return 0;
  real::timer_delete(*timer);
  return static_cast<int>(minus_one(-EAGAIN));
}

WEFT_HOOK int timer_delete(timer_t timer) noexcept {
  if (const auto number = reinterpret_cast<intptr_t>(timer); runtime::is_active() && number >= 0)
    signals::forget_timer(static_cast<int>(number));
  return real::timer_delete(timer);
}
