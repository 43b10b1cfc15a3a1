// native_threads.h - threads that are best left to the kernel, because of who makes them.
//
// Owns:        the list of libraries whose threads compute, or wait where no hook reaches (OpenMP and BLAS pools spin and
//              wait by futex calls of their own), and the user's additions to it (--native-threads-from).
// Keeps true:  the answer depends on the library that holds the call of pthread_create, on nothing else; no lock is
//              taken (the dynamic linker's may be held by the caller).
// Called by:   hook/pthread_thread.cc.
// See also:    runtime/DECISIONS.md "Who stays a kernel thread".
#pragma once

namespace weft {

// `caller`: the return address of pthread_create.
bool makes_native_threads(const void* caller) noexcept;

}  // namespace weft
