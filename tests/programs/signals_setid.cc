// signals_setid.cc - clause 5: setuid and its like change every kernel thread, whoever calls and whatever the others do.
//
// Needs root; each case gives it up in a child.

#include <atomic>
#include <string>

#include <dirent.h>
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "check.h"
#include "child.h"
#include "net.h"
#include "threads.h"

namespace {

constexpr int kOthers = 100;
constexpr unsigned kId = 12345;

std::string line_of(const std::string& path, const char* name) {
  FILE* file = fopen(path.c_str(), "re");
  if (file == nullptr) return {};  // the thread has ended
  std::string found;
  char line[512];
  while (fgets(line, sizeof line, file) != nullptr)
    if (strncmp(line, name, strlen(name)) == 0) found = line + strlen(name);
  fclose(file);
  return found;
}

// Every task of this process says this; returns how many there are.
int check_tasks(const char* name, const std::string& wanted) {
  DIR* tasks = opendir("/proc/self/task");
  CHECK(tasks != nullptr);
  int count = 0;
  while (const dirent* entry = readdir(tasks)) {
    if (entry->d_name[0] == '.') continue;
    const std::string found =
        line_of(std::string("/proc/self/task/") + entry->d_name + "/status", name);
    if (found.empty()) continue;
    CHECK_EQ(found, wanted);
    ++count;
  }
  closedir(tasks);
  return count;
}

std::string four(unsigned id) {
  const std::string one = "\t" + std::to_string(id);
  return one + one + one + one + "\n";
}

// Parked in recv, computing, blocked in the kernel unseen, and a kernel thread by attribute.
class crowd_of_others {
 public:
  crowd_of_others() {
    for (int i = 0; i < kOthers; ++i)
      threads_.emplace_back([this] { CHECK_EQ(read_up_to(silent_.a, 1), ""); });
    threads_.emplace_back([this] {
      while (!end_) {
      }
    });
    threads_.emplace_back([this] {
      char byte;
      while (syscall(SYS_recvfrom, static_cast<int>(silent_.a), &byte, 1, 0, nullptr, nullptr) < 0)
        CHECK_EQ(errno, EINTR);
    });
    pthread_attr_t attributes;
    MUST(pthread_attr_init(&attributes));
    cpu_set_t cpus;
    MUST(sched_getaffinity(0, sizeof cpus, &cpus));
    MUST(pthread_attr_setaffinity_np(&attributes, sizeof cpus, &cpus));
    CHECK_EQ(pthread_create(
                 &pinned_, &attributes,
                 [](void* self) -> void* {
                   CHECK_EQ(read_up_to(static_cast<crowd_of_others*>(self)->silent_.a, 1), "");
                   return nullptr;
                 },
                 this),
             0);
    let_it_block();
  }
  ~crowd_of_others() {
    end_ = true;
    MUST(shutdown(silent_.b, SHUT_RDWR));
    for (std::thread& one : threads_) one.join();
    pthread_join(pinned_, nullptr);
  }

 private:
  fd_pair silent_ = unix_pair();
  std::atomic<bool> end_ = false;
  std::vector<std::thread> threads_;
  pthread_t pinned_;
};

template <class Body>
void as_root_in_child(Body body) {
  if (geteuid() != 0) {
    dprintf(STDOUT_FILENO, "  skipped: needs root\n");
    return;
  }
  CHECK_EXITED(in_child([&] {
                 crowd_of_others others;
                 body();
               }),
               0);
}

}  // namespace

CASE(main_gives_up_root) {
  as_root_in_child([] {
    const gid_t groups[] = {kId + 1, kId + 2};
    MUST(setgroups(2, groups));
    MUST(setgid(kId));
    MUST(setuid(kId));
    CHECK(check_tasks("Uid:", four(kId)) > 1);
    check_tasks("Gid:", four(kId));
    check_tasks("Groups:", "\t12346 12347 \n");
    CHECK_ERRNO(setuid(0), EPERM);
    CHECK_ERRNO(setgroups(0, nullptr), EPERM);
    std::thread([] { check_tasks("Uid:", four(kId)); }).join();  // and those born later
  });
}

CASE(a_thread_gives_up_root) {
  as_root_in_child([] {
    std::thread([] {
      MUST(setresgid(kId, kId, kId));
      MUST(setresuid(kId, kId, kId));
    }).join();
    check_tasks("Uid:", four(kId));
    check_tasks("Gid:", four(kId));
  });
}

CASE(the_effective_id_goes_and_comes_back) {
  as_root_in_child([] {
    for (int i = 0; i < 20; ++i) {
      MUST(setegid(kId));
      MUST(seteuid(kId));
      check_tasks("Uid:", "\t0\t12345\t0\t12345\n");
      check_tasks("Gid:", "\t0\t12345\t0\t12345\n");
      MUST(seteuid(0));
      MUST(setegid(0));
      check_tasks("Uid:", four(0));
    }
    CHECK_ERRNO(seteuid(static_cast<uid_t>(-1)), EINVAL);
    MUST(setregid(kId, kId));
    MUST(setreuid(static_cast<uid_t>(-1), kId));
    check_tasks("Uid:", "\t0\t12345\t12345\t12345\n");
    MUST(setreuid(kId, kId));
    check_tasks("Uid:", four(kId));
  });
}

CASE(initgroups_sets_the_groups_of_a_user) {
  as_root_in_child([] {
    MUST(initgroups("nobody", kId));
    const std::string now = line_of("/proc/self/status", "Groups:");
    CHECK(now.find("12345") != std::string::npos);
    check_tasks("Groups:", now);
  });
}

CASE(several_threads_change_at_the_same_time) {
  as_root_in_child([] {
    crowd(8, [](int) {
      for (int i = 0; i < 20; ++i) {
        MUST(setegid(kId));
        MUST(setegid(0));
      }
    });
    check_tasks("Gid:", four(0));
  });
}

CASE(threads_come_and_go_meanwhile) {
  as_root_in_child([] {
    std::atomic<bool> end = false;
    std::thread maker([&] {
      while (!end) crowd(4, [](int) { usleep(100); });
    });
    for (int i = 0; i < 30; ++i) {
      MUST(seteuid(kId));
      MUST(seteuid(0));
    }
    MUST(setuid(kId));
    end = true;
    maker.join();
    check_tasks("Uid:", four(kId));
  });
}

CASE(a_forked_child_changes_itself_alone) {
  as_root_in_child([] {
    std::thread([] {
      CHECK_EXITED(in_child([] {
                     MUST(setuid(kId));
                     check_tasks("Uid:", four(kId));
                     std::thread([] { check_tasks("Uid:", four(kId)); }).join();
                   }),
                   0);
    }).join();
    check_tasks("Uid:", four(0));
  });
}

CASE(without_proc_it_works_as_well) {
  char directory[] = "/tmp/weft_setid_XXXXXX";
  CHECK(mkdtemp(directory) != nullptr);
  as_root_in_child([&] {
    const int tasks = MUST(open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    MUST(chroot(directory));
    MUST(setuid(kId));
    MUST(fchdir(tasks));  // outside the root
    DIR* listing = fdopendir(tasks);
    while (const dirent* entry = readdir(listing)) {
      if (entry->d_name[0] != '.')
        CHECK_EQ(line_of(std::string(entry->d_name) + "/status", "Uid:"), four(kId));
    }
    closedir(listing);
  });
  MUST(rmdir(directory));
}

int main(int argc, char** argv) { return run_cases(argc, argv); }
