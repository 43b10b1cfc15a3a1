// thread_crowd.cc - very many threads: blocked in every kind of lock, in turn at one mutex, alive at once, come and gone.
//
// The caller says what it expects: KERNEL_THREADS_AT_MOST (while a hundred are blocked), ALIVE_AT_LEAST, CREATED_AT_LEAST.
#include <dirent.h>
#include <pthread.h>
#include <semaphore.h>

#include <atomic>
#include <cstdlib>
#include <future>
#include <latch>
#include <memory>
#include <mutex>
#include <semaphore>

#include "threads.h"

namespace {

long expected(const char* name, long otherwise) {
  const char* text = getenv(name);
  return text != nullptr ? atol(text) : otherwise;
}

long kernel_threads() {
  DIR* tasks = opendir("/proc/self/task");
  CHECK(tasks != nullptr);
  long n = -2;  // . and ..
  while (readdir(tasks) != nullptr) ++n;
  closedir(tasks);
  return n;
}

long resident_kb() {
  FILE* file = fopen("/proc/self/statm", "r");
  CHECK(file != nullptr);
  long size, resident;
  CHECK_EQ(fscanf(file, "%ld %ld", &size, &resident), 2);
  fclose(file);
  return resident * 4;
}

constexpr int kBlocked = 100;

// A hundred threads come to `wait`; none can go on until `release` has run.
template <class Wait, class Release>
void check_blocked(const char* what, Wait wait, Release release) {
  std::atomic<int> come{0}, gone{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kBlocked; ++i)
    threads.emplace_back([&] {
      ++come;
      wait();
      ++gone;
    });
  eventually([&] { return come == kBlocked; });
  const long limit = expected("KERNEL_THREADS_AT_MOST", kBlocked + 2);
  let_it_block();
  const long seen = kernel_threads();
  if (seen > limit) check_failed(__FILE__, __LINE__, "%s: %ld kernel threads, not %ld", what, seen, limit);
  CHECK_EQ(gone, 0);
  release();
  for (auto& thread : threads) thread.join();
}

pthread_mutex_t mutex_of_type(int type) {
  pthread_mutexattr_t attributes;
  pthread_mutex_t mutex;
  CHECK_EQ(pthread_mutexattr_init(&attributes), 0);
  CHECK_EQ(pthread_mutexattr_settype(&attributes, type), 0);
  CHECK_EQ(pthread_mutex_init(&mutex, &attributes), 0);
  pthread_mutexattr_destroy(&attributes);
  return mutex;
}

}  // namespace

CASE(blocked_threads_cost_no_kernel_threads) {
  for (int type : {PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_RECURSIVE, PTHREAD_MUTEX_ERRORCHECK, PTHREAD_MUTEX_ADAPTIVE_NP}) {
    pthread_mutex_t mutex = mutex_of_type(type);
    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    check_blocked("mutex", [&] {
      CHECK_EQ(pthread_mutex_lock(&mutex), 0);
      CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
    }, [&] { CHECK_EQ(pthread_mutex_unlock(&mutex), 0); });
    CHECK_EQ(pthread_mutex_destroy(&mutex), 0);
  }
  {
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
    bool open = false;
    check_blocked("condition", [&] {
      pthread_mutex_lock(&mutex);
      while (!open) pthread_cond_wait(&condition, &mutex);
      pthread_mutex_unlock(&mutex);
    }, [&] {
      pthread_mutex_lock(&mutex);
      open = true;
      pthread_cond_broadcast(&condition);
      pthread_mutex_unlock(&mutex);
    });
  }
  for (bool write : {false, true}) {
    pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
    CHECK_EQ(pthread_rwlock_wrlock(&lock), 0);
    check_blocked(write ? "writer" : "reader", [&] {
      CHECK_EQ(write ? pthread_rwlock_wrlock(&lock) : pthread_rwlock_rdlock(&lock), 0);
      CHECK_EQ(pthread_rwlock_unlock(&lock), 0);
    }, [&] { CHECK_EQ(pthread_rwlock_unlock(&lock), 0); });
  }
  {
    sem_t semaphore;
    MUST(sem_init(&semaphore, 0, 0));
    check_blocked("semaphore", [&] { MUST(sem_wait(&semaphore)); }, [&] {
      for (int i = 0; i < kBlocked; ++i) MUST(sem_post(&semaphore));
    });
  }
  {
    pthread_barrier_t barrier;
    CHECK_EQ(pthread_barrier_init(&barrier, nullptr, kBlocked + 1), 0);
    check_blocked("barrier", [&] { pthread_barrier_wait(&barrier); }, [&] { pthread_barrier_wait(&barrier); });
    CHECK_EQ(pthread_barrier_destroy(&barrier), 0);
  }
  {
    static event go;
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    check_blocked("once", [] { pthread_once(&once, [] { go.wait(); }); }, [] { go.set(); });
  }
  {
    std::latch latch(1);
    check_blocked("latch", [&] { latch.wait(); }, [&] { latch.count_down(); });
  }
  {
    std::atomic<int> word{0};
    check_blocked("atomic wait", [&] { word.wait(0); }, [&] {
      word = 1;
      word.notify_all();
    });
  }
  {
    std::promise<int> promise;
    std::shared_future<int> future = promise.get_future().share();
    check_blocked("future", [&] { CHECK_EQ(std::shared_future(future).get(), 7); }, [&] { promise.set_value(7); });
  }
  {
    std::counting_semaphore<> semaphore(0);
    check_blocked("counting_semaphore", [&] { semaphore.acquire(); }, [&] { semaphore.release(kBlocked); });
  }
  {
    event go;
    std::thread target([&] { go.wait(); });
    std::atomic<bool> first{true};
    check_blocked("join", [&] {
      if (first.exchange(false))
        target.join();
      else
        go.wait();
    }, [&] { go.set(); });
  }
}

CASE(a_thousand_threads_at_one_mutex_all_make_progress) {
  constexpr int kThreads = 1'000, kTimes = 20;
  std::mutex mutex;
  std::vector<int> times(kThreads);
  std::atomic<int> unfinished{kThreads};
  long counted = 0;
  crowd(kThreads, [&](int i) {
    // Whoever is done goes on taking it, until all are done.
    while (unfinished != 0) {
      std::lock_guard held(mutex);
      ++counted;
      if (++times[static_cast<size_t>(i)] == kTimes) --unfinished;
      if (counted % 64 == 0) sched_yield();  // held by a thread that does not run
    }
  });
  for (int n : times) CHECK(n >= kTimes);
}

CASE(threads_come_and_go_and_resident_memory_stays) {
  constexpr long kMost = 1'000'000;
  const long least = expected("CREATED_AT_LEAST", 1);
  long created = 0, early = 0;
  for (stopwatch watch; created < kMost && (watch.ms() < 2'000 || created < least);) {
    pthread_t batch[100];
    for (pthread_t& thread : batch)
      CHECK_EQ(pthread_create(&thread, nullptr, [](void*) -> void* {
        free(malloc(100));
        return nullptr;
      }, nullptr), 0);
    for (pthread_t thread : batch) CHECK_EQ(pthread_join(thread, nullptr), 0);
    if ((created += 100) == 1'000) early = resident_kb();
  }
  const long late = resident_kb();
  dprintf(STDOUT_FILENO, "  %ld threads; %ld KiB resident after 1,000, %ld KiB at the end\n", created, early, late);
  CHECK(late < early + 4'096);
}

CASE(very_many_threads_are_alive_at_once) {
  const long wanted = expected("ALIVE_AT_LEAST", 2'000);
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  static pthread_mutex_t* its_mutex;
  static pthread_cond_t go = PTHREAD_COND_INITIALIZER;
  static bool open;
  its_mutex = &mutex;
  std::vector<pthread_t> threads(static_cast<size_t>(wanted));
  const long before = resident_kb();
  for (size_t i = 0; i < threads.size(); ++i) {
    const int error = pthread_create(&threads[i], nullptr, [](void*) -> void* {
      pthread_mutex_lock(its_mutex);
      while (!open) pthread_cond_wait(&go, its_mutex);
      pthread_mutex_unlock(its_mutex);
      return nullptr;
    }, nullptr);
    if (error != 0) check_failed(__FILE__, __LINE__, "thread %zu: %s", i, strerror(error));
  }
  const long after = resident_kb();
  dprintf(STDOUT_FILENO, "  %ld threads alive, %.1f KiB resident each\n", wanted,
          static_cast<double>(after - before) / static_cast<double>(wanted));
  pthread_mutex_lock(&mutex);
  open = true;
  pthread_cond_broadcast(&go);
  pthread_mutex_unlock(&mutex);
  for (pthread_t thread : threads) CHECK_EQ(pthread_join(thread, nullptr), 0);
}

int main(int argc, char** argv) { return run_cases(argc, argv); }
