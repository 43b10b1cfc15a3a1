// clock_test.cc - every time form of libc as one Deadline.
#include "runtime/base/clock.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

TEST(Deadline, NeverNeverPasses) {
  EXPECT_TRUE(Deadline::never().is_never());
  EXPECT_FALSE(Deadline::never().passed());
}

TEST(Deadline, ANegativeDurationIsNow) { EXPECT_TRUE(Deadline::in(-5).passed()); }

TEST(Deadline, AnAbsurdlyLongDurationIsNever) {
  EXPECT_TRUE(Deadline::in(Deadline::kNever - 1).is_never());
  EXPECT_TRUE(Deadline::at(CLOCK_REALTIME, {std::numeric_limits<time_t>::max(), 0}).is_never());
}

TEST(Deadline, ARealtimePointIsConvertedToMonotonicTime) {
  const timespec t = to_timespec(now(CLOCK_REALTIME) + kSecond);
  const Deadline d = Deadline::at(CLOCK_REALTIME, t);
  EXPECT_NEAR(static_cast<double>(d.monotonic() - now()), 1e9, 2e8);
}

TEST(Deadline, AMonotonicPointIsKeptExactly) {
  EXPECT_EQ(Deadline::at(CLOCK_MONOTONIC, {12, 345}).monotonic(), 12 * kSecond + 345);
  Deadline past = Deadline::at(CLOCK_MONOTONIC, {0, 1});
  EXPECT_TRUE(past.reached());
}

TEST(Nanoseconds, Saturate) {
  EXPECT_EQ(to_nanoseconds({std::numeric_limits<time_t>::max(), 999999999}), Deadline::kNever);
  EXPECT_EQ(to_nanoseconds({-1, 0}), 0);
}

}  // namespace
}  // namespace weft
