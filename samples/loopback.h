// loopback.h - what both sample programs need from TCP on 127.0.0.1, with blocking calls only.
//
// Owns:        Socket, one descriptor that is closed exactly once.
// Keeps true:  SendAll sends every byte or reports failure; EINTR is never an error; no SIGPIPE.
// Called by:   any thread; a Socket is used by one thread at a time.
// See also:    echo_upper_server.cc, stress_client.cc.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <string_view>
#include <utility>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }

  static Socket Tcp() { return Socket(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)); }

  int fd() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

inline sockaddr_in LoopbackAddress(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// Returns false with errno set when the connection broke before the last byte was taken.
inline bool SendAll(const Socket& socket, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(socket.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

// Returns what recv returns: a positive count, 0 when the peer has ended its stream, -1 with errno
// set.
inline ssize_t Receive(const Socket& socket, char* buffer, std::size_t size) {
  ssize_t count;
  do {
    count = recv(socket.fd(), buffer, size, 0);
  } while (count < 0 && errno == EINTR);
  return count;
}

// Each connection costs a descriptor, and the usual soft limit is far below the hard one.
inline void RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0) return;
  }
  std::perror("cannot raise the limit of open descriptors");
}
