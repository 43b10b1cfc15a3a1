// fork_basic.cc - clause 5: fork, from main and from any thread, while others block and work: the
// child has one thread, which goes on as natively and may start others; the parent notices nothing.

#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>

#include "check.h"
#include "child.h"
#include "net.h"
#include "threads.h"

extern char** environ;

namespace {

// Fifty threads: blocked in recv, at a condition, in sleep, and working with malloc and pipes.
class crowd_of_others {
 public:
  crowd_of_others() {
    for (int i = 0; i < 10; ++i) {
      threads_.emplace_back([this] { CHECK_EQ(read_up_to(silent_.a, 1), ""); });
      threads_.emplace_back([this] {
        std::unique_lock held(lock_);
        told_.wait(held, [this] { return end_.load(); });
      });
      threads_.emplace_back([this] {
        while (!end_) usleep(2000);
      });
      threads_.emplace_back([this] {
        for (unsigned n = 1; !end_; ++n) {
          void* volatile used = malloc(n * 37 % 5000);
          free(used);
          if (n % 64 == 0) usleep(300);
        }
      });
      threads_.emplace_back([this] {
        const pipe_ends pipe = make_pipe(O_CLOEXEC);
        while (!end_) {
          write_all(pipe.write, "x");
          CHECK_EQ(read_up_to(pipe.read, 1), "x");
          usleep(300);
        }
      });
    }
    let_it_block();
  }
  ~crowd_of_others() {
    {
      std::lock_guard held(lock_);
      end_ = true;
    }
    told_.notify_all();
    MUST(shutdown(silent_.b, SHUT_RDWR));
    for (std::thread& one : threads_) one.join();
  }

 private:
  fd_pair silent_ = unix_pair();
  std::mutex lock_;
  std::condition_variable told_;
  std::atomic<bool> end_ = false;
  std::vector<std::thread> threads_;
};

thread_local int kept = 0;

// What the child does: the kernel's view of itself, memory, I/O that blocks, threads. Leaves with
// this status.
void live_as_child(pid_t parent, pthread_t self, int fd, int status) {
  CHECK(getpid() != parent);
  CHECK_EQ(getppid(), parent);
  CHECK_EQ(gettid(), getpid());
  CHECK_EQ(syscall(SYS_gettid), getpid());
  CHECK(pthread_equal(pthread_self(), self));
  CHECK_EQ(kept, status);
  free(malloc(100'000));

  write_all(fd, "from child");
  CHECK_EQ(read_up_to(fd, 9), "to child\n");
  usleep(500);
  const fd_pair pair = tcp_pair();
  std::atomic<int> ended = 0;
  crowd(5, [&](int id) {
    CHECK_EQ(kept, 0);
    if (id == 0) {
      CHECK_EQ(read_up_to(pair.a, 3), "abc");
    } else if (id == 1) {
      usleep(1000);
      write_all(pair.b, "abc");
    } else {
      usleep(500);
      CHECK(gettid() != getpid());
    }
    ++ended;
  });
  CHECK_EQ(ended, 5);
  exit(status);
}

void fork_and_talk(int status) {
  const fd_pair pair = unix_pair();
  const pid_t parent = getpid();
  const pthread_t self = pthread_self();
  kept = status;
  const pid_t child = start_child([&] { live_as_child(parent, self, pair.b, status); });
  CHECK_EQ(read_up_to(pair.a, 10), "from child");
  CHECK_EQ(kept, status);
  write_all(pair.a, "to child\n");
  CHECK_EXITED(wait_for(child), status);
}

CASE(main_forks_before_there_is_a_thread) { fork_and_talk(40); }

CASE(main_forks_while_others_block_and_work) {
  crowd_of_others others;
  for (int status = 41; status < 46; ++status) fork_and_talk(status);
}

CASE(a_thread_forks_while_others_block_and_work) {
  crowd_of_others others;
  for (int status = 51; status < 56; ++status) std::thread(fork_and_talk, status).join();
}

CASE(many_threads_fork_at_the_same_time) {
  crowd_of_others others;
  crowd(10, [](int id) {
    usleep(static_cast<useconds_t>(id) * 100);
    fork_and_talk(60 + id);
  });
}

CASE(a_child_that_was_forked_by_a_thread_may_fork_again) {
  const auto fork_twice = [](int id) {
    const int status = in_child([=] {
      crowd(1, [](int) { usleep(100); });
      const int inner = in_child([=] {
        crowd(2, [](int) { usleep(100); });
        exit(70 + id);
      });
      CHECK_EXITED(inner, 70 + id);
      exit(80 + id);
    });
    CHECK_EXITED(status, 80 + id);
  };
  fork_twice(0);
  crowd(3, fork_twice);
}

int report_fd;

CASE(the_start_routine_of_the_forking_thread_may_return_in_the_child) {
  pipe_ends report = make_pipe();
  report_fd = report.write;
  const int status = in_child([] {
    static pid_t grandchild;
    MUST(atexit([] { write_all(report_fd, "x"); }));
    pthread_t thread;
    const auto fork_and_return = [](void*) -> void* {
      grandchild = MUST(fork());
      if (grandchild == 0) alarm(kHangMs / 1000);
      return nullptr;
    };
    CHECK_EQ(pthread_create(&thread, nullptr, fork_and_return, nullptr), 0);
    CHECK_EQ(pthread_join(thread, nullptr), 0);
    // It was the only thread of its process, which therefore ended with 0, by way of exit.
    CHECK_EXITED(wait_for(grandchild), 0);
  });
  CHECK_EXITED(status, 0);
  report.write.reset();
  CHECK_EQ(read_to_end(report.read), "x");
}

CASE(a_plain_mutex_that_the_forking_thread_holds_can_be_unlocked_in_the_child) {
  crowd_of_others others;
  pthread_mutex_t mutex = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;
  pthread_mutex_t recursive = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
  const auto fork_with_locks = [&](int) {
    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    CHECK_EQ(pthread_mutex_lock(&recursive), 0);
    const int status = in_child([&] {
      // A mutex that knows its owner goes by the thread id, which is new in the child.
      CHECK_EQ(pthread_mutex_trylock(&mutex), EBUSY);
      CHECK_EQ(pthread_mutex_unlock(&mutex), EPERM);
      CHECK_EQ(pthread_mutex_unlock(&recursive), EPERM);
    });
    CHECK_EXITED(status, 0);
    CHECK_EQ(pthread_mutex_unlock(&recursive), 0);
    CHECK_EQ(pthread_mutex_unlock(&mutex), 0);

    pthread_mutex_t plain = PTHREAD_MUTEX_INITIALIZER;
    CHECK_EQ(pthread_mutex_lock(&plain), 0);
    CHECK_EXITED(in_child([&] {
                   CHECK_EQ(pthread_mutex_unlock(&plain), 0);
                   crowd(2, [&](int) {
                     CHECK_EQ(pthread_mutex_lock(&plain), 0);
                     usleep(500);
                     CHECK_EQ(pthread_mutex_unlock(&plain), 0);
                   });
                 }),
                 0);
    CHECK_EQ(pthread_mutex_unlock(&plain), 0);
  };
  fork_with_locks(0);
  crowd(2, fork_with_locks);
}

std::string order_of_handlers;
pthread_t forking_thread;

void note(const char* what) {
  CHECK(pthread_equal(pthread_self(), forking_thread));
  order_of_handlers += what;
}

CASE(fork_handlers_run_in_their_order_in_the_forking_thread) {
  const int status = in_child([] {  // where handlers stay for ever
    CHECK_EQ(pthread_atfork([] { note("P1 "); }, [] { note("p1 "); }, [] { note("c1 "); }), 0);
    CHECK_EQ(pthread_atfork([] { note("P2 "); }, [] { note("p2 "); }, [] { note("c2 "); }), 0);
    const auto fork_once = [](int) {
      order_of_handlers.clear();
      forking_thread = pthread_self();
      CHECK_EXITED(in_child([] { CHECK_EQ(order_of_handlers, "P2 P1 c1 c2 "); }), 0);
      CHECK_EQ(order_of_handlers, "P2 P1 p1 p2 ");
    };
    fork_once(0);
    crowd(1, fork_once);
  });
  CHECK_EXITED(status, 0);
}

CASE(output_that_is_buffered_at_the_fork_is_written_by_both) {
  char name[] = "/tmp/weft-fork-XXXXXX";
  const unique_fd fd(MUST(mkstemp(name)));
  FILE* const out = fdopen(MUST(dup(fd)), "a");
  crowd(1, [&](int) { fputs("twice ", out); });
  CHECK_EXITED(in_child([&] {
                 fputs("child\n", out);
                 exit(0);
               }),
               0);
  fputs("parent\n", out);
  fclose(out);
  MUST(lseek(fd, 0, SEEK_SET));
  CHECK_EQ(read_to_end(fd), "twice child\ntwice parent\n");
  MUST(unlink(name));
}

CASE(programs_are_run_from_threads_in_every_way) {
  crowd_of_others others;
  const auto run_all = [](int id) {
    const std::string command = "exit " + std::to_string(id + 3);
    CHECK_EXITED(system(command.c_str()), id + 3);

    FILE* const out = popen("sleep 0.02; echo hello", "r");
    CHECK(out != nullptr);
    char line[20];
    CHECK(fgets(line, sizeof line, out) != nullptr);
    CHECK_EQ(line, "hello\n");
    CHECK_EXITED(pclose(out), 0);

    pid_t child;
    const char* argv[] = {"sh", "-c", command.c_str(), nullptr};
    CHECK_EQ(posix_spawnp(&child, "sh", nullptr, nullptr, const_cast<char**>(argv), environ), 0);
    CHECK_EXITED(wait_for(child), id + 3);

    child = vfork();
    if (child == 0) {
      execv("/bin/sh", const_cast<char**>(argv));
      _exit(127);
    }
    CHECK(child > 0);
    CHECK_EXITED(wait_for(child), id + 3);

    child = vfork();
    if (child == 0) {
      execv("/there/is/no/such/program", const_cast<char**>(argv));
      _exit(126);
    }
    CHECK_EXITED(wait_for(child), 126);
  };
  crowd(4, run_all);
}

CASE(waiting_for_children_reports_each_to_one_thread) {
  crowd(20, [](int id) {
    const pid_t child = start_child([=] {
      usleep(1000);
      _exit(id);
    });
    siginfo_t info{};
    if (id % 2 == 0) {
      CHECK_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED), 0);
      CHECK_EQ(info.si_status, id);
      CHECK_EQ(info.si_pid, child);
    } else {
      CHECK_EXITED(wait_for(child), id);
    }
    CHECK_ERRNO(waitpid(child, nullptr, 0), ECHILD);
  });
}

CASE(exec_from_a_thread_replaces_the_whole_process) {
  const int status = in_child([] {
    crowd_of_others others;
    std::thread([] { execl("/bin/sh", "sh", "-c", "exit 19", nullptr); }).join();
    _exit(1);
  });
  CHECK_EXITED(status, 19);
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
