// stress_client.cc - many clients of the echo server at once, one thread each; checks every byte of
// every reply.
//
// Owns:        N clients; each is one thread, one connection and its own tally.
// Keeps true:  no message is sent before every client is connected (or has failed to), and every
//              connection stays open until the last client has its last reply; a reply that is
//              wrong or missing is counted, once.
// Used as:     stress_client --port P [--clients N] [--messages M] [--name NAME] [--settle SECONDS]
//              [--progress]; one JSON object on stdout; status 0 only if nothing was wrong and
//              nobody failed.  Like the server, an ordinary threaded program.
// See also:    echo_upper_server.cc, python/stress_client.py (the same in Python), stress (runs
//              them all).

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <functional>
#include <iterator>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "command_line.h"
#include "loopback.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kConnectRetries = 5;
constexpr auto kFirstRetryWait = std::chrono::milliseconds(100);  // doubled each time
constexpr auto kProgressInterval = std::chrono::milliseconds(200);
constexpr int kComplaintsShown = 10;

struct Options {
  std::uint16_t port;
  long clients;
  long messages;
  std::string name;
  std::chrono::seconds settle;
  bool progress;
};

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

// Says what went wrong, but not ten thousand times: the totals count everything anyway.
void Complain(const std::string& who, const char* what, const char* why) {
  static std::atomic<int> complaints = 0;
  const int earlier = complaints++;
  if (earlier > kComplaintsShown) return;
  if (earlier == kComplaintsShown)
    return void(std::fputs("stress_client: more complaints are only counted\n", stderr));
  std::fprintf(stderr, "stress_client: %s: %s: %s\n", who.c_str(), what, why);
}

// Where clients wait until the last of them has come, and the line has settled.
class StartingLine {
 public:
  StartingLine(long expected, std::chrono::seconds settle) : missing_(expected), settle_(settle) {}

  void Arrive() {
    if (IsLastToArrive()) Open();
  }

  void ArriveAndWait() {
    Arrive();
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [this] { return is_open_; });
  }

  // To be asked after it has opened.
  Clock::time_point complete_at() const { return complete_at_; }
  Clock::time_point opened_at() const { return opened_at_; }

 private:
  bool IsLastToArrive() {
    std::lock_guard lock(mutex_);
    complete_at_ = Clock::now();
    return --missing_ == 0;
  }

  void Open() {
    std::this_thread::sleep_for(settle_);
    std::lock_guard lock(mutex_);
    opened_at_ = Clock::now();
    is_open_ = true;
    opened_.notify_all();
  }

  std::mutex mutex_;  // guards all that follows it, until the line is open
  std::condition_variable opened_;
  long missing_;
  bool is_open_ = false;
  Clock::time_point complete_at_;
  Clock::time_point opened_at_;
  const std::chrono::seconds settle_;
};

// What all clients together have reached; only for the eyes of a human.
struct Progress {
  std::atomic<long> connected = 0;
  std::atomic<long> answered = 0;
};

class Client {
 public:
  // Latencies go to the front of `latencies_us`, which has room for every message.
  Client(const Options& options, long number, std::span<float> latencies_us, Progress& progress)
      : options_(options),
        name_(options.name + "-" + std::to_string(number)),
        latencies_us_(latencies_us),
        progress_(progress) {}

  void Run(StartingLine& line) {
    connected_ = Connect();
    line.ArriveAndWait();
    if (connected_) Exchange();
    finished_at_ = Clock::now();
  }

  void GiveUpWithoutThread(const char* why) { Complain(name_, "no thread", why); }

  bool connected() const { return connected_; }
  long wrong() const { return wrong_; }
  long retries() const { return retries_; }
  Clock::time_point finished_at() const { return finished_at_; }
  std::span<const float> latencies_us() const {
    return latencies_us_.first(static_cast<std::size_t>(answered_));
  }

 private:
  static bool IsTemporary(int error) {
    return error == ETIMEDOUT || error == EADDRNOTAVAIL || error == ECONNRESET || error == EAGAIN ||
           error == ENOBUFS;
  }

  // A full backlog is waited for by the kernel; retries are for what it gives up on, and they are
  // counted.
  bool Connect() {
    auto wait = kFirstRetryWait;
    const sockaddr_in address = LoopbackAddress(options_.port);
    for (;;) {
      socket_ = Socket::Tcp();
      if (socket_ &&
          connect(socket_.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
        ++progress_.connected;
        return true;
      }
      const int error = errno;
      if (!IsTemporary(error) || retries_ == kConnectRetries) {
        Complain(name_, "not connected", std::strerror(error));
        return false;
      }
      ++retries_;
      std::this_thread::sleep_for(wait);
      wait *= 2;
    }
  }

  void Exchange() {
    for (long number = 1; number <= options_.messages; ++number) {
      const std::string message = name_ + " say hello " + std::to_string(number) + "\n";
      const auto sent_at = Clock::now();
      std::string reply;
      if (!SendAll(socket_, message) || !ReceiveLine(message.size(), reply)) {
        Complain(name_, "connection lost", std::strerror(errno));
        wrong_ += options_.messages - number + 1;
        return;
      }
      latencies_us_[static_cast<std::size_t>(answered_++)] =
          static_cast<float>(Seconds(Clock::now() - sent_at) * 1e6);
      ++progress_.answered;
      if (reply != UpperCase(message)) {
        Complain(name_, "wrong reply", reply.substr(0, reply.find_last_not_of('\n') + 1).c_str());
        ++wrong_;
      }
    }
  }

  // Reads up to the newline, or until there is more than was asked for.  False with errno set if
  // the stream ends.
  bool ReceiveLine(std::size_t expected_size, std::string& line) {
    char received[512];
    while (line.size() <= expected_size && !line.ends_with('\n')) {
      const ssize_t count = Receive(socket_, received, sizeof received);
      if (count == 0) errno = ECONNRESET;
      if (count <= 0) return false;
      line.append(received, static_cast<std::size_t>(count));
    }
    return true;
  }

  static std::string UpperCase(std::string text) {
    for (char& c : text) {
      if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
    }
    return text;
  }

  const Options& options_;
  const std::string name_;
  const std::span<float> latencies_us_;
  Progress& progress_;
  Socket socket_;  // closed with the client, so after the last reply to anybody
  bool connected_ = false;
  long answered_ = 0;
  long wrong_ = 0;
  long retries_ = 0;
  Clock::time_point finished_at_;
};

// Shows the progress, on one line, for as long as it lives.
class ProgressLine {
 public:
  ProgressLine(const Options& options, const Progress& progress)
      : thread_([&options, &progress](const std::stop_token& stop) {
          while (!stop.stop_requested()) {
            std::this_thread::sleep_for(kProgressInterval);
            std::fprintf(stderr, "\r%ld of %ld connected, %ld of %ld answered",
                         progress.connected.load(), options.clients, progress.answered.load(),
                         options.clients * options.messages);
          }
          std::fputc('\n', stderr);
        }) {}

 private:
  std::jthread thread_;
};

struct Totals {
  long connections = 0, messages = 0, wrong = 0, failed = 0, retries = 0;
  double seconds = 0, connect_seconds = 0;
  std::vector<float> latencies_us;  // sorted

  double Percentile(double fraction) const {
    if (latencies_us.empty()) return 0;
    return latencies_us[static_cast<std::size_t>(fraction *
                                                 static_cast<double>(latencies_us.size() - 1))];
  }
};

Totals Sum(const std::vector<Client>& clients, Clock::time_point began_at,
           const StartingLine& line) {
  Totals totals;
  Clock::time_point finished_at = line.opened_at();
  for (const Client& client : clients) {
    (client.connected() ? totals.connections : totals.failed) += 1;
    totals.messages += static_cast<long>(client.latencies_us().size());
    totals.wrong += client.wrong();
    totals.retries += client.retries();
    std::ranges::copy(client.latencies_us(), std::back_inserter(totals.latencies_us));
    finished_at = std::max(finished_at, client.finished_at());
  }
  std::ranges::sort(totals.latencies_us);
  totals.connect_seconds = Seconds(line.complete_at() - began_at);
  totals.seconds = Seconds(finished_at - line.opened_at());
  return totals;
}

Totals RunClients(const Options& options) {
  const auto client_count = static_cast<std::size_t>(options.clients);
  const auto message_count = static_cast<std::size_t>(options.messages);
  std::vector<float> latencies_us(client_count * message_count);
  Progress progress;
  StartingLine line(options.clients, options.settle);
  std::vector<Client> clients;
  std::vector<std::thread> threads;
  clients.reserve(client_count);  // threads hold references into it
  threads.reserve(client_count);

  const auto began_at = Clock::now();
  for (std::size_t i = 0; i < client_count; ++i) {
    const auto latencies = std::span(latencies_us).subspan(i * message_count, message_count);
    Client& client = clients.emplace_back(options, static_cast<long>(i) + 1, latencies, progress);
    try {
      threads.emplace_back(&Client::Run, &client, std::ref(line));
    } catch (const std::exception& error) {
      client.GiveUpWithoutThread(error.what());
      line.Arrive();
    }
  }
  {
    std::optional<ProgressLine> shown;
    if (options.progress) shown.emplace(options, progress);
    for (std::thread& thread : threads) thread.join();
  }
  return Sum(clients, began_at, line);
}

void PrintJson(const Totals& totals) {
  std::printf(
      "{\"connections\": %ld, \"messages\": %ld, \"wrong\": %ld, \"failed\": %ld, \"retries\": "
      "%ld, ",
      totals.connections, totals.messages, totals.wrong, totals.failed, totals.retries);
  std::printf("\"seconds\": %.6f, \"connect_seconds\": %.6f, \"messages_per_second\": %.1f, ",
              totals.seconds, totals.connect_seconds,
              totals.seconds > 0 ? static_cast<double>(totals.messages) / totals.seconds : 0.0);
  std::printf("\"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n", totals.Percentile(0.50),
              totals.Percentile(0.99), totals.Percentile(1));
}

Options OptionsFrom(int argc, char** argv) {
  CommandLine words(
      argc, argv,
      "usage: stress_client --port P [--clients N] [--messages M] [--name NAME]\n"
      "                     [--settle SECONDS] [--progress]\n"
      "  N clients (default 100) called NAME-1 to NAME-N (default client) send M lines each (10),\n"
      "  beginning SECONDS (0) after the last of them is connected\n");
  Options options;
  options.port = static_cast<std::uint16_t>(words.TakeNumber("--port", 0, 1, 65535));
  options.clients = words.TakeNumber("--clients", 100, 1, 1'000'000);
  options.messages = words.TakeNumber("--messages", 10, 1, 1'000'000);
  options.name = words.TakeText("--name", "client");
  options.settle = std::chrono::seconds(words.TakeNumber("--settle", 0, 0, 3600));
  options.progress = words.TakeFlag("--progress");
  words.RejectTheRest();
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = OptionsFrom(argc, argv);
  RaiseDescriptorLimit();
  const Totals totals = RunClients(options);
  PrintJson(totals);
  return totals.wrong == 0 && totals.failed == 0 ? 0 : 1;
}
