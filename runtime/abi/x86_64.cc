// x86_64.cc - see x86_64.h.
#include "runtime/abi/x86_64.h"

// No CFI: without it, unwinders compare the bytes and take the frame for what it is, a signal's.
asm(".text\n"
    ".balign 16\n"
    "nop\n"  // they look up the byte before a return address
    ".hidden weft_signal_return\n"
    ".globl weft_signal_return\n"
    ".type weft_signal_return, @function\n"
    "weft_signal_return:\n"
    "mov $15, %rax\n"
    "syscall\n"
    ".size weft_signal_return, . - weft_signal_return\n");

namespace weft::abi {
namespace {

constexpr int kProgramCounter = 7;  // glibc: JB_PC

void (*jump_target)();

// longjmp arrives here with the stack pointer of the frame that called setjmp, in the middle of its body.
[[gnu::naked]] void align_and_go() {
  asm("and $-16, %%rsp\n\t"
      "call *%0\n\t"
      "hlt" ::"m"(jump_target));
}

}  // namespace

void set_jump_target(long* registers, void (*target)()) noexcept {
  jump_target = target;
  auto address = reinterpret_cast<uintptr_t>(&align_and_go);
  asm("xor %%fs:0x30, %0\n\trol $17, %0" : "+r"(address));
  registers[kProgramCounter] = static_cast<long>(address);
}

}  // namespace weft::abi
