// stacks_trace.h - the registers of a kernel thread that is running.
//
// Owns:        RunningThread: one short stop of one kernel thread.
// Keeps true:  the thread goes on as if it had not been stopped: no SIGSTOP, a signal that arrives
//              meanwhile is passed on, and a thread in a system call that would fail with EINTR is
//              not stopped at all.
// Called by:   stacks_look.cc.
// See also:    ptrace(2) (PTRACE_SEIZE), signal(7) ("Interruption of system calls ... by stop
//              signals").

#pragma once

#include <optional>
#include <string>

#include "tools/weft/stacks_unwind.h"

namespace weft::launcher {

class RunningThread {
 public:
  // Stops the thread, or reads what can be read without that.
  RunningThread(const Process& process, pid_t tid);
  // Lets it go on.
  ~RunningThread() { let_go(); }
  RunningThread(const RunningThread&) = delete;
  RunningThread& operator=(const RunningThread&) = delete;

  // Nothing: see why_not().
  const std::optional<Registers>& registers() const { return registers_; }
  const std::string& why_not() const { return why_not_; }
  // The number of the system call that it was blocked in; nothing: it was computing, or about to.
  std::optional<long> system_call() const { return system_call_; }
  // FS base; nothing when the thread was not stopped.
  std::optional<uint64_t> thread_pointer() const { return thread_pointer_; }

  void let_go();

 private:
  void read_blocked(uint64_t sp, uint64_t pc);
  void stop();
  void read_stopped();

  pid_t tid_;
  bool stopped_ = false;
  int signal_ = 0;  // that arrived at the moment of the stop, to be passed on
  std::optional<Registers> registers_;
  std::optional<uint64_t> thread_pointer_;
  std::optional<long> system_call_;
  std::string why_not_;
};

}  // namespace weft::launcher
