// park.cc - see park.h.
#include "runtime/park.h"

#include <cerrno>

#include "runtime/base/check.h"
#include "runtime/base/sys.h"
#include "runtime/carrier.h"

namespace weft {
namespace {

constexpr uint64_t word_of(uint64_t stamp, State state, Why why = Why::kNone) noexcept {
  return stamp << 16 | static_cast<uint64_t>(why) << 8 | static_cast<uint64_t>(state);
}
constexpr uint64_t stamp_of(uint64_t word) noexcept { return word >> 16; }
constexpr State state_in(uint64_t word) noexcept { return static_cast<State>(word & 0xff); }
constexpr Why why_in(uint64_t word) noexcept { return static_cast<Why>(word >> 8 & 0xff); }

// The only way a word changes: from what it was seen to be.
bool move(Parker& parker, uint64_t& from, uint64_t to) noexcept {
  return parker.word.compare_exchange_strong(from, to, std::memory_order_acq_rel, std::memory_order_acquire);
}

// Own thread: the wait is over; back to Running.
Why finish_wait(Parker& parker) noexcept {
  const uint64_t word = parker.word.load(std::memory_order_acquire);
  parker.word.store(word_of(stamp_of(word), State::kRunning, why_in(word)), std::memory_order_relaxed);
  parker.reason.store(Reason::kNone, std::memory_order_relaxed);
  return why_in(word);
}

// Own thread, still Parking: ends the wait without switching.  False: a wake came first.
bool give_up(const Arming& arming, Why why) noexcept {
  uint64_t expected = word_of(arming.stamp, State::kParking);
  return move(*arming.parker, expected, word_of(arming.stamp, State::kRunning, why));
}

uint32_t* low_half(Parker& parker) noexcept { return reinterpret_cast<uint32_t*>(&parker.word); }

Why park_kernel_thread(Arming& arming, Deadline deadline) noexcept {
  Parker& parker = *arming.parker;
  uint64_t word = word_of(arming.stamp, State::kParking);
  const uint64_t parked = word_of(arming.stamp, State::kParked);
  if (!move(parker, word, parked)) return finish_wait(parker);
  const timespec until = to_timespec(deadline.is_never() ? 0 : deadline.monotonic());
  for (;;) {
    const int result =
        sys::futex_wait(low_half(parker), static_cast<uint32_t>(parked), deadline.is_never() ? nullptr : &until);
    if (parker.word.load(std::memory_order_acquire) != parked) return finish_wait(parker);
    Why why = Why::kNone;
    if (result == -ETIMEDOUT) why = deadline.reached() ? Why::kTimeout : Why::kReady;
    if (result == -EINTR) why = Why::kSignal;
    if (why == Why::kNone) continue;
    word = parked;
    if (!move(parker, word, word_of(arming.stamp, State::kRunning, why))) return finish_wait(parker);
    parker.reason.store(Reason::kNone, std::memory_order_relaxed);
    return why;
  }
}

}  // namespace

Arming::Arming(Reason reason, const void* object, int fd) noexcept : parker(&current_parker()) {
  const uint64_t word = parker->word.load(std::memory_order_relaxed);
  stamp = stamp_of(word) + 1;
  parker->detail_object = object;
  parker->detail_fd = fd;
  parker->reason.store(reason, std::memory_order_relaxed);
  // seq_cst: after this store, park() reads signals_waiting; a sender sets that first and reads the word then.
  parker->word.store(word_of(stamp, State::kParking), std::memory_order_seq_cst);
}

void Arming::abandon() noexcept {
  if (!give_up(*this, Why::kNone)) finish_wait(*parker);
  parker->reason.store(Reason::kNone, std::memory_order_relaxed);
}

Why park(Arming& arming, Deadline deadline) noexcept {
  Parker& parker = *arming.parker;
  if (state_of(parker) == State::kReady) return finish_wait(parker);
  if (self.signals_waiting.load(std::memory_order_seq_cst)) [[unlikely]] {
    if (!give_up(arming, Why::kSignal)) return finish_wait(parker);
    parker.reason.store(Reason::kNone, std::memory_order_relaxed);
    return Why::kSignal;
  }
  if (!parker.is_fiber) return park_kernel_thread(arming, deadline);
  auto* fiber = static_cast<Fiber*>(&parker);
  Carrier* carrier = fiber->carrier;
  TimerNode timer;
  Timers* timers = nullptr;
  if (!deadline.is_never()) {
    if (deadline.passed()) {
      const bool reached = deadline.reached();
      if (!give_up(arming, reached ? Why::kTimeout : Why::kReady)) return finish_wait(parker);
      parker.reason.store(Reason::kNone, std::memory_order_relaxed);
      // A loop of waits that are over before they begin (a polling thread) would keep its worker from those that its
      // unlock has just woken, until the monitor steps in: it gives way instead.
      yield_fiber();
      return reached ? Why::kTimeout : Why::kReady;
    }
    timer.when = deadline.monotonic();
    timer.parker = &parker;
    timer.stamp = arming.stamp;
    timers = &carrier->worker->timers;
    timers->arm(timer);
  }
  parker.since = carrier->worker->now;
  ++carrier->counters.parks[static_cast<size_t>(parker.reason.load(std::memory_order_relaxed))];
  Carrier::switch_away(fiber, Carrier::After::kPark);
  if (timers != nullptr) timers->disarm(timer);
  Why why = finish_wait(parker);
  if (why == Why::kTimeout && !deadline.reached()) why = Why::kReady;  // its clock was set back: look again
  return why;
}

bool wake(Parker* parker, uint64_t stamp, Why why) noexcept {
  uint64_t word = parker->word.load(std::memory_order_acquire);
  for (;;) {
    const State state = state_in(word);
    if (stamp_of(word) != stamp || (state != State::kParking && state != State::kParked)) return false;
    if (!move(*parker, word, word_of(stamp, State::kReady, why))) continue;
    if (state == State::kParked) {
      if (parker->is_fiber)
        make_ready(static_cast<Fiber*>(parker));
      else
        sys::futex_wake(low_half(*parker), 1);
    }
    return true;
  }
}

bool interrupt(Parker* parker) noexcept {
  const uint64_t word = parker->word.load(std::memory_order_acquire);
  return wake(parker, stamp_of(word), Why::kSignal);
}

void yield_fiber() noexcept {
  Fiber* fiber = self.fiber;
  Carrier::switch_away(fiber, Carrier::After::kYield);
}

bool commit_park(Fiber* fiber) noexcept {
  const uint64_t word = fiber->word.load(std::memory_order_acquire);
  uint64_t expected = word_of(stamp_of(word), State::kParking);
  return move(*fiber, expected, word_of(stamp_of(word), State::kParked));
}

void mark_running(Fiber* fiber) noexcept {
  const uint64_t word = fiber->word.load(std::memory_order_acquire);
  WEFT_CHECK(state_in(word) == State::kReady, "a fiber that is resumed was ready");
  fiber->word.store(word_of(stamp_of(word), State::kRunning, why_in(word)), std::memory_order_release);
}

void mark_ready(Fiber* fiber) noexcept {
  const uint64_t word = fiber->word.load(std::memory_order_acquire);
  WEFT_CHECK(state_in(word) == State::kRunning || state_in(word) == State::kFree, "only its own thread yields");
  fiber->word.store(word_of(stamp_of(word), State::kReady), std::memory_order_release);
}

void mark_finished(Fiber* fiber) noexcept {
  fiber->word.store(word_of(stamp_of(fiber->word.load(std::memory_order_acquire)) + 1, State::kFinished),
                    std::memory_order_release);
}

void mark_free(Fiber* fiber) noexcept {
  fiber->word.store(word_of(stamp_of(fiber->word.load(std::memory_order_acquire)), State::kFree),
                    std::memory_order_release);
}

}  // namespace weft
