// udp_unix.cc - clauses 1 and 4: datagrams, UNIX sockets of all types, and descriptors that are
// passed on or inherited: their new owners use them as natively, and find no flag that nobody set.

#include <array>
#include <atomic>
#include <fstream>

#include <poll.h>
#include <sys/uio.h>

#include "check.h"
#include "child.h"
#include "clock.h"
#include "net.h"
#include "threads.h"

namespace {

CASE(a_datagram_arrives_whole_with_the_address_of_its_sender) {
  const unique_fd receiver = bound_socket(SOCK_DGRAM);
  const sockaddr_in to = loopback(port_of(receiver));
  constexpr int kSenders = 20;
  std::thread senders([&] {
    let_it_block();
    crowd(kSenders, [&](int id) {
      const unique_fd fd = bound_socket(SOCK_DGRAM);
      const std::string data(static_cast<size_t>(id) * 100, static_cast<char>('a' + id));
      CHECK_EQ(sendto(fd, data.data(), data.size(), 0, as_sockaddr(to), sizeof to), data.size());
      char answer[16];
      sockaddr_in from{};
      socklen_t length = sizeof from;
      CHECK_EQ(recvfrom(fd, answer, sizeof answer, 0, as_sockaddr(from), &length), 2);
      CHECK_EQ(length, sizeof from);
      CHECK_EQ(from.sin_port, to.sin_port);
    });
  });
  int empty_ones = 0;
  for (int i = 0; i < kSenders; ++i) {
    char data[4096];
    sockaddr_in from{};
    socklen_t length = sizeof from;
    const ssize_t n = MUST(recvfrom(receiver, data, sizeof data, 0, as_sockaddr(from), &length));
    CHECK_EQ(n % 100, 0);
    for (ssize_t at = 0; at < n; ++at) CHECK_EQ(data[at], 'a' + n / 100);
    empty_ones += n == 0;  // a datagram of length zero is a datagram, not an end
    CHECK_EQ(sendto(receiver, "ok", 2, 0, as_sockaddr(from), length), 2);
  }
  CHECK_EQ(empty_ones, 1);
  senders.join();
}

CASE(an_empty_datagram_wakes_its_receiver_and_the_next_one_blocks_again) {
  const unique_fd receiver = bound_socket(SOCK_DGRAM);
  const unique_fd sender(MUST(socket(AF_INET, SOCK_DGRAM, 0)));
  const sockaddr_in to = loopback(port_of(receiver));
  MUST(connect(sender, as_sockaddr(to), sizeof to));
  event first_seen;
  std::thread reader([&] {
    char data[10];
    CHECK_EQ(recv(receiver, data, sizeof data, 0), 0);
    first_seen.set();
    CHECK_EQ(recv(receiver, data, sizeof data, 0), 1);
    CHECK_EQ(read(receiver, data, sizeof data), 0);
  });
  let_it_block();
  CHECK_EQ(send(sender, nullptr, 0, 0), 0);
  first_seen.wait();
  let_it_block();
  CHECK_EQ(write(sender, "x", 1), 1);
  let_it_block();
  CHECK_EQ(send(sender, "", 0, 0), 0);
  reader.join();
}

CASE(a_datagram_too_long_for_its_buffer_is_cut) {
  const unique_fd receiver = bound_socket(SOCK_DGRAM);
  const sockaddr_in to = loopback(port_of(receiver));
  std::thread sender([&] {
    const unique_fd fd(MUST(socket(AF_INET, SOCK_DGRAM, 0)));
    for (int i = 0; i < 3; ++i) {
      usleep(2000);
      CHECK_EQ(sendto(fd, "0123456789", 10, 0, as_sockaddr(to), sizeof to), 10);
    }
  });
  char data[4];
  CHECK_EQ(recv(receiver, data, 4, 0), 4);
  CHECK_EQ(recv(receiver, data, 4, MSG_TRUNC), 10);
  iovec part = {data, 4};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  CHECK_EQ(recvmsg(receiver, &message, 0), 4);
  CHECK_EQ(message.msg_flags & MSG_TRUNC, MSG_TRUNC);
  sender.join();
}

CASE(a_datagram_to_a_closed_port_is_ECONNREFUSED_for_a_connected_sender) {
  const unique_fd fd(MUST(socket(AF_INET, SOCK_DGRAM, 0)));
  sockaddr_in to;
  {
    const unique_fd gone = bound_socket(SOCK_DGRAM);
    to = loopback(port_of(gone));
    MUST(connect(fd, as_sockaddr(to), sizeof to));
  }
  std::thread reader([&] {
    char byte;
    CHECK_ERRNO(recv(fd, &byte, 1, 0), ECONNREFUSED);
  });
  let_it_block();
  CHECK_EQ(send(fd, "x", 1, 0), 1);
  reader.join();
}

CASE(many_messages_in_one_call) {
  constexpr unsigned kMessages = 10;
  const unique_fd receiver = bound_socket(SOCK_DGRAM);
  const sockaddr_in to = loopback(port_of(receiver));
  const unique_fd sender(MUST(socket(AF_INET, SOCK_DGRAM, 0)));
  MUST(connect(sender, as_sockaddr(to), sizeof to));
  std::array<char, kMessages> bytes;
  std::array<iovec, kMessages> parts;
  std::array<mmsghdr, kMessages> messages{};
  for (unsigned i = 0; i < kMessages; ++i) {
    bytes[i] = static_cast<char>('0' + i);
    parts[i] = {&bytes[i], 1};
    messages[i].msg_hdr.msg_iov = &parts[i];
    messages[i].msg_hdr.msg_iovlen = 1;
  }
  std::thread late([&] {
    let_it_block();
    CHECK_EQ(send(sender, "a", 1, 0), 1);
  });
  // Blocks for the first and then takes what is there.
  CHECK_EQ(recvmmsg(receiver, messages.data(), kMessages, MSG_WAITFORONE, nullptr), 1);
  CHECK_EQ(bytes[0], 'a');
  late.join();

  bytes[0] = '0';
  CHECK_EQ(sendmmsg(sender, messages.data(), kMessages, 0), kMessages);
  bytes.fill('?');
  CHECK_EQ(recvmmsg(receiver, messages.data(), kMessages, MSG_WAITFORONE, nullptr), kMessages);
  for (unsigned i = 0; i < kMessages; ++i) CHECK_EQ(bytes[i], '0' + i);

  CHECK_ERRNO(recvmmsg(receiver, messages.data(), kMessages, MSG_DONTWAIT, nullptr), EAGAIN);
  std::thread filler([&] {
    for (unsigned i = 0; i < kMessages; ++i) {
      usleep(300);
      CHECK_EQ(send(sender, "b", 1, 0), 1);
    }
  });
  CHECK_EQ(recvmmsg(receiver, messages.data(), kMessages, 0, nullptr), kMessages);  // waits for all
  filler.join();
}

sockaddr_un unix_address(const char* name, socklen_t& length) {  // in the abstract name space
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string full = std::string("weft-test-") + name + "-" + std::to_string(getpid());
  memcpy(address.sun_path + 1, full.data(), full.size());
  length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + full.size());
  return address;
}

CASE(unix_streams_echo_for_many_clients) {
  constexpr int kClients = 50;
  socklen_t length;
  const sockaddr_un address = unix_address("echo", length);
  const unique_fd listener(MUST(socket(AF_UNIX, SOCK_STREAM, 0)));
  MUST(bind(listener, as_sockaddr(address), length));
  MUST(listen(listener, 5));  // less than the clients: some of them block in connect
  std::thread server([&] {
    let_it_block();
    std::vector<std::thread> connections;
    for (int i = 0; i < kClients; ++i) {
      connections.emplace_back([fd = unique_fd(MUST(accept(listener, nullptr, nullptr)))] {
        write_all(fd, read_to_end(fd));
      });
    }
    for (std::thread& one : connections) one.join();
  });
  crowd(kClients, [&](int id) {
    const unique_fd fd(MUST(socket(AF_UNIX, SOCK_STREAM, 0)));
    MUST(connect(fd, as_sockaddr(address), length));
    const std::string data = pattern(100'000, static_cast<unsigned>(id));
    std::thread sender([&] {
      write_all(fd, data);
      MUST(shutdown(fd, SHUT_WR));
    });
    CHECK(read_to_end(fd) == data);
    sender.join();
  });
  server.join();
}

CASE(a_blocked_unix_connect_leaves_no_flag_to_see) {
  socklen_t length;
  const sockaddr_un address = unix_address("full", length);
  const unique_fd listener(MUST(socket(AF_UNIX, SOCK_STREAM, 0)));
  MUST(bind(listener, as_sockaddr(address), length));
  MUST(listen(listener, 0));
  const unique_fd first(MUST(socket(AF_UNIX, SOCK_STREAM, 0)));
  MUST(connect(first, as_sockaddr(address), length));  // the queue is full now
  const unique_fd second(MUST(socket(AF_UNIX, SOCK_STREAM, 0)));
  std::thread connector([&] { MUST(connect(second, as_sockaddr(address), length)); });
  check_stays_blocking(second);
  const unique_fd one(MUST(accept(listener, nullptr, nullptr)));
  const unique_fd other(MUST(accept(listener, nullptr, nullptr)));
  connector.join();
  CHECK(!is_nonblocking(second));
  const unique_fd third(MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0)));
  const unique_fd fourth(MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0)));
  MUST(connect(third, as_sockaddr(address), length));
  CHECK_ERRNO(connect(fourth, as_sockaddr(address), length), EAGAIN);
}

CASE(connecting_to_no_unix_socket_is_refused) {
  socklen_t length;
  const sockaddr_un nobody = unix_address("nobody", length);
  crowd(1, [&](int) {
    const unique_fd fd(MUST(socket(AF_UNIX, SOCK_STREAM, 0)));
    CHECK_ERRNO(connect(fd, as_sockaddr(nobody), length), ECONNREFUSED);
    sockaddr_un no_file{};
    no_file.sun_family = AF_UNIX;
    strcpy(no_file.sun_path, "/there/is/no/such/socket");
    CHECK_ERRNO(connect(fd, as_sockaddr(no_file), sizeof no_file), ENOENT);
  });
}

CASE(sequenced_packets_keep_their_bounds_and_end_with_0) {
  fd_pair pair = unix_pair(SOCK_SEQPACKET);
  std::thread reader([&] {
    char data[10];
    CHECK_EQ(recv(pair.b, data, sizeof data, 0), 3);
    CHECK_EQ(recv(pair.b, data, 1, 0), 1);  // the rest of a packet is lost
    CHECK_EQ(recv(pair.b, data, sizeof data, MSG_WAITALL), 2);
    CHECK_EQ(recv(pair.b, data, sizeof data, 0), 0);
  });
  let_it_block();
  CHECK_EQ(send(pair.a, "abc", 3, 0), 3);
  CHECK_EQ(send(pair.a, "def", 3, 0), 3);
  let_it_block();
  CHECK_EQ(send(pair.a, "gh", 2, 0), 2);
  pair.a.reset();
  reader.join();
}

CASE(a_unix_datagram_sender_blocks_while_the_queue_is_full) {
  constexpr int kDatagrams = 2000;
  const fd_pair pair = unix_pair(SOCK_DGRAM);
  std::thread sender([&] {
    for (int i = 0; i < kDatagrams; ++i) CHECK_EQ(send(pair.a, &i, sizeof i, 0), sizeof i);
  });
  check_stays_blocking(pair.a);
  for (int i = 0; i < kDatagrams; ++i) {
    int seen;
    CHECK_EQ(recv(pair.b, &seen, sizeof seen, 0), sizeof seen);
    CHECK_EQ(seen, i);
  }
  sender.join();
  int one_more;
  CHECK_ERRNO(recv(pair.b, &one_more, sizeof one_more, MSG_DONTWAIT), EAGAIN);
}

CASE(the_end_of_a_unix_peer_is_seen) {
  fd_pair pair = unix_pair();
  std::thread reader([&] {
    char byte;
    CHECK_EQ(recv(pair.b, &byte, 1, 0), 0);
    CHECK_ERRNO(send(pair.b, "x", 1, MSG_NOSIGNAL), EPIPE);
  });
  let_it_block();
  pair.a.reset();
  reader.join();

  pair = unix_pair();
  write_all(pair.b, "never read");
  std::thread other([&] {
    char byte;
    CHECK_ERRNO(recv(pair.b, &byte, 1, 0), ECONNRESET);  // its peer closed with our data unread
  });
  let_it_block();
  pair.a.reset();
  other.join();
}

void send_fd(int over, int fd) {
  char byte = 'f';
  iovec part = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(header), &fd, sizeof fd);
  CHECK_EQ(sendmsg(over, &message, 0), 1);
}

unique_fd receive_fd(int over) {
  char byte;
  iovec part = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  CHECK_EQ(recvmsg(over, &message, MSG_CMSG_CLOEXEC), 1);
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  CHECK(header != nullptr && header->cmsg_type == SCM_RIGHTS);
  int fd;
  memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return unique_fd(fd);
}

CASE(a_socket_that_was_passed_on_blocks_and_wakes_its_new_owner) {
  const fd_pair channel = unix_pair();
  for (int round = 0; round < 20; ++round) {
    fd_pair pair = round % 2 == 0 ? tcp_pair() : unix_pair();
    std::thread receiver([&] {
      const unique_fd fd = receive_fd(channel.b);
      CHECK(!is_nonblocking(fd));
      CHECK_EQ(read_up_to(fd, 5), "hello");
      write_all(fd, "bye");
      CHECK_EQ(read_to_end(fd), "");
    });
    if (round < 4) let_it_block();
    send_fd(channel.a, pair.b);
    pair.b.reset();  // its number is free for the receiver's
    usleep(200);
    write_all(pair.a, "hello");
    CHECK_EQ(read_up_to(pair.a, 3), "bye");
    pair.a.reset();
    receiver.join();
  }
}

// The flags of somebody's descriptor, as /proc tells everybody.
unsigned long flags_in_proc(pid_t process, int fd) {
  std::ifstream info("/proc/" + std::to_string(process) + "/fdinfo/" + std::to_string(fd));
  CHECK(info.is_open());
  for (std::string word; info >> word;) {
    if (word == "flags:") {
      CHECK(info >> word);
      return std::stoul(word, nullptr, 8);
    }
  }
  check_failed(__FILE__, __LINE__, "no flags in fdinfo");
}

CASE(a_child_that_shares_the_socket_finds_no_flag_on_it) {
  for (const bool tcp : {false, true}) {
    const fd_pair pair = tcp ? tcp_pair() : unix_pair();
    const pid_t parent = getpid();
    const pid_t child = start_child([&] {
      for (int i = 0; i < 200; ++i) {
        CHECK_EQ(flags_in_proc(parent, pair.b) & O_NONBLOCK, 0);
        CHECK_EQ(flags_in_proc(getpid(), pair.b) & O_NONBLOCK, 0);
        CHECK(!is_nonblocking(pair.b));
        if (i % 20 == 0) usleep(500);
      }
      write_all(pair.a, "go on");
      std::thread reader(
          [&] { CHECK_EQ(read_up_to(pair.a, 6), "answer"); });  // the child blocks, too
      reader.join();
    });
    std::thread reader([&] { CHECK_EQ(read_up_to(pair.b, 5), "go on"); });
    reader.join();
    check_stays_blocking(pair.a);
    write_all(pair.b, "answer");
    CHECK_EXITED(wait_for(child), 0);
    CHECK(!is_nonblocking(pair.a) && !is_nonblocking(pair.b));
  }
}

CASE(parent_and_child_may_block_on_the_same_socket) {
  const fd_pair pair = unix_pair(SOCK_DGRAM);
  const auto take_until_told = [&] {
    crowd(3, [&](int) {
      for (char byte = 'x'; byte == 'x';) CHECK_EQ(recv(pair.b, &byte, 1, 0), 1);
    });
  };
  const pid_t child = start_child(take_until_told);
  std::thread sender([&] {
    for (int i = 0; i < 300; ++i) CHECK_EQ(send(pair.a, "x", 1, 0), 1);
    for (int i = 0; i < 6; ++i) CHECK_EQ(send(pair.a, ".", 1, 0), 1);
  });
  take_until_told();
  sender.join();
  CHECK_EXITED(wait_for(child), 0);
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
