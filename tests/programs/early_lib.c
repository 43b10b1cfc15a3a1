// early_lib.c - a library that calls everything before main and after exit. See early.cc.

#include "early_lib.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

static struct timespec in_a_millisecond(clockid_t clock) {
  struct timespec t;
  MUST(clock_gettime(clock, &t));
  t.tv_nsec += 1000000;
  if (t.tv_nsec >= 1000000000) {
    t.tv_nsec -= 1000000000;
    t.tv_sec += 1;
  }
  return t;
}

static void sleep_in_every_way(void) {
  const struct timespec brief = {0, 100000};
  const struct timespec until = in_a_millisecond(CLOCK_MONOTONIC);
  struct timeval limit = {0, 100};
  CHECK_EQ(usleep(100), 0);
  CHECK_EQ(sleep(0), 0);
  CHECK_EQ(nanosleep(&brief, NULL), 0);
  CHECK_EQ(clock_nanosleep(CLOCK_REALTIME, 0, &brief, NULL), 0);
  CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL), 0);
  CHECK_EQ(poll(NULL, 0, 1), 0);
  CHECK_EQ(ppoll(NULL, 0, &brief, NULL), 0);
  CHECK_EQ(select(0, NULL, NULL, NULL, &limit), 0);
  CHECK_EQ(pselect(0, NULL, NULL, NULL, &brief, NULL), 0);
  CHECK_EQ(sched_yield(), 0);
}

static void lock_mutexes(void) {
  static pthread_mutex_t constant = PTHREAD_MUTEX_INITIALIZER;
  const int types[] = {PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_RECURSIVE, PTHREAD_MUTEX_ERRORCHECK};
  const struct timespec soon = in_a_millisecond(CLOCK_REALTIME);
  CHECK_EQ(pthread_mutex_lock(&constant), 0);
  CHECK_EQ(pthread_mutex_trylock(&constant), EBUSY);
  CHECK_EQ(pthread_mutex_timedlock(&constant, &soon), ETIMEDOUT);
  CHECK_EQ(pthread_mutex_clocklock(&constant, CLOCK_REALTIME, &soon), ETIMEDOUT);
  CHECK_EQ(pthread_mutex_unlock(&constant), 0);
  for (int i = 0; i < 3; ++i) {
    pthread_mutexattr_t attr;
    pthread_mutex_t mutex;
    CHECK_EQ(pthread_mutexattr_init(&attr), 0);
    CHECK_EQ(pthread_mutexattr_settype(&attr, types[i]), 0);
    CHECK_EQ(pthread_mutex_init(&mutex, &attr), 0);
    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    CHECK_EQ(pthread_mutex_trylock(&mutex), types[i] == PTHREAD_MUTEX_RECURSIVE ? 0 : EBUSY);
    if (types[i] == PTHREAD_MUTEX_RECURSIVE) CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
    CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
    CHECK_EQ(pthread_mutex_destroy(&mutex), 0);
    CHECK_EQ(pthread_mutexattr_destroy(&attr), 0);
  }
}

static void wait_at_a_condition(void) {
  static pthread_cond_t constant = PTHREAD_COND_INITIALIZER;
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t condition;
  pthread_condattr_t attr;
  CHECK_EQ(pthread_condattr_init(&attr), 0);
  CHECK_EQ(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC), 0);
  CHECK_EQ(pthread_cond_init(&condition, &attr), 0);
  CHECK_EQ(pthread_mutex_lock(&mutex), 0);
  struct timespec soon = in_a_millisecond(CLOCK_REALTIME);
  CHECK_EQ(pthread_cond_timedwait(&constant, &mutex, &soon), ETIMEDOUT);
  soon = in_a_millisecond(CLOCK_MONOTONIC);
  CHECK_EQ(pthread_cond_timedwait(&condition, &mutex, &soon), ETIMEDOUT);
  CHECK_EQ(pthread_cond_clockwait(&constant, &mutex, CLOCK_MONOTONIC, &soon), ETIMEDOUT);
  CHECK_EQ(pthread_cond_signal(&condition), 0);
  CHECK_EQ(pthread_cond_broadcast(&condition), 0);
  CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
  CHECK_EQ(pthread_cond_destroy(&condition), 0);
  CHECK_EQ(pthread_condattr_destroy(&attr), 0);
}

static void lock_for_reading_and_writing(void) {
  static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
  const struct timespec soon = in_a_millisecond(CLOCK_REALTIME);
  CHECK_EQ(pthread_rwlock_rdlock(&lock), 0);
  CHECK_EQ(pthread_rwlock_tryrdlock(&lock), 0);
  CHECK_EQ(pthread_rwlock_trywrlock(&lock), EBUSY);
  CHECK_EQ(pthread_rwlock_timedwrlock(&lock, &soon), ETIMEDOUT);
  CHECK_EQ(pthread_rwlock_unlock(&lock), 0);
  CHECK_EQ(pthread_rwlock_unlock(&lock), 0);
  CHECK_EQ(pthread_rwlock_wrlock(&lock), 0);
  CHECK_EQ(pthread_rwlock_tryrdlock(&lock), EBUSY);
  CHECK_EQ(pthread_rwlock_unlock(&lock), 0);
}

static void use_semaphores(void) {
  sem_t semaphore;
  int value;
  const struct timespec soon = in_a_millisecond(CLOCK_REALTIME);
  MUST(sem_init(&semaphore, 0, 1));
  MUST(sem_wait(&semaphore));
  CHECK_ERRNO(sem_trywait(&semaphore), EAGAIN);
  CHECK_ERRNO(sem_timedwait(&semaphore, &soon), ETIMEDOUT);
  CHECK_ERRNO(sem_clockwait(&semaphore, CLOCK_REALTIME, &soon), ETIMEDOUT);
  MUST(sem_post(&semaphore));
  MUST(sem_getvalue(&semaphore, &value));
  CHECK_EQ(value, 1);
  MUST(sem_destroy(&semaphore));
}

static int once_calls;

static void count_once(void) { ++once_calls; }

static void use_the_rest_of_pthreads(void) {
  pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_barrier_t barrier;
  pthread_spinlock_t spin;
  pthread_key_t key;
  char name[16];
  once_calls = 0;
  CHECK_EQ(pthread_once(&once, count_once), 0);
  CHECK_EQ(pthread_once(&once, count_once), 0);
  CHECK_EQ(once_calls, 1);
  CHECK_EQ(pthread_barrier_init(&barrier, NULL, 1), 0);
  CHECK_EQ(pthread_barrier_wait(&barrier), PTHREAD_BARRIER_SERIAL_THREAD);
  CHECK_EQ(pthread_barrier_destroy(&barrier), 0);
  CHECK_EQ(pthread_spin_init(&spin, PTHREAD_PROCESS_PRIVATE), 0);
  CHECK_EQ(pthread_spin_lock(&spin), 0);
  CHECK_EQ(pthread_spin_trylock(&spin), EBUSY);
  CHECK_EQ(pthread_spin_unlock(&spin), 0);
  CHECK_EQ(pthread_key_create(&key, NULL), 0);
  CHECK_EQ(pthread_setspecific(key, name), 0);
  CHECK(pthread_getspecific(key) == name);
  CHECK_EQ(pthread_key_delete(key), 0);
  CHECK(pthread_equal(pthread_self(), pthread_self()));
  CHECK_EQ(pthread_getname_np(pthread_self(), name, sizeof name), 0);
  CHECK_EQ(gettid(), syscall(SYS_gettid));
  CHECK_EQ(pthread_join(pthread_self(), NULL), EDEADLK);
  pthread_attr_t attr;
  CHECK_EQ(pthread_getattr_np(pthread_self(), &attr), 0);
  CHECK_EQ(pthread_attr_destroy(&attr), 0);
}

static void exchange_bytes(int one, int other) {
  char bytes[4];
  struct iovec part = {bytes, sizeof bytes};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  CHECK_EQ(send(one, "send", 4, 0), 4);
  CHECK_EQ(recv(other, bytes, 4, MSG_WAITALL), 4);
  CHECK_EQ(sendto(one, "sent", 4, 0, NULL, 0), 4);
  CHECK_EQ(recvfrom(other, bytes, 4, 0, NULL, NULL), 4);
  CHECK_EQ(sendmsg(one, &message, 0), 4);
  CHECK_EQ(recvmsg(other, &message, 0), 4);
  CHECK_EQ(write(one, "writ", 4), 4);
  CHECK_EQ(read(other, bytes, 4), 4);
  CHECK_EQ(writev(one, &part, 1), 4);
  CHECK_EQ(readv(other, &part, 1), 4);
  CHECK_ERRNO(recv(other, bytes, 1, MSG_DONTWAIT), EAGAIN);
  const struct timeval limit = {0, 1000};
  MUST(setsockopt(other, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
  CHECK_ERRNO(recv(other, bytes, 1, 0), EAGAIN);
  int on = 1;
  MUST(ioctl(other, FIONBIO, &on));
  CHECK_EQ(MUST(fcntl(other, F_GETFL)) & O_NONBLOCK, O_NONBLOCK);
  CHECK_ERRNO(read(other, bytes, 1), EAGAIN);
}

static void use_sockets(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  const int listener = MUST(socket(AF_INET, SOCK_STREAM, 0));
  MUST(bind(listener, (struct sockaddr*)&address, length));
  MUST(listen(listener, 5));
  MUST(getsockname(listener, (struct sockaddr*)&address, &length));
  const int client = MUST(socket(AF_INET, SOCK_STREAM, 0));
  MUST(connect(client, (struct sockaddr*)&address, length));
  const int server = MUST(accept(listener, NULL, NULL));
  exchange_bytes(client, server);
  MUST(shutdown(client, SHUT_RDWR));
  const int other = MUST(socket(AF_INET, SOCK_STREAM, 0));
  MUST(connect(other, (struct sockaddr*)&address, length));
  const int other_server = MUST(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
  int pair[2];
  MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  exchange_bytes(pair[0], pair[1]);
  const int all[] = {listener, client, server, other, other_server, pair[0], pair[1]};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) MUST(close(all[i]));
  struct addrinfo* found;
  CHECK_EQ(getaddrinfo("127.0.0.1", "80", NULL, &found), 0);
  freeaddrinfo(found);
}

static void wait_for_descriptors(void) {
  int ends[2];
  char byte;
  MUST(pipe(ends));
  struct pollfd one = {ends[0], POLLIN, 0};
  fd_set readable;
  struct timeval limit = {0, 1000};
  CHECK_EQ(poll(&one, 1, 1), 0);
  CHECK_EQ(write(ends[1], "x", 1), 1);
  CHECK_EQ(poll(&one, 1, -1), 1);
  CHECK_EQ(ppoll(&one, 1, NULL, NULL), 1);
  FD_ZERO(&readable);
  FD_SET(ends[0], &readable);
  CHECK_EQ(select(ends[0] + 1, &readable, NULL, NULL, &limit), 1);
  CHECK_EQ(pselect(ends[0] + 1, &readable, NULL, NULL, NULL, NULL), 1);

  const int epoll = MUST(epoll_create1(EPOLL_CLOEXEC));
  struct epoll_event event = {.events = EPOLLIN};
  MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event));
  CHECK_EQ(epoll_wait(epoll, &event, 1, -1), 1);
  CHECK_EQ(epoll_pwait(epoll, &event, 1, 1, NULL), 1);
  CHECK_EQ(read(ends[0], &byte, 1), 1);
  CHECK_EQ(epoll_wait(epoll, &event, 1, 1), 0);

  const int timer = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
  const struct itimerspec soon = {.it_value = {0, 100000}};
  uint64_t value;
  MUST(timerfd_settime(timer, 0, &soon, NULL));
  CHECK_EQ(read(timer, &value, sizeof value), (ssize_t)sizeof value);
  const int counter = MUST(eventfd(1, 0));
  MUST(eventfd_read(counter, &value));
  MUST(dup2(timer, counter));
  const int all[] = {ends[0], ends[1], epoll, timer, counter};
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) MUST(close(all[i]));
}

static pthread_mutex_t shared = PTHREAD_MUTEX_INITIALIZER;
static int visits;

static void* visit(void* argument) {
  for (int i = 0; i < 10; ++i) {
    CHECK_EQ(pthread_mutex_lock(&shared), 0);
    ++visits;
    usleep(50);
    CHECK_EQ(pthread_mutex_unlock(&shared), 0);
  }
  return argument;
}

static int c11_visit(void* argument) {
  visit(argument);
  return 7;
}

static void create_and_join_threads(void) {
  pthread_t threads[5];
  char marks[5];
  visits = 0;
  for (int i = 0; i < 5; ++i) CHECK_EQ(pthread_create(&threads[i], NULL, visit, &marks[i]), 0);
  for (int i = 0; i < 5; ++i) {
    void* result;
    CHECK_EQ(pthread_join(threads[i], &result), 0);
    CHECK(result == &marks[i]);
  }
  thrd_t thread;
  int result;
  CHECK_EQ(thrd_create(&thread, c11_visit, NULL), thrd_success);
  CHECK_EQ(thrd_join(thread, &result), thrd_success);
  CHECK_EQ(result, 7);
  CHECK_EQ(visits, 60);
}

static void use_signals_and_processes(void) {
  sigset_t set, old;
  const struct timespec none = {0, 0};
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, &old), 0);
  MUST(raise(SIGUSR2));
  CHECK_EQ(sigtimedwait(&set, NULL, &none), SIGUSR2);
  CHECK_EQ(pthread_sigmask(SIG_SETMASK, &old, NULL), 0);
  const pid_t child = MUST(fork());
  if (child == 0) {
    usleep(100);
    _exit(5);
  }
  int status;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);
}

static void call_everything(void) {
  errno = 99;
  CHECK_EQ(usleep(10), 0);
  CHECK_EQ(errno, 99);
  sleep_in_every_way();
  lock_mutexes();
  wait_at_a_condition();
  lock_for_reading_and_writing();
  use_semaphores();
  use_the_rest_of_pthreads();
  use_sockets();
  wait_for_descriptors();
  create_and_join_threads();
  // And once more now that there have been threads.
  sleep_in_every_way();
  wait_at_a_condition();
  use_sockets();
  wait_for_descriptors();
  use_signals_and_processes();
}

static pthread_t lasting;
static sem_t lasting_may_end;

static void* wait_for_the_end(void* unused) {
  while (sem_wait(&lasting_may_end) != 0) CHECK_EQ(errno, EINTR);
  return unused;
}

static int constructor_succeeded;
static int report_fd = -1;

__attribute__((constructor)) static void before_main(void) {
  call_everything();
  MUST(sem_init(&lasting_may_end, 0, 0));
  CHECK_EQ(pthread_create(&lasting, NULL, wait_for_the_end, NULL), 0);
  constructor_succeeded = 1;
}

__attribute__((destructor)) static void after_exit(void) {
  call_everything();
  if (report_fd != -1) CHECK_EQ(write(report_fd, "d", 1), 1);
}

int early_constructor_succeeded(void) { return constructor_succeeded; }

void early_report_to(int fd) { report_fd = fd; }

void early_end_thread(void) {
  MUST(sem_post(&lasting_may_end));
  CHECK_EQ(pthread_join(lasting, NULL), 0);
}
