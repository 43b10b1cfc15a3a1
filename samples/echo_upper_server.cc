// echo_upper_server.cc - a thread-per-connection TCP server that answers each line in upper case.
//
// Owns:        the listening socket; each connection is owned by the one thread that serves it.
// Keeps true:  replies come in the order of the lines, however packets split or join them; no
//              connection, and no shortage of descriptors or threads, ends the server.
// Used as:     echo_upper_server [--port P]; it ends by SIGTERM.  It is an ordinary threaded
//              program: nothing in it knows whether its threads are kernel threads or fibers.
// See also:    stress_client.cc, python/echo_upper_server.py (the same in Python), stress (runs
//              them all).

#include <chrono>
#include <cstring>
#include <exception>
#include <string>
#include <thread>

#include <poll.h>

#include "command_line.h"
#include "loopback.h"

namespace {

constexpr int kBacklog = 65535;              // the kernel lowers it to net.core.somaxconn
constexpr std::size_t kLongestLine = 65536;  // an endless line must not eat our memory
constexpr auto kShortageWait = std::chrono::milliseconds(10);

void Report(const char* what, const char* why) {
  std::fprintf(stderr, "echo_upper_server: %s: %s\n", what, why);
}

char UpperAscii(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

// Serves one connection until its peer ends the stream; a last line without newline counts too.
void Serve(Socket connection) {
  std::string pending;  // already in upper case, not yet a whole line
  char received[4096];
  while (const ssize_t count = Receive(connection, received, sizeof received)) {
    if (count < 0) return Report("connection lost", std::strerror(errno));
    for (ssize_t i = 0; i < count; ++i) pending.push_back(UpperAscii(received[i]));
    const std::size_t whole_lines = pending.rfind('\n') + 1;  // 0 when there is none
    if (!SendAll(connection, {pending.data(), whole_lines}))
      return Report("reply not sent", std::strerror(errno));
    pending.erase(0, whole_lines);
    if (pending.size() > kLongestLine) return Report("connection closed", "line too long");
  }
  if (!SendAll(connection, pending)) Report("reply not sent", std::strerror(errno));
}

// If no thread can be had, the connection is closed and the server goes on.
void ServeOnThread(Socket connection) {
  try {
    std::thread(Serve, std::move(connection)).detach();
  } catch (const std::exception& error) {
    Report("connection closed, no thread for it", error.what());
  }
}

bool IsDescriptorLimit(int error) { return error == EMFILE || error == ENFILE; }
bool IsShortage(int error) {
  return IsDescriptorLimit(error) || error == ENOBUFS || error == ENOMEM;
}
bool IsOurMistake(int error) {
  return error == EBADF || error == EINVAL || error == ENOTSOCK || error == EFAULT;
}

Socket Accept(const Socket& listener) { return Socket(accept(listener.fd(), nullptr, nullptr)); }

// At the limit of descriptors accept fails at once instead of waiting; so wait first, there may be
// room by then.
Socket AcceptAtLimit(const Socket& listener) {
  pollfd incoming{listener.fd(), POLLIN, 0};
  poll(&incoming, 1, -1);
  return Accept(listener);
}

// Closes one waiting connection, although there is no descriptor for it, by lending it the spare.
bool TurnAwayOne(const Socket& listener, Socket& spare) {
  spare = Socket();
  const bool turned_away = static_cast<bool>(Accept(listener));
  spare = Socket::Tcp();
  return turned_away;
}

// Returns only when the listening socket itself is unusable.
void AcceptForever(const Socket& listener) {
  Socket spare = Socket::Tcp();
  for (;;) {
    Socket connection = Accept(listener);
    if (!connection && IsDescriptorLimit(errno)) connection = AcceptAtLimit(listener);
    if (connection) {
      ServeOnThread(std::move(connection));
      continue;
    }
    const int error = errno;
    if (error == EINTR) continue;
    Report("connection not accepted", std::strerror(error));
    if (IsOurMistake(error)) return;
    if (IsDescriptorLimit(error) && TurnAwayOne(listener, spare)) continue;
    if (IsShortage(error)) std::this_thread::sleep_for(kShortageWait);
  }
}

Socket Listen(std::uint16_t port) {
  Socket listener = Socket::Tcp();
  const int on = 1;
  const sockaddr_in address = LoopbackAddress(port);
  if (!listener || setsockopt(listener.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      bind(listener.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener.fd(), kBacklog) != 0) {
    Report("cannot listen", std::strerror(errno));
    return Socket();
  }
  return listener;
}

int PortOf(const Socket& socket) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.sin_port);
}

}  // namespace

int main(int argc, char** argv) {
  CommandLine options(argc, argv,
                      "usage: echo_upper_server [--port P]   (0, the default: any free port)\n");
  const long port = options.TakeNumber("--port", 0, 0, 65535);
  options.RejectTheRest();

  RaiseDescriptorLimit();
  const Socket listener = Listen(static_cast<std::uint16_t>(port));
  if (!listener) return 1;
  std::printf("listening on 127.0.0.1:%d\n", PortOf(listener));
  std::fflush(stdout);
  AcceptForever(listener);
  return 1;
}
