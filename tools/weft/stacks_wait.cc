// stacks_wait.cc - see stacks_wait.h.
//
// Owns:        where in a lock its owner stands.
// Keeps true:  weft keeps glibc's words in glibc's locks, so these are glibc's offsets.
// Called by:   stacks_wait.h.
// See also:    bits/struct_mutex.h, bits/struct_rwlock.h.

#include "tools/weft/stacks_wait.h"

#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <cstddef>

namespace weft::launcher {
namespace {

constexpr size_t kMutexOwner = offsetof(pthread_mutex_t, __data.__owner);
constexpr size_t kWriter = offsetof(pthread_rwlock_t, __data.__cur_writer);

int64_t milliseconds_since(int64_t moment) {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);  // one clock for all processes
  return std::max<int64_t>(0, (now.tv_sec * 1'000'000'000 + now.tv_nsec - moment) / 1'000'000);
}

}  // namespace

Wait Waits::describe(const FiberView& fiber) {
  Wait wait;
  if (fiber.since > 0) wait.milliseconds = milliseconds_since(fiber.since);
  if (fiber.fd >= 0) wait.descriptor = descriptors_.describe(fiber.fd);
  if (fiber.object == 0) return wait;
  if (fiber.reason == "join") wait.joins = tables_.fibers().record_at(fiber.object);
  wait.object = symbols_.object_at(fiber.object);
  describe_owner(fiber, wait);
  return wait;
}

void Waits::describe_owner(const FiberView& fiber, Wait& wait) const {
  uint64_t place;
  if (fiber.reason == "mutex")
    place = fiber.object + kMutexOwner;
  else if (fiber.reason == "rdlock" || fiber.reason == "wrlock")
    place = fiber.object + kWriter;
  else
    return;
  int owner = 0;
  if (!process_.read(place, owner) || owner <= 0) return;
  wait.held_by = owner;
  if (const auto holder = census_.by_tid.find(owner); holder != census_.by_tid.end())
    wait.held_by_fiber = holder->second;
}

}  // namespace weft::launcher
