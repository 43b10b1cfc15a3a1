// semaphore.cc - clauses 1 and 2: semaphores count, block, refuse and time out as natively.

#include <atomic>
#include <memory>

#include <fcntl.h>
#include <limits.h>
#include <semaphore.h>
#include <sys/mman.h>

#include "check.h"
#include "child.h"
#include "clock.h"
#include "threads.h"

namespace {

class semaphore {
 public:
  explicit semaphore(unsigned value, int shared = 0) { MUST(sem_init(&value_, shared, value)); }
  ~semaphore() { MUST(sem_destroy(&value_)); }
  sem_t* get() { return &value_; }
  void wait() { MUST(sem_wait(&value_)); }
  void post() { MUST(sem_post(&value_)); }
  int value() {
    int value;
    MUST(sem_getvalue(&value_, &value));
    return value;
  }

 private:
  sem_t value_;
};

CASE(a_wait_takes_what_a_post_gave) {
  semaphore at(0);
  std::atomic<int> taken = 0;
  std::thread taker([&] {
    for (int i = 0; i < 100; ++i) {
      at.wait();
      ++taken;
    }
  });
  for (int i = 0; i < 100; ++i) {
    CHECK(taken <= i);
    at.post();
    if (i % 10 == 0) usleep(200);
  }
  taker.join();
  CHECK_EQ(at.value(), 0);
}

CASE(trywait_and_getvalue_tell_and_do_not_wait) {
  semaphore at(2);
  CHECK_EQ(at.value(), 2);
  CHECK_EQ(sem_trywait(at.get()), 0);
  CHECK_EQ(sem_trywait(at.get()), 0);
  CHECK_EQ(at.value(), 0);
  CHECK_ERRNO(sem_trywait(at.get()), EAGAIN);
  at.post();
  CHECK_EQ(at.value(), 1);
  at.wait();
}

CASE(impossible_values_are_refused) {
  sem_t unusable;
  CHECK_ERRNO(sem_init(&unusable, 0, static_cast<unsigned>(SEM_VALUE_MAX) + 1), EINVAL);
  semaphore full(SEM_VALUE_MAX);
  CHECK_ERRNO(sem_post(full.get()), EOVERFLOW);
  CHECK_EQ(full.value(), SEM_VALUE_MAX);
}

CASE(no_more_are_inside_than_the_count_allows) {
  constexpr int kRoom = 7;
  semaphore room(kRoom);
  std::atomic<int> inside = 0, visits = 0;
  crowd(100, [&](int) {
    for (int i = 0; i < 20; ++i) {
      room.wait();
      CHECK(++inside <= kRoom);
      ++visits;
      if (i % 4 == 0) usleep(100);
      --inside;
      room.post();
    }
  });
  CHECK_EQ(visits, 2000);
  CHECK_EQ(room.value(), kRoom);
}

CASE(every_post_wakes_one_of_many_waiters) {
  constexpr int kWaiters = 100;
  semaphore at(0);
  std::atomic<int> woken = 0;
  std::thread waiters([&] {
    crowd(kWaiters, [&](int) {
      at.wait();
      ++woken;
    });
  });
  let_it_block();
  for (int i = 1; i <= kWaiters; ++i) {
    at.post();
    if (i % 10 == 0) eventually([&] { return woken == i; });
  }
  waiters.join();
}

CASE(two_threads_take_turns) {
  semaphore ping(0), pong(0);
  crowd(2, [&](int id) {
    for (int i = 0; i < 10'000; ++i) {
      (id == 0 ? ping : pong).post();
      (id == 0 ? pong : ping).wait();
    }
  });
  CHECK_EQ(ping.value() + pong.value(), 0);
}

template <class Timed>
void check_timed(clockid_t clock, Timed wait) {
  semaphore at(1);
  const timespec past = {1, 0};
  CHECK_EQ(wait(at.get(), past), 0);  // what is there is taken whatever the time
  CHECK_ERRNO(wait(at.get(), past), ETIMEDOUT);
  for (const long ms : {0, 1, 30}) {
    const timespec deadline = from_now(clock, ms);
    CHECK_ERRNO(wait(at.get(), deadline), ETIMEDOUT);
    CHECK(has_passed(clock, deadline));
  }
  CHECK_ERRNO(wait(at.get(), timespec{from_now(clock, 1000).tv_sec, kNsPerSecond}), EINVAL);
  CHECK_ERRNO(wait(at.get(), timespec{from_now(clock, 1000).tv_sec, -1}), EINVAL);
  std::thread giver([&] {
    let_it_block();
    at.post();
  });
  CHECK_EQ(wait(at.get(), from_now(clock, kHangMs)), 0);
  giver.join();
  CHECK_EQ(at.value(), 0);
}

CASE(timed_waits_give_up_at_their_deadline_and_not_before) {
  check_timed(CLOCK_REALTIME,
              [](sem_t* at, timespec deadline) { return sem_timedwait(at, &deadline); });
  for (const clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC}) {
    check_timed(clock, [clock](sem_t* at, timespec deadline) {
      return sem_clockwait(at, clock, &deadline);
    });
  }
  semaphore at(0);
  const timespec late = from_now(CLOCK_MONOTONIC, kHangMs);
  CHECK_ERRNO(sem_clockwait(at.get(), CLOCK_PROCESS_CPUTIME_ID, &late), EINVAL);
}

CASE(those_that_gave_up_take_nothing) {
  semaphore at(0);
  std::atomic<int> taken = 0, gave_up = 0;
  constexpr int kPosts = 200;
  std::thread giver([&] {
    for (int i = 0; i < kPosts; ++i) {
      at.post();
      usleep(50);
    }
  });
  crowd(20, [&](int id) {
    for (int i = 0; i < 30; ++i) {
      const timespec soon = from_now(CLOCK_MONOTONIC, (id + i) % 3);
      if (sem_clockwait(at.get(), CLOCK_MONOTONIC, &soon) == 0) {
        ++taken;
      } else {
        CHECK_EQ(errno, ETIMEDOUT);
        ++gave_up;
      }
    }
  });
  giver.join();
  CHECK_EQ(taken + at.value(), kPosts);
  CHECK_EQ(taken + gave_up, 600);
}

CASE(a_waiter_may_free_the_semaphore_as_soon_as_it_has_woken) {
  for (int i = 0; i < 500; ++i) {
    auto at = std::make_unique<semaphore>(0);
    std::thread giver([at = at.get()] { at->post(); });
    at->wait();
    memset(at->get(), 0xff, sizeof(sem_t));
    at.reset();
    giver.join();
  }
}

CASE(a_process_shared_semaphore_reaches_the_other_process) {
  struct shared {
    semaphore to_child{0, 1}, to_parent{0, 1};
  };
  void* const memory = MUST(
      mmap(nullptr, sizeof(shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  shared* const both = new (memory) shared;
  const pid_t child = start_child([&] {
    crowd(2, [&](int) {
      for (int i = 0; i < 100; ++i) {
        both->to_child.wait();
        both->to_parent.post();
      }
    });
  });
  crowd(2, [&](int) {
    for (int i = 0; i < 100; ++i) {
      both->to_child.post();
      both->to_parent.wait();
    }
  });
  CHECK_EXITED(wait_for(child), 0);
  both->~shared();
  MUST(munmap(memory, sizeof(shared)));
}

CASE(a_named_semaphore_is_shared_by_its_name) {
  const std::string name = "/weft-test-" + std::to_string(getpid());
  sem_t* const one = sem_open(name.c_str(), O_CREAT | O_EXCL, 0600, 0);
  CHECK(one != SEM_FAILED);
  sem_t* const same = sem_open(name.c_str(), 0);
  CHECK(same != SEM_FAILED);
  MUST(sem_unlink(name.c_str()));
  std::thread giver([&] { MUST(sem_post(same)); });
  MUST(sem_wait(one));
  giver.join();
  MUST(sem_close(one));
  MUST(sem_close(same));
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
