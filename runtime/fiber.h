// fiber.h - what the program calls a thread.
//
// Owns:        Fiber: identity, stack, saved context, and the one word that says where it stands; Self: what
//              is known about the thread that runs; the table of all fibers.
// Keeps true:  a Fiber lies in its stack's slot (owner's room), which is never unmapped, so a stale Fiber* may always be
//              read; its stamp outlives the slot's memory, so a stale wake fails on it.  The wait word is changed only by the functions in park.cc.
// Called by:   everyone above; park.cc, carrier.cc and thread.cc write.
// See also:    park.h (states), carrier.h (who runs a fiber), inspect.h (what others may see of it).
#pragma once

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <cstdint>

#include "runtime/context.h"
#include "runtime/memory/stacks.h"

namespace weft {

class Carrier;
struct Worker;
struct Fiber;
struct Schedule;

// Where a thread of execution stands; the low byte of its wait word.
enum class State : uint8_t {
  kFree,      // in no use; in the pool of fibers
  kReady,     // runnable; held by exactly one ready queue (or by the thread that is about to queue it)
  kRunning,   // executing; held by its carrier
  kParking,   // armed at its sources but still on its own stack; may yet be woken back to Running
  kParked,    // off the processor; held by its armed sources; moved on by exactly one wake
  kFinished,  // ended, not joined yet; held by whoever may join it
};

// Why a park ended; the second byte of the wait word.
enum class Why : uint8_t {
  kNone,
  kReady,     // what was waited for has (probably) happened
  kTimeout,   // the deadline came first
  kSignal,    // a signal handler has to run, or pthread_cancel was called
};

// What a fiber waits for: for people and counters only.
enum class Reason : uint8_t {
  kNone, kSleep, kRead, kWrite, kAccept, kConnect, kPoll, kEpoll, kMutex, kCond, kReadLock, kWriteLock,
  kSemaphore, kBarrier, kOnce, kJoin, kFutex, kSignal, kYield, kChild, kSpin, kCount
};
const char* name_of(Reason reason) noexcept;
const char* name_of(State state) noexcept;
extern const char* const reason_names[static_cast<size_t>(Reason::kCount)];
extern const char* const state_names[];  // indexed by State

// A thread of execution that can park: a fiber, or a kernel thread that weft does not own.
//
// word: stamp (48 bits) | why (8) | state (8).  The stamp counts arm() calls; a wake carries the stamp that it was
// armed with and fails when it is no longer the current one.
struct Parker {
  std::atomic<uint64_t> word{static_cast<uint64_t>(State::kRunning)};
  bool is_fiber = false;
  std::atomic<Reason> reason{Reason::kNone};
  int32_t detail_fd = -1;             // what it waits for, for inspection: a descriptor ...
  const void* detail_object = nullptr;  // ... or an address
  int64_t since = 0;                  // worker's time when it parked; coarse
};

struct Fiber : Parker {
  Context context;
  Carrier* carrier = nullptr;  // who runs it (or ran it last); written by the carrier that resumes it
  Worker* worker = nullptr;    // where it ran last; wakes from outside go there
  Fiber* next = nullptr;       // link of the one ready queue that holds it, or of the pool
  uint32_t id = 0;             // index in the table
  int tid = 0;                 // what gettid() says: the kernel's for main, a number above PID_MAX for others
  Stack stack;

  // Life of a thread (thread.cc).
  void* (*start)(void*) = nullptr;
  void* argument = nullptr;
  void* result = nullptr;
  std::atomic<uint32_t> exit{0};  // threads::ExitState
  bool exited_by_call = false;    // pthread_exit gave `result`
  bool is_main = false;
  bool on_native_stack = false;  // main: stack and TCB are the process's own
  bool own_cache = false;        // malloc's two words stay with it (it parked in an asynchronous handler)
  uint8_t async_handlers = 0;    // of these it runs now
  bool interrupted = false;      // signals: a handler without SA_RESTART ran since the last handle_pending()
  Parker* joiner = nullptr;       // who waits for the end, while `exit` says kJoining
  uint64_t joiner_stamp = 0;
  char name[16] = {};
  std::atomic<const Schedule*> schedule{nullptr};  // schedule.h; null: asked for nothing
  std::atomic<int64_t> cpu_time{0};  // nanoseconds, once somebody asks (cpu_time.h)
  unsigned long long objects = 0;  // how many the loader had loaded when its TLS block was made; 0: not counted

  // Signals (signals.cc).
  std::atomic<uint64_t> signal_mask{0};  // bit n-1: signal n is blocked
  uint64_t counted_mask = 0;             // the same as counted for the kernel's mask: without that of running handlers
  std::atomic<uint64_t> awaited{0};      // what sigwait waits for: let in although blocked
  stack_t alternate_stack = {nullptr, SS_DISABLE, 0};
  std::atomic<uint64_t> pending{0};      // signals to be handled by this fiber, blocked or not reached yet
  uint32_t handled = 0;                  // how many handlers ran

  // Demotion (carrier.h).
  uint32_t stray_runs = 0;  // so many of its next resumes are without a worker
  uint32_t lost_at = 0;     // when its worker was last taken away, in milliseconds; 0: never
};

// What weft knows of the running thread; one per TLS block, zero where weft has never been.
struct Self {
  Fiber* fiber = nullptr;      // null on kernel threads
  Carrier* carrier = nullptr;  // in a carrier's own loop context
  uint32_t busy = 0;           // > 0: inside the runtime: hooks pass through, signals are kept for later
  std::atomic<bool> signals_waiting{false};  // signals were kept for later while busy
  bool handled = false;        // kernel threads: a kept signal's handler ran; and one without SA_RESTART
  bool interrupted = false;
  std::atomic<uint64_t> kept{0};  // on a kernel thread of the program: which
  Parker parker;               // for kernel threads that park
};
extern thread_local constinit Self self __attribute__((tls_model("initial-exec")));

// The Self of any fiber, through its TLS block.
Self& self_of(const Fiber& fiber) noexcept;

inline Parker& current_parker() noexcept {
  return self.fiber != nullptr ? static_cast<Parker&>(*self.fiber) : self.parker;
}

// Signals that came while busy; defined in signals.cc.
void deliver_kept_signals();

// A section of runtime code: hooks called inside pass through, no signal handler of the program runs on top.
class [[nodiscard]] Busy {
 public:
  Busy() noexcept {
    ++self.busy;
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
  ~Busy() noexcept(false) {  // a handler may end its thread
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (--self.busy == 0 && self.signals_waiting.load(std::memory_order_relaxed)) [[unlikely]]
      deliver_kept_signals();
  }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;
};

static_assert(sizeof(Fiber) <= stacks::kOwnerRoom);

namespace fibers {

constexpr int kFirstTid = 0x10000000;  // above PID_MAX_LIMIT (2^22), below FUTEX_TID_MASK (2^30)
constexpr uint32_t kCapacity = 1 << 21;

// Every fiber ever made, by id; read by inspectors through runtime/inspect.h.
extern Fiber* table[kCapacity];
extern std::atomic<uint32_t> table_size;

// Makes a free Fiber with a stack and a tid.  Null: out of memory.  Inside Busy.
Fiber* allocate(size_t stack_size, size_t guard_size) noexcept;
Fiber* allocate_on(void* caller_stack, size_t stack_size) noexcept;
// The one for the thread that starts the runtime, on its native stack.
Fiber* allocate_main(int tid) noexcept;
// Back to the pool with its stack; the stamp lives on.
void release(Fiber* fiber) noexcept;

uint32_t count() noexcept;             // entries ever made
Fiber* at(uint32_t id) noexcept;       // id < count()

// The fiber behind a pthread_t, or null for a kernel thread.  The handle must be of a live (or unjoined) thread.
Fiber* from(pthread_t thread) noexcept;
Fiber* from_tid(int tid) noexcept;

void before_fork() noexcept;
void after_fork() noexcept;
// In the child: everyone is gone; the slots of those that lived are lost to the pool.
void forget_all() noexcept;

}  // namespace fibers
}  // namespace weft
