// thread_end.cc - a thread that is ended while it is inside a call that is no cancellation point: by a handler that
// calls pthread_exit, and by asynchronous cancellation; and signals that find every thread in a handler.
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>

#include <atomic>

#include "threads.h"

namespace {

pthread_mutex_t mutex;
pthread_rwlock_t rwlock;
pthread_spinlock_t spin;
pthread_barrier_t barrier;

struct call {
  const char* what;
  void (*wait)();
};
const call kCalls[] = {
    {"mutex", [] { pthread_mutex_lock(&mutex); }},
    {"timed mutex", [] {
       const timespec until = from_now(CLOCK_REALTIME, kHangMs);
       pthread_mutex_timedlock(&mutex, &until);
     }},
    {"reader", [] { pthread_rwlock_rdlock(&rwlock); }},
    {"writer", [] { pthread_rwlock_wrlock(&rwlock); }},
    {"spin lock", [] { pthread_spin_lock(&spin); }},
    {"barrier", [] { pthread_barrier_wait(&barrier); }},
};

// Anew for each case: what a thread that is ended in a wait leaves in the lock is nobody's business (POSIX does not say).
void hold_all() {
  CHECK_EQ(pthread_mutex_init(&mutex, nullptr), 0);
  CHECK_EQ(pthread_rwlock_init(&rwlock, nullptr), 0);
  CHECK_EQ(pthread_mutex_lock(&mutex), 0);
  CHECK_EQ(pthread_rwlock_wrlock(&rwlock), 0);
  CHECK_EQ(pthread_spin_init(&spin, PTHREAD_PROCESS_PRIVATE), 0);
  CHECK_EQ(pthread_spin_lock(&spin), 0);
  CHECK_EQ(pthread_barrier_init(&barrier, nullptr, 1000), 0);
}
std::atomic<bool> inside, cleaned;
void clean(void*) { cleaned = true; }

void* waits(void* what) {
  pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, nullptr);
  pthread_cleanup_push(clean, nullptr);
  inside = true;
  static_cast<const call*>(what)->wait();
  pthread_cleanup_pop(0);
  return nullptr;
}

template <class End>
void check_ends(End end, void* result) {
  hold_all();
  for (const call& one : kCalls) {
    inside = cleaned = false;
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, nullptr, waits, const_cast<call*>(&one)), 0);
    eventually([] { return inside.load(); });
    let_it_block();
    end(thread);
    void* seen;
    CHECK_EQ(pthread_join(thread, &seen), 0);
    CHECK(seen == result);
    CHECK(cleaned);
  }
}

}  // namespace

CASE(asynchronous_cancellation_ends_a_wait_for_any_lock) {
  check_ends([](pthread_t thread) { CHECK_EQ(pthread_cancel(thread), 0); }, PTHREAD_CANCELED);
}

CASE(a_handler_may_end_its_thread_in_a_wait_for_any_lock) {
  struct sigaction action = {};
  action.sa_handler = [](int) { pthread_exit(&mutex); };
  MUST(sigaction(SIGUSR1, &action, nullptr));
  check_ends([](pthread_t thread) { CHECK_EQ(pthread_kill(thread, SIGUSR1), 0); }, &mutex);
}

namespace {
sem_t answers;
}

// One thread lets the signal in.  The next one is sent as soon as its handler has answered, so that it often finds the
// handler still running.
CASE(a_signal_that_every_thread_blocks_for_a_moment_is_not_lost) {
  struct sigaction action = {};
  action.sa_handler = [](int) { sem_post(&answers); };
  MUST(sigaction(SIGUSR2, &action, nullptr));
  MUST(sem_init(&answers, 0, 0));
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, nullptr), 0);
  std::atomic<bool> done{false};
  std::thread open([&] {
    CHECK_EQ(pthread_sigmask(SIG_UNBLOCK, &set, nullptr), 0);
    while (!done) {
    }
  });
  std::thread sends([&] {
    for (int i = 0; i < 2'000; ++i) {
      MUST(kill(getpid(), SIGUSR2));
      while (sem_wait(&answers) != 0) CHECK_EQ(errno, EINTR);
    }
    done = true;
  });
  sends.join();
  open.join();
  CHECK_EQ(pthread_sigmask(SIG_UNBLOCK, &set, nullptr), 0);
}

// Computes, and wakes others all the while: they run, and their sleeps end.
CASE(a_thread_that_computes_and_posts_all_the_while_stops_nobody) {
  sem_t steps;
  MUST(sem_init(&steps, 0, 0));
  std::atomic<bool> done{false};
  std::thread posts([&] {
    while (!done) MUST(sem_post(&steps));
  });
  std::thread takes([&] {
    for (int i = 0; i < 1'000; ++i) MUST(sem_wait(&steps));
  });
  for (int i = 0; i < 20; ++i) usleep(1'000);
  takes.join();
  done = true;
  posts.join();
}

CASE(the_smallest_stack_is_no_larger_than_asked) {
  pthread_attr_t attributes;
  CHECK_EQ(pthread_attr_init(&attributes), 0);
  CHECK_EQ(pthread_attr_setstacksize(&attributes, 16384), 0);
  pthread_t thread;
  CHECK_EQ(pthread_create(&thread, &attributes, [](void*) -> void* {
    pthread_attr_t own;
    void* low;
    size_t size, guard;
    CHECK_EQ(pthread_getattr_np(pthread_self(), &own), 0);
    CHECK_EQ(pthread_attr_getstack(&own, &low, &size), 0);
    CHECK_EQ(pthread_attr_getguardsize(&own, &guard), 0);
    CHECK_EQ(size, 16384);
    CHECK_EQ(guard, 4096);
    // Right below lies the guard.
    int pipe_ends[2];
    MUST(pipe(pipe_ends));
    CHECK_ERRNO(write(pipe_ends[1], static_cast<char*>(low) - 1, 1), EFAULT);
    CHECK_EQ(write(pipe_ends[1], low, 1), 1);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    pthread_attr_destroy(&own);
    return nullptr;
  }, nullptr), 0);
  CHECK_EQ(pthread_join(thread, nullptr), 0);
  pthread_attr_destroy(&attributes);
}

int main(int argc, char** argv) { return run_cases(argc, argv); }
