// shared_memory.h - may another process see this address?
//
// Owns:        the ranges that the program has mapped shared, by mmap, mremap or shmat, in this process or before a fork.
// Keeps true:  a range is known before its address is; ranges are never forgotten, so the answer errs to "yes" only.
// Called by:   futex.cc: libstdc++ waits for futures and latches on futexes that it does not call private.
#pragma once

namespace weft {

bool may_be_shared(const void* address) noexcept;
// The range that a mapping call has returned (-1 to -4095: it failed).
void note_mapping(unsigned long begin, unsigned long size, int flags) noexcept;

}  // namespace weft
