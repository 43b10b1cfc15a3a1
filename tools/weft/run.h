// run.h - `weft run`: start a program on fibers.
//
// Owns:        RunOptions and the order of events of a run.
// Keeps true:  the program takes the place of this process, so its exit status and signals are its
//              own.
// Called by:   main.cc.
// See also:    program.h (what runs), environment.h (what it is told).

#pragma once

#include <string>
#include <vector>

namespace weft::launcher {

struct RunOptions {
  std::vector<std::string> settings;  // one per row of kSettings; empty: not given
  std::vector<std::string> command;   // the program and its arguments
};

// Returns only when the program was not started: 2 for bad usage or an incomplete weft, 126 and 127
// as a shell. Throws UsageError.
int run_main(const RunOptions& options);

}  // namespace weft::launcher
