// net.h - descriptors that close themselves, connected pairs, and reads and writes of an exact
// length.
#pragma once

#include <string>
#include <utility>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "check.h"
#include "threads.h"

class unique_fd {
 public:
  unique_fd() = default;
  explicit unique_fd(int fd) : fd_(fd) {}
  unique_fd(unique_fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  unique_fd& operator=(unique_fd&& other) noexcept {
    reset();
    fd_ = std::exchange(other.fd_, -1);
    return *this;
  }
  ~unique_fd() { reset(); }

  operator int() const { return fd_; }
  void reset() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }

 private:
  int fd_ = -1;
};

struct fd_pair {
  unique_fd a;
  unique_fd b;
};

struct pipe_ends {
  unique_fd read;
  unique_fd write;
};

inline pipe_ends make_pipe(int flags = 0) {
  int ends[2];
  MUST(pipe2(ends, flags));
  return {unique_fd(ends[0]), unique_fd(ends[1])};
}

inline fd_pair unix_pair(int type = SOCK_STREAM) {
  int ends[2];
  MUST(socketpair(AF_UNIX, type, 0, ends));
  return {unique_fd(ends[0]), unique_fd(ends[1])};
}

inline sockaddr_in loopback(in_port_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

template <class Address>
const sockaddr* as_sockaddr(const Address& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

template <class Address>
sockaddr* as_sockaddr(Address& address) {
  return reinterpret_cast<sockaddr*>(&address);
}

inline in_port_t port_of(int fd) {
  sockaddr_in address{};
  socklen_t length = sizeof address;
  MUST(getsockname(fd, as_sockaddr(address), &length));
  return ntohs(address.sin_port);
}

// A socket of this type on a loopback port that the kernel chose.
inline unique_fd bound_socket(int type) {
  unique_fd fd(MUST(socket(AF_INET, type, 0)));
  const sockaddr_in address = loopback(0);
  MUST(bind(fd, as_sockaddr(address), sizeof address));
  return fd;
}

inline unique_fd tcp_listener(int backlog = 512) {
  unique_fd fd = bound_socket(SOCK_STREAM);
  MUST(listen(fd, backlog));
  return fd;
}

inline unique_fd connect_to(in_port_t port) {
  unique_fd fd(MUST(socket(AF_INET, SOCK_STREAM, 0)));
  const sockaddr_in address = loopback(port);
  MUST(connect(fd, as_sockaddr(address), sizeof address));
  return fd;
}

inline fd_pair tcp_pair() {
  const unique_fd listener = tcp_listener();
  unique_fd a = connect_to(port_of(listener));
  unique_fd b(MUST(accept(listener, nullptr, nullptr)));
  return {std::move(a), std::move(b)};
}

inline void write_all(int fd, const void* data, size_t length) {
  for (const char* at = static_cast<const char*>(data); length > 0;) {
    const ssize_t n = MUST(write(fd, at, length));
    at += n;
    length -= static_cast<size_t>(n);
  }
}

inline void write_all(int fd, const std::string& data) { write_all(fd, data.data(), data.size()); }

// Reads until length bytes or the end have come, and returns what came.
inline std::string read_up_to(int fd, size_t length) {
  std::string data(length, '\0');
  size_t have = 0;
  while (have < length) {
    const ssize_t n = MUST(read(fd, data.data() + have, length - have));
    if (n == 0) break;
    have += static_cast<size_t>(n);
  }
  data.resize(have);
  return data;
}

inline std::string read_to_end(int fd) { return read_up_to(fd, size_t{1} << 22); }

inline bool is_nonblocking(int fd) { return (MUST(fcntl(fd, F_GETFL)) & O_NONBLOCK) != 0; }

// Looks again and again, for some 25 ms: O_NONBLOCK must not even come and go.
inline void check_stays_blocking(int fd) {
  for (int i = 0; i < 50; ++i) {
    for (int burst = 0; burst < 20; ++burst) CHECK(!is_nonblocking(fd));
    usleep(500);
  }
}

// A pattern that shows lost, doubled and exchanged bytes.
inline std::string pattern(size_t length, unsigned seed) {
  std::string data(length, '\0');
  for (char& c : data) c = static_cast<char>((seed = seed * 1103515245u + 12345u) >> 16);
  return data;
}

inline void set_timeout(int fd, int option, long ms) {
  const timeval limit = {ms / 1000, ms % 1000 * 1000};
  MUST(setsockopt(fd, SOL_SOCKET, option, &limit, sizeof limit));
}
