// signals_jumps.cc - clause 5: leaving a handler by siglongjmp, faults on alternate stacks, nested handlers, sa_mask,
// SA_NODEFER, SA_RESETHAND, queued signals, timers: in every thread as natively.

#include <array>
#include <atomic>
#include <string>

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "check.h"
#include "child.h"
#include "net.h"
#include "threads.h"

namespace {

struct sigaction install(int signal, void (*handler)(int, siginfo_t*, void*), int flags,
                         std::initializer_list<int> masked = {}) {
  struct sigaction wanted = {}, old;
  wanted.sa_sigaction = handler;
  wanted.sa_flags = flags | SA_SIGINFO;
  sigemptyset(&wanted.sa_mask);
  for (const int one : masked) sigaddset(&wanted.sa_mask, one);
  MUST(sigaction(signal, &wanted, &old));
  return old;
}

bool is_blocked(int signal) {
  sigset_t mask;
  CHECK_EQ(pthread_sigmask(SIG_SETMASK, nullptr, &mask), 0);
  return sigismember(&mask, signal) == 1;
}

void change(int how, std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (const int one : signals) sigaddset(&set, one);
  CHECK_EQ(pthread_sigmask(how, &set, nullptr), 0);
}

// In main, in one thread, and in some at the same time.
template <class Body>
void everywhere(Body body) {
  std::thread([] {}).join();  // there are threads
  body();
  std::thread(body).join();
  crowd(10, [&](int) { body(); });
}

thread_local sigjmp_buf landing;
thread_local volatile sig_atomic_t seen;
thread_local volatile sig_atomic_t depth, deepest;
thread_local void* volatile fault_address;

}  // namespace

CASE(siglongjmp_out_of_a_handler_restores_the_mask) {
  install(SIGUSR1, [](int, siginfo_t*, void*) { siglongjmp(landing, 7); }, 0, {SIGUSR2});
  everywhere([] {
    for (int i = 0; i < 20; ++i) {
      change(SIG_BLOCK, {SIGHUP});
      const int came = sigsetjmp(landing, 1);
      if (came == 0) {
        change(SIG_BLOCK, {SIGTERM});
        CHECK_EQ(raise(SIGUSR1), 0);
        CHECK(!"reached");
      }
      CHECK_EQ(came, 7);
      CHECK(!is_blocked(SIGUSR1));
      CHECK(!is_blocked(SIGUSR2));
      CHECK(!is_blocked(SIGTERM));
      CHECK(is_blocked(SIGHUP));
      change(SIG_UNBLOCK, {SIGHUP});
    }
  });
}

CASE(without_a_saved_mask_it_stays_as_in_the_handler) {
  install(SIGUSR1, [](int, siginfo_t*, void*) { siglongjmp(landing, 1); }, 0, {SIGUSR2});
  everywhere([] {
    if (sigsetjmp(landing, 1) == 0) {
    }
    if (sigsetjmp(landing, 0) == 0) {
      CHECK_EQ(raise(SIGUSR1), 0);
      CHECK(!"reached");
    }
    CHECK(is_blocked(SIGUSR1));
    CHECK(is_blocked(SIGUSR2));
    change(SIG_UNBLOCK, {SIGUSR1, SIGUSR2});
    jmp_buf plain;
    volatile int rounds = 0;
    if (setjmp(plain) == 0) rounds = 0;
    if (rounds < 3) {
      rounds = rounds + 1;
      longjmp(plain, rounds);
    }
    CHECK_EQ(rounds, 3);
    CHECK(!is_blocked(SIGUSR1));
  });
}

CASE(siglongjmp_ends_a_blocking_call) {
  install(
      SIGUSR1, [](int, siginfo_t*, void*) { siglongjmp(landing, 1); }, SA_RESTART);
  const fd_pair silent = unix_pair();
  for (int i = 0; i < 20; ++i) {
    event about_to, gone;
    std::thread sleeper([&] {
      if (sigsetjmp(landing, 1) == 0) {
        about_to.set();
        char byte;
        recv(silent.a, &byte, 1, 0);
        CHECK(!"recv returned");
      }
      CHECK(!is_blocked(SIGUSR1));
      gone.set();
    });
    about_to.wait();
    if (i % 2 == 0) let_it_block();
    CHECK_EQ(pthread_kill(sleeper.native_handle(), SIGUSR1), 0);
    gone.wait();
    sleeper.join();
  }
}

CASE(a_fault_is_left_by_a_jump_from_an_alternate_stack_again_and_again) {
  install(
      SIGSEGV,
      [](int, siginfo_t* info, void*) {
        fault_address = info->si_addr;
        CHECK_EQ(info->si_code, SEGV_ACCERR);
        siglongjmp(landing, 1);
      },
      SA_ONSTACK);
  char* const forbidden =
      static_cast<char*>(mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  everywhere([&] {
    std::array<char, 65536> memory;
    stack_t own = {memory.data(), 0, memory.size()};
    MUST(sigaltstack(&own, nullptr));
    for (int i = 0; i < 10; ++i) {
      if (sigsetjmp(landing, 1) == 0) {
        *static_cast<volatile char*>(forbidden + i) = 1;
        CHECK(!"reached");
      }
      CHECK(fault_address == forbidden + i);
      stack_t now;
      MUST(sigaltstack(nullptr, &now));
      CHECK_EQ(now.ss_flags, 0);
      CHECK(now.ss_sp == memory.data());
      usleep(100);
    }
    own.ss_flags = SS_DISABLE;
    MUST(sigaltstack(&own, nullptr));
  });
  MUST(munmap(forbidden, 4096));
  signal(SIGSEGV, SIG_DFL);
}

CASE(a_fault_is_unblocked_by_hand_and_left_without_a_mask) {
  install(
      SIGSEGV,
      [](int number, siginfo_t*, void*) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, number);
        sigprocmask(SIG_UNBLOCK, &set, nullptr);
        siglongjmp(landing, 1);
      },
      0);
  char* const forbidden =
      static_cast<char*>(mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  everywhere([&] {
    for (int i = 0; i < 10; ++i) {
      if (sigsetjmp(landing, 0) == 0) *static_cast<volatile char*>(forbidden) = 1;
      usleep(100);
    }
  });
  MUST(munmap(forbidden, 4096));
  signal(SIGSEGV, SIG_DFL);
}

CASE(a_handler_is_not_nested_unless_it_asks_for_it) {
  const auto nest = [](int number, siginfo_t*, void*) {
    depth = depth + 1;
    if (depth > deepest) deepest = depth;
    seen = seen + 1;
    if (seen < 4) CHECK_EQ(raise(number), 0);
    depth = depth - 1;
  };
  for (const int flags : {0, SA_NODEFER}) {
    install(SIGUSR1, nest, flags);
    everywhere([flags] {
      seen = 0;
      depth = 0;
      deepest = 0;
      CHECK_EQ(raise(SIGUSR1), 0);
      CHECK_EQ(static_cast<int>(seen), 4);
      CHECK_EQ(static_cast<int>(deepest), flags == 0 ? 1 : 4);
    });
  }
}

CASE(sa_mask_holds_during_the_handler_and_what_it_unblocks_comes_back) {
  install(
      SIGUSR2, [](int, siginfo_t*, void*) { seen = seen + 1; }, 0);
  install(SIGUSR1,
          [](int, siginfo_t*, void*) {
            CHECK(is_blocked(SIGUSR1));
            CHECK(is_blocked(SIGUSR2));
            CHECK_EQ(raise(SIGUSR2), 0);
            CHECK_EQ(static_cast<int>(seen), 0);
            change(SIG_UNBLOCK, {SIGUSR2});
            CHECK_EQ(static_cast<int>(seen), 1);
            change(SIG_BLOCK, {SIGHUP});
            CHECK_EQ(raise(SIGUSR2), 0);
            CHECK_EQ(static_cast<int>(seen), 2);
          },
          0, {SIGUSR2});
  everywhere([] {
    for (int i = 0; i < 5; ++i) {
      seen = 0;
      CHECK_EQ(raise(SIGUSR1), 0);
      CHECK_EQ(static_cast<int>(seen), 2);
      CHECK(!is_blocked(SIGUSR1));
      CHECK(!is_blocked(SIGUSR2));
      CHECK(!is_blocked(SIGHUP));
    }
  });
  // The process as a whole still takes them.
  static std::atomic<int> came;
  install(
      SIGUSR2, [](int, siginfo_t*, void*) { ++came; }, 0);
  MUST(kill(getpid(), SIGUSR2));
  eventually([] { return came == 1; });
}

CASE(SA_RESETHAND_handles_once) {
  everywhere([] {});
  install(
      SIGUSR1, [](int, siginfo_t*, void*) { seen = seen + 1; }, static_cast<int>(SA_RESETHAND));
  std::thread([] {
    seen = 0;
    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK_EQ(static_cast<int>(seen), 1);
  }).join();
  struct sigaction now;
  MUST(sigaction(SIGUSR1, nullptr, &now));
  CHECK(now.sa_handler == SIG_DFL);
  CHECK_KILLED_BY(in_child([] { raise(SIGUSR1); }), SIGUSR1);
}

// Sent to one thread: several threads may take from the queue of a process at the same time.
CASE(real_time_signals_are_queued_in_order_with_their_values) {
  static thread_local int order[64];
  static thread_local volatile int count;
  for (const int number : {SIGRTMIN, SIGRTMIN + 1})
    install(number,
            [](int which, siginfo_t* info, void*) {
              CHECK_EQ(info->si_code, SI_QUEUE);
              CHECK_EQ(info->si_pid, getpid());
              order[count] = (which - SIGRTMIN) * 100 + info->si_value.sival_int;
              count = count + 1;
            },
            0, {SIGRTMIN, SIGRTMIN + 1});
  const auto check = [](auto send) {
    count = 0;
    change(SIG_BLOCK, {SIGRTMIN, SIGRTMIN + 1});
    for (int i = 0; i < 10; ++i) send(SIGRTMIN + 1, i);
    for (int i = 0; i < 10; ++i) send(SIGRTMIN, i);
    CHECK_EQ(static_cast<int>(count), 0);
    change(SIG_UNBLOCK, {SIGRTMIN, SIGRTMIN + 1});
    CHECK_EQ(static_cast<int>(count), 20);
    for (int i = 0; i < 20; ++i) CHECK_EQ(order[i], i < 10 ? i : 100 + i - 10);
  };
  everywhere([&] {
    check([](int number, int i) {
      CHECK_EQ(pthread_sigqueue(pthread_self(), number, sigval{.sival_int = i}), 0);
    });
  });
}

CASE(SIGPIPE_comes_to_the_thread_that_wrote) {
  install(
      SIGPIPE, [](int, siginfo_t*, void*) { seen = seen + 1; }, 0);
  everywhere([] {
    seen = 0;
    pipe_ends pipe = make_pipe(O_CLOEXEC);
    pipe.read.reset();
    CHECK_ERRNO(write(pipe.write, "x", 1), EPIPE);
    CHECK_EQ(static_cast<int>(seen), 1);
    fd_pair pair = unix_pair();
    pair.b.reset();
    CHECK_ERRNO(send(pair.a, "x", 1, 0), EPIPE);
    CHECK_EQ(static_cast<int>(seen), 2);
    CHECK_ERRNO(send(pair.a, "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK_EQ(static_cast<int>(seen), 2);
  });
  signal(SIGPIPE, SIG_DFL);
}

CASE(SIGCHLD_comes_for_children) {
  static std::atomic<int> children;
  static std::atomic<pid_t> last;
  install(
      SIGCHLD,
      [](int, siginfo_t* info, void*) {
        CHECK_EQ(info->si_code, CLD_EXITED);
        CHECK_EQ(info->si_status, 3);
        last = info->si_pid;
        ++children;
      },
      SA_RESTART);
  std::thread([] {
    for (int i = 1; i <= 5; ++i) {
      const pid_t child = start_child([] { _exit(3); });
      eventually([i] { return children >= i; });
      CHECK_EQ(last.load(), child);
      CHECK_EXITED(wait_for(child), 3);
    }
  }).join();
  signal(SIGCHLD, SIG_DFL);
}

CASE(timers_of_every_kind_reach_their_handlers) {
  static std::atomic<int> alarms;
  install(
      SIGALRM, [](int, siginfo_t*, void*) { ++alarms; }, SA_RESTART);
  std::thread idle([] { usleep(300'000); });
  const itimerval often = {{0, 5000}, {0, 5000}}, never = {};
  MUST(setitimer(ITIMER_REAL, &often, nullptr));
  eventually([] { return alarms >= 5; });
  MUST(setitimer(ITIMER_REAL, &never, nullptr));
  alarms = 0;
  ualarm(1000, 0);
  eventually([] { return alarms == 1; });

  static std::atomic<int> values;
  install(
      SIGRTMIN,
      [](int, siginfo_t* info, void*) {
        CHECK_EQ(info->si_code, SI_TIMER);
        values += info->si_value.sival_int;
      },
      0);
  sigevent by_signal = {};
  by_signal.sigev_notify = SIGEV_SIGNAL;
  by_signal.sigev_signo = SIGRTMIN;
  by_signal.sigev_value.sival_int = 11;
  timer_t timer;
  MUST(timer_create(CLOCK_MONOTONIC, &by_signal, &timer));
  const itimerspec once = {{0, 0}, {0, 2'000'000}};
  MUST(timer_settime(timer, 0, &once, nullptr));
  eventually([] { return values == 11; });
  MUST(timer_delete(timer));

  static std::atomic<int> calls;
  sigevent by_thread = {};
  by_thread.sigev_notify = SIGEV_THREAD;
  by_thread.sigev_notify_function = [](sigval value) { calls += value.sival_int; };
  by_thread.sigev_value.sival_int = 5;
  MUST(timer_create(CLOCK_MONOTONIC, &by_thread, &timer));
  MUST(timer_settime(timer, 0, &once, nullptr));
  eventually([] { return calls == 5; });
  MUST(timer_delete(timer));
  idle.join();
}

CASE(a_timer_aims_at_one_thread) {
  static std::atomic<pid_t> who;
  install(
      SIGRTMIN + 2, [](int, siginfo_t*, void*) { who = gettid(); }, 0);
  for (int i = 0; i < 5; ++i) {
    std::thread([] {
      who = 0;
      sigevent event = {};
      event.sigev_notify = SIGEV_THREAD_ID;
      event.sigev_signo = SIGRTMIN + 2;
      event._sigev_un._tid = gettid();
      timer_t timer;
      MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
      const itimerspec once = {{0, 0}, {0, 2'000'000}};
      MUST(timer_settime(timer, 0, &once, nullptr));
      const timespec long_time = {60, 0};
      stopwatch waited;
      while (who == 0 && waited.ms() < kHangMs) {
        const timespec shortly = {0, 20'000'000};
        nanosleep(&shortly, nullptr);
      }
      (void)long_time;
      CHECK_EQ(who.load(), gettid());
      MUST(timer_delete(timer));
    }).join();
  }
}

CASE(tgkill_by_number_reaches_the_thread) {
  static std::atomic<pid_t> who;
  install(
      SIGUSR1, [](int, siginfo_t*, void*) { who = gettid(); }, 0);
  const fd_pair silent = unix_pair();
  for (const bool raw : {false, true}) {
    who = 0;
    std::atomic<pid_t> target = 0;
    std::thread sleeper([&] {
      target = gettid();
      char byte;
      while (recv(silent.a, &byte, 1, 0) < 0) CHECK_EQ(errno, EINTR);
    });
    eventually([&] { return target != 0; });
    MUST(raw ? static_cast<int>(syscall(SYS_tgkill, getpid(), target.load(), SIGUSR1))
             : tgkill(getpid(), target, SIGUSR1));
    eventually([&] { return who == target; });
    CHECK_EQ(write(silent.b, "x", 1), 1);
    sleeper.join();
  }
}

CASE(stopping_and_continuing_leaves_all_as_it_was) {
  const pid_t child = start_child([] {
    std::atomic<int> done = 0;
    crowd(50, [&](int) {
      for (int i = 0; i < 20; ++i) usleep(2000);
      ++done;
    });
    _exit(done == 50 ? 4 : 5);
  });
  for (int i = 0; i < 3; ++i) {
    usleep(10'000);
    MUST(kill(child, SIGSTOP));
    int status;
    CHECK_EQ(waitpid(child, &status, WUNTRACED), child);
    if (!WIFSTOPPED(status)) {
      CHECK_EXITED(status, 4);
      return;
    }
    MUST(kill(child, SIGCONT));
  }
  CHECK_EXITED(wait_for(child), 4);
}

CASE(default_actions_end_the_process_with_its_signal) {
  for (const int number : {SIGINT, SIGTERM, SIGUSR1, SIGABRT, SIGSEGV, SIGALRM, SIGRTMIN}) {
    CHECK_KILLED_BY(in_child([number] {
                      signal(number, SIG_DFL);
                      std::thread idle([] { pause(); });
                      std::thread([number] { raise(number); }).join();
                      pause();
                    }),
                    number);
  }
}

CASE(the_self_pipe_idiom) {
  static pipe_ends pipe = make_pipe(O_CLOEXEC | O_NONBLOCK);
  install(
      SIGTERM,
      [](int, siginfo_t*, void*) {
        if (write(pipe.write, "t", 1) != 1) _exit(9);
      },
      SA_RESTART);
  std::thread loop([] {
    pollfd one = {pipe.read, POLLIN, 0};
    int ready;
    while ((ready = poll(&one, 1, -1)) < 0) CHECK_EQ(errno, EINTR);
    char byte;
    CHECK_EQ(read(pipe.read, &byte, 1), 1);
  });
  MUST(kill(getpid(), SIGTERM));
  loop.join();
}

int main(int argc, char** argv) { return run_cases(argc, argv); }
