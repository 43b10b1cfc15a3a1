// context.h - a stack pointer and a thread pointer: what it takes to leave a thread of execution and come back.
//
// Owns:        Context and the only calls into Boost.Context.
// Keeps true:  TLS travels with the stack: FS base is set in the same breath as the stack pointer.  Callee-saved
//              registers, mxcsr and the x87 control word are kept by Boost.Context's frame (abi/x86_64.h).
// Called by:   carrier.cc only.
#pragma once

#include <cstddef>
#include <cstdint>

namespace weft {

struct Context {
  void* sp = nullptr;  // the saved frame; meaningless while the context runs
  uintptr_t thread_pointer = 0;
};

// Prepares a context that runs entry() (once, never to return) on the stack that ends at `top`, with the given thread pointer.
void prepare_context(Context& context, void* top, uintptr_t thread_pointer, void (*entry)()) noexcept;

// Leaves `from` (which must be the running context) for `to`.  Returns when somebody switches back to `from`.
// Cost: one FS base write and one jump.
void switch_context(Context& from, Context& to) noexcept;

}  // namespace weft
