// stacks_process.cc - reads /proc/PID and the memory behind it.
//
// Owns:        the two ways to read memory.
// Keeps true:  process_vm_readv first, one call for many ranges; /proc/PID/mem where a sandbox has
//              no process_vm_readv.
// Called by:   stacks_process.h.
// See also:    stacks_process.h.

#include "tools/weft/stacks_process.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>

namespace weft::launcher {
namespace {

constexpr size_t kMostPieces = 8;

std::string hexadecimal(uint64_t number) {
  std::array<char, 20> text;
  snprintf(text.data(), text.size(), "%llx", static_cast<unsigned long long>(number));
  return text.data();
}

// "7f12-7f34 r-xp 00001000 08:01 1234   /usr/lib/libc.so.6"
Mapping parse_mapping(const std::string& line) {
  Mapping mapping{};
  unsigned long long low, high, offset;
  char rights[5] = {};
  int path = 0;
  if (sscanf(line.c_str(), "%llx-%llx %4s %llx %*s %*s %n", &low, &high, rights, &offset, &path) <
      4)
    return mapping;
  mapping.low = low;
  mapping.high = high;
  mapping.offset = offset;
  mapping.readable = rights[0] == 'r';
  mapping.executable = rights[2] == 'x';
  mapping.path = line.substr(static_cast<size_t>(path));
  return mapping;
}

std::vector<Mapping> read_mappings(pid_t pid) {
  std::ifstream file(proc_path(pid, "maps"));
  if (!file)
    throw Refusal("process " + std::to_string(pid) + " may not be looked at: " + strerror(errno));
  std::vector<Mapping> mappings;
  for (std::string line; std::getline(file, line);) mappings.push_back(parse_mapping(line));
  return mappings;
}

}  // namespace

std::string proc_path(pid_t pid, const std::string& rest) {
  return "/proc/" + std::to_string(pid) + "/" + rest;
}

Process::Process(pid_t pid) : pid_(pid) {
  if (access(proc_path(pid, "").c_str(), F_OK) != 0)
    throw Refusal("there is no process " + std::to_string(pid));
  mappings_ = read_mappings(pid);
  if (mappings_.empty())
    throw Refusal("process " + std::to_string(pid) +
                  " has no memory: it has ended, or belongs to the kernel");
  const auto any = std::find_if(mappings_.begin(), mappings_.end(), [](const Mapping& m) {
    return m.readable && m.path.starts_with("/");
  });
  char byte;
  if (any == mappings_.end() || read(any->low, byte)) return;
  memory_ = open(proc_path(pid, "mem").c_str(), O_RDONLY | O_CLOEXEC);
  if (!read(any->low, byte))
    throw Refusal("the memory of process " + std::to_string(pid) +
                  " may not be read: " + strerror(errno) +
                  "; be its user and let /proc/sys/kernel/yama/ptrace_scope be 0, or be root");
}

Process::~Process() {
  if (memory_ >= 0) close(memory_);
}

std::string Process::command() const {
  std::ifstream file(proc_path(pid_, "comm"));
  std::string name;
  std::getline(file, name);
  return name;
}

int Process::open_mapped(const Mapping& mapping) const {
  const std::string range = hexadecimal(mapping.low) + "-" + hexadecimal(mapping.high);
  const int fd = open(proc_path(pid_, "map_files/" + range).c_str(), O_RDONLY | O_CLOEXEC);
  if (fd >= 0 || !mapping.path.starts_with("/")) return fd;
  return open(proc_path(pid_, "root" + mapping.path).c_str(), O_RDONLY | O_CLOEXEC);
}

size_t Process::read(std::span<const Piece> pieces) const {
  if (memory_ >= 0) return read_file(pieces);
  std::array<iovec, kMostPieces> here, there;
  const size_t n = std::min(pieces.size(), kMostPieces);
  for (size_t i = 0; i < n; ++i) {
    here[i] = {pieces[i].into, pieces[i].size};
    there[i] = {reinterpret_cast<void*>(pieces[i].address), pieces[i].size};
  }
  const ssize_t got = process_vm_readv(pid_, here.data(), n, there.data(), n, 0);
  return got < 0 ? 0 : static_cast<size_t>(got);
}

size_t Process::read_file(std::span<const Piece> pieces) const {
  size_t total = 0;
  for (const Piece& piece : pieces) {
    const ssize_t got = pread(memory_, piece.into, piece.size, static_cast<off_t>(piece.address));
    if (got > 0) total += static_cast<size_t>(got);
    if (got != static_cast<ssize_t>(piece.size)) break;
  }
  return total;
}

bool Process::read(uint64_t address, void* into, size_t size) const {
  const Piece piece{address, into, size};
  return read(std::span(&piece, 1)) == size;
}

std::string Process::read_string(uint64_t address, size_t at_most) const {
  std::string text(at_most, '\0');
  const Piece piece{address, text.data(), at_most};
  text.resize(read(std::span(&piece, 1)));
  text.resize(strnlen(text.data(), text.size()));
  return text;
}

}  // namespace weft::launcher
