// robust.h - robust mutexes of a fiber that ends while it holds them.
//
// Owns:        the walk over a thread's list of robust mutexes that the kernel makes when a kernel thread ends.
// Keeps true:  the mutexes are libc's own (word: owner's thread id | waiters | owner died); libc links each one that
//              it locks into a list in the thread's TCB.  Where that list begins is learnt from the first one locked.
// Called by:   hook/pthread_mutex.cc after libc locked one on a fiber; thread.cc at a fiber's end, in a Busy section.
// Limits:      the kernel knows the carriers' lists only: when the whole process dies, other processes are not told of
//              a process-shared one that a fiber held.
// See also:    set_robust_list(2), the kernel's Documentation/locking/robust-futexes.
#pragma once

#include "runtime/sync/mutex.h"

namespace weft::sync {

inline bool is_robust(const Mutex& mutex) noexcept { return (kind_of(mutex) & kMutexRobust) != 0; }
// The caller has just locked it: it is the first of the caller's list.
void note_robust_lock(const Mutex& mutex) noexcept;
// Marks what the calling thread still holds as "owner died", and wakes a waiter of each.
void abandon_robust_locks() noexcept;

}  // namespace weft::sync
