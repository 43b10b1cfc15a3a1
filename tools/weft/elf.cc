// elf.cc - reads the program headers and the dynamic section of an ELF file.
//
// Owns:        the parsing behind read_elf.
// Keeps true:  only 64-bit files of this machine's architecture are looked into; nothing else can
//              be preloaded.
// Called by:   elf.h.
// See also:    elf(5).

#include "tools/weft/elf.h"

#include <cstring>

#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

namespace weft::launcher {
namespace {

#if defined(__x86_64__)
constexpr Elf64_Half kThisMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr Elf64_Half kThisMachine = EM_AARCH64;
#else
#error "say here which e_machine this architecture has"
#endif

constexpr size_t kLongestString = 4096;
constexpr size_t kMostDynamicEntries = 4096;

class ElfFile {
 public:
  explicit ElfFile(const std::string& path)
      : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
  ~ElfFile() {
    if (fd_ >= 0) close(fd_);
  }
  ElfFile(const ElfFile&) = delete;
  ElfFile& operator=(const ElfFile&) = delete;

  std::optional<ElfFacts> facts() {
    char magic[SELFMAG];
    if (!read(0, magic) || std::memcmp(magic, ELFMAG, SELFMAG) != 0) return std::nullopt;
    ElfFacts facts;
    if (!read(0, header_)) return facts;  // cut off
    facts.this_machine =
        header_.e_ident[EI_CLASS] == ELFCLASS64 && header_.e_machine == kThisMachine;
    if (!facts.this_machine) return facts;
    read_program_headers();
    for (const Elf64_Phdr& segment : segments_) {
      if (segment.p_type == PT_INTERP) facts.interpreter = string_at(segment.p_offset);
      if (segment.p_type == PT_DYNAMIC) read_dynamic(segment, facts);
    }
    return facts;
  }

 private:
  template <typename T>
  bool read(Elf64_Off offset, T& into) const {
    return pread(fd_, &into, sizeof into, static_cast<off_t>(offset)) ==
           static_cast<ssize_t>(sizeof into);
  }

  std::string string_at(Elf64_Off offset) const {
    char text[kLongestString];
    const ssize_t length = pread(fd_, text, sizeof text, static_cast<off_t>(offset));
    return length <= 0 ? std::string()
                       : std::string(text, strnlen(text, static_cast<size_t>(length)));
  }

  void read_program_headers() {
    for (Elf64_Half i = 0; i < header_.e_phnum; ++i) {
      Elf64_Phdr segment;
      if (!read(header_.e_phoff + Elf64_Off{i} * sizeof segment, segment)) return;
      segments_.push_back(segment);
    }
  }

  // Where the file keeps what will be at this address in memory.
  std::optional<Elf64_Off> offset_of(Elf64_Addr address) const {
    for (const Elf64_Phdr& segment : segments_) {
      if (segment.p_type == PT_LOAD && address - segment.p_vaddr < segment.p_filesz)
        return segment.p_offset + (address - segment.p_vaddr);
    }
    return std::nullopt;
  }

  void read_dynamic(const Elf64_Phdr& segment, ElfFacts& facts) const {
    std::vector<Elf64_Dyn> entries;
    Elf64_Dyn entry;
    while (entries.size() < kMostDynamicEntries &&
           read(segment.p_offset + entries.size() * sizeof entry, entry) && entry.d_tag != DT_NULL)
      entries.push_back(entry);

    std::optional<Elf64_Off> strings;
    for (const Elf64_Dyn& e : entries)
      if (e.d_tag == DT_STRTAB) strings = offset_of(e.d_un.d_ptr);
    if (!strings) return;
    for (const Elf64_Dyn& e : entries) {
      if (e.d_tag == DT_SONAME) facts.soname = string_at(*strings + e.d_un.d_val);
      if (e.d_tag == DT_NEEDED) facts.needed.push_back(string_at(*strings + e.d_un.d_val));
    }
  }

  int fd_;
  Elf64_Ehdr header_{};
  std::vector<Elf64_Phdr> segments_;
};

}  // namespace

std::optional<ElfFacts> read_elf(const std::string& path) { return ElfFile(path).facts(); }

}  // namespace weft::launcher
