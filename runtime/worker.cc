// worker.cc - see worker.h.
#include "runtime/worker.h"

#include "runtime/carrier.h"

namespace weft {
namespace workers {

constinit Worker all[kMaxWorkers];
uint32_t count = 0;
std::atomic<uint32_t> sleeping_count{0};

bool open(uint32_t n) noexcept {
  for (uint32_t i = 0; i < n; ++i) {
    all[i].index = i;
    all[i].now = now();
    if (!all[i].reactor.open(i)) {
      while (i-- > 0) all[i].reactor.close();
      return false;
    }
  }
  count = n;
  return true;
}

bool steal_into(Worker& w) noexcept {
  for (uint32_t i = 1; i < count; ++i) {
    Worker& victim = all[(w.index + i) % count];
    const uint32_t stolen = victim.offered.steal_into(w.local);
    if (stolen == 0) continue;
    current_carrier()->counters.steals += stolen;
    return true;
  }
  return false;
}

void offer(Worker& w, uint32_t n) noexcept {
  w.offered.push_from(w.local, n);
  nudge_one(&w);
}

void nudge(Worker& w) noexcept {
  if (w.sleeping.exchange(0, std::memory_order_seq_cst) == 1) w.reactor.nudge();
}

void nudge_one(const Worker* except) noexcept {
  for (uint32_t i = 0; i < count; ++i) {
    Worker& w = all[i];
    if (&w == except || w.sleeping.load(std::memory_order_relaxed) == 0) continue;
    nudge(w);
    return;
  }
}

}  // namespace workers

void make_ready(Fiber* fiber) noexcept {
  Carrier* carrier = current_carrier();
  if (carrier != nullptr && carrier->push_local(fiber)) [[likely]]
    return;
  Worker* w = carrier != nullptr ? carrier->worker : fiber->worker;
  if (w == nullptr) w = &workers::all[0];
  if (w->inbox.push(fiber, w->sleeping)) workers::nudge(*w);
}

}  // namespace weft
