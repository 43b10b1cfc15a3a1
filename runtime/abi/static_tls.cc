// static_tls.cc - see static_tls.h.
#include "runtime/abi/static_tls.h"

#include <dlfcn.h>
#include <link.h>

#include <cstring>

#include "runtime/base/lock.h"

extern "C" int _dl_find_object(void* address, struct dl_find_object* result) noexcept __attribute__((weak));

namespace weft::abi {
namespace {

constinit SpinLock lock;  // taken before the loader's own, which dl_iterate_phdr takes for a moment
constinit StaticTlsModules known;
constinit uint32_t loads = 0;  // begun and not ended

// Where the loader's record of a module says how far below the thread pointer its block lies; 0: libc does not tell.
size_t offset_field() noexcept {
  struct Descriptor {
    uint32_t bits, count, offset;
  };
  static const auto* field =
      static_cast<const Descriptor*>(dlsym(RTLD_DEFAULT, "_thread_db_link_map_l_tls_offset"));
  return field != nullptr && field->bits == 64 ? field->offset : 0;
}

int add_module(dl_phdr_info* info, size_t, void* out) noexcept {
  auto& modules = *static_cast<StaticTlsModules*>(out);
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_TLS || segment.p_memsz == 0 || modules.count == kMaxStaticTlsModules) continue;
    auto* image = reinterpret_cast<char*>(info->dlpi_addr + segment.p_vaddr);
    dl_find_object found;
    if (_dl_find_object(image, &found) != 0) continue;
    const auto offset = *reinterpret_cast<const ptrdiff_t*>(reinterpret_cast<const char*>(found.dlfo_link_map) +
                                                            offset_field());
    if (offset > 0) modules.all[modules.count++] = {found.dlfo_link_map, image, segment.p_filesz, segment.p_memsz,
                                                    static_cast<size_t>(offset)};
  }
  return 0;
}

void look(StaticTlsModules& modules) noexcept {
  modules.count = 0;
  if (_dl_find_object != nullptr && offset_field() != 0) dl_iterate_phdr(add_module, &modules);
}

bool contains(const StaticTlsModules& modules, const void* map) noexcept {
  for (size_t i = 0; i < modules.count; ++i)
    if (modules.all[i].map == map) return true;
  return false;
}

}  // namespace

void begin_load() noexcept {
  Locked locked(lock);
  StaticTlsModules now;
  look(now);
  if (loads++ == 0) {
    known = now;
    return;
  }
  size_t kept = 0;  // others are loading: what they have added is theirs to report; what was unloaded may come again
  for (size_t i = 0; i < known.count; ++i)
    if (contains(now, known.all[i].map)) known.all[kept++] = known.all[i];
  known.count = kept;
}

void end_load(StaticTlsModules& added) noexcept {
  Locked locked(lock);
  StaticTlsModules now;
  look(now);
  added.count = 0;
  for (size_t i = 0; i < now.count; ++i)
    if (!contains(known, now.all[i].map)) added.all[added.count++] = now.all[i];
  known = now;
  --loads;
}

void give_static_tls(void* tcb, const StaticTlsModule& module, Block block) noexcept {
  char* bytes = static_cast<char*>(tcb) - module.offset;
  if (block == Block::kMaybeUsed)
    for (size_t i = 0; i < module.size; ++i)
      if (bytes[i] != 0) return;
  memcpy(bytes, module.image, module.image_size);
  memset(bytes + module.image_size, 0, module.size - module.image_size);
}

}  // namespace weft::abi
