// schedule.h - how the kernel is to schedule a fiber: CPUs, policy and priority.
//
// Owns:        the distinct settings that fibers have asked for; wearing them: a carrier takes a fiber's setting on while
//              it runs the fiber, and the next fiber's afterwards.
// Keeps true:  a fiber that asked for nothing costs one compare at each switch; a setting is given to the kernel once
//              before it is accepted, so what the kernel refuses is refused, with its error.
// Called by:   hook/schedule.cc; carrier.cc (wear).
// Limits:      a setting made for a fiber that runs at the moment takes effect when it next runs.  A real-time fiber has
//              its priority while it runs; how soon it runs is its worker's affair.  Nice values are kept and told, not
//              worn: the kernel does not let a thread without privileges be nice for a while.
#pragma once

#include <sched.h>

#include "runtime/fiber.h"

namespace weft {

class Carrier;

struct Schedule {
  cpu_set_t cpus = {};
  int policy = SCHED_OTHER;  // with SCHED_RESET_ON_FORK, if asked for
  int priority = 0;
  int nice = 0;
};

namespace schedule {

// What the fiber has.  On a fiber, in a Busy section, as all of these.
Schedule of(const Fiber& fiber) noexcept;
// 0 or -errno.
int set(Fiber& fiber, const Schedule& wanted) noexcept;

// The carrier is about to run the fiber and wears something else.
void wear(Carrier& carrier, const Fiber& fiber) noexcept;

}  // namespace schedule
}  // namespace weft
