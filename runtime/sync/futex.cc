// futex.cc - see futex.h.
#include "runtime/sync/futex.h"

#include <cerrno>
#include <climits>

#include "runtime/base/sys.h"

namespace weft::sync {
namespace {

// The kernel's part of a call, after `done` waiters in the lot: an error counts only if nothing was done yet.
long total(long done, long in_kernel) noexcept {
  if (in_kernel >= 0) return done + in_kernel;
  return done != 0 ? done : in_kernel;
}

long wake(const FutexCall& call, uint32_t* word, uint32_t count_given, uint32_t bitset) noexcept {
  // The kernel wakes before it counts: at least one.
  const int count = static_cast<int>(count_given) < 1 ? 1 : static_cast<int>(count_given);
  const int woken = lot::wake(word, count, bitset);
  if (woken == count) return woken;
  return total(woken, sys::call(SYS_futex, sys::word(word), FUTEX_WAKE_BITSET | call.flags, count - woken, 0, 0,
                                static_cast<int>(bitset)));
}

long requeue(const FutexCall& call, const uint32_t* expected) noexcept {
  const int wake_count = static_cast<int>(call.value), move_count = static_cast<int>(call.value2);
  if (wake_count < 0 || move_count < 0) return -EINVAL;
  const lot::Requeued done = lot::requeue(call.word, wake_count, call.word2, move_count, expected);
  if (!done.matched) return -EAGAIN;
  const int wakes_left = wake_count - done.woken, moves_left = move_count - done.moved;
  if (wakes_left == 0 && moves_left == 0) return done.woken + done.moved;
  return total(done.woken + done.moved, sys::call(SYS_futex, sys::word(call.word), FUTEX_REQUEUE | call.flags,
                                                  wakes_left, moves_left, sys::word(call.word2)));
}

// FUTEX_WAKE_OP's operation: what it does to the second word ...
struct Operation {
  int code, comparison, argument, compared_with;
};

Operation decode(uint32_t packed) noexcept {
  const auto sign_extended = [](uint32_t twelve_bits) { return static_cast<int>(twelve_bits << 20) >> 20; };
  Operation op = {static_cast<int>(packed >> 28 & 7), static_cast<int>(packed >> 24 & 15),
                  sign_extended(packed >> 12 & 0xfff), sign_extended(packed & 0xfff)};
  if ((packed >> 28 & FUTEX_OP_OPARG_SHIFT) != 0) op.argument = static_cast<int>(1u << (op.argument & 31));
  return op;
}

bool apply(const Operation& op, uint32_t* word, int& old) noexcept {
  const auto argument = static_cast<uint32_t>(op.argument);
  uint32_t before;
  switch (op.code) {
    case FUTEX_OP_SET: before = __atomic_exchange_n(word, argument, __ATOMIC_SEQ_CST); break;
    case FUTEX_OP_ADD: before = __atomic_fetch_add(word, argument, __ATOMIC_SEQ_CST); break;
    case FUTEX_OP_OR: before = __atomic_fetch_or(word, argument, __ATOMIC_SEQ_CST); break;
    case FUTEX_OP_ANDN: before = __atomic_fetch_and(word, ~argument, __ATOMIC_SEQ_CST); break;
    case FUTEX_OP_XOR: before = __atomic_fetch_xor(word, argument, __ATOMIC_SEQ_CST); break;
    default: return false;
  }
  old = static_cast<int>(before);
  return true;
}

// ... and the condition for the second wake, on its old value.
bool holds(const Operation& op, int old) noexcept {
  switch (op.comparison) {
    case FUTEX_OP_CMP_EQ: return old == op.compared_with;
    case FUTEX_OP_CMP_NE: return old != op.compared_with;
    case FUTEX_OP_CMP_LT: return old < op.compared_with;
    case FUTEX_OP_CMP_GE: return old >= op.compared_with;
    case FUTEX_OP_CMP_LE: return old <= op.compared_with;
    default: return old > op.compared_with;
  }
}

long wake_op(const FutexCall& call) noexcept {
  const Operation op = decode(call.value3);
  int old;
  if (op.comparison > FUTEX_OP_CMP_GE || !apply(op, call.word2, old)) return -ENOSYS;
  long woken = wake(call, call.word, call.value, ~0u);
  if (holds(op, old)) woken += wake(call, call.word2, call.value2, ~0u);
  return woken;
}

}  // namespace

Why futex_wait(uint32_t* word, uint32_t value, Deadline deadline, uint32_t bitset, bool& unequal) noexcept {
  bool checked = true;
  const Why why = lot::wait(
      word, Reason::kFutex, deadline, [=] { return __atomic_load_n(word, __ATOMIC_SEQ_CST) == value; }, bitset,
      &checked);
  unequal = !checked;
  return why;
}

long futex_wake(const FutexCall& call) noexcept {
  switch (call.command) {
    case FUTEX_WAKE: return wake(call, call.word, call.value, ~0u);
    case FUTEX_WAKE_BITSET: return call.value3 == 0 ? -EINVAL : wake(call, call.word, call.value, call.value3);
    case FUTEX_REQUEUE: return requeue(call, nullptr);
    case FUTEX_CMP_REQUEUE: return requeue(call, &call.value3);
    default: return wake_op(call);
  }
}

}  // namespace weft::sync
