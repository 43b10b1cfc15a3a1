// stacks_print.cc - see stacks_print.h.
//
// Owns:        TextPrinter and JsonPrinter.
// Keeps true:  text is for people and may change; the names in the JSON do not.
// Called by:   stacks_print.h.
// See also:    runtime/fiber.h (what states and reasons there are).

#include "tools/weft/stacks_print.h"

#include <nlohmann/json.hpp>
#include <ostream>

namespace weft::launcher {
namespace {

std::string name_of(const FiberView& fiber, const std::string& command) {
  return fiber.name.empty() ? command : fiber.name;
}

std::string counted(uint64_t n, const std::string& what) {
  return std::to_string(n) + " " + what + (n == 1 ? "" : "s");
}

// --- text ----------------------------------------------------------------------------------------

class TextPrinter : public Printer {
 public:
  TextPrinter(std::ostream& out, Symbols& symbols) : out_(out), symbols_(symbols) {}

  void begin(const Summary& summary) override {
    command_ = summary.command;
    out_ << "process " << summary.pid << " (" << command_
         << "): " << counted(summary.census.fibers, "fiber");
    const char* before = ": ";
    for (const auto& [state, n] : summary.census.by_state) {
      out_ << before << n << ' ' << state;
      before = ", ";
    }
    out_ << "; " << counted(summary.census.workers.size(), "worker") << ", "
         << counted(summary.carriers, "carrier") << '\n';
  }

  void print(const Look& look, const Wait& wait) override {
    const FiberView& fiber = look.fiber;
    out_ << (look.frames.empty() && !after_frames_ ? "" : "\n") << "fiber " << fiber.id << "  tid "
         << fiber.tid << "  \"" << name_of(fiber, command_) << "\"  " << standing(look, wait)
         << '\n';
    if (!look.no_frames_because.empty()) out_ << "    (" << look.no_frames_because << ")\n";
    int number = 0;
    for (const Frame& frame : look.frames) print_frame(number++, frame);
    after_frames_ = !look.frames.empty();
  }

  void end(uint32_t left_out) override {
    if (left_out > 0) out_ << "\n... and " << counted(left_out, "more fiber") << '\n';
    out_.flush();
  }

 private:
  std::string standing(const Look& look, const Wait& wait) const {
    const FiberView& fiber = look.fiber;
    std::string text = fiber.state;
    if (look.carrier)
      text += " on carrier " + std::to_string(look.carrier->id) + " (kernel thread " +
              std::to_string(look.carrier->kernel_tid) + ")";
    if (look.system_call) text += ", blocked in system call " + std::to_string(*look.system_call);
    if (look.fresh) text += ", not started yet: begins with " + symbols_.function_at(fiber.start);
    if (look.moving) text += ", moving";
    if (fiber.state == "finished") text += ", not joined yet";
    if (fiber.waits()) text += waiting(fiber, wait);
    return text;
  }

  static std::string waiting(const FiberView& fiber, const Wait& wait) {
    std::string text;
    if (fiber.state == "parked" && wait.milliseconds)
      text += " for " + std::to_string(*wait.milliseconds) + " ms";
    text += ": " + fiber.reason;
    if (fiber.fd >= 0)
      text += " on fd " + std::to_string(fiber.fd) +
              (wait.descriptor.empty() ? ", which is not open" : ", " + wait.descriptor);
    if (wait.joins)
      text += " of fiber " + std::to_string(*wait.joins);
    else if (fiber.object != 0)
      text += " at " + hexadecimal(fiber.object) + (wait.object.empty() ? "" : ", " + wait.object);
    if (wait.held_by_fiber)
      text += ", held by fiber " + std::to_string(*wait.held_by_fiber);
    else if (wait.held_by)
      text += ", held by thread " + std::to_string(*wait.held_by);
    return text;
  }

  void print_frame(int number, const Frame& frame) {
    out_ << "    #" << number << (number < 10 ? "  " : " ");
    if (frame.function.empty())
      out_ << hexadecimal(frame.pc);
    else
      out_ << frame.function;
    if (!frame.file.empty())
      out_ << "  at " << frame.file << ':' << frame.line;
    else if (!frame.module.empty())
      out_ << "  in " << frame.module;
    out_ << (frame.inlined ? "  [inlined]\n" : "\n");
  }

  std::ostream& out_;
  Symbols& symbols_;
  std::string command_;
  bool after_frames_ = true;  // or after the head
};

// --- JSON ----------------------------------------------------------------------------------------

using Json = nlohmann::ordered_json;

Json describe(const Frame& frame) {
  Json json{{"pc", frame.pc}, {"module", frame.module}};
  if (!frame.function.empty()) json["function"] = frame.function;
  if (!frame.function.empty() && !frame.inlined) json["offset"] = frame.offset;
  if (!frame.file.empty()) {
    json["file"] = frame.file;
    json["line"] = frame.line;
  }
  if (frame.inlined) json["inlined"] = true;
  return json;
}

Json describe(const FiberView& fiber, const Wait& wait) {
  Json json{{"reason", fiber.reason}};
  if (fiber.state == "parked" && wait.milliseconds) json["milliseconds"] = *wait.milliseconds;
  if (fiber.fd >= 0) {
    json["fd"] = fiber.fd;
    json["descriptor"] = wait.descriptor;
  }
  if (fiber.object != 0) json["object"] = fiber.object;
  if (!wait.object.empty()) json["object_name"] = wait.object;
  if (wait.joins) json["joins_fiber"] = *wait.joins;
  if (wait.held_by) json["held_by_tid"] = *wait.held_by;
  if (wait.held_by_fiber) json["held_by_fiber"] = *wait.held_by_fiber;
  return json;
}

Json describe(const WorkerView& worker) {
  Json json{{"index", worker.index}, {"ready", worker.ready}};
  if (worker.carrier) json["carrier"] = *worker.carrier;
  return json;
}

class JsonPrinter : public Printer {
 public:
  JsonPrinter(std::ostream& out, Symbols& symbols) : out_(out), symbols_(symbols) {}

  // One document, but one line per fiber.
  void begin(const Summary& summary) override {
    command_ = summary.command;
    Json workers = Json::array();
    for (const WorkerView& worker : summary.census.workers) workers.push_back(describe(worker));
    const Json head{{"pid", summary.pid},
                    {"command", command_},
                    {"fiber_count", summary.census.fibers},
                    {"states", summary.census.by_state},
                    {"workers", workers},
                    {"carriers", summary.carriers}};
    std::string text = text_of(head);
    text.pop_back();
    out_ << text << ",\n\"fibers\":[";
  }

  void print(const Look& look, const Wait& wait) override {
    const FiberView& fiber = look.fiber;
    Json json{{"id", fiber.id},
              {"tid", fiber.tid},
              {"name", name_of(fiber, command_)},
              {"state", fiber.state}};
    if (look.carrier) json["kernel_tid"] = look.carrier->kernel_tid;
    if (look.system_call) json["system_call"] = *look.system_call;
    if (fiber.waits()) json["wait"] = describe(fiber, wait);
    if (fiber.start != 0) json["start"] = symbols_.function_at(fiber.start);
    if (look.fresh) json["not_started"] = true;
    if (look.moving) json["moving"] = true;
    if (!look.no_frames_because.empty()) json["no_frames_because"] = look.no_frames_because;
    json["frames"] = Json::array();
    for (const Frame& frame : look.frames) json["frames"].push_back(describe(frame));
    out_ << (first_ ? "\n" : ",\n") << text_of(json);
    first_ = false;
  }

  void end(uint32_t left_out) override {
    out_ << "],\n\"left_out\":" << left_out << "}\n";
    out_.flush();
  }

 private:
  // Thread names and paths may be any bytes.
  static std::string text_of(const Json& json) {
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
  }

  std::ostream& out_;
  Symbols& symbols_;
  std::string command_;
  bool first_ = true;
};

}  // namespace

std::unique_ptr<Printer> make_text_printer(std::ostream& out, Symbols& symbols) {
  return std::make_unique<TextPrinter>(out, symbols);
}

std::unique_ptr<Printer> make_json_printer(std::ostream& out, Symbols& symbols) {
  return std::make_unique<JsonPrinter>(out, symbols);
}

}  // namespace weft::launcher
