// signals.h - signals belong to fibers.
//
// Owns:        the trampoline that stands in for the program's handlers once fibers exist, the choice of the fiber
//              that handles a signal, signals kept while their fiber cannot run a handler, masks per fiber.
// Keeps true:  dispositions stay the kernel's: default actions and SIG_IGN are never emulated.  A process-directed
//              signal goes to the main fiber if it does not block it, else to the fiber that runs, else to any that
//              does not.  A handler runs on its fiber's stack and TLS, never on top of runtime code (Busy).
//              The kernel's mask of a carrier holds the signals that every fiber blocks, so such a signal stays
//              pending in the kernel (sigwait, signalfd and default actions then work as they do natively).
// Called by:   hook/signal.cc; carriers at birth; callers of park() ask handle_pending() when they were interrupted.
//
// Sending to a fiber, both sides as steps:
//   S1 fiber.pending |= signal               P1 fiber: word = Parking          (seq_cst, Arming)
//   S2 its Self.signals_waiting = true       P2 fiber: signals_waiting? then the wait ends with kSignal
//   S3 look at its word (all seq_cst):       P3 park
//      Parking/Parked: wake with kSignal
//      Running elsewhere: kick its carrier   K1 the kick's trampoline, on that carrier: not Busy: run the handlers;
//      Ready: nothing                           Busy: nothing, the end of Busy or P2 sees signals_waiting
//   A Ready fiber sees signals_waiting when its Busy section ends.
//
// A signal that interrupts the runtime (Busy) finds locks held and queues half changed: the trampoline then only puts it
// into the carrier's mail, which takes no lock, and says so: signals_waiting of the fiber, or a poke at the epoll that the
// loop is about to wait in.  The next safe point on that carrier sorts the mail: the end of the fiber's Busy section, the
// settling after a switch, the loop.  A spare blocks all signals but the private one while it waits.
//
// Limits:      SA_ONSTACK is honoured for faults only (a handler may park, and the kernel would reuse the stack).  Queued
//              signals sent to the process may be taken by several carriers at once and then come out of their order.
// See also:    park.h interrupt(); DECISIONS.md "Signals".
#pragma once

#include <signal.h>

#include <cstdint>

#include "runtime/base/clock.h"
#include "runtime/fiber.h"

namespace weft::signals {

// The signal that weft keeps for itself: libc's second private one, which no program can use.
constexpr int kPrivate = 33;

// Takes over the handlers that the program has installed so far.  Part of start(); `main` is the calling fiber.
void start(Fiber* main) noexcept;

// sigaction as the program means it, while the runtime is active.  0 or -errno.
int action(int signal, const struct sigaction* action, struct sigaction* old) noexcept;

// Sends to one fiber (pthread_kill, pthread_sigqueue): it runs its handler at once, or when it next can.  0 or an
// error number.  info may be null.
int send_to(Fiber* fiber, int signal, const siginfo_t* info) noexcept;

// Sends to this process (kill(getpid())): as the kernel, the handler has run when this returns if the caller is the
// one that handles it.  -1: weft has no part in this signal, it is the kernel's.
int send_to_process(int signal, const siginfo_t* info) noexcept;

// pthread_cancel has marked the fiber: wakes it if it is parked, kicks its carrier if it runs.  May not return when it
// is the calling one and its cancellation is asynchronous.
void interrupt_for_cancel(Fiber* fiber);
// The same for a kernel thread of the program, in case it waits in the parking lot.
void interrupt_for_cancel(pthread_t thread) noexcept;

// Runs the handlers of what is pending for the calling fiber.  Outside Busy.
// Returns whether the interrupted call should fail with EINTR (false: all had SA_RESTART, or none ran).
bool handle_pending();

// pthread_sigmask for the calling fiber.  0 or an error number.
int change_mask(int how, const sigset_t* set, sigset_t* old) noexcept;

// The same when a jump leaves handlers behind, the kernel's for faults among them: what the kernel blocked for the time
// of those is let in again.
void restore_mask(const sigset_t* mask) noexcept;
// The program unblocks faults by hand, in the handler of one, before it jumps out.
void let_faults_in() noexcept;
bool lets_faults_in(int how, const sigset_t& set) noexcept;

// sigtimedwait: takes one of the set (which every fiber blocks, as POSIX asks), parking until there is one.  The signal,
// -EAGAIN at the deadline, -EINTR when a handler has to run or the thread was cancelled.
int wait_for(uint64_t set, siginfo_t* info, Deadline deadline) noexcept;

// sigaltstack for the calling fiber: it travels with it.  0 or -errno.
int change_alternate_stack(const stack_t* wanted, stack_t* old) noexcept;
// The kernel's record for the calling carrier becomes that of the fiber that it is about to run.
void wear_alternate_stack(Carrier* carrier, const Fiber* fiber) noexcept;

// What sigpending says on the calling fiber: kept for it, or pending in the kernel for the process.
uint64_t pending() noexcept;

// A kernel timer whose signal is for one fiber (SIGEV_THREAD_ID).  False: too many.
bool aim_timer(int timer, int tid) noexcept;
void forget_timer(int timer) noexcept;

void inherit_mask(Fiber* fiber) noexcept;  // a new fiber gets its creator's mask, before it is counted as live
void after_birth() noexcept;               // and after
void leave(Fiber* fiber) noexcept;         // it has ended (and is no longer counted as live)

// Finds the fibers of signals that came while the carrier was in the runtime's own code.  At a safe point: on that
// carrier, Busy, no lock held.
void sort_mail(Carrier* carrier) noexcept;

// A new carrier's kernel mask.
void enter_carrier() noexcept;
// The calling carrier's kernel mask follows when what all fibers block has changed.  One load when it has not.
extern std::atomic<uint64_t> wanted_kernel_mask;
void apply_kernel_mask(Carrier* carrier) noexcept;
void block_all_for(Carrier* carrier) noexcept;  // the calling carrier waits as a spare

// For the monitor: the carrier, which is in program code, calls monitor::sample() there.
void ask_for_sample(Carrier* carrier) noexcept;

void reset_after_fork(Fiber* survivor) noexcept;

}  // namespace weft::signals
