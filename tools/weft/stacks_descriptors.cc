// stacks_descriptors.cc - see stacks_descriptors.h.
//
// Owns:        the parsing of /proc/PID/net/{tcp,tcp6,udp,udp6,unix}.
// Keeps true:  a line that looks different from what is expected is skipped.
// Called by:   stacks_descriptors.h.
// See also:    proc(5).

#include "tools/weft/stacks_descriptors.h"

#include <arpa/inet.h>
#include <limits.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

namespace weft::launcher {
namespace {

constexpr char kListen[] = "0A";

// "0100007F:1F90": an address in words of the machine's order, and a port.
std::string internet_address(const std::string& text) {
  const size_t colon = text.find(':');
  if (colon != 8 && colon != 32) return text;
  std::array<uint32_t, 4> words{};
  for (size_t i = 0; i < colon / 8; ++i)
    words[i] = static_cast<uint32_t>(strtoul(text.substr(i * 8, 8).c_str(), nullptr, 16));
  std::array<char, INET6_ADDRSTRLEN> address{};
  inet_ntop(colon == 8 ? AF_INET : AF_INET6, words.data(), address.data(), address.size());
  const std::string port = std::to_string(strtoul(text.c_str() + colon + 1, nullptr, 16));
  return colon == 8 ? address.data() + (":" + port)
                    : "[" + std::string(address.data()) + "]:" + port;
}

bool nobody(const std::string& address) { return address.ends_with(":0000"); }

}  // namespace

std::string Descriptors::describe(int fd) {
  std::array<char, PATH_MAX> target{};
  const std::string link = proc_path(process_.pid(), "fd/" + std::to_string(fd));
  if (readlink(link.c_str(), target.data(), target.size() - 1) < 0) return "";
  std::string text = target.data();
  if (!text.starts_with("socket:[")) return text;
  read_sockets();
  const auto socket = sockets_.find(text.substr(8, text.size() - 9));
  return socket == sockets_.end() ? text : socket->second;
}

void Descriptors::read_sockets() {
  if (sockets_read_) return;
  sockets_read_ = true;
  for (const char* table : {"tcp", "tcp6", "udp", "udp6"}) read_internet_sockets(table);
  read_unix_sockets();
}

// "sl local_address rem_address st tx_queue:rx_queue tr:when retrnsmt uid timeout inode ..."
void Descriptors::read_internet_sockets(const std::string& table) {
  std::ifstream file(proc_path(process_.pid(), "net/" + table));
  std::string line;
  std::getline(file, line);
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string slot, local, remote, state, queues, timer, retransmits, user, timeout, inode;
    if (!(words >> slot >> local >> remote >> state >> queues >> timer >> retransmits >> user >>
          timeout >> inode))
      continue;
    std::string& text = sockets_[inode];
    text = table + " " + internet_address(local);
    if (state == kListen && table.starts_with("tcp")) text += " (listening)";
    if (!nobody(remote)) text += " -> " + internet_address(remote);
  }
}

// "Num RefCount Protocol Flags Type St Inode Path"
void Descriptors::read_unix_sockets() {
  std::ifstream file(proc_path(process_.pid(), "net/unix"));
  std::string line;
  std::getline(file, line);
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string number, references, protocol, flags, type, state, inode, path;
    if (!(words >> number >> references >> protocol >> flags >> type >> state >> inode)) continue;
    std::getline(words >> std::ws, path);
    sockets_[inode] = "unix socket" + (path.empty() ? " [" + inode + "]" : " " + path);
  }
}

}  // namespace weft::launcher
