// command_line.h - the options of the sample programs: "--name VALUE" and "--flag", long names
// only, in full.
//
// Owns:        the words of the command line that no option has taken yet.
// Keeps true:  a word that no option takes, or a value that is not in its range, ends the program
//              with status 2 and the usage on stderr; --help prints the usage on stdout and ends
//              with status 0.
// Called by:   main() of each sample: take every option, then RejectTheRest().
// See also:    echo_upper_server.cc, stress_client.cc.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

class CommandLine {
 public:
  CommandLine(int argc, char** argv, std::string usage)
      : words_(argv + 1, argv + argc), usage_(std::move(usage)) {
    if (TakeFlag("--help")) {
      std::printf("%s", usage_.c_str());
      std::exit(0);
    }
  }

  bool TakeFlag(const std::string& name) {
    const auto word = std::find(words_.begin(), words_.end(), name);
    if (word == words_.end()) return false;
    words_.erase(word);
    return true;
  }

  std::string TakeText(const std::string& name, const std::string& otherwise) {
    const auto word = std::find(words_.begin(), words_.end(), name);
    if (word == words_.end()) return otherwise;
    if (word + 1 == words_.end()) Reject(name + " needs a value");
    std::string value = *(word + 1);
    words_.erase(word, word + 2);
    return value;
  }

  long TakeNumber(const std::string& name, long otherwise, long least, long most) {
    const std::string text = TakeText(name, std::to_string(otherwise));
    long value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < least || value > most) {
      Reject(name + " must be a number from " + std::to_string(least) + " to " +
             std::to_string(most));
    }
    return value;
  }

  void RejectTheRest() const {
    if (!words_.empty()) Reject("unknown option: " + words_.front());
  }

 private:
  [[noreturn]] void Reject(const std::string& why) const {
    std::fprintf(stderr, "%s\n%s", why.c_str(), usage_.c_str());
    std::exit(2);
  }

  std::vector<std::string> words_;
  std::string usage_;
};
