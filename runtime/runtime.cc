// runtime.cc - see runtime.h.
#include "runtime/runtime.h"

#include <sched.h>
#include <sys/prctl.h>

#include <cstdlib>

#include "runtime/abi/glibc.h"
#include "runtime/abi/x86_64.h"
#include "runtime/base/check.h"
#include "runtime/base/sys.h"
#include "runtime/carrier.h"
#include "runtime/monitor.h"
#include "runtime/park.h"
#include "runtime/parking_lot.h"
#include "runtime/process.h"
#include "runtime/signals.h"
#include "runtime/thread.h"

namespace weft::runtime {

Options options;
std::atomic<bool> active{false};

namespace {

SpinLock start_lock;
bool refused = false;

int64_t number_in(const char* name, int64_t otherwise) noexcept {
  const char* text = getenv(name);
  if (text == nullptr || *text == 0) return otherwise;
  char* end;
  const long long value = strtoll(text, &end, 10);
  return end == text || value < 0 ? otherwise : value;
}

uint32_t default_workers() noexcept {
  if (options.workers != 0) return options.workers < kMaxWorkers ? options.workers : kMaxWorkers;
  if (process::has_global_lock()) return 1;
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  const long size = sys::call(SYS_sched_getaffinity, 0, sizeof cpus, sys::word(&cpus));
  const int n = size > 0 ? CPU_COUNT(&cpus) : 1;
  return n < 1 ? 1 : static_cast<uint32_t>(n) < kMaxWorkers ? static_cast<uint32_t>(n) : kMaxWorkers;
}

// The calling thread's stack and TLS block become those of the main fiber.
Fiber* adopt_main() noexcept {
  Fiber* fiber = fibers::allocate_main(sys::gettid());
  if (fiber == nullptr) return nullptr;
  sys::call(SYS_prctl, PR_GET_NAME, sys::word(fiber->name));
  fiber->exit.store(threads::kJoinable, std::memory_order_relaxed);
  mark_ready(fiber);
  mark_running(fiber);
  return fiber;
}

const char* bring_up() noexcept {
  const char* why = nullptr;
  if (!abi::probe(&why)) return why;
  carriers::prepare_membarrier();
  carriers::set_limit(options.max_carriers);
  carriers::set_idle_time(options.carrier_idle_ns);
  carriers::set_demotion(options.force_handoffs != 1 && options.force_handoffs != 3);
  carriers::set_give_away_always(options.force_handoffs == 3);
  const uint32_t n = default_workers();
  if (!workers::open(n)) return "no epoll instance can be made";
  Fiber* main = adopt_main();
  if (main == nullptr) return "no memory for fibers";
  if (!carriers::adopt_calling_thread(main, &workers::all[0])) return "no memory for the first carrier";
  abi::unregister_rseq();
  signals::start(main);
  for (uint32_t i = 1; i < n; ++i) {
    if (carriers::create(&workers::all[i]) != nullptr) continue;
    workers::count = i;  // fewer kernel threads than asked for: fewer workers
    break;
  }
  monitor::Options monitoring;
  monitoring.threshold_ns = options.handoff_threshold_ns;
  monitoring.sites = options.stats || options.log_handoffs;
  monitoring.ask_for_sample = signals::ask_for_sample;
  monitoring.log = options.log_handoffs;
  monitoring.force = options.force_handoffs != 0;
  if (!monitor::start(monitoring)) return "no thread for the monitor can be made";
  self.fiber = main;
  return nullptr;
}

}  // namespace

void read_environment() noexcept {
  options.workers = static_cast<uint32_t>(number_in("WEFT_WORKERS", 0));
  options.stack_size = static_cast<size_t>(number_in("WEFT_STACK_SIZE", 0));
  options.handoff_threshold_ns = number_in("WEFT_HANDOFF_THRESHOLD_US", 2000) * kMicrosecond;
  options.max_carriers = static_cast<uint32_t>(number_in("WEFT_MAX_CARRIERS", 0));
  if (const char* list = getenv("WEFT_NATIVE_THREADS_FROM"); list != nullptr) options.native_threads_from = list;
  options.carrier_idle_ns = number_in("WEFT_CARRIER_IDLE_MS", 10'000) * kMillisecond;
  options.log_handoffs = number_in("WEFT_LOG_HANDOFFS", 0) != 0;
  options.force_handoffs = static_cast<uint32_t>(number_in("WEFT_FORCE_HANDOFFS", 0));
  options.stats = number_in("WEFT_STATS", 0) != 0;
}

bool start() noexcept {
  if (is_active()) return true;
  Locked locked(start_lock);
  if (is_active()) return true;
  if (refused) return false;
  ++self.busy;
  const char* why = bring_up();
  --self.busy;
  if (why != nullptr) {
    refused = true;
    say("running natively: %s", why);
    return false;
  }
  active.store(true, std::memory_order_release);
  return true;
}

void print_stats() noexcept {
  Counters sum;
  for (uint32_t i = 0, n = carriers::count(); i < n; ++i) {
    const Counters& c = carriers::at(i)->counters;
    sum.switches += c.switches;
    sum.steals += c.steals;
    sum.epoll_waits += c.epoll_waits;
    for (size_t r = 0; r < static_cast<size_t>(Reason::kCount); ++r) sum.parks[r] += c.parks[r];
  }
  say("fibers created %llu, peak %u", static_cast<unsigned long long>(threads::created()), threads::peak());
  say("switches %llu, steals %llu, epoll waits %llu, handoffs %llu, workers given away before a blocking call %llu",
      static_cast<unsigned long long>(sum.switches), static_cast<unsigned long long>(sum.steals),
      static_cast<unsigned long long>(sum.epoll_waits), static_cast<unsigned long long>(monitor::handoffs()),
      static_cast<unsigned long long>(carriers::given_away()));
  for (size_t r = 1; r < static_cast<size_t>(Reason::kCount); ++r)
    if (sum.parks[r] != 0)
      say("parks in %s %llu", name_of(static_cast<Reason>(r)), static_cast<unsigned long long>(sum.parks[r]));
  say("workers %u, kernel threads at peak %u (%u carriers, 1 monitor)", workers::count, carriers::peak() + 1,
      carriers::peak());
  say("monitor: %llu looks, %.1f ms of CPU", static_cast<unsigned long long>(monitor::looks()),
      static_cast<double>(monitor::cpu_time()) / kMillisecond);
  monitor::print_sites();
}

}  // namespace weft::runtime
