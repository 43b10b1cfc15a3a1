// stacks_root.cc - finds the section .weft_inspect among the mapped files and copies the root.
//
// Owns:        the search and the checks.
// Keeps true:  libweft.so is looked at first, but any file may be the one: the program itself when
//              weft is linked in.
// Called by:   stacks_root.h.
// See also:    runtime/inspect.h.

#include "tools/weft/stacks_root.h"

#include <gelf.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace weft::launcher {
namespace {

constexpr char kSection[] = ".weft_inspect";
constexpr size_t kLongestName = 64;
constexpr uint64_t kMostNames = 256;
constexpr uint32_t kMostRecords = 1U << 24;
constexpr uint32_t kLongestRecord = 1U << 16;

class File {
 public:
  explicit File(int fd)
      : fd_(fd), elf_(fd < 0 ? nullptr : elf_begin(fd, ELF_C_READ_MMAP, nullptr)) {}
  ~File() {
    if (elf_ != nullptr) elf_end(elf_);
    if (fd_ >= 0) close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  // As the file says, before it is loaded anywhere.
  std::optional<uint64_t> section_address(const char* wanted) const {
    size_t names;
    if (elf_ == nullptr || elf_kind(elf_) != ELF_K_ELF || elf_getshdrstrndx(elf_, &names) != 0)
      return std::nullopt;
    for (Elf_Scn* section = nullptr; (section = elf_nextscn(elf_, section)) != nullptr;) {
      GElf_Shdr header;
      if (gelf_getshdr(section, &header) == nullptr) continue;
      const char* name = elf_strptr(elf_, names, header.sh_name);
      if (name != nullptr && strcmp(name, wanted) == 0) return header.sh_addr;
    }
    return std::nullopt;
  }

  // The address that the byte at `offset` of the file asks for.
  std::optional<uint64_t> address_of(uint64_t offset) const {
    size_t n;
    if (elf_getphdrnum(elf_, &n) != 0) return std::nullopt;
    for (size_t i = 0; i < n; ++i) {
      GElf_Phdr segment;
      if (gelf_getphdr(elf_, static_cast<int>(i), &segment) == nullptr || segment.p_type != PT_LOAD)
        continue;
      const uint64_t start = segment.p_offset & ~uint64_t{4095};
      if (offset >= start && offset < segment.p_offset + segment.p_filesz)
        return segment.p_vaddr + offset - segment.p_offset;
    }
    return std::nullopt;
  }

 private:
  int fd_;
  Elf* elf_;
};

bool is_weft(const Mapping& mapping) { return mapping.path.find("/libweft") != std::string::npos; }

// One executable mapping of each file, weft's own first.
std::vector<Mapping> candidates(const Process& process) {
  std::vector<Mapping> all;
  for (const Mapping& mapping : process.mappings())
    if (mapping.executable && mapping.path.starts_with("/")) all.push_back(mapping);
  std::stable_partition(all.begin(), all.end(), is_weft);
  return all;
}

std::optional<uint64_t> root_address(const Process& process, const Mapping& mapping) {
  const File file(process.open_mapped(mapping));
  const auto section = file.section_address(kSection);
  if (!section) return std::nullopt;
  const auto asked = file.address_of(mapping.offset);
  if (!asked) return std::nullopt;
  return *section + (mapping.low - *asked);
}

bool plausible(const InspectTable& table) {
  return table.stride > 0 && table.stride <= kLongestRecord && table.per_chunk <= kMostRecords;
}

std::vector<std::string> read_names(const Process& process, const InspectNames& names) {
  std::vector<uint64_t> addresses(std::min(names.count, kMostNames));
  process.read(reinterpret_cast<uint64_t>(names.names), addresses.data(),
               addresses.size() * sizeof(uint64_t));
  std::vector<std::string> texts;
  texts.reserve(addresses.size());
  for (const uint64_t address : addresses)
    texts.push_back(process.read_string(address, kLongestName));
  return texts;
}

std::string name_at(const std::vector<std::string>& names, uint64_t number) {
  return number < names.size() ? names[number] : "#" + std::to_string(number);
}

}  // namespace

std::optional<Root> Root::find(const Process& process) {
  elf_version(EV_CURRENT);
  for (const Mapping& mapping : candidates(process)) {
    const auto address = root_address(process, mapping);
    if (!address) continue;
    InspectRoot root;
    if (process.read(*address, root) && strcmp(root.magic, "weft inspect") == 0)
      return Root(process, root);
  }
  return std::nullopt;
}

Root::Root(const Process& process, const InspectRoot& root) : root_(root) {
  if (root.version != kInspectVersion)
    throw Refusal("process " + std::to_string(process.pid()) +
                  " runs under another version of weft (layout " + std::to_string(root.version) +
                  ", this launcher reads " + std::to_string(kInspectVersion) + ")");
  if (!plausible(root.fibers) || !plausible(root.carriers) || !plausible(root.workers))
    throw Refusal("the tables of weft in process " + std::to_string(process.pid()) +
                  " are damaged");
  states_ = read_names(process, root.states);
  reasons_ = read_names(process, root.reasons);
}

const InspectField& Root::field(const std::string& record, const std::string& member,
                                uint32_t size) const {
  const std::string name = record + member;
  for (const InspectField& field : root_.fields) {
    if (name != std::string_view(field.name, strnlen(field.name, sizeof field.name))) continue;
    if (field.offset <= size && field.size <= size - field.offset) return field;
  }
  throw Refusal("the weft in the process does not say where " + name + " is");
}

std::string Root::state(uint64_t number) const { return name_at(states_, number); }
std::string Root::reason(uint64_t number) const { return name_at(reasons_, number); }

TableView::TableView(const Process& process, const InspectTable& table) : stride(table.stride) {
  const uint64_t records = reinterpret_cast<uint64_t>(table.records);
  process.read(reinterpret_cast<uint64_t>(table.count), count);
  count = std::min(count, kMostRecords);
  per_chunk = table.per_chunk != 0 ? table.per_chunk : kMostRecords;
  if (table.per_chunk == 0) {
    chunks.push_back(records);
    return;
  }
  chunks.resize((count + per_chunk - 1) / per_chunk);
  if (!process.read(records, chunks.data(), chunks.size() * sizeof(uint64_t))) count = 0;
}

uint64_t TableView::address_of(uint32_t record) const {
  return chunks[record / per_chunk] + uint64_t{record % per_chunk} * stride;
}

std::optional<uint32_t> TableView::record_at(uint64_t address) const {
  for (size_t i = 0; i < chunks.size(); ++i) {
    const uint64_t index = (address - chunks[i]) / stride;
    const uint64_t record = i * per_chunk + index;
    const bool starts = address >= chunks[i] && (address - chunks[i]) % stride == 0;
    if (starts && index < per_chunk && record < count) return static_cast<uint32_t>(record);
  }
  return std::nullopt;
}

}  // namespace weft::launcher
