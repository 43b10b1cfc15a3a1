// fork_load.cc - clause 5: fork again and again under load, by vfork, by daemons; the child goes on with threads.
//
// --forks N [N times under load, from main and from threads].

#include <array>
#include <atomic>
#include <mutex>
#include <string>

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "check.h"
#include "child.h"
#include "net.h"
#include "threads.h"

namespace {

int forks = 300;

// Threads that allocate, print, lock, make threads and move bytes all the time.
class load {
 public:
  load() {
    for (int i = 0; i < 2; ++i) {
      threads_.emplace_back([this] {
        while (!end_) free(malloc(static_cast<size_t>(rand()) % 10'000));
      });
      threads_.emplace_back([this] {
        FILE* sink = fopen("/dev/null", "we");
        while (!end_) fprintf(sink, "%d %f\n", rand(), 1.5);
        fclose(sink);
      });
      threads_.emplace_back([this] {
        while (!end_) std::thread([] { std::string text(100, 'x'); }).join();
      });
      threads_.emplace_back([this] {
        const pipe_ends pipe = make_pipe(O_CLOEXEC);
        while (!end_) {
          write_all(pipe.write, "x");
          CHECK_EQ(read_up_to(pipe.read, 1), "x");
          usleep(100);
        }
      });
      threads_.emplace_back([this] {
        while (!end_) {
          std::lock_guard held(lock_);
          usleep(50);
        }
      });
    }
  }
  ~load() {
    end_ = true;
    for (std::thread& one : threads_) one.join();
  }

 private:
  std::atomic<bool> end_ = false;
  std::mutex lock_;
  std::vector<std::thread> threads_;
};

void child_works() {
  free(malloc(5000));
  char text[64];
  CHECK(snprintf(text, sizeof text, "%d %f", getpid(), 2.5) > 0);
  FILE* sink = fopen("/dev/null", "we");
  CHECK(sink != nullptr);
  CHECK(fprintf(sink, "%s\n", text) > 0);
  CHECK_EQ(fclose(sink), 0);
  const pipe_ends pipe = make_pipe(O_CLOEXEC);
  std::thread writer([&] { write_all(pipe.write, "hello"); });
  CHECK_EQ(read_up_to(pipe.read, 5), "hello");
  writer.join();
  _exit(6);
}

// Says something late and then leaves, by _exit or by a program.
[[gnu::noinline]] pid_t vfork_slowly(int news, bool by_exit) {
  const pid_t child = vfork();
  if (child != 0) return child;
  const timespec shortly = {0, 10'000'000};
  syscall(SYS_nanosleep, &shortly, nullptr);
  syscall(SYS_write, news, "x", 1);
  if (by_exit) _exit(8);
  execl("/bin/sh", "sh", "-c", "exit 8", nullptr);
  _exit(9);
}

[[gnu::noinline]] pid_t vfork_true() {
  const pid_t child = vfork();
  if (child != 0) return child;
  execl("/bin/true", "true", nullptr);
  _exit(9);
}

std::string read_all(int fd) {
  std::string all;
  char buffer[256];
  for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;)
    all.append(buffer, static_cast<size_t>(n));
  return all;
}

}  // namespace

CASE(main_forks_many_times_under_load) {
  load others;
  for (int i = 0; i < forks / 2; ++i) CHECK_EXITED(in_child(child_works), 6);
}

CASE(threads_fork_many_times_under_load) {
  load others;
  crowd(3, [](int) {
    for (int i = 0; i < forks / 6; ++i) CHECK_EXITED(in_child(child_works), 6);
  });
}

CASE(a_vfork_parent_goes_on_when_the_child_executes_or_ends) {
  const auto check = [] {
    for (int i = 0; i < 5; ++i) {
      const pipe_ends pipe = make_pipe(O_CLOEXEC);
      const pid_t child = vfork_slowly(pipe.write, i % 2 == 0);
      CHECK(child > 0);
      pollfd one = {pipe.read, POLLIN, 0};
      CHECK_EQ(poll(&one, 1, 0), 1);  // the child's byte is there already
      CHECK_EXITED(wait_for(child), 8);
    }
  };
  check();
  std::thread idle([] { usleep(200'000); });
  check();
  std::thread(check).join();
  crowd(4, [&](int) { check(); });
  idle.join();
}

CASE(a_vfork_parent_does_not_wait_for_other_children) {
  const fd_pair silent = unix_pair();
  std::thread([&] {
    std::vector<pid_t> idle;
    std::atomic<bool> end = false;
    std::thread forker([&] {
      while (!end && idle.size() < 20)
        idle.push_back(start_child([&] {
          char byte;
          if (read(silent.a, &byte, 1) != 1) _exit(0);
        }));
    });
    for (int i = 0; i < 20; ++i) {
      const pid_t child = vfork_true();
      CHECK_EXITED(wait_for(child), 0);
    }
    end = true;
    forker.join();
    for (const pid_t child : idle) {
      MUST(kill(child, SIGKILL));
      wait_for(child);
    }
  }).join();
}

// The classic: fork, leave the session, fork again, close everything, go on with threads.
CASE(a_daemon_closes_everything_and_goes_on_with_threads) {
  std::thread([] {}).join();
  std::thread idle([] { usleep(100'000); });
  const pipe_ends news = make_pipe(0);
  const pid_t starter = start_child([&] {
    const pid_t first = fork();
    if (first != 0) _exit(first > 0 ? 0 : 1);
    MUST(setsid());
    const pid_t second = fork();
    if (second != 0) _exit(second > 0 ? 0 : 1);
    alarm(20);
    for (int fd = 0; fd < 4096; ++fd)
      if (fd != news.write) close(fd);
    MUST(open("/dev/null", O_RDWR));
    MUST(dup(0));
    MUST(dup(0));
    {
      load others;
      std::atomic<int> sum = 0;
      const fd_pair pair = unix_pair();
      crowd(50, [&](int i) {
        if (i % 2 == 0) {
          char byte;
          CHECK_EQ(recv(pair.a, &byte, 1, 0), 1);
        } else {
          CHECK_EQ(send(pair.b, "x", 1, 0), 1);
        }
        ++sum;
      });
      CHECK_EQ(sum.load(), 50);
    }
    std::thread([&] { write_all(news.write, "up"); }).join();
    _exit(0);
  });
  CHECK_EXITED(wait_for(starter), 0);
  char text[3] = {};
  CHECK_EQ(read(news.read, text, 2), 2);
  CHECK_EQ(std::string(text), "up");
  idle.join();
}

CASE(daemon_from_libc) {
  std::thread idle([] { usleep(100'000); });
  pipe_ends news = make_pipe(0);
  const pid_t starter = start_child([&] {
    MUST(daemon(0, 0));
    alarm(20);
    std::thread([&] { write_all(news.write, "up"); }).join();
    exit(0);
  });
  CHECK_EXITED(wait_for(starter), 0);
  news.write.reset();
  CHECK_EQ(read_all(news.read), "up");
  idle.join();
}

CASE(a_child_in_a_signal_handler) {
  static std::atomic<int> status;
  struct sigaction action = {};
  action.sa_handler = [](int) {
    const pid_t child = fork();
    if (child == 0) {
      std::thread([] {}).join();
      _exit(5);
    }
    int seen = 0;
    while (waitpid(child, &seen, 0) != child) {
    }
    status = seen;
  };
  action.sa_flags = SA_RESTART;
  MUST(sigaction(SIGUSR1, &action, nullptr));
  const fd_pair silent = unix_pair();
  std::thread reader([&] { CHECK_EQ(read_up_to(silent.a, 1), "x"); });
  for (int i = 0; i < 5; ++i) {
    status = -1;
    CHECK_EQ(pthread_kill(reader.native_handle(), SIGUSR1), 0);
    eventually([] { return status != -1; });
    CHECK_EXITED(status.load(), 5);
    status = -1;
    MUST(kill(getpid(), SIGUSR1));
    eventually([] { return status != -1; });
    CHECK_EXITED(status.load(), 5);
  }
  write_all(silent.b, "x");
  reader.join();
}

CASE(handlers_work_in_the_child_and_in_its_threads) {
  static std::atomic<int> came;
  struct sigaction action = {};
  action.sa_handler = [](int) { ++came; };
  MUST(sigaction(SIGUSR1, &action, nullptr));
  std::thread([] {
    CHECK_EXITED(in_child([] {
                   came = 0;
                   MUST(raise(SIGUSR1));
                   CHECK_EQ(came.load(), 1);
                   std::thread([] { CHECK_EQ(raise(SIGUSR1), 0); }).join();
                   MUST(kill(getpid(), SIGUSR1));
                   CHECK_EQ(came.load(), 3);
                   sigset_t set;
                   sigemptyset(&set);
                   sigaddset(&set, SIGUSR2);
                   CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, nullptr), 0);
                   std::thread waiter([&] {
                     int number = 0;
                     CHECK_EQ(sigwait(&set, &number), 0);
                     CHECK_EQ(number, SIGUSR2);
                   });
                   MUST(kill(getpid(), SIGUSR2));
                   waiter.join();
                 }),
                 0);
  }).join();
}

CASE(programs_are_run_from_many_threads_at_once) {
  crowd(8, [](int) {
    for (int i = 0; i < 3; ++i) {
      FILE* stream = popen("echo hello", "re");
      CHECK(stream != nullptr);
      char line[16];
      CHECK(fgets(line, sizeof line, stream) != nullptr);
      CHECK_EQ(std::string(line), "hello\n");
      CHECK_EQ(pclose(stream), 0);
      CHECK_EXITED(system("exit 3"), 3);
      pid_t child;
      char name[] = "true";
      char* const argv[] = {name, nullptr};
      CHECK_EQ(posix_spawnp(&child, "true", nullptr, nullptr, argv, environ), 0);
      CHECK_EXITED(wait_for(child), 0);
    }
  });
}

int main(int argc, char** argv) {
  if (argc > 2 && strcmp(argv[1], "--forks") == 0) {
    forks = atoi(argv[2]);
    argc -= 2;
    argv[2] = argv[0];
    argv += 2;
  }
  return run_cases(argc, argv);
}
