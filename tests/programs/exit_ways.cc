// exit_ways.cc - clause 5: a program ends from anywhere, with thousands of blocked threads: handlers and destructors once,
// the status that was asked for, no hang, no crash after main. And exec from anywhere.

#include <atomic>
#include <stdexcept>
#include <string>

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "check.h"
#include "child.h"
#include "net.h"
#include "threads.h"

namespace {

constexpr int kParked = 1000;

void say_at_exit(const char* what) {
  if (write(STDOUT_FILENO, what, strlen(what)) < 0) _exit(99);
}

struct speaking_global {
  bool armed = false;
  ~speaking_global() {
    if (armed) say_at_exit("D");
  }
} global;

struct speaking_local {
  ~speaking_local() { say_at_exit("L"); }
};

// Blocked threads that are never joined.
void park(int n) {
  static fd_pair silent = unix_pair();
  static pthread_mutex_t never = PTHREAD_MUTEX_INITIALIZER;
  pthread_mutex_lock(&never);
  for (int i = 0; i < n; ++i)
    std::thread([i] {
      if (i % 3 == 0) {
        char byte;
        [[maybe_unused]] const ssize_t got = recv(silent.a, &byte, 1, 0);
      } else if (i % 3 == 1) {
        pthread_mutex_lock(&never);
      } else {
        sleep(1000);
      }
    }).detach();
  usleep(2000);
}

struct outcome {
  int status;
  std::string said;
};

// Runs body in a child among blocked threads; what it says at its exit comes back.
template <class Body>
outcome end_by(Body body, int parked = kParked) {
  pipe_ends out = make_pipe(O_CLOEXEC);
  const pid_t child = start_child([&] {
    MUST(dup2(out.write, STDOUT_FILENO));
    const rlimit none = {0, 0};
    MUST(setrlimit(RLIMIT_CORE, &none));
    const int null = MUST(open("/dev/null", O_WRONLY));
    MUST(dup2(null, STDERR_FILENO));
    global.armed = true;
    atexit([] { say_at_exit("A"); });
    at_quick_exit([] { say_at_exit("Q"); });
    park(parked);
    body();
  });
  out.write.reset();
  outcome seen;
  char buffer[64];
  for (ssize_t n; (n = read(out.read, buffer, sizeof buffer)) > 0;)
    seen.said.append(buffer, static_cast<size_t>(n));
  seen.status = wait_for(child);
  return seen;
}

template <class Body>
auto from_a_thread(Body body) {
  return [body] {
    std::thread(body).detach();
    for (;;) pause();
  };
}

template <class Body>
void ends_with(Body body, int status, const char* said) {
  outcome seen = end_by(body);
  CHECK_EXITED(seen.status, status);
  CHECK_EQ(seen.said, said);
  seen = end_by(from_a_thread(body));
  CHECK_EXITED(seen.status, status);
  CHECK_EQ(seen.said, said);
}

template <class Body>
void is_killed(Body body, int signal) {
  outcome seen = end_by(body);
  CHECK_KILLED_BY(seen.status, signal);
  CHECK_EQ(seen.said, "");
  seen = end_by(from_a_thread(body));
  CHECK_KILLED_BY(seen.status, signal);
  CHECK_EQ(seen.said, "");
}

[[noreturn]] void fail() { throw std::runtime_error("nobody catches this"); }

}  // namespace

CASE(exit_runs_handlers_and_destructors_once) {
  ends_with([] { exit(3); }, 3, "AD");
}
CASE(_exit_runs_nothing) {
  ends_with([] { _exit(4); }, 4, "");
}
CASE(quick_exit_runs_its_own) {
  ends_with([] { quick_exit(5); }, 5, "Q");
}
CASE(exit_destroys_the_callers_thread_variables_first) {
  ends_with(
      [] {
        thread_local speaking_local mine;
        static_cast<void>(&mine);
        exit(6);
      },
      6, "LAD");
}

CASE(abort_ends_the_process) {
  is_killed([] { abort(); }, SIGABRT);
}
CASE(an_uncaught_exception_ends_the_process) { is_killed(fail, SIGABRT); }
CASE(a_fault_ends_the_process) {
  is_killed(
      [] {
        volatile int* nowhere = nullptr;
        *nowhere = 1;
      },
      SIGSEGV);
}
CASE(a_signal_to_itself_ends_the_process) {
  is_killed(
      [] {
        kill(getpid(), SIGTERM);
        for (;;) pause();
      },
      SIGTERM);
}

CASE(a_signal_from_outside_ends_thousands) {
  const pipe_ends up = make_pipe(O_CLOEXEC);
  const pid_t child = start_child([&] {
    park(5000);
    write_all(up.write, "x");
    for (;;) pause();
  });
  CHECK_EQ(read_up_to(up.read, 1), "x");
  MUST(kill(child, SIGTERM));
  CHECK_KILLED_BY(wait_for(child), SIGTERM);
}

CASE(exit_with_five_thousand_blocked) {
  const outcome seen = end_by(from_a_thread([] { exit(7); }), 5000);
  CHECK_EXITED(seen.status, 7);
  CHECK_EQ(seen.said, "AD");
}

CASE(pthread_exit_of_main_lets_the_others_finish) {
  const outcome seen = end_by([] {
    std::thread([] {
      usleep(20'000);
      exit(8);
    }).detach();
    pthread_exit(nullptr);
  });
  CHECK_EXITED(seen.status, 8);
  CHECK_EQ(seen.said, "AD");
}

CASE(the_end_of_the_last_thread_is_the_end_of_the_process) {
  const outcome seen = end_by(
      [] {
        std::thread([] { usleep(20'000); }).detach();
        pthread_exit(nullptr);
      },
      0);
  CHECK_EXITED(seen.status, 0);
  CHECK_EQ(seen.said, "AD");
}

CASE(others_run_on_while_handlers_run) {
  const outcome seen = end_by([] {
    static std::atomic<int> beats;
    std::thread([] {
      for (;; ++beats) usleep(500);
    }).detach();
    atexit([] {
      const int before = beats;
      eventually([before] { return beats > before + 3; });
      say_at_exit("B");
    });
    exit(0);
  });
  CHECK_EXITED(seen.status, 0);
  CHECK_EQ(seen.said, "BAD");
}

CASE(threads_make_threads_and_locks_in_exit_handlers) {
  const outcome seen = end_by([] {
    atexit([] { std::thread([] { say_at_exit("T"); }).join(); });
    std::thread([] { exit(0); }).join();
  });
  CHECK_EXITED(seen.status, 0);
  CHECK_EQ(seen.said, "TAD");
}

CASE(exec_from_main_and_from_a_thread_replaces_all) {
  const auto body = [] { execl("/bin/sh", "sh", "-c", "printf E; exit 9", nullptr); };
  for (const outcome& seen : {end_by(body), end_by(from_a_thread(body))}) {
    CHECK_EXITED(seen.status, 9);
    CHECK_EQ(seen.said, "E");
  }
}

// /sbin/ldconfig is static; no preload reaches it, and none may disturb it.
CASE(exec_of_a_static_program) {
  if (access("/sbin/ldconfig", X_OK) != 0) return;
  const auto body = [] { execl("/sbin/ldconfig", "ldconfig", "--version", nullptr); };
  for (const outcome& seen : {end_by(body), end_by(from_a_thread(body))}) {
    CHECK_EXITED(seen.status, 0);
    CHECK(seen.said.starts_with("ldconfig"));
  }
}

// A setuid program runs in secure mode, where ld.so leaves out what it cannot trust.
CASE(exec_of_a_setuid_program) {
  struct stat file;
  if (stat("/bin/su", &file) != 0 || (file.st_mode & S_ISUID) == 0 || geteuid() != 0) return;
  const auto body = [] {
    MUST(setgid(12345));
    MUST(setuid(12345));
    execl("/bin/su", "su", "--version", nullptr);
  };
  for (const outcome& seen : {end_by(body), end_by(from_a_thread(body))}) {
    CHECK_EXITED(seen.status, 0);
    CHECK(seen.said.starts_with("su "));
  }
}

// A failing exec changes nothing.
CASE(exec_that_fails_leaves_all_running) {
  const outcome seen = end_by([] {
    CHECK_ERRNO(execl("/nonexistent", "x", nullptr), ENOENT);
    std::thread([] { CHECK_ERRNO(execl("/nonexistent", "x", nullptr), ENOENT); }).join();
    exit(2);
  });
  CHECK_EXITED(seen.status, 2);
}

int main(int argc, char** argv) { return run_cases(argc, argv); }
