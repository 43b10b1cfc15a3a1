// preload.cc - the library's own birth and end.
//
// Owns:        the constructor that resolves real:: and reads the environment, the fork handlers, the --stats print,
//              what of LD_PRELOAD the program's children see.
// Keeps true:  hooks work before this constructor (real:: resolves lazily, the runtime is inactive) and after the
//              destructor (nothing is torn down).  Nothing else exists until the first pthread_create.
// Called by:   the dynamic linker.
#include <cstdlib>
#include <cstring>

#include "hook/gate.h"
#include "runtime/base/clock.h"
#include "runtime/process.h"
#include "runtime/runtime.h"

namespace weft {

void ensure_loaded() noexcept {
  static std::atomic<bool> done{false};
  if (done.load(std::memory_order_acquire)) return;
  real::resolve_all();
  abi::libc.pthread_create = real::pthread_create.get();
  abi::libc.pthread_join = real::pthread_join.get();
  abi::libc.sigaction = real::sigaction.get();
  libc_clock_gettime = real::clock_gettime.get();
  runtime::read_environment();
  // First to register: last before the fork, first after it.
  pthread_atfork(process::before_fork, process::after_fork_in_parent, process::after_fork_in_child);
  done.store(true, std::memory_order_release);
}

namespace {

// WEFT_FOLLOW_CHILDREN=0: what the program executes runs natively.  Weft's libraries leave LD_PRELOAD in place, in the
// environment's own memory; an empty list is as good as none.
void hide_from_children() noexcept {
  const char* follow = getenv("WEFT_FOLLOW_CHILDREN");
  char* list = getenv("LD_PRELOAD");
  if (follow == nullptr || strcmp(follow, "0") != 0 || list == nullptr) return;
  char* to = list;
  for (const char* item = list; *item != 0;) {
    const size_t size = strcspn(item, ": ");
    const auto* slash = static_cast<const char*>(memrchr(item, '/', size));
    const char* name = slash != nullptr ? slash + 1 : item;
    if (strncmp(name, "libweft", strlen("libweft")) != 0) {
      if (to != list) *to++ = ':';
      memmove(to, item, size);
      to += size;
    }
    item += size;
    if (*item != 0) ++item;
  }
  *to = 0;
}

[[gnu::constructor(101)]] void load() {
  ensure_loaded();
  hide_from_children();
}

[[gnu::destructor(101)]] void unload() {
  if (runtime::is_active() && runtime::options.stats) runtime::print_stats();
}

}  // namespace
}  // namespace weft
