// costs.cc - what a thread costs: create and join, a switch between two, beside a bare Boost.Context switch.
//
// Owns:        the measuring loops.  A plain pthread program: natively it measures kernel threads, under weft fibers.
// Keeps true:  every figure is the median of several rounds in one process; the bare switch is measured in the same
//              process, so ratios hold on a noisy machine.
// Called by:   tools/bench/figures.  Prints one JSON object.
#include <pthread.h>
#include <sched.h>
#include <xmmintrin.h>

#include <boost/context/detail/fcontext.hpp>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "rounds.h"

namespace {

using boost::context::detail::fcontext_t;
using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

constexpr int kRounds = 7;

void answer(transfer_t from) {
  for (;;) from = jump_fcontext(from.fctx, nullptr);
}

// Both sides with the same exception flags in mxcsr: on some processors ldmxcsr is slow when it changes them.
double bare_switch() {
  constexpr long kJumps = 2'000'000;
  _mm_setcsr(_mm_getcsr() & ~0x3fU);
  std::vector<char> stack(64 * 1024);
  transfer_t there{make_fcontext(stack.data() + stack.size(), stack.size(), answer), nullptr};
  return nanoseconds(kRounds, 2 * kJumps, [&] {
    _mm_setcsr(_mm_getcsr() & ~0x3fU);
    for (long i = 0; i < kJumps; ++i) there = jump_fcontext(there.fctx, nullptr);
  });
}

void* empty(void* argument) { return argument; }

double create_and_join(long threads) {
  return nanoseconds(kRounds, threads, [&] {
    for (long i = 0; i < threads; ++i) {
      pthread_t thread;
      if (pthread_create(&thread, nullptr, empty, nullptr) != 0) abort();
      pthread_join(thread, nullptr);
    }
  });
}

long yields;
void* yielder(void*) {
  for (long i = 0; i < yields; ++i) sched_yield();
  return nullptr;
}

// Two threads, each giving way to the other: one operation is one switch.
double yield_switch(long count) {
  yields = count;
  return nanoseconds(kRounds, 2 * count, [] {
    pthread_t a, b;
    if (pthread_create(&a, nullptr, yielder, nullptr) != 0 || pthread_create(&b, nullptr, yielder, nullptr) != 0)
      abort();
    pthread_join(a, nullptr);
    pthread_join(b, nullptr);
  });
}

}  // namespace

int main(int argc, char** argv) {
  const long scale = argc > 1 ? atol(argv[1]) : 10;  // 10: about a second natively
  const double bare = bare_switch();
  const double create = create_and_join(scale * 200);
  _mm_setcsr(_mm_getcsr() & ~0x3fU);
  const double yield = yield_switch(scale * 20'000);
  printf("{\"bare_switch_ns\": %.2f, \"create_join_ns\": %.1f, \"yield_switch_ns\": %.2f}\n", bare, create, yield);
}
