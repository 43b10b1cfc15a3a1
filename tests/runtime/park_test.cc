// park_test.cc - the wait word: one wake per arming, none lost, late ones harmless.  On kernel threads.
#include "runtime/park.h"

#include <gtest/gtest.h>

#include <thread>

namespace weft {
namespace {

TEST(Park, ReturnsAtOnceWhenTheWakeCameFirst) {
  Busy busy;
  Arming arming(Reason::kSleep);
  EXPECT_TRUE(wake(arming.parker, arming.stamp, Why::kReady));
  EXPECT_EQ(park(arming), Why::kReady);
  EXPECT_EQ(state_of(*arming.parker), State::kRunning);
}

TEST(Park, IsWokenOnce) {
  Busy busy;
  Arming arming(Reason::kSleep);
  EXPECT_TRUE(wake(arming.parker, arming.stamp, Why::kReady));
  EXPECT_FALSE(wake(arming.parker, arming.stamp, Why::kTimeout));
  EXPECT_EQ(park(arming), Why::kReady);
}

TEST(Park, ALateWakeDoesNothing) {
  Busy busy;
  Arming old(Reason::kSleep);
  EXPECT_EQ(park(old, Deadline::in(0)), Why::kTimeout);
  EXPECT_FALSE(wake(old.parker, old.stamp, Why::kReady));
  Arming fresh(Reason::kSleep);
  EXPECT_FALSE(wake(old.parker, old.stamp, Why::kReady));
  EXPECT_EQ(park(fresh, Deadline::in(kMillisecond)), Why::kTimeout);
}

TEST(Park, AnAbandonedArmingCannotBeWoken) {
  Busy busy;
  Arming arming(Reason::kSleep);
  arming.abandon();
  EXPECT_FALSE(wake(arming.parker, arming.stamp, Why::kReady));
  EXPECT_EQ(state_of(*arming.parker), State::kRunning);
}

TEST(Park, NoWakeIsLostBetweenTwoThreads) {
  constexpr int kRounds = 100'000;
  std::atomic<Parker*> parker{nullptr};
  std::atomic<uint64_t> stamp{0};
  std::thread waiter([&] {
    Busy busy;
    for (int i = 0; i < kRounds; ++i) {
      Arming arming(Reason::kSleep);
      parker.store(arming.parker);
      stamp.store(arming.stamp, std::memory_order_release);
      EXPECT_EQ(park(arming), Why::kReady);
    }
  });
  uint64_t last = 0;
  for (int i = 0; i < kRounds; ++i) {
    uint64_t current;
    while ((current = stamp.load(std::memory_order_acquire)) == last) std::this_thread::yield();
    EXPECT_TRUE(wake(parker.load(), current, Why::kReady));
    EXPECT_FALSE(wake(parker.load(), last, Why::kReady));
    last = current;
  }
  waiter.join();
}

}  // namespace
}  // namespace weft
