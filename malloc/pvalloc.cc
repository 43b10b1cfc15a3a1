// pvalloc.cc - the one member of glibc's malloc family that jemalloc 5.3 does not define.
//
// Owns:        pvalloc of libweft-jemalloc.so.
// Keeps true:  no member of the family is left to glibc: memory from glibc's heap given to
//              jemalloc's free would corrupt both.
// Called by:   programs run with `weft run --malloc jemalloc`, on any thread or fiber.
// See also:    jemalloc.map (what the library exports).

#include <cerrno>
#include <cstddef>
#include <cstdint>

#include <malloc.h>
#include <unistd.h>

extern "C" void* pvalloc(size_t size) noexcept {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (size > SIZE_MAX - (page - 1)) {
    errno = ENOMEM;
    return nullptr;
  }
  const size_t rounded = (size + page - 1) & ~(page - 1);
  return memalign(page, rounded == 0 ? page : rounded);
}
