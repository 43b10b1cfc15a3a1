// stalls.cc - threads that compute, block where no hook reaches, or spin, beside threads that tick.
//
// Owns:        one scenario per run: its threads, and the worst gap that a ticker saw.
// Keeps true:  results are checked (every blocked call came back with what it should), so a figure is never of a run
//              that went wrong.  Everything that has to exist (files, pages, the dead name server) is made here.
// Called by:   tools/bench/stalls, native and under weft.  Prints one JSON object.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <resolv.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace {

double now_ms() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) / 1e6;
}

[[noreturn]] void fail(const char* what) {
  dprintf(2, "stalls: %s: %s\n", what, strerror(errno));
  _exit(1);
}

void must(bool holds, const char* what) {
  if (!holds) fail(what);
}

class Tickers {
 public:
  explicit Tickers(int n) {
    for (int i = 0; i < n; ++i)
      threads_.emplace_back([this] {
        for (double last = now_ms(); !end_;) {
          usleep(1000);
          const double time = now_ms();
          note(time - last);
          last = time;
          ++ticks_;
        }
      });
    while (ticks_ < 2 * n) usleep(1000);
    worst_us_ = 0;
    ticks_ = 0;
  }
  void finish() {
    end_ = true;
    for (auto& t : threads_) t.join();
  }
  double worst_ms() const { return static_cast<double>(worst_us_) / 1000; }
  long ticks() const { return ticks_; }

 private:
  void note(double gap_ms) {
    const long us = static_cast<long>(gap_ms * 1000);
    for (long worst = worst_us_; us > worst && !worst_us_.compare_exchange_weak(worst, us);) {
    }
  }
  std::atomic<long> worst_us_{0}, ticks_{0};
  std::atomic<bool> end_{false};
  std::vector<std::thread> threads_;
};

using Threads = std::vector<std::thread>;

void join(Threads& threads) {
  for (auto& t : threads) t.join();
}

volatile unsigned long sink;

// So much work as takes so long when nothing else runs.
unsigned long calibrated(double ms) {
  constexpr unsigned long kLoops = 20'000'000;
  double best = 1e9;
  for (int i = 0; i < 3; ++i) {
    const double begin = now_ms();
    for (unsigned long k = 0; k < kLoops; ++k) sink = sink + k;
    const double took = now_ms() - begin;
    if (took < best) best = took;
  }
  return static_cast<unsigned long>(ms / best * kLoops);
}

void compute(unsigned long loops) {
  for (unsigned long k = 0; k < loops; ++k) sink = sink + k;
}

ssize_t raw_read(int fd, void* buffer, size_t size) {
#if defined(__x86_64__)
  ssize_t result;
  asm volatile("syscall" : "=a"(result) : "a"(SYS_read), "D"(fd), "S"(buffer), "d"(size) : "rcx", "r11", "memory");
  return result;
#else
  return syscall(SYS_read, fd, buffer, size);
#endif
}

// --- the five ways to block; each adds threads that come back after about half a second -----------------------------

constexpr int kHeldMs = 500;
constexpr int kGo = 1, kDone = 2;

void flocks(Threads& threads, int n) {
  static char name[] = "/tmp/weft-stalls-XXXXXX";
  const int fd = mkstemp(name);
  must(fd >= 0 && flock(fd, LOCK_EX) == 0, "flock");
  threads.emplace_back([fd] {
    usleep(kHeldMs * 1000);
    must(flock(fd, LOCK_UN) == 0, "unlock");
  });
  for (int i = 0; i < n; ++i)
    threads.emplace_back([] {
      const int own = open(name, O_RDWR);
      must(own >= 0 && flock(own, LOCK_EX) == 0, "flock");
      must(flock(own, LOCK_UN) == 0, "unlock");
      close(own);
    });
}

void raw_reads(Threads& threads, int n) {
  static int ends[2];
  must(pipe(ends) == 0, "pipe");
  for (int i = 0; i < n; ++i)
    threads.emplace_back([] {
      char byte = 0;
      must(raw_read(ends[0], &byte, 1) == 1 && byte == 'x', "read");
    });
  threads.emplace_back([n] {
    usleep(kHeldMs * 1000);
    for (int i = 0; i < n; ++i) must(write(ends[1], "x", 1) == 1, "write");
  });
}

// Inside libc: the lock of a FILE, held by a thread that sleeps meanwhile.
void file_locks(Threads& threads, int n) {
  static FILE* file = tmpfile();
  static std::atomic<bool> held{false};
  threads.emplace_back([] {
    flockfile(file);
    held = true;
    usleep(kHeldMs * 1000);
    funlockfile(file);
  });
  for (int i = 0; i < n; ++i)
    threads.emplace_back([i] {
      while (!held) usleep(200);
      must(fprintf(file, "%d\n", i) > 0, "fprintf");
    });
}

void resolves(Threads& threads, int n) {
  const int dead = socket(AF_INET, SOCK_DGRAM, 0);
  static sockaddr_in server = {};
  server.sin_family = AF_INET;
  server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof server;
  must(bind(dead, reinterpret_cast<sockaddr*>(&server), size) == 0 && getsockname(dead, reinterpret_cast<sockaddr*>(&server), &size) == 0, "bind");
  for (int i = 0; i < n; ++i)
    threads.emplace_back([] {
      must(res_init() == 0, "res_init");
      _res.nscount = 1;
      _res.nsaddr_list[0] = server;
      _res.retrans = 1;
      _res.retry = 1;
      addrinfo* result = nullptr;
      must(getaddrinfo("name.invalid.example", "80", nullptr, &result) != 0, "a dead name server answered");
    });
}

// Pages that come when a process of its own has slept.
void held_pages(Threads& threads, int n) {
  static char* page = nullptr;
  const auto fault_fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  must(fault_fd >= 0, "userfaultfd");
  uffdio_api api = {};
  api.api = UFFD_API;
  must(ioctl(fault_fd, UFFDIO_API, &api) == 0, "UFFDIO_API");
  page = static_cast<char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  uffdio_register area = {};
  area.range.start = reinterpret_cast<unsigned long>(page);
  area.range.len = 4096;
  area.mode = UFFDIO_REGISTER_MODE_MISSING;
  must(ioctl(fault_fd, UFFDIO_REGISTER, &area) == 0, "UFFDIO_REGISTER");
  for (int i = 0; i < n; ++i) threads.emplace_back([] { must(*static_cast<volatile char*>(page) == 'p', "page"); });
  threads.emplace_back([fault_fd] {
    usleep(kHeldMs * 1000);
    static char content[4096] = {'p'};
    uffdio_copy copy = {};
    copy.dst = reinterpret_cast<unsigned long>(page);
    copy.src = reinterpret_cast<unsigned long>(content);
    copy.len = sizeof content;
    must(ioctl(fault_fd, UFFDIO_COPY, &copy) == 0, "UFFDIO_COPY");
  });
}

void print(const char* name, double ms, const Tickers* tickers) {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const double cpu = static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e3 +
                     static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e3;
  printf("{\"scenario\": \"%s\", \"ms\": %.1f, \"cpu_ms\": %.1f, \"worst_gap_ms\": %.2f, \"ticks\": %ld}\n", name, ms, cpu,
         tickers != nullptr ? tickers->worst_ms() : 0.0, tickers != nullptr ? tickers->ticks() : 0);
}

// 3 threads compute for a second each, 100 sleep a millisecond at a time.
void hogs() {
  const unsigned long loops = calibrated(1000);
  Tickers tickers(100);
  const double begin = now_ms();
  Threads threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back([loops] { compute(loops); });
  join(threads);
  const double took = now_ms() - begin;
  print("hogs", took, &tickers);
  tickers.finish();
}

// The same work in bursts of 5 ms with a sleep of 1 ms between them.
void bursts() {
  const unsigned long loops = calibrated(5);
  Tickers tickers(20);
  const double begin = now_ms();
  Threads threads;
  for (int i = 0; i < 2; ++i)
    threads.emplace_back([loops] {
      for (int k = 0; k < 100; ++k) {
        compute(loops);
        usleep(1000);
      }
    });
  join(threads);
  print("bursts", now_ms() - begin, &tickers);
  tickers.finish();
}

void blocked(const char* name, const std::vector<std::function<void(Threads&)>>& ways) {
  Tickers tickers(1);
  const double begin = now_ms();
  Threads threads;
  for (const auto& way : ways) way(threads);
  join(threads);
  print(name, now_ms() - begin, &tickers);
  tickers.finish();
}

// The holder is parked while others spin.
void spins(const char* name, bool yields) {
  const double begin = now_ms();
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> lock{1};
    std::atomic<int> through{0};
    Threads threads;
    for (int i = 0; i < 8; ++i)
      threads.emplace_back([&] {
        while (lock.exchange(1, std::memory_order_acquire) != 0)
          if (yields) sched_yield();
        ++through;
        lock.store(0, std::memory_order_release);
      });
    threads.emplace_back([&] {
      usleep(5000);
      lock.store(0, std::memory_order_release);
    });
    join(threads);
    must(through == 8, "spin");
  }
  print(name, now_ms() - begin, nullptr);
}

void flag() {
  const double begin = now_ms();
  for (int round = 0; round < 20; ++round) {
    volatile bool set = false;
    Threads threads;
    for (int i = 0; i < 8; ++i)
      threads.emplace_back([&] {
        while (!set) {
        }
      });
    threads.emplace_back([&] {
      usleep(5000);
      set = true;
    });
    join(threads);
  }
  print("flag", now_ms() - begin, nullptr);
}

// Something is always ready, nothing is ever stuck: what does the monitor cost?
void busy() {
  const double begin = now_ms();
  Threads threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([begin] {
      while (now_ms() - begin < 3000) {
        for (int k = 0; k < 100; ++k) sink = sink + 1;
        sched_yield();
      }
    });
  join(threads);
  print("busy", now_ms() - begin, nullptr);
}

void idle() {
  int ends[2];
  must(pipe(ends) == 0, "pipe");
  Threads threads;
  for (int i = 0; i < 10; ++i)
    threads.emplace_back([&] {
      char byte;
      must(read(ends[0], &byte, 1) == 1, "read");
    });
  usleep(400'000);
  const auto switches = [] {
    long sum = 0;
    const std::string command = "cat /proc/" + std::to_string(getpid()) + "/task/*/status";
    FILE* in = popen(command.c_str(), "r");
    char line[256];
    while (fgets(line, sizeof line, in) != nullptr)
      if (strncmp(line, "voluntary_ctxt_switches:", 24) == 0) sum += atol(line + 24);
    pclose(in);
    return sum;
  };
  const long before = switches();
  sleep(1);
  const long during = switches() - before;
  for (int i = 0; i < 10; ++i) must(write(ends[1], "x", 1) == 1, "write");
  join(threads);
  printf("{\"scenario\": \"idle\", \"switches_in_a_second\": %ld}\n", during);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "hogs";
  const std::vector<std::pair<std::string, std::function<void(Threads&)>>> ways = {
      {"flock", [](Threads& t) { flocks(t, 50); }},
      {"inline_read", [](Threads& t) { raw_reads(t, 20); }},
      {"file_lock", [](Threads& t) { file_locks(t, 20); }},
      {"getaddrinfo", [](Threads& t) { resolves(t, 20); }},
      {"userfault", [](Threads& t) { held_pages(t, 20); }},
  };
  if (what == "hogs") hogs();
  if (what == "bursts") bursts();
  if (what == "spin_yield") spins("spin_yield", true);
  if (what == "flag") flag();
  if (what == "busy") busy();
  if (what == "idle") idle();
  if (what == "blocked") {
    std::vector<std::function<void(Threads&)>> all;
    for (const auto& [name, way] : ways) all.push_back(way);
    blocked("blocked", all);
  }
  for (const auto& [name, way] : ways)
    if (what == name) blocked(name.c_str(), {way});
}
