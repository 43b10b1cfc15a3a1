// stacks.h - `weft stacks PID`: every fiber of a running program and its native backtrace.
//
// Owns:        StacksOptions.
// Keeps true:  the program that is looked at goes on as if nobody had looked.
// Called by:   main.cc.
// See also:    runtime/inspect.h (what is there to be read), tools/gdb/weft.py (the same in a
//              debugger).

#pragma once

#include <sys/types.h>

#include <cstdint>

namespace weft::launcher {

struct StacksOptions {
  uint32_t limit = UINT32_MAX;  // at most so many fibers
  unsigned frames = 64;         // at most so many per fiber
  bool no_frames = false;
  bool all_frames = false;  // weft's own too
  bool json = false;
};

// The exit status: 0, or 1 after one sentence on stderr.
int stacks_main(pid_t pid, const StacksOptions& options);

}  // namespace weft::launcher
