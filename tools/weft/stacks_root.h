// stacks_root.h - where in a process the tables of the runtime are.
//
// Owns:        Root: a copy of the process's InspectRoot, its fields by name, and what the tables
//              look like now.
// Keeps true:  what is read from the process is checked before it is believed: a root with an
//              impossible number in it is no root.
// Called by:   stacks.cc (find), stacks_fibers.cc (fields and tables).
// See also:    runtime/inspect.h (how it is laid out and why).

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/inspect.h"
#include "tools/weft/stacks_process.h"

namespace weft::launcher {

class Root {
 public:
  // Nothing when no mapped file has a root: the process does not run under weft. Throws Refusal
  // when it has one that this launcher does not understand.
  static std::optional<Root> find(const Process& process);

  const InspectTable& fibers() const { return root_.fibers; }
  const InspectTable& carriers() const { return root_.carriers; }
  const InspectTable& workers() const { return root_.workers; }
  // "fiber." "word": a member of a record of `size` bytes. Throws Refusal.
  const InspectField& field(const std::string& record, const std::string& member,
                            uint32_t size) const;
  std::string state(uint64_t number) const;
  std::string reason(uint64_t number) const;

 private:
  Root(const Process& process, const InspectRoot& root);

  InspectRoot root_;
  std::vector<std::string> states_;
  std::vector<std::string> reasons_;
};

// The addresses of the chunks of a table, and how many records it has.
struct TableView {
  TableView(const Process& process, const InspectTable& table);

  uint64_t address_of(uint32_t record) const;
  std::optional<uint32_t> record_at(uint64_t address) const;

  uint32_t count = 0;
  uint32_t per_chunk = 1;
  uint32_t stride = 0;
  std::vector<uint64_t> chunks;
};

}  // namespace weft::launcher
