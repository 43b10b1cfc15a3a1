// transfer.cc - splice, tee, vmsplice, sendfile, preadv2, message queues, and syscall() with the number of a blocking call.
#include <dlfcn.h>
#include <mqueue.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <string>

#include "blocked.h"
#include "net.h"

namespace {

std::vector<pipe_ends> some_pipes() {
  std::vector<pipe_ends> all;
  for (int i = 0; i < kBlocked; ++i) all.push_back(make_pipe());
  return all;
}

// A queue that nobody else can open.
mqd_t anonymous_queue(long capacity) {
  static std::atomic<int> count{0};
  const std::string name = "/transfer-" + std::to_string(getpid()) + "-" + std::to_string(count++);
  mq_attr attributes = {};
  attributes.mq_maxmsg = capacity;
  attributes.mq_msgsize = 16;
  const mqd_t queue = MUST(mq_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600, &attributes));
  MUST(mq_unlink(name.c_str()));
  return queue;
}

}  // namespace

CASE(a_hundred_threads_in_splice_tee_and_vmsplice) {
  auto from = some_pipes(), to = some_pipes();
  blocked_crowd crowd([&](int i) {
    char text[8] = {};
    if (i % 3 == 0) CHECK_EQ(splice(from[i].read, nullptr, to[i].write, nullptr, 8, 0), 5);
    if (i % 3 == 1) CHECK_EQ(tee(from[i].read, to[i].write, 8, 0), 5);
    if (i % 3 != 2) {
      CHECK_EQ(read(to[i].read, text, sizeof text), 5);
    } else {
      iovec part = {text, sizeof text};
      CHECK_EQ(vmsplice(from[i].read, &part, 1, 0), 5);
    }
    CHECK_EQ(std::string(text), "hello");
  });
  for (int i = 0; i < kBlocked; ++i) write_all(from[i].write, "hello");
  crowd.join("splice tee vmsplice");
}

CASE(a_hundred_threads_in_preadv2_with_the_current_position) {
  auto pipes = some_pipes();
  blocked_crowd crowd([&](int i) {
    char text[8] = {};
    iovec part = {text, sizeof text};
    CHECK_EQ(preadv2(pipes[i].read, &part, 1, -1, 0), 5);
    CHECK_EQ(std::string(text), "hello");
  });
  for (int i = 0; i < kBlocked; ++i) {
    iovec part = {const_cast<char*>("hello"), 5};
    CHECK_EQ(pwritev2(pipes[i].write, &part, 1, -1, 0), 5);
  }
  crowd.join("preadv2");
}

CASE(a_hundred_threads_in_sendfile_to_full_sockets) {
  constexpr size_t kSize = 1 << 20;
  const unique_fd file(MUST(open("/tmp", O_TMPFILE | O_RDWR, 0600)));
  const std::string content = pattern(kSize, 7);
  write_all(file, content);
  std::vector<fd_pair> pairs;
  for (int i = 0; i < kBlocked; ++i) pairs.push_back(unix_pair());
  blocked_crowd crowd([&](int i) {
    off_t offset = 5;
    size_t sent = 0;
    while (sent < kSize - 5) {
      const ssize_t n = MUST(sendfile(pairs[i].a, file, &offset, kSize));
      if (n == 0) break;
      sent += static_cast<size_t>(n);
      CHECK_EQ(static_cast<size_t>(offset), 5 + sent);
    }
    pairs[i].a.reset();
  });
  for (int i = 0; i < kBlocked; ++i) CHECK(read_to_end(pairs[i].b) == content.substr(5));
  crowd.join("sendfile");
}

CASE(a_hundred_threads_in_mq_receive) {
  const mqd_t queue = anonymous_queue(4);
  std::atomic<int> sum{0};
  blocked_crowd crowd([&](int i) {
    char text[16];
    unsigned priority = 0;
    if (i % 2 == 0) {
      CHECK_EQ(mq_receive(queue, text, sizeof text, &priority), 1);
    } else {
      const timespec end = from_now(CLOCK_REALTIME, 30'000);
      CHECK_EQ(mq_timedreceive(queue, text, sizeof text, &priority, &end), 1);
    }
    CHECK_EQ(priority, 3);
    sum += text[0];
  });
  for (int i = 0; i < kBlocked; ++i) {
    const char one = 1;
    MUST(mq_send(queue, &one, 1, 3));
  }
  crowd.join("mq_receive");
  CHECK_EQ(sum.load(), kBlocked);
  mq_close(queue);
}

CASE(a_full_queue_a_passed_time_and_a_nonblocking_queue) {
  std::thread([] {
    const mqd_t queue = anonymous_queue(1);
    char text[16];
    timespec end = from_now(CLOCK_REALTIME, 30);
    CHECK_ERRNO(mq_timedreceive(queue, text, sizeof text, nullptr, &end), ETIMEDOUT);
    CHECK(has_passed(CLOCK_REALTIME, end));
    MUST(mq_send(queue, "a", 1, 0));
    end = from_now(CLOCK_REALTIME, 30);
    CHECK_ERRNO(mq_timedsend(queue, "b", 1, 0, &end), ETIMEDOUT);
    end.tv_nsec = 2'000'000'000;
    CHECK_ERRNO(mq_timedsend(queue, "b", 1, 0, &end), EINVAL);
    mq_attr nonblocking = {};
    nonblocking.mq_flags = O_NONBLOCK;
    MUST(mq_setattr(queue, &nonblocking, nullptr));
    CHECK_ERRNO(mq_send(queue, "b", 1, 0), EAGAIN);
    CHECK_EQ(mq_receive(queue, text, sizeof text, nullptr), 1);
    CHECK_ERRNO(mq_receive(queue, text, sizeof text, nullptr), EAGAIN);
    CHECK_ERRNO(mq_receive(queue, text, 1, nullptr), EMSGSIZE);
    mq_close(queue);
  }).join();
}

CASE(a_hundred_threads_in_syscall) {
  auto pipes = some_pipes();
  blocked_crowd crowd([&](int i) {
    char text[8] = {};
    pollfd one = {pipes[i].read, POLLIN, 0};
    epoll_event event = {};
    event.events = EPOLLIN;
    if (i % 4 == 1) CHECK_EQ(syscall(SYS_poll, &one, 1, -1), 1);
    if (i % 4 == 2) CHECK_EQ(syscall(SYS_ppoll, &one, 1, nullptr, nullptr, 8), 1);
    if (i % 4 == 3) {
      const unique_fd epoll(MUST(epoll_create1(0)));
      MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[i].read, &event));
      CHECK_EQ(syscall(SYS_epoll_wait, static_cast<int>(epoll), &event, 1, -1), 1);
    }
    CHECK_EQ(syscall(SYS_read, static_cast<int>(pipes[i].read), text, sizeof text), 5);
    CHECK_EQ(std::string(text), "hello");
  });
  for (int i = 0; i < kBlocked; ++i) CHECK_EQ(syscall(SYS_write, static_cast<int>(pipes[i].write), "hello", 5), 5);
  crowd.join("syscall");
  CHECK_ERRNO(syscall(SYS_read, -1, nullptr, 0), EBADF);
}

CASE(a_hundred_threads_in_read_through_a_pointer_from_dlsym) {
  using read_call = ssize_t(int, void*, size_t);
  void* libc = dlopen("libc.so.6", RTLD_NOW);
  CHECK(libc != nullptr);
  read_call* const calls[] = {reinterpret_cast<read_call*>(dlsym(RTLD_DEFAULT, "read")),
                              reinterpret_cast<read_call*>(dlsym(RTLD_NEXT, "read")),
                              reinterpret_cast<read_call*>(dlsym(libc, "__read"))};
  auto pipes = some_pipes();
  blocked_crowd crowd([&](int i) {
    char text[8] = {};
    CHECK_EQ(calls[i % 3](pipes[i].read, text, sizeof text), 5);
    CHECK_EQ(std::string(text), "hello");
  });
  for (int i = 0; i < kBlocked; ++i) write_all(pipes[i].write, "hello");
  crowd.join("read by dlsym");
}

int main(int argc, char** argv) { return run_cases(argc, argv); }
