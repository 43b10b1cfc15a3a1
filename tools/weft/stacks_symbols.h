// stacks_symbols.h - names for addresses in a process.
//
// Owns:        Symbols, and what it has already looked up.
// Keeps true:  an address is looked up once, however many fibers wait there.
// Called by:   stacks_look.cc, stacks_wait.cc.
// See also:    stacks_modules.h.

#pragma once

#include <elfutils/libdw.h>

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "tools/weft/stacks_modules.h"
#include "tools/weft/stacks_unwind.h"

namespace weft::launcher {

struct Frame {
  uint64_t pc = 0;
  std::string function;  // empty: not known
  uint64_t offset = 0;   // of pc in it
  std::string module;    // path of the file; empty: no file
  std::string file;      // of the source; empty: not known
  int line = 0;
  bool inlined = false;  // has no frame of its own
};

class Symbols {
 public:
  explicit Symbols(const Modules& modules) : modules_(modules) {}

  // The function at that address, after the ones that were inlined into it there.
  const std::vector<Frame>& frames_at(const CodeAddress& address);
  // "cache+0x10" for something static, or empty.
  const std::string& object_at(uint64_t address);
  // The function that begins there, or its address.
  std::string function_at(uint64_t address);

 private:
  std::vector<Frame> look_up(const CodeAddress& address) const;
  std::string look_up_object(uint64_t address) const;
  Dwfl_Module* module_holding(uint64_t address) const;

  const Modules& modules_;
  std::unordered_map<uint64_t, std::vector<Frame>> known_;  // by CodeAddress::executing()
  std::unordered_map<uint64_t, std::string> known_objects_;
};

std::string hexadecimal(uint64_t number);  // "0x1f"

}  // namespace weft::launcher
