// poll_select.cc - clause 1: poll, ppoll, select and pselect say of any mixture of descriptors what
// they say natively, wait no longer than told, and wake everybody who waits.

#include <atomic>
#include <functional>

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/timerfd.h>

#include "check.h"
#include "child.h"
#include "clock.h"
#include "net.h"
#include "threads.h"

namespace {

int poll_one(int fd, short events, int timeout_ms, short* seen = nullptr) {
  pollfd one = {fd, events, -1};
  const int n = poll(&one, 1, timeout_ms);
  if (seen != nullptr) *seen = one.revents;
  return n;
}

int poll_of_one(pollfd& one, long ms) { return poll(&one, 1, static_cast<int>(ms)); }

int ppoll_of_one(pollfd& one, long ms) {
  const timespec limit = timespec_of_ms(ms);
  return ppoll(&one, 1, ms < 0 ? nullptr : &limit, nullptr);
}

// select and pselect for one descriptor, in the clothes of poll.
template <class Select>
int select_as_poll(pollfd& one, Select select_fds) {
  fd_set readable, writable;
  FD_ZERO(&readable);
  FD_ZERO(&writable);
  if (one.events & POLLIN) FD_SET(one.fd, &readable);
  if (one.events & POLLOUT) FD_SET(one.fd, &writable);
  const int n = select_fds(one.fd + 1, &readable, &writable);
  one.revents = 0;
  if (FD_ISSET(one.fd, &readable)) one.revents |= POLLIN;
  if (FD_ISSET(one.fd, &writable)) one.revents |= POLLOUT;
  return n;
}

int select_of_one(pollfd& one, long ms) {
  return select_as_poll(one, [&](int n, fd_set* readable, fd_set* writable) {
    timeval limit = {ms / 1000, ms % 1000 * 1000};
    return select(n, readable, writable, nullptr, ms < 0 ? nullptr : &limit);
  });
}

int pselect_of_one(pollfd& one, long ms) {
  return select_as_poll(one, [&](int n, fd_set* readable, fd_set* writable) {
    const timespec limit = timespec_of_ms(ms);
    return pselect(n, readable, writable, nullptr, ms < 0 ? nullptr : &limit, nullptr);
  });
}

using wait_for_one = int (*)(pollfd&, long ms);
constexpr wait_for_one kWays[] = {poll_of_one, ppoll_of_one, select_of_one, pselect_of_one};

CASE(waiting_ends_when_the_descriptor_becomes_ready) {
  for (const wait_for_one wait : kWays) {
    for (const long ms : {-1L, kHangMs}) {
      const pipe_ends pipe = make_pipe();
      std::thread writer([&] {
        let_it_block();
        write_all(pipe.write, "x");
      });
      pollfd one = {pipe.read, POLLIN, -1};
      CHECK_EQ(wait(one, ms), 1);
      CHECK_EQ(one.revents, POLLIN);
      CHECK_EQ(wait(one, 0), 1);  // and it stays ready
      writer.join();
    }
  }
}

CASE(waiting_ends_at_the_timeout_and_not_before) {
  crowd(4, [](int way) {
    const fd_pair pair = tcp_pair();
    for (const long ms : {0, 1, 30}) {
      pollfd one = {pair.a, POLLIN, -1};
      const stopwatch watch;
      CHECK_EQ(kWays[way](one, ms), 0);
      CHECK_EQ(one.revents, 0);
      CHECK(watch.ms() >= static_cast<double>(ms));
    }
  });
}

CASE(a_descriptor_is_writable_until_it_is_full_and_when_it_was_emptied) {
  for (const wait_for_one wait : kWays) {
    const fd_pair pair = unix_pair();
    pollfd one = {pair.a, POLLOUT | POLLIN, -1};
    CHECK_EQ(wait(one, -1), 1);
    CHECK_EQ(one.revents, POLLOUT);
    const std::string data(1 << 20, 'x');
    size_t sent = 0;
    for (ssize_t n; (n = send(pair.a, data.data(), data.size(), MSG_DONTWAIT)) > 0;)
      sent += static_cast<size_t>(n);
    CHECK_EQ(wait(one, 5), 0);
    std::thread reader([&] {
      let_it_block();
      CHECK_EQ(read_up_to(pair.b, sent).size(), sent);
    });
    CHECK_EQ(wait(one, -1), 1);
    CHECK_EQ(one.revents, POLLOUT);
    reader.join();
  }
}

CASE(a_mixture_reports_each_of_its_descriptors) {
  const pipe_ends pipe = make_pipe();
  const fd_pair socket = tcp_pair();
  const unique_fd listener = tcp_listener();
  const unique_fd counter(MUST(eventfd(0, 0)));
  const unique_fd timer(MUST(timerfd_create(CLOCK_MONOTONIC, 0)));
  const unique_fd file(MUST(open("/dev/zero", O_RDONLY)));
  std::vector<pollfd> all = {{pipe.read, POLLIN, 0}, {socket.b, POLLIN, 0}, {listener, POLLIN, 0},
                             {counter, POLLIN, 0},   {timer, POLLIN, 0},    {-1, POLLIN, 99}};
  const auto check_only = [&](size_t expected, const std::function<void()>& make_ready) {
    CHECK_EQ(poll(all.data(), all.size(), 0), 0);
    std::thread other([&] {
      usleep(3000);
      make_ready();
    });
    CHECK_EQ(poll(all.data(), all.size(), -1), 1);
    for (size_t i = 0; i < all.size(); ++i) CHECK_EQ(all[i].revents, i == expected ? POLLIN : 0);
    other.join();
    uint64_t taken;
    if (expected != 2) CHECK(MUST(read(all[expected].fd, &taken, sizeof taken)) > 0);
  };
  check_only(0, [&] { write_all(pipe.write, "x"); });
  check_only(1, [&] { write_all(socket.a, "x"); });
  check_only(3, [&] { MUST(eventfd_write(counter, 1)); });
  check_only(4, [&] {
    const itimerspec once = {{0, 0}, {0, kNsPerMs}};
    MUST(timerfd_settime(timer, 0, &once, nullptr));
  });
  unique_fd client;
  check_only(2, [&] { client = connect_to(port_of(listener)); });
  all.push_back({file, POLLIN | POLLOUT, 0});  // always ready
  CHECK_EQ(poll(all.data(), all.size(), -1), 2);
  CHECK_EQ(all.back().revents, POLLIN | POLLOUT);
}

CASE(a_number_that_is_not_open_is_POLLNVAL_and_EBADF) {
  crowd(2, [](int) {
    const pipe_ends pipe = make_pipe();
    constexpr int kClosed = 60;  // low: select does not even look beyond the kernel's present table
    CHECK_ERRNO(fcntl(kClosed, F_GETFD), EBADF);
    pollfd both[] = {{pipe.read, POLLIN, 0}, {kClosed, POLLIN, 0}};
    CHECK_EQ(poll(both, 2, -1), 1);
    CHECK_EQ(both[0].revents, 0);
    CHECK_EQ(both[1].revents, POLLNVAL);
    for (const wait_for_one wait : {select_of_one, pselect_of_one}) {
      pollfd closed = {kClosed, POLLIN, 0};
      CHECK_ERRNO(wait(closed, -1), EBADF);
    }
    CHECK_EQ(poll_one(-5, POLLIN, 1), 0);  // a negative number is left out
  });
}

CASE(ends_and_errors_are_reported_unasked) {
  crowd(1, [](int) {
    short seen;
    pipe_ends pipe = make_pipe();
    std::thread closer([&] {
      let_it_block();
      pipe.write.reset();
    });
    CHECK_EQ(poll_one(pipe.read, 0, -1, &seen), 1);
    CHECK_EQ(seen, POLLHUP);
    closer.join();
    pipe = make_pipe();
    pipe.read.reset();
    CHECK_EQ(poll_one(pipe.write, 0, -1, &seen), 1);
    CHECK_EQ(seen, POLLERR);

    fd_pair pair = tcp_pair();
    MUST(shutdown(pair.a, SHUT_WR));
    CHECK_EQ(poll_one(pair.b, POLLIN | POLLRDHUP, -1, &seen), 1);
    CHECK_EQ(seen, POLLIN | POLLRDHUP);
    CHECK_EQ(poll_one(pair.b, POLLRDHUP, -1, &seen), 1);
    CHECK_EQ(seen, POLLRDHUP);
    CHECK_EQ(poll_one(pair.b, 0, 5, &seen), 0);  // half a connection is no hang-up
    MUST(shutdown(pair.b, SHUT_WR));
    CHECK_EQ(poll_one(pair.b, 0, -1, &seen), 1);
    CHECK_EQ(seen, POLLHUP);

    pair = unix_pair();
    pair.a.reset();
    CHECK_EQ(poll_one(pair.b, POLLIN | POLLOUT | POLLRDHUP, -1, &seen), 1);
    CHECK_EQ(seen, POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
  });
}

CASE(urgent_data_is_POLLPRI_and_exceptional) {
  const fd_pair pair = tcp_pair();
  std::thread sender([&] {
    let_it_block();
    CHECK_EQ(send(pair.a, "!", 1, MSG_OOB), 1);
  });
  short seen;
  CHECK_EQ(poll_one(pair.b, POLLPRI, -1, &seen), 1);
  CHECK_EQ(seen, POLLPRI);
  sender.join();
  fd_set exceptional;
  FD_ZERO(&exceptional);
  FD_SET(pair.b, &exceptional);
  CHECK_EQ(select(pair.b + 1, nullptr, nullptr, &exceptional, nullptr), 1);
  CHECK(FD_ISSET(pair.b, &exceptional));
}

CASE(all_threads_that_poll_the_same_descriptor_are_woken) {
  constexpr int kThreads = 30;
  for (int round = 0; round < 5; ++round) {
    const pipe_ends pipe = make_pipe();
    std::thread pollers([&] {
      crowd(kThreads, [&](int id) {
        pollfd one = {pipe.read, POLLIN, 0};
        CHECK_EQ(kWays[id % 4](one, -1), 1);
        CHECK_EQ(one.revents, POLLIN);
      });
    });
    if (round < 3) let_it_block();
    write_all(pipe.write, "x");  // nobody takes it
    pollers.join();
  }
}

CASE(reading_and_polling_the_same_descriptor_go_together) {
  constexpr int kBytes = 300;
  fd_pair pair = tcp_pair();
  std::atomic<int> taken = 0;
  std::thread others([&] {
    crowd(6, [&](int id) {
      while (taken < kBytes) {
        char byte;
        ssize_t n = 1;
        if (id % 2 == 0) {
          n = recv(pair.b, &byte, 1, 0);
        } else if (poll_one(pair.b, POLLIN, -1) == 1) {
          n = recv(pair.b, &byte, 1, MSG_DONTWAIT);  // somebody else may have been faster
          if (n < 0) CHECK_EQ(errno, EAGAIN);
        }
        if (n == 0) return;
        if (n == 1) ++taken;
      }
    });
  });
  for (int i = 0; i < kBytes; ++i) {
    write_all(pair.a, "x");
    if (i % 10 == 0) usleep(100);
  }
  pair.a.reset();
  others.join();
  CHECK_EQ(taken, kBytes);
}

CASE(three_hundred_descriptors_are_polled_at_once) {
  constexpr int kPipes = 300;
  std::vector<pipe_ends> pipes;
  std::vector<pollfd> all;
  for (int i = 0; i < kPipes; ++i) {
    pipes.push_back(make_pipe());
    all.push_back({pipes.back().read, POLLIN, 0});
  }
  std::atomic<int> seen = 0;
  std::thread writer([&] {
    for (int i = 0; i < kPipes; ++i) {
      write_all(pipes[(i * 7) % kPipes].write, "x");
      if (i % 50 == 0) eventually([&] { return seen > i; });
    }
  });
  std::vector<int> times(kPipes);
  while (seen < kPipes) {
    int ready = MUST(poll(all.data(), all.size(), -1));
    CHECK(ready > 0);
    for (int i = 0; i < kPipes; ++i) {
      if (all[i].revents == 0) continue;
      CHECK_EQ(all[i].revents, POLLIN);
      CHECK_EQ(read_up_to(all[i].fd, 1), "x");
      ++times[i];
      ++seen;
      --ready;
    }
    CHECK_EQ(ready, 0);
  }
  writer.join();
  for (const int n : times) CHECK_EQ(n, 1);
}

CASE(the_same_descriptor_may_be_named_twice) {
  const pipe_ends pipe = make_pipe();
  const fd_pair pair = unix_pair();
  std::thread writer([&] {
    let_it_block();
    write_all(pipe.write, "x");
  });
  pollfd all[] = {{pipe.read, POLLIN, 0},
                  {pair.a, POLLIN, 0},
                  {pipe.read, POLLIN | POLLRDNORM, 0},
                  {pair.a, 0, 0}};
  CHECK_EQ(poll(all, 4, -1), 2);
  CHECK_EQ(all[0].revents, POLLIN);
  CHECK_EQ(all[2].revents, POLLIN | POLLRDNORM);
  CHECK_EQ(all[1].revents + all[3].revents, 0);
  writer.join();
}

CASE(select_clears_what_is_not_ready_and_tells_the_time_that_is_left) {
  const pipe_ends ready = make_pipe(), silent = make_pipe();
  std::thread writer([&] {
    let_it_block();
    write_all(ready.write, "x");
  });
  fd_set readable, writable;
  FD_ZERO(&readable);
  FD_ZERO(&writable);
  FD_SET(ready.read, &readable);
  FD_SET(silent.read, &readable);
  timeval limit = {1000, 0};
  CHECK_EQ(select(FD_SETSIZE, &readable, &writable, nullptr, &limit), 1);
  CHECK(FD_ISSET(ready.read, &readable));
  CHECK(!FD_ISSET(silent.read, &readable));
  CHECK(limit.tv_sec < 1000 && limit.tv_sec > 1000 - kHangMs / 1000);
  writer.join();
}

std::atomic<int> handled;

// The mask of ppoll and pselect is in force exactly while they wait.
template <class Wait>
void check_mask(Wait wait_with_mask) {
  struct sigaction action {};
  action.sa_handler = [](int) { ++handled; };
  MUST(sigaction(SIGUSR1, &action, nullptr));
  crowd(1, [&](int) {
    sigset_t blocked, none;
    sigemptyset(&none);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &blocked, nullptr), 0);
    handled = 0;
    CHECK_EQ(pthread_kill(pthread_self(), SIGUSR1), 0);  // pending before
    usleep(2000);
    CHECK_EQ(handled, 0);
    CHECK_ERRNO(wait_with_mask(&none), EINTR);
    CHECK_EQ(handled, 1);

    const pthread_t self = pthread_self();  // sent while it waits, or before
    std::thread sender([=] {
      let_it_block();
      CHECK_EQ(pthread_kill(self, SIGUSR1), 0);
    });
    CHECK_ERRNO(wait_with_mask(&none), EINTR);
    CHECK_EQ(handled, 2);
    sender.join();
    sigset_t now;
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, nullptr, &now), 0);
    CHECK_EQ(sigismember(&now, SIGUSR1), 1);
  });
}

CASE(the_mask_of_ppoll_and_pselect_is_in_force_while_they_wait) {
  const pipe_ends silent = make_pipe();
  check_mask([&](const sigset_t* mask) {
    pollfd one = {silent.read, POLLIN, 0};
    return ppoll(&one, 1, nullptr, mask);
  });
  check_mask([&](const sigset_t* mask) {
    fd_set readable;
    FD_ZERO(&readable);
    FD_SET(silent.read, &readable);
    return pselect(silent.read + 1, &readable, nullptr, nullptr, nullptr, mask);
  });
}

CASE(more_descriptors_than_the_limit_are_refused) {
  crowd(1, [](int) {
    std::vector<pollfd> one(1);
    volatile nfds_t many = ~nfds_t{0} >> 8;
    CHECK_ERRNO(poll(one.data(), many, 0), EINVAL);
  });
}

// Programs with an event loop of their own.

void watch(int epoll, int fd, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

CASE(epoll_reports_level_edge_and_one_shot_as_asked) {
  crowd(1, [](int) {
    const unique_fd epoll(MUST(epoll_create1(EPOLL_CLOEXEC)));
    const pipe_ends level = make_pipe(), edge = make_pipe(), once = make_pipe();
    watch(epoll, level.read, EPOLLIN);
    watch(epoll, edge.read, EPOLLIN | EPOLLET);
    watch(epoll, once.read, EPOLLIN | EPOLLONESHOT);
    epoll_event seen[8];
    CHECK_EQ(epoll_wait(epoll, seen, 8, 0), 0);
    const stopwatch watch;
    CHECK_EQ(epoll_wait(epoll, seen, 8, 10), 0);
    CHECK(watch.ms() >= 10);
    std::thread writer([&] {
      let_it_block();
      for (const pipe_ends* pipe : {&level, &edge, &once}) write_all(pipe->write, "x");
    });
    for (int others = 0; others < 2;) {  // the level is reported again and again meanwhile
      const int n = MUST(epoll_wait(epoll, seen, 8, -1));
      for (int i = 0; i < n; ++i) others += seen[i].data.fd != level.read;
    }
    writer.join();
    CHECK_EQ(epoll_wait(epoll, seen, 8, -1), 1);
    CHECK_EQ(seen[0].data.fd, level.read);
    CHECK_EQ(read_up_to(level.read, 1), "x");
    write_all(once.write, "x");
    CHECK_EQ(epoll_wait(epoll, seen, 8, 5), 0);
    write_all(edge.write, "x");
    CHECK_EQ(epoll_wait(epoll, seen, 8, -1), 1);
    CHECK_EQ(seen[0].data.fd, edge.read);
  });
}

CASE(one_of_many_epoll_waiters_gets_each_edge) {
  constexpr int kWaiters = 10, kEvents = 200;
  const unique_fd epoll(MUST(epoll_create1(0)));
  const unique_fd counter(MUST(eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK)));
  const unique_fd end(MUST(eventfd(0, 0)));
  watch(epoll, counter, EPOLLIN);
  watch(epoll, end, EPOLLIN);
  std::atomic<int> taken = 0;
  std::thread waiters([&] {
    crowd(kWaiters, [&](int) {
      for (;;) {
        epoll_event seen;
        CHECK_EQ(epoll_wait(epoll, &seen, 1, -1), 1);
        if (seen.data.fd == end) {
          if (taken == kEvents) return;
          continue;
        }
        eventfd_t one;
        if (eventfd_read(counter, &one) == 0) ++taken;
      }
    });
  });
  for (int i = 0; i < kEvents; ++i) {
    MUST(eventfd_write(counter, 1));
    if (i % 10 == 0) usleep(100);
  }
  eventually([&] { return taken == kEvents; });
  MUST(eventfd_write(end, 1));
  waiters.join();
}

CASE(an_epoll_descriptor_can_itself_be_polled) {
  const unique_fd epoll(MUST(epoll_create1(0)));
  const pipe_ends pipe = make_pipe();
  watch(epoll, pipe.read, EPOLLIN);
  CHECK_EQ(poll_one(epoll, POLLIN, 5), 0);
  std::thread writer([&] {
    let_it_block();
    write_all(pipe.write, "x");
  });
  CHECK_EQ(poll_one(epoll, POLLIN, -1), 1);
  writer.join();
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
