// cpu_time.h - the CPU time of a fiber: its own work, wherever it ran.
//
// Owns:        the counting, which begins when somebody asks for the first time (before, a switch costs one load more).
// Keeps true:  a fiber is charged what its carrier's kernel thread has used between being given the fiber and leaving
//              it; the scheduler's own time is nobody's.  What ran before the first question is not known.
// Called by:   carrier.cc at each switch while counting; hook/cpu_clock.cc.
#pragma once

#include <atomic>
#include <cstdint>

#include "runtime/fiber.h"

namespace weft {

class Carrier;

namespace cpu_time {

extern std::atomic<bool> counting;

// The carrier is about to run the fiber, or to leave it.  On the carrier, inside.
void begin(Carrier& carrier, Fiber& fiber) noexcept;
void end(Carrier& carrier, Fiber& fiber) noexcept;

// Nanoseconds.  In a Busy section, on a fiber.
int64_t of(Fiber& fiber) noexcept;

}  // namespace cpu_time
}  // namespace weft
