// c11.c - clause 2: the threads, locks and keys of C11 are those of pthreads under other names.

#include <threads.h>
#include <time.h>

#include "check.h"

enum { kThreads = 20, kTimes = 200 };

static mtx_t mutex;
static cnd_t condition;
static once_flag once = ONCE_FLAG_INIT;
static tss_t key;
static int count, once_calls, destroyed, waiting, told;
static thread_local int own;

static struct timespec in_ten_milliseconds(void) {
  struct timespec t;
  CHECK_EQ(timespec_get(&t, TIME_UTC), TIME_UTC);
  t.tv_nsec += 10000000;
  if (t.tv_nsec >= 1000000000) {
    t.tv_nsec -= 1000000000;
    t.tv_sec += 1;
  }
  return t;
}

static void call_once_only(void) {
  const struct timespec brief = {0, 1000000};
  CHECK_EQ(thrd_sleep(&brief, NULL), 0);
  ++once_calls;
}

static void destroy(void* value) {
  CHECK_EQ(mtx_lock(&mutex), thrd_success);
  destroyed += *(int*)value;
  CHECK_EQ(mtx_unlock(&mutex), thrd_success);
}

static int work(void* argument) {
  const int number = *(int*)argument;
  const thrd_t self = thrd_current();
  int one = 1;
  call_once(&once, call_once_only);
  CHECK_EQ(once_calls, 1);
  CHECK_EQ(own, 0);
  CHECK(tss_get(key) == NULL);
  CHECK_EQ(tss_set(key, argument), thrd_success);
  for (int i = 0; i < kTimes; ++i) {
    CHECK_EQ(mtx_lock(&mutex), thrd_success);
    count += one;
    ++own;
    if (i % 50 == number) thrd_yield();
    CHECK_EQ(mtx_unlock(&mutex), thrd_success);
  }
  CHECK_EQ(mtx_lock(&mutex), thrd_success);
  ++waiting;
  while (!told) CHECK_EQ(cnd_wait(&condition, &mutex), thrd_success);
  CHECK_EQ(mtx_unlock(&mutex), thrd_success);
  CHECK_EQ(own, kTimes);
  CHECK(tss_get(key) == argument);
  CHECK(thrd_equal(self, thrd_current()));
  if (number % 2 == 0) thrd_exit(-number);
  return -number;
}

static int give_up(void* unused) {
  const struct timespec soon = in_ten_milliseconds();
  (void)unused;
  CHECK_EQ(mtx_trylock(&mutex), thrd_busy);
  CHECK_EQ(mtx_timedlock(&mutex, &soon), thrd_timedout);
  return 0;
}

static int run(thrd_start_t body, void* argument) {
  thrd_t thread;
  int result;
  CHECK_EQ(thrd_create(&thread, body, argument), thrd_success);
  CHECK_EQ(thrd_join(thread, &result), thrd_success);
  return result;
}

int main(void) {
  thrd_t threads[kThreads];
  int numbers[kThreads];
  int sum = 0;
  CHECK_EQ(mtx_init(&mutex, mtx_timed), thrd_success);
  CHECK_EQ(cnd_init(&condition), thrd_success);
  CHECK_EQ(tss_create(&key, destroy), thrd_success);
  for (int i = 0; i < kThreads; ++i) {
    numbers[i] = i;
    sum += i;
    CHECK_EQ(thrd_create(&threads[i], work, &numbers[i]), thrd_success);
  }
  for (int all = 0; !all;) {
    CHECK_EQ(mtx_lock(&mutex), thrd_success);
    all = waiting == kThreads;
    CHECK_EQ(mtx_unlock(&mutex), thrd_success);
    thrd_yield();
  }
  CHECK_EQ(mtx_lock(&mutex), thrd_success);
  told = 1;
  CHECK_EQ(cnd_broadcast(&condition), thrd_success);
  CHECK_EQ(mtx_unlock(&mutex), thrd_success);
  for (int i = 0; i < kThreads; ++i) {
    int result;
    CHECK_EQ(thrd_join(threads[i], &result), thrd_success);
    CHECK_EQ(result, -i);
  }
  CHECK_EQ(count, kThreads * kTimes);
  CHECK_EQ(once_calls, 1);
  CHECK_EQ(destroyed, sum);
  CHECK_EQ(own, 0);

  CHECK_EQ(mtx_lock(&mutex), thrd_success);
  CHECK_EQ(run(give_up, NULL), 0);
  const struct timespec soon = in_ten_milliseconds();
  int error;
  do error = cnd_timedwait(&condition, &mutex, &soon);
  while (error == thrd_success);
  CHECK_EQ(error, thrd_timedout);
  CHECK_EQ(mtx_unlock(&mutex), thrd_success);
  tss_delete(key);
  cnd_destroy(&condition);
  mtx_destroy(&mutex);
  return 0;
}
