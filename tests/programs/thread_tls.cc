// thread_tls.cc - thread variables of libraries that are loaded before and after threads exist.
#include <dlfcn.h>
#include <pthread.h>

#include <atomic>

#include "threads.h"

namespace {

constexpr int kThreads = 50;

struct library {
  int (*next_value)();
  long (*next_zero)(int);
  const char* (*current_text)();
  void (*set_text)(const char*);
  void* handle;

  // By its bare name: found by the RUNPATH of this program, which is known by who calls dlopen.
  explicit library(const char* name) {
    handle = dlopen(name, RTLD_NOW);
    if (handle == nullptr) check_failed(__FILE__, __LINE__, "%s", dlerror());
    find(next_value, "next_value");
    find(next_zero, "next_zero");
    find(current_text, "current_text");
    find(set_text, "set_text");
  }
  template <class Function>
  void find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(dlsym(handle, name));
    CHECK(function != nullptr);
  }
  void close() { CHECK_EQ(dlclose(handle), 0); }

  // The variables of the calling thread are as they were initialised, and are its own.
  void check_fresh() const {
    CHECK_EQ(current_text(), "initial");
    for (int i = 1; i <= 3; ++i) {
      CHECK_EQ(next_value(), 41 + i);
      for (int j = 0; j < 8; ++j) CHECK_EQ(next_zero(j), i);
      sched_yield();
    }
    set_text("mine");
  }
  void check_kept() const {
    CHECK_EQ(next_value(), 45);
    CHECK_EQ(current_text(), "mine");
  }
};

// Threads that exist, blocked, while somebody loads; then they look; then they look again after another load.
void loaded_while_threads_wait(const char* name, const char* other, bool by_a_thread) {
  event go, again;
  std::atomic<int> ready{0}, looked{0};
  std::atomic<library*> loaded{nullptr};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i)
    threads.emplace_back([&] {
      ++ready;
      go.wait();
      loaded.load()->check_fresh();
      ++looked;
      again.wait();
      loaded.load()->check_kept();
    });
  eventually([&] { return ready == kThreads; });
  library* one = nullptr;
  if (by_a_thread)
    std::thread([&] { one = new library(name); }).join();
  else
    one = new library(name);
  loaded = one;
  go.set();
  eventually([&] { return looked == kThreads; });
  one->check_fresh();
  library second(other);
  crowd(kThreads, [&](int) { one->check_fresh(); second.check_fresh(); });  // born after the load
  again.set();
  for (auto& thread : threads) thread.join();
  one->check_kept();
  second.check_fresh();
  second.close();
  one->close();
  delete one;
}

}  // namespace

CASE(a_library_loaded_before_the_first_thread_has_fresh_variables_in_each) {
  library fixed("libthread_tls_static.so"), dynamic("libthread_tls_dynamic.so");
  crowd(kThreads, [&](int) {
    fixed.check_fresh();
    dynamic.check_fresh();
  });
  fixed.close();
  dynamic.close();
}

CASE(threads_that_exist_get_the_initial_values_of_static_variables) {
  loaded_while_threads_wait("libthread_tls_static.so", "libthread_tls_dynamic.so", false);
  loaded_while_threads_wait("libthread_tls_static.so", "libthread_tls_dynamic.so", true);
}

CASE(threads_that_exist_get_the_initial_values_of_dynamic_variables) {
  loaded_while_threads_wait("libthread_tls_dynamic.so", "libthread_tls_static.so", false);
  loaded_while_threads_wait("libthread_tls_dynamic.so", "libthread_tls_static.so", true);
}

// A thread that never calls anything sees them too, at the moment at which dlopen returns.
CASE(a_thread_that_computes_all_the_while_sees_them_too) {
  std::atomic<library*> loaded{nullptr};
  std::atomic<bool> runs{false};
  std::thread computes([&] {
    runs = true;
    library* seen;
    while ((seen = loaded.load()) == nullptr) {
    }
    CHECK_EQ(seen->next_value(), 42);
    CHECK_EQ(seen->next_zero(3), 1);
  });
  eventually([&] { return runs.load(); });
  library one("libthread_tls_static.so");
  loaded = &one;
  computes.join();
  one.close();
}

CASE(loading_and_threads_coming_and_going_at_once) {
  std::atomic<bool> done{false};
  std::thread loads([&] {
    for (int i = 0; i < 50; ++i) {
      library fixed("libthread_tls_static.so");
      CHECK_EQ(fixed.current_text(), "initial");
      crowd(4, [&](int) { fixed.check_fresh(); });
      fixed.close();
    }
    done = true;
  });
  while (!done) crowd(20, [](int) { sched_yield(); });
  loads.join();
}

int main(int argc, char** argv) { return run_cases(argc, argv); }
