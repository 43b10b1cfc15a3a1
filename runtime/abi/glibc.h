// glibc.h - what weft must know of glibc's thread control block (TCB) and TLS blocks.
//
// Owns:        discovery of those facts at start, a template TCB taken from a real pthread, and the making,
//              resetting and destroying of TCBs for fibers.
// Keeps true:  no private offset is hard-coded: offsets come from the descriptors that libc exports for
//              debuggers (_thread_db_*), everything else is copied from the template and relocated word by word.
//              When anything looks unlike what it should, probe() says why and weft stays off.
// Called by:   memory/ (blocks), carrier.cc (start), signals and sync (tid).  probe(): once, by the thread that
//              starts the runtime.
// See also:    DECISIONS.md "A TCB is cloned from a template"; tests/abi.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <cstddef>
#include <cstdint>

namespace weft::abi {

// Pointers to libc's own definitions that the runtime itself needs; filled by the hook layer (or by the linked
// library's start) before probe(), so that the runtime never goes through a hooked name.
struct Libc {
  int (*pthread_create)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*) = nullptr;
  int (*pthread_join)(pthread_t, void**) = nullptr;
  int (*sigaction)(int, const struct sigaction*, struct sigaction*) = nullptr;
};
extern Libc libc;

// Facts; valid once probe() answered true.
struct Facts {
  size_t tcb_size = 0;        // sizeof(struct pthread), rounded up to 64
  size_t tls_size = 0;        // static TLS below the thread pointer, surplus included
  size_t tls_align = 64;
  size_t tid = 0;             // offsets in the TCB
  size_t list = 0;
  size_t specific = 0;
  size_t cancelhandling = 0;
  size_t rseq = 0;
  size_t cleanup = 0;         // the word that holds the innermost cancellation buffer; 0: not found
  ptrdiff_t tcache = 0;       // the two malloc words relative to the thread pointer; 0: not found, feature off
  ptrdiff_t arena = 0;
};
extern Facts facts;

// Finds the facts and makes the template.  Creates and joins one real pthread.  On false, *why is a sentence.
bool probe(const char** why) noexcept;

// Makes a TCB and TLS block at `tcb` (aligned to 64, tls_size bytes below and tcb_size bytes above it zero and
// owned by the caller) that describes a thread on [stack, stack + stack_size).  Allocates the DTV with malloc.
// False: out of memory.
bool make_tcb(void* tcb, void* stack, size_t stack_size, size_t guard_size, int tid) noexcept;

// Brings a used TCB and TLS block back to the state that make_tcb() left.  May call free and malloc when the
// thread had touched dynamic TLS.  False: out of memory (the block must not be used).
bool reset_tcb(void* tcb, void* stack, size_t stack_size, size_t guard_size, int tid) noexcept;

// Frees what a TCB owns outside its block (DTV, dynamic TLS).
void destroy_tcb(void* tcb) noexcept;

// The program is about to load a library, which may bring TLS that new threads start with: from now on the pristine
// image is compared with the loader's count of loaded objects whenever a TCB is made (about 70 ns).
void note_dlopen() noexcept;
// The loader's count of loads when a TCB was last made; 0: before any dlopen.
unsigned long long objects_at_last_make() noexcept;
// The count now; what is cached of the pristine image is looked at again.
unsigned long long count_objects() noexcept;

inline int* tid_of(void* tcb) noexcept {
  return reinterpret_cast<int*>(static_cast<char*>(tcb) + facts.tid);
}
inline int* cancelhandling_of(void* tcb) noexcept {
  return reinterpret_cast<int*>(static_cast<char*>(tcb) + facts.cancelhandling);
}

// To be run by a new thread on its own TLS, before the program's code: libc's per-thread start
// (resolver state, ctype tables).
void begin_thread() noexcept;
// At its end: C++ thread_local destructors, then pthread key destructors in rounds, as glibc does.
void end_thread() noexcept;

// malloc's per-thread cache belongs to the carrier (FACTS 2.2): its two TLS words travel from carrier to fiber.
struct MallocWords {
  void* tcache = nullptr;
  void* arena = nullptr;
};
// Makes sure that the calling kernel thread has a cache and returns its words (zero when the feature is off).
MallocWords own_malloc_words() noexcept;
inline void*& tcache_of(void* tcb) noexcept {
  return *reinterpret_cast<void**>(static_cast<char*>(tcb) + facts.tcache);
}
inline void install_malloc_words(void* tcb, const MallocWords& words) noexcept {
  if (facts.tcache == 0) return;
  char* base = static_cast<char*>(tcb);
  *reinterpret_cast<void**>(base + facts.tcache) = words.tcache;
  *reinterpret_cast<void**>(base + facts.arena) = words.arena;
}

// Makes pthread_exit (or cancellation) of the calling thread, the process's first, end in landing() instead of in
// libc's start code, which would end the kernel thread.  landing() runs on the thread's outermost frame and must
// not return.  False: the chain of cancellation buffers does not look as expected.
bool redirect_thread_end(void (*landing)()) noexcept;

// The kernel's restartable-sequence area belongs to a kernel thread, not to a TCB that travels: ends the
// registration of the calling kernel thread (main's, before main may migrate).
void unregister_rseq() noexcept;

}  // namespace weft::abi
