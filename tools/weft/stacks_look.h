// stacks_look.h - one fiber, looked at while the program runs on.
//
// Owns:        Look (what is found out about a fiber) and Looker, which tries until it is
//              consistent.
// Keeps true:  frames belong to the state that is reported with them; a fiber that never stands
//              still long enough is reported as moving, without frames.
// Called by:   stacks.cc.
// See also:    runtime/inspect.h ("Reading while the program runs").

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tools/weft/stacks_fibers.h"
#include "tools/weft/stacks_symbols.h"
#include "tools/weft/stacks_unwind.h"

namespace weft::launcher {

struct Look {
  FiberView fiber;
  std::optional<CarrierView> carrier;  // who runs it, when it runs
  std::optional<long> system_call;  // that it is blocked in, although it runs: weft did not park it
  bool fresh = false;               // has never run
  bool moving = false;              // changed again and again
  std::string no_frames_because;    // empty: frames are all there is
  std::vector<Frame> frames;        // innermost first
};

struct FrameChoice {
  bool wanted = true;
  bool all = false;  // weft's own too
  size_t most = 64;
};

class Looker {
 public:
  Looker(const Process& process, const Root& root, const Tables& tables, Unwinder& unwinder,
         Symbols& symbols, const FrameChoice& choice);

  Look look(const FiberView& seen);

 private:
  bool try_to_look(Look& look);
  bool look_at_running(Look& look);
  bool look_at_saved(Look& look);
  std::optional<FiberView> read_again(const FiberView& fiber) const;
  Registers saved_registers(const FiberView& fiber, const char* frame) const;
  uint64_t stack_end(const FiberView& fiber, uint64_t sp) const;
  std::vector<CodeAddress> unwind(const Registers& registers, StackCopy& stack);
  void name_frames(Look& look, const std::vector<CodeAddress>& addresses);

  const Process& process_;
  const Tables& tables_;
  Unwinder& unwinder_;
  Symbols& symbols_;
  FrameChoice choice_;
  std::vector<char> before_, after_;  // the record, before and after its stack was copied
  InspectField frame_;                // all of the saved frame
  struct {
    InspectField r12, r13, r14, r15, rbx, rbp, rip;
  } saved_;
};

}  // namespace weft::launcher
