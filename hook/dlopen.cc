// dlopen.cc - dlopen, which may bring thread variables that existing fibers must have before it returns.
//
// Owns:        a call of libc's dlopen that libc takes for the program's own.
// Keeps true:  libc finds the caller's RUNPATH and namespace by the return address; so the address that it sees is that
//              of some `ret` instruction in the caller's own code, which returns to weft.  Where the caller's code has
//              none (made at run time), or before there are fibers, the call is a jump, and nothing happens after it.
// Called by:   the program.
// See also:    runtime/abi/static_tls.h.
#include <link.h>

#include "hook/gate.h"
#include "runtime/runtime.h"
#include "runtime/thread.h"

using namespace weft;

// void* weft_call_seen_from(const char* file, int mode, dlopen, const void* ret)
extern "C" void* weft_call_seen_from(const char*, int, void* (*)(const char*, int), const void*) noexcept;
asm(R"(
	.text
	.type weft_call_seen_from, @function
weft_call_seen_from:
	.cfi_startproc
	lea 1f(%rip), %rax
	push %rax
	.cfi_adjust_cfa_offset 8
	push %rcx
	.cfi_adjust_cfa_offset 8
	jmp *%rdx
	.cfi_adjust_cfa_offset -16
1:	ret
	.cfi_endproc
	.size weft_call_seen_from, . - weft_call_seen_from
)");

namespace {

struct Search {
  uintptr_t from;
  const void* found;
};

int look_for_ret(dl_phdr_info* info, size_t, void* search) noexcept {
  auto& s = *static_cast<Search*>(search);
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    const uintptr_t begin = info->dlpi_addr + segment.p_vaddr, end = begin + segment.p_memsz;
    if (segment.p_type != PT_LOAD || (segment.p_flags & PF_X) == 0 || s.from < begin || s.from >= end) continue;
    constexpr unsigned char kRet = 0xc3;
    for (const auto* p = reinterpret_cast<const unsigned char*>(s.from); reinterpret_cast<uintptr_t>(p) < end; ++p)
      if (*p == kRet) {
        s.found = p;
        return 1;
      }
    return 1;
  }
  return 0;
}

const void* ret_of_caller(const void* return_address) noexcept {
  Search search{reinterpret_cast<uintptr_t>(return_address), nullptr};
  dl_iterate_phdr(look_for_ret, &search);
  return search.found;
}

}  // namespace

WEFT_HOOK void* dlopen(const char* file, int mode) noexcept {
  abi::note_dlopen();
  const void* ret = nullptr;
  if (file == nullptr || !runtime::is_active() || self.busy != 0 ||
      (ret = ret_of_caller(__builtin_return_address(0))) == nullptr)
    return real::dlopen.get()(file, mode);
  const uint64_t before = threads::begin_load();
  void* handle = weft_call_seen_from(file, mode, real::dlopen.get(), ret);
  threads::end_load(before);
  return handle;
}
