// process.h - fork, and what weft knows about the program as a whole.
//
// Owns:        the order in which the modules are locked for a fork, and what the child makes of them.
// Keeps true:  the child is an ordinary single-threaded process that goes on on the forking fiber's stack and TLS;
//              nothing of weft runs in it until it creates a thread, which starts a fresh runtime.
// Called by:   hook/process.cc.
//
// fork, as steps: before_fork (parent, caller's thread): Busy, then locks outermost first: fibers, stacks.
//   parent: release in reverse.  child: release the same locks (the caller holds them), forget everybody else.
#pragma once

namespace weft::process {

void before_fork() noexcept;
void after_fork_in_parent() noexcept;
void after_fork_in_child() noexcept;

// Is the program an interpreter that runs one thread at a time (CPython, Ruby)?  Several workers would only pass
// its lock back and forth between kernel threads.
bool has_global_lock() noexcept;

}  // namespace weft::process
