// setid.cc - setuid and its like: the credentials of every kernel thread.
//
// Owns:        what libc's names mean in terms of the kernel's calls.
// Keeps true:  they change the whole process, carriers and kernel threads of the program alike.  libc's own broadcast
//              hangs when a kernel thread that it lists runs a fiber.  Before the runtime is active: libc's own.
// Called by:   the program.  See also: runtime/process.h on_every_thread().
#include <grp.h>
#include <linux/capability.h>
#include <unistd.h>

#include "hook/gate.h"
#include "runtime/process.h"
#include "runtime/runtime.h"

using namespace weft;

namespace {

// Ids are unsigned; -1 ("leave it") has to reach the kernel as such.
int everywhere(long number, unsigned a, unsigned b = 0, unsigned c = 0) noexcept {
  return static_cast<int>(minus_one(process::on_every_thread(number, a, b, c)));
}

constexpr unsigned kLeave = ~0u;

}  // namespace

WEFT_HOOK int setuid(uid_t id) noexcept {
  return runtime::is_active() ? everywhere(SYS_setuid, id) : real::setuid(id);
}
WEFT_HOOK int setgid(gid_t id) noexcept {
  return runtime::is_active() ? everywhere(SYS_setgid, id) : real::setgid(id);
}
WEFT_HOOK int setreuid(uid_t real_id, uid_t effective) noexcept {
  return runtime::is_active() ? everywhere(SYS_setreuid, real_id, effective) : real::setreuid(real_id, effective);
}
WEFT_HOOK int setregid(gid_t real_id, gid_t effective) noexcept {
  return runtime::is_active() ? everywhere(SYS_setregid, real_id, effective) : real::setregid(real_id, effective);
}
WEFT_HOOK int setresuid(uid_t real_id, uid_t effective, uid_t saved) noexcept {
  return runtime::is_active() ? everywhere(SYS_setresuid, real_id, effective, saved)
                              : real::setresuid(real_id, effective, saved);
}
WEFT_HOOK int setresgid(gid_t real_id, gid_t effective, gid_t saved) noexcept {
  return runtime::is_active() ? everywhere(SYS_setresgid, real_id, effective, saved)
                              : real::setresgid(real_id, effective, saved);
}
WEFT_HOOK int seteuid(uid_t id) noexcept {
  if (!runtime::is_active() || id == kLeave) return real::seteuid(id);
  return everywhere(SYS_setresuid, kLeave, id, kLeave);
}
WEFT_HOOK int setegid(gid_t id) noexcept {
  if (!runtime::is_active() || id == kLeave) return real::setegid(id);
  return everywhere(SYS_setresgid, kLeave, id, kLeave);
}

WEFT_HOOK int setgroups(size_t count, const gid_t* groups) noexcept {
  if (!runtime::is_active()) return real::setgroups(count, groups);
  return static_cast<int>(
      minus_one(process::on_every_thread(SYS_setgroups, static_cast<long>(count), sys::word(groups), 0)));
}

WEFT_HOOK int initgroups(const char* user, gid_t group) {
  if (!runtime::is_active()) return real::initgroups(user, group);
  constexpr int kMostGroups = 65536;  // the kernel's NGROUPS_MAX
  auto* groups = static_cast<gid_t*>(sys::map(kMostGroups * sizeof(gid_t)));
  if (groups == nullptr) return static_cast<int>(minus_one(-ENOMEM));
  int count = kMostGroups;
  if (getgrouplist(user, group, groups, &count) < 0) count = kMostGroups;
  const int result = setgroups(static_cast<size_t>(count), groups);
  sys::unmap(groups, kMostGroups * sizeof(gid_t));
  return result;
}

// The kernel's and libc's capset is about the calling thread; a fiber has no kernel thread of its own, so it is about
// all of them: what a thread gives up, none keeps.
extern "C" int capset(cap_user_header_t header, const cap_user_data_t data) noexcept;
WEFT_HOOK int capset(cap_user_header_t header, const cap_user_data_t data) noexcept {
  if (!on_fiber() || header == nullptr || header->pid != 0) return real::capset(header, data);
  return static_cast<int>(minus_one(process::on_every_thread(SYS_capset, sys::word(header), sys::word(data), 0)));
}
