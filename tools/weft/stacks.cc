// stacks.cc - looks at every fiber of a process, once.
//
// Owns:        the order of events, and which processes there is nothing to say about.
// Keeps true:  one sentence on stderr and status 1 when nothing can be shown.
// Called by:   stacks.h.
// See also:    stacks_process.h -> stacks_root.h -> stacks_fibers.h -> stacks_look.h ->
//              stacks_print.h, in the order in which they are used here.

#include "tools/weft/stacks.h"

#include <iostream>

#include "tools/weft/stacks_fibers.h"
#include "tools/weft/stacks_look.h"
#include "tools/weft/stacks_print.h"
#include "tools/weft/stacks_process.h"
#include "tools/weft/stacks_root.h"
#include "tools/weft/stacks_wait.h"

namespace weft::launcher {
namespace {

Root root_of(const Process& process) {
  if (const auto root = Root::find(process)) return *root;
  throw Refusal("process " + std::to_string(process.pid()) + " (" + process.command() +
                ") does not run under weft");
}

void refuse_if_native(const Process& process, const Tables& tables) {
  if (tables.started()) return;
  throw Refusal("process " + std::to_string(process.pid()) + " (" + process.command() +
                ") has started no threads under weft: it runs natively so far");
}

void show(const Process& process, const StacksOptions& options) {
  const Root root = root_of(process);
  const Tables tables(process, root);
  refuse_if_native(process, tables);

  const Census census = tables.census();
  const Modules modules(process);
  Unwinder unwinder(modules);
  Symbols symbols(modules);
  Waits waits(process, tables, census, symbols);
  Looker looker(process, root, tables, unwinder, symbols,
                {.wanted = !options.no_frames, .all = options.all_frames, .most = options.frames});
  const auto printer =
      options.json ? make_json_printer(std::cout, symbols) : make_text_printer(std::cout, symbols);

  printer->begin({process.pid(), process.command(), census, tables.carriers().count});
  uint32_t shown = 0;
  tables.for_each_fiber([&](const FiberView& fiber) {
    if (shown == options.limit) return false;
    const Look look = looker.look(fiber);
    if (!look.fiber.exists()) return true;  // gone meanwhile
    printer->print(look, waits.describe(look.fiber));
    ++shown;
    return static_cast<bool>(std::cout);
  });
  printer->end(census.fibers > shown ? census.fibers - shown : 0);
}

}  // namespace

int stacks_main(pid_t pid, const StacksOptions& options) {
  try {
    show(Process(pid), options);
    return 0;
  } catch (const Refusal& refusal) {
    std::cerr << "weft: " << refusal.what() << '\n';
    return 1;
  }
}

}  // namespace weft::launcher
