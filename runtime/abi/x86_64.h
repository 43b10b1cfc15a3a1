// x86_64.h - processor facts: the thread pointer and the frame that a switched-off context leaves.
//
// Owns:        reading and writing FS base; the layout of Boost.Context's saved frame.
// Keeps true:  no other file holds inline assembly about registers or a frame offset.
// Called by:   context.cc, signals.cc, inspect.cc.
//
// The frame below a context's saved stack pointer (Boost.Context 1.81, jump_x86_64_sysv_elf_gas.S):
//
//   offset  0x00      0x04      0x08    0x10  0x18  0x20  0x28  0x30  0x38  0x40
//           mxcsr     x87 cw    unused  r12   r13   r14   r15   rbx   rbp   rip     then the caller's stack
#pragma once

#include <ucontext.h>

#include <asm/prctl.h>
#include <sys/auxv.h>

#include <cstdint>

#include "runtime/base/sys.h"

namespace weft::abi {

struct SavedFrame {
  uint32_t mxcsr;
  uint32_t x87_control;
  uint64_t unused;
  uint64_t r12, r13, r14, r15, rbx, rbp, rip;
};
static_assert(sizeof(SavedFrame) == 0x48);

constexpr unsigned long kHwcap2Fsgsbase = 2;  // AT_HWCAP2 bit 1: the kernel lets user code write FS base

// Set once at start; WEFT_FSGSBASE=0 forces the fallback (so that it can be tested on any machine).
extern bool fsgsbase_usable;

// Where a signal handler interrupted the program; `context` as the kernel passes it.
inline uintptr_t program_counter(const void* context) noexcept {
  return static_cast<uintptr_t>(static_cast<const ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
}

inline uintptr_t thread_pointer() noexcept {
  uintptr_t self;
  asm volatile("mov %%fs:0x0, %0" : "=r"(self));
  return self;
}

inline void set_thread_pointer(uintptr_t base) noexcept {
  if (fsgsbase_usable) [[likely]] {
    asm volatile("wrfsbase %0" ::"r"(base) : "memory");
    return;
  }
  sys::call(SYS_arch_prctl, ARCH_SET_FS, static_cast<long>(base));
}

// Calls jump_fcontext(sp, data), Boost.Context's switch, without `call`.  It leaves by an indirect jump; a call would push an
// entry on the processor's return stack that no ret ever pops, and every ret after a switch would be mispredicted
// (measured: 75 ns per scheduled switch with call, 36 ns without).
template <class Transfer>
inline Transfer jump_with_balanced_returns(void* sp, void* data) noexcept {
  static_assert(sizeof(Transfer) == 16, "returned in rax and rdx");
  void* context = sp;
  void* argument = data;
  void* previous;
  void* passed;
  asm volatile(
      "lea -128(%%rsp), %%rsp\n\t"  // over the red zone
      "lea 1f(%%rip), %%rcx\n\t"
      "push %%rcx\n\t"
      "jmp jump_fcontext@PLT\n"
      "1:\n\t"
      "lea 128(%%rsp), %%rsp"
      : "=a"(previous), "=d"(passed), "+D"(context), "+S"(argument)
      :
      : "rcx", "r8", "r9", "r10", "r11", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
        "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "cc", "memory");
  return {previous, passed};
}

// Returns from a signal handler (the kernel's sa_restorer).  Written byte for byte as the one that unwinders know.
extern "C" void weft_signal_return();

// A jmp_buf's saved program counter (glibc: word 7, mangled with the pointer guard at fs:0x30).  The function is
// entered with the stack aligned as a call would.
void set_jump_target(long* registers, void (*target)()) noexcept;

}  // namespace weft::abi
