// inspect.h - the root from which a tool outside the process finds every fiber.
//
// Owns:        InspectRoot: where the tables of fibers, carriers and workers are, and what a record looks like.
// Keeps true:  it is found without symbols or debug information: it lies alone in the ELF section .weft_inspect,
//              whose header survives strip.  It is constant-initialised, so it is right before any constructor ran
//              and in a core file.  A reader looks fields up by name; it never includes a header of the runtime.
// Called by:   nobody in the process; read from outside by tools/weft/stacks_root.cc and tools/gdb/weft.py.
// See also:    fiber.h, carrier.h, worker.h (the records), abi/x86_64.h (the saved frame).
//
// How to read it: in each mapped ELF file look for the section; its address plus the load bias is an InspectRoot.
// Its pointers are addresses in the process.  A table is an array of pointers to chunks; record i is in chunk
// i / per_chunk at index i % per_chunk.
// fiber.since is CLOCK_MONOTONIC in nanoseconds, coarse; 0: its worker had not looked at the clock yet.
//
// Reading while the program runs: records are never unmapped, so everything may be read at any time, and anything may
// change while it is read.  What a fiber left on its stack holds from the moment that its word says Parked until
// the word is another; so: read word, then the stack, then word again.  A word that says Ready is nearly as good;
// Running means that the registers of the kernel thread (carrier.kernel_tid) are the truth, if its FS base is the
// fiber's thread pointer.
#pragma once

#include <cstdint>

namespace weft {

// A member of a record, "fiber.word", or of the frame that context.sp points to, "frame.rip".
struct InspectField {
  char name[32];
  uint32_t offset;
  uint32_t size;
};

struct InspectTable {
  const void* records;  // the array of chunks
  const void* count;    // a uint32_t: records ever made
  uint32_t per_chunk;   // 0: `records` is the array of records itself
  uint32_t stride;      // bytes from one record to the next
};

struct InspectNames {
  const char* const* names;
  uint64_t count;
};

constexpr uint32_t kInspectVersion =
    1;  // of this struct and of what the fields mean; new fields need no new one
constexpr uint32_t kInspectFields = 40;  // the rest have an empty name

struct InspectRoot {
  char magic[16];  // "weft inspect"
  uint32_t version;
  uint32_t size;  // of InspectRoot
  InspectTable fibers;
  InspectTable carriers;
  InspectTable workers;
  InspectNames states;   // indexed by the low byte of fiber.word
  InspectNames reasons;  // indexed by fiber.reason
  InspectField fields[kInspectFields];
};

}  // namespace weft

// By this name a linker can be told to take it out of an archive (-u): nothing refers to it.
extern "C" const weft::InspectRoot weft_inspect_root
    __attribute__((section(".weft_inspect"), visibility("hidden")));
