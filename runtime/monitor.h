// monitor.h - notices workers that are stuck in program code.
//
// Owns:        one kernel thread, its tick, the decision to hand a worker over, and the record of where that happened.
// Keeps true:  a worker in program code for longer than the threshold, with anything to do, is given to another
//              carrier (carrier.h M1..M6).  When every worker sleeps, the monitor sleeps too: no wake-ups.  While workers
//              move it looks every 4 ms; from the first sign of a stuck one every half; during a burst of handoffs (many
//              fibers block one after another) every twentieth of a millisecond.
// Called by:   runtime.cc starts it; carriers call worker_awake() when they leave epoll.
#pragma once

#include <cstdint>

namespace weft {
class Carrier;
}

namespace weft::monitor {

struct Options {
  int64_t threshold_ns = 2'000'000;
  bool sites = false;  // note where the program was at each handoff
  void (*ask_for_sample)(Carrier*) = nullptr;  // makes the carrier, which computes, call sample()
  bool log = false;    // and say it on stderr, once for each place
  bool force = false;  // for tests: take workers away whenever they are in program code
};

// Starts the thread.  False: the kernel refuses.
bool start(const Options& options) noexcept;

// A worker got something to do: makes sure that the monitor ticks.  One load when it does.
void worker_awake() noexcept;

uint64_t handoffs() noexcept;  // how many so far
uint64_t looks() noexcept;     // how often it woke up
int64_t cpu_time() noexcept;   // what it has used

// In a signal handler on top of the program: notes where it is, if that was asked for.
void sample(Carrier* carrier, const void* context) noexcept;

// One line for each of the places with most handoffs.  At exit.
void print_sites() noexcept;

void forget() noexcept;  // fork child: the thread is gone

}  // namespace weft::monitor
