// once.cc - see once.h.
#include "runtime/sync/once.h"

#include <climits>

#include "runtime/base/sys.h"

namespace weft::sync {

OnceState begin(pthread_once_t& once, int in_progress) noexcept {
  std::atomic_ref<int> word(once);
  int seen = word.load(std::memory_order_acquire);
  for (;;) {
    if ((seen & kOnceDone) != 0) return OnceState::kDone;
    if (seen == in_progress) return OnceState::kOthers;
    if (word.compare_exchange_weak(seen, in_progress, std::memory_order_acquire)) return OnceState::kMine;
  }
}

Why wait_while(pthread_once_t& once, int in_progress) noexcept {
  return lot::wait(&once, Reason::kOnce, Deadline::never(), [&] {
    return std::atomic_ref<int>(once).load(std::memory_order_relaxed) == in_progress;
  });
}

void finish(pthread_once_t& once, bool done) noexcept {
  std::atomic_ref<int>(once).store(done ? kOnceDone : 0, std::memory_order_release);
  lot::wake(&once, INT_MAX);
  sys::futex_wake(&once, INT_MAX);
}

}  // namespace weft::sync
