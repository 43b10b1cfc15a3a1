// process.cc - fork variants.
//
// Owns:        what pthread_atfork handlers do not reach: _Fork and vfork.
// Keeps true:  a vfork child must not run weft's scheduler in its parent's memory (it would exit as the parent):
//              it gets memory of its own.
// Called by:   the program.  See also: runtime/process.h.
#include "hook/gate.h"
#include "runtime/process.h"

using namespace weft;

WEFT_HOOK pid_t _Fork() noexcept {
  process::before_fork();
  const pid_t child = real::_Fork();
  if (child == 0)
    process::after_fork_in_child();
  else
    process::after_fork_in_parent();
  return child;
}

WEFT_HOOK pid_t vfork() noexcept { return _Fork(); }
