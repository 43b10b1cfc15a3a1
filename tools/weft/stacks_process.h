// stacks_process.h - another process, looked at from outside.
//
// Owns:        Process: its mappings, its memory, the files that it has mapped; Refusal, the one
//              sentence that says why it cannot be looked at.
// Keeps true:  nothing here stops the process or changes anything in it.
// Called by:   every stacks_*.cc.
// See also:    proc(5), process_vm_readv(2).

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace weft::launcher {

// Why nothing can be shown, a whole sentence without its subject "weft:".
struct Refusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Mapping {
  uint64_t low, high, offset;
  bool readable, executable;
  std::string path;  // as the process sees it; empty: anonymous
};

// One range to be read, and where to.
struct Piece {
  uint64_t address;
  void* into;
  size_t size;
};

class Process {
 public:
  // Throws Refusal when there is no such process or it may not be looked at.
  explicit Process(pid_t pid);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  std::string command() const;  // the name that ps shows
  const std::vector<Mapping>& mappings() const { return mappings_; }

  // A descriptor of the mapped file, even if it has been deleted or lies in another mount
  // namespace; negative: no. To be closed by the caller.
  int open_mapped(const Mapping& mapping) const;

  // In the given order, up to the first byte that is not there. Returns how many bytes were read.
  size_t read(std::span<const Piece> pieces) const;
  bool read(uint64_t address, void* into, size_t size) const;
  template <class T>
  bool read(uint64_t address, T& into) const {
    return read(address, &into, sizeof into);
  }
  std::string read_string(uint64_t address, size_t at_most) const;

 private:
  size_t read_file(std::span<const Piece> pieces) const;

  pid_t pid_;
  int memory_ = -1;  // /proc/PID/mem, where process_vm_readv is switched off
  std::vector<Mapping> mappings_;
};

std::string proc_path(pid_t pid, const std::string& rest);

}  // namespace weft::launcher
