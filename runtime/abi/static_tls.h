// static_tls.h - libraries loaded while fibers exist, whose thread variables lie in the static TLS of every thread.
//
// Owns:        the list of modules with static TLS that the fibers alive know of.
// Keeps true:  libc gives such a module's initial image to the threads in its own lists, and fibers are in none of
//              them; what a load has added is reported exactly once, to whoever asks first after it.
// Called by:   thread.cc, before and after a dlopen, in a Busy section.
// Limits:      modules that libc loads by itself (NSS, iconv) are not reported; a constructor that runs on a fiber sees
//              zeros where its library's static TLS should have an initial value.
// See also:    hook/dlopen.cc, FACTS.md 2.4.
#pragma once

#include <cstddef>
#include <cstdint>

namespace weft::abi {

struct StaticTlsModule {
  const void* map = nullptr;  // the loader's record of it
  const char* image = nullptr;
  size_t image_size = 0;
  size_t size = 0;    // the image, then zeros
  size_t offset = 0;  // the block lies so far below the thread pointer
};

constexpr size_t kMaxStaticTlsModules = 64;
struct StaticTlsModules {
  StaticTlsModule all[kMaxStaticTlsModules];
  size_t count = 0;
};

// A load begins.  Every begin needs its end.
void begin_load() noexcept;
// It has ended: what it, and others that run at the same time, have added.
void end_load(StaticTlsModules& added) noexcept;

// Gives a thread its copy, unless it has begun to use the block.
enum class Block : bool { kUntouched, kMaybeUsed };
void give_static_tls(void* tcb, const StaticTlsModule& module, Block block) noexcept;

}  // namespace weft::abi
