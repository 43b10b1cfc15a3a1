// rwlock.cc - clauses 1 and 2: readers share, writers exclude, and each kind prefers whom it says
// it prefers.

#include <atomic>
#include <mutex>
#include <shared_mutex>

#include <pthread.h>

#include "check.h"
#include "clock.h"
#include "threads.h"

namespace {

class rwlock_of {
 public:
  explicit rwlock_of(int kind = PTHREAD_RWLOCK_PREFER_READER_NP) {
    pthread_rwlockattr_t attr;
    CHECK_EQ(pthread_rwlockattr_init(&attr), 0);
    CHECK_EQ(pthread_rwlockattr_setkind_np(&attr, kind), 0);
    CHECK_EQ(pthread_rwlock_init(&value_, &attr), 0);
    CHECK_EQ(pthread_rwlockattr_destroy(&attr), 0);
  }
  ~rwlock_of() { CHECK_EQ(pthread_rwlock_destroy(&value_), 0); }

  pthread_rwlock_t* get() { return &value_; }
  void read() { CHECK_EQ(pthread_rwlock_rdlock(&value_), 0); }
  void write() { CHECK_EQ(pthread_rwlock_wrlock(&value_), 0); }
  void unlock() { CHECK_EQ(pthread_rwlock_unlock(&value_), 0); }

 private:
  pthread_rwlock_t value_;
};

template <class Call>
int elsewhere(Call call) {
  int result = -1;
  std::thread([&] { result = call(); }).join();
  return result;
}

const int kKinds[] = {PTHREAD_RWLOCK_PREFER_READER_NP, PTHREAD_RWLOCK_PREFER_WRITER_NP,
                      PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP};

CASE(readers_are_inside_together) {
  constexpr int kReaders = 50;
  for (const int kind : kKinds) {
    rwlock_of lock(kind);
    std::atomic<int> inside = 0;
    event all;
    crowd(kReaders, [&](int) {
      lock.read();
      if (++inside == kReaders) all.set();
      all.wait();  // nobody leaves before everybody is inside
      lock.unlock();
    });
  }
}

CASE(a_writer_is_inside_alone) {
  for (const int kind : kKinds) {
    rwlock_of lock(kind);
    std::atomic<int> readers = 0, writers = 0;
    long count = 0, also_count = 0;
    crowd(100, [&](int id) {
      for (int i = 0; i < 40; ++i) {
        if ((id + i) % 5 == 0) {
          lock.write();
          CHECK_EQ(++writers, 1);
          CHECK_EQ(readers, 0);
          ++count;
          if (i % 8 == 0) sched_yield();
          ++also_count;
          --writers;
        } else {
          lock.read();
          ++readers;
          CHECK_EQ(writers, 0);
          CHECK_EQ(count, also_count);
          if (i % 8 == 0) usleep(50);
          --readers;
        }
        lock.unlock();
      }
    });
    CHECK_EQ(count, 100 * 40 / 5);
  }
}

CASE(try_forms_say_EBUSY_instead_of_waiting) {
  rwlock_of lock;
  lock.read();
  CHECK_EQ(pthread_rwlock_tryrdlock(lock.get()), 0);
  CHECK_EQ(pthread_rwlock_trywrlock(lock.get()), EBUSY);
  CHECK_EQ(elsewhere([&] { return pthread_rwlock_trywrlock(lock.get()); }), EBUSY);
  CHECK_EQ(elsewhere([&] {
             return pthread_rwlock_tryrdlock(lock.get()) ?: pthread_rwlock_unlock(lock.get());
           }),
           0);
  lock.unlock();
  lock.unlock();
  CHECK_EQ(pthread_rwlock_trywrlock(lock.get()), 0);
  CHECK_EQ(elsewhere([&] { return pthread_rwlock_tryrdlock(lock.get()); }), EBUSY);
  CHECK_EQ(elsewhere([&] { return pthread_rwlock_trywrlock(lock.get()); }), EBUSY);
  lock.unlock();
}

CASE(a_writer_that_locks_again_is_EDEADLK_wherever_it_woke) {
  rwlock_of lock;
  crowd(10, [&](int) {
    lock.write();
    usleep(300);
    CHECK_EQ(pthread_rwlock_wrlock(lock.get()), EDEADLK);
    CHECK_EQ(pthread_rwlock_rdlock(lock.get()), EDEADLK);
    lock.unlock();
  });
}

CASE(unlocking_lets_all_waiting_readers_in) {
  constexpr int kReaders = 30;
  rwlock_of lock;
  std::atomic<int> inside = 0;
  event all;
  lock.write();
  std::thread readers([&] {
    crowd(kReaders, [&](int) {
      lock.read();
      if (++inside == kReaders) all.set();
      all.wait();
      lock.unlock();
    });
  });
  let_it_block();
  CHECK_EQ(inside, 0);
  lock.unlock();
  readers.join();
}

CASE(the_default_lets_readers_in_before_a_waiting_writer) {
  rwlock_of lock;
  lock.read();
  std::thread writer([&] {
    lock.write();
    lock.unlock();
  });
  let_it_block();
  CHECK_EQ(elsewhere([&] {
             return pthread_rwlock_rdlock(lock.get()) ?: pthread_rwlock_unlock(lock.get());
           }),
           0);
  lock.unlock();
  writer.join();
}

CASE(prefer_writer_nonrecursive_holds_readers_off_while_a_writer_waits) {
  rwlock_of lock(PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
  std::atomic<bool> written = false;
  lock.read();
  std::thread writer([&] {
    lock.write();
    written = true;
    lock.unlock();
  });
  const auto try_read = [&] {
    const int error = pthread_rwlock_tryrdlock(lock.get());
    if (error == 0) lock.unlock();
    return error;
  };
  eventually([&] { return try_read() == EBUSY; });  // as soon as the writer waits
  std::thread reader([&] {
    lock.read();
    CHECK(written);
    lock.unlock();
  });
  let_it_block();
  CHECK(!written);
  lock.unlock();
  writer.join();
  reader.join();
}

CASE(a_writer_that_gives_up_lets_the_readers_in_again) {
  rwlock_of lock(PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
  lock.read();
  std::thread writer([&] {
    const timespec soon = from_now(CLOCK_REALTIME, 30);
    CHECK_EQ(pthread_rwlock_timedwrlock(lock.get(), &soon), ETIMEDOUT);
  });
  std::thread reader([&] {
    let_it_block();
    // Maybe only when the writer's time is over, but while the first reader still holds it.
    lock.read();
    lock.unlock();
  });
  writer.join();
  reader.join();
  lock.unlock();
}

template <class Timed>
void check_timed(rwlock_of& lock, clockid_t clock, Timed timed) {
  const timespec past = {1, 0};
  CHECK_EQ(timed(past), 0);
  lock.unlock();
  lock.write();
  CHECK_EQ(elsewhere([&] { return timed(past); }), ETIMEDOUT);
  for (const long ms : {0, 1, 20}) {
    const timespec deadline = from_now(clock, ms);
    CHECK_EQ(elsewhere([&] { return timed(deadline); }), ETIMEDOUT);
    CHECK(has_passed(clock, deadline));
  }
  CHECK_EQ(elsewhere([&] {
             return timed(timespec{from_now(clock, 1000).tv_sec, kNsPerSecond});
           }),
           EINVAL);
  std::thread waiter([&] {
    CHECK_EQ(timed(from_now(clock, kHangMs)), 0);
    lock.unlock();
  });
  let_it_block();
  lock.unlock();
  waiter.join();
}

CASE(the_timed_forms_give_up_at_their_deadline_and_not_before) {
  for (const int kind : kKinds) {
    rwlock_of lock(kind);
    check_timed(lock, CLOCK_REALTIME,
                [&](timespec t) { return pthread_rwlock_timedrdlock(lock.get(), &t); });
    check_timed(lock, CLOCK_REALTIME,
                [&](timespec t) { return pthread_rwlock_timedwrlock(lock.get(), &t); });
    for (const clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC}) {
      check_timed(lock, clock,
                  [&](timespec t) { return pthread_rwlock_clockrdlock(lock.get(), clock, &t); });
      check_timed(lock, clock,
                  [&](timespec t) { return pthread_rwlock_clockwrlock(lock.get(), clock, &t); });
    }
  }
}

CASE(static_initialisers_need_no_init) {
  static pthread_rwlock_t locks[] = {PTHREAD_RWLOCK_INITIALIZER,
                                     PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP};
  for (pthread_rwlock_t& lock : locks) {
    int count = 0;
    crowd(20, [&](int id) {
      for (int i = 0; i < 100; ++i) {
        const bool writes = (id + i) % 4 == 0;
        CHECK_EQ(writes ? pthread_rwlock_wrlock(&lock) : pthread_rwlock_rdlock(&lock), 0);
        if (writes) ++count;
        CHECK_EQ(pthread_rwlock_unlock(&lock), 0);
      }
    });
    CHECK_EQ(count, 500);
  }
}

CASE(the_shared_mutexes_of_cxx_behave) {
  using namespace std::chrono_literals;
  std::shared_mutex plain;
  std::shared_timed_mutex timed;
  int count = 0;
  crowd(20, [&](int id) {
    for (int i = 0; i < 50; ++i) {
      if (id % 4 == 0) {
        std::scoped_lock both(plain, timed);
        ++count;
      } else {
        std::shared_lock one(plain);
        std::shared_lock other(timed);
      }
    }
  });
  CHECK_EQ(count, 250);
  std::shared_lock held(timed);
  std::thread([&] {
    CHECK(!timed.try_lock_for(5ms));
    CHECK(timed.try_lock_shared_for(5ms));
    timed.unlock_shared();
  }).join();
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
