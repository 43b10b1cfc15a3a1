// stacks_modules.cc - see stacks_modules.h.
//
// Owns:        how libdwfl finds the file behind a mapping.
// Keeps true:  the callbacks know the process by the pid that libdwfl was given: libdwfl passes
//              nothing else.
// Called by:   stacks_modules.h.
// See also:    stacks_process.h (open_mapped).

#include "tools/weft/stacks_modules.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace weft::launcher {
namespace {

// The process that is looked at; libdwfl's find_elf has no argument of its own.
const Process* looked_at = nullptr;

int find_elf(Dwfl_Module* module, void** user_data, const char* name, Dwarf_Addr base,
             char** file_name, Elf** elf) {
  *elf = nullptr;
  *file_name = nullptr;
  const auto& mappings = looked_at->mappings();
  const auto mapping = std::find_if(mappings.begin(), mappings.end(),
                                    [base](const Mapping& m) { return m.low == base; });
  if (mapping == mappings.end() || !mapping->path.starts_with("/"))
    return dwfl_linux_proc_find_elf(module, user_data, name, base, file_name, elf);  // [vdso]
  const int fd = looked_at->open_mapped(*mapping);
  if (fd >= 0) *file_name = strdup(mapping->path.c_str());
  return fd;
}

char* debug_path = nullptr;  // libdwfl's default

constexpr Dwfl_Callbacks kCallbacks = {.find_elf = find_elf,
                                       .find_debuginfo = dwfl_standard_find_debuginfo,
                                       .section_address = nullptr,
                                       .debuginfo_path = &debug_path};

}  // namespace

Modules::Modules(const Process& process) : process_(process) {
  unsetenv("DEBUGINFOD_URLS");  // a look must be quick
  looked_at = &process;
  dwfl_ = dwfl_begin(&kCallbacks);
  if (dwfl_ == nullptr || dwfl_linux_proc_report(dwfl_, process.pid()) != 0 ||
      dwfl_report_end(dwfl_, nullptr, nullptr) != 0)
    throw Refusal("the mappings of process " + std::to_string(process.pid()) +
                  " cannot be read: " + dwfl_errmsg(-1));
}

Modules::~Modules() {
  dwfl_end(dwfl_);
  looked_at = nullptr;
}

}  // namespace weft::launcher
