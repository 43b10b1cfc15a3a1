// pthread_mutex.h - the mutex of a condition variable, for hook/pthread_cond.cc.
//
// Owns:        how a mutex is given up before such a wait and taken again after it.
// Keeps true:  whoever serves the mutex when the wait begins, weft or libc, serves it when the wait ends.
#pragma once

#include <pthread.h>

namespace weft {

class ConditionMutex {
 public:
  explicit ConditionMutex(pthread_mutex_t* mutex) noexcept;
  int unlock() noexcept;  // EPERM: the caller does not hold it
  int lock() noexcept;    // EOWNERDEAD and the like, of a robust one; it is held

 private:
  pthread_mutex_t* mutex_;
  bool ours_;
};

}  // namespace weft
