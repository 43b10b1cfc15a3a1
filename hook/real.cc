// real.cc - see real.h.
#include "hook/real.h"

#include "runtime/base/check.h"

namespace weft::real {

constinit std::atomic<void*> addresses[static_cast<unsigned>(Row::kCount)] = {};

void* resolve(Row row) noexcept {
  const Symbol& symbol = kSymbols[static_cast<unsigned>(row)];
  void* p = symbol.version != nullptr ? dlvsym(RTLD_NEXT, symbol.name, symbol.version) : nullptr;
  if (p == nullptr) p = dlsym(RTLD_NEXT, symbol.name);  // another libc's version: its default one
  addresses[static_cast<unsigned>(row)].store(p, std::memory_order_relaxed);
  if (p == nullptr) {
    say("libc has no %s; the program called it", symbol.name);
    WEFT_CHECK(p != nullptr, "a hooked symbol without an original was called");
  }
  return p;
}

void resolve_all() noexcept {
  for (unsigned row = 0; row < static_cast<unsigned>(Row::kCount); ++row) {
    const Symbol& symbol = kSymbols[row];
    if (addresses[row].load(std::memory_order_relaxed) != nullptr) continue;
    void* p = symbol.version != nullptr ? dlvsym(RTLD_NEXT, symbol.name, symbol.version) : nullptr;
    if (p == nullptr) p = dlsym(RTLD_NEXT, symbol.name);
    addresses[row].store(p, std::memory_order_relaxed);
  }
}

}  // namespace weft::real
