// stacks_descriptors.h - what a descriptor of a process is, in words.
//
// Owns:        Descriptors: the sockets of the process's network namespace, read once.
// Keeps true:  a descriptor that is gone, or a socket that no table lists, is said as far as it is
//              known.
// Called by:   stacks_wait.cc.
// See also:    proc(5) (/proc/PID/fd, /proc/PID/net).

#pragma once

#include <string>
#include <unordered_map>

#include "tools/weft/stacks_process.h"

namespace weft::launcher {

class Descriptors {
 public:
  explicit Descriptors(const Process& process) : process_(process) {}

  // "tcp 127.0.0.1:80 -> 127.0.0.1:4711", "pipe:[123]", "/etc/motd"; empty: it is not open.
  std::string describe(int fd);

 private:
  void read_sockets();
  void read_internet_sockets(const std::string& table);
  void read_unix_sockets();

  const Process& process_;
  bool sockets_read_ = false;
  std::unordered_map<std::string, std::string> sockets_;  // by inode
};

}  // namespace weft::launcher
