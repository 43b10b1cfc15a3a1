// shared_memory.cc - see shared_memory.h.
//
// mmap and mremap are the system calls themselves, not libc's functions: they are called before anything can be resolved.
#include "hook/shared_memory.h"

#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>

#include "hook/gate.h"
#include "runtime/base/lock.h"

using namespace weft;

namespace {

struct Range {
  unsigned long begin, end;
};
constexpr unsigned kMost = 1024;
constinit SpinLock lock;
constinit Range ranges[kMost] = {};
constinit std::atomic<unsigned> count{0};  // more than kMost: everything may be shared

bool contains(unsigned long address) noexcept {
  const unsigned n = count.load(std::memory_order_acquire);
  if (n > kMost) return true;
  for (unsigned i = 0; i < n; ++i)
    if (address >= ranges[i].begin && address < ranges[i].end) return true;
  return false;
}

void* pointer(long result) noexcept { return reinterpret_cast<void*>(minus_one(result)); }

void* map(void* address, size_t size, int protection, int flags, int fd, long offset) noexcept {
  const long result = sys::call(SYS_mmap, sys::word(address), static_cast<long>(size), protection, flags, fd, offset);
  note_mapping(static_cast<unsigned long>(result), size, flags);
  return pointer(result);
}

}  // namespace

namespace weft {

bool may_be_shared(const void* address) noexcept {
  return count.load(std::memory_order_acquire) != 0 && contains(reinterpret_cast<unsigned long>(address));
}

void note_mapping(unsigned long begin, unsigned long size, int flags) noexcept {
  const int kind = flags & MAP_TYPE;
  if ((kind != MAP_SHARED && kind != MAP_SHARED_VALIDATE) || begin > -4096UL) return;
  Busy busy;
  Locked locked(lock);
  const unsigned n = count.load(std::memory_order_relaxed);
  for (unsigned i = 0; i < n && i < kMost; ++i)
    if (begin >= ranges[i].begin && begin + size <= ranges[i].end) return;
  if (n < kMost) ranges[n] = {begin, begin + size};
  if (n <= kMost) count.store(n + 1, std::memory_order_release);
}

}  // namespace weft

WEFT_HOOK void* mmap(void* address, size_t size, int protection, int flags, int fd, off_t offset) noexcept {
  return map(address, size, protection, flags, fd, offset);
}
WEFT_HOOK void* mmap64(void* address, size_t size, int protection, int flags, int fd, off64_t offset) noexcept {
  return map(address, size, protection, flags, fd, offset);
}

// Declared variadic; its fifth argument is there if the flags say so, and lies in the same register.
WEFT_HOOK void* weft_mremap(void* old, size_t old_size, size_t size, int flags, void* wanted) noexcept __asm__("mremap");
void* weft_mremap(void* old, size_t old_size, size_t size, int flags, void* wanted) noexcept {
  const long result = sys::call(SYS_mremap, sys::word(old), static_cast<long>(old_size), static_cast<long>(size), flags,
                                sys::word(wanted));
  if (may_be_shared(old)) note_mapping(static_cast<unsigned long>(result), size, MAP_SHARED);
  return pointer(result);
}

WEFT_HOOK void* shmat(int id, const void* address, int flags) noexcept {
  const long result = sys::call(SYS_shmat, id, sys::word(const_cast<void*>(address)), flags);
  shmid_ds about;
  if (shmctl(id, IPC_STAT, &about) == 0) note_mapping(static_cast<unsigned long>(result), about.shm_segsz, MAP_SHARED);
  return pointer(result);
}
