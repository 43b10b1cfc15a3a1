// pipes.cc - clauses 1 and 4: pipes, FIFOs, terminals, event and timer descriptors block as
// natively; numbers are given out and reused as natively, and a program may close whatever it
// finds.

#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>

#include "check.h"
#include "child.h"
#include "clock.h"
#include "net.h"
#include "threads.h"

namespace {

CASE(a_read_waits_for_data_and_gives_what_is_there) {
  const pipe_ends pipe = make_pipe();
  std::thread writer([&] {
    let_it_block();
    write_all(pipe.write, "abc");
  });
  char buffer[100];
  CHECK_EQ(read(pipe.read, buffer, sizeof buffer), 3);
  CHECK_EQ(read(pipe.read, buffer, 0), 0);
  writer.join();
}

CASE(a_write_larger_than_the_pipe_is_finished_before_it_returns) {
  constexpr size_t kLength = 1 << 20;
  const std::string data = pattern(kLength, 3);
  for (const bool vectored : {false, true}) {
    const pipe_ends pipe = make_pipe();
    std::thread slow_reader([&] {
      std::string got;
      while (got.size() < kLength) {
        usleep(100);
        got += read_up_to(pipe.read, 8192);
      }
      CHECK(got == data);
    });
    std::string out = data;
    iovec parts[] = {{out.data(), 1000}, {out.data() + 1000, kLength - 1000}};
    CHECK_EQ(vectored ? writev(pipe.write, parts, 2) : write(pipe.write, out.data(), kLength),
             kLength);
    slow_reader.join();
  }
}

CASE(blocked_pipe_calls_leave_no_flag_to_see) {
  const pipe_ends empty = make_pipe(), full = make_pipe();
  std::thread reader([&] { CHECK_EQ(read_up_to(empty.read, 1), "x"); });
  std::thread writer([&] { write_all(full.write, std::string(1 << 20, 'x')); });
  check_stays_blocking(empty.read);
  check_stays_blocking(full.write);
  write_all(empty.write, "x");
  read_up_to(full.read, 1 << 20);
  reader.join();
  writer.join();
}

CASE(small_writes_are_atomic_however_many_write) {
  constexpr int kWriters = 20, kMessages = 50;
  const pipe_ends pipe = make_pipe();
  std::thread writers([&] {
    crowd(kWriters, [&](int id) {
      const std::string message(PIPE_BUF, static_cast<char>('a' + id));
      for (int i = 0; i < kMessages; ++i)
        CHECK_EQ(write(pipe.write, message.data(), PIPE_BUF), PIPE_BUF);
    });
  });
  for (int i = 0; i < kWriters * kMessages; ++i) {
    const std::string message = read_up_to(pipe.read, PIPE_BUF);
    CHECK(message == std::string(PIPE_BUF, message[0]));
  }
  writers.join();
}

CASE(the_end_of_the_writers_is_0_and_the_end_of_the_readers_EPIPE) {
  pipe_ends pipe = make_pipe();
  std::thread reader([&] { CHECK_EQ(read_to_end(pipe.read), "last"); });
  let_it_block();
  write_all(pipe.write, "last");
  pipe.write.reset();
  reader.join();

  const sighandler_t before = signal(SIGPIPE, SIG_IGN);
  pipe = make_pipe();
  std::thread writer([&] {
    const std::string data(1 << 20, 'x');
    ssize_t n;
    do n = write(pipe.write, data.data(), data.size());  // what was taken is told first
    while (n > 0);
    CHECK_EQ(n, -1);
    CHECK_EQ(errno, EPIPE);
  });
  let_it_block();
  pipe.read.reset();
  writer.join();
  signal(SIGPIPE, before);
}

CASE(a_nonblocking_pipe_never_blocks) {
  crowd(1, [](int) {
    const pipe_ends pipe = make_pipe(O_NONBLOCK | O_CLOEXEC);
    char byte;
    CHECK_ERRNO(read(pipe.read, &byte, 1), EAGAIN);
    const std::string data(1 << 20, 'x');
    const ssize_t n = write(pipe.write, data.data(), data.size());
    CHECK(n > 0 && n < static_cast<ssize_t>(data.size()));
    CHECK_ERRNO(write(pipe.write, data.data(), data.size()), EAGAIN);
    CHECK(is_nonblocking(pipe.read) && is_nonblocking(pipe.write));
  });
}

CASE(many_readers_of_one_pipe_get_each_token_once) {
  constexpr int kReaders = 16;
  constexpr unsigned kTokens = 5000;
  pipe_ends pipe = make_pipe();
  std::vector<std::atomic<int>> seen(kTokens);
  std::thread readers([&] {
    crowd(kReaders, [&](int) {
      unsigned token;
      while (MUST(read(pipe.read, &token, sizeof token)) == sizeof token) ++seen[token];
    });
  });
  for (unsigned token = 0; token < kTokens; ++token) {
    write_all(pipe.write, &token, sizeof token);
    if (token % 100 == 0) usleep(50);
  }
  pipe.write.reset();
  readers.join();
  for (std::atomic<int>& times : seen) CHECK_EQ(times, 1);
}

CASE(opening_a_fifo_waits_for_the_other_side) {
  char folder[] = "/tmp/weft-fifo-XXXXXX";
  CHECK(mkdtemp(folder) != nullptr);
  const std::string name = std::string(folder) + "/fifo";
  MUST(mkfifo(name.c_str(), 0600));
  CHECK_ERRNO(open(name.c_str(), O_WRONLY | O_NONBLOCK), ENXIO);
  std::thread reader([&] {
    const unique_fd fd(MUST(open(name.c_str(), O_RDONLY)));
    CHECK_EQ(read_to_end(fd), "through the fifo");
  });
  let_it_block();
  {
    const unique_fd fd(MUST(open(name.c_str(), O_WRONLY)));
    write_all(fd, "through ");
    let_it_block();
    write_all(fd, "the fifo");
  }
  reader.join();
  MUST(unlink(name.c_str()));
  MUST(rmdir(folder));
}

CASE(an_event_descriptor_blocks_both_ways) {
  const unique_fd fd(MUST(eventfd(0, 0)));
  std::thread reader([&] {
    uint64_t value;
    CHECK_EQ(eventfd_read(fd, &value), 0);
    CHECK_EQ(value, 5);
    CHECK_EQ(read(fd, &value, sizeof value), sizeof value);
    CHECK_EQ(value, UINT64_MAX - 1);
  });
  let_it_block();
  MUST(eventfd_write(fd, 5));
  MUST(eventfd_write(fd, UINT64_MAX - 1));  // blocks until the reader has taken the 5
  reader.join();
  MUST(eventfd_write(fd, 1));
  uint64_t value;
  CHECK_EQ(eventfd_read(fd, &value), 0);
  CHECK_EQ(value, 1);

  const unique_fd tokens(MUST(eventfd(3, EFD_SEMAPHORE)));
  std::atomic<int> taken = 0;
  std::thread giver([&] {
    eventually([&] { return taken == 3; });
    MUST(eventfd_write(tokens, 7));
  });
  crowd(10, [&](int) {
    uint64_t one;
    CHECK_EQ(eventfd_read(tokens, &one), 0);
    CHECK_EQ(one, 1);
    ++taken;
  });
  giver.join();
  const unique_fd impatient(MUST(eventfd(0, EFD_NONBLOCK)));
  CHECK_ERRNO(eventfd_read(impatient, &value), EAGAIN);
}

CASE(a_timer_descriptor_is_read_when_it_has_expired) {
  crowd(10, [](int) {
    const unique_fd fd(MUST(timerfd_create(CLOCK_MONOTONIC, 0)));
    const itimerspec times = {{0, 2 * kNsPerMs}, {0, 5 * kNsPerMs}};
    const stopwatch watch;
    MUST(timerfd_settime(fd, 0, &times, nullptr));
    uint64_t total = 0;
    while (total < 5) {
      uint64_t expired;
      CHECK_EQ(read(fd, &expired, sizeof expired), sizeof expired);
      CHECK(expired > 0);
      total += expired;
    }
    CHECK(watch.ms() >= 5 + 4 * 2);
  });
}

CASE(a_terminal_is_read_line_by_line) {
  const unique_fd master(MUST(posix_openpt(O_RDWR | O_NOCTTY)));
  char name[64];
  CHECK_EQ(grantpt(master), 0);
  CHECK_EQ(unlockpt(master), 0);
  CHECK_EQ(ptsname_r(master, name, sizeof name), 0);
  const unique_fd terminal(MUST(open(name, O_RDWR | O_NOCTTY)));
  std::thread reader([&] {
    char line[100];
    CHECK_EQ(read(terminal, line, sizeof line), 6);
    CHECK_EQ(std::string(line, 6), "hello\n");
    CHECK_EQ(read(terminal, line, 2), 2);  // a line may be taken in parts
    CHECK_EQ(read(terminal, line, sizeof line), 2);
  });
  check_stays_blocking(terminal);
  write_all(master, "hello\nyou!");
  let_it_block();
  write_all(master, "\x15you\n");  // the line so far is erased and typed again
  reader.join();
}

CASE(stdio_on_a_pipe_blocks_and_reads_lines) {
  pipe_ends pipe = make_pipe();
  std::thread reader([&] {
    FILE* const in = fdopen(MUST(dup(pipe.read)), "r");
    char line[100];
    CHECK(fgets(line, sizeof line, in) != nullptr);
    CHECK_EQ(line, "one\n");
    int number;
    CHECK_EQ(fscanf(in, "%d\n", &number), 1);
    CHECK_EQ(number, 42);
    CHECK_EQ(fread(line, 1, sizeof line, in), 5);
    CHECK(feof(in));
    fclose(in);
  });
  FILE* const out = fdopen(MUST(dup(pipe.write)), "w");
  let_it_block();
  fputs("one\n4", out);
  fflush(out);
  let_it_block();
  fprintf(out, "%d\nthree", 2);
  fclose(out);
  pipe.write.reset();
  reader.join();
}

CASE(an_inherited_pipe_is_read_without_a_trace_for_the_parent) {
  pipe_ends to_child = make_pipe(), to_parent = make_pipe();
  const pid_t child = start_child([&] {
    to_child.write.reset();
    crowd(1, [&](int) {
      write_all(to_parent.write, "ready");
      write_all(to_parent.write, "got " + read_to_end(to_child.read));
    });
  });
  to_parent.write.reset();
  CHECK_EQ(read_up_to(to_parent.read, 5), "ready");
  check_stays_blocking(to_child.read);  // the same open file in which the child is blocked
  write_all(to_child.write, "it");
  to_child.write.reset();
  CHECK_EQ(read_to_end(to_parent.read), "got it");
  CHECK_EXITED(wait_for(child), 0);
}

CASE(a_program_reads_its_standard_input_from_a_pipe) {
  pipe_ends in = make_pipe(), out = make_pipe();
  const pid_t child = start_child([&] {
    MUST(dup2(in.read, STDIN_FILENO));
    MUST(dup2(out.write, STDOUT_FILENO));
    closefrom(3);
    execl("/proc/self/exe", "pipes", "--upper-case", nullptr);
  });
  in.read.reset();
  out.write.reset();
  for (const std::string word : {"one", "two"}) {
    write_all(in.write, word);
    CHECK_EQ(read_up_to(out.read, 3), word == "one" ? "ONE" : "TWO");
    CHECK(!is_nonblocking(in.write) && !is_nonblocking(out.read));
  }
  in.write.reset();
  CHECK_EQ(read_to_end(out.read), "");
  CHECK_EXITED(wait_for(child), 0);
}

int upper_case() {  // what --upper-case does, in a thread
  std::thread([] {
    char c;
    while (MUST(read(STDIN_FILENO, &c, 1)) == 1) {
      CHECK(!is_nonblocking(STDIN_FILENO) && !is_nonblocking(STDOUT_FILENO));
      c = static_cast<char>(c - 'a' + 'A');
      write_all(STDOUT_FILENO, &c, 1);
    }
  }).join();
  return 0;
}

CASE(a_number_that_dup2_gives_to_another_pipe_shows_the_other_pipe) {
  for (int round = 0; round < 30; ++round) {
    pipe_ends first = make_pipe(), second = make_pipe();
    const int number = first.read;
    event polled, replaced;
    std::thread waiter([&] {
      pollfd ready = {number, POLLIN, 0};
      CHECK_EQ(poll(&ready, 1, 1), 0);  // whoever watches the number has seen it
      polled.set();
      replaced.wait();
      CHECK_EQ(poll(&ready, 1, -1), 1);
      CHECK_EQ(read_up_to(number, 6), "second");
    });
    polled.wait();
    if (round % 2 == 0) {
      MUST(dup2(second.read, number));
    } else {
      MUST(dup3(second.read, number, O_CLOEXEC));
    }
    second.read.reset();
    replaced.set();
    if (round < 5) let_it_block();
    write_all(second.write, "second");
    waiter.join();
  }
}

CASE(a_number_that_is_closed_and_given_again_blocks_and_wakes) {
  for (int round = 0; round < 300; ++round) {
    unique_fd read_end, write_end;
    if (round % 3 == 0) {
      fd_pair pair = unix_pair();
      read_end = std::move(pair.a);
      write_end = std::move(pair.b);
    } else if (round % 3 == 1) {
      pipe_ends pipe = make_pipe();
      read_end = std::move(pipe.read);
      write_end = std::move(pipe.write);
    } else {
      fd_pair pair = tcp_pair();
      read_end = std::move(pair.a);
      write_end = std::move(pair.b);
    }
    std::thread reader([&] { CHECK_EQ(read_up_to(read_end, 2), "ab"); });
    if (round % 10 == 0) usleep(500);
    write_all(write_end, "a");
    if (round % 7 == 0) usleep(500);
    write_all(write_end, "b");
    reader.join();
  }
}

CASE(threads_open_and_close_all_the_time_and_confuse_nobody) {
  crowd(20, [](int id) {
    for (int i = 0; i < 50; ++i) {
      const pipe_ends pipe = make_pipe();
      std::thread writer([&] {
        if (i % 10 == 0) usleep(200);
        write_all(pipe.write, &id, sizeof id);
      });
      int seen;
      CHECK_EQ(read(pipe.read, &seen, sizeof seen), sizeof seen);
      CHECK_EQ(seen, id);
      writer.join();
    }
  });
}

// Some threads that are blocked in every way that involves the kernel, until told.
class blocked_threads {
 public:
  blocked_threads() {
    for (int i = 0; i < 5; ++i) {
      threads_.emplace_back([this] { CHECK_EQ(read_up_to(pipe_.read, 1), ""); });
      threads_.emplace_back([this] { CHECK_EQ(read_up_to(pair_.a, 1), ""); });
      threads_.emplace_back([this] { end_.wait(); });
      threads_.emplace_back([this] {
        pollfd ready[] = {{pair_.a, POLLIN, 0}, {pipe_.read, POLLIN, 0}};
        CHECK(poll(ready, 2, -1) > 0);
      });
    }
    let_it_block();
  }
  ~blocked_threads() {
    pipe_.write.reset();
    pair_.b.reset();
    end_.set();
    for (std::thread& one : threads_) one.join();
  }

 private:
  pipe_ends pipe_ = make_pipe();
  fd_pair pair_ = unix_pair();
  event end_;
  std::vector<std::thread> threads_;
};

// What --lowest-numbers does: nothing but 0, 1 and 2 is open, and no thread was started.
int lowest_numbers() {
  const auto check_lowest = [](int expected) {
    const unique_fd fd(MUST(open("/dev/null", O_RDONLY)));
    CHECK_EQ(fd, expected);
  };
  check_lowest(3);
  {
    blocked_threads others;  // they have four numbers: 3 to 6
    check_lowest(7);
    const fd_pair pair = unix_pair();
    CHECK_EQ(pair.a, 7);
    CHECK_EQ(pair.b, 8);
    crowd(5, [&](int) { usleep(500); });
    check_lowest(9);
    CHECK_EQ(MUST(dup(STDIN_FILENO)), 9);
    MUST(close(9));
  }
  check_lowest(3);
  rlimit limit;
  MUST(getrlimit(RLIMIT_NOFILE, &limit));
  limit.rlim_cur = 64;
  MUST(setrlimit(RLIMIT_NOFILE, &limit));
  std::vector<unique_fd> all;
  for (int expected = 3; expected < 64; ++expected) {
    all.emplace_back(MUST(open("/dev/null", O_RDONLY)));
    CHECK_EQ(all.back(), expected);
  }
  CHECK_ERRNO(open("/dev/null", O_RDONLY), EMFILE);
  return 0;
}

CASE(the_lowest_free_number_comes_first_and_no_number_is_missing) {
  const int status = in_child([] {
    closefrom(3);
    execl("/proc/self/exe", "pipes", "--lowest-numbers", nullptr);
  });
  CHECK_EXITED(status, 0);
}

void check_sockets_work() {
  crowd(4, [](int id) {
    const fd_pair pair = id % 2 == 0 ? tcp_pair() : unix_pair();
    std::thread reader([&] { CHECK_EQ(read_up_to(pair.a, 3), "abc"); });
    usleep(2000);
    write_all(pair.b, "abc");
    reader.join();
  });
}

CASE(a_program_that_closes_all_it_finds_goes_on_with_new_sockets) {
  const int status = in_child([] {
    check_sockets_work();
    std::mutex lock;
    std::condition_variable told;
    bool go = false;
    std::thread waiter([&] {
      std::unique_lock held(lock);
      told.wait(held, [&] { return go; });
      usleep(1000);
    });
    std::thread sleeper([] { usleep(60'000); });
    let_it_block();
    const auto check_goes_on = [] {
      usleep(1000);
      check_sockets_work();
    };
    MUST(close_range(3, ~0U, 0));
    check_goes_on();
    closefrom(3);
    check_goes_on();
    for (int fd = 3; fd < 1100; ++fd) close(fd);
    check_goes_on();
    std::thread([&] {
      MUST(close_range(3, ~0U, 0));
      check_goes_on();
    }).join();
    {
      std::lock_guard held(lock);
      go = true;
    }
    told.notify_one();
    waiter.join();
    sleeper.join();
  });
  CHECK_EXITED(status, 0);
}

CASE(close_on_exec_for_all_changes_nothing_here) {
  const int status = in_child([] {
    check_sockets_work();
    MUST(close_range(3, ~0U, CLOSE_RANGE_CLOEXEC));
    check_sockets_work();
  });
  CHECK_EXITED(status, 0);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "--upper-case") == 0) return upper_case();
  if (argc == 2 && strcmp(argv[1], "--lowest-numbers") == 0) return lowest_numbers();
  return run_cases(argc, argv);
}
