// thread_clock.cc - the CPU time of a thread is its own work, whoever asks and wherever it ran.
#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>

#include <atomic>

#include "threads.h"

namespace {

double ms_of(clockid_t clock) {
  timespec t;
  MUST(clock_gettime(clock, &t));
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) / 1e6;
}

double own_ms() { return ms_of(CLOCK_THREAD_CPUTIME_ID); }

double usage_ms() {
  rusage usage;
  MUST(getrusage(RUSAGE_THREAD, &usage));
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e3 +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e3;
}

// Computes until the thread's own clock has moved so far.
void compute(double ms) {
  for (const double end = own_ms() + ms; own_ms() < end;) {
    volatile int x = 0;
    for (int i = 0; i < 10'000; ++i) x = x + i;
  }
}

}  // namespace

CASE(a_thread_that_sleeps_uses_no_time_while_others_compute) {
  own_ms();
  event go;
  std::atomic<bool> done{false};
  std::thread sleeps([&] {
    const double before = own_ms(), usage = usage_ms();
    go.set();
    while (!done) usleep(5'000);
    CHECK(own_ms() - before < 50);
    CHECK(usage_ms() - usage < 50);
  });
  go.wait();
  crowd(2, [](int) { compute(100); });
  done = true;
  sleeps.join();
}

CASE(the_time_of_a_thread_grows_with_its_own_work) {
  crowd(4, [](int i) {
    const double before = own_ms();
    for (int round = 0; round < 10; ++round) {
      compute(2 + i);
      sched_yield();
    }
    CHECK(own_ms() - before >= 10 * (2 + i));
    CHECK(usage_ms() + 1 >= 10 * (2 + i));
  });
}

CASE(the_clock_of_another_thread_shows_its_work) {
  std::atomic<bool> stop{false}, idle_stop{false};
  event has_started;
  pthread_t worker_handle;
  std::thread works([&] {
    worker_handle = pthread_self();
    own_ms();
    has_started.set();
    compute(60);
    while (!stop) usleep(1000);
  });
  std::thread idles([&] {
    while (!idle_stop) usleep(5000);
  });
  has_started.wait();
  clockid_t works_clock, idles_clock, own_clock;
  CHECK_EQ(pthread_getcpuclockid(works.native_handle(), &works_clock), 0);
  CHECK_EQ(pthread_getcpuclockid(idles.native_handle(), &idles_clock), 0);
  CHECK_EQ(pthread_getcpuclockid(pthread_self(), &own_clock), 0);
  CHECK(works_clock != idles_clock);
  const double idle_before = ms_of(idles_clock);
  eventually([&] { return ms_of(works_clock) >= 50; });
  CHECK(ms_of(works_clock) < 5'000);
  CHECK(ms_of(idles_clock) - idle_before < 50);
  CHECK(ms_of(own_clock) - own_ms() < 50);
  timespec resolution;
  MUST(clock_getres(works_clock, &resolution));
  CHECK(resolution.tv_sec == 0);
  stop = idle_stop = true;
  works.join();
  idles.join();
}

CASE(nobody_can_set_them) {
  timespec t = {0, 0};
  std::thread([&] {
    clockid_t own;
    CHECK_EQ(pthread_getcpuclockid(pthread_self(), &own), 0);
    CHECK_ERRNO(clock_settime(CLOCK_THREAD_CPUTIME_ID, &t), EINVAL);
  }).join();
}

CASE(all_threads_together_used_no_more_than_the_process) {
  std::atomic<long> sum{0};
  crowd(20, [&](int) {
    own_ms();
    for (int i = 0; i < 10; ++i) {
      compute(1);
      sched_yield();
    }
    sum += static_cast<long>(own_ms() * 1000);
  });
  CHECK(static_cast<double>(sum.load()) / 1000 <= ms_of(CLOCK_PROCESS_CPUTIME_ID) + 20);
}

int main(int argc, char** argv) { return run_cases(argc, argv); }
