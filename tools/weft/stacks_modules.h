// stacks_modules.h - the program and libraries that a process has mapped, as libdwfl sees them.
//
// Owns:        Modules: the one Dwfl of a look.
// Keeps true:  files are opened as the process sees them (deleted ones, other mount namespaces),
//              and no debuginfo server is asked.
// Called by:   stacks_unwind.cc, stacks_symbols.cc.
// See also:    elfutils' libdwfl.h.

#pragma once

#include <elfutils/libdwfl.h>

#include "tools/weft/stacks_process.h"

namespace weft::launcher {

class Modules {
 public:
  explicit Modules(const Process& process);  // throws Refusal
  ~Modules();
  Modules(const Modules&) = delete;
  Modules& operator=(const Modules&) = delete;

  Dwfl* dwfl() const { return dwfl_; }
  const Process& process() const { return process_; }

 private:
  const Process& process_;
  Dwfl* dwfl_;
};

}  // namespace weft::launcher
