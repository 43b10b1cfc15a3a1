// lock_signals.cc - clauses 1 and 5: signals and cancellation find threads that wait for locks; only semaphores (and
// futexes) tell of it, nobody loses what he waits for.

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

#include <atomic>

#include "check.h"
#include "clock.h"
#include "threads.h"

namespace {

constexpr int kEnds = SIGUSR1, kRestarts = SIGUSR2;  // without and with SA_RESTART
std::atomic<int> handled;

void install_handlers() {
  for (const int signal : {kEnds, kRestarts}) {
    struct sigaction action = {};
    action.sa_handler = [](int) { ++handled; };
    action.sa_flags = signal == kRestarts ? SA_RESTART : 0;
    MUST(sigaction(signal, &action, nullptr));
  }
}

// A thread that blocks in wait() gets the signal; then release() is called; wait() must come back.
template <class Wait, class Release>
void signal_during(int signal, Wait wait, Release release) {
  const int before = handled;
  std::thread waiter(wait);
  let_it_block();
  CHECK_EQ(pthread_kill(waiter.native_handle(), signal), 0);
  eventually([=] { return handled == before + 1; });
  let_it_block();
  release();
  waiter.join();
}

// A thread's wait() ends with EINTR; the signal may come before it blocks, so it comes until the wait is over.
template <class Wait>
void signal_until_over(int signal, Wait wait) {
  std::atomic<bool> over = false, may_end = false;
  std::thread waiter([&] {
    wait();
    over = true;
    while (!may_end) usleep(500);  // its handle stays good for pthread_kill
  });
  while (!over) {
    let_it_block();
    CHECK_EQ(pthread_kill(waiter.native_handle(), signal), 0);
  }
  may_end = true;
  waiter.join();
}

uint32_t waiters_of(sem_t* semaphore) { return reinterpret_cast<uint32_t*>(semaphore)[1]; }

CASE(a_handler_ends_a_semaphore_wait_unless_it_restarts_and_has_no_timeout) {
  install_handlers();
  sem_t semaphore;
  MUST(sem_init(&semaphore, 0, 0));
  signal_until_over(kEnds, [&] { CHECK_ERRNO(sem_wait(&semaphore), EINTR); });
  signal_during(kRestarts, [&] { MUST(sem_wait(&semaphore)); }, [&] { MUST(sem_post(&semaphore)); });
  for (const int signal : {kEnds, kRestarts}) {
    signal_until_over(signal, [&] {
      const timespec late = from_now(CLOCK_REALTIME, kHangMs);
      CHECK_ERRNO(sem_timedwait(&semaphore, &late), EINTR);
    });
  }
  CHECK_EQ(waiters_of(&semaphore), 0);
}

CASE(a_handler_ends_a_futex_wait_unless_it_restarts_and_has_no_timeout) {
  install_handlers();
  uint32_t word = 0;
  const auto wait = [&](const timespec* timeout) {
    return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, timeout);
  };
  const timespec late = timespec_of_ms(kHangMs);
  signal_until_over(kEnds, [&] { CHECK_ERRNO(wait(nullptr), EINTR); });
  for (const int signal : {kEnds, kRestarts}) signal_until_over(signal, [&] { CHECK_ERRNO(wait(&late), EINTR); });
  signal_during(kRestarts, [&] { MUST(wait(nullptr)); },
                [&] { while (syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1) == 0) sched_yield(); });
}

CASE(locks_run_the_handler_and_wait_on) {
  install_handlers();
  for (const int signal : {kEnds, kRestarts}) {
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
    pthread_barrier_t barrier;
    CHECK_EQ(pthread_barrier_init(&barrier, nullptr, 2), 0);
    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    CHECK_EQ(pthread_rwlock_rdlock(&rwlock), 0);
    signal_during(signal, [&] { CHECK_EQ(pthread_mutex_lock(&mutex) ?: pthread_mutex_unlock(&mutex), 0); },
                  [&] { CHECK_EQ(pthread_mutex_unlock(&mutex), 0); });
    signal_during(signal, [&] { CHECK_EQ(pthread_rwlock_wrlock(&rwlock) ?: pthread_rwlock_unlock(&rwlock), 0); },
                  [&] { CHECK_EQ(pthread_rwlock_unlock(&rwlock), 0); });
    signal_during(signal, [&] { CHECK(pthread_barrier_wait(&barrier) <= 0); },
                  [&] { CHECK(pthread_barrier_wait(&barrier) <= 0); });
    CHECK_EQ(pthread_barrier_destroy(&barrier), 0);
  }
}

CASE(under_a_storm_of_signals_every_lock_keeps_its_promise) {
  install_handlers();
  constexpr int kThreads = 12, kTimes = 300, kRoom = 3;
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
  pthread_rwlock_t rwlocks[] = {PTHREAD_RWLOCK_INITIALIZER, PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP};
  pthread_barrier_t barrier;
  sem_t room;
  MUST(sem_init(&room, 0, kRoom));
  CHECK_EQ(pthread_barrier_init(&barrier, nullptr, kThreads), 0);
  long locked = 0, written[2] = {}, turns = 0;
  std::atomic<int> inside = 0, serial = 0, alive = kThreads;
  std::atomic<bool> stop = false;

  const auto round = [&](int id, int i) {
    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    ++locked;
    if (i % 7 == 0) sched_yield();
    CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
    for (int which : {0, 1}) {
      const bool writes = (id + i) % 3 == 0;
      CHECK_EQ(writes ? pthread_rwlock_wrlock(&rwlocks[which]) : pthread_rwlock_rdlock(&rwlocks[which]), 0);
      if (writes) ++written[which];
      if (i % 5 == 0) sched_yield();
      CHECK_EQ(pthread_rwlock_unlock(&rwlocks[which]), 0);
    }
    while (sem_wait(&room) != 0) CHECK_EQ(errno, EINTR);
    CHECK(++inside <= kRoom);
    if (i % 4 == 0) sched_yield();
    --inside;
    MUST(sem_post(&room));
    if (i % 10 == 0 && pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD) ++serial;
    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    if (++turns % kThreads == 0) {
      CHECK_EQ(pthread_cond_broadcast(&condition), 0);
    } else if (i % 3 == 0) {
      const timespec soon = from_now(CLOCK_REALTIME, 1);
      const int error = pthread_cond_timedwait(&condition, &mutex, &soon);
      CHECK(error == 0 || error == ETIMEDOUT);
    }
    CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
  };

  std::vector<std::thread> threads;
  for (int id = 0; id < kThreads; ++id) {
    threads.emplace_back([&, id] {
      for (int i = 0; i < kTimes; ++i) round(id, i);
      --alive;
      while (!stop) usleep(500);  // its handle stays good for pthread_kill
    });
  }
  for (int i = 0; alive > 0; ++i) {
    CHECK_EQ(pthread_kill(threads[i % kThreads].native_handle(), i % 2 == 0 ? kEnds : kRestarts), 0);
    if (i % 3 == 0) usleep(20);
  }
  stop = true;
  for (std::thread& one : threads) one.join();

  CHECK_EQ(locked, static_cast<long>(kThreads) * kTimes);
  CHECK_EQ(written[0], kThreads * kTimes / 3);
  CHECK_EQ(written[1], written[0]);
  CHECK_EQ(serial, kTimes / 10);
  CHECK_EQ(pthread_barrier_destroy(&barrier), 0);
  CHECK_EQ(waiters_of(&room), 0);
}

pthread_mutex_t shared_mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t shared_condition = PTHREAD_COND_INITIALIZER;
sem_t shared_semaphore;
std::atomic<int> cleaned;

void* wait_for_condition(void*) {
  struct unlock {
    ~unlock() {
      CHECK_EQ(pthread_mutex_unlock(&shared_mutex), 0);  // held again, although the wait was cancelled
      ++cleaned;
    }
  };
  CHECK_EQ(pthread_mutex_lock(&shared_mutex), 0);
  const unlock at_the_end;
  for (;;) pthread_cond_wait(&shared_condition, &shared_mutex);
}

void* wait_for_semaphore(void*) {
  struct count {
    ~count() { ++cleaned; }
  };
  const count at_the_end;
  for (;;) sem_wait(&shared_semaphore);
}

CASE(cancellation_ends_waits_for_conditions_and_semaphores_at_any_moment) {
  constexpr int kThreads = 20, kRounds = 30;
  MUST(sem_init(&shared_semaphore, 0, 0));
  for (int round = 0; round < kRounds; ++round) {
    pthread_t threads[kThreads];
    for (int i = 0; i < kThreads; ++i)
      CHECK_EQ(pthread_create(&threads[i], nullptr, i % 2 == 0 ? wait_for_condition : wait_for_semaphore, nullptr), 0);
    if (round % 3 != 0) usleep(200 * round);
    for (const pthread_t thread : threads) CHECK_EQ(pthread_cancel(thread), 0);
    for (const pthread_t thread : threads) {
      void* result;
      CHECK_EQ(pthread_join(thread, &result), 0);
      CHECK(result == PTHREAD_CANCELED);
    }
    CHECK_EQ(waiters_of(&shared_semaphore), 0);
  }
  CHECK(cleaned > 0);
  CHECK_EQ(pthread_mutex_trylock(&shared_mutex), 0);
  CHECK_EQ(pthread_mutex_unlock(&shared_mutex), 0);
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
