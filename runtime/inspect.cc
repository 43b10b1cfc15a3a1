// inspect.cc - see inspect.h.
#include "runtime/inspect.h"

#include <cstddef>

#include "runtime/abi/x86_64.h"
#include "runtime/carrier.h"
#include "runtime/fiber.h"
#include "runtime/worker.h"

// offsetof on classes with bases or private members: allowed by g++ and clang++ as long as no base is virtual.
#pragma GCC diagnostic ignored "-Winvalid-offsetof"

using namespace weft;

// NOLINTNEXTLINE(bugprone-sizeof-expression): some members are pointers
#define WEFT_SIZE(type, member) sizeof(type::member)
#define WEFT_FIELD(record, type, member) \
  InspectField { record "." #member, offsetof(type, member), WEFT_SIZE(type, member) }

#define WEFT_FIBER(member) WEFT_FIELD("fiber", Fiber, member)
#define WEFT_CARRIER(member) WEFT_FIELD("carrier", Carrier, member)
#define WEFT_WORKER(member) WEFT_FIELD("worker", Worker, member)
#define WEFT_FRAME(member) WEFT_FIELD("frame", abi::SavedFrame, member)

extern "C" __attribute__((used, retain)) constinit const InspectRoot weft_inspect_root = {
    "weft inspect",
    kInspectVersion,
    sizeof(InspectRoot),
    {fibers::table, &fibers::table_size, 1, sizeof(Fiber)},  // pointers: a chunk is one fiber
    {carriers::table, &carriers::table_size, carriers::kChunk, sizeof(Carrier)},
    {workers::all, &workers::count, 0, sizeof(Worker)},
    {state_names, static_cast<uint64_t>(State::kFinished) + 1},
    {reason_names, static_cast<uint64_t>(Reason::kCount)},
    {
        WEFT_FIBER(word),         WEFT_FIBER(id),
        WEFT_FIBER(tid),          WEFT_FIBER(name),
        WEFT_FIBER(is_main),      WEFT_FIBER(reason),
        WEFT_FIBER(detail_fd),    WEFT_FIBER(detail_object),
        WEFT_FIBER(since),        WEFT_FIBER(start),
        WEFT_FIBER(carrier),      WEFT_FIBER(worker),
        WEFT_FIBER(context.sp),   WEFT_FIBER(context.thread_pointer),
        WEFT_FIBER(stack.low),    WEFT_FIBER(stack.size),
        WEFT_FIBER(stack.top),    WEFT_CARRIER(id),
        WEFT_CARRIER(kernel_tid), WEFT_CARRIER(running),
        WEFT_CARRIER(worker),     WEFT_CARRIER(owns),
        WEFT_WORKER(index),       WEFT_WORKER(owner),
        WEFT_FRAME(r12),          WEFT_FRAME(r13),
        WEFT_FRAME(r14),          WEFT_FRAME(r15),
        WEFT_FRAME(rbx),          WEFT_FRAME(rbp),
        WEFT_FRAME(rip),          InspectField{"frame", 0, sizeof(abi::SavedFrame)},
    },
};
