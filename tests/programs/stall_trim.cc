// stall_trim.cc - clause 3: kernel threads that were needed while many threads blocked go away when they are not needed
// any more, and come again.

#include <filesystem>

#include <sys/file.h>
#include <sys/syscall.h>

#include "check.h"
#include "net.h"
#include "threads.h"

namespace {

constexpr int kThreads = 20;
constexpr long kFew = 12;  // natively one; under weft eight workers and some of its own

long kernel_threads() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return std::distance(begin(tasks), end(tasks));
}

ssize_t raw_read(int fd, char* byte) {
#if defined(__x86_64__)
  ssize_t result;
  asm volatile("syscall" : "=a"(result) : "a"(SYS_read), "D"(fd), "S"(byte), "d"(1) : "rcx", "r11", "memory");
  return result;
#else
  return syscall(SYS_read, fd, byte, 1);
#endif
}

CASE(kernel_threads_go_and_come_again) {
  for (int round = 0; round < 3; ++round) {
    const pipe_ends pipe = make_pipe();
    std::thread writer([&] {
      eventually([] { return kernel_threads() >= kThreads; });
      for (int i = 0; i < kThreads; ++i) write_all(pipe.write, "x");
    });
    crowd(kThreads, [&](int) {
      char byte = 0;
      CHECK_EQ(raw_read(pipe.read, &byte), 1);
    });
    writer.join();
    eventually([] { return kernel_threads() <= kFew; });
  }
}

CASE(file_locks_of_many_threads_are_exclusive) {
  char name[] = "/tmp/weft-trim-XXXXXX";
  const unique_fd file(MUST(mkstemp(name)));
  int inside = 0;
  crowd(kThreads, [&](int) {
    const unique_fd own(MUST(open(name, O_RDWR)));
    for (int i = 0; i < 5; ++i) {
      MUST(flock(own, LOCK_EX));
      CHECK_EQ(++inside, 1);
      usleep(200);
      --inside;
      MUST(flock(own, LOCK_UN));
    }
  });
  struct flock all = {};
  all.l_type = F_WRLCK;
  MUST(fcntl(file, F_OFD_SETLKW, &all));
  std::thread waiter([&] {
    const unique_fd own(MUST(open(name, O_RDWR)));
    struct flock wanted = all;
    MUST(fcntl(own, F_OFD_SETLKW, &wanted));
    inside = 1;
  });
  let_it_block();
  CHECK_EQ(inside, 0);
  all.l_type = F_UNLCK;
  MUST(fcntl(file, F_OFD_SETLK, &all));
  waiter.join();
  CHECK_EQ(inside, 1);
  MUST(unlink(name));
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
