// glibc.cc - see glibc.h.
#include "runtime/abi/glibc.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/rseq.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "runtime/abi/x86_64.h"
#include "runtime/base/check.h"
#include "runtime/base/lock.h"
#include "runtime/base/sys.h"

extern "C" {
void* __libc_malloc(size_t);
void __libc_free(void*);
}

namespace weft::abi {

// Constant-initialised, all of them: the runtime may start before this library's own constructors have run.
constinit Libc libc;
constinit Facts facts;
bool fsgsbase_usable = false;

namespace {

constexpr size_t kMaxTcb = 8192;
constexpr size_t kKeysFirstLevel = 32;   // glibc: PTHREAD_KEY_2NDLEVEL_SIZE
constexpr size_t kKeysSecondLevel = 32;  // glibc: PTHREAD_KEY_1STLEVEL_SIZE
constexpr int kDestructorRounds = 4;     // PTHREAD_DESTRUCTOR_ITERATIONS

struct KeyData {  // what a thread stores per key; glibc's struct pthread_key_data
  uintptr_t sequence;
  void* data;
};
struct Key {  // glibc's struct pthread_key_struct
  uintptr_t sequence;
  void (*destructor)(void*);
};
struct Dtv {  // glibc's dtv_t; entry -1 holds the length, entry 0 the generation
  void* value;
  void* to_free;
};

// libc's private exports, found by name.
struct Private {
  void* (*allocate_tls)(void*) = nullptr;
  void (*deallocate_tls)(void*, bool) = nullptr;
  void (*call_tls_dtors)() = nullptr;
  void (*ctype_init)() = nullptr;
  Key* keys = nullptr;
  ptrdiff_t resp = 0;       // offset of the TLS variable __resp from the thread pointer
  ptrdiff_t resp_state = 0;  // offset of the resolver state that it points to, in the TCB; 0: unknown
};
constinit Private priv;

// The template and, per kind of word, where it must be adapted.
struct Template {
  alignas(64) char bytes[kMaxTcb] = {};
  uint16_t self_words[64] = {};  // offsets of words that point into the TCB
  ptrdiff_t self_delta[64] = {};
  size_t self_count = 0;
  size_t stack_base = 0;  // offsets; 0: not present
  size_t stack_size = 0;
  size_t guard_size[2] = {0, 0};
  size_t raw_size = 0;
};
constinit Template tmpl;

// What a fresh static TLS block holds, so that a used one is reset by one copy.
struct Image {
  SpinLock lock;
  std::atomic<bool> valid{false};
  std::atomic<unsigned long long> objects{0};  // how many were loaded when it was taken; 0: nobody asks
  size_t used = 0;  // bytes below the thread pointer that modules really use
  char bytes[64 * 1024] = {};
};
constinit Image image;

struct Descriptor {  // what _thread_db_* symbols hold
  uint32_t bits, count, offset;
};

template <class T>
bool find(T*& out, const char* name) noexcept {
  out = reinterpret_cast<T*>(dlsym(RTLD_DEFAULT, name));
  return out != nullptr;
}

bool find_offset(size_t& out, const char* name) noexcept {
  const Descriptor* d;
  if (!find(d, name)) return false;
  out = d->offset;
  return true;
}

template <class T>
T& at(void* base, ptrdiff_t offset) noexcept {
  return *reinterpret_cast<T*>(static_cast<char*>(base) + offset);
}

// --- the template -------------------------------------------------------------------------------------------

struct Sample {
  char bytes[kMaxTcb];
  char* tcb;
  ptrdiff_t resp_state;
};
Sample sample;

void* take_sample(void*) {
  sample.tcb = reinterpret_cast<char*>(thread_pointer());
  memcpy(sample.bytes, sample.tcb, tmpl.raw_size);
  if (priv.resp != 0) sample.resp_state = at<char*>(sample.tcb, priv.resp) - sample.tcb;
  return nullptr;
}

bool analyse_template(char* stack, size_t stack_size) noexcept {
  char* tcb = sample.tcb;
  memcpy(tmpl.bytes, sample.bytes, tmpl.raw_size);
  for (size_t offset = 0; offset + 8 <= tmpl.raw_size; offset += 8) {
    auto& value = at<uintptr_t>(tmpl.bytes, static_cast<ptrdiff_t>(offset));
    if (offset >= facts.rseq && offset < facts.rseq + 32) continue;
    const auto base = reinterpret_cast<uintptr_t>(tcb);
    if (offset == 8) {
      value = 0;  // DTV: every block has its own
    } else if (value >= base && value < base + tmpl.raw_size) {
      if (tmpl.self_count == std::size(tmpl.self_words)) return false;
      tmpl.self_words[tmpl.self_count] = static_cast<uint16_t>(offset);
      tmpl.self_delta[tmpl.self_count++] = static_cast<ptrdiff_t>(value - base);
    } else if (value == reinterpret_cast<uintptr_t>(stack)) {
      tmpl.stack_base = offset;
    } else if (value == stack_size) {
      tmpl.stack_size = offset;
    } else if (value > reinterpret_cast<uintptr_t>(stack) &&
               value < reinterpret_cast<uintptr_t>(stack) + stack_size) {
      facts.cleanup = offset;  // the sample thread's cancellation buffer: the one pointer to its frames
      value = 0;
    } else if (value == reinterpret_cast<uintptr_t>(&take_sample)) {
      value = 0;
    }
  }
  // head: tcb at 0, self at 0x10 are x86-64 psABI
  bool has_tcb = false, has_self = false;
  for (size_t i = 0; i < tmpl.self_count; ++i) {
    has_tcb |= tmpl.self_words[i] == 0 && tmpl.self_delta[i] == 0;
    has_self |= tmpl.self_words[i] == 0x10 && tmpl.self_delta[i] == 0;
  }
  // rseq: "registered by nobody"
  memset(tmpl.bytes + facts.rseq, 0, 32);
  at<uint32_t>(tmpl.bytes, static_cast<ptrdiff_t>(facts.rseq + 4)) = static_cast<uint32_t>(-1);
  return has_tcb && has_self && tmpl.stack_base != 0 && tmpl.stack_size != 0;
}

bool make_template(const char** why) noexcept {
  constexpr size_t kStackSize = 0x31000;  // an odd number of pages: no other word of the TCB equals it
  char* stack = static_cast<char*>(sys::map(kStackSize));
  pthread_attr_t attributes;
  pthread_t thread;
  if (stack == nullptr || pthread_attr_init(&attributes) != 0) {
    *why = "no memory for the template thread";
    return false;
  }
  bool ok = pthread_attr_setstack(&attributes, stack, kStackSize) == 0 &&
            libc.pthread_create(&thread, &attributes, take_sample, nullptr) == 0;
  if (!ok) *why = "the template thread cannot be created";
  if (ok) {
    libc.pthread_join(thread, nullptr);
    ok = analyse_template(stack, kStackSize);
    if (!ok) *why = "the thread control block of this libc does not look as expected";
  }
  pthread_attr_destroy(&attributes);
  sys::unmap(stack, kStackSize);
  return ok;
}

void adapt(void* tcb, void* stack, size_t stack_size, int tid) noexcept {
  char* base = static_cast<char*>(tcb);
  for (size_t i = 0; i < tmpl.self_count; ++i)
    at<char*>(base, tmpl.self_words[i]) = base + tmpl.self_delta[i];
  at<void*>(base, static_cast<ptrdiff_t>(tmpl.stack_base)) = stack;
  at<size_t>(base, static_cast<ptrdiff_t>(tmpl.stack_size)) = stack_size;
  // Self-linked: glibc's fork child unlinks the survivor's node.
  at<void*>(base, static_cast<ptrdiff_t>(facts.list)) = base + facts.list;
  at<void*>(base, static_cast<ptrdiff_t>(facts.list + 8)) = base + facts.list;
  *tid_of(tcb) = tid;
}

// --- the pristine TLS image ---------------------------------------------------------------------------------

// With a fresh block: how far below the thread pointer do static TLS modules reach?
void measure(void* tcb, size_t& used) noexcept {
  used = 0;
  Dtv* dtv = at<Dtv*>(tcb, 8);
  const auto length = reinterpret_cast<uintptr_t>(dtv[-1].value);
  for (uintptr_t i = 1; i <= length; ++i) {
    const auto distance = static_cast<char*>(tcb) - static_cast<char*>(dtv[i].value);
    if (distance > 0 && static_cast<size_t>(distance) <= facts.tls_size && used < static_cast<size_t>(distance))
      used = static_cast<size_t>(distance);
  }
}

void take_image(void* tcb) noexcept {
  Locked locked(image.lock);
  if (image.valid.load(std::memory_order_relaxed)) return;
  measure(tcb, image.used);
  if (image.used > sizeof image.bytes) return;
  memcpy(image.bytes, static_cast<char*>(tcb) - image.used, image.used);
  image.valid.store(true, std::memory_order_release);
}

std::atomic<bool> dlopen_used{false};

unsigned long long loaded_objects() noexcept {
  unsigned long long adds = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        *static_cast<unsigned long long*>(out) = info->dlpi_adds;
        return 1;
      },
      &adds);
  return adds;
}

bool image_is_current() noexcept {
  if (dlopen_used.load(std::memory_order_acquire)) [[unlikely]] {
    const unsigned long long objects = loaded_objects();
    if (image.objects.exchange(objects, std::memory_order_acq_rel) != objects)
      image.valid.store(false, std::memory_order_release);
  }
  return image.valid.load(std::memory_order_acquire);
}

// Did the thread get dynamic TLS (or a grown DTV) that must be given back?
bool has_dynamic_tls(void* tcb) noexcept {
  Dtv* dtv = at<Dtv*>(tcb, 8);
  const auto length = reinterpret_cast<uintptr_t>(dtv[-1].value);
  for (uintptr_t i = 1; i <= length; ++i)
    if (dtv[i].to_free != nullptr) return true;
  return false;
}

// --- malloc's two words -------------------------------------------------------------------------------------

// With a fresh TLS block installed, one malloc and free of libc's own: exactly two words below the thread
// pointer may change, the cache and the arena.
void find_malloc_words() noexcept {
  const size_t block = facts.tls_size + facts.tcb_size;
  const size_t size = (block + 2 * 4096) & ~4095UL;
  char* memory = static_cast<char*>(sys::map(size));
  if (memory == nullptr) return;
  char* tcb = memory + ((facts.tls_size + 63) & ~63UL);
  if (make_tcb(tcb, memory, size, 0, *tid_of(reinterpret_cast<void*>(thread_pointer())))) {
    char* before = static_cast<char*>(sys::map(size));
    if (before != nullptr) {
      const uintptr_t mine = thread_pointer();
      memcpy(before, tcb - image.used, image.used);
      // Signals stay out while the thread wears a borrowed TLS block.
      uint64_t all = ~0ULL, old;
      sys::sigprocmask(SIG_SETMASK, &all, &old);
      set_thread_pointer(reinterpret_cast<uintptr_t>(tcb));
      void* p = __libc_malloc(64);
      __libc_free(p);
      set_thread_pointer(mine);
      sys::sigprocmask(SIG_SETMASK, &old, nullptr);
      ptrdiff_t found[3];
      size_t count = 0;
      for (size_t i = 0; i + 8 <= image.used; i += 8)
        if (memcmp(before + i, tcb - image.used + i, 8) != 0 && count < 3)
          found[count++] = static_cast<ptrdiff_t>(i) - static_cast<ptrdiff_t>(image.used);
      if (count == 2) {
        facts.tcache = found[0];
        facts.arena = found[1];
      }
      sys::unmap(before, size);
    }
    destroy_tcb(tcb);
  }
  sys::unmap(memory, size);
}

// --- ends of threads ----------------------------------------------------------------------------------------

KeyData** key_blocks() noexcept {
  return &at<KeyData*>(reinterpret_cast<void*>(thread_pointer()), static_cast<ptrdiff_t>(facts.specific));
}

bool run_key_destructors() noexcept {
  KeyData** blocks = key_blocks();
  bool again = false;
  for (size_t i = 0; i < kKeysFirstLevel; ++i) {
    KeyData* block = blocks[i];
    if (block == nullptr) continue;
    for (size_t j = 0; j < kKeysSecondLevel; ++j) {
      void* data = block[j].data;
      if (data == nullptr) continue;
      block[j].data = nullptr;
      const Key& key = priv.keys[i * kKeysSecondLevel + j];
      if (block[j].sequence != key.sequence || key.destructor == nullptr) continue;
      key.destructor(data);
      again = true;
    }
  }
  return again;
}

// The loader gives every DTV room for 14 modules more than there are (224 bytes); it grows on demand anyway.
void trim_dtv(void* tcb) noexcept {
  Dtv* dtv = at<Dtv*>(tcb, 8);
  auto used = reinterpret_cast<uintptr_t>(dtv[-1].value);
  while (used > 0 && dtv[used].value == nullptr) --used;
  void* smaller = realloc(dtv - 1, (used + 2) * sizeof(Dtv));
  if (smaller == nullptr) return;
  dtv = static_cast<Dtv*>(smaller) + 1;
  dtv[-1].value = reinterpret_cast<void*>(used);
  at<Dtv*>(tcb, 8) = dtv;
}

}  // namespace

bool probe(const char** why) noexcept {
  if (facts.tcb_size != 0) return true;
  const char* forced = getenv("WEFT_FSGSBASE");
  fsgsbase_usable = (getauxval(AT_HWCAP2) & kHwcap2Fsgsbase) != 0 && (forced == nullptr || *forced != '0');

  const uint32_t* raw_size;
  void (*static_info)(size_t*, size_t*) = nullptr;
  void* resp = nullptr;
  const bool found =
      find(raw_size, "_thread_db_sizeof_pthread") && find_offset(facts.tid, "_thread_db_pthread_tid") &&
      find_offset(facts.list, "_thread_db_pthread_list") &&
      find_offset(facts.specific, "_thread_db_pthread_specific") &&
      find_offset(facts.cancelhandling, "_thread_db_pthread_cancelhandling") &&
      (priv.allocate_tls = reinterpret_cast<void* (*)(void*)>(dlsym(RTLD_DEFAULT, "_dl_allocate_tls"))) &&
      (priv.deallocate_tls =
           reinterpret_cast<void (*)(void*, bool)>(dlsym(RTLD_DEFAULT, "_dl_deallocate_tls"))) &&
      (priv.call_tls_dtors = reinterpret_cast<void (*)()>(dlsym(RTLD_DEFAULT, "__call_tls_dtors"))) &&
      (priv.ctype_init = reinterpret_cast<void (*)()>(dlsym(RTLD_DEFAULT, "__ctype_init"))) &&
      find(priv.keys, "__pthread_keys") &&
      (static_info = reinterpret_cast<void (*)(size_t*, size_t*)>(
           dlsym(RTLD_DEFAULT, "_dl_get_tls_static_info")));
  if (!found) {
    *why = "this libc does not export what weft needs to make threads";
    return false;
  }
  tmpl.raw_size = *raw_size;
  facts.rseq = static_cast<size_t>(__rseq_offset);
  size_t total;
  static_info(&total, &facts.tls_align);
  if (tmpl.raw_size > kMaxTcb || facts.tid + 4 > tmpl.raw_size || facts.rseq + 32 > tmpl.raw_size ||
      facts.tls_align > 4096 || total < tmpl.raw_size) {
    *why = "the sizes of this libc's thread control block are not plausible";
    return false;
  }
  const auto self = reinterpret_cast<void*>(thread_pointer());
  // A child by the bare system call clone still carries its parent's.
  if (*tid_of(self) == sys::call(SYS_getppid)) *tid_of(self) = sys::gettid();
  if (*tid_of(self) != sys::gettid()) {
    *why = "the thread id is not where this libc says it is";
    return false;
  }
  if ((resp = dlsym(RTLD_DEFAULT, "__resp")) != nullptr)
    priv.resp = static_cast<char*>(resp) - static_cast<char*>(self);
  facts.tls_size = (total - tmpl.raw_size + 63) & ~63UL;
  if (!make_template(why)) return false;
  priv.resp_state = sample.resp_state > 0 && static_cast<size_t>(sample.resp_state) < tmpl.raw_size
                        ? sample.resp_state
                        : 0;
  facts.tcb_size = (tmpl.raw_size + 63) & ~63UL;
  find_malloc_words();
  return true;
}

bool make_tcb(void* tcb, void* stack, size_t stack_size, size_t, int tid) noexcept {
  if (priv.allocate_tls(tcb) == nullptr) return false;
  trim_dtv(tcb);
  void* dtv = at<void*>(tcb, 8);
  if (!image_is_current()) take_image(tcb);
  memcpy(tcb, tmpl.bytes, tmpl.raw_size);
  at<void*>(tcb, 8) = dtv;
  adapt(tcb, stack, stack_size, tid);
  return true;
}

bool reset_tcb(void* tcb, void* stack, size_t stack_size, size_t guard_size, int tid) noexcept {
  void* dtv = at<void*>(tcb, 8);
  if (!image_is_current() || has_dynamic_tls(tcb)) {
    priv.deallocate_tls(tcb, false);
    memset(static_cast<char*>(tcb) - facts.tls_size, 0, facts.tls_size + tmpl.raw_size);
    return make_tcb(tcb, stack, stack_size, guard_size, tid);
  }
  memcpy(static_cast<char*>(tcb) - image.used, image.bytes, image.used);
  memcpy(tcb, tmpl.bytes, tmpl.raw_size);
  at<void*>(tcb, 8) = dtv;
  adapt(tcb, stack, stack_size, tid);
  return true;
}

void destroy_tcb(void* tcb) noexcept { priv.deallocate_tls(tcb, false); }

void note_dlopen() noexcept { dlopen_used.store(true, std::memory_order_release); }
unsigned long long objects_at_last_make() noexcept { return image.objects.load(std::memory_order_acquire); }
unsigned long long count_objects() noexcept {
  image.valid.store(false, std::memory_order_release);
  return loaded_objects();
}

void begin_thread() noexcept {
  const auto self = reinterpret_cast<void*>(thread_pointer());
  if (priv.resp_state != 0) at<char*>(self, priv.resp) = static_cast<char*>(self) + priv.resp_state;
  priv.ctype_init();
}

void end_thread() noexcept {
  priv.call_tls_dtors();
  for (int round = 0; round < kDestructorRounds; ++round)
    if (!run_key_destructors()) break;
  KeyData** blocks = key_blocks();
  for (size_t i = 1; i < kKeysFirstLevel; ++i) {  // the first block lies in the TCB itself
    if (blocks[i] == nullptr) continue;
    free(blocks[i]);
    blocks[i] = nullptr;
  }
}

MallocWords own_malloc_words() noexcept {
  if (facts.tcache == 0) return {};
  __libc_free(__libc_malloc(64));
  char* base = reinterpret_cast<char*>(thread_pointer());
  return {*reinterpret_cast<void**>(base + facts.tcache), *reinterpret_cast<void**>(base + facts.arena)};
}

bool redirect_thread_end(void (*landing)()) noexcept {
  if (facts.cleanup == 0) return false;
  auto* buffer = at<__pthread_unwind_buf_t*>(reinterpret_cast<void*>(thread_pointer()),
                                             static_cast<ptrdiff_t>(facts.cleanup));
  if (buffer == nullptr) return false;
  while (buffer->__pad[0] != nullptr) buffer = static_cast<__pthread_unwind_buf_t*>(buffer->__pad[0]);
  set_jump_target(buffer->__cancel_jmp_buf[0].__cancel_jmp_buf, landing);
  return true;
}

void unregister_rseq() noexcept {
  char* area = reinterpret_cast<char*>(thread_pointer()) + __rseq_offset;
  if (__rseq_size == 0) return;
  constexpr long kUnregister = 1;
  if (sys::call(SYS_rseq, sys::word(area), 32, kUnregister, RSEQ_SIG) == 0)
    reinterpret_cast<volatile uint32_t*>(area)[1] = static_cast<uint32_t>(-1);
}

}  // namespace weft::abi
