// signals_storm.cc - clauses 1, 5: ten thousand signals at threads that exchange messages: no message is lost, queued
// signals are handled exactly once each, and only by their targets.

#include <atomic>
#include <random>
#include <string>

#include <pthread.h>
#include <signal.h>

#include "check.h"
#include "net.h"
#include "threads.h"

namespace {

constexpr int kPairs = 50;
constexpr int kSignals = 10'000;

thread_local int me = -1;
std::atomic<int> handled[2 * kPairs], misdirected, standard;

void install(int number, void (*handler)(int, siginfo_t*, void*), int flags) {
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | flags;
  MUST(sigaction(number, &action, nullptr));
}

void send_all(int fd, const char* data, size_t size) {
  while (size > 0) {
    const ssize_t n = send(fd, data, size, 0);
    if (n < 0) CHECK_EQ(errno, EINTR);
    if (n <= 0) continue;
    data += n;
    size -= static_cast<size_t>(n);
  }
}

size_t receive(int fd, char* data, size_t size) {
  size_t got = 0;
  while (got < size) {
    const ssize_t n = recv(fd, data + got, size - got, 0);
    if (n < 0) CHECK_EQ(errno, EINTR);
    if (n == 0) break;
    if (n > 0) got += static_cast<size_t>(n);
  }
  return got;
}

}  // namespace

CASE(ten_thousand_signals_during_an_exchange_of_messages) {
  const auto note = [](int, siginfo_t* info, void*) {
    if (info->si_value.sival_int != me) ++misdirected;
    if (me >= 0) ++handled[me];
  };
  install(SIGRTMIN, note, SA_RESTART);
  install(SIGRTMIN + 1, note, 0);
  install(
      SIGUSR1, [](int, siginfo_t*, void*) { ++standard; }, 0);

  fd_pair pairs[kPairs];
  for (fd_pair& pair : pairs) pair = unix_pair();
  std::atomic<bool> end = false;
  std::atomic<long> messages = 0;
  std::atomic<int> ready = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < kPairs; ++i) {
    threads.emplace_back([&, i] {  // echoes
      me = 2 * i;
      ++ready;
      char text[8];
      while (receive(pairs[i].a, text, sizeof text) == sizeof text)
        send_all(pairs[i].a, text, sizeof text);
    });
    threads.emplace_back([&, i] {  // asks
      me = 2 * i + 1;
      ++ready;
      for (unsigned n = 0; !end || n < 20; ++n) {
        char text[9], answer[9] = {};
        snprintf(text, sizeof text, "%08x", n);
        send_all(pairs[i].b, text, 8);
        CHECK_EQ(receive(pairs[i].b, answer, 8), 8u);
        CHECK_EQ(std::string(answer), text);
        ++messages;
        if (n % 16 == 0) usleep(200);
      }
      MUST(shutdown(pairs[i].b, SHUT_WR));
      while (!end) usleep(1000);
    });
  }
  eventually([&] { return ready == 2 * kPairs; });
  std::mt19937 random(1);
  int sent[2 * kPairs] = {};
  for (int i = 0; i < kSignals; ++i) {
    const int target = static_cast<int>(random() % (2 * kPairs));
    const pthread_t thread = threads[static_cast<size_t>(target)].native_handle();
    const int number = SIGRTMIN + static_cast<int>(random() % 2);
    int error;
    while ((error = pthread_sigqueue(thread, number, sigval{.sival_int = target})) == EAGAIN)
      sched_yield();
    CHECK_EQ(error, 0);
    ++sent[target];
    if (i % 10 == 0) CHECK_EQ(pthread_kill(thread, SIGUSR1), 0);
    if (i % 100 == 0) MUST(kill(getpid(), SIGUSR1));
  }
  for (int i = 0; i < 2 * kPairs; ++i) eventually([&] { return handled[i] == sent[i]; });
  end = true;
  for (std::thread& one : threads) one.join();
  for (int i = 0; i < 2 * kPairs; ++i) CHECK_EQ(handled[i].load(), sent[i]);
  CHECK_EQ(misdirected.load(), 0);
  CHECK(standard > 0);
  CHECK(standard <= kSignals / 10 + kSignals / 100);
  dprintf(STDOUT_FILENO, "  %d signals, %ld messages, %d of SIGUSR1 handled\n", kSignals,
          messages.load(), standard.load());
}

int main(int argc, char** argv) { return run_cases(argc, argv); }
