// stacks_print.h - what was found out, as text or JSON.
//
// Owns:        the words and the layout of `weft stacks`.
// Keeps true:  each fiber is written as soon as it is known, so 100,000 of them need no memory
//              here.
// Called by:   stacks.cc.
// See also:    stacks_look.h, stacks_wait.h.

#pragma once

#include <iosfwd>
#include <memory>
#include <string>

#include "tools/weft/stacks_look.h"
#include "tools/weft/stacks_wait.h"

namespace weft::launcher {

struct Summary {
  pid_t pid;
  std::string command;
  Census census;
  uint32_t carriers;
};

class Printer {
 public:
  virtual ~Printer() = default;
  virtual void begin(const Summary& summary) = 0;
  virtual void print(const Look& look, const Wait& wait) = 0;
  virtual void end(uint32_t left_out) = 0;
};

std::unique_ptr<Printer> make_text_printer(std::ostream& out, Symbols& symbols);
std::unique_ptr<Printer> make_json_printer(std::ostream& out, Symbols& symbols);

}  // namespace weft::launcher
