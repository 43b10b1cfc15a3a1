// early.cc - clause 2, before main and after exit: a library's constructor and destructor may call
// everything (habit 17), threads that a constructor started live on in main, and all that also in a
// program that starts no thread of its own.

#include "early_lib.h"

#include "check.h"
#include "child.h"
#include "net.h"
#include "threads.h"

namespace {

constexpr int kReportFd = 100;

// Runs this program once more, up to its real end, and sees that the library's destructor reached
// its own.
void check_ends_well(const std::string& argument, int expected_status) {
  pipe_ends report = make_pipe();
  MUST(dup2(report.write, kReportFd));
  report.write.reset();
  CHECK_EXITED(run_self({argument}), expected_status);
  MUST(close(kReportFd));
  CHECK_EQ(read_to_end(report.read), "d");
}

CASE(a_constructor_may_call_everything) { CHECK(early_constructor_succeeded()); }

CASE(a_destructor_may_call_everything_after_main_returned) { check_ends_well("--return", 21); }

CASE(a_destructor_may_call_everything_after_exit_in_a_thread) {
  check_ends_well("--exit-in-thread", 22);
}

CASE(a_destructor_may_call_everything_in_a_forked_child) {
  pipe_ends report = make_pipe();
  const int status = in_child([&] {
    early_report_to(report.write);
    exit(23);
  });
  report.write.reset();
  CHECK_EXITED(status, 23);
  CHECK_EQ(read_to_end(report.read), "d");
}

CASE(main_goes_on_with_threads_as_if_nothing_had_been) {
  crowd(20, [](int) {
    const fd_pair pair = unix_pair();
    std::thread reader([&] { CHECK_EQ(read_up_to(pair.a, 3), "abc"); });
    usleep(1000);
    write_all(pair.b, "abc");
    reader.join();
  });
}

CASE(a_thread_that_a_constructor_started_is_ended_in_main) { early_end_thread(); }

int ends(int status) {
  early_report_to(kReportFd);
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "--return") == 0) return ends(21);
  if (argc == 2 && strcmp(argv[1], "--exit-in-thread") == 0) {
    std::thread([] { exit(ends(22)); }).join();
  }
  return run_cases(argc, argv);
}
