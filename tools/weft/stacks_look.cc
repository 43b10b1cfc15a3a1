// stacks_look.cc - see stacks_look.h.
//
// Owns:        the order in which record, stack and registers are read.
// Keeps true:  word, stack, word: with both words equal the stack is the one that the word speaks
//              of.
// Called by:   stacks_look.h.
// See also:    runtime/park.h (the states), stacks_trace.h (fibers that run).

#include "tools/weft/stacks_look.h"

#include <time.h>

#include <algorithm>
#include <cstring>

#include "tools/weft/stacks_trace.h"

namespace weft::launcher {
namespace {

constexpr int kAttempts = 10;
constexpr int kAttemptsAtOnce = 4;
constexpr timespec kPause = {0, 200'000};
constexpr uint32_t kLongestFrame = 4096;  // of a switched-off context; 72 bytes on x86-64
constexpr uint64_t kPage = 4096;
constexpr uint64_t kParkedWindow = 8192;  // of most stacks all that is needed
// No second chance: the stack is in use as soon as the thread goes on.
constexpr uint64_t kRunningWindow = 256 << 10;
constexpr size_t kMostWeftFrames = 32;  // that may be left out
// A context that never ran lies this close to the top of its stack.
constexpr uint64_t kFreshRoom = 128;

uint64_t number(const char* record, const InspectField& field) {
  uint64_t value = 0;
  memcpy(&value, record + field.offset, std::min<size_t>(field.size, sizeof value));
  return value;
}

bool is_weft(const Frame& frame) {
  return frame.module.substr(frame.module.rfind('/') + 1).starts_with("libweft");
}

// What is weft's own below the hook that the program called (it stays, as the name of what the
// program waits in) and above the program's start function goes.
void leave_out_weft(std::vector<Frame>& frames) {
  const auto program = std::find_if_not(frames.begin(), frames.end(), is_weft);
  if (program == frames.end()) return;
  if (program != frames.begin()) frames.erase(frames.begin(), program - 1);
  while (is_weft(frames.back())) frames.pop_back();
}

}  // namespace

Looker::Looker(const Process& process, const Root& root, const Tables& tables, Unwinder& unwinder,
               Symbols& symbols, const FrameChoice& choice)
    : process_(process),
      tables_(tables),
      unwinder_(unwinder),
      symbols_(symbols),
      choice_(choice),
      before_(tables.fiber_size()),
      after_(tables.fiber_size()),
      frame_(root.field("frame", "", kLongestFrame)) {
  const auto saved = [&](const char* name) { return root.field("frame.", name, frame_.size); };
  saved_ = {saved("r12"), saved("r13"), saved("r14"), saved("r15"),
            saved("rbx"), saved("rbp"), saved("rip")};
}

Look Looker::look(const FiberView& seen) {
  Look look;
  look.fiber = seen;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    if (try_to_look(look)) return look;
    if (attempt >= kAttemptsAtOnce) nanosleep(&kPause, nullptr);
    const auto now = read_again(look.fiber);
    if (!now) break;
    look = Look{};
    look.fiber = *now;
  }
  look.moving = true;
  look.frames.clear();
  return look;
}

std::optional<FiberView> Looker::read_again(const FiberView& fiber) const {
  std::vector<char> record(tables_.fiber_size());
  if (!process_.read(fiber.address, record.data(), record.size())) return std::nullopt;
  return tables_.decode_fiber(fiber.address, record.data());
}

// False: it changed meanwhile.
bool Looker::try_to_look(Look& look) {
  const FiberView& fiber = look.fiber;
  if (!fiber.exists() || fiber.state == "finished") return true;
  const auto carrier = tables_.carrier(fiber.carrier);
  const bool on_carrier = carrier && carrier->running == fiber.address;
  if (on_carrier && fiber.state != "parked") {
    look.carrier = carrier;
    return !choice_.wanted || look_at_running(look);
  }
  if (fiber.state == "running" || fiber.state == "parking") return false;
  look.fresh = fiber.sp + kFreshRoom >= fiber.stack_top && fiber.sp < fiber.stack_top;
  return look.fresh || !choice_.wanted || look_at_saved(look);
}

// --- fibers that stand still ---------------------------------------------------------------------

// How far a stack goes on above sp, as far as is known.
uint64_t Looker::stack_end(const FiberView& fiber, uint64_t sp) const {
  if (sp - fiber.stack_low < fiber.stack_size) return fiber.stack_low + fiber.stack_size;
  for (const Mapping& mapping : process_.mappings())
    if (sp >= mapping.low && sp < mapping.high) return mapping.high;
  return (sp / kPage + 1) * kPage;
}

bool Looker::look_at_saved(Look& look) {
  const FiberView& fiber = look.fiber;
  const uint64_t end = stack_end(fiber, fiber.sp);
  std::vector<char> window(std::min(end - fiber.sp, kParkedWindow));
  const Piece pieces[] = {{fiber.address, before_.data(), before_.size()},
                          {fiber.sp, window.data(), window.size()},
                          {fiber.address, after_.data(), after_.size()}};
  if (window.size() < frame_.size) return false;
  if (process_.read(pieces) != before_.size() + window.size() + after_.size()) return false;
  const FiberView before = tables_.decode_fiber(fiber.address, before_.data());
  const FiberView after = tables_.decode_fiber(fiber.address, after_.data());
  if (before.word != fiber.word || after.word != fiber.word || before.sp != fiber.sp) return false;

  const Registers registers = saved_registers(fiber, window.data());
  StackCopy stack(process_);
  stack.add(fiber.sp, std::move(window));
  const auto addresses = unwind(registers, stack);
  if (stack.grew()) {
    const auto now = read_again(fiber);
    if (!now || now->word != fiber.word) return false;
  }
  name_frames(look, addresses);
  return true;
}

Registers Looker::saved_registers(const FiberView& fiber, const char* frame) const {
  Registers registers;
  registers.general[Registers::kRbx] = number(frame, saved_.rbx);
  registers.general[Registers::kRbp] = number(frame, saved_.rbp);
  registers.general[Registers::kR12] = number(frame, saved_.r12);
  registers.general[Registers::kR12 + 1] = number(frame, saved_.r13);
  registers.general[Registers::kR12 + 2] = number(frame, saved_.r14);
  registers.general[Registers::kR12 + 3] = number(frame, saved_.r15);
  registers.general[Registers::kRsp] = fiber.sp + frame_.size;
  registers.pc = number(frame, saved_.rip);
  registers.saved_by_call = true;
  return registers;
}

// --- fibers that run -----------------------------------------------------------------------------

bool Looker::look_at_running(Look& look) {
  RunningThread thread(process_, look.carrier->kernel_tid);
  look.system_call = thread.system_call();
  if (!thread.registers()) {
    look.no_frames_because = "its registers cannot be read: " + thread.why_not();
    return true;
  }
  if (thread.thread_pointer() && *thread.thread_pointer() != look.fiber.thread_pointer)
    return false;
  const Registers registers = *thread.registers();
  const uint64_t sp = *registers.general[Registers::kRsp];
  std::vector<char> window(std::min(stack_end(look.fiber, sp) - sp, kRunningWindow));
  const Piece piece{sp, window.data(), window.size()};
  window.resize(process_.read({&piece, 1}));
  thread.let_go();

  StackCopy stack(process_);
  stack.add(sp, std::move(window));
  stack.close();
  name_frames(look, unwind(registers, stack));
  return true;
}

// --- frames --------------------------------------------------------------------------------------

std::vector<CodeAddress> Looker::unwind(const Registers& registers, StackCopy& stack) {
  return unwinder_.unwind(registers, stack, choice_.most + kMostWeftFrames);
}

void Looker::name_frames(Look& look, const std::vector<CodeAddress>& addresses) {
  for (const CodeAddress& address : addresses) {
    const auto& frames = symbols_.frames_at(address);
    look.frames.insert(look.frames.end(), frames.begin(), frames.end());
  }
  if (!choice_.all) leave_out_weft(look.frames);
  if (look.frames.size() > choice_.most) look.frames.resize(choice_.most);
}

}  // namespace weft::launcher
