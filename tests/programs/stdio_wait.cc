// stdio_wait.cc - streams on pipes and sockets: who waits inside libc waits alone.
#include <netinet/in.h>
#include <pthread.h>
#include <stdio_ext.h>
#include <sys/socket.h>

#include <atomic>
#include <string>

#include "blocked.h"
#include "net.h"

namespace {

struct pipe_streams {
  pipe_streams() {
    int ends[2];
    MUST(pipe(ends));
    in = fdopen(ends[0], "r");
    out = fdopen(ends[1], "w");
    CHECK(in != nullptr && out != nullptr);
  }
  ~pipe_streams() {
    if (in != nullptr) fclose(in);
    if (out != nullptr) fclose(out);
  }
  FILE* in;
  FILE* out;
};

}  // namespace

CASE(a_hundred_threads_in_fgets_keep_few_kernel_threads) {
  pipe_streams pipes[kBlocked];
  blocked_crowd crowd([&](int i) {
    char line[64];
    CHECK(fgets(line, sizeof line, pipes[i].in) != nullptr);
    CHECK_EQ(std::string(line), "line " + std::to_string(i) + "\n");
  });
  for (int i = 0; i < kBlocked; ++i) {
    fprintf(pipes[i].out, "line %d\n", i);
    CHECK_EQ(fflush(pipes[i].out), 0);
  }
  crowd.join("fgets");
}

CASE(a_hundred_threads_in_fread_getline_getc_and_fscanf) {
  pipe_streams pipes[kBlocked];
  blocked_crowd crowd([&](int i) {
    FILE* in = pipes[i].in;
    if (i % 4 == 0) {
      char block[8];
      CHECK_EQ(fread(block, 1, 8, in), 8);
      CHECK_EQ(std::string(block, 8), "12345678");
    } else if (i % 4 == 1) {
      char* line = nullptr;
      size_t room = 0;
      CHECK_EQ(getline(&line, &room, in), 9);
      free(line);
    } else if (i % 4 == 2) {
      for (int k = 0; k < 8; ++k) CHECK_EQ(getc(in), '1' + k);
    } else {
      int number = 0;
      CHECK_EQ(fscanf(in, "%d", &number), 1);
      CHECK_EQ(number, 12345678);
    }
  });
  for (int i = 0; i < kBlocked; ++i) {
    CHECK(fputs("1234", pipes[i].out) >= 0);
    CHECK_EQ(fflush(pipes[i].out), 0);
  }
  for (int i = 0; i < kBlocked; ++i) {
    CHECK(fputs("5678\n", pipes[i].out) >= 0);
    CHECK_EQ(fflush(pipes[i].out), 0);
  }
  crowd.join("fread getline getc fscanf");
}

CASE(a_hundred_threads_write_into_full_pipes) {
  pipe_streams pipes[kBlocked];
  static const std::string much(100'000, 'x');
  blocked_crowd crowd([&](int i) {
    FILE* out = pipes[i].out;
    if (i % 2 == 0) setvbuf(out, nullptr, _IOLBF, 512);
    CHECK(fprintf(out, "%s\n", much.c_str()) == static_cast<int>(much.size()) + 1);
    CHECK_EQ(fclose(out), 0);
    pipes[i].out = nullptr;
  });
  for (int i = 0; i < kBlocked; ++i) {
    size_t size = 0;
    while (getc(pipes[i].in) == 'x') ++size;
    CHECK_EQ(size, much.size());
    CHECK_EQ(getc(pipes[i].in), EOF);
  }
  crowd.join("fprintf fclose");
}

CASE(a_hundred_threads_want_the_lock_of_one_stream) {
  pipe_streams one;
  std::atomic<int> lines{0};
  blocked_crowd crowd([&](int i) {
    char line[64];
    if (i % 3 == 0) flockfile(one.in);  // inside another reader's wait
    CHECK(fgets(line, sizeof line, one.in) != nullptr);
    CHECK_EQ(strlen(line), 9);
    ++lines;
    if (i % 3 == 0) funlockfile(one.in);
  });
  for (int i = 0; i < kBlocked; ++i) {
    fprintf(one.out, "line %03d\n", i);
    CHECK_EQ(fflush(one.out), 0);
  }
  crowd.join("lock of a stream");
  CHECK_EQ(lines.load(), kBlocked);
}

CASE(a_stream_on_a_socket_reads_and_writes) {
  const fd_pair pair = unix_pair();
  FILE* a = fdopen(dup(pair.a), "r+");
  FILE* b = fdopen(dup(pair.b), "r+");
  std::thread echo([&] {
    char line[64];
    while (fgets(line, sizeof line, b) != nullptr) {
      fseek(b, 0, SEEK_CUR);
      fputs(line, b);
      fflush(b);
    }
  });
  for (int i = 0; i < 200; ++i) {
    char line[64];
    fprintf(a, "number %d\n", i);
    fflush(a);
    CHECK(fgets(line, sizeof line, a) != nullptr);
    CHECK_EQ(std::string(line), "number " + std::to_string(i) + "\n");
  }
  shutdown(pair.a, SHUT_WR);
  fclose(a);
  echo.join();
  fclose(b);
}

CASE(a_thread_in_fgets_is_cancelled_and_the_stream_is_free) {
  pipe_streams one;
  pthread_t reader;
  CHECK_EQ(pthread_create(&reader, nullptr, [](void* in) -> void* {
    char line[64];
    CHECK(fgets(line, sizeof line, static_cast<FILE*>(in)) == nullptr);
    return nullptr;
  }, one.in), 0);
  let_it_block();
  CHECK_EQ(pthread_cancel(reader), 0);
  void* result;
  CHECK_EQ(pthread_join(reader, &result), 0);
  CHECK(result == PTHREAD_CANCELED);
  CHECK_EQ(ftrylockfile(one.in), 0);
  funlockfile(one.in);
}

int main(int argc, char** argv) { return run_cases(argc, argv); }
