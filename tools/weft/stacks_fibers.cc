// stacks_fibers.cc - see stacks_fibers.h.
//
// Owns:        the decoding of records.
// Keeps true:  a field of an unexpected width is read as far as it goes; a name always ends.
// Called by:   stacks_fibers.h.
// See also:    runtime/inspect.cc (the other side).

#include "tools/weft/stacks_fibers.h"

#include <algorithm>
#include <cstring>

namespace weft::launcher {
namespace {

constexpr uint64_t kStateMask = 0xff;
constexpr uint32_t kFibersAtOnce = 1024;

}  // namespace

Tables::Tables(const Process& process, const Root& root)
    : process_(process),
      root_(root),
      fibers_(process, root.fibers()),
      carriers_(process, root.carriers()),
      workers_(process, root.workers()) {
  const auto fiber = [&](const char* name) { return root.field("fiber.", name, fibers_.stride); };
  const auto carrier = [&](const char* name) {
    return root.field("carrier.", name, carriers_.stride);
  };
  const auto worker = [&](const char* name) {
    return root.field("worker.", name, workers_.stride);
  };
  fiber_ = {.word = fiber("word"),
            .id = fiber("id"),
            .tid = fiber("tid"),
            .name = fiber("name"),
            .is_main = fiber("is_main"),
            .reason = fiber("reason"),
            .fd = fiber("detail_fd"),
            .object = fiber("detail_object"),
            .since = fiber("since"),
            .start = fiber("start"),
            .carrier = fiber("carrier"),
            .worker = fiber("worker"),
            .sp = fiber("context.sp"),
            .thread_pointer = fiber("context.thread_pointer"),
            .stack_low = fiber("stack.low"),
            .stack_size = fiber("stack.size"),
            .stack_top = fiber("stack.top")};
  carrier_ = {
      .id = carrier("id"), .kernel_tid = carrier("kernel_tid"), .running = carrier("running")};
  worker_ = {.index = worker("index"), .owner = worker("owner")};
}

// Little-endian, as every machine that weft runs on.
uint64_t Tables::number(const char* record, const InspectField& field) const {
  uint64_t value = 0;
  memcpy(&value, record + field.offset, std::min<size_t>(field.size, sizeof value));
  return value;
}

FiberView Tables::decode_fiber(uint64_t address, const char* record) const {
  FiberView fiber;
  fiber.address = address;
  fiber.word = number(record, fiber_.word);
  fiber.id = static_cast<uint32_t>(number(record, fiber_.id));
  fiber.tid = static_cast<int>(number(record, fiber_.tid));
  const char* name = record + fiber_.name.offset;
  fiber.name.assign(name, strnlen(name, fiber_.name.size));
  fiber.is_main = number(record, fiber_.is_main) != 0;
  fiber.state = root_.state(fiber.word & kStateMask);
  fiber.reason = root_.reason(number(record, fiber_.reason));
  fiber.fd = static_cast<int>(number(record, fiber_.fd));
  fiber.object = number(record, fiber_.object);
  fiber.since = static_cast<int64_t>(number(record, fiber_.since));
  fiber.start = number(record, fiber_.start);
  fiber.carrier = number(record, fiber_.carrier);
  fiber.worker = number(record, fiber_.worker);
  fiber.sp = number(record, fiber_.sp);
  fiber.thread_pointer = number(record, fiber_.thread_pointer);
  fiber.stack_low = number(record, fiber_.stack_low);
  fiber.stack_size = number(record, fiber_.stack_size);
  fiber.stack_top = number(record, fiber_.stack_top);
  return fiber;
}

void Tables::for_each_fiber(const std::function<bool(const FiberView&)>& visit) const {
  std::vector<char> records;
  const uint32_t step = std::min(kFibersAtOnce, fibers_.per_chunk);
  for (uint32_t first = 0; first < fibers_.count; first += step) {
    const uint32_t n = std::min(step, fibers_.count - first);
    records.resize(size_t{n} * fibers_.stride);
    if (!process_.read(fibers_.address_of(first), records.data(), records.size())) continue;
    for (uint32_t i = 0; i < n; ++i) {
      const FiberView fiber =
          decode_fiber(fibers_.address_of(first + i), records.data() + size_t{i} * fibers_.stride);
      if (fiber.exists() && !visit(fiber)) return;
    }
  }
}

Census Tables::census() const {
  Census census;
  census.workers = workers();
  for_each_fiber([&](const FiberView& fiber) {
    ++census.by_state[fiber.state];
    census.by_tid[fiber.tid] = fiber.id;
    ++census.fibers;
    if (const auto at = workers_.record_at(fiber.worker);
        fiber.state == "ready" && at < census.workers.size())
      ++census.workers[*at].ready;
    return true;
  });
  return census;
}

std::vector<WorkerView> Tables::workers() const {
  std::vector<WorkerView> all;
  std::vector<char> record(workers_.stride);
  for (uint32_t i = 0; i < workers_.count; ++i) {
    if (!process_.read(workers_.address_of(i), record.data(), record.size())) break;
    all.push_back({static_cast<uint32_t>(number(record.data(), worker_.index)),
                   carriers_.record_at(number(record.data(), worker_.owner))});
  }
  return all;
}

std::optional<CarrierView> Tables::carrier(uint64_t address) const {
  std::vector<char> record(carriers_.stride);
  if (!carriers_.record_at(address) || !process_.read(address, record.data(), record.size()))
    return std::nullopt;
  return CarrierView{static_cast<uint32_t>(number(record.data(), carrier_.id)),
                     static_cast<int>(number(record.data(), carrier_.kernel_tid)),
                     number(record.data(), carrier_.running)};
}

}  // namespace weft::launcher
