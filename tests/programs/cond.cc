// cond.cc - clauses 1 and 2: condition variables wake whom they should, lose no wake-up, and keep
// their clocks.

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <stop_token>

#include <pthread.h>
#include <sys/mman.h>

#include "check.h"
#include "child.h"
#include "clock.h"
#include "threads.h"

namespace {

// A condition with its mutex, which checks its owner: whoever comes back from a wait must hold it.
class monitor {
 public:
  explicit monitor(clockid_t clock = CLOCK_REALTIME, int shared = PTHREAD_PROCESS_PRIVATE) {
    pthread_mutexattr_t mutex_attr;
    CHECK_EQ(pthread_mutexattr_init(&mutex_attr), 0);
    CHECK_EQ(pthread_mutexattr_settype(&mutex_attr, PTHREAD_MUTEX_ERRORCHECK), 0);
    CHECK_EQ(pthread_mutexattr_setpshared(&mutex_attr, shared), 0);
    CHECK_EQ(pthread_mutex_init(&mutex, &mutex_attr), 0);
    pthread_condattr_t attr;
    CHECK_EQ(pthread_condattr_init(&attr), 0);
    CHECK_EQ(pthread_condattr_setclock(&attr, clock), 0);
    CHECK_EQ(pthread_condattr_setpshared(&attr, shared), 0);
    CHECK_EQ(pthread_cond_init(&condition, &attr), 0);
  }
  ~monitor() {
    CHECK_EQ(pthread_cond_destroy(&condition), 0);
    CHECK_EQ(pthread_mutex_destroy(&mutex), 0);
  }

  void lock() { CHECK_EQ(pthread_mutex_lock(&mutex), 0); }
  void unlock() { CHECK_EQ(pthread_mutex_unlock(&mutex), 0); }
  void wait() { CHECK_EQ(pthread_cond_wait(&condition, &mutex), 0); }
  void signal() { CHECK_EQ(pthread_cond_signal(&condition), 0); }
  void broadcast() { CHECK_EQ(pthread_cond_broadcast(&condition), 0); }

  pthread_mutex_t mutex;
  pthread_cond_t condition;
};

CASE(broadcast_wakes_every_waiter) {
  constexpr int kWaiters = 100, kRounds = 5;
  monitor at;
  int waiting = 0, round = 0;
  std::thread caller([&] {
    for (int r = 1; r <= kRounds; ++r) {
      eventually([&] {
        std::lock_guard held(at);
        return waiting == kWaiters;
      });
      std::lock_guard held(at);
      waiting = 0;
      round = r;
      at.broadcast();
    }
  });
  crowd(kWaiters, [&](int) {
    for (int r = 1; r <= kRounds; ++r) {
      std::lock_guard held(at);
      ++waiting;
      while (round < r) at.wait();
    }
  });
  caller.join();
}

CASE(each_signal_lets_one_waiter_go_on) {
  constexpr int kWaiters = 50;
  monitor at;
  int tokens = 0, taken = 0;
  std::thread giver([&] {
    for (int i = 0; i < kWaiters; ++i) {
      at.lock();
      ++tokens;
      at.signal();
      at.unlock();
      if (i % 5 == 0) usleep(200);
    }
  });
  crowd(kWaiters, [&](int) {
    std::lock_guard held(at);
    while (tokens == 0) at.wait();
    --tokens;
    ++taken;
  });
  giver.join();
  CHECK_EQ(taken, kWaiters);
  CHECK_EQ(tokens, 0);
}

CASE(a_signal_to_nobody_is_not_remembered) {
  monitor at;
  at.signal();
  at.broadcast();
  at.lock();
  const timespec soon = from_now(CLOCK_REALTIME, 10);
  int error;
  do error = pthread_cond_timedwait(&at.condition, &at.mutex, &soon);
  while (error == 0);  // a spurious wake-up is allowed, in theory
  CHECK_EQ(error, ETIMEDOUT);
  at.unlock();
}

CASE(producers_and_consumers_lose_and_double_nothing) {
  constexpr int kSides = 4, kItems = 20'000;
  constexpr size_t kRoom = 16;
  monitor not_empty;  // its mutex guards the queue; the second condition shares it
  pthread_cond_t not_full = PTHREAD_COND_INITIALIZER;
  std::deque<int> queue;
  std::vector<char> seen(kItems);
  std::atomic<int> next = 0;
  int taken = 0;
  crowd(2 * kSides, [&](int id) {
    if (id < kSides) {
      for (int item; (item = next++) < kItems;) {
        not_empty.lock();
        while (queue.size() == kRoom) CHECK_EQ(pthread_cond_wait(&not_full, &not_empty.mutex), 0);
        queue.push_back(item);
        not_empty.signal();
        not_empty.unlock();
      }
      return;
    }
    for (;;) {
      not_empty.lock();
      while (queue.empty() && taken < kItems) not_empty.wait();
      if (taken == kItems) {
        not_empty.broadcast();
        not_empty.unlock();
        return;
      }
      CHECK_EQ(++seen[queue.front()], 1);
      queue.pop_front();
      if (++taken == kItems) not_empty.broadcast();
      CHECK_EQ(pthread_cond_signal(&not_full), 0);
      not_empty.unlock();
    }
  });
  CHECK_EQ(taken, kItems);
  for (char times : seen) CHECK_EQ(times, 1);
}

CASE(two_threads_take_turns) {
  constexpr int kTurns = 5000;
  monitor at;
  int turn = 0;
  crowd(2, [&](int id) {
    std::lock_guard held(at);
    for (int i = 0; i < kTurns; ++i) {
      while (turn % 2 != id) at.wait();
      ++turn;
      at.signal();
    }
  });
  CHECK_EQ(turn, 2 * kTurns);
}

// wait(monitor, deadline) is one of the timed forms; its deadline is on this clock.
template <class Wait>
void check_timed(monitor& at, clockid_t clock, Wait wait) {
  at.lock();
  for (const timespec past : {timespec{0, 0}, timespec{1, 5}, from_now(clock, 0)}) {
    CHECK_EQ(wait(at, past), ETIMEDOUT);
  }
  for (const long ms : {1, 30}) {
    const timespec deadline = from_now(clock, ms);
    int error;
    do error = wait(at, deadline);
    while (error == 0);
    CHECK_EQ(error, ETIMEDOUT);
    CHECK(has_passed(clock, deadline));
  }
  const time_t soon = from_now(clock, 1000).tv_sec;
  CHECK_EQ(wait(at, timespec{soon, kNsPerSecond}), EINVAL);
  CHECK_EQ(wait(at, timespec{soon, -1}), EINVAL);
  at.unlock();  // and the mutex is held after every one of them

  bool ready = false;
  std::thread teller([&] {
    let_it_block();
    std::lock_guard held(at);
    ready = true;
    at.signal();
  });
  at.lock();
  const timespec late = from_now(clock, kHangMs);
  while (!ready) CHECK_EQ(wait(at, late), 0);
  at.unlock();
  teller.join();
}

CASE(timedwait_keeps_to_the_clock_of_its_condition) {
  for (const clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC}) {
    monitor at(clock);
    check_timed(at, clock, [](monitor& m, timespec deadline) {
      return pthread_cond_timedwait(&m.condition, &m.mutex, &deadline);
    });
  }
}

CASE(clockwait_keeps_to_the_clock_it_is_given) {
  for (const clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC}) {
    monitor at(clock == CLOCK_REALTIME ? CLOCK_MONOTONIC
                                       : CLOCK_REALTIME);  // the other one: it does not matter
    check_timed(at, clock, [clock](monitor& m, timespec deadline) {
      return pthread_cond_clockwait(&m.condition, &m.mutex, clock, &deadline);
    });
  }
  monitor at;
  at.lock();
  const timespec late = from_now(CLOCK_MONOTONIC, kHangMs);
  CHECK_EQ(pthread_cond_clockwait(&at.condition, &at.mutex, CLOCK_PROCESS_CPUTIME_ID, &late),
           EINVAL);
  at.unlock();
}

CASE(a_condition_refuses_a_clock_that_it_cannot_wait_on) {
  pthread_condattr_t attr;
  clockid_t clock;
  CHECK_EQ(pthread_condattr_init(&attr), 0);
  CHECK_EQ(pthread_condattr_setclock(&attr, CLOCK_PROCESS_CPUTIME_ID), EINVAL);
  CHECK_EQ(pthread_condattr_getclock(&attr, &clock), 0);
  CHECK_EQ(clock, CLOCK_REALTIME);
  CHECK_EQ(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC), 0);
  CHECK_EQ(pthread_condattr_getclock(&attr, &clock), 0);
  CHECK_EQ(clock, CLOCK_MONOTONIC);
}

CASE(waiters_that_time_out_do_not_swallow_the_signals_of_others) {
  constexpr int kThreads = 20, kTokens = 200;
  monitor at(CLOCK_MONOTONIC);
  int tokens = 0, taken = 0, signalled = 0;
  std::thread giver([&] {
    for (int i = 0; i < kTokens; ++i) {
      at.lock();
      ++tokens;
      ++signalled;
      at.signal();
      at.unlock();
      usleep(100);
    }
  });
  crowd(kThreads, [&](int id) {
    std::lock_guard held(at);
    while (taken < kTokens) {
      if (tokens > 0) {
        --tokens;
        if (++taken == kTokens) at.broadcast();
        continue;
      }
      if (id == 0 || signalled == kTokens) {  // the patient: with no lost signal they always end
        at.wait();
      } else {
        const timespec soon = from_now(CLOCK_MONOTONIC, id % 3);
        const int error = pthread_cond_timedwait(&at.condition, &at.mutex, &soon);
        CHECK(error == 0 || error == ETIMEDOUT);
      }
    }
  });
  giver.join();
  CHECK_EQ(taken, kTokens);
}

CASE(a_static_initialiser_needs_no_init) {
  static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
  bool ready = false;
  std::thread waiter([&] {
    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    while (!ready) CHECK_EQ(pthread_cond_wait(&condition, &mutex), 0);
    CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
  });
  let_it_block();
  CHECK_EQ(pthread_mutex_lock(&mutex), 0);
  ready = true;
  CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
  CHECK_EQ(pthread_cond_signal(&condition), 0);  // without the mutex, which is allowed
  waiter.join();
}

CASE(a_condition_may_be_destroyed_right_after_the_broadcast) {
  for (int round = 0; round < 100; ++round) {
    struct shared {
      pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
      int waiting = 0;
      bool go = false;
    } state;
    pthread_cond_t* const condition = new pthread_cond_t;
    CHECK_EQ(pthread_cond_init(condition, nullptr), 0);
    crowd(5, [&](int id) {
      CHECK_EQ(pthread_mutex_lock(&state.mutex), 0);
      if (id == 4) {
        while (state.waiting < 4) {
          CHECK_EQ(pthread_mutex_unlock(&state.mutex), 0);
          sched_yield();
          CHECK_EQ(pthread_mutex_lock(&state.mutex), 0);
        }
        state.go = true;
        CHECK_EQ(pthread_cond_broadcast(condition), 0);
        CHECK_EQ(pthread_mutex_unlock(&state.mutex), 0);
        CHECK_EQ(pthread_cond_destroy(condition), 0);
        memset(condition, 0xff, sizeof *condition);
        delete condition;
        return;
      }
      ++state.waiting;
      // One wait, no loop: once woken the condition may be gone. (Nothing here wakes spuriously.)
      CHECK_EQ(pthread_cond_wait(condition, &state.mutex), 0);
      CHECK(state.go);
      CHECK_EQ(pthread_mutex_unlock(&state.mutex), 0);
    });
  }
}

CASE(a_process_shared_condition_reaches_the_other_process) {
  struct shared {
    monitor at{CLOCK_REALTIME, PTHREAD_PROCESS_SHARED};
    int turn = 0;
  };
  constexpr int kTurns = 200;
  void* const memory = MUST(
      mmap(nullptr, sizeof(shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  shared* const both = new (memory) shared;
  const auto take_turns = [=](int id) {
    crowd(1, [=](int) {
      std::lock_guard held(both->at);
      for (int i = 0; i < kTurns; ++i) {
        while (both->turn % 2 != id) both->at.wait();
        ++both->turn;
        both->at.signal();
      }
    });
  };
  const pid_t child = start_child([&] { take_turns(1); });
  take_turns(0);
  CHECK_EXITED(wait_for(child), 0);
  CHECK_EQ(both->turn, 2 * kTurns);
  both->~shared();
  MUST(munmap(memory, sizeof(shared)));
}

CASE(the_conditions_of_cxx_behave) {
  using namespace std::chrono_literals;
  std::mutex mutex;
  std::condition_variable condition;
  std::condition_variable_any any;
  bool ready = false;
  std::unique_lock held(mutex);
  CHECK(!condition.wait_for(held, 5ms, [&] { return ready; }));
  CHECK(!condition.wait_until(held, std::chrono::system_clock::now() + 5ms, [&] { return ready; }));
  CHECK(!any.wait_for(held, 5ms, [&] { return ready; }));
  std::thread teller([&] {
    std::lock_guard lock(mutex);
    ready = true;
    condition.notify_one();
    any.notify_all();
  });
  CHECK(condition.wait_for(held, 60s, [&] { return ready; }));
  held.unlock();
  teller.join();

  std::jthread stopped([&](std::stop_token stop) {
    std::unique_lock lock(mutex);
    CHECK(!any.wait(lock, stop, [] { return false; }));
  });
  let_it_block();
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
