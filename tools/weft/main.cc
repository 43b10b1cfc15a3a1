// main.cc - the command line of weft.
//
// Owns:        the subcommands and their options; --help and --version.
// Keeps true:  bad usage is one sentence on stderr and exit status 2; everything from the program's
//              name on is the program's, unread.
// Called by:   the user.
// See also:    run.h, stacks.h, environment.h (the table behind the options of run).

#include <algorithm>
#include <exception>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "tools/weft/environment.h"
#include "tools/weft/run.h"
#include "tools/weft/stacks.h"

namespace {

using weft::launcher::kSettings;
using weft::launcher::RunOptions;
using weft::launcher::Setting;
using weft::launcher::StacksOptions;
using weft::launcher::UsageError;

constexpr int kUsage = 2;

// A usage line of our own; the rest as CLI11 lays it out.
class Help : public CLI::Formatter {
 public:
  explicit Help(std::string usage) : usage_(std::move(usage)) { column_width(34); }
  std::string make_usage(const CLI::App*, std::string) const override {
    return "Usage: " + usage_ + "\n";
  }

 private:
  std::string usage_;
};

void describe_run(CLI::App& run, RunOptions& options) {
  run.formatter(std::make_shared<Help>("weft run [OPTIONS] [--] PROGRAM [ARGS...]"));
  options.settings.resize(kSettings.size());
  for (size_t i = 0; i < kSettings.size(); ++i) {
    const Setting& setting = kSettings[i];
    const std::string help =
        std::string(setting.help) + "\n(environment: " + setting.variable + ")";
    if (setting.type == nullptr) {
      run.add_flag(setting.option, options.settings[i], help);
    } else {
      run.add_option(setting.option, options.settings[i], help)->type_name(setting.type);
    }
  }
  run.footer(
      "An option beats its environment twin. The exit status is the program's own; 2: bad usage,\n"
      "126: PROGRAM cannot be executed, 127: PROGRAM was not found.\n");
}

void describe_stacks(CLI::App& stacks, pid_t& pid, StacksOptions& options) {
  stacks.formatter(std::make_shared<Help>("weft stacks [OPTIONS] PID"));
  const auto is_pid = [&pid](const std::string& text) {
    return CLI::detail::lexical_cast(text, pid) && pid > 0 ? ""
                                                           : "'" + text + "' is not a process id";
  };
  stacks.add_option("PID", pid, "A process started by weft run")
      ->type_name("")
      ->required()
      ->check(is_pid);
  stacks.add_option("--limit", options.limit, "At most N fibers (all)")->type_name("N");
  stacks.add_option("--frames", options.frames, "At most N frames per fiber")
      ->type_name("N")
      ->capture_default_str();
  stacks.add_flag("--no-frames", options.no_frames, "Only where each fiber stands; stops nothing");
  stacks.add_flag("--all-frames", options.all_frames, "Show the frames of weft itself, too");
  stacks.add_flag("--json", options.json, "One JSON document, one line per fiber");
}

// Where the command starts among the arguments of run: after "--", or at the first word that is
// neither an option nor the value of one.
std::vector<std::string>::iterator command_begins(const CLI::App& run,
                                                  std::vector<std::string>& arguments) {
  auto word = arguments.begin();
  while (word != arguments.end() && *word != "--" && word->starts_with("-")) {
    const CLI::Option* option = run.get_option_no_throw(*word);
    const bool takes_next = option != nullptr && option->get_expected_min() > 0;
    word += takes_next && word + 1 != arguments.end() ? 2 : 1;
  }
  return word;
}

// Takes PROGRAM ARGS... out of the arguments, so that no parser touches them.
void take_command(const CLI::App& run, std::vector<std::string>& arguments, RunOptions& options) {
  const auto begin = command_begins(run, arguments);
  const bool marked = begin != arguments.end() && *begin == "--";
  options.command.assign(begin + (marked ? 1 : 0), arguments.end());
  arguments.erase(begin, arguments.end());
}

int dispatch(std::vector<std::string> arguments) {
  CLI::App app("weft runs thread-per-connection programs on fibers, unmodified.", "weft");
  app.formatter(std::make_shared<Help>("weft COMMAND ..."));
  app.set_version_flag("--version", std::string("weft ") + WEFT_VERSION,
                       "Print the version and exit");

  RunOptions run_options;
  pid_t pid = 0;
  StacksOptions stacks_options;
  CLI::App* run = app.add_subcommand("run", "Run a program on fibers");
  CLI::App* stacks = app.add_subcommand("stacks", "Print every fiber of a running program");
  for (CLI::App* command : {run, stacks})
    command->set_help_flag("-h,--help", "Print this help and exit");
  app.set_help_flag();  // the help of weft itself is that of all its commands
  app.set_help_all_flag("-h,--help", "Print this help and exit");
  describe_run(*run, run_options);
  describe_stacks(*stacks, pid, stacks_options);

  const std::string first = arguments.empty() ? "" : arguments.front();
  if (!first.empty() && !first.starts_with("-") && first != run->get_name() &&
      first != stacks->get_name())
    throw UsageError("unknown command '" + first + "'; see weft --help");
  if (first == run->get_name()) {
    std::vector<std::string> rest(arguments.begin() + 1, arguments.end());
    take_command(*run, rest, run_options);
    arguments.resize(1);
    arguments.insert(arguments.end(), rest.begin(), rest.end());
  }

  std::reverse(arguments.begin(), arguments.end());  // the order in which CLI11 takes a vector
  try {
    app.parse(arguments);
  } catch (const CLI::Success& asked) {  // --help, --version
    return app.exit(asked);
  } catch (const CLI::ParseError& error) {
    throw UsageError(error.what());
  }
  if (run->parsed()) return weft::launcher::run_main(run_options);
  if (stacks->parsed()) return weft::launcher::stacks_main(pid, stacks_options);
  throw UsageError("no command given; see weft --help");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return dispatch(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& error) {  // nearly always a UsageError
    std::cerr << "weft: " << error.what() << '\n';
    return kUsage;
  }
}
