// stacks_fibers.h - the records of the runtime, copied and decoded.
//
// Owns:        Fiber, Carrier, Worker as seen from outside; Tables, which reads them; Census, what
//              there is in all.
// Keeps true:  a record is copied whole and decoded afterwards; nobody follows a pointer in it
//              unchecked.
// Called by:   stacks.cc, stacks_look.cc.
// See also:    runtime/inspect.h, runtime/fiber.h (states and reasons).

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "tools/weft/stacks_root.h"

namespace weft::launcher {

struct FiberView {
  uint64_t address;  // of the record
  uint64_t word;     // changes whenever the fiber moves on
  uint32_t id;
  int tid;
  std::string name;
  bool is_main;
  std::string state;
  std::string reason;  // "nothing" when it does not wait
  int fd;              // what it waits for; negative: not a descriptor
  uint64_t object;     // or an address; 0: none
  int64_t since;       // CLOCK_MONOTONIC, nanoseconds
  uint64_t start;      // the function that it was started with; 0: main
  uint64_t carrier;    // addresses of records
  uint64_t worker;
  uint64_t sp;  // of the saved frame
  uint64_t thread_pointer;
  uint64_t stack_low, stack_size, stack_top;

  bool waits() const { return state == "parked" || state == "parking"; }
  bool exists() const { return state != "free"; }
};

struct CarrierView {
  uint32_t id;
  int kernel_tid;
  uint64_t running;  // address of a fiber's record, or 0
};

struct WorkerView {
  uint32_t index = 0;
  std::optional<uint32_t> carrier;  // who runs it
  uint32_t ready = 0;               // fibers that wait for it to run them
};

struct Census {
  std::map<std::string, uint32_t> by_state;  // without the free
  std::unordered_map<int, uint32_t> by_tid;  // -> id
  std::vector<WorkerView> workers;
  uint32_t fibers = 0;
};

class Tables {
 public:
  Tables(const Process& process, const Root& root);

  bool started() const { return carriers_.count > 0; }
  const TableView& fibers() const { return fibers_; }
  const TableView& carriers() const { return carriers_; }

  // Every fiber there is, in the order of their ids; stops when `visit` answers false. Reads a
  // chunk at a time.
  void for_each_fiber(const std::function<bool(const FiberView&)>& visit) const;
  Census census() const;

  size_t fiber_size() const { return fibers_.stride; }
  FiberView decode_fiber(uint64_t address, const char* record) const;
  std::optional<CarrierView> carrier(uint64_t address) const;

 private:
  std::vector<WorkerView> workers() const;
  uint64_t number(const char* record, const InspectField& field) const;

  const Process& process_;
  const Root& root_;
  TableView fibers_, carriers_, workers_;
  struct {  // the fields, looked up once
    InspectField word, id, tid, name, is_main, reason, fd, object, since, start, carrier, worker,
        sp, thread_pointer, stack_low, stack_size, stack_top;
  } fiber_;
  struct {
    InspectField id, kernel_tid, running;
  } carrier_;
  struct {
    InspectField index, owner;
  } worker_;
};

}  // namespace weft::launcher
