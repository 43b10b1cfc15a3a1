// stall_forced.cc - clause 3: whatever a thread is doing when its worker is taken away, nothing is lost and nothing is
// done twice.
//
// A mix of locks, conditions, semaphores, pipes, sleeps, yields, thread births and thread-local variables, each step
// checked. As a plain program it passes anywhere; run with WEFT_FORCE_HANDOFFS=1 the monitor takes every worker that it
// finds in program code, some ten thousand times a second. An argument says for how many milliseconds.

#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <stdexcept>

#include <pthread.h>

#include "check.h"
#include "clock.h"
#include "net.h"
#include "threads.h"

namespace {

long long duration_ms = 400;

thread_local int mine = -1;
thread_local std::array<long, 64> counters;

// Work of a random length up to some tens of microseconds, in program code.
void work(unsigned& seed) {
  for (unsigned n = rand_r(&seed) % 40'000; n > 0; --n) counters[n % counters.size()] = counters[n % counters.size()] + 1;
}

// Every step of a thread goes through here: what is its own is still its own.
class own_state {
 public:
  explicit own_state(int id) : id_(id), self_(pthread_self()) { mine = id; }
  void check() const {
    CHECK_EQ(mine, id_);
    CHECK(pthread_equal(pthread_self(), self_));
    errno = id_ + 1;
    sched_yield();
    CHECK_EQ(errno, id_ + 1);
  }

 private:
  int id_;
  pthread_t self_;
};

template <class Step>
void for_a_while(int threads, Step step) {
  const stopwatch watch;
  crowd(threads, [&](int id) {
    const own_state own(id);
    unsigned seed = static_cast<unsigned>(id) + 1;
    for (long i = 0; watch.ms() < static_cast<double>(duration_ms); ++i) {
      step(id, i, seed);
      own.check();
    }
  });
}

CASE(a_mutex_still_excludes) {
  std::mutex mutex;
  long count = 0;
  std::atomic<long> expected = 0;
  for_a_while(16, [&](int, long, unsigned& seed) {
    work(seed);
    const std::lock_guard guard(mutex);
    const long before = count;
    if (seed % 4 == 0) work(seed);
    count = before + 1;
    ++expected;
  });
  CHECK_EQ(count, expected);
}

CASE(a_queue_loses_nothing_and_gives_nothing_twice) {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<long> queue;
  std::atomic<long> produced = 0, sum_in = 0, sum_out = 0, consumed = 0;
  std::atomic<int> producers = 8;
  const stopwatch watch;
  crowd(16, [&](int id) {
    const own_state own(id);
    unsigned seed = static_cast<unsigned>(id) + 1;
    if (id < 8) {
      while (watch.ms() < static_cast<double>(duration_ms)) {
        work(seed);
        const long value = ++produced;
        sum_in += value;
        {
          const std::lock_guard guard(mutex);
          queue.push_back(value);
        }
        changed.notify_one();
        own.check();
      }
      const std::lock_guard guard(mutex);
      if (--producers == 0) changed.notify_all();
    } else {
      for (;;) {
        std::unique_lock guard(mutex);
        changed.wait(guard, [&] { return !queue.empty() || producers == 0; });
        if (queue.empty()) break;
        sum_out += queue.front();
        queue.pop_front();
        ++consumed;
        guard.unlock();
        work(seed);
        own.check();
      }
    }
  });
  CHECK_EQ(consumed, produced);
  CHECK_EQ(sum_out, sum_in);
}

CASE(bytes_through_pipes_arrive_once_and_in_order) {
  std::array<pipe_ends, 8> pipes;
  for (pipe_ends& one : pipes) one = make_pipe();
  const stopwatch watch;
  crowd(16, [&](int id) {
    const own_state own(id);
    unsigned seed = static_cast<unsigned>(id) + 1;
    pipe_ends& pipe = pipes[static_cast<size_t>(id) % 8];
    unsigned char next = 0;
    if (id < 8) {
      while (watch.ms() < static_cast<double>(duration_ms)) {
        work(seed);
        CHECK_EQ(write(pipe.write, &next, 1), 1);
        ++next;
        own.check();
      }
      pipe.write = unique_fd();
    } else {
      unsigned char got = 0;
      while (read(pipe.read, &got, 1) == 1) {
        CHECK_EQ(got, next);
        ++next;
        work(seed);
        own.check();
      }
    }
  });
}

CASE(sleeps_and_timeouts_come_back) {
  for_a_while(16, [](int, long i, unsigned& seed) {
    work(seed);
    if (i % 3 == 0) {
      usleep(rand_r(&seed) % 300);
    } else {
      sem_t never;
      MUST(sem_init(&never, 0, 0));
      const timespec until = from_now(CLOCK_REALTIME, 1);
      CHECK_ERRNO(sem_timedwait(&never, &until), ETIMEDOUT);
      MUST(sem_destroy(&never));
    }
  });
}

CASE(threads_are_born_and_die) {
  std::atomic<long> begun = 0, ended = 0;
  for_a_while(8, [&](int, long i, unsigned& seed) {
    work(seed);
    std::thread child([&, i] {
      CHECK_EQ(mine, -1);
      unsigned own_seed = static_cast<unsigned>(i) + 1;
      ++begun;
      work(own_seed);
      try {
        if (i % 2 == 0) throw std::runtime_error("thrown while the worker goes");
      } catch (const std::runtime_error&) {
        work(own_seed);
      }
      ++ended;
    });
    child.join();
  });
  CHECK_EQ(begun, ended);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && strspn(argv[1], "0123456789") == strlen(argv[1])) {
    duration_ms = atoll(argv[1]);
    argc = 1;
  }
  return run_cases(argc, argv);
}
