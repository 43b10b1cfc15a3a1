// elf.h - what an ELF file says about how it wants to be started.
//
// Owns:        ElfFacts and the reading of them; no policy.
// Keeps true:  a damaged or hostile file yields fewer facts, never a crash: every offset is read
//              with pread.
// Called by:   program.cc (the program to run), run.cc (weft's own libraries).
// See also:    elf(5).

#pragma once

#include <optional>
#include <string>
#include <vector>

namespace weft::launcher {

struct ElfFacts {
  bool this_machine = false;  // the architecture and word size that this launcher was built for
  std::string interpreter;    // PT_INTERP; empty: there is no dynamic linker to preload anything
  std::string soname;         // DT_SONAME
  std::vector<std::string> needed;  // DT_NEEDED, in order
};

// Nothing when the file cannot be read or is not ELF.
std::optional<ElfFacts> read_elf(const std::string& path);

}  // namespace weft::launcher
