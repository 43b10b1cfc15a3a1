// stacks_unwind.h - from registers and a copy of a stack to return addresses.
//
// Owns:        Registers; StackCopy, the memory that an unwinding sees; Unwinder.
// Keeps true:  an unwinding ends: at its limit, where nobody knows how to go on, or where code
//              ends.
// Called by:   stacks_look.cc.
// See also:    stacks_symbols.h (names for the addresses).

#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "tools/weft/stacks_modules.h"

namespace weft::launcher {

// By DWARF number (x86-64: 3 rbx, 6 rbp, 7 rsp, 12-15 r12-r15). Unknown ones are left out.
struct Registers {
  static constexpr unsigned kCount = 16;
  enum : unsigned { kRbx = 3, kRbp = 6, kRsp = 7, kR12 = 12 };
  std::array<std::optional<uint64_t>, kCount> general;
  uint64_t pc = 0;
  bool saved_by_call = false;  // pc is a return address, not where the processor was interrupted
};

struct CodeAddress {
  uint64_t pc;
  bool after_call;  // a return address: what is being executed is the instruction before it
  uint64_t executing() const { return after_call ? pc - 1 : pc; }
};

// Windows into the process's memory, each copied at one moment; more are added as the unwinding
// asks for them.
class StackCopy {
 public:
  explicit StackCopy(const Process& process) : process_(process) {}

  // Takes a window that somebody else has copied.
  void add(uint64_t address, std::vector<char> bytes);
  // From now on nothing is copied any more: the stack is in use again.
  void close() { closed_ = true; }
  // False: that memory is not there, or may no longer be copied.
  bool read(uint64_t address, uint64_t& word);
  bool grew() const { return grew_; }

 private:
  struct Window {
    uint64_t address;
    std::vector<char> bytes;
  };
  const Window* holding(uint64_t address) const;

  const Process& process_;
  std::vector<Window> windows_;
  bool closed_ = false;
  bool grew_ = false;
};

class Unwinder {
 public:
  explicit Unwinder(const Modules& modules);  // throws Refusal

  // At most `limit` addresses of code, innermost first.
  std::vector<CodeAddress> unwind(const Registers& registers, StackCopy& stack, size_t limit);

 private:
  static const Dwfl_Thread_Callbacks kCallbacks;
  static pid_t next_thread(Dwfl*, void* unwinder, void** thread);
  static bool get_thread(Dwfl*, pid_t tid, void* unwinder, void** thread);
  static bool read_memory(Dwfl*, Dwarf_Addr address, Dwarf_Word* word, void* unwinder);
  static bool set_registers(Dwfl_Thread* thread, void* unwinder);
  static int take_frame(Dwfl_Frame* frame, void* unwinder);

  const Modules& modules_;
  const Registers* registers_ = nullptr;  // of the unwinding that is going on, as are the next ones
  StackCopy* stack_ = nullptr;
  size_t limit_ = 0;
  std::vector<CodeAddress> frames_;
};

}  // namespace weft::launcher
