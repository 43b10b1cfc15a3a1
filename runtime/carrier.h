// carrier.h - kernel threads that run workers.
//
// Owns:        Carrier: a kernel thread with a loop context; switching between fibers; the ownership protocol
//              between carriers and the monitor; the pool of spares.
// Keeps true:  a worker is owned by exactly one carrier; a fiber runs on exactly one carrier; a carrier that lost its
//              worker finishes what the program is doing and then becomes spare.
// Called by:   park.cc and thread.cc (switch_away), monitor.cc (claim, hand_over), runtime.cc (start), hooks that are
//              about to block in the kernel (about_to_block).
//
// A carrier says where it is in `stay` (tick | in program code), which only it writes; who owns a worker is said in
// Worker::owner, which the monitor changes after it has claimed the worker, or the owner itself while it is inside
// (give_away: before a call that is known to block).  Both sides as steps:
//
//   C1 leave: stay = (tick+1, in program code)            plain store
//   C2 the program runs on c
//   C3 enter: stay = (tick, inside)                       plain store
//   C4        read claim, then owner                      plain loads
//      C4a claim == 0, owner == c: c is inside; nobody takes the worker until its next C1
//      C4b claim == 1: the monitor is deciding: wait until it is 0 (microseconds), then as above or below
//      C4c owner != c: the worker is gone.  c switches to its own loop, completes what the fiber wanted (commit of
//          the park, queueing it, its end) and becomes spare.
//   M1 the monitor reads stay of the owner twice, some ticks apart, equal and "in program code": stuck there
//   M2 claim = 1
//   M3 membarrier(PRIVATE_EXPEDITED)
//   M4 read owner and its stay again.  Another owner, changed, or inside: claim = 0, done.
//   M5 the worker is the monitor's: it offers the local queue to others, or sets owner = a spare carrier
//   M6 claim = 0
//
// C3 is a store and C4 a load with nothing but a compiler barrier between them; M3 makes every running thread execute
// a full barrier.  So if C4 does not see M2, then C3 is visible to M4, which lets go; and if M4 does not see C3, C4 sees
// M2 and waits.  A tick comes again only after a wake from program code (push_local), which ends outside as it began: M4
// may take that for the same stay, as it is.  Where the kernel has
// no membarrier, C3 is an exchange (a full barrier itself), and M3 is nothing.
//
// A switch from fiber to fiber stays inside from the one's C3 until the other has settled what the first left behind:
// the local queue, the counters and `after` are therefore touched by one thread at a time.
//
// give_away, as steps (the owner is inside, so M4 lets go of every claim made meanwhile, and sees another owner later):
//   G1 owner = a spare      G2 owns = false      G3 the spare runs the worker's loop      G4 leave, as a stray
//
// States of a carrier:
//   owner   owns; inside or in program code               -> stray (M5, G1)
//   stray   no worker; runs a fiber's program code         -> spare (the fiber's next park, yield or end)
//   spare   in the list, waits on a futex                  -> owner (assign), stray (a demoted fiber), gone (idle for long)
//
// Demotion: a fiber that loses its worker twice within a second gets kStrayRuns resumes on a spare without any worker,
// so that its bursts cost nobody the threshold.  A burst that stays below the threshold uses one up, a longer one
// renews them.  Never main: the kernel thread that runs main is the one that most signals come to.
//
// tests/runtime/carrier_model_test.cc runs every interleaving of these steps with the store buffers modelled.
//
// See also:    park.h, worker.h, monitor.h.
#pragma once

#include <atomic>
#include <cstdint>

#include "runtime/abi/glibc.h"
#include "runtime/worker.h"

namespace weft {

constexpr uint32_t kMaxCarriers = 1 << 15;

// Counted without atomics by the carrier itself; read by statistics while it may still count.
struct Counters {
  uint64_t switches = 0;
  uint64_t steals = 0;
  uint64_t epoll_waits = 0;
  uint64_t created = 0;  // fibers made by code that ran here
  uint64_t given_away = 0;  // workers, before calls that block
  uint64_t parks[static_cast<size_t>(Reason::kCount)] = {};
};

// Signals that interrupted the runtime's own code on this carrier, as they came.  Written by the trampoline (which does
// not nest) and read at safe points, both on the carrier's kernel thread: no lock, only the compiler is held back.
struct SignalMail {
  static constexpr uint32_t kRoom = 8;
  struct Letter {
    int signal;
    siginfo_t info;
  };
  bool empty() const noexcept { return !any.load(std::memory_order_relaxed); }
  void put(int signal, const siginfo_t& info) noexcept {
    any.store(true, std::memory_order_relaxed);
    const uint32_t n = written.load(std::memory_order_relaxed);
    if (n - read == kRoom) {
      without_info.fetch_or(1ULL << (signal - 1), std::memory_order_relaxed);
      return;
    }
    letters[n % kRoom] = {signal, info};
    std::atomic_signal_fence(std::memory_order_release);
    written.store(n + 1, std::memory_order_relaxed);
  }
  std::atomic<bool> any{false};  // cleared before the letters are read
  std::atomic<uint32_t> written{0};
  volatile uint32_t read = 0;
  std::atomic<uint64_t> without_info{0};
  Letter letters[kRoom];
};

class alignas(64) Carrier {
 public:
  static constexpr uint64_t kInProgram = 1;

  // What is to be done with the fiber that was just left, by whoever runs next on this carrier.
  enum class After : uint8_t { kNothing, kPark, kYield, kFinish };

  // Leaves the calling fiber; returns when it is resumed (kPark, kYield), never for kFinish.
  // kYield returns at once when nothing else is ready.
  static void switch_away(Fiber* fiber, After after) noexcept;

  // Completes the switch on the side that arrived, and goes out to the program.  First thing in a new context.
  void arrive() noexcept;

  // Queues a ready fiber on the own worker without a lock.  False: this carrier has none.
  bool push_local(Fiber* fiber) noexcept;

  // The loop; the body of every carrier's own context.  Returns when the carrier has been spare for long.
  void loop() noexcept;

  std::atomic<uint64_t> stay{0};  // tick << 1 | kInProgram; written by this carrier only
  Worker* worker = nullptr;       // owned (owns) or last owned: still a good place for wakes
  bool owns = false;
  bool inside = true;             // between C3 and C1
  Fiber* running = nullptr;       // for inspection
  const Schedule* schedule = nullptr;      // the kernel's record for it (schedule.h); null: as the process began
  std::atomic<Fiber*> charged{nullptr};    // cpu_time.h: whose work this is, and since when
  std::atomic<int64_t> charged_since{0};
  uint32_t id = 0;
  int kernel_tid = 0;
  std::atomic<bool> newborn{false};  // made as a spare, and not yet one
  std::atomic<bool> sampled{false};  // the next kick tells the monitor where the program is
  uint64_t kernel_mask = 0;       // the signal mask that the kernel has for it (signals.h)
  void* alternate_stack = nullptr;  // the kernel's record of sigaltstack
  SignalMail mail;
  std::atomic<bool> masked{false};  // a waiting spare: it blocks all signals but the private one
  pthread_t thread = 0;
  Context context;                // of the loop
  Stack stack;                    // of the loop, when the carrier is the process's first thread
  abi::MallocWords malloc_words;
  Counters counters;

 private:
  friend class Carriers;  // the table, in carrier.cc
  bool enter() noexcept;
  bool enter_slow() noexcept;
  void pass_cache(Fiber* fiber) noexcept;
  void leave() noexcept;
  void settle() noexcept;
  void start(Fiber* fiber) noexcept;
  Fiber* next_ready() noexcept;
  Fiber* find_work() noexcept;
  Fiber* sleep() noexcept;
  bool wait_as_spare() noexcept;
  bool give_away() noexcept;
  void note_loss() noexcept;
  void end_stray_run(Fiber* fiber) noexcept;
  bool send_away(Fiber* fiber) noexcept;
  friend void about_to_block() noexcept;

  bool cache_given_ = false;  // its malloc cache went with a fiber
  After after_ = After::kNothing;
  Fiber* left_ = nullptr;
  std::atomic<uint32_t> assigned_{0};  // futex: kStray | 1 + index of the worker it is to run; 0 while spare
  Fiber* stray_ = nullptr;             // with kStray: what to run, without the worker
  int64_t stray_since_ = 0;            // when it was started
  bool took_over_ = false;             // the worker was another carrier's a moment ago
  Carrier* next_spare_ = nullptr;
  bool keeps_thread_ = false;          // the process's first thread
};

inline Carrier* current_carrier() noexcept {
  return self.fiber != nullptr ? self.fiber->carrier : self.carrier;
}

namespace carriers {

constexpr uint32_t kChunk = 64;

// at() and count() for inspectors (inspect.h), which read them from outside the process.
extern Carrier* table[kMaxCarriers / kChunk];
extern std::atomic<uint32_t> table_size;

uint32_t count() noexcept;         // ever made
Carrier* at(uint32_t id) noexcept;  // id < count()
uint32_t threads() noexcept;        // kernel threads among them

// Makes the calling kernel thread (which runs `fiber`) the first carrier, owner of `worker`.
bool adopt_calling_thread(Fiber* fiber, Worker* worker) noexcept;
// Makes a carrier with a kernel thread of its own.  Null: the kernel refuses (EAGAIN).
// With a worker it starts by running it; without it is spare, and only the caller knows it.
Carrier* create(Worker* worker) noexcept;
// Takes a spare.  Null: there is none.
Carrier* take_spare() noexcept;
void put_spare(Carrier* carrier) noexcept;
uint32_t spares() noexcept;  // how many there are, and how many are being born
uint32_t newborns() noexcept;
uint32_t peak() noexcept;    // kernel threads at most
// At most so many kernel threads; 0: as many as the kernel allows.  A carrier that would be one too many is not made.
void set_limit(uint32_t carriers) noexcept;
// After how long a spare's kernel thread ends.  One is kept.
void set_idle_time(int64_t ns) noexcept;
void set_give_away_always(bool on) noexcept;  // for tests: every resume from the loop is without the worker
uint64_t given_away() noexcept;
void set_demotion(bool on) noexcept;  // on, unless a test wants to see the same fiber lose its worker again and again
// M2..M4.  True: the worker is the caller's until release().  `stay`: what `owner`'s stay must still be (kAnyStay: it
// must be in program code; that alone makes the claim exclusive, being the same says that it is stuck).
constexpr uint64_t kAnyStay = 0;
bool claim(Worker& worker, const Carrier* owner, uint64_t stay) noexcept;
void release(Worker& worker) noexcept;  // M6
// M5 on a claimed worker: the spare `to` will run it.
void hand_over(Worker& worker, Carrier* to) noexcept;
// Once, before any carrier exists.
void prepare_membarrier() noexcept;

// Fork child: all are gone.
void forget_all() noexcept;

}  // namespace carriers

// The calling fiber is about to call something that will block in the kernel: its worker goes on elsewhere at once
// instead of when the monitor sees it.  For a call that was tried without blocking first.  No-op off fibers.
void about_to_block() noexcept;

}  // namespace weft
