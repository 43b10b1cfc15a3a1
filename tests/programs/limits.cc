// limits.cc - clause 1: where the system says no, the caller hears it as natively, and everybody
// else goes on.
//
// Each case is in a child process, which may use up what it has.

#include <atomic>
#include <cstdlib>

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "check.h"
#include "child.h"
#include "net.h"
#include "threads.h"

namespace {

// Pairs of threads that send a byte to and fro all the time. They ask for nothing new.
class busy_pairs {
 public:
  busy_pairs() {
    for (int i = 0; i < 5; ++i) pairs_.push_back(i % 2 == 0 ? tcp_pair() : unix_pair());
    for (fd_pair& pair : pairs_) {
      threads_.emplace_back([&] {
        char byte = 'x';
        while (!end_) {
          write_all(pair.a, &byte, 1);
          CHECK_EQ(recv(pair.a, &byte, 1, 0), 1);
          ++rounds_;
          usleep(100);
        }
        MUST(shutdown(pair.a, SHUT_WR));
      });
      threads_.emplace_back([&] {
        for (char byte; MUST(recv(pair.b, &byte, 1, 0)) == 1;) write_all(pair.b, &byte, 1);
      });
    }
    go_on();
  }
  ~busy_pairs() {
    end_ = true;
    for (std::thread& one : threads_) one.join();
  }

  void go_on() {
    const long before = rounds_;
    eventually([&] { return rounds_ > before + 50; });
  }

 private:
  std::vector<fd_pair> pairs_;
  std::vector<std::thread> threads_;
  std::atomic<long> rounds_ = 0;
  std::atomic<bool> end_ = false;
};

void set_limit(__rlimit_resource_t what, rlim_t value) {
  rlimit limit;
  MUST(getrlimit(what, &limit));
  limit.rlim_cur = value;
  MUST(setrlimit(what, &limit));
}

std::vector<unique_fd> use_up_the_descriptors() {
  std::vector<unique_fd> all;
  for (int fd; (fd = open("/dev/null", O_RDONLY)) != -1;) all.emplace_back(fd);
  CHECK_EQ(errno, EMFILE);
  return all;
}

CASE(without_free_numbers_every_call_that_needs_one_is_EMFILE) {
  const int status = in_child([] {
    busy_pairs others;
    crowd(1, [&](int) {
      const unique_fd listener = tcp_listener();
      set_limit(RLIMIT_NOFILE, 100);
      const unique_fd client = connect_to(port_of(listener));
      std::vector<unique_fd> all = use_up_the_descriptors();
      int pair[2];
      CHECK_ERRNO(socket(AF_INET, SOCK_STREAM, 0), EMFILE);
      CHECK_ERRNO(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), EMFILE);
      CHECK_ERRNO(pipe(pair), EMFILE);
      CHECK_ERRNO(dup(client), EMFILE);
      CHECK_ERRNO(accept(listener, nullptr, nullptr), EMFILE);
      CHECK_ERRNO(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC), EMFILE);
      others.go_on();
      crowd(10, [](int) { usleep(500); });
      all.pop_back();
      const unique_fd server(
          MUST(accept(listener, nullptr, nullptr)));  // the connection was not lost
      std::thread reader([&] { CHECK_EQ(read_up_to(server, 2), "ab"); });
      let_it_block();
      write_all(client, "ab");
      reader.join();
    });
    others.go_on();
  });
  CHECK_EXITED(status, 0);
}

CASE(threads_can_start_and_block_when_no_number_is_free) {
  const int status = in_child([] {
    const fd_pair pair = unix_pair();
    set_limit(RLIMIT_NOFILE, 50);
    const std::vector<unique_fd> all = use_up_the_descriptors();
    crowd(10, [&](int id) {
      if (id == 0) {
        CHECK_EQ(read_up_to(pair.a, 1), "x");
      } else if (id == 1) {
        let_it_block();
        write_all(pair.b, "x");
      } else {
        usleep(1000);
      }
    });
  });
  CHECK_EXITED(status, 0);
}

// Starts a thread that waits for the event; the error instead if that fails.
int start_waiter(std::vector<pthread_t>& threads, event& end,
                 const pthread_attr_t* attributes = nullptr) {
  pthread_t thread;
  const int error = pthread_create(
      &thread, attributes,
      [](void* until) -> void* {
        static_cast<event*>(until)->wait();
        return nullptr;
      },
      &end);
  if (error == 0) threads.push_back(thread);
  return error;
}

void join_all(std::vector<pthread_t>& threads) {
  for (const pthread_t one : threads) CHECK_EQ(pthread_join(one, nullptr), 0);
  threads.clear();
}

rlim_t address_space() {
  FILE* const statm = fopen("/proc/self/statm", "re");
  CHECK(statm != nullptr);
  unsigned long pages;
  CHECK_EQ(fscanf(statm, "%lu", &pages), 1);
  fclose(statm);
  return pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
}

CASE(without_room_for_a_stack_pthread_create_is_EAGAIN) {
  const int status = in_child([] {
    busy_pairs others;
    event end;
    std::vector<pthread_t> threads;
    threads.reserve(4000);
    set_limit(RLIMIT_AS, address_space() + (rlim_t{512} << 20));
    int error = 0;
    while (threads.size() < 4000 && (error = start_waiter(threads, end)) == 0) {
    }
    CHECK_EQ(error, EAGAIN);
    CHECK(threads.size() >= 10);
    CHECK_EQ(start_waiter(threads, end), EAGAIN);  // and so it stays
    others.go_on();
    end.set();
    join_all(threads);
    for (int i = 0; i < 10; ++i) CHECK_EQ(start_waiter(threads, end), 0);  // there is room again
    join_all(threads);
    others.go_on();
  });
  CHECK_EXITED(status, 0);
}

CASE(a_stack_larger_than_the_address_space_is_EAGAIN) {
  const int status = in_child([] {
    event end;
    std::vector<pthread_t> threads;
    pthread_attr_t huge;
    CHECK_EQ(pthread_attr_init(&huge), 0);
    CHECK_EQ(pthread_attr_setstacksize(&huge, size_t{1} << 50), 0);
    CHECK_EQ(start_waiter(threads, end, &huge), EAGAIN);
    CHECK_EQ(start_waiter(threads, end), 0);
    CHECK_EQ(start_waiter(threads, end, &huge), EAGAIN);
    end.set();
    join_all(threads);
  });
  CHECK_EXITED(status, 0);
}

[[gnu::noinline]] int recurse(int depth) {
  volatile char frame[1024];
  frame[0] = static_cast<char>(depth);
  // A sum, so that the compiler cannot make a loop of it.
  return depth < 0 ? 0 : recurse(depth + 1) + frame[0];
}

CASE(a_stack_that_overflows_in_a_thread_is_SIGSEGV) {
  for (const size_t stack_size : {size_t{64} << 10, size_t{8} << 20}) {
    const int status = in_child([=] {
      set_limit(RLIMIT_CORE, 0);
      signal(SIGSEGV, SIG_DFL);
      busy_pairs others;
      pthread_attr_t attributes;
      CHECK_EQ(pthread_attr_init(&attributes), 0);
      CHECK_EQ(pthread_attr_setstacksize(&attributes, stack_size), 0);
      pthread_t thread;
      const auto overflow = [](void*) -> void* {
        usleep(1000);
        return recurse(0) == 0 ? nullptr : &all_cases();
      };
      CHECK_EQ(pthread_create(&thread, &attributes, overflow, nullptr), 0);
      CHECK_EQ(pthread_join(thread, nullptr), 0);
    });
    CHECK_KILLED_BY(status, SIGSEGV);
  }
}

char* guard_low;
char* guard_high;

CASE(a_handler_on_a_stack_of_its_own_sees_the_overflow_of_its_thread) {
  const int status = in_child([] {
    struct sigaction action {};
    action.sa_flags = SA_ONSTACK | SA_SIGINFO;
    action.sa_sigaction = [](int, siginfo_t* info, void*) {
      const char* const at = static_cast<char*>(info->si_addr);
      _exit(at >= guard_low && at < guard_high ? 33 : 34);
    };
    MUST(sigaction(SIGSEGV, &action, nullptr));
    // Two threads with such a stack; the one that overflows gets its own, wherever it goes on.
    crowd(2, [](int id) {
      std::vector<char> memory(size_t{64} << 10);
      const stack_t own = {memory.data(), 0, memory.size()};
      MUST(sigaltstack(&own, nullptr));
      for (int i = 0; i < 10; ++i) usleep(500);
      stack_t seen;
      MUST(sigaltstack(nullptr, &seen));
      CHECK(seen.ss_sp == own.ss_sp && seen.ss_size == own.ss_size);
      if (id == 1) {
        pthread_attr_t attributes;
        void* low;
        size_t size;
        CHECK_EQ(pthread_getattr_np(pthread_self(), &attributes), 0);
        CHECK_EQ(pthread_attr_getstack(&attributes, &low, &size), 0);
        guard_low = static_cast<char*>(low) - 4096;
        guard_high = static_cast<char*>(low);
        CHECK(recurse(0) != 0);
      }
      sleep(1000);
    });
  });
  CHECK_EXITED(status, 33);
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
