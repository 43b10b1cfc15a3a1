// thread_sched.cc - CPUs, policies, priorities and nice values belong to one thread, by handle and by thread id.
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

#include "threads.h"

namespace {

cpu_set_t own_cpus() {
  cpu_set_t cpus;
  MUST(sched_getaffinity(0, sizeof cpus, &cpus));
  return cpus;
}

cpu_set_t only(int cpu) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(cpu, &cpus);
  return cpus;
}

std::vector<int> cpus_in(const cpu_set_t& cpus) {
  std::vector<int> all;
  for (int i = 0; i < CPU_SETSIZE; ++i)
    if (CPU_ISSET(i, &cpus)) all.push_back(i);
  return all;
}

// Runs a while, with breaks, and is never seen elsewhere.
void check_stays_on(int cpu) {
  for (int i = 0; i < 200; ++i) {
    CHECK_EQ(sched_getcpu(), cpu);
    if (i % 20 == 0) usleep(100);
    sched_yield();
  }
}

}  // namespace

CASE(a_thread_stays_on_the_cpus_it_asks_for_and_others_where_they_were) {
  const cpu_set_t before = own_cpus();
  const std::vector<int> cpus = cpus_in(before);
  std::atomic<bool> stop{false};
  std::thread free_one([&] {
    while (!stop) {
      CHECK(CPU_EQUAL(&before, std::vector<cpu_set_t>{own_cpus()}.data()));
      sched_yield();
      usleep(50);
    }
  });
  crowd(8, [&](int i) {
    const int cpu = cpus[static_cast<size_t>(i) % cpus.size()];
    const cpu_set_t mine = only(cpu);
    cpu_set_t seen;
    if (i < 4)
      CHECK_EQ(pthread_setaffinity_np(pthread_self(), sizeof mine, &mine), 0);
    else
      MUST(sched_setaffinity(i < 6 ? 0 : gettid(), sizeof mine, &mine));
    CHECK_EQ(pthread_getaffinity_np(pthread_self(), sizeof seen, &seen), 0);
    CHECK(CPU_EQUAL(&seen, &mine));
    MUST(sched_getaffinity(gettid(), sizeof seen, &seen));
    CHECK(CPU_EQUAL(&seen, &mine));
    check_stays_on(cpu);
    crowd(2, [&](int) {  // inherited
      const cpu_set_t inherited = own_cpus();
      CHECK(CPU_EQUAL(&inherited, &mine));
      check_stays_on(cpu);
    });
  });
  stop = true;
  free_one.join();
  const cpu_set_t after = own_cpus();
  CHECK(CPU_EQUAL(&before, &after));
}

CASE(the_cpus_of_another_thread_can_be_set_and_asked) {
  const std::vector<int> cpus = cpus_in(own_cpus());
  const cpu_set_t last = only(cpus.back());
  event go;
  std::thread other([&] {
    go.wait();
    check_stays_on(cpus.back());
  });
  cpu_set_t seen;
  CHECK_EQ(pthread_setaffinity_np(other.native_handle(), sizeof last, &last), 0);
  CHECK_EQ(pthread_getaffinity_np(other.native_handle(), sizeof seen, &seen), 0);
  CHECK(CPU_EQUAL(&seen, &last));
  go.set();
  other.join();
}

CASE(cpus_that_do_not_exist_are_EINVAL) {
  std::thread([] {
    const cpu_set_t none = only(CPU_SETSIZE - 1), before = own_cpus();
    CHECK_EQ(pthread_setaffinity_np(pthread_self(), sizeof none, &none), EINVAL);
    CHECK_ERRNO(sched_setaffinity(0, sizeof none, &none), EINVAL);
    const cpu_set_t after = own_cpus();
    CHECK(CPU_EQUAL(&before, &after));
    long small;
    CHECK_ERRNO(sched_getaffinity(0, 1, reinterpret_cast<cpu_set_t*>(&small)), EINVAL);
  }).join();
}

CASE(an_attribute_puts_a_thread_on_its_cpus) {
  const std::vector<int> cpus = cpus_in(own_cpus());
  const cpu_set_t last = only(cpus.back());
  pthread_attr_t attributes;
  CHECK_EQ(pthread_attr_init(&attributes), 0);
  CHECK_EQ(pthread_attr_setaffinity_np(&attributes, sizeof last, &last), 0);
  pthread_t thread;
  int cpu = cpus.back();
  CHECK_EQ(pthread_create(&thread, &attributes, [](void* p) -> void* {
    check_stays_on(*static_cast<int*>(p));
    return nullptr;
  }, &cpu), 0);
  CHECK_EQ(pthread_join(thread, nullptr), 0);
  pthread_attr_destroy(&attributes);
}

CASE(policy_and_priority_are_told_as_they_were_set) {
  std::thread([] {
    int policy;
    sched_param parameters;
    CHECK_EQ(pthread_getschedparam(pthread_self(), &policy, &parameters), 0);
    CHECK_EQ(policy, SCHED_OTHER);
    CHECK_EQ(parameters.sched_priority, 0);
    CHECK_EQ(sched_getscheduler(gettid()), SCHED_OTHER);
    CHECK_EQ(sched_getparam(gettid(), &parameters), 0);
    parameters.sched_priority = 0;
    CHECK_EQ(pthread_setschedparam(pthread_self(), SCHED_BATCH, &parameters), 0);
    CHECK_EQ(sched_getscheduler(0), SCHED_BATCH);
    sched_yield();
    CHECK_EQ(sched_getscheduler(0), SCHED_BATCH);
    parameters.sched_priority = 5;
    CHECK_EQ(pthread_setschedparam(pthread_self(), SCHED_OTHER, &parameters), EINVAL);
    CHECK_EQ(pthread_setschedparam(pthread_self(), 77, &parameters), EINVAL);
    CHECK_EQ(pthread_setschedprio(pthread_self(), 5), EINVAL);
    CHECK_EQ(pthread_setschedprio(pthread_self(), 0), 0);
    CHECK_EQ(sched_getscheduler(0), SCHED_BATCH);
  }).join();
  CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);  // main's is untouched
}

CASE(a_real_time_policy_is_given_to_whom_the_kernel_allows_it) {
  std::thread([] {
    sched_param parameters = {3};
    int policy;
    const int error = pthread_setschedparam(pthread_self(), SCHED_FIFO, &parameters);
    CHECK(error == 0 || error == EPERM);
    CHECK_EQ(pthread_getschedparam(pthread_self(), &policy, &parameters), 0);
    CHECK_EQ(policy, error == 0 ? SCHED_FIFO : SCHED_OTHER);
    usleep(1000);
    CHECK_EQ(sched_getscheduler(0), error == 0 ? SCHED_FIFO : SCHED_OTHER);
    parameters = {0};
    CHECK_EQ(pthread_setschedparam(pthread_self(), SCHED_OTHER, &parameters), 0);
  }).join();
}

CASE(nice_values_belong_to_one_thread) {
  const int mains = getpriority(PRIO_PROCESS, 0);
  std::thread([&] {
    CHECK_EQ(nice(3), mains + 3);
    CHECK_EQ(getpriority(PRIO_PROCESS, 0), mains + 3);
    MUST(setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), mains + 5));
    CHECK_EQ(getpriority(PRIO_PROCESS, static_cast<id_t>(gettid())), mains + 5);
    std::thread([&] { CHECK_EQ(getpriority(PRIO_PROCESS, 0), mains + 5); }).join();
  }).join();
  CHECK_EQ(getpriority(PRIO_PROCESS, 0), mains);
  CHECK_EQ(getpriority(PRIO_PROCESS, static_cast<id_t>(getpid())), mains);
}

int main(int argc, char** argv) { return run_cases(argc, argv); }
