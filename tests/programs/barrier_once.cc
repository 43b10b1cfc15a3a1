// barrier_once.cc - clauses 1 and 2: a barrier lets all go on together, once happens once, and the
// C++20 counterparts, which wait by bare futex calls, do as well.

#include <atomic>
#include <barrier>
#include <latch>
#include <memory>
#include <mutex>
#include <semaphore>
#include <stdexcept>

#include <pthread.h>

#include "check.h"
#include "threads.h"

namespace {

constexpr int kThreads = 50;
constexpr int kRounds = 50;

CASE(a_barrier_opens_when_all_have_come_and_tells_one_of_them) {
  pthread_barrier_t barrier;
  CHECK_EQ(pthread_barrier_init(&barrier, nullptr, kThreads), 0);
  std::vector<std::atomic<int>> arrived(kRounds), serial(kRounds);
  crowd(kThreads, [&](int id) {
    for (int round = 0; round < kRounds; ++round) {
      if ((id + round) % 10 == 0) usleep(100);
      ++arrived[round];
      const int result = pthread_barrier_wait(&barrier);
      CHECK_EQ(arrived[round], kThreads);
      if (result == PTHREAD_BARRIER_SERIAL_THREAD) {
        ++serial[round];
      } else {
        CHECK_EQ(result, 0);
      }
    }
  });
  for (std::atomic<int>& count : serial) CHECK_EQ(count, 1);
  CHECK_EQ(pthread_barrier_destroy(&barrier), 0);
}

CASE(a_barrier_of_one_never_waits_and_one_of_none_is_refused) {
  pthread_barrier_t barrier;
  CHECK_EQ(pthread_barrier_init(&barrier, nullptr, 0), EINVAL);
  CHECK_EQ(pthread_barrier_init(&barrier, nullptr, 1), 0);
  for (int i = 0; i < 10; ++i)
    CHECK_EQ(pthread_barrier_wait(&barrier), PTHREAD_BARRIER_SERIAL_THREAD);
  CHECK_EQ(pthread_barrier_destroy(&barrier), 0);
}

CASE(the_one_that_was_told_may_destroy_the_barrier_at_once) {
  for (int round = 0; round < 100; ++round) {
    pthread_barrier_t* const barrier = new pthread_barrier_t;
    CHECK_EQ(pthread_barrier_init(barrier, nullptr, 4), 0);
    crowd(4, [=](int) {
      if (pthread_barrier_wait(barrier) != PTHREAD_BARRIER_SERIAL_THREAD) return;
      CHECK_EQ(pthread_barrier_destroy(barrier), 0);
      memset(barrier, 0xff, sizeof *barrier);
      delete barrier;
    });
  }
}

std::atomic<int> initialised;
std::atomic<bool> finished;

CASE(once_runs_once_and_nobody_goes_on_before_it_has_ended) {
  static pthread_once_t control = PTHREAD_ONCE_INIT;
  crowd(kThreads, [](int) {
    CHECK_EQ(pthread_once(&control,
                          [] {
                            ++initialised;
                            usleep(5000);
                            finished = true;
                          }),
             0);
    CHECK(finished);
  });
  CHECK_EQ(initialised, 1);
}

CASE(one_once_may_call_another) {
  static pthread_once_t outer = PTHREAD_ONCE_INIT, inner = PTHREAD_ONCE_INIT;
  static std::atomic<int> calls;
  crowd(10, [](int id) {
    const auto run_inner = [] {
      CHECK_EQ(pthread_once(&inner,
                            [] {
                              usleep(1000);
                              ++calls;
                            }),
               0);
    };
    if (id % 2 == 0) {
      run_inner();
    } else {
      CHECK_EQ(pthread_once(&outer,
                            [] {
                              CHECK_EQ(pthread_once(&inner,
                                                    [] {
                                                      usleep(1000);
                                                      ++calls;
                                                    }),
                                       0);
                              ++calls;
                            }),
               0);
    }
  });
  CHECK_EQ(calls, 2);
}

CASE(a_once_that_threw_is_tried_again_by_another) {
  std::once_flag flag;
  std::atomic<int> tries = 0, failures = 0;
  bool made = false;
  crowd(kThreads, [&](int) {
    try {
      std::call_once(flag, [&] {
        usleep(500);
        if (++tries < 4) throw std::runtime_error("not yet");
        made = true;
      });
      CHECK(made);
    } catch (const std::runtime_error& error) {
      CHECK_EQ(error.what(), "not yet");
      ++failures;
    }
  });
  CHECK_EQ(tries, 4);
  CHECK_EQ(failures, 3);
}

struct slow_to_make {
  slow_to_make() {
    usleep(3000);
    if (++made == 1) throw std::runtime_error("the first one fails");
  }
  static inline std::atomic<int> made;
};

CASE(a_static_local_is_made_once_although_its_constructor_blocks) {
  std::atomic<int> failures = 0;
  crowd(kThreads, [&](int) {
    try {
      static slow_to_make instance;
      CHECK_EQ(slow_to_make::made, 2);
    } catch (const std::runtime_error&) {
      ++failures;
    }
  });
  CHECK_EQ(failures, 1);
}

CASE(latch_and_barrier_of_cxx_open_when_all_have_come) {
  std::latch latch(kThreads);
  std::atomic<int> arrived = 0, completed = 0;
  std::barrier barrier(kThreads, [&]() noexcept { ++completed; });
  crowd(kThreads, [&](int) {
    ++arrived;
    latch.arrive_and_wait();
    CHECK_EQ(arrived, kThreads);
    for (int round = 1; round <= 10; ++round) {
      barrier.arrive_and_wait();
      CHECK_EQ(completed, round);  // the next completion waits for this thread, too
    }
  });
}

CASE(counting_semaphore_and_atomic_wait_of_cxx_block_and_wake) {
  using namespace std::chrono_literals;
  std::counting_semaphore<10> room(3);
  std::atomic<int> inside = 0, gate = 0;
  std::thread opener([&] {
    let_it_block();
    gate = 1;
    gate.notify_all();
  });
  crowd(30, [&](int) {
    gate.wait(0);
    CHECK_EQ(gate, 1);
    room.acquire();
    CHECK(++inside <= 3);
    usleep(200);
    --inside;
    room.release();
  });
  opener.join();
  std::binary_semaphore none(0);
  CHECK(!none.try_acquire_for(10ms));
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
