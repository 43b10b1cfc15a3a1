// schedule.cc - how threads are scheduled, asked and set by handle and by thread id.
//
// Owns:        the translation between libc's and the kernel's calls and a fiber's Schedule.
// Keeps true:  ids that are no fiber's, and calls from kernel threads about themselves, are libc's own.
// Called by:   the program.
// See also:    runtime/schedule.h, which says what is honoured how; pthread_thread.cc for attributes.
#include "runtime/schedule.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstring>

#include "hook/gate.h"
#include "runtime/runtime.h"

using namespace weft;

namespace {

Fiber* fiber_of(pthread_t thread) noexcept {
  if (!on_fiber() || !runtime::is_active()) return nullptr;
  return fibers::from(thread);
}

// By thread id; 0 is the caller.  Main has the process's id, which the kernel gives to the first kernel thread.
Fiber* fiber_of_tid(pid_t tid) noexcept {
  if (!on_fiber()) return nullptr;
  if (tid == 0 || tid == self.fiber->tid) return self.fiber;
  if (tid < fibers::kFirstTid && tid != sys::getpid()) return nullptr;
  Busy busy;
  return fibers::from_tid(tid);
}

Schedule schedule_of(const Fiber& fiber) noexcept {
  Busy busy;
  return schedule::of(fiber);
}

int set_schedule(Fiber& fiber, const Schedule& wanted) noexcept {  // 0 or -errno
  Busy busy;
  return schedule::set(fiber, wanted);
}

// As many bytes as the kernel writes; or -EINVAL: the caller's set is too small.
int get_cpus(const Fiber& fiber, size_t size, cpu_set_t* cpus) noexcept {
  cpu_set_t own;
  const long bytes = sys::call(SYS_sched_getaffinity, 0, sizeof own, sys::word(&own));
  if (bytes < 0) return static_cast<int>(bytes);
  if (size < static_cast<size_t>(bytes) || size % sizeof(long) != 0) return -EINVAL;
  own = schedule_of(fiber).cpus;
  const size_t n = std::min(size, sizeof own);
  memcpy(cpus, &own, n);
  memset(reinterpret_cast<char*>(cpus) + n, 0, size - n);
  return 0;
}

int set_cpus(Fiber& fiber, size_t size, const cpu_set_t* cpus) noexcept {
  Schedule wanted = schedule_of(fiber);
  memset(&wanted.cpus, 0, sizeof wanted.cpus);
  memcpy(&wanted.cpus, cpus, std::min(size, sizeof wanted.cpus));
  return set_schedule(fiber, wanted);
}

int set_policy(Fiber& fiber, int policy, const sched_param* parameters) noexcept {
  if (parameters == nullptr) return -EINVAL;
  Schedule wanted = schedule_of(fiber);
  wanted.policy = policy;
  wanted.priority = parameters->sched_priority;
  return set_schedule(fiber, wanted);
}

int result_of(int error) noexcept { return static_cast<int>(minus_one(error)); }

}  // namespace

WEFT_HOOK int pthread_getaffinity_np(pthread_t thread, size_t size, cpu_set_t* cpus) noexcept {
  Fiber* fiber = fiber_of(thread);
  return fiber == nullptr ? real::pthread_getaffinity_np(thread, size, cpus) : -get_cpus(*fiber, size, cpus);
}

WEFT_HOOK int pthread_setaffinity_np(pthread_t thread, size_t size, const cpu_set_t* cpus) noexcept {
  Fiber* fiber = fiber_of(thread);
  return fiber == nullptr ? real::pthread_setaffinity_np(thread, size, cpus) : -set_cpus(*fiber, size, cpus);
}

WEFT_HOOK int sched_getaffinity(pid_t tid, size_t size, cpu_set_t* cpus) noexcept {
  Fiber* fiber = fiber_of_tid(tid);
  return fiber == nullptr ? real::sched_getaffinity(tid, size, cpus) : result_of(get_cpus(*fiber, size, cpus));
}

WEFT_HOOK int sched_setaffinity(pid_t tid, size_t size, const cpu_set_t* cpus) noexcept {
  Fiber* fiber = fiber_of_tid(tid);
  return fiber == nullptr ? real::sched_setaffinity(tid, size, cpus) : result_of(set_cpus(*fiber, size, cpus));
}

WEFT_HOOK int pthread_getschedparam(pthread_t thread, int* policy, sched_param* parameters) noexcept {
  Fiber* fiber = fiber_of(thread);
  if (fiber == nullptr) return real::pthread_getschedparam(thread, policy, parameters);
  const Schedule own = schedule_of(*fiber);
  *policy = own.policy;
  parameters->sched_priority = own.priority;
  return 0;
}

WEFT_HOOK int pthread_setschedparam(pthread_t thread, int policy, const sched_param* parameters) noexcept {
  Fiber* fiber = fiber_of(thread);
  return fiber == nullptr ? real::pthread_setschedparam(thread, policy, parameters)
                          : -set_policy(*fiber, policy, parameters);
}

WEFT_HOOK int pthread_setschedprio(pthread_t thread, int priority) noexcept {
  Fiber* fiber = fiber_of(thread);
  if (fiber == nullptr) return real::pthread_setschedprio(thread, priority);
  const sched_param parameters{priority};
  return -set_policy(*fiber, schedule_of(*fiber).policy, &parameters);
}

WEFT_HOOK int sched_getscheduler(pid_t tid) noexcept {
  Fiber* fiber = fiber_of_tid(tid);
  return fiber == nullptr ? real::sched_getscheduler(tid) : schedule_of(*fiber).policy;
}

WEFT_HOOK int sched_setscheduler(pid_t tid, int policy, const sched_param* parameters) noexcept {
  Fiber* fiber = fiber_of_tid(tid);
  return fiber == nullptr ? real::sched_setscheduler(tid, policy, parameters)
                          : result_of(set_policy(*fiber, policy, parameters));
}

WEFT_HOOK int sched_getparam(pid_t tid, sched_param* parameters) noexcept {
  Fiber* fiber = fiber_of_tid(tid);
  if (fiber == nullptr || parameters == nullptr) return real::sched_getparam(tid, parameters);
  parameters->sched_priority = schedule_of(*fiber).priority;
  return 0;
}

WEFT_HOOK int sched_setparam(pid_t tid, const sched_param* parameters) noexcept {
  Fiber* fiber = fiber_of_tid(tid);
  return fiber == nullptr ? real::sched_setparam(tid, parameters)
                          : result_of(set_policy(*fiber, schedule_of(*fiber).policy, parameters));
}

WEFT_HOOK int sched_rr_get_interval(pid_t tid, timespec* interval) noexcept {
  Fiber* fiber = fiber_of_tid(tid);
  return real::sched_rr_get_interval(fiber == nullptr ? tid : 0, interval);
}

WEFT_HOOK int getpriority(__priority_which_t which, id_t who) noexcept {
  Fiber* fiber = which == PRIO_PROCESS ? fiber_of_tid(static_cast<pid_t>(who)) : nullptr;
  if (fiber == nullptr) return real::getpriority(which, who);
  errno = 0;
  return schedule_of(*fiber).nice;
}

WEFT_HOOK int setpriority(__priority_which_t which, id_t who, int nice) noexcept {
  Fiber* fiber = which == PRIO_PROCESS ? fiber_of_tid(static_cast<pid_t>(who)) : nullptr;
  if (fiber == nullptr) return real::setpriority(which, who, nice);
  Schedule wanted = schedule_of(*fiber);
  wanted.nice = std::clamp(nice, -20, 19);
  return result_of(set_schedule(*fiber, wanted));
}

WEFT_HOOK int nice(int increment) noexcept {
  if (!on_fiber()) return real::nice(increment);
  const int before = schedule_of(*self.fiber).nice, wanted = std::clamp(before + increment, -20, 19);
  if (setpriority(PRIO_PROCESS, 0, wanted) != 0) {
    if (errno == EACCES) errno = EPERM;
    return -1;
  }
  return wanted;
}
