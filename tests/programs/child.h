// child.h - cases that end a process, or need a fresh one, run it in a child and look at its wait
// status.
#pragma once

#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/wait.h>

#include "check.h"
#include "clock.h"

inline int wait_for(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) != child) CHECK_EQ(errno, EINTR);
  return status;
}

// Forks a child that runs body and then leaves with status 0. One that hangs is ended by SIGALRM.
template <class Body>
pid_t start_child(Body body) {
  const pid_t child = MUST(fork());
  if (child == 0) {
    alarm(kHangMs / 1000);
    body();
    _exit(0);
  }
  return child;
}

template <class Body>
int in_child(Body body) {
  return wait_for(start_child(body));
}

// Runs this very program again, in a new process, with other arguments.
inline pid_t start_self(std::vector<std::string> arguments) {
  std::vector<char*> argv = {const_cast<char*>("self")};
  for (std::string& one : arguments) argv.push_back(one.data());
  argv.push_back(nullptr);
  return start_child([&] {
    execv("/proc/self/exe", argv.data());
    check_failed(__FILE__, __LINE__, "execv failed");
  });
}

inline int run_self(std::vector<std::string> arguments) {
  return wait_for(start_self(std::move(arguments)));
}

#define CHECK_EXITED(status, code)                                  \
  do {                                                              \
    const int seen_status = (status);                               \
    if (!WIFEXITED(seen_status))                                    \
      check_failed(__FILE__, __LINE__, "%s: killed by %s", #status, \
                   sigdescr_np(WTERMSIG(seen_status)));             \
    CHECK_EQ(WEXITSTATUS(seen_status), code);                       \
  } while (0)

#define CHECK_KILLED_BY(status, signal)                                                          \
  do {                                                                                           \
    const int seen_status = (status);                                                            \
    if (!WIFSIGNALED(seen_status))                                                               \
      check_failed(__FILE__, __LINE__, "%s: exited with %d", #status, WEXITSTATUS(seen_status)); \
    CHECK_EQ(WTERMSIG(seen_status), signal);                                                     \
  } while (0)
