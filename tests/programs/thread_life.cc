// thread_life.cc - clause 2: threads are created, named, joined, detached and ended as pthreads
// are, and the process ends as it does natively, whoever ends it and whoever else is blocked.

#include <array>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <future>
#include <mutex>
#include <set>

#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "check.h"
#include "child.h"
#include "clock.h"
#include "net.h"
#include "threads.h"

namespace {

// A thread made by pthread_create itself, with attributes. It lives on after this object, unless
// joined.
class raw_thread {
 public:
  template <class Body>
  explicit raw_thread(Body body, const pthread_attr_t* attributes = nullptr) {
    CHECK_EQ(pthread_create(&id_, attributes, run, new std::function<void*()>(std::move(body))), 0);
  }

  pthread_t id() const { return id_; }

  void* join() {
    void* result = this;
    CHECK_EQ(pthread_join(id_, &result), 0);
    return result;
  }

 private:
  static void* run(void* argument) {
    std::function<void*()> body = std::move(*static_cast<std::function<void*()>*>(argument));
    delete static_cast<std::function<void*()>*>(argument);
    return body();
  }

  pthread_t id_;
};

class attributes {
 public:
  attributes() { CHECK_EQ(pthread_attr_init(&value_), 0); }
  ~attributes() { CHECK_EQ(pthread_attr_destroy(&value_), 0); }
  pthread_attr_t* get() { return &value_; }

 private:
  pthread_attr_t value_;
};

void* as_pointer(intptr_t value) { return reinterpret_cast<void*>(value); }

CASE(join_gives_the_value_that_the_thread_returned) {
  CHECK(raw_thread([] { return as_pointer(42); }).join() == as_pointer(42));
  CHECK(raw_thread([] { return as_pointer(-1); }).join() == as_pointer(-1));
}

CASE(join_waits_for_a_running_thread_and_not_for_an_ended_one) {
  event go;
  raw_thread running([&] {
    go.wait();
    usleep(2000);
    return as_pointer(1);
  });
  go.set();
  CHECK(running.join() == as_pointer(1));

  raw_thread ended([] { return as_pointer(2); });
  let_it_block();
  CHECK(ended.join() == as_pointer(2));
}

CASE(pthread_exit_unwinds_the_stack_and_gives_its_value_to_join) {
  std::atomic<int> destroyed = 0;
  struct counts_its_end {
    ~counts_its_end() {
      usleep(100);  // a destructor may block
      ++count;
    }
    std::atomic<int>& count;
  };
  const std::function<void(int)> deeper = [&](int levels) {
    counts_its_end one{destroyed};
    if (levels == 0) pthread_exit(as_pointer(77));
    deeper(levels - 1);
  };
  raw_thread leaver([&]() -> void* {
    try {
      deeper(9);
    } catch (...) {
      ++destroyed;
      throw;  // as a thread's end demands
    }
    return nullptr;
  });
  CHECK(leaver.join() == as_pointer(77));
  CHECK_EQ(destroyed, 11);
}

CASE(a_thread_may_be_created_detached_or_detached_later) {
  event go, done;
  std::atomic<int> ended = 0;
  const auto body = [&] {
    go.wait();
    if (++ended == 3) done.set();
    return nullptr;
  };
  attributes detached;
  CHECK_EQ(pthread_attr_setdetachstate(detached.get(), PTHREAD_CREATE_DETACHED), 0);
  raw_thread born_detached(body, detached.get());
  raw_thread detached_by_main(body);
  CHECK_EQ(pthread_detach(detached_by_main.id()), 0);
  raw_thread detaches_itself([&] {
    CHECK_EQ(pthread_detach(pthread_self()), 0);
    return body();
  });
  CHECK_EQ(pthread_join(born_detached.id(), nullptr), EINVAL);
  CHECK_EQ(pthread_detach(born_detached.id()), EINVAL);
  CHECK_EQ(pthread_join(detached_by_main.id(), nullptr), EINVAL);
  go.set();
  done.wait();
}

CASE(a_thread_cannot_join_itself) {
  raw_thread([] {
    CHECK_EQ(pthread_join(pthread_self(), nullptr), EDEADLK);
    return nullptr;
  }).join();
  CHECK_EQ(pthread_join(pthread_self(), nullptr), EDEADLK);
}

CASE(tryjoin_and_timed_joins_do_not_wait_longer_than_told) {
  event go;
  raw_thread target([&] {
    go.wait();
    return as_pointer(9);
  });
  CHECK_EQ(pthread_tryjoin_np(target.id(), nullptr), EBUSY);
  const timespec past = {1, 0};
  CHECK_EQ(pthread_timedjoin_np(target.id(), nullptr, &past), ETIMEDOUT);
  const timespec soon = from_now(CLOCK_REALTIME, 20);
  CHECK_EQ(pthread_timedjoin_np(target.id(), nullptr, &soon), ETIMEDOUT);
  CHECK(has_passed(CLOCK_REALTIME, soon));
  const timespec soon_too = from_now(CLOCK_MONOTONIC, 20);
  CHECK_EQ(pthread_clockjoin_np(target.id(), nullptr, CLOCK_MONOTONIC, &soon_too), ETIMEDOUT);
  CHECK(has_passed(CLOCK_MONOTONIC, soon_too));
  go.set();
  const timespec late = from_now(CLOCK_REALTIME, kHangMs);
  void* result = nullptr;
  CHECK_EQ(pthread_timedjoin_np(target.id(), &result, &late), 0);
  CHECK(result == as_pointer(9));

  raw_thread brief([] { return as_pointer(8); });
  int error;
  eventually([&] { return (error = pthread_tryjoin_np(brief.id(), &result)) != EBUSY; });
  CHECK_EQ(error, 0);
  CHECK(result == as_pointer(8));
}

CASE(self_and_equal_know_who_is_who) {
  const pthread_t main_id = pthread_self();
  CHECK(pthread_equal(main_id, pthread_self()));
  pthread_t seen[2];
  event both;
  std::atomic<int> arrived = 0;
  crowd(2, [&](int id) {
    seen[id] = pthread_self();
    CHECK(!pthread_equal(pthread_self(), main_id));
    if (++arrived == 2) both.set();
    both.wait();
    usleep(1000);
    CHECK(pthread_equal(pthread_self(), seen[id]));
    CHECK(!pthread_equal(pthread_self(), seen[1 - id]));
  });
  event go;
  raw_thread other([&] {
    go.wait();
    return as_pointer(static_cast<intptr_t>(pthread_self()));
  });
  const pthread_t id = other.id();
  go.set();
  CHECK(other.join() == as_pointer(static_cast<intptr_t>(id)));
}

CASE(thread_ids_are_unique_and_never_change) {
  CHECK_EQ(gettid(), getpid());
  constexpr int kThreads = 200;
  std::mutex lock;
  std::set<pid_t> ids = {getpid()};
  event all;
  crowd(kThreads, [&](int) {
    const pid_t id = gettid();
    CHECK(id > 0);
    {
      std::lock_guard held(lock);
      CHECK(ids.insert(id).second);
      if (ids.size() == kThreads + 1) all.set();
    }
    for (int round = 0; round < 5; ++round) {
      CHECK_EQ(syscall(SYS_gettid), id);
      usleep(500);
      CHECK_EQ(gettid(), id);
      sched_yield();
    }
    all.wait();
    CHECK_EQ(gettid(), id);
    CHECK_EQ(syscall(SYS_getpid), getpid());
  });
  CHECK_EQ(gettid(), getpid());
}

CASE(attributes_say_what_was_set) {
  attributes one;
  int detach_state;
  size_t size;
  CHECK_EQ(pthread_attr_getdetachstate(one.get(), &detach_state), 0);
  CHECK_EQ(detach_state, PTHREAD_CREATE_JOINABLE);
  CHECK_EQ(pthread_attr_setstacksize(one.get(), 300 * 1024), 0);
  CHECK_EQ(pthread_attr_getstacksize(one.get(), &size), 0);
  CHECK_EQ(size, 300 * 1024);
  CHECK_EQ(pthread_attr_setstacksize(one.get(), 100), EINVAL);
  CHECK_EQ(pthread_attr_setguardsize(one.get(), 12345), 0);
  CHECK_EQ(pthread_attr_getguardsize(one.get(), &size), 0);
  CHECK_EQ(size, 12345);
  CHECK_EQ(pthread_attr_setdetachstate(one.get(), 99), EINVAL);
}

struct stack_bounds {
  char* low;
  char* high;
  size_t size() const { return static_cast<size_t>(high - low); }
  bool contains(const void* address) const { return address >= low && address < high; }
};

stack_bounds own_stack() {
  pthread_attr_t attr;
  void* low;
  size_t size;
  CHECK_EQ(pthread_getattr_np(pthread_self(), &attr), 0);
  CHECK_EQ(pthread_attr_getstack(&attr, &low, &size), 0);
  CHECK_EQ(pthread_attr_destroy(&attr), 0);
  return {static_cast<char*>(low), static_cast<char*>(low) + size};
}

// Writes to this many bytes of stack below the caller's frame.
[[gnu::noinline]] void touch_stack(size_t bytes) {
  volatile char* const frame = static_cast<char*>(__builtin_alloca(bytes));
  for (size_t i = 0; i < bytes; i += 512) frame[bytes - 1 - i] = 1;
}

CASE(the_stack_bounds_of_a_thread_contain_its_locals) {
  char local_of_main;
  CHECK(own_stack().contains(&local_of_main));
  crowd(20, [](int) {
    char local;
    const stack_bounds before = own_stack();
    CHECK(before.contains(&local));
    usleep(1000);
    const stack_bounds after = own_stack();
    CHECK(before.low == after.low && before.high == after.high);
  });
}

CASE(a_thread_has_the_stack_that_it_asked_for) {
  for (const size_t asked :
       {size_t{64} << 10, size_t{256} << 10, size_t{1} << 20, size_t{16} << 20}) {
    attributes sized;
    CHECK_EQ(pthread_attr_setstacksize(sized.get(), asked), 0);
    raw_thread(
        [&] {
          const stack_bounds bounds = own_stack();
          CHECK(bounds.size() <= asked + 4096 && bounds.size() >= asked - 8192);
          touch_stack(asked - 24 * 1024);
          sched_yield();
          touch_stack(asked - 24 * 1024);
          return nullptr;
        },
        sized.get())
        .join();
  }
  raw_thread([] {
    touch_stack(size_t{7} << 20);  // 8 MiB are promised where nothing is said
    return nullptr;
  }).join();
}

CASE(a_guard_is_as_large_as_asked) {
  attributes guarded;
  CHECK_EQ(pthread_attr_setguardsize(guarded.get(), 64 * 1024), 0);
  raw_thread(
      [] {
        pthread_attr_t attr;
        size_t size;
        CHECK_EQ(pthread_getattr_np(pthread_self(), &attr), 0);
        CHECK_EQ(pthread_attr_getguardsize(&attr, &size), 0);
        CHECK_EQ(size, 64 * 1024);
        CHECK_EQ(pthread_attr_destroy(&attr), 0);
        return nullptr;
      },
      guarded.get())
      .join();
}

CASE(a_thread_runs_on_the_stack_that_its_creator_provides) {
  constexpr size_t kSize = 256 * 1024;
  char* const memory = static_cast<char*>(
      MUST(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
  attributes provided;
  CHECK_EQ(pthread_attr_setstack(provided.get(), memory, kSize), 0);
  for (int use = 0; use < 3; ++use) {
    memset(memory, 0xa5, kSize);
    raw_thread(
        [&] {
          char local;
          CHECK(&local >= memory && &local < memory + kSize);
          const stack_bounds bounds = own_stack();
          CHECK(bounds.low == memory && bounds.size() == kSize);
          touch_stack(200 * 1024);
          usleep(2000);
          CHECK(&local >= memory && &local < memory + kSize);
          return nullptr;
        },
        provided.get())
        .join();
    // What lies below the deepest use is the creator's, and nobody wrote to it.
    for (size_t i = 0; i < 16 * 1024; ++i) CHECK_EQ(static_cast<unsigned char>(memory[i]), 0xa5);
  }
  MUST(munmap(memory, kSize));  // joined, so nobody uses it any more
  usleep(1000);
}

CASE(a_name_can_be_set_and_read_by_its_thread_and_by_others) {
  char name[16];
  event named, renamed;
  raw_thread other([&] {
    char own[16];
    CHECK_EQ(pthread_setname_np(pthread_self(), "fifteen-letters"), 0);
    CHECK_EQ(pthread_getname_np(pthread_self(), own, sizeof own), 0);
    CHECK_EQ(own, "fifteen-letters");
    CHECK_EQ(pthread_setname_np(pthread_self(), "sixteen--letters"), ERANGE);
    CHECK_EQ(pthread_getname_np(pthread_self(), own, 5), ERANGE);
    CHECK_EQ(prctl(PR_GET_NAME, own), 0);
    CHECK_EQ(own, "fifteen-letters");
    named.set();
    renamed.wait();
    CHECK_EQ(pthread_getname_np(pthread_self(), own, sizeof own), 0);
    CHECK_EQ(own, "new");
    CHECK_EQ(prctl(PR_SET_NAME, "newer"), 0);
    CHECK_EQ(pthread_getname_np(pthread_self(), own, sizeof own), 0);
    CHECK_EQ(own, "newer");
    return nullptr;
  });
  named.wait();
  CHECK_EQ(pthread_getname_np(other.id(), name, sizeof name), 0);
  CHECK_EQ(name, "fifteen-letters");
  CHECK_EQ(pthread_setname_np(other.id(), "new"), 0);
  CHECK_EQ(pthread_getname_np(pthread_self(), name, sizeof name), 0);
  CHECK_EQ(name, "thread_life");  // main's own is untouched
  renamed.set();
  other.join();
}

CASE(a_new_thread_has_the_name_of_its_creator) {
  raw_thread([] {
    CHECK_EQ(pthread_setname_np(pthread_self(), "parent"), 0);
    raw_thread([] {
      char name[16];
      CHECK_EQ(pthread_getname_np(pthread_self(), name, sizeof name), 0);
      CHECK_EQ(name, "parent");
      return nullptr;
    }).join();
    return nullptr;
  }).join();
}

std::atomic<int> grown;

void grow(int depth) {
  ++grown;
  if (depth == 0) return;
  std::thread left(grow, depth - 1), right(grow, depth - 1);
  left.join();
  right.join();
}

CASE(threads_create_threads) {
  grown = 0;
  grow(8);
  CHECK_EQ(grown, 511);
}

CASE(futures_carry_values_and_exceptions_from_thread_to_thread) {
  std::vector<std::future<int>> answers;
  for (int i = 0; i < 50; ++i) {
    answers.push_back(std::async(std::launch::async, [i] {
      usleep(static_cast<useconds_t>(i) * 20);
      if (i % 10 == 9) throw std::out_of_range(std::to_string(i));
      return i * i;
    }));
  }
  for (int i = 0; i < 50; ++i) {
    try {
      CHECK_EQ(answers[i].get(), i * i);
      CHECK(i % 10 != 9);
    } catch (const std::out_of_range& error) {
      CHECK_EQ(error.what(), std::to_string(i));
    }
  }
  std::promise<std::string> promise;
  std::future<std::string> future = promise.get_future();
  CHECK(future.wait_for(std::chrono::milliseconds(5)) == std::future_status::timeout);
  std::thread teller([&] { promise.set_value_at_thread_exit("done"); });
  CHECK_EQ(future.get(), "done");
  teller.join();
}

long resident_kib() {
  FILE* statm = fopen("/proc/self/statm", "re");
  CHECK(statm != nullptr);
  long size, resident;
  CHECK_EQ(fscanf(statm, "%ld %ld", &size, &resident), 2);
  fclose(statm);
  return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

CASE(twenty_thousand_threads_come_and_go_and_leave_nothing_behind) {
  std::atomic<int> ran = 0;
  const auto create_and_join = [&](int n) {
    for (int i = 0; i < n; ++i) {
      raw_thread([&] {
        void* volatile used = malloc(1000);  // an allocator cache must not stay behind either
        free(used);
        ++ran;
        return nullptr;
      }).join();
    }
  };
  create_and_join(2000);  // whatever is pooled is pooled by now
  const long before = resident_kib();
  create_and_join(20'000);
  const long after = resident_kib();
  CHECK_EQ(ran, 22'000);
  if (after > before + 8 * 1024)
    check_failed(__FILE__, __LINE__, "grew from %ld to %ld KiB", before, after);
}

// Threads that block for ever, each in another way, until the process ends under them.
void block_some_threads() {
  struct blockers {  // never destroyed: that would wait for whoever waits at the condition
    fd_pair silent = unix_pair();
    std::mutex lock;
    std::condition_variable never;
    event nothing, all;
    std::atomic<int> started;
  };
  blockers& on = *new blockers;
  const auto start = [&](auto block_for_ever) {
    raw_thread([&on, block_for_ever] {
      if (++on.started == 40) on.all.set();
      block_for_ever();
      check_failed(__FILE__, __LINE__, "a thread that should block for ever went on");
      return nullptr;
    });
  };
  for (int i = 0; i < 10; ++i) {
    start([&on] {
      char byte;
      recv(on.silent.a, &byte, 1, 0);
    });
    start([&on] {
      std::unique_lock held(on.lock);
      on.never.wait(held, [] { return false; });
    });
    start([&on] { on.nothing.wait(); });
    start([] { sleep(1000); });
  }
  on.all.wait();
  let_it_block();
}

int report_fd;  // where the exit handler writes one letter

void report_exit_by(int fd) {
  report_fd = fd;
  MUST(atexit([] { write_all(report_fd, "x", 1); }));
}

CASE(exit_from_a_thread_ends_the_process_and_runs_exit_handlers_once) {
  pipe_ends report = make_pipe();
  const int status = in_child([&] {
    report_exit_by(report.write);
    block_some_threads();
    raw_thread([]() -> void* { exit(7); });
    sleep(1000);
  });
  CHECK_EXITED(status, 7);
  report.write.reset();
  CHECK_EQ(read_to_end(report.read), "x");
}

CASE(quick_exits_from_a_thread_run_no_exit_handlers) {
  pipe_ends report = make_pipe();
  const int status = in_child([&] {
    report_exit_by(report.write);
    block_some_threads();
    raw_thread([]() -> void* { _exit(8); });
    sleep(1000);
  });
  CHECK_EXITED(status, 8);
  report.write.reset();
  CHECK_EQ(read_to_end(report.read), "");
}

// The next cases are about main itself; main() below runs these in a fresh process.
constexpr int kReportFd = 100;

int main_returns() {
  report_exit_by(kReportFd);
  block_some_threads();
  return 11;
}

int main_exits_its_thread_first() {
  report_exit_by(kReportFd);
  block_some_threads();
  raw_thread([]() -> void* {
    let_it_block();
    exit(12);
  });
  pthread_exit(nullptr);
}

int main_exits_its_thread_and_the_last_thread_ends() {
  report_exit_by(kReportFd);
  const pthread_t main_id = pthread_self();
  raw_thread([=] {
    CHECK_EQ(pthread_join(main_id, nullptr), 0);  // main is a thread like others
    usleep(2000);
    return as_pointer(1);
  });
  pthread_exit(as_pointer(1));
}

struct main_case {
  const char* name;
  int (*body)();
  int expected_status;
};

constexpr std::array kMainCases = {
    main_case{"--main-returns", main_returns, 11},
    main_case{"--main-exits-first", main_exits_its_thread_first, 12},
    main_case{"--last-thread-ends", main_exits_its_thread_and_the_last_thread_ends, 0},
};

void check_ends_properly(const main_case& one) {
  pipe_ends report = make_pipe();
  MUST(dup2(report.write, kReportFd));
  report.write.reset();
  CHECK_EXITED(run_self({one.name}), one.expected_status);
  MUST(close(kReportFd));
  CHECK_EQ(read_to_end(report.read), "x");
}

CASE(main_may_return_while_others_are_blocked) { check_ends_properly(kMainCases[0]); }

CASE(after_pthread_exit_in_main_another_thread_ends_the_process) {
  check_ends_properly(kMainCases[1]);
}

CASE(after_pthread_exit_in_main_the_last_threads_end_is_exit_0) {
  check_ends_properly(kMainCases[2]);
}

}  // namespace

int main(int argc, char** argv) {
  for (const main_case& one : kMainCases) {
    if (argc == 2 && strcmp(argv[1], one.name) == 0) return one.body();
  }
  return run_cases(argc, argv);
}
