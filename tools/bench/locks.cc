// locks.cc - what locks cost: an uncontended mutex, handing a mutex over, a cond ping-pong, a semaphore ping-pong.
//
// Owns:        the measuring loops.  A plain pthread program: natively it measures kernel threads, under weft fibers.
// Keeps true:  every figure is the median of several rounds.
// Called by:   tools/bench/figures.  Prints one JSON object.
#include <pthread.h>
#include <semaphore.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "rounds.h"

namespace {

constexpr int kRounds = 5;

pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t conditions[2] = {PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER};
sem_t semaphores[2];
long count;
int turn;

void* own_number(long n) { return reinterpret_cast<void*>(n); }

void two_threads(void* (*body)(void*)) {
  pthread_t threads[2];
  for (long i = 0; i < 2; ++i)
    if (pthread_create(&threads[i], nullptr, body, own_number(i)) != 0) abort();
  for (pthread_t thread : threads) pthread_join(thread, nullptr);
}

void* nothing(void*) { return nullptr; }

double uncontended() {
  constexpr long kTimes = 2'000'000;
  return nanoseconds(kRounds, kTimes, [] {
    for (long i = 0; i < kTimes; ++i) {
      pthread_mutex_lock(&mutex);
      pthread_mutex_unlock(&mutex);
    }
  });
}

// Each waits for its turn: one operation is one hand-over.
void* take_turns(void* number) {
  const int own = static_cast<int>(reinterpret_cast<long>(number));
  pthread_mutex_lock(&mutex);
  for (long i = 0; i < count; ++i) {
    while (turn != own) pthread_cond_wait(&conditions[own], &mutex);
    turn = 1 - own;
    pthread_cond_signal(&conditions[1 - own]);
  }
  pthread_mutex_unlock(&mutex);
  return nullptr;
}

// The mutex is given up while the other one waits for it, which the semaphores see to.
void* hand_over(void* number) {
  const long own = reinterpret_cast<long>(number);
  for (long i = 0; i < count; ++i) {
    sem_wait(&semaphores[own]);
    pthread_mutex_lock(&mutex);
    sem_post(&semaphores[1 - own]);
    sched_yield();  // the other one finds it held, and waits
    pthread_mutex_unlock(&mutex);
  }
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  count = (argc > 1 ? atol(argv[1]) : 10) * 2'000;
  two_threads(nothing);  // from now on the process is one with threads
  const double lock = uncontended();
  turn = 0;
  const double cond = nanoseconds(kRounds, 2 * count, [] { two_threads(take_turns); });
  const double mutexes = nanoseconds(kRounds, 2 * count, [] {
    sem_init(&semaphores[0], 0, 1);
    sem_init(&semaphores[1], 0, 0);
    two_threads(hand_over);
  });
  printf("{\"lock_unlock_ns\": %.2f, \"cond_pingpong_ns\": %.1f, \"mutex_handover_ns\": %.1f}\n", lock, cond, mutexes);
}
