// resolver.cc - name lookups: a hundred threads wait for a name server at once.
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <netdb.h>
#include <netinet/in.h>
#include <resolv.h>
#include <sys/socket.h>

#include <map>
#include <string>

#include "blocked.h"
#include "net.h"

namespace {

// A name server on the loopback: gives 10.1.2.3 for every A question, after all questions have come.
class name_server {
 public:
  explicit name_server(int questions) : socket_(bound_socket(SOCK_DGRAM)), port(port_of(socket_)) {
    set_timeout(socket_, SO_RCVTIMEO, 20'000);
    thread_ = std::thread([this, questions] { serve(questions); });
  }
  ~name_server() { thread_.join(); }

 private:
  // A client that got no answer in time asks again with the same number: it counts once.
  void serve(int questions) {
    struct question {
      std::string text;
      sockaddr_in from;
    };
    std::map<std::pair<in_port_t, std::string>, question> all;
    while (static_cast<int>(all.size()) < questions) {
      char text[512];
      sockaddr_in from;
      socklen_t length = sizeof from;
      const ssize_t size = recvfrom(socket_, text, sizeof text, 0, reinterpret_cast<sockaddr*>(&from), &length);
      CHECK(size >= 12);
      all[{from.sin_port, std::string(text, 2)}] = {std::string(text, static_cast<size_t>(size)), from};
    }
    for (auto& one : all) answer(one.second.text, one.second.from);
  }

  void answer(std::string text, const sockaddr_in& to) {
    const size_t name = 12;
    size_t end = name;
    while (text[end] != 0) end += static_cast<size_t>(text[end]) + 1;
    end += 5;
    const bool is_a = text[end - 3] == 1;
    text.resize(end);
    text[2] = static_cast<char>(0x81);
    text[3] = static_cast<char>(0x80);
    text[7] = is_a ? 1 : 0;
    text[9] = text[11] = 0;
    if (is_a) text += std::string("\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x0a\1\2\3", 16);
    MUST(sendto(socket_, text.data(), text.size(), 0, reinterpret_cast<const sockaddr*>(&to), sizeof to));
  }

  unique_fd socket_;

 public:
  const in_port_t port;

 private:
  std::thread thread_;
};

// This thread asks that server.
void use_server(in_port_t port) {
  CHECK_EQ(res_init(), 0);
  _res.nscount = 1;
  _res.nsaddr_list[0] = loopback(port);
  _res.retrans = 20;
  _res.retry = 1;
  _res.options &= ~static_cast<unsigned long>(RES_DNSRCH | RES_DEFNAMES);
}

}  // namespace

// One question is asked only after the crowd has been looked at, so the server cannot have answered anybody before.
CASE(a_hundred_threads_in_res_query) {
  name_server server(kBlocked + 1);
  const auto ask = [&](int i) {
    use_server(server.port);
    unsigned char answer[512];
    const int size = res_query(("host" + std::to_string(i) + ".test").c_str(), C_IN, ns_t_a, answer, sizeof answer);
    CHECK(size > 16);
    CHECK_EQ(answer[size - 1], 3);
  };
  blocked_crowd crowd(ask);
  std::thread(ask, kBlocked).join();
  crowd.join("res_query");
}

CASE(a_hundred_threads_in_getaddrinfo) {
  name_server server(kBlocked + 1);
  const auto ask = [&](int i) {
    use_server(server.port);
    addrinfo hints = {}, *found = nullptr;
    hints.ai_family = AF_INET;
    hints.ai_socktype = SOCK_STREAM;
    CHECK_EQ(getaddrinfo(("node" + std::to_string(i) + ".test").c_str(), "80", &hints, &found), 0);
    const auto* address = reinterpret_cast<const sockaddr_in*>(found->ai_addr);
    CHECK_EQ(ntohl(address->sin_addr.s_addr), 0x0a010203);
    CHECK_EQ(ntohs(address->sin_port), 80);
    freeaddrinfo(found);
  };
  blocked_crowd crowd(ask);
  std::thread(ask, kBlocked).join();
  crowd.join("getaddrinfo");
}

// gethostbyname keeps one lock of libc's while it asks: the others wait for that.
CASE(threads_in_gethostbyname_wait_for_each_other) {
  name_server server(1);
  std::atomic<int> same{0};
  blocked_crowd crowd([&](int i) {
    use_server(server.port);
    if (i == 0) {
      const hostent* found = gethostbyname("single.test");
      CHECK(found != nullptr);
    } else {
      const hostent* found = gethostbyname("127.0.0.1");
      CHECK(found != nullptr);
    }
    ++same;
  });
  crowd.join("gethostbyname", -1);
  CHECK_EQ(same.load(), kBlocked);
}

int main(int argc, char** argv) { return run_cases(argc, argv); }
