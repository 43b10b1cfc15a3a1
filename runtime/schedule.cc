// schedule.cc - see schedule.h.
#include "runtime/schedule.h"

#include <sys/resource.h>

#include <cerrno>
#include <cstring>

#include "runtime/base/lock.h"
#include "runtime/base/sys.h"
#include "runtime/carrier.h"

namespace weft::schedule {
namespace {

constexpr size_t kMost = 256;  // distinct settings
constinit SpinLock lock;
constinit size_t count = 0;
constinit Schedule all[kMost] = {};  // entry 0: what the process's threads have, for fibers that asked for nothing

bool same(const Schedule& a, const Schedule& b) noexcept {
  return memcmp(&a.cpus, &b.cpus, sizeof a.cpus) == 0 && a.policy == b.policy && a.priority == b.priority &&
         a.nice == b.nice;
}

// Of the calling kernel thread.
Schedule from_kernel() noexcept {
  Schedule s;
  memset(&s.cpus, 0, sizeof s.cpus);
  sys::call(SYS_sched_getaffinity, 0, sizeof s.cpus, sys::word(&s.cpus));
  s.policy = static_cast<int>(sys::call(SYS_sched_getscheduler, 0));
  sched_param parameters{};
  sys::call(SYS_sched_getparam, 0, sys::word(&parameters));
  s.priority = parameters.sched_priority;
  s.nice = 20 - static_cast<int>(sys::call(SYS_getpriority, PRIO_PROCESS, 0));
  return s;
}

int give_policy(const Schedule& s) noexcept {
  const sched_param parameters{s.priority};
  return static_cast<int>(sys::call(SYS_sched_setscheduler, 0, s.policy, sys::word(&parameters)));
}
int give_cpus(const Schedule& s) noexcept {
  return static_cast<int>(sys::call(SYS_sched_setaffinity, 0, sizeof s.cpus, sys::word(&s.cpus)));
}

// The kernel itself says what it thinks of it; the calling thread has its own setting again afterwards.
int try_on(Schedule& wanted, const Schedule& before) noexcept {
  if (memcmp(&wanted.cpus, &before.cpus, sizeof wanted.cpus) != 0) {
    if (const int error = give_cpus(wanted); error < 0) return error;
    sys::call(SYS_sched_getaffinity, 0, sizeof wanted.cpus, sys::word(&wanted.cpus));
    give_cpus(before);
  }
  if (wanted.policy != before.policy || wanted.priority != before.priority) {
    if (const int error = give_policy(wanted); error < 0) return error;
    give_policy(before);
  }
  return 0;
}

// May the calling thread become so nice?  Nicer always; asked by raising a bit and going back.
int check_nice(int wanted, int current) noexcept {
  if (wanted >= current) return 0;
  const int own = 20 - static_cast<int>(sys::call(SYS_getpriority, PRIO_PROCESS, 0));
  const auto error = static_cast<int>(sys::call(SYS_setpriority, PRIO_PROCESS, 0, wanted));
  if (error == 0) sys::call(SYS_setpriority, PRIO_PROCESS, 0, own);
  return error;
}

// Lock held.  Null: too many.
const Schedule* intern(const Schedule& wanted) noexcept {
  for (size_t i = 0; i < count; ++i)
    if (same(all[i], wanted)) return &all[i];
  if (count == kMost) return nullptr;
  all[count] = wanted;
  return &all[count++];
}

}  // namespace

Schedule of(const Fiber& fiber) noexcept {
  const Schedule* own = fiber.schedule.load(std::memory_order_acquire);
  if (own != nullptr) return *own;
  Locked locked(lock);
  return count != 0 ? all[0] : from_kernel();
}

int set(Fiber& fiber, const Schedule& wanted_by_program) noexcept {
  Schedule wanted = wanted_by_program;
  const Schedule before = from_kernel();  // what the calling carrier wears
  if (const int error = check_nice(wanted.nice, of(fiber).nice); error < 0) return error;
  if (const int error = try_on(wanted, before); error < 0) return error;
  const Schedule* own;
  {
    Locked locked(lock);
    if (count == 0) all[count++] = before;  // nobody has worn anything yet
    own = intern(wanted);
  }
  if (own == nullptr) return -ENOMEM;
  fiber.schedule.store(own, std::memory_order_release);
  if (&fiber == self.fiber) wear(*fiber.carrier, fiber);
  return 0;
}

void wear(Carrier& carrier, const Fiber& fiber) noexcept {
  const Schedule* wanted = fiber.schedule.load(std::memory_order_acquire);
  if (wanted == nullptr) wanted = &all[0];
  const Schedule* worn = carrier.schedule != nullptr ? carrier.schedule : &all[0];
  if (memcmp(&worn->cpus, &wanted->cpus, sizeof worn->cpus) != 0) give_cpus(*wanted);
  if (worn->policy != wanted->policy || worn->priority != wanted->priority) give_policy(*wanted);
  carrier.schedule = fiber.schedule.load(std::memory_order_relaxed);
}

}  // namespace weft::schedule
