// stacks_wait.h - what a fiber waits for, in words.
//
// Owns:        Wait and Waits.
// Keeps true:  it says what is known and no more: an unnamed object stays an address.
// Called by:   stacks.cc.
// See also:    runtime/fiber.h (Reason, detail_fd, detail_object).

#pragma once

#include <optional>
#include <string>

#include "tools/weft/stacks_descriptors.h"
#include "tools/weft/stacks_fibers.h"
#include "tools/weft/stacks_symbols.h"

namespace weft::launcher {

struct Wait {
  std::optional<int64_t> milliseconds;  // nothing: its worker had not looked at the clock yet
  std::string descriptor;               // what fiber.fd is; empty: not known
  std::string object;                   // the name of fiber.object; empty: not known
  std::optional<uint32_t> joins;        // the fiber whose end it waits for
  std::optional<int> held_by;           // thread id of the owner of the lock
  std::optional<uint32_t> held_by_fiber;
};

class Waits {
 public:
  Waits(const Process& process, const Tables& tables, const Census& census, Symbols& symbols)
      : process_(process),
        tables_(tables),
        census_(census),
        symbols_(symbols),
        descriptors_(process) {}

  Wait describe(const FiberView& fiber);

 private:
  void describe_owner(const FiberView& fiber, Wait& wait) const;

  const Process& process_;
  const Tables& tables_;
  const Census& census_;
  Symbols& symbols_;
  Descriptors descriptors_;
};

}  // namespace weft::launcher
