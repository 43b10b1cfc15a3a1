// stacks.h - where a fiber's stack, TLS block and TCB come from, and where they go.
//
// Owns:        address ranges ("slots") in size classes, their guards, and the pools of free slots.
// Keeps true:  a slot is guard | stack ... | owner's room | TLS block | TCB, low to high, so an idle fiber touches two
//              pages; address space is given back to the class, never unmapped; a free slot beyond the hot ones holds
//              no memory: what its owner must not forget is kept beside it.
// Called by:   fiber.cc (take, put) from any thread inside a Busy section.  Cost: pooled ~100 ns, fresh ~7 us.
// See also:    abi/glibc.h for what lies in a TCB; DECISIONS.md "Memory of a fiber".
#pragma once

#include <cstddef>
#include <cstdint>

namespace weft {

// What the pool remembers of the owner while the slot is free and its memory perhaps gone.
struct Remembered {
  uint32_t id = 0;     // 1 + index of the owner in its table; 0: a fresh slot
  uint64_t stamp = 0;
};

struct Stack {
  char* low = nullptr;         // lowest usable byte; the guard lies below
  size_t size = 0;             // bytes from low to the end of the TCB, as the program asked for
  uint32_t guard = 0;
  uint16_t size_class = 0;
  bool tcb_made = false;       // the TCB and its DTV exist and only need a reset
  void* tcb = nullptr;         // the thread pointer of whoever runs here
  char* top = nullptr;         // initial stack pointer (below the owner's room, or the end of a caller's stack)
};

namespace stacks {

// Room in every slot for the record of whoever owns the stack, in a page that is resident anyway.
constexpr size_t kOwnerRoom = 320;
void* owner_room(const Stack& stack) noexcept;

// A stack of at least `size` bytes (TLS block and TCB inside, as natively) above a guard of `guard` bytes, with
// a TCB that says `tid`.  False: out of memory or address space (EAGAIN for pthread_create).
bool take(Stack& stack, size_t size, size_t guard, int tid, Remembered& remembered) noexcept;

// A TCB and TLS block of its own for code that runs on [low, low + size), which belongs to the program.
bool take_for_caller_stack(Stack& stack, void* low, size_t size, int tid, Remembered& remembered) noexcept;

// Back to the pool.  Nobody runs on it any more; the owner's room may be gone when this returns.
void put(const Stack& stack, const Remembered& remembered) noexcept;

// Fork: take/release every pool lock around it.
void before_fork() noexcept;
void after_fork() noexcept;

}  // namespace stacks
}  // namespace weft
