// wait.cc - waiting for child processes: the wait family, system, pclose.
//
// Owns:        how a wait parks.  For the end of one child: its pidfd, which is weft's own and hidden.  For anything else
//              (any child, a group, stops): the kernel alone knows, so one fiber per question stands in the kernel, under
//              handoff, and those who ask the same stand behind it.
// Keeps true:  every answer is the kernel's own, by a call with WNOHANG or by a blocking one.  system() blocks SIGCHLD for
//              its fiber and ignores SIGINT and SIGQUIT for the process, as POSIX says.
// Limits:      many different questions of the second kind at once (more than kQuestions): one carrier each.
// Called by:   the program.  See also: DECISIONS.md "Waiting for children".
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/pidfd.h>
#include <sys/resource.h>

#include <cstring>

#include "hook/descriptor_call.h"
#include "hook/shape.h"

using namespace weft;

namespace {

struct Question {
  idtype_t type;
  id_t id;
  int options;
  bool operator==(const Question& other) const noexcept {
    return type == other.type && id == other.id && options == other.options;
  }
};

// --- the end of one child -----------------------------------------------------------------------------------

bool is_about_one_end(const Question& q) noexcept {
  constexpr int kMore = WSTOPPED | WCONTINUED | __WCLONE | __WALL | __WNOTHREAD;
  return (q.options & kMore) == 0 && (q.type == P_PID || q.type == P_PIDFD);
}

class PidFd {
 public:
  explicit PidFd(id_t process) noexcept {
    Busy busy;
    const long fd = sys::call(SYS_pidfd_open, static_cast<long>(process), 0);
    if (fd < 0) return;
    number = descriptors::hide(static_cast<int>(fd));
    descriptors::born(number, Kind::kOther, false, true);
  }
  ~PidFd() {
    if (number < 0) return;
    Busy busy;
    descriptors::closing(number);
    descriptors::unhide(number);
    sys::close(number);
  }
  PidFd(const PidFd&) = delete;
  PidFd& operator=(const PidFd&) = delete;
  int number = -1;
};

// --- those who ask the same ---------------------------------------------------------------------------------

constexpr int kQuestions = 64;

struct Queue {
  Question question = {P_ALL, 0, 0};
  int users = 0;                 // guarded by the lock
  std::atomic<bool> taken{false};
};
constinit SpinLock lock;
constinit Queue queues[kQuestions] = {};

// The turn to stand in the kernel.
class Turn {
 public:
  explicit Turn(const Question& question) noexcept {
    Busy busy;
    Locked locked(lock);
    Queue* unused = nullptr;
    for (Queue& q : queues) {
      if (q.users != 0 && q.question == question) queue_ = &q;
      if (q.users == 0) unused = &q;
    }
    if (queue_ == nullptr) queue_ = unused;
    if (queue_ == nullptr) return;
    queue_->question = question;
    ++queue_->users;
  }
  ~Turn() {
    if (queue_ == nullptr) return;
    Busy busy;
    if (mine_) {
      queue_->taken.store(false, std::memory_order_seq_cst);
      lot::wake(queue_, 1);
    }
    Locked locked(lock);
    --queue_->users;
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  // 0: it is the caller's turn.  -EINTR.
  long take() {
    if (queue_ == nullptr) return 0;
    const SignalWatch watch;
    for (;;) {
      Why why = Why::kReady;
      {
        Busy busy;
        if (!queue_->taken.exchange(true, std::memory_order_seq_cst)) {
          mine_ = true;
          return 0;
        }
        why = lot::wait(queue_, Reason::kChild, Deadline::never(), [&] { return queue_->taken.load(std::memory_order_seq_cst); });
      }
      if (why == Why::kSignal && watch.after_wait() == Signalled::kInterrupt) {
        // A wake that was meant for this one and came together with the signal goes to the next.
        Busy busy;
        if (!queue_->taken.load(std::memory_order_seq_cst)) lot::wake(queue_, 1);
        return -EINTR;
      }
    }
  }

 private:
  Queue* queue_ = nullptr;
  bool mine_ = false;
};

// --- all of them --------------------------------------------------------------------------------------------

// attempt(): the call with WNOHANG; -EAGAIN when no child has changed.
template <class Attempt, class Blocking>
long wait_for_child(const Question& question, Attempt attempt, Blocking blocking) {
  cancellation_point();
  if (const long result = attempt(); result != -EAGAIN || (question.options & WNOHANG) != 0) return result;
  if (is_about_one_end(question)) {
    if (question.type == P_PIDFD)
      return when_ready(static_cast<int>(question.id), Direction::kIn, Reason::kChild, {}, attempt, blocking);
    const PidFd end(question.id);
    if (end.number >= 0) return when_ready(end.number, Direction::kIn, Reason::kChild, {}, attempt, blocking);
  }
  Turn turn(question);
  if (const long result = turn.take(); result != 0) return result;
  if (const long result = attempt(); result != -EAGAIN) return result;
  return blocking();
}

Question question_of(pid_t process, int options) noexcept {
  if (process > 0) return {P_PID, static_cast<id_t>(process), options};
  if (process == -1) return {P_ALL, 0, options};
  return {P_PGID, static_cast<id_t>(process == 0 ? getpgrp() : -process), options};
}

pid_t wait_on_fiber(pid_t process, int* status, int options, rusage* usage) {
  const auto attempt = [&]() -> long {
    const long result = sys::call(SYS_wait4, process, sys::word(status), options | WNOHANG, sys::word(usage));
    return result == 0 && (options & WNOHANG) == 0 ? -EAGAIN : result;
  };
  const auto blocking = [&] { return kernel_result(real::wait4(process, status, options, usage)); };
  return static_cast<pid_t>(minus_one(wait_for_child(question_of(process, options), attempt, blocking)));
}

int wait_id_on_fiber(idtype_t type, id_t id, siginfo_t* info, int options) {
  const auto attempt = [&]() -> long {
    siginfo_t local = {};
    siginfo_t* to = info != nullptr ? info : &local;
    if ((options & WNOHANG) == 0 && info != nullptr) to = &local;
    const long result = sys::call(SYS_waitid, type, static_cast<long>(id), sys::word(to), options | WNOHANG, 0);
    if (result != 0 || (options & WNOHANG) != 0) return result;
    if (local.si_pid == 0) return -EAGAIN;
    if (info != nullptr) *info = local;
    return 0;
  };
  const auto blocking = [&] { return kernel_result(real::waitid(type, id, info, options)); };
  return static_cast<int>(minus_one(wait_for_child({type, id, options}, attempt, blocking)));
}

// --- system -------------------------------------------------------------------------------------------------

// SIGINT and SIGQUIT are ignored while any thread is in system().
class IgnoredKeys {
 public:
  IgnoredKeys() noexcept { change(+1); }
  ~IgnoredKeys() { change(-1); }
  IgnoredKeys(const IgnoredKeys&) = delete;
  IgnoredKeys& operator=(const IgnoredKeys&) = delete;
  // What the shell gets back.
  static void defaults(sigset_t* set) noexcept {
    sigemptyset(set);
    if (interrupt_.sa_handler != SIG_IGN) sigaddset(set, SIGINT);
    if (quit_.sa_handler != SIG_IGN) sigaddset(set, SIGQUIT);
  }

 private:
  static void change(int by) noexcept {
    pthread_mutex_lock(&mutex_);
    struct sigaction ignore = {};
    ignore.sa_handler = SIG_IGN;
    if (by > 0 && users_++ == 0) {
      sigaction(SIGINT, &ignore, &interrupt_);
      sigaction(SIGQUIT, &ignore, &quit_);
    } else if (by < 0 && --users_ == 0) {
      sigaction(SIGINT, &interrupt_, nullptr);
      sigaction(SIGQUIT, &quit_, nullptr);
    }
    pthread_mutex_unlock(&mutex_);
  }
  static inline pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  static inline int users_ = 0;
  static inline struct sigaction interrupt_, quit_;
};

class BlockedChildSignal {
 public:
  BlockedChildSignal() noexcept {
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    pthread_sigmask(SIG_BLOCK, &child, &before);
  }
  ~BlockedChildSignal() { pthread_sigmask(SIG_SETMASK, &before, nullptr); }
  BlockedChildSignal(const BlockedChildSignal&) = delete;
  BlockedChildSignal& operator=(const BlockedChildSignal&) = delete;
  sigset_t before;
};

// A carrier stands in the kernel from the start of a child until it has its program: not too many of them at once.
class SpawnTurn {
 public:
  SpawnTurn() noexcept {
    while (sem_wait(&turns_) != 0) {
    }
  }
  ~SpawnTurn() { sem_post(&turns_); }
  SpawnTurn(const SpawnTurn&) = delete;
  SpawnTurn& operator=(const SpawnTurn&) = delete;

 private:
  static constexpr unsigned kAtOnce = 2;
  static sem_t turns_;
};

// As sem_init(&turns_, 0, kAtOnce) leaves it, without a constructor.
constinit sem_t SpawnTurn::turns_ = {{2}};

int start_shell(pid_t* child, const char* command, const sigset_t& mask) noexcept {
  posix_spawnattr_t attributes;
  if (const int error = posix_spawnattr_init(&attributes); error != 0) return error;
  sigset_t defaults;
  IgnoredKeys::defaults(&defaults);
  posix_spawnattr_setsigmask(&attributes, &mask);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  const char* arguments[] = {"sh", "-c", "--", command, nullptr};
  const SpawnTurn turn;
  const int error = posix_spawn(child, "/bin/sh", nullptr, &attributes, const_cast<char* const*>(arguments), environ);
  posix_spawnattr_destroy(&attributes);
  return error;
}

// Cancelled while it waits: the shell must not stay behind.
struct Shell {
  pid_t process;
  bool ended = false;
  ~Shell() {
    if (ended) return;
    sys::call(SYS_kill, process, SIGKILL);
    while (sys::call(SYS_wait4, process, 0, 0, 0) == -EINTR) {
    }
  }
};

constexpr int kCannotRun = 127 << 8;  // as if the shell had said exit(127)

int system_on_fiber(const char* command) {
  const IgnoredKeys keys;
  const BlockedChildSignal mask;
  pid_t child;
  if (start_shell(&child, command, mask.before) != 0) return kCannotRun;
  Shell shell{child};
  int status = 0;
  pid_t result;
  do result = wait_on_fiber(child, &status, 0, nullptr);
  while (result < 0 && errno == EINTR);
  shell.ended = true;
  return result == child ? status : -1;
}

// --- pclose -------------------------------------------------------------------------------------------------

// glibc's FILE with its vtable pointer has had one size since 2.1; behind it popen() keeps the child.
constexpr size_t kFileSize = 216 + sizeof(void*);

// The child of a stream that popen() made; 0: it does not look like one.
pid_t child_of(FILE* stream) noexcept {
  pid_t child;
  memcpy(&child, reinterpret_cast<const char*>(stream) + kFileSize, sizeof child);
  siginfo_t info = {};
  const bool is_child = child > 0 && sys::call(SYS_waitid, P_PID, child, sys::word(&info), WEXITED | WNOHANG | WNOWAIT, 0) == 0;
  return is_child && info.si_pid == 0 ? child : 0;
}

// The child sees the end of its pipe, and is waited for on a fiber; what libc's pclose() then does is over at once.
void await_child_of(FILE* stream) {
  const pid_t child = child_of(stream);
  if (child == 0 || fflush(stream) != 0) return;
  const int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (nothing < 0) return;
  dup3(nothing, fileno(stream), O_CLOEXEC);
  close(nothing);
  const auto attempt = [&]() -> long {
    siginfo_t info = {};
    const long result = sys::call(SYS_waitid, P_PID, child, sys::word(&info), WEXITED | WNOHANG | WNOWAIT, 0);
    return result == 0 && info.si_pid == 0 ? -EAGAIN : result;
  };
  const PidFd end(static_cast<id_t>(child));
  if (end.number < 0) return;
  while (when_ready(end.number, Direction::kIn, Reason::kChild, {}, attempt, [] { return 0L; }) == -EINTR) {
  }
}

}  // namespace

// libc's header says that these two do not throw; a cancellation does.
extern "C" __attribute__((visibility("default"))) pid_t hooked_wait4(pid_t, int*, int, rusage*) __asm__("wait4");
extern "C" __attribute__((visibility("default"))) pid_t hooked_wait3(int*, int, rusage*) __asm__("wait3");

pid_t hooked_wait4(pid_t process, int* status, int options, rusage* usage) {
  return on_fiber() ? wait_on_fiber(process, status, options, usage) : real::wait4(process, status, options, usage);
}
pid_t hooked_wait3(int* status, int options, rusage* usage) {
  return on_fiber() ? wait_on_fiber(-1, status, options, usage) : real::wait3(status, options, usage);
}

WEFT_HOOK pid_t waitpid(pid_t process, int* status, int options) {
  return on_fiber() ? wait_on_fiber(process, status, options, nullptr) : real::waitpid(process, status, options);
}
WEFT_ALIAS(__waitpid, waitpid);
WEFT_HOOK pid_t wait(int* status) { return on_fiber() ? wait_on_fiber(-1, status, 0, nullptr) : real::wait(status); }
WEFT_ALIAS(__wait, wait);
WEFT_HOOK int waitid(idtype_t type, id_t id, siginfo_t* info, int options) {
  return on_fiber() ? wait_id_on_fiber(type, id, info, options) : real::waitid(type, id, info, options);
}

WEFT_HOOK int system(const char* command) {
  return on_fiber() && command != nullptr ? system_on_fiber(command) : real::system(command);
}

WEFT_HOOK FILE* popen(const char* command, const char* type) {
  if (!on_fiber()) return real::popen(command, type);
  const SpawnTurn turn;
  return real::popen(command, type);
}

WEFT_HOOK int pclose(FILE* stream) {
  if (on_fiber()) await_child_of(stream);
  return real::pclose(stream);
}
