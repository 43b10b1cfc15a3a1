// check.h - broken contracts and the lines that weft prints.
//
// Owns:        fatal(), which survives release builds, and say(), one line on stderr.
// Keeps true:  errno survives say(); neither allocates nor calls a hook.
// Called by:   anyone, from any context.
#pragma once

namespace weft {

// Prints "weft: fatal: file:line: what" and aborts the process.
[[noreturn]] void fatal(const char* file, int line, const char* what) noexcept;

// Prints "weft: " and the formatted line (at most 512 bytes) on stderr with one write.
void say(const char* format, ...) noexcept __attribute__((format(printf, 1, 2)));

}  // namespace weft

// A contract between parts of weft: checked in every build.
#define WEFT_CHECK(condition, what) \
  ((condition) ? static_cast<void>(0) : ::weft::fatal(__FILE__, __LINE__, what))

#ifdef NDEBUG
#define WEFT_DCHECK(condition, what) static_cast<void>(0)
#else
#define WEFT_DCHECK(condition, what) WEFT_CHECK(condition, what)
#endif
