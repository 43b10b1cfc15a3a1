// stall.cc - clause 3: a thread that computes, or blocks where nobody can see it, stops no other
// thread.
//
// Twenty tickers sleep a millisecond at a time. During each stall every one of them must have gone
// on; how well is printed, not judged.

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>

#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/syscall.h>

#include "check.h"
#include "child.h"
#include "clock.h"
#include "net.h"
#include "threads.h"

namespace {

constexpr int kTickers = 20;
constexpr long kStallMs = 300;

class tickers {
 public:
  tickers() {
    for (int id = 0; id < kTickers; ++id) {
      threads_.emplace_back([this, id] {
        while (!end_) {
          const stopwatch watch;
          usleep(1000);
          const long gap_us = static_cast<long>(watch.ms() * 1000);
          for (long worst = worst_gap_us_;
               gap_us > worst && !worst_gap_us_.compare_exchange_weak(worst, gap_us);) {
          }
          ++ticks_[id];
        }
      });
    }
    eventually([this] {
      return std::ranges::all_of(ticks_, [](const auto& ticks) { return ticks > 0; });
    });
  }
  ~tickers() {
    end_ = true;
    for (std::thread& one : threads_) one.join();
  }

  // Runs the stall and sees that all tickers have ticked between its beginning and its end.
  template <class Stall>
  void tick_during(Stall stall) {
    std::array<long, kTickers> before, ticked;
    worst_gap_us_ = 0;
    for (int id = 0; id < kTickers; ++id) before[id] = ticks_[id];
    const stopwatch watch;
    stall();
    const double ms = watch.ms();
    for (int id = 0; id < kTickers; ++id) ticked[id] = ticks_[id] - before[id];
    for (const long ticks : ticked) CHECK(ticks > 0);
    dprintf(STDOUT_FILENO, "    stalled for %.0f ms; %ld to %ld ticks each; worst gap %.1f ms\n",
            ms, *std::ranges::min_element(ticked), *std::ranges::max_element(ticked),
            static_cast<double>(worst_gap_us_) / 1000);
  }

 private:
  std::array<std::atomic<long>, kTickers> ticks_{};
  std::atomic<long> worst_gap_us_ = 0;
  std::atomic<bool> end_ = false;
  std::vector<std::thread> threads_;
};

void compute() {
  volatile unsigned long work = 0;
  for (const stopwatch watch; watch.ms() < kStallMs;) {
    for (int i = 0; i < 10'000; ++i) work = work + 1;
  }
}

// A child process that, once told, waits for the length of a stall and then does something.
class later {
 public:
  template <class Prepare, class Act>
  later(Prepare prepare, Act act) {
    child_ = start_child([&] {
      prepare();
      write_all(ready_.write, "r");
      read_up_to(go_.read, 1);
      usleep(kStallMs * 1000);
      act();
    });
    read_up_to(ready_.read, 1);
  }

  pid_t process() const { return child_; }
  void start_the_clock() { write_all(go_.write, "g"); }
  void finish() { CHECK_EXITED(wait_for(child_), 0); }

 private:
  pipe_ends ready_ = make_pipe(), go_ = make_pipe();
  pid_t child_;
};

void nothing() {}

// Reads one byte by a system call of its own, which no library sees.
ssize_t raw_read(int fd, char* byte) {
#if defined(__x86_64__)
  ssize_t result;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(SYS_read), "D"(fd), "S"(byte), "d"(1)
               : "rcx", "r11", "memory");
  return result;
#else
  return syscall(SYS_read, fd, byte, 1);
#endif
}

template <class Stall>
void in_a_thread(Stall stall) {
  tickers all;
  std::thread([&] { all.tick_during(stall); }).join();
}

CASE(a_computing_thread_stops_nobody) { in_a_thread(compute); }

CASE(a_computing_main_stops_nobody) {
  tickers all;
  all.tick_during(compute);
}

CASE(four_computing_threads_stop_nobody) {
  tickers all;
  all.tick_during([] { crowd(4, [](int) { compute(); }); });
}

CASE(a_thread_waiting_for_a_file_lock_stops_nobody) {
  char name[] = "/tmp/weft-flock-XXXXXX";
  const unique_fd fd(MUST(mkstemp(name)));
  unique_fd in_child;
  later holder(
      [&] {
        in_child = unique_fd(MUST(open(name, O_RDWR)));
        MUST(flock(in_child, LOCK_EX));
      },
      [&] { MUST(flock(in_child, LOCK_UN)); });
  in_a_thread([&] {
    holder.start_the_clock();
    MUST(flock(fd, LOCK_EX));
  });
  holder.finish();
  MUST(unlink(name));
}

CASE(a_thread_in_a_system_call_of_its_own_stops_nobody) {
  const pipe_ends pipe = make_pipe();
  later writer(nothing, [&] { write_all(pipe.write, "x"); });
  in_a_thread([&] {
    char byte = 0;
    writer.start_the_clock();
    CHECK_EQ(raw_read(pipe.read, &byte), 1);
    CHECK_EQ(byte, 'x');
  });
  writer.finish();
}

CASE(main_in_a_system_call_of_its_own_stops_nobody) {
  const pipe_ends pipe = make_pipe();
  later writer(nothing, [&] { write_all(pipe.write, "x"); });
  {
    tickers all;
    all.tick_during([&] {
      char byte = 0;
      writer.start_the_clock();
      CHECK_EQ(raw_read(pipe.read, &byte), 1);
    });
  }
  writer.finish();
}

CASE(ten_threads_in_system_calls_of_their_own_stop_nobody) {
  const pipe_ends pipe = make_pipe();
  later writer(nothing, [&] { write_all(pipe.write, "0123456789"); });
  in_a_thread([&] {
    writer.start_the_clock();
    crowd(10, [&](int) {
      char byte;
      CHECK_EQ(raw_read(pipe.read, &byte), 1);
    });
  });
  writer.finish();
}

CASE(a_thread_waiting_for_a_child_process_stops_nobody) {
  later child(nothing, [] { _exit(3); });
  in_a_thread([&] {
    child.start_the_clock();
    CHECK_EXITED(wait_for(child.process()), 3);
  });
}

CASE(a_thread_waiting_in_the_c_library_stops_nobody) {
  in_a_thread([] { CHECK_EXITED(system("sleep 0.3"), 0); });
  const pipe_ends pipe = make_pipe();
  later writer(nothing, [&] { write_all(pipe.write, "line\n"); });
  FILE* const in = fdopen(pipe.read, "r");
  in_a_thread([&] {
    char line[10];
    writer.start_the_clock();
    CHECK(fgets(line, sizeof line, in) != nullptr);
  });
  writer.finish();
}

CASE(a_thread_that_holds_a_lock_while_it_computes_delays_only_those_who_want_it) {
  std::mutex lock;
  event held;
  in_a_thread([&] {
    crowd(5, [&](int id) {
      if (id != 0) held.wait();
      std::lock_guard guard(lock);
      if (id != 0) return;
      held.set();
      compute();
    });
  });
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
