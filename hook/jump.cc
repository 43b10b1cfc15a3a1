// jump.cc - sigsetjmp and siglongjmp: the signal mask in a jmp_buf is the fiber's.
//
// Owns:        what stands in the mask part of a jmp_buf that was filled on a fiber.
// Keeps true:  libc never saves or restores the kernel's mask of a carrier, which is not the fiber's; registers, pointer
//              guard and shadow stack are libc's own affair.  A buffer filled before the runtime started, or on a
//              kernel thread, keeps libc's form and is understood.
// Called by:   the program.
//
// sigsetjmp returns twice, so nothing may stand between it and its caller: the hook notes the mask and then jumps to
// libc's with the caller's return address still on top of the stack.  libc is told not to save a mask, and its
// __saved_mask, free then, holds (the fiber's mask, seal).  The seal is made from the mangled return address that libc
// is about to store, so that a buffer which another setjmp filled again does not carry it.
#include <setjmp.h>

#include <cstring>

#include "hook/gate.h"
#include "runtime/signals.h"

using namespace weft;

namespace {

constexpr int kProgramCounter = 7;  // glibc: JB_PC
constexpr unsigned long kSeal = 0x7765'6674'6d61'736b;

unsigned long& mask_in(__jmp_buf_tag* buffer) noexcept { return buffer->__saved_mask.__val[0]; }
unsigned long& seal_in(__jmp_buf_tag* buffer) noexcept { return buffer->__saved_mask.__val[1]; }

// glibc's PTR_MANGLE.
unsigned long mangled(const void* address) noexcept {
  auto value = reinterpret_cast<unsigned long>(address);
  asm("xor %%fs:0x30, %0\n\trol $17, %0" : "+r"(value));
  return value;
}

// The mask goes back before the jump, and with it what is pending and let in now is handled: as the kernel does it.
void restore_mask(__jmp_buf_tag* buffer) noexcept {
  if (!on_fiber()) return;
  const bool sealed = (static_cast<unsigned long>(buffer->__jmpbuf[kProgramCounter]) ^ kSeal) == seal_in(buffer);
  if (buffer->__mask_was_saved == 0 && !sealed) return;
  sigset_t mask = {};
  mask.__val[0] = mask_in(buffer);
  signals::restore_mask(&mask);
}

using Jump = void(__jmp_buf_tag*, int);

// libc's jump without the mask.
[[noreturn]] void jump(Jump* to, __jmp_buf_tag* buffer, int value) noexcept {
  restore_mask(buffer);
  if (on_fiber() && buffer->__mask_was_saved != 0) {
    __jmp_buf_tag without;
    memcpy(&without, buffer, offsetof(__jmp_buf_tag, __saved_mask));
    without.__mask_was_saved = 0;
    to(&without, value);
  }
  to(buffer, value);
  __builtin_unreachable();
}

}  // namespace

// Notes the mask if it is wanted.  Returns whether libc is to save one.
extern "C" [[gnu::visibility("hidden"), gnu::used]] int weft_before_setjmp(__jmp_buf_tag* buffer, int save,
                                                                          const void* caller) noexcept {
  if (save == 0 || !on_fiber()) return save;
  mask_in(buffer) = self.fiber->signal_mask.load(std::memory_order_relaxed);
  seal_in(buffer) = mangled(caller) ^ kSeal;
  return 0;
}
extern "C" [[gnu::visibility("hidden"), gnu::used]] void* weft_real_sigsetjmp() noexcept {
  return reinterpret_cast<void*>(real::__sigsetjmp.get());
}

// rsp at entry: the caller's return address.  rbx and the other registers that libc is to save are left as they are.
asm(".text\n"
    ".balign 16\n"
    ".globl __sigsetjmp\n"
    ".type __sigsetjmp, @function\n"
    "__sigsetjmp:\n"
    ".cfi_startproc\n"
    "endbr64\n"
    "sub $24, %rsp\n"
    ".cfi_adjust_cfa_offset 24\n"
    "mov %rdi, (%rsp)\n"
    "mov 24(%rsp), %rdx\n"
    "call weft_before_setjmp\n"
    "mov %eax, 8(%rsp)\n"
    "call weft_real_sigsetjmp\n"
    "mov (%rsp), %rdi\n"
    "mov 8(%rsp), %esi\n"
    "add $24, %rsp\n"
    ".cfi_adjust_cfa_offset -24\n"
    "jmp *%rax\n"
    ".cfi_endproc\n"
    ".size __sigsetjmp, . - __sigsetjmp\n");

WEFT_HOOK void siglongjmp(__jmp_buf_tag* buffer, int value) noexcept { jump(real::siglongjmp.get(), buffer, value); }
WEFT_HOOK void longjmp(__jmp_buf_tag* buffer, int value) noexcept { jump(real::longjmp.get(), buffer, value); }
WEFT_HOOK void _longjmp(__jmp_buf_tag* buffer, int value) noexcept { jump(real::_longjmp.get(), buffer, value); }
WEFT_HOOK void __longjmp_chk(__jmp_buf_tag* buffer, int value) noexcept {
  jump(real::__longjmp_chk.get(), buffer, value);
}
