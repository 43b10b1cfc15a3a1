// check.cc - see check.h.
#include "runtime/base/check.h"

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "runtime/base/sys.h"

namespace weft {

void fatal(const char* file, int line, const char* what) noexcept {
  say("fatal: %s:%d: %s", file, line, what);
  sys::KernelSigaction action{};
  sys::sigaction(SIGABRT, &action, nullptr);
  uint64_t all = ~0ULL;
  sys::sigprocmask(SIG_UNBLOCK, &all, nullptr);
  sys::tgkill(sys::getpid(), sys::gettid(), SIGABRT);
  __builtin_trap();
}

void say(const char* format, ...) noexcept {
  const int saved = errno;
  char line[512] = "weft: ";
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line + 6, sizeof line - 7, format, arguments);
  va_end(arguments);
  const size_t size = strlen(line);
  line[size] = '\n';
  sys::write(2, line, size + 1);
  errno = saved;
}

}  // namespace weft
