// rounds.h - how the benchmark programs time a loop.
//
// Owns:        the clock and the choice of the figure: the median of several rounds, so one disturbed round is no figure.
// Called by:   costs.cc, locks.cc.
#pragma once

#include <algorithm>
#include <chrono>
#include <vector>

// Nanoseconds per operation of body(), which does `operations` of them.
template <class Body>
double nanoseconds(int rounds, long operations, Body body) {
  std::vector<double> figures;
  for (int i = 0; i < rounds; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
    figures.push_back(took.count() / static_cast<double>(operations));
  }
  std::sort(figures.begin(), figures.end());
  return figures[figures.size() / 2];
}
