// fork_clone.cc - clauses 2, 5, 6: clone used like fork, and threads that the program makes by clone alone: these are the
// kernel's, and share every lock with the others.

#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "check.h"
#include "child.h"
#include "net.h"
#include "threads.h"

extern "C" void* _dl_allocate_tls(void*);

namespace {

constexpr size_t kStack = 256 * 1024;

char* stack_top() {
  void* memory = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  return static_cast<char*>(memory) + kStack;
}

int live(void* peer) {
  alarm(30);
  const int fd = *static_cast<int*>(peer);
  char byte;
  CHECK_EQ(read(fd, &byte, 1), 1);
  std::atomic<int> sum = 0;
  crowd(10, [&](int) {
    usleep(500);
    ++sum;
  });
  CHECK_EQ(write(fd, "y", 1), 1);
  return sum == 10 ? 7 : 1;
}

template <class Start>
void check_child(Start start) {
  const fd_pair pair = unix_pair();
  int far = pair.b;
  const pid_t child = start(&far);
  CHECK(child > 0);
  usleep(1000);
  write_all(pair.a, "x");
  CHECK_EQ(read_up_to(pair.a, 1), "y");
  CHECK_EXITED(wait_for(child), 7);
}

// A thread of the kernel's, with thread variables of its own; `done` is cleared by the kernel at its end.
class raw_thread {
 public:
  template <class Body>
  explicit raw_thread(Body& body) {
    char* const block = static_cast<char*>(
        mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    void* const tcb = _dl_allocate_tls(block + 32768);
    CHECK(tcb != nullptr);
    static_cast<void**>(tcb)[0] = tcb;
    static_cast<void**>(tcb)[2] = tcb;
    uintptr_t* const words =
        static_cast<uintptr_t*>(tcb);  // multiple_threads, stack guard, pointer guard
    asm("mov %%fs:0x18, %0" : "=r"(words[3]));
    asm("mov %%fs:0x28, %0" : "=r"(words[5]));
    asm("mov %%fs:0x30, %0" : "=r"(words[6]));
    const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                      CLONE_SYSVSEM | CLONE_SETTLS | CLONE_CHILD_CLEARTID;
    MUST(clone(
        [](void* argument) {
          (*static_cast<Body*>(argument))();
          syscall(SYS_exit, 0);
          return 0;
        },
        stack_top(), flags, &body, nullptr, tcb, &done_));
  }
  ~raw_thread() {
    eventually([this] { return __atomic_load_n(&done_, __ATOMIC_ACQUIRE) == 0; });
  }

 private:
  pid_t done_ = 1;
};

}  // namespace

CASE(clone_like_fork_from_main_and_from_threads) {
  const auto start = [](int* peer) { return clone(live, stack_top(), SIGCHLD, peer); };
  check_child(start);
  std::thread idle([] { usleep(100'000); });
  check_child(start);
  crowd(4, [&](int) { check_child(start); });
  idle.join();
}

CASE(the_system_call_clone_like_fork) {
  const auto start = [](int* peer) {
    const pid_t child = static_cast<pid_t>(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
    if (child == 0) _exit(live(peer));
    return child;
  };
  std::thread idle([] { usleep(100'000); });
  check_child(start);
  std::thread([&] { check_child(start); }).join();
  idle.join();
}

CASE(clone_like_vfork) {
  const auto check = [] {
    const int child = clone(
        [](void*) {
          execl("/bin/sh", "sh", "-c", "exit 3", nullptr);
          return 9;
        },
        stack_top(), CLONE_VM | CLONE_VFORK | SIGCHLD, nullptr);
    CHECK(child > 0);
    CHECK_EXITED(wait_for(child), 3);
  };
  check();
  crowd(4, [&](int) { check(); });
}

// Not a rwlock: that needs the thread's number where libc keeps it.
CASE(a_thread_by_clone_uses_locks) {
  std::mutex mutex;
  std::condition_variable told;
  sem_t to_raw, from_raw;
  MUST(sem_init(&to_raw, 0, 0));
  MUST(sem_init(&from_raw, 0, 0));
  long counter = 0;
  int turn = 0;
  constexpr int kRounds = 2000;
  const auto count = [&] {
    for (int i = 0; i < kRounds; ++i) {
      std::lock_guard held(mutex);
      ++counter;
    }
  };
  const auto take_turns = [&](int mine) {
    for (int i = 0; i < 100; ++i) {
      std::unique_lock held(mutex);
      told.wait(held, [&] { return turn == mine; });
      turn = 1 - mine;
      told.notify_all();
    }
  };
  auto raw = [&] {
    for (int i = 0; i < 100; ++i) {
      while (sem_wait(&to_raw) != 0) {
      }
      sem_post(&from_raw);
    }
    take_turns(0);
    count();
  };
  std::thread partner([&] {
    for (int i = 0; i < 100; ++i) {
      MUST(sem_post(&to_raw));
      MUST(sem_wait(&from_raw));
    }
    take_turns(1);
    count();
  });
  {
    raw_thread other(raw);
    partner.join();
  }
  CHECK_EQ(counter, 2L * kRounds);
}

CASE(a_thread_by_clone_blocks_in_calls_of_its_own) {
  const fd_pair pair = unix_pair();
  auto raw = [&] {
    char byte;
    if (read(pair.b, &byte, 1) == 1 && write(pair.b, "z", 1) != 1) _exit(9);
    usleep(1000);
  };
  std::thread idle([] { usleep(50'000); });
  {
    raw_thread other(raw);
    std::thread([&] {
      write_all(pair.a, "x");
      CHECK_EQ(read_up_to(pair.a, 1), "z");
    }).join();
  }
  idle.join();
}

int main(int argc, char** argv) { return run_cases(argc, argv); }
