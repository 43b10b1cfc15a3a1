// stacks_symbols.cc - see stacks_symbols.h.
//
// Owns:        the way through symbol tables and debug information.
// Keeps true:  every step may fail; the answer is then less precise, never absent.
// Called by:   stacks_symbols.h.
// See also:    elfutils' libdw.h, libdwfl.h.

#include "tools/weft/stacks_symbols.h"

#include <cxxabi.h>
#include <dwarf.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <span>

namespace weft::launcher {
namespace {

struct Free {
  void operator()(void* memory) const { free(memory); }
};

std::string demangle(const char* symbol) {
  if (symbol == nullptr) return "";
  int status;
  const std::unique_ptr<char, Free> plain(abi::__cxa_demangle(symbol, nullptr, nullptr, &status));
  return plain ? plain.get() : symbol;
}

// --- debug information ---------------------------------------------------------------------------

// The compilation unit of an address in a module, and what to subtract from addresses to get the
// unit's. clang writes no address index, so then every unit is asked.
Dwarf_Die* unit_at(Dwfl_Module* module, uint64_t address, Dwarf_Addr& bias) {
  if (Dwarf_Die* unit = dwfl_module_addrdie(module, address, &bias); unit != nullptr) return unit;
  for (Dwarf_Die* unit = nullptr; (unit = dwfl_module_nextcu(module, unit, &bias)) != nullptr;)
    if (dwarf_haspc(unit, address - bias) > 0) return unit;
  return nullptr;
}

std::string name_of(Dwarf_Die* function) {
  Dwarf_Attribute memory;
  for (const unsigned attribute : {DW_AT_linkage_name, DW_AT_MIPS_linkage_name})
    if (Dwarf_Attribute* found = dwarf_attr_integrate(function, attribute, &memory);
        found != nullptr)
      return demangle(dwarf_formstring(found));
  const char* name = dwarf_diename(function);
  return name != nullptr ? name : "";
}

struct Place {
  std::string file;
  int line = 0;
};

Place place_of(Dwarf_Die* unit, uint64_t address) {
  Place place;
  Dwarf_Line* line = dwarf_getsrc_die(unit, address);
  if (line == nullptr) return place;
  const char* file = dwarf_linesrc(line, nullptr, nullptr);
  if (file == nullptr || dwarf_lineno(line, &place.line) != 0) return place;
  place.file = file;
  return place;
}

// Where an inlined function was called.
Place call_of(Dwarf_Die* unit, Dwarf_Die* inlined) {
  Place place;
  Dwarf_Attribute memory;
  Dwarf_Word line, file;
  Dwarf_Files* files;
  if (dwarf_formudata(dwarf_attr(inlined, DW_AT_call_line, &memory), &line) != 0 ||
      dwarf_formudata(dwarf_attr(inlined, DW_AT_call_file, &memory), &file) != 0 ||
      dwarf_getsrcfiles(unit, &files, nullptr) != 0)
    return place;
  const char* name = dwarf_filesrc(files, file, nullptr, nullptr);
  if (name == nullptr) return place;
  return {name, static_cast<int>(line)};
}

using Scopes = std::unique_ptr<Dwarf_Die, Free>;

// The scopes around an address as they are nested in the code, innermost first. (What
// dwarf_getscopes answers is nested as in the source from the first inlined function on.)
Scopes scopes_around(Dwarf_Die* unit, uint64_t address, size_t& count) {
  Dwarf_Die* in_source = nullptr;
  Dwarf_Die* in_code = nullptr;
  const int found = dwarf_getscopes(unit, address, &in_source);
  const Scopes memory(in_source);
  const int n = found > 0 ? dwarf_getscopes_die(in_source, &in_code) : 0;
  count = n > 0 ? static_cast<size_t>(n) : 0;
  return Scopes(in_code);
}

// The functions around an address, innermost first; the last one is not inlined.
std::vector<Frame> functions_around(Dwarf_Die* unit, uint64_t address) {
  std::vector<Frame> frames;
  Place place = place_of(unit, address);
  size_t count;
  const Scopes scopes = scopes_around(unit, address, count);
  for (Dwarf_Die& scope : std::span(scopes.get(), count)) {
    const int tag = dwarf_tag(&scope);
    if (tag != DW_TAG_inlined_subroutine && tag != DW_TAG_subprogram) continue;
    Frame frame;
    frame.function = name_of(&scope);
    frame.file = place.file;
    frame.line = place.line;
    frame.inlined = tag == DW_TAG_inlined_subroutine;
    frames.push_back(std::move(frame));
    if (tag == DW_TAG_subprogram) break;
    place = call_of(unit, &scope);
  }
  if (frames.empty()) {
    frames.emplace_back();
    frames.back().file = place.file;
    frames.back().line = place.line;
  }
  return frames;
}

std::vector<Frame> frames_from_debug_information(Dwfl_Module* module, uint64_t address) {
  Dwarf_Addr bias;
  Dwarf_Die* unit = unit_at(module, address, bias);
  return unit == nullptr ? std::vector<Frame>(1) : functions_around(unit, address - bias);
}

// --- symbol tables -------------------------------------------------------------------------------

struct Symbol {
  const char* name;
  uint64_t offset;
};

std::optional<Symbol> symbol_at(Dwfl_Module* module, uint64_t address) {
  GElf_Off offset;
  GElf_Sym symbol;
  const char* name =
      dwfl_module_addrinfo(module, address, &offset, &symbol, nullptr, nullptr, nullptr);
  if (name == nullptr) return std::nullopt;
  return Symbol{name, offset};
}

std::string path_of(Dwfl_Module* module) {
  const char* main_file = nullptr;
  const char* name =
      dwfl_module_info(module, nullptr, nullptr, nullptr, nullptr, nullptr, &main_file, nullptr);
  if (main_file != nullptr) return main_file;
  return name != nullptr ? name : "";
}

}  // namespace

std::string hexadecimal(uint64_t number) {
  char text[20];
  snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(number));
  return text;
}

const std::vector<Frame>& Symbols::frames_at(const CodeAddress& address) {
  const auto known = known_.find(address.executing());
  if (known != known_.end()) return known->second;
  return known_.emplace(address.executing(), look_up(address)).first->second;
}

std::vector<Frame> Symbols::look_up(const CodeAddress& address) const {
  Dwfl_Module* module = dwfl_addrmodule(modules_.dwfl(), address.executing());
  std::vector<Frame> frames(1);
  frames.front().pc = address.pc;
  if (module == nullptr) return frames;
  frames = frames_from_debug_information(module, address.executing());
  if (const auto symbol = symbol_at(module, address.executing())) {
    Frame& outermost = frames.back();
    if (outermost.function.empty()) outermost.function = demangle(symbol->name);
    outermost.offset = symbol->offset + (address.pc - address.executing());
  }
  for (Frame& frame : frames) {
    frame.pc = address.pc;
    frame.module = path_of(module);
  }
  return frames;
}

// To libdwfl a module ends with the last page of its file; what is zero at first lies behind that.
Dwfl_Module* Symbols::module_holding(uint64_t address) const {
  if (Dwfl_Module* module = dwfl_addrmodule(modules_.dwfl(), address); module != nullptr)
    return module;
  for (const Mapping& mapping : modules_.process().mappings())
    if (address >= mapping.low && address < mapping.high && mapping.path.empty())
      return dwfl_addrmodule(modules_.dwfl(), mapping.low - 1);
  return nullptr;
}

const std::string& Symbols::object_at(uint64_t address) {
  const auto known = known_objects_.find(address);
  if (known != known_objects_.end()) return known->second;
  return known_objects_.emplace(address, look_up_object(address)).first->second;
}

std::string Symbols::look_up_object(uint64_t address) const {
  Dwfl_Module* module = module_holding(address);
  const auto symbol = module == nullptr ? std::nullopt : symbol_at(module, address);
  if (!symbol) return "";
  return demangle(symbol->name) + (symbol->offset == 0 ? "" : "+" + hexadecimal(symbol->offset));
}

std::string Symbols::function_at(uint64_t address) {
  const std::string& name = object_at(address);
  return name.empty() ? hexadecimal(address) : name;
}

}  // namespace weft::launcher
