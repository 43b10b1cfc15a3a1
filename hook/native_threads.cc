// native_threads.cc - see native_threads.h.
#include "hook/native_threads.h"

#include <dlfcn.h>
#include <link.h>

#include <atomic>
#include <cstring>

#include "runtime/runtime.h"

namespace weft {
namespace {

// Beginnings of file names.
constexpr const char* kPools =
    "libgomp.so:libiomp5.so:libomp.so:libomp5.so:libopenblas:libblis:libmkl_:libnvomp.so:libgomp-";

// Is the name one of the list, or does it begin like one?
bool is_listed(const char* name, const char* list) noexcept {
  for (const char* item = list; *item != 0;) {
    const size_t length = strcspn(item, ":");
    if (length != 0 && strncmp(name, item, length) == 0) return true;
    item += length;
    if (*item == ':') ++item;
  }
  return false;
}

}  // namespace

bool makes_native_threads(const void* caller) noexcept {
  // Most threads come from one library (libstdc++, or the program): the last one that was not listed.
  static std::atomic<const link_map*> ordinary{nullptr};
  dl_find_object object;
  if (_dl_find_object(const_cast<void*>(caller), &object) != 0) return false;
  const link_map* library = object.dlfo_link_map;
  if (library == ordinary.load(std::memory_order_relaxed)) return false;
  const char* slash = strrchr(library->l_name, '/');
  const char* name = slash != nullptr ? slash + 1 : library->l_name;
  if (is_listed(name, kPools) || is_listed(name, runtime::options.native_threads_from)) return true;
  ordinary.store(library, std::memory_order_relaxed);
  return false;
}

}  // namespace weft
