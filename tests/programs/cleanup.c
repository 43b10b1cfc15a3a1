// cleanup.c - clause 2: cleanup handlers, as C spells them, run last in first out when a thread
// leaves by pthread_exit, by cancellation or by pop(1), on the thread's own stack, and may block. A
// cancelled call that blocks is left at once, and one that is not yet reached is left when it is.

#include <pthread.h>
#include <semaphore.h>
#include <sys/socket.h>
#include <time.h>

#include "check.h"

static __thread char order[16];  // the letters of the handlers in the order in which they ran
static char last_order[16];

static void note(void* letter) {
  char* at = order + strlen(order);
  usleep(200);
  *at = *(const char*)letter;
  strcpy(last_order, order);
}

static void* leaves_by_pthread_exit(void* result) {
  pthread_cleanup_push(note, "a");
  pthread_cleanup_push(note, "b");
  pthread_cleanup_push(note, "c");
  pthread_cleanup_pop(0);
  pthread_cleanup_push(note, "d");
  pthread_cleanup_pop(1);
  usleep(500);
  pthread_exit(result);
  pthread_cleanup_pop(0);
  pthread_cleanup_pop(0);
  return NULL;
}

static void* leaves_by_return(void* result) {
  pthread_cleanup_push(note, "a");
  pthread_cleanup_pop(0);
  return result;
}

static void* join(pthread_t thread) {
  void* result = NULL;
  CHECK_EQ(pthread_join(thread, &result), 0);
  return result;
}

static pthread_t start(void* (*body)(void*), void* argument) {
  pthread_t thread;
  last_order[0] = '\0';
  CHECK_EQ(pthread_create(&thread, NULL, body, argument), 0);
  return thread;
}

static int sockets[2];
static sem_t semaphore;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;

static void unlock(void* unused) {
  (void)unused;
  CHECK_EQ(pthread_mutex_unlock(&mutex), 0);  // held again, although the wait was cancelled
  note("u");
}

static void* blocks_in_recv(void* unused) {
  char byte;
  (void)unused;
  pthread_cleanup_push(note, "r");
  recv(sockets[0], &byte, 1, 0);
  pthread_cleanup_pop(0);
  return NULL;
}

static void* blocks_in_read(void* unused) {
  char byte;
  (void)unused;
  pthread_cleanup_push(note, "r");
  if (read(sockets[0], &byte, 1) > 0) return NULL;
  pthread_cleanup_pop(0);
  return NULL;
}

static void* blocks_in_sleep(void* unused) {
  (void)unused;
  pthread_cleanup_push(note, "r");
  sleep(1000);
  pthread_cleanup_pop(0);
  return NULL;
}

static void* blocks_in_sem_wait(void* unused) {
  (void)unused;
  pthread_cleanup_push(note, "r");
  sem_wait(&semaphore);
  pthread_cleanup_pop(0);
  return NULL;
}

static void* blocks_in_cond_wait(void* unused) {
  (void)unused;
  CHECK_EQ(pthread_mutex_lock(&mutex), 0);
  pthread_cleanup_push(unlock, NULL);
  for (;;) pthread_cond_wait(&condition, &mutex);
  pthread_cleanup_pop(0);
  return NULL;
}

static void* blocks_in_join(void* thread) {
  pthread_cleanup_push(note, "r");
  pthread_join(*(pthread_t*)thread, NULL);
  pthread_cleanup_pop(0);
  return NULL;
}

static void* computes_until_told(void* unused) {
  int old;
  (void)unused;
  CHECK_EQ(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old), 0);
  CHECK_EQ(old, PTHREAD_CANCEL_ENABLE);
  pthread_cleanup_push(note, "r");
  while (sem_wait(&semaphore) != 0) CHECK_EQ(errno, EINTR);
  usleep(1000);          // cancellable, were it not disabled
  pthread_testcancel();  // neither
  CHECK_EQ(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old), 0);
  pthread_testcancel();
  CHECK(!"cancelled by now");
  pthread_cleanup_pop(0);
  return NULL;
}

static void* burns(void* unused) {
  int old;
  (void)unused;
  CHECK_EQ(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old), 0);
  CHECK_EQ(old, PTHREAD_CANCEL_DEFERRED);
  for (;;) __asm__ volatile("" ::: "memory");
  return NULL;
}

static void let_it_block(void) { usleep(10000); }

static void check_cancellable(void* (*body)(void*), void* argument, const char* expected_order) {
  for (int wait_first = 0; wait_first < 2; ++wait_first) {
    pthread_t thread = start(body, argument);
    // Without the wait the thread may be cancelled even before its first handler is there, and says
    // nothing then.
    if (wait_first) let_it_block();
    CHECK_EQ(pthread_cancel(thread), 0);
    CHECK(join(thread) == PTHREAD_CANCELED);
    CHECK(strcmp(last_order, expected_order) == 0 || (!wait_first && last_order[0] == '\0'));
  }
}

int main(void) {
  int result;
  CHECK(join(start(leaves_by_pthread_exit, &result)) == &result);
  CHECK(strcmp(last_order, "dba") == 0);
  CHECK(join(start(leaves_by_return, &result)) == &result);
  CHECK(strcmp(last_order, "") == 0);

  MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
  MUST(sem_init(&semaphore, 0, 0));
  check_cancellable(blocks_in_recv, NULL, "r");
  check_cancellable(blocks_in_read, NULL, "r");
  check_cancellable(blocks_in_sleep, NULL, "r");
  check_cancellable(blocks_in_sem_wait, NULL, "r");
  check_cancellable(blocks_in_cond_wait, NULL, "u");
  check_cancellable(burns, NULL, "");
  pthread_t sleeper = start(blocks_in_sleep, NULL);
  check_cancellable(blocks_in_join, &sleeper, "r");
  CHECK_EQ(pthread_cancel(sleeper), 0);
  CHECK(join(sleeper) == PTHREAD_CANCELED);  // the cancelled joiners left it joinable

  pthread_t deaf = start(computes_until_told, NULL);
  let_it_block();
  CHECK_EQ(pthread_cancel(deaf), 0);
  let_it_block();
  CHECK_EQ(last_order[0], '\0');
  MUST(sem_post(&semaphore));
  CHECK(join(deaf) == PTHREAD_CANCELED);
  CHECK(strcmp(last_order, "r") == 0);
  return 0;
}
