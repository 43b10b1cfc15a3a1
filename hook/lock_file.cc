// lock_file.cc - calls that wait in the kernel for something that has no readiness: record locks, System V queues and
// semaphores, asynchronous I/O of libc.
//
// Owns:        nothing: each is libc's own call, here so that the table of symbols says what it costs.
// Keeps true:  a fiber in one of them keeps its kernel thread; its worker goes on elsewhere (handoff).
// Called by:   the program.  See also: DECISIONS.md "What has no readiness".
#include <aio.h>
#include <sys/msg.h>
#include <sys/sem.h>

#include "hook/gate.h"

using namespace weft;

WEFT_HOOK int lockf(int fd, int command, off_t size) { return real::lockf(fd, command, size); }
WEFT_HOOK int lockf64(int fd, int command, off64_t size) { return real::lockf64(fd, command, size); }

WEFT_HOOK ssize_t msgrcv(int queue, void* message, size_t size, long type, int flags) {
  return real::msgrcv(queue, message, size, type, flags);
}
WEFT_HOOK int msgsnd(int queue, const void* message, size_t size, int flags) {
  return real::msgsnd(queue, message, size, flags);
}
WEFT_HOOK int semop(int set, sembuf* operations, size_t count) noexcept { return real::semop(set, operations, count); }
WEFT_HOOK int semtimedop(int set, sembuf* operations, size_t count, const timespec* timeout) noexcept {
  return real::semtimedop(set, operations, count, timeout);
}

WEFT_HOOK int aio_suspend(const aiocb* const list[], int count, const timespec* timeout) {
  return real::aio_suspend(list, count, timeout);
}
