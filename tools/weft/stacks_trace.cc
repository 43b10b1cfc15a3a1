// stacks_trace.cc - see stacks_trace.h.
//
// Owns:        the list of system calls that must not be stopped.
// Keeps true:  no thread stays stopped longer than it takes to copy its registers and stack.
// Called by:   stacks_trace.h.
// See also:    ptrace(2).

#include "tools/weft/stacks_trace.h"

#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

namespace weft::launcher {
namespace {

// Between two looks whether the thread has stopped; it stands still meanwhile.
constexpr timespec kStep = {0, 50'000};
constexpr int kMostSteps = 4000;

// Blocked in one of these, a thread that is stopped and continued sees EINTR (signal(7)); the
// socket calls only when the socket has a timeout.
constexpr std::array kCutShort = {
    SYS_epoll_wait,      SYS_epoll_pwait,  SYS_epoll_pwait2,  SYS_semop,    SYS_semtimedop,
    SYS_rt_sigtimedwait, SYS_io_getevents, SYS_io_pgetevents, SYS_recvfrom, SYS_recvmsg,
    SYS_recvmmsg,        SYS_sendto,       SYS_sendmsg,       SYS_sendmmsg, SYS_accept,
    SYS_accept4,         SYS_connect};
constexpr std::array kCutShortOnSomeFiles = {SYS_read, SYS_write, SYS_readv, SYS_writev};
// Waiting for a vforked child to exec, a thread cannot be stopped; it would stop afterwards.
constexpr std::array kDeaf = {SYS_vfork, SYS_clone, SYS_clone3};

// What /proc/PID/task/TID/syscall says of a thread that is blocked.
struct Blocked {
  long number = -1;
  uint64_t first_argument = 0;
  uint64_t sp = 0, pc = 0;
};

std::optional<Blocked> blocked_in(pid_t pid, pid_t tid) {
  std::ifstream file(proc_path(pid, "task/" + std::to_string(tid) + "/syscall"));
  std::string line;
  std::getline(file, line);
  Blocked blocked;
  unsigned long long argument, sp, pc;
  if (sscanf(line.c_str(), "%ld %llx %*x %*x %*x %*x %*x %llx %llx", &blocked.number, &argument,
             &sp, &pc) != 4)
    return std::nullopt;  // "running", or blocked elsewhere than in a system call
  blocked.first_argument = argument;
  blocked.sp = sp;
  blocked.pc = pc;
  return blocked;
}

bool is_socket_or_inotify(pid_t pid, uint64_t fd) {
  std::array<char, 64> target{};
  const std::string link = proc_path(pid, "fd/" + std::to_string(fd));
  if (readlink(link.c_str(), target.data(), target.size() - 1) < 0) return false;
  const std::string text = target.data();
  return text.starts_with("socket:") || text.starts_with("anon_inode:inotify");
}

bool better_not_stopped(pid_t pid, const Blocked& blocked) {
  const auto among = [&blocked](const auto& calls) {
    return std::find(calls.begin(), calls.end(), blocked.number) != calls.end();
  };
  return among(kCutShort) || among(kDeaf) ||
         (among(kCutShortOnSomeFiles) && is_socket_or_inotify(pid, blocked.first_argument));
}

}  // namespace

RunningThread::RunningThread(const Process& process, pid_t tid) : tid_(tid) {
  const auto blocked = blocked_in(process.pid(), tid);
  if (blocked) system_call_ = blocked->number;
  if (blocked && better_not_stopped(process.pid(), *blocked)) {
    read_blocked(blocked->sp, blocked->pc);
  } else {
    stop();
    if (stopped_) read_stopped();
    if (!registers_ && blocked) read_blocked(blocked->sp, blocked->pc);
  }
}

// Not all registers, but often enough to unwind by.
void RunningThread::read_blocked(uint64_t sp, uint64_t pc) {
  registers_.emplace();
  registers_->pc = pc;
  registers_->general[Registers::kRsp] = sp;
}

void RunningThread::stop() {
  if (ptrace(PTRACE_SEIZE, tid_, nullptr, nullptr) != 0 ||
      ptrace(PTRACE_INTERRUPT, tid_, nullptr, nullptr) != 0) {
    why_not_ = errno == EPERM ? "not permitted, or traced by another" : strerror(errno);
    return;
  }
  for (int i = 0; i < kMostSteps; ++i) {
    int status;
    const pid_t who = waitpid(tid_, &status, __WALL | WNOHANG);
    if (who == tid_ && WIFSTOPPED(status)) {
      stopped_ = true;
      if (status >> 16 == 0)
        signal_ = WSTOPSIG(status);  // not our stop: a signal on its way to the program
      return;
    }
    if (who != 0) {
      why_not_ = "the kernel thread has ended";
      return;
    }
    nanosleep(&kStep, nullptr);
  }
  why_not_ =
      "the kernel thread is stuck in the kernel";  // the kernel detaches it when this process ends
}

void RunningThread::read_stopped() {
  user_regs_struct regs;
  if (ptrace(PTRACE_GETREGS, tid_, nullptr, &regs) != 0) {
    why_not_ = strerror(errno);
    return;
  }
  Registers& r = registers_.emplace();
  r.general = {regs.rax, regs.rdx, regs.rcx, regs.rbx, regs.rsi, regs.rdi, regs.rbp, regs.rsp,
               regs.r8,  regs.r9,  regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15};
  r.pc = regs.rip;
  thread_pointer_ = regs.fs_base;
}

void RunningThread::let_go() {
  if (stopped_) ptrace(PTRACE_DETACH, tid_, nullptr, static_cast<long>(signal_));
  stopped_ = false;
}

}  // namespace weft::launcher
