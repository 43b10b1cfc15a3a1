// pthread_thread.cc - threads: create, join, end, names, attributes, and what else takes a pthread_t.
//
// Owns:        the decision "fiber or kernel thread" for a new thread; translation of pthread_attr_t.
// Keeps true:  a handle of a kernel thread goes to libc untouched.  Real-time scheduling, CPU affinity and a signal
//              mask asked for in the attributes make a kernel thread: only the kernel can honour them; so does who asks
//              (native_threads.h).
// Called by:   the program.  See also: runtime/thread.h.
#include <sys/prctl.h>

#include <cstdio>
#include <cstring>

#include "hook/gate.h"
#include "hook/inside_libc.h"
#include "hook/native_threads.h"
#include "runtime/carrier.h"
#include "runtime/park.h"
#include "runtime/runtime.h"
#include "runtime/signals.h"
#include "runtime/thread.h"

using namespace weft;

namespace {

constexpr size_t kNameSize = 16;  // the kernel's TASK_COMM_LEN

// What pthread_create gives without attributes; 0: not asked since it was last set.
std::atomic<size_t> default_stack{0}, default_guard{0};

size_t default_stack_size() noexcept {
  size_t size = default_stack.load(std::memory_order_acquire);
  if (size != 0) return size;
  pthread_attr_t attributes;
  if (pthread_getattr_default_np(&attributes) != 0) return 8UL << 20;
  size_t guard = 0;
  pthread_attr_getstacksize(&attributes, &size);
  pthread_attr_getguardsize(&attributes, &guard);
  pthread_attr_destroy(&attributes);
  default_guard.store(guard, std::memory_order_relaxed);
  default_stack.store(size, std::memory_order_release);
  return size;
}

size_t stack_size_for(size_t asked) noexcept {
  const size_t usual = default_stack_size();
  return (asked == 0 || asked == usual) && runtime::options.stack_size != 0 ? runtime::options.stack_size
         : asked == 0                                                       ? usual
                                                                            : asked;
}

bool needs_kernel_thread(const pthread_attr_t* attributes) noexcept {
  int inherit = PTHREAD_INHERIT_SCHED, policy = SCHED_OTHER;
  pthread_attr_getinheritsched(attributes, &inherit);
  pthread_attr_getschedpolicy(attributes, &policy);
  if (inherit == PTHREAD_EXPLICIT_SCHED && policy != SCHED_OTHER) return true;
  cpu_set_t cpus;
  if (pthread_attr_getaffinity_np(attributes, sizeof cpus, &cpus) != 0 || CPU_COUNT(&cpus) != CPU_SETSIZE)
    return true;
  sigset_t mask;
  return pthread_attr_getsigmask_np(attributes, &mask) != PTHREAD_ATTR_NO_SIGMASK_NP;
}

threads::Attributes translate(const pthread_attr_t* from) noexcept {
  threads::Attributes to;
  if (from == nullptr) {
    to.stack_size = stack_size_for(0);
    to.guard_size = default_guard.load(std::memory_order_relaxed);
    return to;
  }
  void* stack = nullptr;
  int detached = PTHREAD_CREATE_JOINABLE;
  pthread_attr_getstacksize(from, &to.stack_size);
  pthread_attr_getguardsize(from, &to.guard_size);
  pthread_attr_getdetachstate(from, &detached);
  to.detached = detached == PTHREAD_CREATE_DETACHED;
  size_t size = 0;
  pthread_attr_getstack(from, &stack, &size);
  if (reinterpret_cast<uintptr_t>(stack) + size != 0) {  // libc stores the end; none was set if that is 0
    to.caller_stack = stack;
    to.stack_size = size;
  } else {
    to.stack_size = stack_size_for(to.stack_size);
  }
  return to;
}

// The fiber behind a handle while the runtime is active, else null.
Fiber* fiber_of(pthread_t thread) noexcept {
  if (!runtime::is_active()) return nullptr;
  return thread == pthread_self() ? self.fiber : fibers::from(thread);
}

// A handle whose thread was joined, or ended detached.  POSIX promises nothing; libc says ESRCH as long as it can tell.
bool is_gone(const Fiber* fiber, pthread_t thread) noexcept {
  return !fiber->on_native_stack && (state_of(*fiber) == State::kFree || fiber->stack.tcb != reinterpret_cast<void*>(thread));
}

int join(Fiber* fiber, void** result, Deadline deadline) {
  for (;;) {
    const int error = threads::join(fiber, result, deadline);
    if (error != EINTR) return error;
    cancellation_point();
  }
}

// Main's name is the process's, and must be that of the kernel thread that ps shows.
int set_main_name(const Fiber* fiber) noexcept {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/task/%d/comm", fiber->tid);
  const long file = sys::call(SYS_openat, AT_FDCWD, sys::word(path), O_WRONLY | O_CLOEXEC);
  if (file < 0) return static_cast<int>(-file);
  sys::write(static_cast<int>(file), fiber->name, strlen(fiber->name));
  sys::close(static_cast<int>(file));
  return 0;
}

void main_ended() { threads::end_current(); }

}  // namespace

WEFT_HOOK int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*),
                             void* argument) noexcept {
  ensure_loaded();
  if (self.busy == 0) inside_libc::enter();
  if (self.busy != 0 || (attributes != nullptr && needs_kernel_thread(attributes)) ||
      makes_native_threads(__builtin_return_address(0)) || !runtime::start())
    return real::pthread_create(thread, attributes, start, argument);
  return threads::create(thread, translate(attributes), start, argument);
}

WEFT_HOOK int pthread_setattr_default_np(const pthread_attr_t* attributes) noexcept {
  const int result = real::pthread_setattr_default_np(attributes);
  default_stack.store(0, std::memory_order_release);
  return result;
}

WEFT_HOOK int pthread_join(pthread_t thread, void** result) {
  Fiber* fiber = fiber_of(thread);
  if (fiber == nullptr) return real::pthread_join(thread, result);
  if (is_gone(fiber, thread)) return ESRCH;
  cancellation_point();
  return join(fiber, result, Deadline::never());
}

WEFT_HOOK int pthread_tryjoin_np(pthread_t thread, void** result) noexcept {
  Fiber* fiber = fiber_of(thread);
  if (fiber == nullptr) return real::pthread_tryjoin_np(thread, result);
  return is_gone(fiber, thread) ? ESRCH : threads::try_join(fiber, result);
}

WEFT_HOOK int pthread_clockjoin_np(pthread_t thread, void** result, clockid_t clock, const timespec* until) {
  Fiber* fiber = fiber_of(thread);
  if (fiber == nullptr) return real::pthread_clockjoin_np(thread, result, clock, until);
  if (is_gone(fiber, thread)) return ESRCH;
  if (clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC) return EINVAL;
  if (until != nullptr && (until->tv_nsec < 0 || until->tv_nsec >= kSecond)) return EINVAL;
  cancellation_point();
  return join(fiber, result, until == nullptr ? Deadline::never() : Deadline::at(clock, *until));
}

WEFT_HOOK int pthread_timedjoin_np(pthread_t thread, void** result, const timespec* until) {
  return fiber_of(thread) == nullptr ? real::pthread_timedjoin_np(thread, result, until)
                                     : pthread_clockjoin_np(thread, result, CLOCK_REALTIME, until);
}

WEFT_HOOK int pthread_detach(pthread_t thread) noexcept {
  Fiber* fiber = fiber_of(thread);
  if (fiber == nullptr) return real::pthread_detach(thread);
  return is_gone(fiber, thread) ? ESRCH : threads::detach(fiber);
}

WEFT_HOOK void pthread_exit(void* result) {
  if (on_fiber()) {
    threads::note_exit(result);
    if (self.fiber->is_main && self.fiber->start == nullptr) abi::redirect_thread_end(main_ended);
  }
  real::pthread_exit(result);
  __builtin_unreachable();
}

WEFT_HOOK int pthread_cancel(pthread_t thread) {
  Fiber* fiber = fiber_of(thread);
  if (fiber == nullptr) {
    const int error = real::pthread_cancel(thread);
    if (error == 0 && runtime::is_active()) signals::interrupt_for_cancel(thread);
    return error;
  }
  constexpr int kCancelingAndCanceled = 0x0c;  // glibc's CANCELING_BITMASK | CANCELED_BITMASK
  __atomic_fetch_or(abi::cancelhandling_of(reinterpret_cast<void*>(thread)), kCancelingAndCanceled, __ATOMIC_SEQ_CST);
  signals::interrupt_for_cancel(fiber);
  return 0;
}

WEFT_HOOK int pthread_kill(pthread_t thread, int signal) noexcept {
  Fiber* fiber = fiber_of(thread);
  return fiber == nullptr ? real::pthread_kill(thread, signal) : signals::send_to(fiber, signal, nullptr);
}

WEFT_HOOK int pthread_sigqueue(pthread_t thread, int signal, const union sigval value) noexcept {
  Fiber* fiber = fiber_of(thread);
  if (fiber == nullptr) return real::pthread_sigqueue(thread, signal, value);
  siginfo_t info = {};
  info.si_signo = signal;
  info.si_code = SI_QUEUE;
  info.si_pid = sys::getpid();
  info.si_uid = getuid();
  info.si_value = value;
  return signals::send_to(fiber, signal, &info);
}

WEFT_HOOK int pthread_setname_np(pthread_t thread, const char* name) noexcept {
  Fiber* fiber = fiber_of(thread);
  if (fiber == nullptr) return real::pthread_setname_np(thread, name);
  if (strlen(name) >= kNameSize) return ERANGE;
  strcpy(fiber->name, name);
  return fiber->is_main ? set_main_name(fiber) : 0;
}

WEFT_HOOK int pthread_getname_np(pthread_t thread, char* name, size_t size) noexcept {
  Fiber* fiber = fiber_of(thread);
  if (fiber == nullptr) return real::pthread_getname_np(thread, name, size);
  if (size < kNameSize) return ERANGE;
  strcpy(name, fiber->name);
  return 0;
}

// The header declares it variadic.
WEFT_HOOK int weft_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d) noexcept
    __asm__("prctl");
int weft_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d) noexcept {
  if (on_fiber() && a != 0 && (option == PR_SET_NAME || option == PR_GET_NAME)) {
    auto* name = reinterpret_cast<char*>(a);
    if (option == PR_GET_NAME) {
      memcpy(name, self.fiber->name, kNameSize);
      return 0;
    }
    snprintf(self.fiber->name, kNameSize, "%s", name);
    return self.fiber->is_main ? static_cast<int>(minus_one(-set_main_name(self.fiber))) : 0;
  }
  return real::prctl(option, a, b, c, d);
}

WEFT_HOOK int pthread_getattr_np(pthread_t thread, pthread_attr_t* attributes) noexcept {
  Fiber* fiber = fiber_of(thread);
  if (fiber == nullptr || fiber->on_native_stack) return real::pthread_getattr_np(thread, attributes);
  const int error = pthread_attr_init(attributes);
  if (error != 0) return error;
  pthread_attr_setstack(attributes, fiber->stack.low, fiber->stack.size);
  pthread_attr_setguardsize(attributes, fiber->stack.guard);
  const bool detached = fiber->exit.load(std::memory_order_relaxed) == threads::kDetached;
  pthread_attr_setdetachstate(attributes, detached ? PTHREAD_CREATE_DETACHED : PTHREAD_CREATE_JOINABLE);
  return 0;
}

WEFT_HOOK pid_t gettid() noexcept { return on_fiber() ? self.fiber->tid : real::gettid(); }

WEFT_HOOK int sched_yield() noexcept {
  if (!on_fiber()) return real::sched_yield();
  Busy busy;
  yield_fiber();
  return 0;
}

// The header renames pthread_yield to sched_yield; programs built long ago still import the name.
WEFT_HOOK int old_pthread_yield() noexcept __asm__("pthread_yield");
int old_pthread_yield() noexcept { return sched_yield(); }
