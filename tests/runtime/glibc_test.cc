// glibc_test.cc - each fact of runtime/abi, checked on this machine's libc.
#include "runtime/abi/glibc.h"

#include <gtest/gtest.h>

#include <cstring>

#include "runtime/abi/x86_64.h"
#include "runtime/base/sys.h"
#include "runtime/fiber.h"
#include "runtime/memory/stacks.h"

namespace weft {
namespace {

thread_local int initialised = 42;
thread_local int zero;

class Glibc : public ::testing::Test {
 protected:
  void SetUp() override {
#ifdef __SANITIZE_THREAD__
    GTEST_SKIP() << "TSan's interceptors stand between pthread_create and the template thread: weft stays off there";
#endif
    abi::libc.pthread_create = pthread_create;
    abi::libc.pthread_join = pthread_join;
    abi::libc.sigaction = sigaction;
    const char* why = "";
    ASSERT_TRUE(abi::probe(&why)) << why;
  }
};

// The address of one of this thread's variables in another TLS block.
template <class T>
T& in_block(void* tcb, T& mine) {
  return *reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(tcb) + reinterpret_cast<uintptr_t>(&mine) -
                               abi::thread_pointer());
}

TEST_F(Glibc, TheThreadIdLiesWhereTheProbeFoundIt) {
  EXPECT_EQ(*abi::tid_of(reinterpret_cast<void*>(abi::thread_pointer())), sys::gettid());
}

TEST_F(Glibc, TheTwoMallocWordsAreFound) {
  EXPECT_LT(abi::facts.tcache, 0);
  EXPECT_LT(abi::facts.arena, 0);
  EXPECT_NE(abi::facts.tcache, abi::facts.arena);
}

TEST_F(Glibc, AFreshBlockHoldsTheInitialImageAndDescribesItsStack) {
  Busy busy;
  Stack stack;
  Remembered remembered;
  ASSERT_TRUE(stacks::take(stack, 256 * 1024, 4096, 4711, remembered));
  EXPECT_EQ(in_block(stack.tcb, initialised), 42);
  EXPECT_EQ(in_block(stack.tcb, zero), 0);
  EXPECT_EQ(*abi::tid_of(stack.tcb), 4711);
  EXPECT_EQ(*static_cast<void**>(stack.tcb), stack.tcb);  // the psABI's self pointer
  EXPECT_GE(stack.size, 256u * 1024);
  stacks::put(stack, remembered);
}

TEST_F(Glibc, AReusedBlockIsLikeAFreshOne) {
  Busy busy;
  Stack stack;
  Remembered remembered;
  ASSERT_TRUE(stacks::take(stack, 256 * 1024, 4096, 1, remembered));
  void* const first = stack.tcb;
  in_block(stack.tcb, initialised) = 7;
  in_block(stack.tcb, zero) = 7;
  stacks::put(stack, remembered);
  ASSERT_TRUE(stacks::take(stack, 256 * 1024, 4096, 2, remembered));
  EXPECT_EQ(stack.tcb, first);
  EXPECT_EQ(in_block(stack.tcb, initialised), 42);
  EXPECT_EQ(in_block(stack.tcb, zero), 0);
  EXPECT_EQ(*abi::tid_of(stack.tcb), 2);
  stacks::put(stack, remembered);
}

TEST_F(Glibc, TheGuardBelowAStackFaults) {
  Busy busy;
  Stack stack;
  Remembered remembered;
  ASSERT_TRUE(stacks::take(stack, 64 * 1024, 4096, 1, remembered));
  EXPECT_DEATH(*const_cast<volatile char*>(static_cast<char*>(stack.tcb) + abi::facts.tcb_size - 64 * 1024 - 1) = 1, "");
  stacks::put(stack, remembered);
}

TEST_F(Glibc, ColdSlotsGiveTheirMemoryBack) {
  Busy busy;
  std::vector<Stack> many(200);
  Remembered remembered;
  for (Stack& s : many) {
    ASSERT_TRUE(stacks::take(s, 128 * 1024, 4096, 1, remembered));
    memset(s.top - 32 * 1024, 1, 32 * 1024);
  }
  unsigned char resident[32];
  char* const watched = many.back().top - 16 * 1024;
  char* const page = reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(watched) & ~4095UL);
  for (Stack& s : many) stacks::put(s, remembered);
  ASSERT_EQ(mincore(page, 4096, resident), 0);
  EXPECT_EQ(resident[0] & 1, 0) << "the 200th free stack keeps no memory";
}

}  // namespace
}  // namespace weft
