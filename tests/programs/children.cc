// children.cc - waiting for processes.
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <string>

#include "blocked.h"
#include "net.h"

namespace {

// A child that lives until its pipe is closed, then exits with a status.
class waiting_child {
 public:
  explicit waiting_child(int status) {
    int ends[2];
    MUST(pipe2(ends, O_CLOEXEC));
    pid = MUST(fork());
    if (pid == 0) {
      close(ends[1]);
      for (int fd = 3; fd < 400; ++fd)
        if (fd != ends[0]) close(fd);
      alarm(60);
      char c;
      while (read(ends[0], &c, 1) < 0) {
      }
      _exit(status);
    }
    close(ends[0]);
    life = ends[1];
  }
  void end() { MUST(close(life)); }
  pid_t pid;
  int life;
};

// A kernel thread stands in the kernel while a child starts, longer on a busy machine, and is kept for the next one.
constexpr int kSpawning = 8;

std::vector<waiting_child> some_children(int n) {
  std::vector<waiting_child> all;
  for (int i = 0; i < n; ++i) all.emplace_back(i % 64);
  return all;
}

}  // namespace

CASE(fifty_threads_each_wait_for_their_own_child) {
  auto all = some_children(50);
  blocked_crowd crowd([&](int i) {
    int status = 0;
    if (i % 2 == 0) {
      CHECK_EQ(waitpid(all[i].pid, &status, 0), all[i].pid);
    } else {
      siginfo_t info;
      CHECK_EQ(waitid(P_PID, static_cast<id_t>(all[i].pid), &info, WEXITED), 0);
      CHECK_EQ(info.si_pid, all[i].pid);
      status = info.si_status << 8;
    }
    CHECK_EQ(WEXITSTATUS(status), i % 64);
  }, 50);
  for (auto& child : all) child.end();
  crowd.join("waitpid(pid), waitid", kSpawning);
  CHECK_ERRNO(waitpid(all[0].pid, nullptr, 0), ECHILD);
}

CASE(a_hundred_threads_wait_for_any_child) {
  auto all = some_children(50);
  std::atomic<int> reaped{0}, none{0};
  blocked_crowd crowd([&](int i) {
    int status = 0;
    rusage usage;
    const pid_t child = i % 2 == 0 ? wait(&status) : wait4(-1, &status, 0, &usage);
    if (child > 0) {
      ++reaped;
    } else {
      CHECK_EQ(errno, ECHILD);
      ++none;
    }
  });
  for (auto& child : all) child.end();
  crowd.join("wait", kSpawning);
  CHECK_EQ(reaped.load(), 50);
  CHECK_EQ(none.load(), 50);
}

CASE(a_stopped_child_is_reported_when_asked_for) {
  auto all = some_children(1);
  std::thread waiter([&] {
    int status = 0;
    CHECK_EQ(waitpid(all[0].pid, &status, WUNTRACED), all[0].pid);
    CHECK(WIFSTOPPED(status));
    CHECK_EQ(waitpid(all[0].pid, &status, WCONTINUED), all[0].pid);
    CHECK(WIFCONTINUED(status));
    CHECK_EQ(waitpid(all[0].pid, &status, 0), all[0].pid);
    CHECK(WIFEXITED(status));
  });
  let_it_block();
  MUST(kill(all[0].pid, SIGSTOP));
  let_it_block();
  MUST(kill(all[0].pid, SIGCONT));
  let_it_block();
  all[0].end();
  waiter.join();
}

CASE(wnohang_and_errors_are_answered_at_once) {
  CHECK_ERRNO(waitpid(-1, nullptr, 0), ECHILD);
  CHECK_ERRNO(waitpid(getpid(), nullptr, 0), ECHILD);
  CHECK_ERRNO(waitpid(-1, nullptr, 0x40000), EINVAL);
  siginfo_t info;
  CHECK_ERRNO(waitid(P_PID, static_cast<id_t>(getpid()), &info, WEXITED), ECHILD);
  auto all = some_children(1);
  CHECK_EQ(waitpid(all[0].pid, nullptr, WNOHANG), 0);
  std::thread([&] { CHECK_EQ(waitpid(all[0].pid, nullptr, WNOHANG), 0); }).join();
  all[0].end();
  CHECK_EQ(waitpid(all[0].pid, nullptr, 0), all[0].pid);
}

CASE(a_pidfd_is_waited_for) {
  auto all = some_children(1);
  const int fd = MUST(static_cast<int>(syscall(SYS_pidfd_open, all[0].pid, 0)));
  std::thread waiter([&] {
    siginfo_t info = {};
    CHECK_EQ(waitid(static_cast<idtype_t>(3 /* P_PIDFD */), static_cast<id_t>(fd), &info, WEXITED), 0);
    CHECK_EQ(info.si_pid, all[0].pid);
  });
  let_it_block();
  all[0].end();
  waiter.join();
  close(fd);
}

CASE(an_ignored_sigchld_lets_wait_end_with_no_child) {
  signal(SIGCHLD, SIG_IGN);
  auto all = some_children(2);
  std::thread one([&] { CHECK_ERRNO(waitpid(all[0].pid, nullptr, 0), ECHILD); });
  std::thread any([&] { CHECK_ERRNO(wait(nullptr), ECHILD); });
  let_it_block();
  for (auto& child : all) child.end();
  one.join();
  any.join();
  signal(SIGCHLD, SIG_DFL);
}

CASE(a_waiting_thread_is_interrupted_and_cancelled) {
  struct sigaction quiet = {};
  quiet.sa_handler = [](int) {};
  sigaction(SIGUSR1, &quiet, nullptr);
  auto all = some_children(1);
  for (const pid_t which : {all[0].pid, static_cast<pid_t>(-1)}) {
    std::atomic<bool> done{false};
    std::thread waiter([&] {
      CHECK_ERRNO(waitpid(which, nullptr, 0), EINTR);
      done = true;
    });
    const pthread_t thread = waiter.native_handle();
    eventually([&] {
      if (!done) pthread_kill(thread, SIGUSR1);
      return done.load();
    });
    waiter.join();
    static pid_t wanted;
    wanted = which;
    pthread_t cancelled;
    CHECK_EQ(pthread_create(&cancelled, nullptr, [](void*) -> void* {
      waitpid(wanted, nullptr, 0);
      return nullptr;
    }, nullptr), 0);
    let_it_block();
    CHECK_EQ(pthread_cancel(cancelled), 0);
    void* result;
    CHECK_EQ(pthread_join(cancelled, &result), 0);
    CHECK(result == PTHREAD_CANCELED);
  }
  all[0].end();
  CHECK_EQ(waitpid(all[0].pid, nullptr, 0), all[0].pid);
}

CASE(forty_threads_in_system) {
  int ends[2];
  MUST(pipe(ends));
  const std::string command = "read x </proc/self/fd/" + std::to_string(ends[0]) + "; exit 7";
  blocked_crowd crowd([&](int) {
    const int status = system(command.c_str());
    CHECK_EQ(WEXITSTATUS(status), 7);
  }, 40);
  for (int i = 0; i < 40; ++i) MUST(write(ends[1], "\n", 1));
  crowd.join("system", kSpawning);
  close(ends[0]);
  close(ends[1]);
  CHECK_EQ(system("exit 3"), 3 << 8);
  CHECK(system(nullptr) != 0);
}

CASE(forty_threads_read_from_popen_and_pclose) {
  std::vector<pipe_ends> go;
  for (int i = 0; i < 40; ++i) go.push_back(make_pipe());
  blocked_crowd crowd([&](int i) {
    const std::string in = std::to_string(static_cast<int>(go[i].read));
    FILE* out = popen(("read x </proc/self/fd/" + in + "; echo $x; read y </proc/self/fd/" + in + "; exit 5").c_str(), "r");
    CHECK(out != nullptr);
    char line[16];
    CHECK(fgets(line, sizeof line, out) != nullptr);
    CHECK_EQ(std::string(line), "hello\n");
    const int status = pclose(out);
    CHECK_EQ(WEXITSTATUS(status), 5);
  }, 40);
  for (pipe_ends& one : go) write_all(one.write, "hello\n");
  let_it_block();
  for (pipe_ends& one : go) write_all(one.write, "you\n");
  crowd.join("popen pclose", kSpawning);
}

CASE(pclose_of_a_writer_gives_the_child_its_end) {
  std::thread([] {
    FILE* in = popen("cat >/dev/null; exit 9", "w");
    CHECK(in != nullptr);
    CHECK(fputs("some text\n", in) >= 0);
    CHECK_EQ(WEXITSTATUS(pclose(in)), 9);
  }).join();
}

int main(int argc, char** argv) { return run_cases(argc, argv); }
