// futex.cc - clause 1: futex calls made through syscall() answer as the kernel's, whoever waits where.

#include <linux/futex.h>
#include <sys/syscall.h>

#include <atomic>
#include <climits>

#include "check.h"
#include "clock.h"
#include "threads.h"

namespace {

// The kinds of futex: private, shared, and shared in memory that nobody else can see (static: below).
const int kKinds[] = {FUTEX_PRIVATE_FLAG, 0};

long futex(uint32_t* word, int operation, uint32_t value, const timespec* timeout = nullptr, uint32_t* word2 = nullptr,
           uint32_t value3 = 0) {
  return syscall(SYS_futex, word, operation, value, timeout, word2, value3);
}

// The calls with two words pass a number where the others pass a timeout.
long futex(uint32_t* word, int operation, uint32_t value, long value2, uint32_t* word2, uint32_t value3 = 0) {
  return futex(word, operation, value, reinterpret_cast<const timespec*>(value2), word2, value3);
}

// Threads that wait at a word while it is 0, each with its bits.
class waiters {
 public:
  waiters(uint32_t* word, int kind, std::initializer_list<uint32_t> bits) {
    for (const uint32_t bit : bits) {
      threads_.emplace_back([=, this] {
        MUST(futex(word, FUTEX_WAIT_BITSET | kind, 0, nullptr, nullptr, bit));
        ++gone_;
      });
    }
    let_it_block();
  }
  ~waiters() {
    for (std::thread& one : threads_) one.join();
  }
  void expect_gone(int n) {
    eventually([=, this] { return gone_ == n; });
  }

 private:
  std::vector<std::thread> threads_;
  std::atomic<int> gone_ = 0;
};

CASE(a_wait_for_another_value_is_EAGAIN_and_impossible_arguments_are_refused) {
  uint32_t word = 5;
  const timespec soon = {0, kNsPerMs}, too_many_ns = {0, kNsPerSecond}, negative = {-1, 0}, none = {0, 0};
  for (const int kind : kKinds) {
    CHECK_ERRNO(futex(&word, FUTEX_WAIT | kind, 4), EAGAIN);
    CHECK_ERRNO(futex(&word, FUTEX_WAIT | kind, 4, &none), EAGAIN);
    CHECK_ERRNO(futex(&word, FUTEX_WAIT | kind, 5, &too_many_ns), EINVAL);
    CHECK_ERRNO(futex(&word, FUTEX_WAIT | kind, 5, &negative), EINVAL);
    CHECK_ERRNO(futex(&word, FUTEX_WAIT_BITSET | kind, 5, &soon, nullptr, 0), EINVAL);
    CHECK_ERRNO(futex(&word, FUTEX_WAKE_BITSET | kind, 1, nullptr, nullptr, 0), EINVAL);
    CHECK_ERRNO(futex(nullptr, FUTEX_WAIT | kind, 5, &soon), EFAULT);
    uint32_t* const askew = reinterpret_cast<uint32_t*>(reinterpret_cast<char*>(&word) + 1);
    CHECK_ERRNO(futex(askew, FUTEX_WAIT | kind, 5, &soon), EINVAL);
  }
}

CASE(a_wait_ends_at_its_deadline_and_not_before) {
  uint32_t word = 5;
  for (const int kind : kKinds) {
    for (const long ms : {0, 1, 20}) {
      const stopwatch waited;
      const timespec timeout = timespec_of_ms(ms);
      CHECK_ERRNO(futex(&word, FUTEX_WAIT | kind, 5, &timeout), ETIMEDOUT);
      CHECK(waited.ms() >= static_cast<double>(ms));
      for (const clockid_t clock : {CLOCK_MONOTONIC, CLOCK_REALTIME}) {
        const int operation = FUTEX_WAIT_BITSET | kind | (clock == CLOCK_REALTIME ? FUTEX_CLOCK_REALTIME : 0);
        const timespec deadline = from_now(clock, ms);
        CHECK_ERRNO(futex(&word, operation, 5, &deadline, nullptr, ~0u), ETIMEDOUT);
        CHECK(has_passed(clock, deadline));
      }
    }
  }
}

CASE(a_wake_reaches_as_many_as_it_may_and_says_how_many) {
  static uint32_t word;
  for (const int kind : kKinds) {
    waiters at(&word, kind, {1, 1, 2, 2, 2});
    CHECK_EQ(futex(&word, FUTEX_WAKE_BITSET | kind, INT_MAX, nullptr, nullptr, 4), 0);
    CHECK_EQ(futex(&word, FUTEX_WAKE_BITSET | kind, 2, nullptr, nullptr, 2), 2);
    at.expect_gone(2);
    CHECK_EQ(futex(&word, FUTEX_WAKE_BITSET | kind, INT_MAX, nullptr, nullptr, 2), 1);
    at.expect_gone(3);
    CHECK_EQ(futex(&word, FUTEX_WAKE | kind, 0), 1);  // the kernel wakes before it counts
    CHECK_EQ(futex(&word, FUTEX_WAKE | kind, INT_MAX), 1);
    CHECK_EQ(futex(&word, FUTEX_WAKE | kind, INT_MAX), 0);
  }
}

CASE(requeue_moves_those_that_it_does_not_wake) {
  static uint32_t from, to;
  for (const int kind : kKinds) {
    waiters at(&from, kind, {~0u, ~0u, ~0u, ~0u});
    CHECK_ERRNO(futex(&from, FUTEX_CMP_REQUEUE | kind, 1, 1, &to, 1), EAGAIN);
    CHECK_ERRNO(futex(&from, FUTEX_CMP_REQUEUE | kind, static_cast<uint32_t>(-1), 1, &to, 0), EINVAL);
    CHECK_EQ(futex(&from, FUTEX_CMP_REQUEUE | kind, 1, 1, &to, 0), 2);
    at.expect_gone(1);
    CHECK_EQ(futex(&from, FUTEX_REQUEUE | kind, 0, INT_MAX, &to), 2);
    CHECK_EQ(futex(&from, FUTEX_WAKE | kind, INT_MAX), 0);
    CHECK_EQ(futex(&to, FUTEX_WAKE | kind, INT_MAX), 3);
  }
}

CASE(wake_op_changes_the_second_word_and_wakes_by_its_old_value) {
  static uint32_t word, word2;
  const auto wake_op = [](int kind, uint32_t count2, int operation, int argument, int comparison, int with) {
    return futex(&word, FUTEX_WAKE_OP | kind, 1, count2, &word2,
                 static_cast<uint32_t>(FUTEX_OP(operation, argument, comparison, with)));
  };
  for (const int kind : kKinds) {
    word2 = 7;
    CHECK_EQ(wake_op(kind, 1, FUTEX_OP_ADD, -3, FUTEX_OP_CMP_EQ, 7), 0);
    CHECK_EQ(word2, 4);
    CHECK_EQ(wake_op(kind, 1, FUTEX_OP_OR | FUTEX_OP_OPARG_SHIFT, 4, FUTEX_OP_CMP_LT, 0), 0);
    CHECK_EQ(word2, 20);
    CHECK_EQ(wake_op(kind, 1, FUTEX_OP_ANDN, 16, FUTEX_OP_CMP_NE, 20), 0);
    CHECK_EQ(wake_op(kind, 1, FUTEX_OP_XOR, 5, FUTEX_OP_CMP_GE, 0), 0);
    CHECK_EQ(word2, 1);
    CHECK_EQ(wake_op(kind, 1, FUTEX_OP_SET, 0, FUTEX_OP_CMP_LE, 1), 0);
    waiters first(&word, kind, {~0u, ~0u}), second(&word2, kind, {~0u, ~0u});
    CHECK_EQ(wake_op(kind, 2, FUTEX_OP_ADD, 1, FUTEX_OP_CMP_GT, 0), 1);  // 0 is not greater than 0
    CHECK_EQ(wake_op(kind, 2, FUTEX_OP_ADD, 1, FUTEX_OP_CMP_GT, 0), 3);
  }
}

CASE(the_thread_id_and_errors_of_other_calls_come_through) {
  crowd(5, [](int) {
    CHECK_EQ(syscall(SYS_gettid), gettid());
    CHECK_ERRNO(syscall(SYS_close, -1), EBADF);
    CHECK_EQ(syscall(SYS_getpid), getpid());
  });
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
