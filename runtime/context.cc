// context.cc - see context.h.
#include "runtime/context.h"

#include <boost/context/detail/fcontext.hpp>

#include "runtime/abi/x86_64.h"

namespace weft {
namespace {

using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

// Lies on the stack that is being left; read at once by whoever arrives.
struct Switch {
  Context* from;
  Context* to;
};

using Entry = void (*)();

// Kept above the first frame of a fresh stack, where nothing runs over it.
Entry& entry_of(const Context& fresh) noexcept {
  return *reinterpret_cast<Entry*>(static_cast<abi::SavedFrame*>(fresh.sp) + 1);
}

// First thing on a new stack: note where the one that switched here stands, then run.
void enter_context(transfer_t transfer) {
  const auto* arriving = static_cast<Switch*>(transfer.data);
  arriving->from->sp = transfer.fctx;
  entry_of(*arriving->to)();
}

}  // namespace

void prepare_context(Context& context, void* top, uintptr_t thread_pointer, void (*entry)()) noexcept {
  context.sp = make_fcontext(static_cast<char*>(top) - 16, 0, enter_context);
  context.thread_pointer = thread_pointer;
  entry_of(context) = entry;
}

void switch_context(Context& from, Context& to) noexcept {
  Switch leaving{&from, &to};
  abi::set_thread_pointer(to.thread_pointer);
  const transfer_t back = abi::jump_with_balanced_returns<transfer_t>(to.sp, &leaving);
  static_cast<Switch*>(back.data)->from->sp = back.fctx;
}

}  // namespace weft
