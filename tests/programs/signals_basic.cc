// signals_basic.cc - clauses 1, 2 and 5: a signal reaches the thread that it is for, interrupts or
// restarts the call in which that thread is blocked, and leaves all others alone.
//
// Nobody can know that a thread has blocked. So who interrupts does it again and again until it is
// answered.

#include <array>
#include <atomic>
#include <functional>
#include <mutex>
#include <optional>

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/time.h>

#include "check.h"
#include "child.h"
#include "clock.h"
#include "net.h"
#include "threads.h"

namespace {

std::atomic<int> handled;
std::atomic<pthread_t> handled_by;
std::atomic<pid_t> handled_by_id;

void handler(int) {
  const int kept = errno;
  handled_by = pthread_self();
  handled_by_id = gettid();
  ++handled;
  errno = kept;
}

// The handler above, for the lifetime of this object.
class handling {
 public:
  explicit handling(int signal, int flags = 0) : signal_(signal) {
    struct sigaction action {};
    action.sa_handler = handler;
    action.sa_flags = flags;
    MUST(sigaction(signal, &action, &before_));
    handled = 0;
  }
  ~handling() { MUST(sigaction(signal_, &before_, nullptr)); }

 private:
  int signal_;
  struct sigaction before_;
};

// While a thread is in the handler, the next signal to the process goes to another one. Not so with
// this flag.
constexpr int kNotBlockedMeanwhile = SA_NODEFER;

// SIGALRM every few milliseconds, for the lifetime of this object.
class alarms {
 public:
  alarms() { set(5000); }
  ~alarms() { set(0); }

 private:
  static void set(suseconds_t us) {
    const itimerval times = {{0, us}, {0, us}};
    MUST(setitimer(ITIMER_REAL, &times, nullptr));
  }
};

// Fifty threads that are blocked all the time, each in one of five ways, and hear of no signal.
class blocked_others {
 public:
  blocked_others() {
    for (int i = 0; i < 10; ++i) {
      const auto start = [this](auto block) {
        threads_.emplace_back([this, block] {
          ++started_;
          block();
        });
      };
      start([this] { CHECK_EQ(read_up_to(silent_.a, 1), ""); });
      start([this] { end_.wait(); });
      start([this] {
        CHECK_EQ(pthread_mutex_lock(&mutex_), 0);
        while (!told_) CHECK_EQ(pthread_cond_wait(&condition_, &mutex_), 0);
        CHECK_EQ(pthread_mutex_unlock(&mutex_), 0);
      });
      start([this] {
        pollfd one = {silent_.a, POLLIN, 0};
        CHECK_EQ(poll(&one, 1, -1), 1);
      });
      start([this] {
        std::thread waiting([this] { end_.wait(); });
        waiting.join();
      });
    }
    eventually([this] { return started_ == 50; });
    let_it_block();
  }
  ~blocked_others() {
    CHECK_EQ(pthread_mutex_lock(&mutex_), 0);
    told_ = true;
    CHECK_EQ(pthread_mutex_unlock(&mutex_), 0);
    CHECK_EQ(pthread_cond_broadcast(&condition_), 0);
    end_.set();
    silent_.b.reset();
    for (std::thread& one : threads_) one.join();
  }

 private:
  fd_pair silent_ = unix_pair();
  event end_;
  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t condition_ = PTHREAD_COND_INITIALIZER;
  bool told_ = false;
  std::atomic<int> started_ = 0;
  std::vector<std::thread> threads_;
};

struct blocking_call {
  const char* name;
  std::function<int()> call;  // never ends by itself; -1 and errno
  bool restarts;              // goes on after a handler that was installed with SA_RESTART
};

// Calls that block for ever on things that never happen.
const std::vector<blocking_call>& blocking_calls() {
  static const fd_pair& stream = *new fd_pair(tcp_pair());
  static const unique_fd& listener = *new unique_fd(tcp_listener());
  static const fd_pair& limited = *new fd_pair([] {
    fd_pair pair = unix_pair();
    set_timeout(pair.a, SO_RCVTIMEO, 1000 * kHangMs);
    return pair;
  }());
  static const pipe_ends& pipe = *new pipe_ends(make_pipe());
  static sem_t& never = *[] {
    sem_t* const semaphore = new sem_t;
    MUST(sem_init(semaphore, 0, 0));
    return semaphore;
  }();
  static char byte;
  static const std::vector<blocking_call> all = {
      {"recv", [] { return static_cast<int>(recv(stream.a, &byte, 1, 0)); }, true},
      {"read", [] { return static_cast<int>(read(pipe.read, &byte, 1)); }, true},
      {"accept", [] { return accept(listener, nullptr, nullptr); }, true},
      {"recv with a timeout", [] { return static_cast<int>(recv(limited.a, &byte, 1, 0)); }, false},
      {"sem_wait", [] { return sem_wait(&never); }, true},
      {"sem_timedwait",
       [] {
         const timespec late = from_now(CLOCK_REALTIME, 1000 * kHangMs);
         return sem_timedwait(&never, &late);
       },
       false},
      {"nanosleep",
       [] {
         const timespec asked = {1000, 0};
         timespec left = {-1, -1};
         const int result = nanosleep(&asked, &left);
         if (result == -1) CHECK(left.tv_sec <= 1000 && left.tv_sec > 1000 - kHangMs / 1000);
         return result;
       },
       false},
      {"clock_nanosleep until",
       [] {
         const timespec until = from_now(CLOCK_MONOTONIC, 1000 * kHangMs);
         errno = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
         return errno == 0 ? 0 : -1;
       },
       false},
      {"usleep", [] { return usleep(1000 * 1000 * 1000); }, false},
      {"sleep",
       [] {
         const unsigned left = sleep(1000);
         CHECK(left > 1000 - kHangMs / 1000);
         errno = EINTR;  // what it says by returning something
         return left == 0 ? 0 : -1;
       },
       false},
      {"poll",
       [] {
         pollfd one = {pipe.read, POLLIN, 0};
         return poll(&one, 1, -1);
       },
       false},
      {"select",
       [] {
         fd_set readable;
         FD_ZERO(&readable);
         FD_SET(pipe.read, &readable);
         return select(pipe.read + 1, &readable, nullptr, nullptr, nullptr);
       },
       false},
      {"pause", [] { return pause(); }, false},
  };
  return all;
}

void check_interrupted(const blocking_call& one) {
  errno = 0;
  const int result = one.call();
  if (result != -1 || errno != EINTR)
    check_failed(__FILE__, __LINE__, "%s is %d", one.name, result);
}

CASE(a_process_signal_interrupts_what_main_is_blocked_in) {
  const handling signals(SIGALRM, kNotBlockedMeanwhile);
  const std::vector<blocking_call>& calls = blocking_calls();
  for (const bool with_others : {false, true}) {
    std::optional<blocked_others> others;
    if (with_others) others.emplace();
    const alarms sent;
    for (const blocking_call& one : calls) {
      check_interrupted(one);
      CHECK(pthread_equal(handled_by, pthread_self()));
    }
  }
}

// Runs body in a thread and sends it this signal until it has ended.
template <class Body>
void interrupt_until_done(int signal, Body body) {
  std::atomic<bool> done = false;
  event finish;
  std::thread target([&] {
    body();
    done = true;
    finish.wait();  // so that there is somebody to send to
  });
  eventually([&] {
    CHECK_EQ(pthread_kill(target.native_handle(), signal), 0);
    return done.load();
  });
  finish.set();
  target.join();
}

CASE(pthread_kill_interrupts_what_its_target_is_blocked_in) {
  const handling signals(SIGUSR1);
  const blocked_others others;
  interrupt_until_done(SIGUSR1, [] {
    for (const blocking_call& one : blocking_calls()) {
      check_interrupted(one);
      CHECK(pthread_equal(handled_by, pthread_self()));
      CHECK_EQ(handled_by_id, gettid());
    }
  });
}

// The call goes on over some signals, and ends when somebody makes it end.
template <class Call, class Finish>
void check_goes_on(Call call, Finish finish) {
  interrupt_until_done(SIGUSR1, [&] {
    handled = 0;
    std::thread finisher([&] {
      eventually([] { return handled >= 5; });
      finish();
    });
    call();
    finisher.join();
  });
}

CASE(with_SA_RESTART_those_calls_go_on_that_do_natively) {
  const handling signals(SIGUSR1, SA_RESTART);
  interrupt_until_done(SIGUSR1, [] {
    for (const blocking_call& one : blocking_calls()) {
      if (!one.restarts) check_interrupted(one);
    }
  });
  const fd_pair pair = tcp_pair();
  const pipe_ends pipe = make_pipe();
  const unique_fd listener = tcp_listener();
  sem_t semaphore;
  char byte;
  MUST(sem_init(&semaphore, 0, 0));
  check_goes_on([&] { CHECK_EQ(recv(pair.a, &byte, 1, 0), 1); }, [&] { write_all(pair.b, "x"); });
  check_goes_on([&] { CHECK_EQ(read(pipe.read, &byte, 1), 1); },
                [&] { write_all(pipe.write, "x"); });
  unique_fd client;
  check_goes_on([&] { unique_fd server(MUST(accept(listener, nullptr, nullptr))); },
                [&] { client = connect_to(port_of(listener)); });
  check_goes_on([&] { MUST(sem_wait(&semaphore)); }, [&] { MUST(sem_post(&semaphore)); });
}

CASE(locks_conditions_and_joins_go_on_after_any_signal) {
  const handling signals(SIGUSR1);
  std::mutex lock;
  event locked, release;
  std::thread holder([&] {
    std::lock_guard held(lock);
    locked.set();
    release.wait();
  });
  locked.wait();
  check_goes_on([&] { std::lock_guard held(lock); }, [&] { release.set(); });
  holder.join();

  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
  bool told = false;
  const auto wait_until_told = [&] {
    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    while (!told) CHECK_EQ(pthread_cond_wait(&condition, &mutex), 0);
    CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
  };
  check_goes_on(wait_until_told, [&] {
    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    told = true;
    CHECK_EQ(pthread_cond_signal(&condition), 0);
    CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
  });

  event end;
  std::thread joined([&] { end.wait(); });
  check_goes_on([&] { joined.join(); }, [&] { end.set(); });
}

CASE(a_partly_done_transfer_is_told_when_a_signal_comes) {
  const handling signals(SIGUSR1);
  const fd_pair pair = tcp_pair();
  write_all(pair.b, "abc");
  interrupt_until_done(SIGUSR1, [&] {
    char buffer[10];
    ssize_t n;
    do
      n = recv(pair.a, buffer, sizeof buffer,
               MSG_WAITALL);  // a signal may come even before the first byte is taken
    while (n == -1 && errno == EINTR);
    CHECK_EQ(n, 3);
    const std::string data(32 << 20, 'x');
    do n = send(pair.a, data.data(), data.size(), 0);
    while (n == -1 && errno == EINTR);
    CHECK(n > 0 && n < static_cast<ssize_t>(data.size()));
  });
}

CASE(ctrl_c_is_handled_by_main_while_others_are_blocked) {
  const handling signals(SIGINT, kNotBlockedMeanwhile);
  const blocked_others others;
  MUST(kill(getpid(), SIGINT));
  CHECK_EQ(handled, 1);  // at once, and by whom the kernel prefers: main
  CHECK(pthread_equal(handled_by, pthread_self()));

  std::atomic<bool> interrupted = false;
  event created;  // until then glibc blocks all signals of the creator
  std::thread user([&] {
    created.wait();
    eventually([&] {
      if (!interrupted) MUST(kill(getpid(), SIGINT));
      return interrupted.load();
    });
  });
  created.set();
  CHECK_ERRNO(pause(), EINTR);
  interrupted = true;
  user.join();
  CHECK(pthread_equal(handled_by, pthread_self()));
  CHECK_EQ(handled_by_id, getpid());
}

CASE(a_signal_that_nobody_handles_ends_the_process) {
  for (const int signal : {SIGINT, SIGTERM, SIGKILL}) {
    for (const bool from_thread : {false, true}) {
      const int status = in_child([=] {
        const blocked_others others;
        if (from_thread)
          std::thread([=] { MUST(kill(getpid(), signal)); }).join();
        else
          MUST(kill(getpid(), signal));
        sleep(1000);
      });
      CHECK_KILLED_BY(status, signal);
    }
  }
}

sigset_t set_of(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (const int one : signals) sigaddset(&set, one);
  return set;
}

// Blocks these signals in the calling thread for the lifetime of this object.
class blocking {
 public:
  explicit blocking(std::initializer_list<int> signals) {
    const sigset_t set = set_of(signals);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, &before_), 0);
  }
  ~blocking() { CHECK_EQ(pthread_sigmask(SIG_SETMASK, &before_, nullptr), 0); }

 private:
  sigset_t before_;
};

bool is_blocked(int signal) {
  sigset_t now;
  CHECK_EQ(pthread_sigmask(SIG_BLOCK, nullptr, &now), 0);
  return sigismember(&now, signal) == 1;
}

CASE(a_mask_is_inherited_and_then_the_threads_own) {
  const blocking inherited({SIGUSR2});
  crowd(50, [](int id) {
    CHECK(is_blocked(SIGUSR2));
    CHECK(!is_blocked(SIGUSR1));
    const sigset_t usr1 = set_of({SIGUSR1}), usr2 = set_of({SIGUSR2});
    if (id % 2 == 0) CHECK_EQ(pthread_sigmask(SIG_BLOCK, &usr1, nullptr), 0);
    if (id % 3 == 0) CHECK_EQ(pthread_sigmask(SIG_UNBLOCK, &usr2, nullptr), 0);
    for (int i = 0; i < 5; ++i) {
      usleep(300);
      CHECK_EQ(is_blocked(SIGUSR1), id % 2 == 0);
      CHECK_EQ(is_blocked(SIGUSR2), id % 3 != 0);
    }
  });
  CHECK(is_blocked(SIGUSR2) && !is_blocked(SIGUSR1));
}

CASE(a_process_signal_goes_to_a_thread_that_does_not_block_it) {
  const handling signals(SIGUSR2);
  const blocking in_all_that_follow({SIGUSR2});
  const blocked_others others;
  event ready;
  std::atomic<bool> done = false;
  std::thread open([&] {
    const sigset_t set = set_of({SIGUSR2});
    CHECK_EQ(pthread_sigmask(SIG_UNBLOCK, &set, nullptr), 0);
    ready.set();
    char byte;
    const fd_pair silent = unix_pair();
    CHECK_ERRNO(recv(silent.a, &byte, 1, 0), EINTR);
    CHECK(pthread_equal(handled_by, pthread_self()));
    done = true;
  });
  ready.wait();
  eventually([&] {
    if (!done) MUST(kill(getpid(), SIGUSR2));
    return done.load();
  });
  open.join();
  // The last one may have come when nobody was left to take it.
  const sigset_t set = set_of({SIGUSR2});
  const timespec none = {0, 0};
  while (sigtimedwait(&set, nullptr, &none) == SIGUSR2) {
  }
  CHECK_EQ(errno, EAGAIN);
}

CASE(raise_is_handled_at_once_by_the_thread_that_raises) {
  const handling restored_in_the_end(SIGUSR1);
  static thread_local int mine;
  struct sigaction action {};
  action.sa_handler = [](int) { ++mine; };
  MUST(sigaction(SIGUSR1, &action, nullptr));
  crowd(50, [](int) {
    for (int i = 0; i < 5; ++i) {
      mine = 0;
      MUST(raise(SIGUSR1));
      CHECK_EQ(mine, 1);
      CHECK_EQ(pthread_kill(pthread_self(), SIGUSR1), 0);
      CHECK_EQ(mine, 2);
      usleep(200);
    }
  });
}

CASE(pthread_kill_0_only_looks_and_wrong_signals_are_refused) {
  event end;
  std::thread target([&] { end.wait(); });
  CHECK_EQ(pthread_kill(target.native_handle(), 0), 0);
  CHECK_EQ(pthread_kill(target.native_handle(), 1000), EINVAL);
  CHECK_ERRNO(kill(getpid(), 1000), EINVAL);
  end.set();
  target.join();
}

CASE(a_blocked_signal_stays_pending_for_its_thread_alone) {
  const handling signals(SIGUSR1);
  const blocking in_all_that_follow({SIGUSR1});
  const auto is_pending = [] {
    sigset_t pending;
    MUST(sigpending(&pending));
    return sigismember(&pending, SIGUSR1) == 1;
  };
  event sent, unblock;
  std::thread target([&] {
    sent.wait();
    usleep(500);
    CHECK(is_pending());
    unblock.wait();
    const sigset_t set = set_of({SIGUSR1});
    CHECK_EQ(handled, 0);
    CHECK_EQ(pthread_sigmask(SIG_UNBLOCK, &set, nullptr), 0);
    CHECK_EQ(handled, 1);
    CHECK(!is_pending());
  });
  CHECK_EQ(pthread_kill(target.native_handle(), SIGUSR1), 0);
  sent.set();
  CHECK(!is_pending());
  crowd(5, [&](int) { CHECK(!is_pending()); });
  unblock.set();
  target.join();
}

CASE(one_thread_waits_for_the_signals_of_the_whole_process) {
  const blocking in_all_that_follow({SIGTERM, SIGHUP, SIGUSR1});
  const blocked_others others;
  event got_first;
  std::thread waiter([&] {
    const sigset_t set = set_of({SIGTERM, SIGHUP, SIGUSR1});
    int signal = 0;
    CHECK_EQ(sigwait(&set, &signal), 0);
    CHECK_EQ(signal, SIGHUP);
    got_first.set();
    siginfo_t info{};
    CHECK_EQ(sigwaitinfo(&set, &info), SIGUSR1);
    CHECK_EQ(info.si_code, SI_QUEUE);
    CHECK_EQ(info.si_value.sival_int, 1234);
    CHECK_EQ(info.si_pid, getpid());
    CHECK_EQ(sigwait(&set, &signal), 0);
    CHECK_EQ(signal, SIGTERM);
  });
  let_it_block();
  MUST(kill(getpid(), SIGHUP));
  got_first.wait();
  MUST(sigqueue(getpid(), SIGUSR1, sigval{.sival_int = 1234}));
  let_it_block();
  CHECK_EQ(pthread_kill(waiter.native_handle(), SIGTERM), 0);
  waiter.join();
}

CASE(waiting_for_a_signal_ends_at_its_timeout) {
  const blocking in_all_that_follow({SIGUSR1});
  crowd(5, [](int) {
    const sigset_t set = set_of({SIGUSR1});
    const timespec none = {0, 0}, brief = timespec_of_ms(20);
    CHECK_ERRNO(sigtimedwait(&set, nullptr, &none), EAGAIN);
    const stopwatch watch;
    CHECK_ERRNO(sigtimedwait(&set, nullptr, &brief), EAGAIN);
    CHECK(watch.ms() >= 20);
    CHECK_EQ(pthread_kill(pthread_self(), SIGUSR1), 0);
    CHECK_EQ(sigtimedwait(&set, nullptr, &brief), SIGUSR1);
  });
}

CASE(sigsuspend_waits_with_another_mask) {
  const handling signals(SIGUSR1);
  const blocking in_all_that_follow({SIGUSR1});
  for (int round = 0; round < 5; ++round) {
    std::thread target([] {
      sigset_t none;
      sigemptyset(&none);
      CHECK_ERRNO(sigsuspend(&none), EINTR);
      CHECK(pthread_equal(handled_by, pthread_self()));
      CHECK(is_blocked(SIGUSR1));
    });
    if (round % 2 == 0) let_it_block();
    CHECK_EQ(pthread_kill(target.native_handle(), SIGUSR1), 0);  // pending, if it does not wait yet
    target.join();
  }
  CHECK_EQ(handled, 5);
}

CASE(a_signal_descriptor_is_read_by_a_blocked_thread) {
  const blocking in_all_that_follow({SIGUSR1});
  const sigset_t set = set_of({SIGUSR1});
  const unique_fd fd(MUST(signalfd(-1, &set, SFD_CLOEXEC)));
  std::thread reader([&] {
    signalfd_siginfo info;
    CHECK_EQ(read(fd, &info, sizeof info), sizeof info);
    CHECK_EQ(info.ssi_signo, SIGUSR1);
    CHECK_EQ(info.ssi_pid, getpid());
  });
  let_it_block();
  MUST(kill(getpid(), SIGUSR1));
  reader.join();
}

sem_t posted_by_handler;

CASE(a_handler_may_post_a_semaphore) {
  MUST(sem_init(&posted_by_handler, 0, 0));
  struct sigaction action {};
  struct sigaction before;
  action.sa_handler = [](int) { sem_post(&posted_by_handler); };
  action.sa_flags = SA_RESTART;
  MUST(sigaction(SIGALRM, &action, &before));
  {
    std::thread waiter([] {
      for (int i = 0; i < 5; ++i) {
        while (sem_wait(&posted_by_handler) != 0) CHECK_EQ(errno, EINTR);
      }
    });
    const alarms sent;
    waiter.join();
  }
  MUST(sigaction(SIGALRM, &before, nullptr));
}

thread_local sigjmp_buf after_fault;
thread_local void* fault_address;

CASE(a_fault_is_handled_by_the_thread_that_caused_it) {
  struct sigaction action {};
  struct sigaction before;
  action.sa_sigaction = [](int, siginfo_t* info, void*) {
    fault_address = info->si_addr;
    siglongjmp(after_fault, 1);
  };
  action.sa_flags = SA_SIGINFO;
  MUST(sigaction(SIGSEGV, &action, &before));
  crowd(50, [](int id) {
    for (int i = 0; i < 3; ++i) {
      char* const nowhere = reinterpret_cast<char*>(static_cast<intptr_t>(id * 8 + i + 1));
      if (sigsetjmp(after_fault, 1) == 0) {
        *static_cast<volatile char*>(nowhere) = 1;
        CHECK(!"reached");
      }
      CHECK(fault_address == nowhere);
      CHECK(!is_blocked(SIGSEGV));
      usleep(200);
    }
  });
  MUST(sigaction(SIGSEGV, &before, nullptr));
}

std::atomic<int> expirations;

CASE(a_timer_may_run_a_function_in_a_thread) {
  sigevent event{};
  event.sigev_notify = SIGEV_THREAD;
  event.sigev_notify_function = [](sigval value) {
    usleep(100);
    CHECK_EQ(value.sival_int, 77);
    ++expirations;
  };
  event.sigev_value.sival_int = 77;
  timer_t timer;
  MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
  const itimerspec times = {{0, 2 * kNsPerMs}, {0, 2 * kNsPerMs}};
  MUST(timer_settime(timer, 0, &times, nullptr));
  eventually([] { return expirations >= 5; });
  MUST(timer_delete(timer));
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
