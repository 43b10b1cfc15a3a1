// environment.h - what a run is told, and the environment variables that tell it.
//
// Owns:        the table of settings (option, WEFT_* twin, limits, help) and the making of
//              LD_PRELOAD.
// Keeps true:  an option beats its twin; what is exported is canonical (plain bytes, 0 or 1),
//              whoever wrote it.
// Called by:   main.cc (one option per row), run.cc.
// See also:    runtime/ reads the same variables.

#pragma once

#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace weft::launcher {

struct Setting {
  const char* option;    // --workers
  const char* variable;  // WEFT_WORKERS
  const char* type;      // N in "--workers N"; nullptr: a switch
  const char* allowed;   // the rest of the sentence "X is not ..."
  const char* help;
  std::optional<std::string> (*canonical)(const std::string& text);  // nothing: not allowed
};

extern const std::span<const Setting> kSettings;

// What the user asked wrongly, as a sentence without its subject "weft:".
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// One value per row of kSettings, canonical: from its option (options[i]; empty: not given), or
// else from its variable; nothing when both are silent. Throws UsageError.
std::vector<std::optional<std::string>> resolve_settings(const std::vector<std::string>& options);

// Sets the WEFT_* variables to what resolve_settings gave.
void export_settings(const std::vector<std::optional<std::string>>& values);

// LD_PRELOAD for the program: first a sanitizer's runtime that the program or weft's library needs
// (it insists on being first), then weft's libraries, then what the user has there.
std::string preload_list(const std::vector<std::string>& needed,
                         const std::vector<std::string>& libraries,
                         const std::string& already_there);

}  // namespace weft::launcher
