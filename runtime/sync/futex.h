// futex.h - private futexes of the program, as fibers and kernel threads see them together.
//
// Owns:        FUTEX_WAIT, WAIT_BITSET, WAKE, WAKE_BITSET, REQUEUE, CMP_REQUEUE and WAKE_OP with the kernel's results.
// Keeps true:  waiters of weft stand in the parking lot, those who bypass the hooks in the kernel; every wake serves
//              the lot first and asks the kernel for the rest, so the sum is what the kernel alone would answer.
// Called by:   hook/futex.cc, inside Busy.  Results are in the kernel's convention: -errno.
// Limits:      a word that cannot be read faults here instead of answering EFAULT.
// See also:    parking_lot.h, futex(2).
#pragma once

#include <cstdint>

#include "runtime/parking_lot.h"

namespace weft::sync {

// The arguments of futex(2) as one call has them; `command` without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME.
struct FutexCall {
  uint32_t* word;
  int command;
  int flags;  // FUTEX_PRIVATE_FLAG or 0, for the kernel's part
  uint32_t value;
  uint32_t value2;  // passed as the timeout by the calls with two words
  uint32_t* word2;
  uint32_t value3;
};

// Waits while *word == value.  kReady with *unequal: it was not.
Why futex_wait(uint32_t* word, uint32_t value, Deadline deadline, uint32_t bitset, bool& unequal) noexcept;
// Everything but waiting.
long futex_wake(const FutexCall& call) noexcept;

}  // namespace weft::sync
