// timers_test.cc - the heap of deadlines, against a sorted reference.
#include "runtime/timers.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <vector>

#include "runtime/park.h"

namespace weft {
namespace {

// A parker in the Parking state: a wake only changes its word.
struct Sleeper {
  Parker parker;
  TimerNode node;
  void arm(Timers& timers, int64_t when) {
    stamp = (parker.word.load() >> 16) + 1;
    parker.word.store(stamp << 16 | static_cast<uint64_t>(State::kParking));
    node.when = when;
    node.parker = &parker;
    node.stamp = stamp;
    timers.arm(node);
  }
  bool woken() const { return state_of(parker) == State::kReady; }
  uint64_t stamp = 0;
};

TEST(Timers, FireInOrderOfTheirDeadlinesAndOnlyWhenDue) {
  Timers timers;
  Sleeper late, early;
  late.arm(timers, 200);
  early.arm(timers, 100);
  EXPECT_EQ(timers.next(), 100);
  EXPECT_EQ(timers.fire(99), 0);
  EXPECT_EQ(timers.fire(100), 1);
  EXPECT_TRUE(early.woken());
  EXPECT_FALSE(late.woken());
  EXPECT_EQ(timers.next(), 200);
  EXPECT_EQ(timers.fire(1000), 1);
  EXPECT_EQ(timers.next(), Deadline::kNever);
}

TEST(Timers, ADisarmedTimerLeavesNothingBehind) {
  Timers timers;
  Sleeper one, two;
  one.arm(timers, 10);
  two.arm(timers, 20);
  timers.disarm(one.node);
  EXPECT_EQ(timers.next(), 20);
  timers.disarm(two.node);
  timers.disarm(two.node);  // twice is once
  EXPECT_EQ(timers.next(), Deadline::kNever);
  EXPECT_EQ(timers.fire(100), 0);
  EXPECT_FALSE(one.woken());
}

TEST(Timers, AgreeWithASortedMapUnderRandomUse) {
  Timers timers;
  std::mt19937 random(7);
  std::vector<Sleeper> sleepers(500);
  std::multimap<int64_t, Sleeper*> expected;
  int64_t clock = 0;
  for (int step = 0; step < 50'000; ++step) {
    Sleeper& s = sleepers[random() % sleepers.size()];
    if (s.node.armed && random() % 2 == 0) {
      for (auto [i, end] = expected.equal_range(s.node.when); i != end; ++i)
        if (i->second == &s) {
          expected.erase(i);
          break;
        }
      timers.disarm(s.node);
    } else if (!s.node.armed) {
      const int64_t when = clock + 1 + static_cast<int64_t>(random() % 1000);
      s.arm(timers, when);
      expected.emplace(when, &s);
    }
    if (step % 50 == 0) {
      clock += 40;
      int due = 0;
      while (!expected.empty() && expected.begin()->first <= clock) {
        expected.erase(expected.begin());
        ++due;
      }
      ASSERT_EQ(timers.fire(clock), due);
    }
    ASSERT_EQ(timers.next(), expected.empty() ? Deadline::kNever : expected.begin()->first);
  }
}

}  // namespace
}  // namespace weft
