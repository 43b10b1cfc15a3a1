// ready_queue_test.cc - FIFO order and stealing.
#include "runtime/ready_queue.h"

#include <gtest/gtest.h>

#include <vector>

namespace weft {
namespace {

std::vector<uint32_t> drain(FiberList& list) {
  std::vector<uint32_t> ids;
  while (Fiber* fiber = list.pop()) ids.push_back(fiber->id);
  return ids;
}

struct Fibers {
  explicit Fibers(size_t n) : all(n) {
    for (size_t i = 0; i < n; ++i) all[i].id = static_cast<uint32_t>(i);
  }
  std::vector<Fiber> all;
};

TEST(FiberList, IsFirstInFirstOut) {
  Fibers f(3);
  FiberList list;
  for (Fiber& fiber : f.all) list.push(&fiber);
  EXPECT_EQ(list.size(), 3u);
  EXPECT_EQ(drain(list), (std::vector<uint32_t>{0, 1, 2}));
  EXPECT_EQ(list.size(), 0u);
}

TEST(FiberList, TakesAllInOrderBehindItsOwn) {
  Fibers f(4);
  FiberList a, b;
  a.push(&f.all[0]);
  for (size_t i = 1; i < 4; ++i) b.push(&f.all[i]);
  a.take_all(b);
  EXPECT_EQ(b.size(), 0u);
  EXPECT_EQ(drain(a), (std::vector<uint32_t>{0, 1, 2, 3}));
}

TEST(SharedQueue, AThiefTakesTheOlderHalfAndAtLeastOne) {
  Fibers f(5);
  SharedQueue queue;
  const std::atomic<uint32_t> awake{0};
  for (Fiber& fiber : f.all) EXPECT_FALSE(queue.push(&fiber, awake));
  FiberList loot;
  EXPECT_EQ(queue.steal_into(loot), 3u);
  EXPECT_EQ(drain(loot), (std::vector<uint32_t>{0, 1, 2}));
  EXPECT_EQ(queue.steal_into(loot), 1u);
  EXPECT_EQ(queue.steal_into(loot), 1u);
  EXPECT_EQ(queue.steal_into(loot), 0u);
  EXPECT_EQ(drain(loot), (std::vector<uint32_t>{3, 4}));
}

TEST(SharedQueue, APusherSeesThatTheOwnerSleeps) {
  Fibers f(1);
  SharedQueue queue;
  const std::atomic<uint32_t> sleeping{1};
  EXPECT_TRUE(queue.push(&f.all[0], sleeping));
}

}  // namespace
}  // namespace weft
