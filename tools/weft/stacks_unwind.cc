// stacks_unwind.cc - see stacks_unwind.h.
//
// Owns:        libdwfl's callbacks.
// Keeps true:  libdwfl believes in one thread, whose registers and memory are those of the fiber
//              that is being unwound.
// Called by:   stacks_unwind.h.
// See also:    dwfl_attach_state in elfutils' libdwfl.h.

#include "tools/weft/stacks_unwind.h"

#include <cstring>

namespace weft::launcher {
namespace {

constexpr uint64_t kPage = 4096;
constexpr size_t kMostWindows = 4096;
constexpr pid_t kTheThread = 1;  // what libdwfl calls whatever is being unwound

}  // namespace

// --- memory --------------------------------------------------------------------------------------

void StackCopy::add(uint64_t address, std::vector<char> bytes) {
  windows_.push_back({address, std::move(bytes)});
}

const StackCopy::Window* StackCopy::holding(uint64_t address) const {
  for (auto window = windows_.rbegin(); window != windows_.rend(); ++window) {
    const uint64_t offset = address - window->address;
    if (offset < window->bytes.size() && window->bytes.size() - offset >= sizeof(uint64_t))
      return &*window;
  }
  return nullptr;
}

bool StackCopy::read(uint64_t address, uint64_t& word) {
  const Window* window = holding(address);
  if (window == nullptr) {
    if (closed_ || windows_.size() >= kMostWindows) return false;
    std::vector<char> bytes(kPage -
                            address % kPage);  // up to the next page, which may not be there
    if (bytes.size() < sizeof word) bytes.resize(sizeof word);
    if (!process_.read(address, bytes.data(), bytes.size())) return false;
    add(address, std::move(bytes));
    grew_ = true;
    window = &windows_.back();
  }
  memcpy(&word, window->bytes.data() + (address - window->address), sizeof word);
  return true;
}

// --- libdwfl -------------------------------------------------------------------------------------

const Dwfl_Thread_Callbacks Unwinder::kCallbacks = {
    .next_thread = next_thread,
    .get_thread = get_thread,
    .memory_read = read_memory,
    .set_initial_registers = set_registers,
    .detach = nullptr,
    .thread_detach = nullptr,
};

Unwinder::Unwinder(const Modules& modules) : modules_(modules) {
  if (!dwfl_attach_state(modules.dwfl(), nullptr, modules.process().pid(), &kCallbacks, this))
    throw Refusal(std::string("stacks cannot be unwound: ") + dwfl_errmsg(-1));
}

std::vector<CodeAddress> Unwinder::unwind(const Registers& registers, StackCopy& stack,
                                          size_t limit) {
  registers_ = &registers;
  stack_ = &stack;
  limit_ = limit;
  frames_.clear();
  dwfl_getthread_frames(modules_.dwfl(), kTheThread, take_frame,
                        this);  // an error only means: here it ends
  return std::move(frames_);
}

pid_t Unwinder::next_thread(Dwfl*, void* unwinder, void** thread) {
  if (*thread != nullptr) return 0;
  *thread = unwinder;
  return kTheThread;
}

bool Unwinder::get_thread(Dwfl*, pid_t, void* unwinder, void** thread) {
  *thread = unwinder;
  return true;
}

bool Unwinder::read_memory(Dwfl*, Dwarf_Addr address, Dwarf_Word* word, void* unwinder) {
  uint64_t value;
  if (!static_cast<Unwinder*>(unwinder)->stack_->read(address, value)) return false;
  *word = value;
  return true;
}

bool Unwinder::set_registers(Dwfl_Thread* thread, void* unwinder) {
  const Registers& registers = *static_cast<Unwinder*>(unwinder)->registers_;
  for (unsigned i = 0; i < Registers::kCount; ++i) {
    if (!registers.general[i]) continue;
    const Dwarf_Word value = *registers.general[i];
    if (!dwfl_thread_state_registers(thread, static_cast<int>(i), 1, &value)) return false;
  }
  dwfl_thread_state_register_pc(thread, registers.pc);
  return true;
}

int Unwinder::take_frame(Dwfl_Frame* frame, void* self) {
  auto* unwinder = static_cast<Unwinder*>(self);
  Dwarf_Addr pc;
  bool is_activation;
  if (!dwfl_frame_pc(frame, &pc, &is_activation)) return DWARF_CB_ABORT;
  if (dwfl_addrmodule(unwinder->modules_.dwfl(), pc) == nullptr)
    return DWARF_CB_ABORT;  // no code: the stack's end
  if (unwinder->frames_.empty()) is_activation = !unwinder->registers_->saved_by_call;
  unwinder->frames_.push_back({pc, !is_activation});
  return unwinder->frames_.size() < unwinder->limit_ ? DWARF_CB_OK : DWARF_CB_ABORT;
}

}  // namespace weft::launcher
