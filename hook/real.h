// real.h - the next definitions of the symbols that weft hooks, typed: real::recv(...) is libc's recv.
//
// Owns:        the table of addresses, resolved at load or, for a hook that runs earlier, at first use.
// Keeps true:  resolving does not allocate; the version is the one named in symbols.def.
// Called by:   hook/ only.
// See also:    symbols.def, tools/gen_hooks.py.
#pragma once

#include <aio.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <grp.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

namespace weft::real {

enum class Row : unsigned;
extern std::atomic<void*> addresses[];
void* resolve(Row row) noexcept;
void resolve_all() noexcept;

template <Row row, class Type>
struct Function {
  template <class... A>
  auto operator()(A... a) const {
    return get()(a...);
  }
  Type* get() const noexcept {
    void* p = addresses[static_cast<unsigned>(row)].load(std::memory_order_relaxed);
    if (p == nullptr) [[unlikely]]
      p = resolve(row);
    return reinterpret_cast<Type*>(p);
  }
};

}  // namespace weft::real

#include "hook_table.h"
