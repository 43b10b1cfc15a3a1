// thread_state.cc - what a processor, libc and the C++ runtime keep for a thread stays with it across every switch.
#include <locale.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <xmmintrin.h>


#include "threads.h"

namespace {

uint16_t x87_control() {
  uint16_t word;
  asm volatile("fnstcw %0" : "=m"(word));
  return word;
}
void set_x87_control(uint16_t word) { asm volatile("fldcw %0" : : "m"(word)); }

void switch_often(int i) {
  sched_yield();
  if (i % 4 == 0) usleep(50);
}

}  // namespace

CASE(control_words_of_sse_and_x87_stay_with_their_thread) {
  crowd(16, [](int i) {
    const uint16_t precision = i % 2 == 0 ? 0x0300 : 0x0200, rounding = static_cast<uint16_t>((i / 2 % 4) << 10);
    const auto x87 = static_cast<uint16_t>((x87_control() & ~0x0f00) | precision | rounding);
    const unsigned mask = i % 3 == 0 ? _MM_MASK_INEXACT : _MM_MASK_MASK;
    const unsigned sse = (_mm_getcsr() & ~(_MM_ROUND_MASK | _MM_FLUSH_ZERO_MASK | 0x3fU)) |
                         static_cast<unsigned>(i / 4 % 4) << 13 | (i % 5 == 0 ? _MM_FLUSH_ZERO_ON : 0) | mask;
    set_x87_control(x87);
    _mm_setcsr(sse);
    for (int round = 0; round < 50; ++round) {
      switch_often(round);
      CHECK_EQ(x87_control(), x87);
      CHECK_EQ(_mm_getcsr(), sse);
    }
  });
}

CASE(a_new_thread_inherits_both_control_words) {
  const uint16_t x87 = x87_control();
  const unsigned sse = _mm_getcsr() & ~0x3fU;
  std::thread([&] {
    const auto wanted = static_cast<uint16_t>((x87 & ~0x0f00) | 0x0600);
    set_x87_control(wanted);
    _mm_setcsr(sse | _MM_ROUND_UP);
    std::thread([&] {
      CHECK_EQ(x87_control(), wanted);
      CHECK_EQ(_mm_getcsr() & _MM_ROUND_MASK, _MM_ROUND_UP);
    }).join();
  }).join();
  CHECK_EQ(x87_control(), x87);
}

CASE(longjmp_goes_back_over_frames_that_have_blocked) {
  crowd(8, [](int i) {
    volatile int times = 0;
    jmp_buf here;
    const int way = setjmp(here);
    CHECK_EQ(way, times);
    switch_often(i);
    if (times < 20) {
      times = times + 1;
      [](jmp_buf& to, int value) __attribute__((noinline)) {
        usleep(20);
        longjmp(to, value);
      }(here, times);
    }
  });
}

CASE(the_locale_of_a_thread_is_its_own_until_it_ends) {
  locale_t utf8 = newlocale(LC_ALL_MASK, "C.UTF-8", nullptr);
  CHECK(utf8 != nullptr);
  crowd(16, [&](int i) {
    CHECK(uselocale(nullptr) == LC_GLOBAL_LOCALE);
    if (i % 2 == 0) uselocale(utf8);
    for (int round = 0; round < 20; ++round) {
      switch_often(round);
      CHECK_EQ(MB_CUR_MAX, i % 2 == 0 ? 6 : 1);
    }
  });
  crowd(4, [&](int) { CHECK_EQ(MB_CUR_MAX, 1); });  // in what may be the same memory
  freelocale(utf8);
}

CASE(an_alternate_stack_belongs_to_its_thread) {
  crowd(8, [](int i) {
    stack_t before, after;
    MUST(sigaltstack(nullptr, &before));
    CHECK(before.ss_flags & SS_DISABLE);
    std::vector<char> memory(64 * 1024);
    const stack_t own = {memory.data(), 0, memory.size()};
    if (i % 2 == 0) MUST(sigaltstack(&own, nullptr));
    for (int round = 0; round < 20; ++round) {
      switch_often(round);
      MUST(sigaltstack(nullptr, &after));
      if (i % 2 == 0)
        CHECK(after.ss_sp == own.ss_sp);
      else
        CHECK(after.ss_flags & SS_DISABLE);
    }
    const stack_t none = {nullptr, SS_DISABLE, 0};
    MUST(sigaltstack(&none, nullptr));
  });
}

CASE(default_attributes_and_their_signal_mask_reach_new_threads) {
  pthread_attr_t usual, changed;
  CHECK_EQ(pthread_getattr_default_np(&usual), 0);
  CHECK_EQ(pthread_getattr_default_np(&changed), 0);
  CHECK_EQ(pthread_attr_setstacksize(&changed, 512 * 1024), 0);
  CHECK_EQ(pthread_attr_setguardsize(&changed, 16 * 1024), 0);
  CHECK_EQ(pthread_setattr_default_np(&changed), 0);
  std::thread([] {
    pthread_attr_t own;
    size_t size, guard;
    CHECK_EQ(pthread_getattr_np(pthread_self(), &own), 0);
    CHECK_EQ(pthread_attr_getstacksize(&own, &size), 0);
    CHECK_EQ(pthread_attr_getguardsize(&own, &guard), 0);
    CHECK_EQ(size, 512 * 1024);
    CHECK_EQ(guard, 16 * 1024);
    pthread_attr_destroy(&own);
  }).join();
  CHECK_EQ(pthread_setattr_default_np(&usual), 0);
  sigset_t usr2;
  sigemptyset(&usr2);
  sigaddset(&usr2, SIGUSR2);
  pthread_attr_t masked;
  CHECK_EQ(pthread_attr_init(&masked), 0);
  CHECK_EQ(pthread_attr_setsigmask_np(&masked, &usr2), 0);
  pthread_t thread;
  CHECK_EQ(pthread_create(&thread, &masked, [](void*) -> void* {
    sigset_t own;
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, nullptr, &own), 0);
    CHECK_EQ(sigismember(&own, SIGUSR2), 1);
    CHECK_EQ(sigismember(&own, SIGUSR1), 0);
    return nullptr;
  }, nullptr), 0);
  CHECK_EQ(pthread_join(thread, nullptr), 0);
  for (pthread_attr_t* each : {&usual, &changed, &masked}) pthread_attr_destroy(each);
}

CASE(detach_state_is_told) {
  std::thread([] {
    pthread_attr_t own;
    int state;
    CHECK_EQ(pthread_getattr_np(pthread_self(), &own), 0);
    CHECK_EQ(pthread_attr_getdetachstate(&own, &state), 0);
    CHECK_EQ(state, PTHREAD_CREATE_JOINABLE);
    pthread_attr_destroy(&own);
  }).join();
  event detached, told;
  std::thread other([&] {
    detached.wait();
    pthread_attr_t own;
    int state;
    CHECK_EQ(pthread_getattr_np(pthread_self(), &own), 0);
    CHECK_EQ(pthread_attr_getdetachstate(&own, &state), 0);
    CHECK_EQ(state, PTHREAD_CREATE_DETACHED);
    pthread_attr_destroy(&own);
    told.set();
  });
  other.detach();
  detached.set();
  told.wait();
}

int main(int argc, char** argv) { return run_cases(argc, argv); }
