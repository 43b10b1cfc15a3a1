// parked.cc - N threads blocked in recv, and what memory they take.
//
// Owns:        the threads, their sockets (made before anything is measured) and the look at /proc.
// Keeps true:  resident and kernel memory of the threads only: everything else exists in both snapshots.
// Called by:   tools/bench/figures, tests.  Prints one JSON object.
#include <pthread.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

std::atomic<long> arrived{0};

long field(const char* file, const char* name) {
  FILE* stream = fopen(file, "r");
  char line[256];
  long value = -1;
  while (stream != nullptr && fgets(line, sizeof line, stream) != nullptr)
    if (strncmp(line, name, strlen(name)) == 0) value = atol(line + strlen(name));
  if (stream != nullptr) fclose(stream);
  return value;
}

struct Memory {
  long resident, page_tables, kernel_stacks, slab;
};

// Objects in use times their size, in KiB: steadier than meminfo's Slab, which counts whole slabs.  Root only.
long slab() {
  FILE* stream = fopen("/proc/slabinfo", "r");
  if (stream == nullptr) return field("/proc/meminfo", "Slab:");
  char line[512], name[64];
  unsigned long active, total, size, bytes = 0;
  while (fgets(line, sizeof line, stream) != nullptr)
    if (sscanf(line, "%63s %lu %lu %lu", name, &active, &total, &size) == 4) bytes += active * size;
  fclose(stream);
  return static_cast<long>(bytes / 1024);
}

Memory look() {
  return {field("/proc/self/status", "VmRSS:"), field("/proc/self/status", "VmPTE:"),
          field("/proc/meminfo", "KernelStack:"), slab()};
}

void* wait_for_data(void* argument) {
  char buffer[64];
  ++arrived;
  return reinterpret_cast<void*>(recv(static_cast<int>(reinterpret_cast<long>(argument)), buffer, sizeof buffer, 0));
}

}  // namespace

int main(int argc, char** argv) {
  const long threads = argc > 1 ? atol(argv[1]) : 1000;
  rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  std::vector<long> sockets;
  for (long i = 0; i < threads; ++i) {
    const int s = socket(AF_INET, SOCK_DGRAM, 0);
    if (s < 0) {
      perror("socket");
      return 1;
    }
    sockets.push_back(s);
  }
  pthread_t thread;
  const int first = socket(AF_INET, SOCK_DGRAM, 0);  // one thread beforehand: what starts once is not counted
  pthread_create(&thread, nullptr, wait_for_data, reinterpret_cast<void*>(static_cast<long>(first)));
  while (arrived.load() < 1) usleep(1000);
  usleep(100'000);
  const Memory before = look();
  for (long s : sockets) {
    const int error = pthread_create(&thread, nullptr, wait_for_data, reinterpret_cast<void*>(s));
    if (error != 0) {
      fprintf(stderr, "pthread_create: %s\n", strerror(error));
      return 1;
    }
  }
  while (arrived.load() < threads + 1) usleep(1000);
  usleep(300'000);
  const Memory after = look();
  const auto each = [&](long Memory::*part) { return 1024.0 * static_cast<double>(after.*part - before.*part) / static_cast<double>(threads); };
  printf("{\"threads\": %ld, \"resident\": %.0f, \"page_tables\": %.0f, \"kernel_stacks\": %.0f, \"slab\": %.0f, "
         "\"kernel_threads\": %ld}\n",
         threads, each(&Memory::resident), each(&Memory::page_tables), each(&Memory::kernel_stacks), each(&Memory::slab),
         field("/proc/self/status", "Threads:"));
  fflush(stdout);
  _exit(0);
}
