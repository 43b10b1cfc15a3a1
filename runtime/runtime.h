// runtime.h - start of the runtime, and whether it runs.
//
// Owns:        the options, the decision to start, the order in which the modules come up.
// Keeps true:  nothing exists before start(); when start() fails the program runs natively and one line on
//              stderr says why; it is not tried again in this process.
// Called by:   the first pthread_create (hook/pthread_thread.cc) or the linked API.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace weft::runtime {

struct Options {
  uint32_t workers = 0;            // 0: one per CPU the process may use (one for interpreters with a global lock)
  size_t stack_size = 0;           // 0: what pthread_create would give
  int64_t handoff_threshold_ns = 2'000'000;
  uint32_t max_carriers = 0;       // 0: as many as the kernel allows
  const char* native_threads_from = "";  // names of libraries, with colons between them (hook/native_threads.cc)
  bool stats = false;
  bool log_handoffs = false;       // a line on stderr for each place where a worker had to be taken away
  int64_t carrier_idle_ns = 10'000'000'000;  // after how long the kernel thread of a spare ends
  // For tests.  1: the monitor takes workers away all the time; 2: and hogs are demoted; 3: and carriers give their
  // worker away at every resume.
  uint32_t force_handoffs = 0;
};
extern Options options;

// Reads WEFT_WORKERS, WEFT_STACK_SIZE, WEFT_HANDOFF_THRESHOLD_US, WEFT_MAX_CARRIERS,
// WEFT_NATIVE_THREADS_FROM, WEFT_STATS, WEFT_LOG_HANDOFFS, WEFT_CARRIER_IDLE_MS, WEFT_FORCE_HANDOFFS.  Once, by the library constructor.
void read_environment() noexcept;

// Makes the calling thread the main fiber and everything else exist.  False: stays native.  Called once, by a
// thread that is the only one of its process that creates threads; concurrent callers are serialised.
bool start() noexcept;

extern std::atomic<bool> active;
inline bool is_active() noexcept { return active.load(std::memory_order_acquire); }

// Prints the --stats lines on stderr.  At exit.
void print_stats() noexcept;

}  // namespace weft::runtime
