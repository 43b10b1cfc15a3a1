// mutex.cc - clauses 1 and 2: mutexes of every kind exclude, refuse, time out and hand over as
// natively.

#include <atomic>
#include <mutex>

#include <pthread.h>
#include <sys/mman.h>

#include "check.h"
#include "child.h"
#include "clock.h"
#include "threads.h"

namespace {

class mutex_of {
 public:
  explicit mutex_of(int type, int protocol = PTHREAD_PRIO_NONE,
                    int robust = PTHREAD_MUTEX_STALLED) {
    pthread_mutexattr_t attr;
    CHECK_EQ(pthread_mutexattr_init(&attr), 0);
    CHECK_EQ(pthread_mutexattr_settype(&attr, type), 0);
    CHECK_EQ(pthread_mutexattr_setprotocol(&attr, protocol), 0);
    CHECK_EQ(pthread_mutexattr_setrobust(&attr, robust), 0);
    CHECK_EQ(pthread_mutex_init(&value_, &attr), 0);
    CHECK_EQ(pthread_mutexattr_destroy(&attr), 0);
  }
  ~mutex_of() { CHECK_EQ(pthread_mutex_destroy(&value_), 0); }
  pthread_mutex_t* get() { return &value_; }

 private:
  pthread_mutex_t value_;
};

// What a call says in another thread.
template <class Call>
int elsewhere(Call call) {
  int result = -1;
  std::thread([&] { result = call(); }).join();
  return result;
}

// A thread that holds a mutex for the lifetime of this object.
class held_elsewhere {
 public:
  explicit held_elsewhere(pthread_mutex_t* mutex)
      : thread_([this, mutex] {
          CHECK_EQ(pthread_mutex_lock(mutex), 0);
          locked_.set();
          release_.wait();
          CHECK_EQ(pthread_mutex_unlock(mutex), 0);
        }) {
    locked_.wait();
  }
  ~held_elsewhere() {
    release_.set();
    thread_.join();
  }

 private:
  event locked_, release_;
  std::thread thread_;
};

// The first case, so that no thread has been created yet.
CASE(a_mutex_locked_before_the_first_thread_excludes_the_threads) {
  static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  int shared = 0;
  CHECK_EQ(pthread_mutex_lock(&mutex), 0);
  std::thread other([&] {
    CHECK_EQ(pthread_mutex_trylock(&mutex), EBUSY);
    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    CHECK_EQ(shared, 1);
    CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
  });
  let_it_block();
  shared = 1;
  CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
  other.join();
}

void contend(pthread_mutex_t* mutex, int threads, int times) {
  long count = 0;
  std::atomic<int> inside = 0;
  crowd(threads, [&](int id) {
    for (int i = 0; i < times; ++i) {
      CHECK_EQ(pthread_mutex_lock(mutex), 0);
      CHECK_EQ(++inside, 1);
      ++count;
      if (i % 256 == id) sched_yield();
      if (i == id) usleep(50);
      --inside;
      CHECK_EQ(pthread_mutex_unlock(mutex), 0);
    }
  });
  CHECK_EQ(count, static_cast<long>(threads) * times);
}

CASE(a_hundred_threads_lose_no_count) {
  for (const int type : {PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_RECURSIVE, PTHREAD_MUTEX_ERRORCHECK,
                         PTHREAD_MUTEX_ADAPTIVE_NP}) {
    mutex_of mutex(type);
    contend(mutex.get(), 100, 500);
  }
}

CASE(static_initialisers_need_no_init) {
  static pthread_mutex_t mutexes[] = {
      PTHREAD_MUTEX_INITIALIZER, PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP,
      PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP, PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP};
  for (pthread_mutex_t& mutex : mutexes) contend(&mutex, 10, 200);
  CHECK_EQ(pthread_mutex_lock(&mutexes[1]), 0);
  CHECK_EQ(pthread_mutex_lock(&mutexes[1]), 0);
  CHECK_EQ(pthread_mutex_lock(&mutexes[2]), 0);
  CHECK_EQ(pthread_mutex_lock(&mutexes[2]), EDEADLK);
  CHECK_EQ(pthread_mutex_unlock(&mutexes[2]), 0);
  CHECK_EQ(pthread_mutex_unlock(&mutexes[1]), 0);
  CHECK_EQ(pthread_mutex_unlock(&mutexes[1]), 0);
}

CASE(trylock_of_a_held_mutex_is_EBUSY) {
  for (const int type :
       {PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_ERRORCHECK, PTHREAD_MUTEX_ADAPTIVE_NP}) {
    mutex_of mutex(type);
    CHECK_EQ(pthread_mutex_trylock(mutex.get()), 0);
    CHECK_EQ(pthread_mutex_trylock(mutex.get()), EBUSY);
    CHECK_EQ(elsewhere([&] { return pthread_mutex_trylock(mutex.get()); }), EBUSY);
    CHECK_EQ(pthread_mutex_unlock(mutex.get()), 0);
    CHECK_EQ(elsewhere([&] {
               return pthread_mutex_trylock(mutex.get()) ?: pthread_mutex_unlock(mutex.get());
             }),
             0);
  }
}

CASE(a_recursive_mutex_is_free_after_as_many_unlocks_as_locks) {
  mutex_of mutex(PTHREAD_MUTEX_RECURSIVE);
  std::thread([&] {
    for (int i = 0; i < 5; ++i) {
      CHECK_EQ(i % 2 ? pthread_mutex_trylock(mutex.get()) : pthread_mutex_lock(mutex.get()), 0);
      usleep(500);  // the owner stays the owner wherever it wakes
    }
    for (int i = 0; i < 5; ++i) {
      CHECK_EQ(elsewhere([&] { return pthread_mutex_trylock(mutex.get()); }), EBUSY);
      CHECK_EQ(elsewhere([&] { return pthread_mutex_unlock(mutex.get()); }), EPERM);
      CHECK_EQ(pthread_mutex_unlock(mutex.get()), 0);
      sched_yield();
    }
    CHECK_EQ(pthread_mutex_unlock(mutex.get()), EPERM);
  }).join();
  CHECK_EQ(pthread_mutex_trylock(mutex.get()), 0);
  CHECK_EQ(pthread_mutex_unlock(mutex.get()), 0);
}

CASE(an_errorcheck_mutex_knows_its_owner) {
  mutex_of mutex(PTHREAD_MUTEX_ERRORCHECK);
  CHECK_EQ(pthread_mutex_unlock(mutex.get()), EPERM);
  crowd(20, [&](int) {
    CHECK_EQ(pthread_mutex_lock(mutex.get()), 0);
    usleep(500);
    CHECK_EQ(pthread_mutex_lock(mutex.get()), EDEADLK);
    const timespec late = from_now(CLOCK_REALTIME, kHangMs);
    CHECK_EQ(pthread_mutex_timedlock(mutex.get(), &late), EDEADLK);
    CHECK_EQ(elsewhere([&] { return pthread_mutex_unlock(mutex.get()); }), EPERM);
    CHECK_EQ(pthread_mutex_unlock(mutex.get()), 0);
  });
}

template <class TimedLock>
void check_timed(clockid_t clock, TimedLock lock) {
  mutex_of mutex(PTHREAD_MUTEX_NORMAL);
  const timespec past = {1, 0};
  CHECK_EQ(lock(mutex.get(), past), 0);  // a free mutex is taken whatever the time
  CHECK_EQ(pthread_mutex_unlock(mutex.get()), 0);
  {
    held_elsewhere holder(mutex.get());
    CHECK_EQ(lock(mutex.get(), past), ETIMEDOUT);
    for (const long ms : {0, 1, 30}) {
      const timespec deadline = from_now(clock, ms);
      CHECK_EQ(lock(mutex.get(), deadline), ETIMEDOUT);
      CHECK(has_passed(clock, deadline));
    }
    CHECK_EQ(lock(mutex.get(), timespec{from_now(clock, 1000).tv_sec, kNsPerSecond}), EINVAL);
    CHECK_EQ(lock(mutex.get(), timespec{from_now(clock, 1000).tv_sec, -1}), EINVAL);
  }
  std::thread waiter;
  {
    held_elsewhere holder(mutex.get());
    waiter = std::thread([&] {
      CHECK_EQ(lock(mutex.get(), from_now(clock, kHangMs)), 0);
      CHECK_EQ(pthread_mutex_unlock(mutex.get()), 0);
    });
    let_it_block();
  }
  waiter.join();
}

CASE(timedlock_gives_up_at_its_deadline_and_not_before) {
  check_timed(CLOCK_REALTIME, [](pthread_mutex_t* mutex, timespec deadline) {
    return pthread_mutex_timedlock(mutex, &deadline);
  });
}

CASE(clocklock_keeps_to_the_clock_it_is_given) {
  for (const clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC}) {
    check_timed(clock, [clock](pthread_mutex_t* mutex, timespec deadline) {
      return pthread_mutex_clocklock(mutex, clock, &deadline);
    });
  }
  mutex_of mutex(PTHREAD_MUTEX_NORMAL);
  const timespec late = from_now(CLOCK_MONOTONIC, kHangMs);
  held_elsewhere holder(mutex.get());
  CHECK_EQ(pthread_mutex_clocklock(mutex.get(), CLOCK_PROCESS_CPUTIME_ID, &late), EINVAL);
}

CASE(those_that_gave_up_do_not_keep_others_out) {
  mutex_of mutex(PTHREAD_MUTEX_NORMAL);
  std::atomic<int> got = 0, gave_up = 0;
  crowd(50, [&](int id) {
    for (int i = 0; i < 10; ++i) {
      const timespec deadline = from_now(CLOCK_MONOTONIC, id % 3);
      const int error = pthread_mutex_clocklock(mutex.get(), CLOCK_MONOTONIC, &deadline);
      if (error != 0) {
        CHECK_EQ(error, ETIMEDOUT);
        ++gave_up;
        continue;
      }
      ++got;
      usleep(100);
      CHECK_EQ(pthread_mutex_unlock(mutex.get()), 0);
    }
  });
  CHECK_EQ(got + gave_up, 500);
  CHECK_EQ(pthread_mutex_trylock(mutex.get()), 0);
  CHECK_EQ(pthread_mutex_unlock(mutex.get()), 0);
}

CASE(destroying_a_held_mutex_is_EBUSY) {
  mutex_of mutex(PTHREAD_MUTEX_NORMAL);
  CHECK_EQ(pthread_mutex_lock(mutex.get()), 0);
  CHECK_EQ(pthread_mutex_destroy(mutex.get()), EBUSY);
  CHECK_EQ(pthread_mutex_unlock(mutex.get()), 0);
}

CASE(a_mutex_may_be_destroyed_by_whoever_locked_it_last) {
  struct counted {  // the last of two users frees it, at once
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    int users = 2;
  };
  for (int i = 0; i < 500; ++i) {
    counted* const object = new counted;
    crowd(2, [object](int) {
      CHECK_EQ(pthread_mutex_lock(&object->mutex), 0);
      const bool last = --object->users == 0;
      CHECK_EQ(pthread_mutex_unlock(&object->mutex), 0);
      if (!last) return;
      CHECK_EQ(pthread_mutex_destroy(&object->mutex), 0);
      memset(static_cast<void*>(object), 0xff, sizeof *object);
      delete object;
    });
  }
}

CASE(a_priority_inheritance_mutex_excludes) {
  for (const int type : {PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_RECURSIVE, PTHREAD_MUTEX_ERRORCHECK}) {
    mutex_of mutex(type, PTHREAD_PRIO_INHERIT);
    contend(mutex.get(), 30, 50);
  }
  mutex_of mutex(PTHREAD_MUTEX_ERRORCHECK, PTHREAD_PRIO_INHERIT);
  held_elsewhere holder(mutex.get());
  CHECK_EQ(pthread_mutex_trylock(mutex.get()), EBUSY);
  CHECK_EQ(pthread_mutex_unlock(mutex.get()), EPERM);
  const timespec soon = from_now(CLOCK_REALTIME, 10);
  CHECK_EQ(pthread_mutex_timedlock(mutex.get(), &soon), ETIMEDOUT);
}

CASE(a_robust_mutex_tells_that_its_owner_died) {
  mutex_of mutex(PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE, PTHREAD_MUTEX_ROBUST);
  contend(mutex.get(), 10, 100);
  std::thread([&] { CHECK_EQ(pthread_mutex_lock(mutex.get()), 0); }).join();
  CHECK_EQ(pthread_mutex_lock(mutex.get()), EOWNERDEAD);
  CHECK_EQ(pthread_mutex_consistent(mutex.get()), 0);
  CHECK_EQ(pthread_mutex_unlock(mutex.get()), 0);
  contend(mutex.get(), 10, 100);

  // The same when somebody is already waiting as the owner dies, and nobody repairs it.
  event locked, go;
  std::thread owner([&] {
    CHECK_EQ(pthread_mutex_lock(mutex.get()), 0);
    locked.set();
    go.wait();
  });
  locked.wait();
  std::thread waiter([&] {
    CHECK_EQ(pthread_mutex_lock(mutex.get()), EOWNERDEAD);
    CHECK_EQ(pthread_mutex_unlock(mutex.get()), 0);
  });
  let_it_block();
  go.set();
  owner.join();
  waiter.join();
  CHECK_EQ(pthread_mutex_lock(mutex.get()), ENOTRECOVERABLE);
}

CASE(a_process_shared_mutex_excludes_the_threads_of_two_processes) {
  struct shared {
    pthread_mutex_t mutex;
    int count;
    int inside;
  };
  constexpr int kTimes = 500, kThreads = 4;
  shared* const memory = static_cast<shared*>(MUST(
      mmap(nullptr, sizeof(shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)));
  pthread_mutexattr_t attr;
  CHECK_EQ(pthread_mutexattr_init(&attr), 0);
  CHECK_EQ(pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED), 0);
  CHECK_EQ(pthread_mutex_init(&memory->mutex, &attr), 0);
  const auto work = [=] {
    crowd(kThreads, [=](int) {
      for (int i = 0; i < kTimes; ++i) {
        CHECK_EQ(pthread_mutex_lock(&memory->mutex), 0);
        CHECK_EQ(++memory->inside, 1);
        ++memory->count;
        if (i % 16 == 0) sched_yield();
        --memory->inside;
        CHECK_EQ(pthread_mutex_unlock(&memory->mutex), 0);
      }
    });
  };
  const pid_t child = start_child(work);
  work();
  CHECK_EXITED(wait_for(child), 0);
  CHECK_EQ(memory->count, 2 * kThreads * kTimes);
  MUST(munmap(memory, sizeof(shared)));
}

CASE(the_mutexes_of_cxx_behave) {
  using namespace std::chrono_literals;
  std::mutex plain;
  std::recursive_mutex recursive;
  std::timed_mutex timed;
  int count = 0;
  crowd(20, [&](int) {
    for (int i = 0; i < 100; ++i) {
      std::scoped_lock all(plain, recursive, timed);
      std::lock_guard again(recursive);
      ++count;
      if (i % 10 == 0) std::this_thread::yield();
    }
  });
  CHECK_EQ(count, 2000);
  std::lock_guard held(timed);
  std::thread([&] {
    CHECK(!timed.try_lock());
    CHECK(!timed.try_lock_for(5ms));
    CHECK(!timed.try_lock_until(std::chrono::system_clock::now() + 5ms));
  }).join();
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
