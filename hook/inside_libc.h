// inside_libc.h - ring 2: what libc calls inside itself, where no symbol can be interposed.
//
// Owns:        the jumps written over the first instructions of libc's own read, write, poll, recvfrom, ... and of the
//              two functions under libc's internal locks.
// Keeps true:  a function whose first instructions are not known byte by byte is left alone (then the net is handoff);
//              real:: afterwards means the code behind the jump, so a hook that passes through does not meet itself.
// Called by:   pthread_create, once, before the first fiber exists and while the process has one kernel thread.
// See also:    DECISIONS.md "Inside libc".
#pragma once

namespace weft::inside_libc {

void enter() noexcept;

// How many functions were entered; for tests and --stats.
int entered() noexcept;

}  // namespace weft::inside_libc
