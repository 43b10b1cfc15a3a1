// check.h - the checks that the programs in this folder are made of. For C and C++.
//
// A failed check prints file:line and what it saw, and ends the process at once with status 1: no
// destructors, no exit handlers, because the other threads may be in any state.
//
// In C++ a program is a list of cases. A case is a statement that is true or false:
//
//   CASE(recv_returns_zero_once_the_peer_has_closed) { ... CHECK_EQ(recv(...), 0); }
//   int main(int argc, char** argv) { return run_cases(argc, argv); }
//
// All cases run in the order of the file, or those named on the command line; --list prints the
// names.
#pragma once

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

__attribute__((format(printf, 3, 4), noreturn)) static inline void check_failed(const char* file,
                                                                                int line,
                                                                                const char* format,
                                                                                ...) {
  const int seen_errno = errno;
  char text[1024];
  int used = snprintf(text, sizeof text, "%s:%d: ", file, line);
  va_list values;
  va_start(values, format);
  used += vsnprintf(text + used, sizeof text - (size_t)used, format, values);
  va_end(values);
  if (used > (int)sizeof text - 64) used = (int)sizeof text - 64;
  const char* name = strerrorname_np(seen_errno);
  used += snprintf(text + used, sizeof text - (size_t)used, " (errno %s)\n", name ? name : "?");
  if (write(STDERR_FILENO, text, (size_t)used) < 0) _exit(2);
  _exit(1);
}

// The statement holds.
#define CHECK(condition)                                                                \
  do {                                                                                  \
    if (!(condition)) check_failed(__FILE__, __LINE__, "%s does not hold", #condition); \
  } while (0)

// The call returns -1 and sets errno to what is expected.
#define CHECK_ERRNO(call, expected)                                                            \
  do {                                                                                         \
    errno = 0;                                                                                 \
    const long long check_result = (long long)(call);                                          \
    if (check_result != -1)                                                                    \
      check_failed(__FILE__, __LINE__, "%s is %lld, should fail with %s", #call, check_result, \
                   #expected);                                                                 \
    if (errno != (expected))                                                                   \
      check_failed(__FILE__, __LINE__, "%s should fail with %s", #call, #expected);            \
  } while (0)

// A call of the -1-and-errno kind that is only a step on the way: its value, or the end of the
// program.
#define MUST(call)                                          \
  __extension__({                                           \
    __typeof__(call) must_result = (call);                  \
    if (must_result == (__typeof__(must_result))-1)         \
      check_failed(__FILE__, __LINE__, "%s failed", #call); \
    must_result;                                            \
  })

// The actual value, first, is the expected one, second.
#ifndef __cplusplus

#define CHECK_EQ(actual, expected)                                                              \
  do {                                                                                          \
    const long long check_actual = (long long)(actual), check_expected = (long long)(expected); \
    if (check_actual != check_expected)                                                         \
      check_failed(__FILE__, __LINE__, "%s is %lld, not %s = %lld", #actual, check_actual,      \
                   #expected, check_expected);                                                  \
  } while (0)

#else

#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

template <class T>
auto check_comparable(const T& value) {
  if constexpr (std::is_convertible_v<T, std::string>) {
    return std::string(value);
  } else if constexpr (std::is_floating_point_v<T>) {
    return value;
  } else {
    return static_cast<long long>(value);  // so that signed and unsigned compare by value
  }
}

template <class Actual, class Expected>
void check_equal(const char* file, int line, const char* actual_text, const Actual& actual,
                 const char* expected_text, const Expected& expected) {
  const int seen_errno = errno;
  const auto a = check_comparable(actual);
  const auto e = check_comparable(expected);
  if (a == e) {
    errno = seen_errno;
    return;
  }
  std::ostringstream a_shown, e_shown;
  a_shown << a;
  e_shown << e;
  errno = seen_errno;
  check_failed(file, line, "%s is %s, not %s = %s", actual_text, a_shown.str().c_str(),
               expected_text, e_shown.str().c_str());
}

#define CHECK_EQ(actual, expected) \
  check_equal(__FILE__, __LINE__, #actual, (actual), #expected, (expected))

struct test_case {
  const char* name;
  void (*body)();
};

inline std::vector<test_case>& all_cases() {
  static std::vector<test_case> cases;
  return cases;
}

#define CASE(name)                                         \
  static void case_##name();                               \
  [[maybe_unused]] static const bool registered_##name =   \
      (all_cases().push_back({#name, case_##name}), true); \
  static void case_##name()

inline int run_cases(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "--list") == 0) {
    for (const test_case& one : all_cases()) dprintf(STDOUT_FILENO, "%s\n", one.name);
    return 0;
  }
  int ran = 0;
  for (const test_case& one : all_cases()) {
    bool wanted = argc == 1;
    for (int i = 1; i < argc; ++i) wanted = wanted || strcmp(argv[i], one.name) == 0;
    if (!wanted) continue;
    dprintf(STDOUT_FILENO, "%s\n",
            one.name);  // before it runs: the last line names the case that hangs
    one.body();
    ++ran;
  }
  if (ran == 0) dprintf(STDERR_FILENO, "no such case; --list shows them\n");
  return ran == 0 ? 2 : 0;
}

#endif
