// isolation.cc - clause 2: what belongs to one thread stays with it, wherever and after whatever it
// goes on.
//
// A thousand threads at a time sleep, yield and hand mutexes over at random, so that under weft
// each of them goes on in many places. Every wave reuses what the threads of the wave before left
// behind.

#include <array>
#include <atomic>
#include <exception>
#include <mutex>
#include <stdexcept>

#include <arpa/inet.h>
#include <fcntl.h>
#include <fenv.h>
#include <locale.h>
#include <math.h>
#include <netdb.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "check.h"
#include "threads.h"

namespace {

constexpr int kThreads = 1000;
constexpr int kWaves = 3;
constexpr int kRounds = 3;

// Gives up the processor in one of three ways. None of them touches errno.
class wanderer {
 public:
  explicit wanderer(int id) : seed_(static_cast<unsigned>(id) * 7919u + 1) {}

  void wander() {
    switch (rand_r(&seed_) % 3) {
      case 0:
        usleep(rand_r(&seed_) % 3000);
        break;
      case 1:
        sched_yield();
        break;
      default:
        std::lock_guard held(mutexes_[rand_r(&seed_) % mutexes_.size()]);
        sched_yield();
        break;
    }
  }

 private:
  static inline std::array<std::mutex, 32> mutexes_;
  unsigned seed_;
};

// body(id, wanderer), in a thousand threads at a time, three times over.
template <class Body>
void waves(Body body) {
  for (int wave = 0; wave < kWaves; ++wave) {
    crowd(kThreads, [&](int id) {
      wanderer self(id);
      body(id, self);
    });
  }
}

__thread int zeroed;
__thread long initialised = 0x5eed;
alignas(64) __thread char block[256];
__thread int* own_zeroed;

CASE(thread_variables_start_fresh_and_stay_with_their_thread) {
  waves([](int id, wanderer& self) {
    CHECK_EQ(zeroed, 0);
    CHECK_EQ(initialised, 0x5eed);
    CHECK_EQ(block[255], 0);
    CHECK_EQ(reinterpret_cast<uintptr_t>(block) % 64, 0);
    own_zeroed = &zeroed;
    for (int round = 0; round < kRounds; ++round) {
      zeroed = id + round;
      initialised = -id - round;
      memset(block, id & 0x7f, sizeof block);
      self.wander();
      CHECK_EQ(zeroed, id + round);
      CHECK_EQ(*own_zeroed, id + round);
      CHECK_EQ(initialised, -id - round);
      CHECK_EQ(block[0], id & 0x7f);
      CHECK_EQ(block[255], id & 0x7f);
      CHECK(&zeroed == own_zeroed);
    }
  });
}

CASE(errno_survives_sleeps_and_comes_from_the_threads_own_failure) {
  waves([](int id, wanderer& self) {
    CHECK_EQ(errno, 0);
    for (int round = 0; round < kRounds; ++round) {
      errno = 1000 + id;
      self.wander();
      CHECK_EQ(errno, 1000 + id);
      int expected = 0;
      switch ((id + round) % 3) {
        case 0:
          CHECK_EQ(close(-1), -1);
          expected = EBADF;
          break;
        case 1:
          CHECK_EQ(open("/there/is/no/such/file", O_RDONLY), -1);
          expected = ENOENT;
          break;
        default:
          CHECK_EQ(fcntl(STDERR_FILENO, F_SETOWN + 1000, 0), -1);
          expected = EINVAL;
          break;
      }
      self.wander();
      CHECK_EQ(errno, expected);
    }
  });
}

std::atomic<int> born, died;

struct counted {
  counted() { ++born; }
  ~counted() {
    usleep(100);
    CHECK_EQ(value, also_value);
    ++died;
  }
  int value = 0;
  int also_value = 0;
};

thread_local counted first, second;
thread_local int drawn = getppid() == -1 ? 0 : 42;  // computed when the thread first looks

CASE(thread_local_objects_are_made_and_destroyed_once_in_each_thread) {
  born = died = 0;
  waves([](int id, wanderer& self) {
    CHECK_EQ(drawn, 42);
    drawn = id;
    for (int round = 0; round < kRounds; ++round) {
      first.value = first.also_value = id * 10 + round;
      second.value = second.also_value = -id;
      self.wander();
      CHECK_EQ(first.value, id * 10 + round);
      CHECK_EQ(second.value, -id);
      CHECK_EQ(drawn, id);
    }
  });
  CHECK_EQ(born, 2 * kThreads * kWaves);
  CHECK_EQ(died, 2 * kThreads * kWaves);
}

constexpr int kKeys = 40;  // more than the 32 that glibc keeps in the first level
std::array<pthread_key_t, kKeys> keys;
std::atomic<int> values_destroyed;

CASE(keys_hold_one_value_per_thread_and_their_destructors_run) {
  values_destroyed = 0;
  for (pthread_key_t& key : keys) {
    CHECK_EQ(pthread_key_create(&key,
                                [](void* value) {
                                  CHECK(value != nullptr);
                                  sched_yield();
                                  ++values_destroyed;
                                }),
             0);
  }
  waves([](int id, wanderer& self) {
    for (pthread_key_t key : keys) CHECK(pthread_getspecific(key) == nullptr);
    for (int k = 0; k < kKeys; ++k) {
      void* value = reinterpret_cast<void*>(static_cast<intptr_t>(id * kKeys + k + 1));
      CHECK_EQ(pthread_setspecific(keys[k], value), 0);
    }
    for (int round = 0; round < kRounds; ++round) {
      self.wander();
      for (int k = 0; k < kKeys; ++k) {
        CHECK_EQ(reinterpret_cast<intptr_t>(pthread_getspecific(keys[k])), id * kKeys + k + 1);
      }
    }
    CHECK_EQ(pthread_setspecific(keys[0], nullptr), 0);  // nothing to destroy
  });
  CHECK_EQ(values_destroyed, kThreads * kWaves * (kKeys - 1));
  for (pthread_key_t key : keys) CHECK_EQ(pthread_key_delete(key), 0);
}

pthread_key_t stubborn_key;
std::atomic<int> stubborn_calls;

CASE(a_key_destructor_that_sets_its_key_again_runs_again_but_not_for_ever) {
  stubborn_calls = 0;
  CHECK_EQ(pthread_key_create(&stubborn_key,
                              [](void* value) {
                                ++stubborn_calls;
                                CHECK(pthread_getspecific(stubborn_key) == nullptr);
                                usleep(50);
                                CHECK_EQ(pthread_setspecific(stubborn_key, value), 0);
                              }),
           0);
  crowd(100, [](int) { CHECK_EQ(pthread_setspecific(stubborn_key, &stubborn_key), 0); });
  CHECK_EQ(stubborn_calls, 100 * PTHREAD_DESTRUCTOR_ITERATIONS);
  CHECK_EQ(pthread_key_delete(stubborn_key), 0);
}

std::atomic<bool> object_gone, object_first;

CASE(thread_local_objects_go_before_key_values) {
  struct announces_its_end {
    ~announces_its_end() { object_gone = true; }
    int used = 0;
  };
  pthread_key_t key;
  CHECK_EQ(pthread_key_create(&key, [](void*) { object_first = object_gone.load(); }), 0);
  crowd(1, [&](int) {
    static thread_local announces_its_end object;
    CHECK_EQ(pthread_setspecific(key, &object), 0);
    object.used = 1;
  });
  CHECK(object_first);
  CHECK_EQ(pthread_key_delete(key), 0);
}

CASE(an_exception_in_flight_belongs_to_its_thread) {
  waves([](int id, wanderer& self) {
    const std::string mine = std::to_string(id);
    CHECK_EQ(std::uncaught_exceptions(), 0);
    CHECK(std::current_exception() == nullptr);
    std::exception_ptr kept;
    try {
      try {
        throw std::runtime_error(mine);
      } catch (const std::exception& outer) {
        self.wander();
        CHECK_EQ(outer.what(), mine);
        kept = std::current_exception();
        try {
          throw id;
        } catch (int inner) {
          self.wander();
          CHECK_EQ(inner, id);
          CHECK(std::current_exception() != kept);
        }
        self.wander();
        CHECK(std::current_exception() == kept);
        throw;
      }
    } catch (const std::runtime_error& again) {
      self.wander();
      CHECK_EQ(again.what(), mine);
    }
    CHECK(std::current_exception() == nullptr);
    try {
      std::rethrow_exception(kept);
    } catch (const std::runtime_error& kept_one) {
      CHECK_EQ(kept_one.what(), mine);
    }
  });
}

CASE(unwinding_may_block_half_way) {
  waves([](int id, wanderer& self) {
    struct blocks_at_its_end {
      ~blocks_at_its_end() {
        CHECK_EQ(std::uncaught_exceptions(), expected);
        self.wander();
        CHECK_EQ(std::uncaught_exceptions(), expected);
      }
      wanderer& self;
      int expected;
    };
    try {
      blocks_at_its_end outer{self, 1};
      blocks_at_its_end inner{self, 1};
      throw id;
    } catch (int seen) {
      CHECK_EQ(seen, id);
      blocks_at_its_end quiet{self, 0};
    }
  });
}

constexpr std::array kRounding = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};

double third() {
  volatile double one = 1, three = 3;
  return one / three;
}

long double long_third() {  // on x86-64 this is the other unit, with control words of its own
  volatile long double one = 1, three = 3;
  return one / three;
}

CASE(the_rounding_mode_belongs_to_its_thread) {
  std::array<double, 4> thirds;
  std::array<long double, 4> long_thirds;
  for (size_t i = 0; i < kRounding.size(); ++i) {
    CHECK_EQ(fesetround(kRounding[i]), 0);
    thirds[i] = third();
    long_thirds[i] = long_third();
  }
  CHECK_EQ(fesetround(FE_TONEAREST), 0);
  CHECK(thirds[1] != thirds[2]);
  CHECK(long_thirds[1] != long_thirds[2]);
  waves([&](int id, wanderer& self) {
    CHECK_EQ(fegetround(), FE_TONEAREST);
    for (int round = 0; round < kRounds; ++round) {
      const size_t mode = static_cast<size_t>(id + round) % kRounding.size();
      CHECK_EQ(fesetround(kRounding[mode]), 0);
      self.wander();
      CHECK_EQ(fegetround(), kRounding[mode]);
      CHECK_EQ(third(), thirds[mode]);
      CHECK(long_third() == long_thirds[mode]);
    }
  });
}

CASE(a_new_thread_starts_with_the_rounding_mode_of_its_creator) {
  CHECK_EQ(fesetround(FE_UPWARD), 0);
  crowd(10, [](int) {
    CHECK_EQ(fegetround(), FE_UPWARD);
    usleep(1000);
    CHECK_EQ(fegetround(), FE_UPWARD);
  });
  CHECK_EQ(fesetround(FE_TONEAREST), 0);
}

CASE(floating_point_exception_flags_belong_to_their_thread) {
  waves([](int id, wanderer& self) {
    CHECK_EQ(fetestexcept(FE_DIVBYZERO), 0);
    if (id % 2 != 0) {
      volatile double zero = 0, one = 1;
      volatile double infinite = one / zero;
      CHECK(isinf(infinite));
    }
    for (int round = 0; round < kRounds; ++round) {
      self.wander();
      CHECK_EQ(fetestexcept(FE_DIVBYZERO), id % 2 != 0 ? FE_DIVBYZERO : 0);
    }
  });
}

CASE(libc_keeps_its_per_thread_buffers_apart) {
  const time_t noon = 1'700'000'000;
  waves([&](int id, wanderer& self) {
    const std::string unknown = "Unknown error " + std::to_string(100'000 + id);
    const char* error_text = strerror(100'000 + id);
    const in_addr address = {htonl(0x7f000000u + static_cast<unsigned>(id))};
    const char* address_text = inet_ntoa(address);
    h_errno = id;
    self.wander();
    CHECK_EQ(error_text, unknown);
    CHECK_EQ(address_text, "127.0." + std::to_string(id / 256) + "." + std::to_string(id % 256));
    CHECK_EQ(h_errno, id);

    tm broken_down;
    const time_t then = noon + id * 86'400;
    CHECK(localtime_r(&then, &broken_down) == &broken_down);
    char number[64];
    snprintf(number, sizeof number, "%f", id / 8.0);
    self.wander();
    CHECK_EQ(mktime(&broken_down), then);
    CHECK_EQ(strtod(number, nullptr), id / 8.0);
  });
}

CASE(the_locale_of_a_thread_stays_its_own) {
  const locale_t utf8 = newlocale(LC_ALL_MASK, "C.UTF-8", nullptr);
  CHECK(utf8 != nullptr);
  waves([&](int id, wanderer& self) {
    CHECK(uselocale(nullptr) == LC_GLOBAL_LOCALE);
    if (id % 2 != 0) uselocale(utf8);
    for (int round = 0; round < kRounds; ++round) {
      self.wander();
      CHECK(uselocale(nullptr) == (id % 2 != 0 ? utf8 : LC_GLOBAL_LOCALE));
      CHECK_EQ(MB_CUR_MAX, id % 2 != 0 ? 6 : 1);
      CHECK(isalpha('x') && !isalpha('1'));
    }
  });
  freelocale(utf8);
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv); }
