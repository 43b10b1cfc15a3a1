// process.h - fork, and what else concerns the program as a whole.
//
// Owns:        the order in which the modules are locked for a fork, and what the child makes of them; calls that
//              change every kernel thread (setuid and its like).
// Keeps true:  the child is an ordinary single-threaded process that goes on on the forking fiber's stack and TLS;
//              nothing of weft runs in it until it creates a thread, which starts a fresh runtime.
// Called by:   hook/process.cc, hook/setid.cc; take_part() by signals.cc.
//
// fork, as steps: before_fork (parent, caller's thread): Busy, then locks outermost first: fibers, stacks.
//   parent: release in reverse.  child: release the same locks (the caller holds them), forget everybody else.
//
// on_every_thread, as steps.  Credentials are the kernel's per thread; POSIX and libc make them the process's:
//   E1 caller: the call itself; if it fails nobody else is asked    T1 target's handler of the private signal:
//   E2 for each thread of /proc/self/task not yet asked:               target == own tid? the call, then
//      target = tid; send it the private signal                        target = 0 (its acknowledgement), futex wake
//      wait until target is 0, or the thread has ended
//   E3 again from E2 until a whole pass finds nobody new: a thread made by one that was not asked yet
// One caller at a time; who waits for its turn takes part in the other's call meanwhile, since the handler runs whatever
// the thread is doing, Busy or not.
#pragma once

namespace weft::process {

void before_fork() noexcept;
void after_fork_in_parent() noexcept;
void after_fork_in_child() noexcept;

// Makes a system call that succeeds or fails alike on every kernel thread of the process.  The caller's result, -errno.
// While the runtime is active.
long on_every_thread(long number, long a, long b, long c) noexcept;
// T1; async-signal-safe, touches no thread-local variable.
void take_part() noexcept;

// Is the program an interpreter that runs one thread at a time (CPython, Ruby)?  Several workers would only pass
// its lock back and forth between kernel threads.
bool has_global_lock() noexcept;

}  // namespace weft::process
