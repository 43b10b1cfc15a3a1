// inside_libc.cc - see inside_libc.h.
//
// A detour, 64 bytes within reach of a 32-bit displacement from libc's text:
//
//   libc's function:  jmp detour+0         (5 bytes over the first instructions)
//   detour+0:         jmp *hook
//   detour+16:        the first instructions, moved;  jmp function+n      <- real:: points here
//
// The internal locks of libc (of a FILE, of gethostbyname, of syslog) are held across calls that now park.  So who finds
// one taken has to park as well: those waits go to the parking lot, and each wake looks there first.  Only malloc's own
// waits stay in the kernel: malloc's cache belongs to the carrier, so a fiber must not change carriers inside it.  They
// are told apart by the return address.
#include "hook/inside_libc.h"

#include <dlfcn.h>
#include <elf.h>
#include <gnu/libc-version.h>
#include <link.h>
#include <sys/single_threaded.h>

#include <cstring>

#include "hook/object_wait.h"
#include "runtime/sync/futex.h"

using namespace weft;

extern "C" int _dl_find_object(void* address, struct dl_find_object* result) noexcept __attribute__((weak));

namespace {

// --- first instructions -------------------------------------------------------------------------------------

constexpr size_t kJump = 5;  // jmp rel32

struct Opening {
  size_t size;          // whole instructions, at least kJump bytes
  size_t displacement;  // where among them a %rip-relative displacement stands; 0: none
  size_t given;         // how many bytes of `bytes` must be found
  unsigned char bytes[8];
};
constexpr Opening kOpenings[] = {
    {7, 2, 2, {0x80, 0x3d}},                                        // cmpb $0, __libc_single_threaded(%rip)
    {5, 0, 1, {0xb8}},                                              // mov $number, %eax
    {5, 0, 5, {0x53, 0x48, 0x83, 0xec, 0x10}},                      // push %rbx; sub $16, %rsp
    {5, 0, 5, {0x8b, 0x07, 0x83, 0xf8, 0x02}},                      // mov (%rdi), %eax; cmp $2, %eax
    {8, 0, 8, {0x45, 0x31, 0xd2, 0xba, 0x01, 0x00, 0x00, 0x00}},    // xor %r10d, %r10d; mov $1, %edx
};

const Opening* opening_of(const unsigned char* code) noexcept {
  for (const Opening& opening : kOpenings)
    if (memcmp(code, opening.bytes, opening.given) == 0) return &opening;
  return nullptr;
}

void put_displacement(unsigned char* at, const unsigned char* next_instruction, const void* target) noexcept {
  const auto distance = static_cast<int32_t>(static_cast<const unsigned char*>(target) - next_instruction);
  memcpy(at, &distance, sizeof distance);
}

void put_jump(unsigned char* at, const void* target) noexcept {
  at[0] = 0xe9;
  put_displacement(at + 1, at + kJump, target);
}

// --- detours ------------------------------------------------------------------------------------------------

constexpr size_t kDetour = 64;
constexpr size_t kPage = 4096;
constexpr size_t kDetours = kPage / kDetour;
constexpr size_t kBehind = 16;  // where in a detour the moved instructions begin

struct Libc {
  unsigned char* start;
  unsigned char* end;
  const link_map* map;
  bool holds(const void* p) const noexcept { return p >= start && p < end; }
};

bool find_libc(Libc& libc) noexcept {
  dl_find_object found;
  if (_dl_find_object == nullptr || _dl_find_object(reinterpret_cast<void*>(&gnu_get_libc_version), &found) != 0)
    return false;
  libc = {static_cast<unsigned char*>(found.dlfo_map_start), static_cast<unsigned char*>(found.dlfo_map_end),
          found.dlfo_link_map};
  return true;
}

// A page below libc that its code can jump to.
unsigned char* map_near(const Libc& libc) noexcept {
  constexpr size_t kReach = size_t{1} << 30, kStep = size_t{1} << 20;
  const auto start = reinterpret_cast<uintptr_t>(libc.start);
  for (size_t distance = kStep; distance < kReach; distance += kStep) {
    const long p = sys::call(SYS_mmap, static_cast<long>(start - distance), kPage, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (p == static_cast<long>(start - distance)) return reinterpret_cast<unsigned char*>(p);
    if (!sys::failed(p)) sys::unmap(reinterpret_cast<void*>(p), kPage);
  }
  return nullptr;
}

class Detours {
 public:
  bool open(const Libc& libc) noexcept {
    libc_ = libc;
    page_ = map_near(libc);
    return page_ != nullptr;
  }

  // Lets the function jump to `hook`.  The way past the jump, or null: nothing was changed.
  void* add(void* function, void* hook) noexcept {
    auto* code = static_cast<unsigned char*>(function);
    if (count_ == kDetours || !libc_.holds(code)) return nullptr;
    const Opening* opening = opening_of(code);
    if (opening == nullptr) return nullptr;
    unsigned char* detour = page_ + count_ * kDetour;
    unsigned char* behind = detour + kBehind;
    static constexpr unsigned char kJumpFar[] = {0xff, 0x25, 0, 0, 0, 0};  // jmp *0(%rip); the address follows
    memcpy(detour, kJumpFar, sizeof kJumpFar);
    memcpy(detour + sizeof kJumpFar, &hook, sizeof hook);
    memcpy(behind, code, opening->size);
    if (const size_t at = opening->displacement; at != 0) {
      int32_t distance;
      memcpy(&distance, code + at, sizeof distance);
      put_displacement(behind + at, behind + opening->size, code + opening->size + distance);
    }
    put_jump(behind + opening->size, code + opening->size);
    if (!write_jump(code, detour)) return nullptr;
    ++count_;
    return behind;
  }

  int count() const noexcept { return static_cast<int>(count_); }

  // Before the first jump to the page is executed: nothing else runs in this process.
  void close() noexcept { sys::protect(page_, kPage, PROT_READ | PROT_EXEC); }

 private:
  static bool write_jump(unsigned char* code, const void* target) noexcept {
    auto* first = reinterpret_cast<unsigned char*>(reinterpret_cast<uintptr_t>(code) & ~(kPage - 1));
    const size_t size = code + kJump > first + kPage ? 2 * kPage : kPage;
    if (sys::protect(first, size, PROT_READ | PROT_WRITE | PROT_EXEC) != 0) return false;
    put_jump(code, target);
    sys::protect(first, size, PROT_READ | PROT_EXEC);
    return true;
  }

  Libc libc_ = {};
  unsigned char* page_ = nullptr;
  size_t count_ = 0;
};

Detours detours;

// --- libc's internal locks ----------------------------------------------------------------------------------

using LockCall = void(uint32_t*);
LockCall* wait_in_kernel = nullptr;
LockCall* wake_in_kernel = nullptr;

// Where malloc's code lies: from the function before its first to the function after its last.
const unsigned char* malloc_start = nullptr;
const unsigned char* malloc_end = nullptr;

// Threads between "the lock is taken" and "the lock is mine".  Raised before the word is looked at; a waker looks at it
// after it has changed the word: either sees the other.
std::atomic<int> lock_waiters{0};

constexpr uint32_t kTakenWithWaiters = 2;  // 0: free, 1: taken

void lock_wait(uint32_t* word) {
  const auto* caller = static_cast<const unsigned char*>(__builtin_return_address(0));
  if (!on_fiber() || (caller >= malloc_start && caller < malloc_end)) return wait_in_kernel(word);
  lock_waiters.fetch_add(1, std::memory_order_seq_cst);
  while (__atomic_exchange_n(word, kTakenWithWaiters, __ATOMIC_SEQ_CST) != 0) {
    {
      Busy busy;
      bool unequal;
      sync::futex_wait(word, kTakenWithWaiters, Deadline::never(), ~0u, unequal);
    }
    run_handlers();
  }
  lock_waiters.fetch_sub(1, std::memory_order_relaxed);
}

// Also inside the runtime and on kernel threads: a fiber may wait for them.
void lock_wake(uint32_t* word) {
  if (lock_waiters.load(std::memory_order_seq_cst) == 0) return wake_in_kernel(word);
  Busy busy;
  sync::futex_wake({.word = word,
                    .command = FUTEX_WAKE,
                    .flags = FUTEX_PRIVATE_FLAG,
                    .value = 1,
                    .value2 = 0,
                    .word2 = nullptr,
                    .value3 = 0});
}

template <class Each>
bool for_each_function(const Libc& libc, Each each) noexcept {
  const ElfW(Sym)* symbols = nullptr;
  const char* names = nullptr;
  for (const ElfW(Dyn)* d = libc.map->l_ld; d->d_tag != DT_NULL; ++d) {
    if (d->d_tag == DT_SYMTAB) symbols = reinterpret_cast<const ElfW(Sym)*>(d->d_un.d_ptr);
    if (d->d_tag == DT_STRTAB) names = reinterpret_cast<const char*>(d->d_un.d_ptr);
  }
  // The linker puts the names right behind the symbols.
  const auto* end = reinterpret_cast<const ElfW(Sym)*>(names);
  if (symbols == nullptr || end <= symbols || !libc.holds(symbols) || !libc.holds(names)) return false;
  for (const ElfW(Sym)* s = symbols; s + 1 <= end; ++s)
    if (ELF64_ST_TYPE(s->st_info) == STT_FUNC && s->st_value != 0)
      each(names + s->st_name, reinterpret_cast<const unsigned char*>(libc.map->l_addr + s->st_value));
  return true;
}

bool find_malloc(const Libc& libc) noexcept {
  constexpr ptrdiff_t kLargest = 64 * 1024;
  const unsigned char *low = libc.end, *high = libc.start;
  const auto note = [&](const char* name, const unsigned char* p) {
    for (const char* known : {"malloc", "free", "calloc", "realloc", "memalign", "malloc_trim", "mallopt", "malloc_info"}) {
      if (strcmp(name, known) != 0) continue;
      if (p < low) low = p;
      if (p > high) high = p;
    }
  };
  if (!for_each_function(libc, note) || high < low) return false;
  if (high - low > kLargest) return false;
  malloc_start = libc.start;
  malloc_end = libc.end;
  for_each_function(libc, [&](const char*, const unsigned char* p) {
    if (p < low && p > malloc_start) malloc_start = p;
    if (p > high && p < malloc_end) malloc_end = p;
  });
  return malloc_end - malloc_start < 2 * kLargest;
}

// Both or none: a wait in the lot needs wakes that look there.
void enter_locks(const Libc& libc) noexcept {
  void* wait = dlvsym(RTLD_NEXT, "__lll_lock_wait_private", "GLIBC_PRIVATE");
  void* wake = dlvsym(RTLD_NEXT, "__lll_lock_wake_private", "GLIBC_PRIVATE");
  if (wait == nullptr || wake == nullptr || !find_malloc(libc)) return;
  if (opening_of(static_cast<unsigned char*>(wait)) == nullptr) return;
  wake_in_kernel = reinterpret_cast<LockCall*>(detours.add(wake, reinterpret_cast<void*>(&lock_wake)));
  if (wake_in_kernel == nullptr) return;
  wait_in_kernel = reinterpret_cast<LockCall*>(detours.add(wait, reinterpret_cast<void*>(&lock_wait)));
}

// --- calls --------------------------------------------------------------------------------------------------

// All rows of real:: that mean this function mean what is behind the jump from now on.
void redirect(void* function, void* behind) noexcept {
  for (unsigned row = 0; row < static_cast<unsigned>(real::Row::kCount); ++row)
    if (real::addresses[row].load(std::memory_order_relaxed) == function)
      real::addresses[row].store(behind, std::memory_order_relaxed);
}

template <class Function>
void enter_call(void* function, Function* hook) noexcept {
  void* behind = detours.add(function, reinterpret_cast<void*>(hook));
  if (behind != nullptr) redirect(function, behind);
}

#define WEFT_ENTER(name) enter_call(reinterpret_cast<void*>(real::name.get()), &::name)

void enter_calls() noexcept {
  WEFT_ENTER(read);
  WEFT_ENTER(write);
  WEFT_ENTER(readv);
  WEFT_ENTER(writev);
  WEFT_ENTER(poll);
  WEFT_ENTER(recv);
  WEFT_ENTER(recvfrom);
  WEFT_ENTER(recvmsg);
  WEFT_ENTER(recvmmsg);
  WEFT_ENTER(send);
  WEFT_ENTER(sendto);
  WEFT_ENTER(sendmsg);
  WEFT_ENTER(sendmmsg);
  WEFT_ENTER(connect);
  WEFT_ENTER(accept);
  WEFT_ENTER(accept4);
  WEFT_ENTER(epoll_wait);
  WEFT_ENTER(epoll_pwait);
  WEFT_ENTER(socket);  // a number that libc closed inside itself is told apart from the one that was there before
}

}  // namespace

void inside_libc::enter() noexcept {
  static std::atomic<bool> done{false};
  if (done.exchange(true, std::memory_order_acq_rel)) return;
  Libc libc;
  // With another kernel thread about, it might be in the middle of the bytes that are written.
  if (__libc_single_threaded == 0 || !find_libc(libc) || !detours.open(libc)) return;
  enter_locks(libc);
  enter_calls();
  detours.close();
}

int inside_libc::entered() noexcept { return detours.count(); }
