// environment.cc - the table of settings, their parsing, and LD_PRELOAD.
//
// Owns:        the limits of every setting.
// Keeps true:  a value that is refused is named together with where it came from (the option or the
//              variable).
// Called by:   environment.h.
// See also:    ld.so(8) LD_PRELOAD.

#include "tools/weft/environment.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <string_view>

namespace weft::launcher {
namespace {

using Text = std::optional<std::string>;

constexpr uint64_t kKibi = 1024;
constexpr uint64_t kGibi = kKibi * kKibi * kKibi;

Text number(std::string_view text, uint64_t unit, uint64_t low, uint64_t high) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if (value > high / unit || value * unit < low) return std::nullopt;
  return std::to_string(value * unit);
}

Text workers(const std::string& text) { return number(text, 1, 1, 256); }

Text threshold(const std::string& text) { return number(text, 1, 10, 10'000'000); }

Text carriers(const std::string& text) { return number(text, 1, 1, 32'768); }

Text libraries(const std::string& text) { return text; }

Text stack_size(const std::string& text) {
  std::string_view digits = text;
  uint64_t unit = 1;
  const char suffix =
      text.empty() ? ' ' : static_cast<char>(std::tolower(static_cast<unsigned char>(text.back())));
  if (const size_t power = std::string_view("kmg").find(suffix); power != std::string_view::npos) {
    digits.remove_suffix(1);
    unit = uint64_t{1} << (10 * (power + 1));
  }
  return number(digits, unit, 16 * kKibi, kGibi);
}

Text on_or_off(const std::string& text) {
  if (text == "1" || text == "true" || text == "yes" || text == "on") return "1";
  if (text == "0" || text == "false" || text == "no" || text == "off") return "0";
  return std::nullopt;
}

Text malloc_name(const std::string& text) {
  if (text == "jemalloc" || text == "system") return text;
  return std::nullopt;
}

constexpr std::array kTable = {
    Setting{"--workers", "WEFT_WORKERS", "N", "a number from 1 to 256",
            "Schedulers that fibers run on; default: one per CPU, one for interpreters with a global lock", workers},
    Setting{"--stack-size", "WEFT_STACK_SIZE", "BYTES", "a size from 16K to 1G",
            "Stack of a fiber whose creator asks for none, with suffix K, M or G;\n"
            "default: what a thread gets natively",
            stack_size},
    Setting{"--stats", "WEFT_STATS", nullptr, "0 or 1",
            "Print the runtime's counters on stderr at exit", on_or_off},
    Setting{"--malloc", "WEFT_MALLOC", "NAME", "jemalloc or system",
            "What serves the program's malloc: jemalloc, or system (as natively; the default)",
            malloc_name},
    Setting{"--follow-children", "WEFT_FOLLOW_CHILDREN", "YES|NO", "yes or no",
            "Whether programs that the program executes run on fibers too; default: yes", on_or_off},
    Setting{"--handoff-threshold-us", "WEFT_HANDOFF_THRESHOLD_US", "N",
            "a number from 10 to 10000000",
            "Microseconds that a fiber may compute or block in the kernel before the fibers\n"
            "behind it go on without it",
            threshold},
    Setting{"--max-carriers", "WEFT_MAX_CARRIERS", "N", "a number from 1 to 32768",
            "Kernel threads that run fibers, at most; the others wait for so many that compute or\n"
            "block, for ever if those wait for them. Default: as many as the kernel allows",
            carriers},
    Setting{"--native-threads-from", "WEFT_NATIVE_THREADS_FROM", "LIBS", "a list of libraries",
            "Threads created by code in these libraries (names or beginnings of names, with\n"
            "colons between them) are kernel threads; always so: OpenMP and BLAS pools",
            libraries},
    Setting{"--log-handoffs", "WEFT_LOG_HANDOFFS", nullptr, "0 or 1",
            "Say on stderr, once for each place, where a fiber computed or blocked so that the\n"
            "others had to go on without it",
            on_or_off},
};

// A sanitizer's runtime refuses to start when any other library comes before it.
bool is_sanitizer(std::string_view name) {
  for (const std::string_view prefix :
       {"libasan.so", "libtsan.so", "liblsan.so", "libhwasan.so", "libclang_rt."})
    if (name.starts_with(prefix)) return true;
  return false;
}

std::string_view base_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> items;
  for (size_t begin = 0; begin < list.size();) {
    const size_t end = std::min(list.find_first_of(": ", begin), list.size());
    if (end > begin) items.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return items;
}

}  // namespace

const std::span<const Setting> kSettings = kTable;

std::vector<Text> resolve_settings(const std::vector<std::string>& options) {
  std::vector<Text> values(kSettings.size());
  for (size_t i = 0; i < kSettings.size(); ++i) {
    const Setting& setting = kSettings[i];
    std::string source = setting.option;
    std::string text = options[i];
    if (const char* twin = std::getenv(setting.variable); text.empty() && twin != nullptr) {
      source = setting.variable;
      text = twin;
    }
    if (text.empty()) continue;
    values[i] = setting.canonical(text);
    if (!values[i]) throw UsageError(source + ": '" + text + "' is not " + setting.allowed);
  }
  return values;
}

void export_settings(const std::vector<Text>& values) {
  for (size_t i = 0; i < kSettings.size(); ++i)
    if (values[i]) setenv(kSettings[i].variable, values[i]->c_str(), 1);
}

std::string preload_list(const std::vector<std::string>& needed,
                         const std::vector<std::string>& libraries,
                         const std::string& already_there) {
  std::vector<std::string> order;
  std::copy_if(needed.begin(), needed.end(), std::back_inserter(order), is_sanitizer);
  order.insert(order.end(), libraries.begin(), libraries.end());
  const std::vector<std::string> ahead = order;
  for (const std::string& library : split(already_there)) {
    const auto same = [&](const std::string& other) {
      return base_name(other) == base_name(library);
    };
    const bool of_weft = base_name(library).starts_with("libweft");  // left by an outer weft run
    if (!of_weft && std::none_of(ahead.begin(), ahead.end(), same)) order.push_back(library);
  }

  std::string list;
  for (const std::string& library : order) list += (list.empty() ? "" : ":") + library;
  return list;
}

}  // namespace weft::launcher
