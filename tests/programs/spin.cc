// spin.cc - clauses 1 and 3: spin locks exclude, and a spinning thread cannot keep the holder from
// going on.

#include <atomic>

#include <pthread.h>
#include <sched.h>

#include "check.h"
#include "threads.h"

namespace {

CASE(a_spin_lock_excludes) {
  pthread_spinlock_t lock;
  CHECK_EQ(pthread_spin_init(&lock, PTHREAD_PROCESS_PRIVATE), 0);
  long count = 0;
  crowd(8, [&](int) {
    for (int i = 0; i < 5000; ++i) {
      CHECK_EQ(pthread_spin_lock(&lock), 0);
      ++count;
      CHECK_EQ(pthread_spin_unlock(&lock), 0);
    }
  });
  CHECK_EQ(count, 8 * 5000);
  CHECK_EQ(pthread_spin_destroy(&lock), 0);
}

CASE(trylock_of_a_held_spin_lock_is_EBUSY) {
  pthread_spinlock_t lock;
  CHECK_EQ(pthread_spin_init(&lock, PTHREAD_PROCESS_PRIVATE), 0);
  CHECK_EQ(pthread_spin_trylock(&lock), 0);
  CHECK_EQ(pthread_spin_trylock(&lock), EBUSY);
  crowd(1, [&](int) { CHECK_EQ(pthread_spin_trylock(&lock), EBUSY); });
  CHECK_EQ(pthread_spin_unlock(&lock), 0);
  crowd(1, [&](int) {
    CHECK_EQ(pthread_spin_trylock(&lock), 0);
    CHECK_EQ(pthread_spin_unlock(&lock), 0);
  });
}

CASE(the_holder_may_yield_and_sleep_while_others_spin) {
  pthread_spinlock_t lock;
  CHECK_EQ(pthread_spin_init(&lock, PTHREAD_PROCESS_PRIVATE), 0);
  int count = 0;
  crowd(4, [&](int id) {
    for (int i = 0; i < 10; ++i) {
      CHECK_EQ(pthread_spin_lock(&lock), 0);
      ++count;
      if (id % 2 == 0) {
        sched_yield();
      } else {
        usleep(500);
      }
      CHECK_EQ(pthread_spin_unlock(&lock), 0);
    }
  });
  CHECK_EQ(count, 40);
}

CASE(a_home_made_spin_lock_with_yield_makes_progress) {
  std::atomic_flag lock;
  int count = 0;
  crowd(16, [&](int) {
    for (int i = 0; i < 100; ++i) {
      while (lock.test_and_set(std::memory_order_acquire)) sched_yield();
      ++count;
      if (i % 20 == 0) usleep(100);
      lock.clear(std::memory_order_release);
    }
  });
  CHECK_EQ(count, 1600);
}

CASE(a_bare_spin_on_a_variable_sees_the_other_thread_set_it) {
  std::atomic<int> turn = 0;
  crowd(3, [&](int id) {
    for (int i = 0; i < 20; ++i) {
      while (turn % 3 != id) {
      }
      if (i % 5 == 0) usleep(100);
      ++turn;
    }
  });
  CHECK_EQ(turn, 60);
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
