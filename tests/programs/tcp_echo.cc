// tcp_echo.cc - clauses 1 and 4: TCP in the blocking style: every byte arrives, partial transfers,
// timeouts, errors and ends are as natively, and no descriptor ever shows a flag that the program
// did not set.

#include <algorithm>
#include <array>
#include <atomic>

#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include "check.h"
#include "child.h"
#include "clock.h"
#include "net.h"
#include "threads.h"

namespace {

// A length and then as many bytes; the length 0 ends the talk.
bool echo_one_message(int fd) {
  uint32_t length;
  const ssize_t n = MUST(recv(fd, &length, sizeof length, MSG_WAITALL));
  if (n == 0) return false;
  CHECK_EQ(n, sizeof length);
  std::string body(length, '\0');
  CHECK_EQ(recv(fd, body.data(), length, MSG_WAITALL), length);
  CHECK_EQ(send(fd, body.data(), length, 0), length);
  return true;
}

CASE(two_hundred_conversations_get_every_byte_back) {
  constexpr int kClients = 200, kMessages = 20;
  const unique_fd listener = tcp_listener();
  const in_port_t port = port_of(listener);
  std::thread server([&] {
    std::vector<std::thread> connections;
    for (int i = 0; i < kClients; ++i) {
      connections.emplace_back([&, fd = unique_fd(MUST(accept(listener, nullptr, nullptr)))] {
        int messages = 0;
        while (echo_one_message(fd)) ++messages;
        CHECK_EQ(messages, kMessages);
      });
    }
    for (std::thread& one : connections) one.join();
  });
  crowd(kClients, [&](int id) {
    const unique_fd fd = connect_to(port);
    for (int i = 0; i < kMessages; ++i) {
      const unsigned seed = static_cast<unsigned>(id * kMessages + i);
      // From 1 byte to 70,000, more than fits anywhere on the way at once; small ones are more
      // frequent.
      const uint32_t length = i % 4 == 3 ? 70'000 - seed % 30'000 : 1 + seed * 97 % 3000;
      const std::string message = pattern(length, seed);
      iovec parts[] = {{const_cast<uint32_t*>(&length), sizeof length},
                       {const_cast<char*>(message.data()), message.size()}};
      CHECK_EQ(writev(fd, parts, 2), sizeof length + length);
      CHECK(read_up_to(fd, length) == message);
    }
  });
  server.join();
}

CASE(send_returns_when_everything_has_been_taken) {
  constexpr size_t kLength = 4 << 20;
  const std::string data = pattern(kLength, 1);
  for (const bool by_write : {false, true}) {
    fd_pair pair = tcp_pair();
    std::thread slow_reader([&] {
      std::string got;
      while (got.size() < kLength) {
        if (got.size() < (size_t{1} << 20)) usleep(300);
        got += read_up_to(pair.b, 32 << 10);
      }
      CHECK(got == data);
    });
    CHECK_EQ(by_write ? write(pair.a, data.data(), kLength) : send(pair.a, data.data(), kLength, 0),
             kLength);
    slow_reader.join();
  }
}

CASE(recv_gives_what_is_there_and_waitall_waits_for_all) {
  fd_pair pair = tcp_pair();
  char buffer[100];
  write_all(pair.a, "abc");
  CHECK_EQ(recv(pair.b, buffer, sizeof buffer, 0), 3);
  std::thread writer([&] {
    for (const char c : std::string("abcdefghij")) {
      write_all(pair.a, &c, 1);
      usleep(500);
    }
  });
  CHECK_EQ(recv(pair.b, buffer, 10, MSG_WAITALL), 10);
  CHECK_EQ(std::string(buffer, 10), "abcdefghij");
  writer.join();
  write_all(pair.a, "xyz");
  pair.a.reset();
  CHECK_EQ(recv(pair.b, buffer, 10, MSG_WAITALL), 3);  // all there will ever be
  CHECK_EQ(recv(pair.b, buffer, 10, MSG_WAITALL), 0);
}

// By way of poll: a recv that takes the first bytes and then waits for the rest of the mark is, on
// Linux, not woken when only the rest arrives.
CASE(readable_means_as_much_as_the_low_water_mark) {
  const fd_pair pair = tcp_pair();
  const int mark = 5;
  MUST(setsockopt(pair.b, SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof mark));
  pollfd readable = {pair.b, POLLIN, 0};
  write_all(pair.a, "abc");
  CHECK_EQ(poll(&readable, 1, 10), 0);
  std::thread writer([&] {
    let_it_block();
    write_all(pair.a, "de");
  });
  CHECK_EQ(poll(&readable, 1, -1), 1);
  char buffer[100];
  CHECK_EQ(recv(pair.b, buffer, sizeof buffer, 0), 5);
  writer.join();
}

CASE(shutdown_by_another_thread_wakes_a_blocked_recv_with_0) {
  const fd_pair pair = tcp_pair();
  std::thread reader([&] {
    char byte;
    CHECK_EQ(recv(pair.b, &byte, 1, 0), 0);
    CHECK_EQ(read(pair.b, &byte, 1), 0);
  });
  let_it_block();
  MUST(shutdown(pair.b, SHUT_RD));
  reader.join();
}

CASE(shutdown_by_another_thread_wakes_a_blocked_accept) {
  const unique_fd listener = tcp_listener();
  std::thread acceptor([&] { CHECK_ERRNO(accept(listener, nullptr, nullptr), EINVAL); });
  let_it_block();
  MUST(shutdown(listener, SHUT_RDWR));
  acceptor.join();
}

CASE(shutdown_by_another_thread_wakes_a_blocked_send_with_EPIPE) {
  const fd_pair pair = tcp_pair();
  std::thread writer([&] {
    const std::string data(1 << 20, 'x');
    ssize_t n;
    do n = send(pair.a, data.data(), data.size(), MSG_NOSIGNAL);
    while (n > 0);
    CHECK_EQ(n, -1);
    CHECK_EQ(errno, EPIPE);
  });
  let_it_block();
  MUST(shutdown(pair.a, SHUT_WR));
  writer.join();
}

CASE(the_end_of_the_peer_is_0_after_the_data) {
  fd_pair pair = tcp_pair();
  std::thread reader([&] {
    CHECK_EQ(read_to_end(pair.b), "last words");
    char byte;
    CHECK_EQ(recv(pair.b, &byte, 1, 0), 0);  // and again
  });
  let_it_block();
  write_all(pair.a, "last words");
  pair.a.reset();
  reader.join();
}

CASE(half_a_connection_may_be_closed) {
  const fd_pair pair = tcp_pair();
  std::thread answerer([&] {
    write_all(pair.b, "answer to " + read_to_end(pair.b));
    MUST(shutdown(pair.b, SHUT_WR));
  });
  write_all(pair.a, "question");
  MUST(shutdown(pair.a, SHUT_WR));
  CHECK_EQ(read_to_end(pair.a), "answer to question");
  answerer.join();
}

void reset_connection(unique_fd& fd) {
  const linger abrupt = {1, 0};
  MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &abrupt, sizeof abrupt));
  fd.reset();
}

CASE(a_reset_is_ECONNRESET_to_a_blocked_reader_and_EPIPE_to_a_later_writer) {
  fd_pair pair = tcp_pair();
  std::thread reader([&] {
    char byte;
    CHECK_ERRNO(recv(pair.b, &byte, 1, 0), ECONNRESET);  // told once
    CHECK_EQ(recv(pair.b, &byte, 1, 0), 0);
    CHECK_ERRNO(send(pair.b, &byte, 1, MSG_NOSIGNAL), EPIPE);
  });
  let_it_block();
  reset_connection(pair.a);
  reader.join();
}

CASE(a_reset_wakes_a_blocked_writer) {
  fd_pair pair = tcp_pair();
  std::thread writer([&] {
    const std::string data(1 << 20, 'x');
    ssize_t n;
    do n = send(pair.b, data.data(), data.size(), MSG_NOSIGNAL);
    while (n > 0);
    CHECK_EQ(n, -1);
    CHECK(errno == ECONNRESET || errno == EPIPE);
  });
  let_it_block();
  reset_connection(pair.a);
  writer.join();
}

// Writing to a peer that is gone: the first bytes may still be taken, then it is EPIPE.
template <class Write>
void check_ends_in_EPIPE(Write write_one) {
  fd_pair pair = tcp_pair();
  pair.a.reset();
  eventually([&] {
    if (write_one(pair.b) > 0) return false;
    CHECK(errno == EPIPE || errno == ECONNRESET);
    return errno == EPIPE;
  });
}

CASE(writing_to_nobody_is_EPIPE_with_MSG_NOSIGNAL_or_SIGPIPE_ignored) {
  check_ends_in_EPIPE([](int fd) { return send(fd, "x", 1, MSG_NOSIGNAL); });
  const sighandler_t before = signal(SIGPIPE, SIG_IGN);
  crowd(2, [](int) {
    check_ends_in_EPIPE([](int fd) { return send(fd, "x", 1, 0); });
    check_ends_in_EPIPE([](int fd) { return write(fd, "x", 1); });
  });
  signal(SIGPIPE, before);
}

CASE(writing_to_nobody_is_SIGPIPE_otherwise) {
  for (const bool in_a_thread : {false, true}) {
    const int status = in_child([=] {
      signal(SIGPIPE, SIG_DFL);
      const auto write_on = [] { check_ends_in_EPIPE([](int fd) { return send(fd, "x", 1, 0); }); };
      if (in_a_thread) {
        std::thread(write_on).join();
      } else {
        write_on();
      }
    });
    CHECK_KILLED_BY(status, SIGPIPE);
  }
}

CASE(peeking_takes_nothing) {
  const fd_pair pair = tcp_pair();
  std::thread writer([&] {
    let_it_block();
    write_all(pair.a, "abc");
  });
  char buffer[10];
  CHECK_EQ(recv(pair.b, buffer, 2, MSG_PEEK), 2);  // blocks until there is something
  writer.join();
  CHECK_EQ(recv(pair.b, buffer, sizeof buffer, MSG_PEEK), 3);
  CHECK_EQ(recv(pair.b, buffer, sizeof buffer, 0), 3);
  CHECK_EQ(std::string(buffer, 3), "abc");
  CHECK_ERRNO(recv(pair.b, buffer, 1, MSG_PEEK | MSG_DONTWAIT), EAGAIN);
}

CASE(dontwait_never_waits) {
  crowd(2, [](int) {
    const fd_pair pair = tcp_pair();
    char byte;
    CHECK_ERRNO(recv(pair.a, &byte, 1, MSG_DONTWAIT), EAGAIN);
    const std::string data(1 << 20, 'x');
    ssize_t n;
    while ((n = send(pair.a, data.data(), data.size(), MSG_DONTWAIT)) > 0) {
    }
    CHECK_EQ(n, -1);
    CHECK_EQ(errno, EAGAIN);
    CHECK(!is_nonblocking(pair.a));
  });
}

void check_nonblocking(int fd) {
  CHECK(is_nonblocking(fd));
  char byte;
  CHECK_ERRNO(recv(fd, &byte, 1, 0), EAGAIN);
  CHECK_ERRNO(read(fd, &byte, 1), EAGAIN);
  CHECK(is_nonblocking(fd));
}

void check_blocks_again(int fd, int peer) {
  CHECK(!is_nonblocking(fd));
  std::thread writer([&] {
    let_it_block();
    write_all(peer, "x");
  });
  char byte;
  CHECK_EQ(recv(fd, &byte, 1, 0), 1);
  writer.join();
}

CASE(a_descriptor_made_nonblocking_does_not_block_until_made_blocking_again) {
  const fd_pair pair = tcp_pair();
  crowd(1, [&](int) {
    const int flags = MUST(fcntl(pair.b, F_GETFL));
    MUST(fcntl(pair.b, F_SETFL, flags | O_NONBLOCK));
    check_nonblocking(pair.b);
    MUST(fcntl(pair.b, F_SETFL, flags));
    check_blocks_again(pair.b, pair.a);

    int on = 1, off = 0;
    MUST(ioctl(pair.b, FIONBIO, &on));
    check_nonblocking(pair.b);
    MUST(ioctl(pair.b, FIONBIO, &off));
    check_blocks_again(pair.b, pair.a);

    const unique_fd same(
        MUST(dup(pair.b)));  // the flag belongs to the open file, not to the number
    MUST(fcntl(same, F_SETFL, flags | O_NONBLOCK));
    check_nonblocking(pair.b);
    MUST(fcntl(pair.b, F_SETFL, flags));
    check_blocks_again(same, pair.a);
  });
}

CASE(sockets_can_be_made_nonblocking_from_the_start) {
  crowd(1, [](int) {
    const unique_fd listener = tcp_listener();
    MUST(fcntl(listener, F_SETFL, O_NONBLOCK));
    CHECK_ERRNO(accept(listener, nullptr, nullptr), EAGAIN);
    MUST(fcntl(listener, F_SETFL, 0));

    const unique_fd client(MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)));
    CHECK_EQ(MUST(fcntl(client, F_GETFD)), FD_CLOEXEC);
    const sockaddr_in address = loopback(port_of(listener));
    if (connect(client, as_sockaddr(address), sizeof address) != 0) {
      CHECK_EQ(errno, EINPROGRESS);
      pollfd writable = {client, POLLOUT, 0};
      CHECK_EQ(poll(&writable, 1, -1), 1);
      int error = -1;
      socklen_t length = sizeof error;
      MUST(getsockopt(client, SOL_SOCKET, SO_ERROR, &error, &length));
      CHECK_EQ(error, 0);
    }
    check_nonblocking(client);

    sockaddr_in from{};
    socklen_t length = sizeof from;
    const unique_fd server(
        MUST(accept4(listener, as_sockaddr(from), &length, SOCK_NONBLOCK | SOCK_CLOEXEC)));
    CHECK_EQ(length, sizeof from);
    CHECK_EQ(ntohs(from.sin_port), port_of(client));
    CHECK_EQ(MUST(fcntl(server, F_GETFD)), FD_CLOEXEC);
    check_nonblocking(server);

    const unique_fd other = connect_to(port_of(listener));
    const unique_fd plain(MUST(accept4(listener, nullptr, nullptr, 0)));
    CHECK_EQ(MUST(fcntl(plain, F_GETFD)), 0);
    check_blocks_again(plain, other);
    CHECK_ERRNO(accept4(listener, nullptr, nullptr, 0xffff), EINVAL);
  });
}

CASE(a_blocked_recv_leaves_no_flag_to_see) {
  const fd_pair pair = tcp_pair();
  CHECK(!is_nonblocking(pair.b));
  std::thread reader([&] {
    char byte;
    CHECK_EQ(recv(pair.b, &byte, 1, 0), 1);
    CHECK_EQ(read(pair.b, &byte, 1), 1);
  });
  check_stays_blocking(pair.b);
  write_all(pair.a, "x");
  check_stays_blocking(pair.b);
  write_all(pair.a, "y");
  reader.join();
  CHECK(!is_nonblocking(pair.b));
}

CASE(a_blocked_send_leaves_no_flag_to_see) {
  const fd_pair pair = tcp_pair();
  const size_t length = 8 << 20;
  std::thread writer([&] {
    const std::string data(length, 'x');
    CHECK_EQ(send(pair.a, data.data(), length, 0), length);
  });
  check_stays_blocking(pair.a);
  CHECK_EQ(read_up_to(pair.b, length).size(), length);
  writer.join();
  CHECK(!is_nonblocking(pair.a));
}

CASE(a_blocked_accept_leaves_no_flag_to_see) {
  const unique_fd listener = tcp_listener();
  unique_fd accepted;
  std::thread acceptor([&] { accepted = unique_fd(MUST(accept(listener, nullptr, nullptr))); });
  check_stays_blocking(listener);
  const unique_fd client = connect_to(port_of(listener));
  acceptor.join();
  CHECK(!is_nonblocking(listener));
  CHECK(!is_nonblocking(accepted));
  CHECK(!is_nonblocking(client));
}

// A listener that nobody accepts at, with a queue that is full: the next one to connect waits.
struct full_listener {
  full_listener() {
    while (poll_connect()) {
    }
  }
  bool poll_connect() {
    unique_fd one(MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)));
    const sockaddr_in address = loopback(port_of(fd));
    if (connect(one, as_sockaddr(address), sizeof address) != 0) CHECK_EQ(errno, EINPROGRESS);
    pollfd connected = {one, POLLOUT, 0};
    const bool done = poll(&connected, 1, 30) == 1;
    queued.push_back(std::move(one));
    return done;
  }
  unique_fd fd = tcp_listener(0);
  std::vector<unique_fd> queued;
};

CASE(a_blocked_connect_leaves_no_flag_to_see_and_keeps_its_timeout) {
  const full_listener listener;
  const unique_fd client(MUST(socket(AF_INET, SOCK_STREAM, 0)));
  set_timeout(client, SO_SNDTIMEO, 100);
  std::thread connector([&] {
    const sockaddr_in address = loopback(port_of(listener.fd));
    CHECK_ERRNO(connect(client, as_sockaddr(address), sizeof address), EINPROGRESS);
  });
  check_stays_blocking(client);
  connector.join();
  CHECK(!is_nonblocking(client));
}

CASE(the_socket_options_are_those_that_the_program_set) {
  const fd_pair pair = tcp_pair();
  std::thread reader([&] { CHECK_EQ(read_up_to(pair.b, 1), "x"); });
  let_it_block();
  for (const int fd : {static_cast<int>(pair.a), static_cast<int>(pair.b)}) {
    int value = -1;
    socklen_t length = sizeof value;
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, &length));
    CHECK_EQ(value, 0);
    timeval limit = {-1, -1};
    length = sizeof limit;
    MUST(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, &length));
    CHECK_EQ(limit.tv_sec + limit.tv_usec, 0);
  }
  write_all(pair.a, "x");
  reader.join();
}

CASE(receive_timeouts_end_in_EAGAIN) {
  const fd_pair pair = tcp_pair();
  const unique_fd listener = tcp_listener();
  set_timeout(pair.b, SO_RCVTIMEO, 60);
  set_timeout(listener, SO_RCVTIMEO, 60);
  crowd(3, [&](int id) {
    const stopwatch watch;
    char byte[4];
    switch (id) {
      case 0:
        CHECK_ERRNO(recv(pair.b, byte, 1, 0), EAGAIN);
        break;
      case 1:
        CHECK_ERRNO(read(pair.b, byte, 1), EAGAIN);
        break;
      default:
        CHECK_ERRNO(accept(listener, nullptr, nullptr), EAGAIN);
        break;
    }
    CHECK(watch.ms() >= 60 - 12);  // such timeouts count in ticks of the kernel
  });
  char buffer[4];
  write_all(pair.a, "ab");
  CHECK_EQ(recv(pair.b, buffer, 4, MSG_WAITALL), 2);  // what came in time
  set_timeout(pair.b, SO_RCVTIMEO, 0);
  check_blocks_again(pair.b, pair.a);
}

CASE(send_timeouts_end_in_a_part_and_then_EAGAIN) {
  const fd_pair pair = tcp_pair();
  set_timeout(pair.a, SO_SNDTIMEO, 60);
  crowd(1, [&](int) {
    const std::string data(32 << 20, 'x');
    const stopwatch watch;
    ssize_t part = send(pair.a, data.data(), data.size(), 0);
    CHECK(part > 0 && part < static_cast<ssize_t>(data.size()));
    CHECK(watch.ms() >= 60 - 12);
    do
      part = send(pair.a, data.data(), data.size(),
                  0);  // the kernel may find some more room meanwhile
    while (part > 0);
    CHECK_EQ(part, -1);
    CHECK_EQ(errno, EAGAIN);
    CHECK(watch.ms() >= 2 * (60 - 12));
  });
}

CASE(connecting_to_a_closed_port_is_ECONNREFUSED) {
  const unique_fd nobody_listens = bound_socket(SOCK_STREAM);  // nor can anybody else take the port
  const sockaddr_in address = loopback(port_of(nobody_listens));
  crowd(20, [&](int) {
    const unique_fd fd(MUST(socket(AF_INET, SOCK_STREAM, 0)));
    CHECK_ERRNO(connect(fd, as_sockaddr(address), sizeof address), ECONNREFUSED);
    CHECK(!is_nonblocking(fd));
    char byte;
    CHECK_ERRNO(recv(fd, &byte, 1, 0), ENOTCONN);
  });
}

CASE(connecting_twice_is_EISCONN_and_wrong_descriptors_are_refused) {
  const unique_fd listener = tcp_listener();
  const unique_fd client = connect_to(port_of(listener));
  const sockaddr_in address = loopback(port_of(listener));
  char byte;
  crowd(1, [&](int) {
    CHECK_ERRNO(connect(client, as_sockaddr(address), sizeof address), EISCONN);
    CHECK_ERRNO(recv(-1, &byte, 1, 0), EBADF);
    CHECK_ERRNO(accept(-1, nullptr, nullptr), EBADF);
    CHECK_ERRNO(accept(client, nullptr, nullptr), EINVAL);
    const unique_fd file(MUST(open("/dev/null", O_RDWR)));
    CHECK_ERRNO(recv(file, &byte, 1, 0), ENOTSOCK);
    CHECK_ERRNO(send(file, &byte, 1, 0), ENOTSOCK);
    CHECK_ERRNO(connect(file, as_sockaddr(address), sizeof address), ENOTSOCK);
    CHECK_ERRNO(recv(listener, &byte, 1, 0), ENOTCONN);
  });
}

CASE(the_vectored_and_message_calls_move_the_same_bytes) {
  const fd_pair pair = tcp_pair();
  const std::string data = pattern(200'000, 5);
  const auto parts_of = [](std::string& from) {
    return std::array{iovec{from.data(), 1}, iovec{from.data() + 1, 99'999}, iovec{nullptr, 0},
                      iovec{from.data() + 100'000, 100'000}};
  };
  std::thread writer([&] {
    std::string out = data;
    auto parts = parts_of(out);
    CHECK_EQ(writev(pair.a, parts.data(), parts.size()), data.size());
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = parts.size();
    CHECK_EQ(sendmsg(pair.a, &message, 0), data.size());
    std::array<mmsghdr, 2> messages{};
    for (mmsghdr& one : messages) one.msg_hdr = message;
    CHECK_EQ(sendmmsg(pair.a, messages.data(), messages.size(), 0), 2);
    for (const mmsghdr& one : messages) CHECK_EQ(one.msg_len, data.size());
  });
  std::string in(data.size(), '\0');
  auto parts = parts_of(in);
  ssize_t n = MUST(readv(pair.b, parts.data(), parts.size()));
  CHECK(n > 0 && in.compare(0, static_cast<size_t>(n), data, 0, static_cast<size_t>(n)) == 0);
  CHECK(read_up_to(pair.b, data.size() - static_cast<size_t>(n)) ==
        data.substr(static_cast<size_t>(n)));

  in.assign(data.size(), '\0');
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  CHECK_EQ(recvmsg(pair.b, &message, MSG_WAITALL), data.size());
  CHECK(in == data);

  std::string second(data.size(), '\0');
  auto second_parts = parts_of(second);
  in.assign(data.size(), '\0');
  std::array<mmsghdr, 2> messages{};
  messages[0].msg_hdr = messages[1].msg_hdr = message;
  messages[1].msg_hdr.msg_iov = second_parts.data();
  CHECK_EQ(recvmmsg(pair.b, messages.data(), 2, MSG_WAITALL, nullptr), 2);
  CHECK(in == data && second == data);
  writer.join();
}

// Known array sizes and unknown lengths make _FORTIFY_SOURCE call the checking twins of these
// functions.
CASE(the_fortified_calls_block_as_the_plain_ones) {
  const fd_pair pair = tcp_pair();
  volatile size_t unknown = 3;
  std::thread writer([&] {
    for (int i = 0; i < 4; ++i) {
      usleep(2000);
      write_all(pair.a, "abc");
    }
  });
  char buffer[16];
  CHECK_EQ(recv(pair.b, buffer, unknown, MSG_WAITALL), 3);
  CHECK_EQ(recvfrom(pair.b, buffer, unknown, MSG_WAITALL, nullptr, nullptr), 3);
  pollfd ready[2] = {{pair.b, POLLIN, 0}, {pair.a, POLLIN, 0}};
  CHECK_EQ(poll(ready, unknown - 1, -1), 1);
  CHECK_EQ(read(pair.b, buffer, unknown), 3);
  const timespec limit = {60, 0};
  CHECK_EQ(ppoll(ready, unknown - 1, &limit, nullptr), 1);
  CHECK_EQ(read(pair.b, buffer, unknown), 3);
  writer.join();
}

CASE(each_connection_is_accepted_by_one_of_many_acceptors) {
  constexpr int kAcceptors = 16, kConnections = 160;
  const unique_fd listener = tcp_listener();
  std::atomic<int> accepted = 0, ended = 0;
  std::thread acceptors([&] {
    crowd(kAcceptors, [&](int) {
      for (;;) {
        const unique_fd fd(accept(listener, nullptr, nullptr));
        if (fd < 0) break;
        ++accepted;
        write_all(fd, "hello");
      }
      CHECK_EQ(errno, EINVAL);
      ++ended;
    });
  });
  crowd(kConnections, [&](int) { CHECK_EQ(read_to_end(connect_to(port_of(listener))), "hello"); });
  MUST(shutdown(listener, SHUT_RDWR));
  acceptors.join();
  CHECK_EQ(accepted, kConnections);
  CHECK_EQ(ended, kAcceptors);
}

CASE(one_thread_reads_while_another_writes_the_same_socket) {
  const fd_pair pair = tcp_pair();
  const std::string data = pattern(2 << 20, 9);
  crowd(4, [&](int id) {
    const int fd = id % 2 == 0 ? pair.a : pair.b;
    if (id < 2) {
      write_all(fd, data);
    } else {
      CHECK(read_up_to(fd, data.size()) == data);
    }
  });
}

CASE(many_threads_reading_one_socket_get_each_byte_once) {
  constexpr int kReaders = 8, kBytes = 4000;
  fd_pair pair = tcp_pair();
  std::array<std::atomic<int>, 256> seen{};
  std::thread readers([&] {
    crowd(kReaders, [&](int) {
      unsigned char byte;
      while (MUST(recv(pair.b, &byte, 1, 0)) == 1) ++seen[byte];
    });
  });
  for (int i = 0; i < kBytes; ++i) {
    const auto byte = static_cast<unsigned char>(i);
    write_all(pair.a, &byte, 1);
    if (i % 64 == 0) usleep(50);
  }
  pair.a.reset();
  readers.join();
  for (int value = 0; value < 256; ++value)
    CHECK_EQ(seen[value], kBytes / 256 + (value < kBytes % 256));
}

CASE(closing_the_number_under_a_blocked_recv_leaves_it_its_socket) {
  fd_pair pair = tcp_pair();
  const int number = pair.b;
  std::thread reader([&] {
    char byte;
    const ssize_t n = recv(number, &byte, 1, 0);
    // Natively the call keeps the open socket until it returns. One that comes too late is refused.
    CHECK(n == 1 || (n == -1 && errno == EBADF));
  });
  let_it_block();
  pair.b.reset();
  CHECK_EQ(send(pair.a, "x", 1, MSG_NOSIGNAL), 1);
  pair.a.reset();
  reader.join();
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
