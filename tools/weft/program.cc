// program.cc - finds the program, follows its #! lines, judges it, executes it.
//
// Owns:        the rules of execvp (PATH) and of the kernel (#!, AT_SECURE) that decide what will
//              run.
// Keeps true:  where a rule cannot be followed to its end (unreadable file, unusual env options),
//              the verdict is "weft can help": the dynamic linker ignores a preload that it cannot
//              use.
// Called by:   program.h.
// See also:    execve(2), exec(3), getauxval(3) AT_SECURE.

#include "tools/weft/program.h"

#include <array>
#include <cerrno>
#include <cstdlib>
#include <optional>
#include <sstream>
#include <string_view>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace weft::launcher {
namespace {

constexpr int kMostInterpreters = 5;      // the kernel's own limit
constexpr size_t kLongestHashBang = 256;  // likewise
constexpr const char* kShell = "/bin/sh";

std::string_view base_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

// 0, or why exec would refuse this file.
int executable(const std::string& path) {
  struct stat facts;
  if (stat(path.c_str(), &facts) != 0) return errno;
  if (!S_ISREG(facts.st_mode)) return EACCES;
  return faccessat(AT_FDCWD, path.c_str(), X_OK, AT_EACCESS) == 0 ? 0 : errno;
}

std::string default_path() {
  std::string path(confstr(_CS_PATH, nullptr, 0), '\0');
  confstr(_CS_PATH, path.data(), path.size());
  path.pop_back();
  return path;
}

struct Found {
  std::string path;
  int error;
};

// As execvp: a name with a slash is a path; a directory of PATH that may not be used is passed
// over, remembered.
Found search(const std::string& name) {
  if (name.empty()) return {"", ENOENT};
  if (name.find('/') != std::string::npos) {
    const int error = executable(name);
    return {error == 0 ? name : "", error};
  }
  const char* variable = std::getenv("PATH");
  const std::string path = variable != nullptr ? variable : default_path();
  int refused = ENOENT;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find(':', begin), path.size());
    const std::string directory = path.substr(begin, end - begin);
    const std::string candidate = directory.empty() ? name : directory + "/" + name;
    const int error = executable(candidate);
    if (error == 0) return {directory.empty() ? "./" + name : candidate, 0};
    if (error == EACCES) refused = EACCES;
    begin = end + 1;
  }
  return {"", refused};
}

std::string first_bytes(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return "";
  std::array<char, kLongestHashBang> bytes;
  const ssize_t length = read(fd, bytes.data(), bytes.size());
  close(fd);
  return length <= 0 ? "" : std::string(bytes.data(), static_cast<size_t>(length));
}

// The command that `env ARGUMENT` would run, as in "#!/usr/bin/env python3" or "#!/usr/bin/env -S
// python3 -u".
std::string command_of_env(const std::string& argument) {
  std::string text = argument;
  for (const std::string_view split : {"-S", "--split-string="})
    if (text.starts_with(split)) text = text.substr(split.size());
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    if (word == "-u" || word == "-C") {
      words >> word;
    } else if (!word.starts_with("-") && word.find('=') == std::string::npos) {
      return search(word).path;
    }
  }
  return "";
}

// The file behind the #! line of a script; nothing when `path` is not a script.
std::optional<std::string> interpreter_of(const std::string& path) {
  const std::string bytes = first_bytes(path);
  if (!bytes.starts_with("#!")) return std::nullopt;
  std::istringstream line(bytes.substr(2, bytes.find('\n') - 2));
  std::string interpreter;
  line >> interpreter;
  if (base_name(interpreter) == "env") {
    std::string argument;
    std::getline(line >> std::ws, argument);
    if (const std::string command = command_of_env(argument); !command.empty()) return command;
  }
  return interpreter;
}

std::string image_of(const std::string& path) {
  std::string image = path;
  for (int i = 0; i < kMostInterpreters; ++i) {
    const std::optional<std::string> interpreter = interpreter_of(image);
    if (!interpreter) return image;
    image = *interpreter;
  }
  return image;
}

// Whether exec would set AT_SECURE, under which the dynamic linker ignores LD_PRELOAD: the real and
// the effective identity come out different, or capabilities grow for somebody who is not root.
bool gains_privilege(const std::string& path) {
  struct stat file;
  struct statvfs mount;
  if (stat(path.c_str(), &file) != 0) return false;
  const bool bits_count = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1 &&
                          !(statvfs(path.c_str(), &mount) == 0 && (mount.f_flag & ST_NOSUID) != 0);
  uid_t user = geteuid();
  gid_t group = getegid();
  if (bits_count) {
    constexpr mode_t kSetGroup = S_ISGID | S_IXGRP;
    if ((file.st_mode & S_ISUID) != 0) user = file.st_uid;
    if ((file.st_mode & kSetGroup) == kSetGroup) group = file.st_gid;
  }
  if (user != getuid() || group != getgid()) return true;
  return bits_count && getuid() != 0 &&
         getxattr(path.c_str(), "security.capability", nullptr, 0) > 0;
}

std::string obstacle_of(const std::string& image, const ElfFacts& elf) {
  if (!elf.this_machine) return "is built for another architecture";
  const bool is_dynamic_linker = elf.soname.starts_with("ld-linux");
  if (elf.interpreter.empty() && !is_dynamic_linker) return "is statically linked";
  if (!is_dynamic_linker && !base_name(elf.interpreter).starts_with("ld-linux"))
    return "is not linked to glibc (its dynamic linker is " + elf.interpreter + ")";
  if (gains_privilege(image))
    return "gains privileges when it starts (setuid, setgid or file capabilities)";
  return "";
}

std::vector<char*> pointers(const std::vector<std::string>& words) {
  std::vector<char*> all;
  for (const std::string& word : words) all.push_back(const_cast<char*>(word.c_str()));
  all.push_back(nullptr);
  return all;
}

}  // namespace

Program find_program(const std::string& name) {
  Program program;
  program.name = name;
  const Found found = search(name);
  program.path = found.path;
  program.error = found.error;
  if (found.error != 0) return program;

  program.image = image_of(found.path);
  if (const std::optional<ElfFacts> elf = read_elf(program.image)) {
    program.elf = *elf;
    program.obstacle = obstacle_of(program.image, program.elf);
  }
  return program;
}

int execute(const Program& program, const std::vector<std::string>& arguments) {
  execv(program.path.c_str(), pointers(arguments).data());
  if (errno != ENOEXEC || read_elf(program.path)) return errno;
  // As execvp: a file of no known format is a shell script without its #! line.
  std::vector<std::string> shell = {kShell, program.path};
  shell.insert(shell.end(), arguments.begin() + 1, arguments.end());
  execv(kShell, pointers(shell).data());
  return errno;
}

}  // namespace weft::launcher
