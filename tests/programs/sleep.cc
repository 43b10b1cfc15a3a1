// sleep.cc - clause 1: sleeping takes at least as long as asked, only the sleeper's time, and no
// longer than forever; impossible requests are refused as natively.

#include <chrono>
#include <functional>

#include <poll.h>
#include <sys/select.h>
#include <time.h>

#include "check.h"
#include "clock.h"
#include "threads.h"

namespace {

using namespace std::chrono_literals;

struct way_to_sleep {
  const char* name;
  std::function<void(long ms)> sleep_for;
};

// Every call that sleeps for a number of milliseconds.
const std::vector<way_to_sleep> kWays = {
    {"usleep", [](long ms) { CHECK_EQ(usleep(static_cast<useconds_t>(ms * 1000)), 0); }},
    {"nanosleep",
     [](long ms) {
       timespec request = timespec_of_ms(ms);
       CHECK_EQ(nanosleep(&request, nullptr), 0);
       CHECK_EQ(ns_of(request), ms * kNsPerMs);  // the request is not touched
     }},
    {"clock_nanosleep, relative",
     [](long ms) {
       const timespec request = timespec_of_ms(ms);
       for (const clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC}) {
         CHECK_EQ(clock_nanosleep(clock, 0, &request, nullptr), 0);
       }
     }},
    {"clock_nanosleep, absolute",
     [](long ms) {
       for (const clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME}) {
         const timespec until = from_now(clock, ms);
         CHECK_EQ(clock_nanosleep(clock, TIMER_ABSTIME, &until, nullptr), 0);
         CHECK(has_passed(clock, until));
       }
     }},
    {"std::this_thread",
     [](long ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }},
    {"poll", [](long ms) { CHECK_EQ(poll(nullptr, 0, static_cast<int>(ms)), 0); }},
    {"ppoll",
     [](long ms) {
       const timespec timeout = timespec_of_ms(ms);
       CHECK_EQ(ppoll(nullptr, 0, &timeout, nullptr), 0);
       CHECK_EQ(ns_of(timeout), ms * kNsPerMs);
     }},
    {"select",
     [](long ms) {
       timeval timeout = {ms / 1000, ms % 1000 * 1000};
       CHECK_EQ(select(0, nullptr, nullptr, nullptr, &timeout), 0);
       CHECK_EQ(timeout.tv_sec, 0);  // Linux says what is left
       CHECK_EQ(timeout.tv_usec, 0);
     }},
    {"pselect",
     [](long ms) {
       const timespec timeout = timespec_of_ms(ms);
       CHECK_EQ(pselect(0, nullptr, nullptr, nullptr, &timeout, nullptr), 0);
       CHECK_EQ(ns_of(timeout), ms * kNsPerMs);
     }},
};

CASE(no_sleep_is_shorter_than_asked) {
  crowd(static_cast<int>(kWays.size()), [](int way) {
    for (const long ms : {0, 1, 2, 7, 30}) {
      const stopwatch watch;
      kWays[way].sleep_for(ms);
      if (watch.ms() < static_cast<double>(ms)) {
        check_failed(__FILE__, __LINE__, "%s: %ld ms took %f", kWays[way].name, ms, watch.ms());
      }
    }
  });
}

CASE(main_sleeps_as_others_do) {
  for (const way_to_sleep& way : kWays) {
    const stopwatch watch;
    way.sleep_for(3);
    CHECK(watch.ms() >= 3);
  }
}

CASE(sleep_counts_in_seconds) {
  const stopwatch watch;
  crowd(20, [](int) { CHECK_EQ(sleep(1), 0); });
  CHECK(watch.ms() >= 1000);
  CHECK_EQ(sleep(0), 0);
}

CASE(sleepers_do_not_wait_for_each_other) {
  constexpr int kThreads = 100, kMs = 50;
  for (const way_to_sleep& way : {kWays[0], kWays[5]}) {
    const stopwatch watch;
    crowd(kThreads, [&](int) { way.sleep_for(kMs); });
    CHECK(watch.ms() >= kMs);
    CHECK(watch.ms() < kThreads * kMs / 2);  // one after the other would take twice as long
  }
}

CASE(short_sleepers_wake_while_long_ones_sleep_on) {
  event short_ones_done;
  std::atomic<int> left = 50;
  crowd(100, [&](int id) {
    if (id % 2 == 0) {
      for (int i = 0; i < 10; ++i) usleep(100 + id);
      if (--left == 0) short_ones_done.set();
    } else {
      usleep(100'000);
      short_ones_done.wait();
    }
  });
}

CASE(a_time_that_has_passed_is_no_sleep) {
  for (const clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC}) {
    for (const timespec until : {timespec{0, 0}, timespec{1, 500}, from_now(clock, 0)}) {
      CHECK_EQ(clock_nanosleep(clock, TIMER_ABSTIME, &until, nullptr), 0);
    }
  }
  std::this_thread::sleep_for(-5s);
  std::this_thread::sleep_until(std::chrono::system_clock::now() - 5s);
}

CASE(impossible_times_are_refused) {
  const auto refused = [](int) {
    for (const timespec bad : {timespec{0, kNsPerSecond}, timespec{0, -1}, timespec{-1, 0}}) {
      CHECK_ERRNO(nanosleep(&bad, nullptr), EINVAL);
      CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, 0, &bad, nullptr), EINVAL);
      CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &bad, nullptr), EINVAL);
      CHECK_ERRNO(ppoll(nullptr, 0, &bad, nullptr), EINVAL);
      CHECK_ERRNO(pselect(0, nullptr, nullptr, nullptr, &bad, nullptr), EINVAL);
    }
    const timespec fine = {0, 1};
    CHECK_EQ(clock_nanosleep(12345, 0, &fine, nullptr), EINVAL);
    CHECK_EQ(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &fine, nullptr), EINVAL);
    timeval bad = {-1, 0};
    CHECK_ERRNO(select(0, nullptr, nullptr, nullptr, &bad), EINVAL);
    fd_set none;
    FD_ZERO(&none);
    timeval soon = {0, 0};
    CHECK_ERRNO(select(-1, &none, nullptr, nullptr, &soon), EINVAL);
  };
  refused(0);
  crowd(2, refused);
}

CASE(clock_nanosleep_leaves_errno_alone) {
  crowd(2, [](int) {
    errno = 77;
    const timespec bad = {-1, 0}, fine = {0, 1000};
    CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, 0, &bad, nullptr), EINVAL);
    CHECK_EQ(errno, 77);
    CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, 0, &fine, nullptr), 0);
    CHECK_EQ(errno, 77);
  });
}

CASE(yielding_lets_others_run) {
  std::atomic<int> turn = 0;
  crowd(3, [&](int id) {
    for (int i = 0; i < 200; ++i) {
      while (turn % 3 != id) CHECK_EQ(sched_yield(), 0);
      ++turn;
      std::this_thread::yield();
    }
  });
  CHECK_EQ(turn, 600);
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
