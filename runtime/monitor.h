// monitor.h - notices workers that are stuck in program code.
//
// Owns:        one kernel thread, its tick, and the decision to hand a worker over.
// Keeps true:  a worker in program code for longer than the threshold, with anything to do, is given to another
//              carrier (carrier.h M1, M2).  When every worker sleeps, the monitor sleeps too: no wake-ups.
// Called by:   runtime.cc starts it; carriers call worker_awake() when they leave epoll.
#pragma once

#include <cstdint>

namespace weft::monitor {

// Starts the thread.  False: the kernel refuses.
bool start(int64_t threshold_ns) noexcept;

// A worker got something to do: makes sure that the monitor ticks.  One load when it does.
void worker_awake() noexcept;

uint64_t handoffs() noexcept;  // how many so far

void forget() noexcept;  // fork child: the thread is gone

}  // namespace weft::monitor
