// run.cc - finds the program and weft's libraries, sets the environment, executes.
//
// Owns:        where weft's libraries are, and every sentence that `weft run` says.
// Keeps true:  a program that weft cannot help runs natively, in an environment that weft has not
//              touched.
// Called by:   run.h.
// See also:    CMakeLists.txt (the shape bin/weft, lib/weft/*.so of build tree and installation).

#include "tools/weft/run.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <optional>
#include <system_error>

#include <unistd.h>

#include "tools/weft/elf.h"
#include "tools/weft/environment.h"
#include "tools/weft/program.h"

namespace weft::launcher {
namespace {

namespace fs = std::filesystem;

constexpr int kUsage = 2;
constexpr int kNotExecutable = 126;
constexpr int kNotFound = 127;

int fail(int status, const std::string& sentence) {
  std::cerr << "weft: " << sentence << '\n';
  return status;
}

fs::path library_directory() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).parent_path().parent_path() / "lib" / "weft";
}

std::vector<std::string> libraries() {
  std::vector<std::string> all = {library_directory() / "libweft.so"};
  const char* malloc_name = std::getenv("WEFT_MALLOC");
  if (malloc_name != nullptr && std::strcmp(malloc_name, "jemalloc") == 0)
    all.push_back(library_directory() / "libweft-jemalloc.so");
  return all;
}

// Why this library cannot be preloaded; nothing when it can.
std::optional<std::string> unusable(const std::string& library) {
  if (access(library.c_str(), R_OK) != 0)
    return library + ": " + std::strerror(errno) + "; weft is not completely built or installed";
  if (library.find_first_of(": ") != std::string::npos)
    return library +
           " cannot be preloaded, since LD_PRELOAD has no way to write a space or a colon; move "
           "weft";
  return std::nullopt;
}

void set_preload(const Program& program, const std::vector<std::string>& libraries) {
  std::vector<std::string> needed = program.elf.needed;
  for (const std::string& library : libraries)  // libweft.so itself may be built with a sanitizer
    if (const auto elf = read_elf(library))
      needed.insert(needed.end(), elf->needed.begin(), elf->needed.end());
  const char* already_there = std::getenv("LD_PRELOAD");
  const std::string list =
      preload_list(needed, libraries, already_there != nullptr ? already_there : "");
  setenv("LD_PRELOAD", list.c_str(), 1);
}

// What the user typed, and which file that came down to when it is another one.
std::string subject(const Program& program) {
  if (program.image == program.path) return program.name;
  return program.name + ": its interpreter " + program.image;
}

int execute_or_say_why(const Program& program, const std::vector<std::string>& command) {
  const int error = execute(program, command);
  if (error == ENOENT)
    return fail(kNotFound, program.name + ": its interpreter or dynamic linker was not found");
  return fail(kNotExecutable, program.name + ": " + std::strerror(error));
}

}  // namespace

int run_main(const RunOptions& options) {
  if (options.command.empty())
    throw UsageError("run: no program given; usage: weft run [OPTIONS] -- PROGRAM [ARGS...]");
  const auto settings = resolve_settings(options.settings);

  const Program program = find_program(options.command.front());
  if (program.error == EACCES)
    return fail(kNotExecutable, program.name + ": found, but not an executable file");
  if (program.error != 0) return fail(kNotFound, program.name + ": not found");

  if (!program.obstacle.empty()) {
    fail(0,
         subject(program) + " " + program.obstacle + ", so weft cannot help and it runs natively");
    return execute_or_say_why(program, options.command);
  }

  export_settings(settings);
  const std::vector<std::string> preloads = libraries();
  for (const std::string& library : preloads)
    if (const auto reason = unusable(library)) return fail(kUsage, *reason);
  set_preload(program, preloads);
  return execute_or_say_why(program, options.command);
}

}  // namespace weft::launcher
