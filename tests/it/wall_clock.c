/* A wall clock that a test moves, for a process that is started with this as LD_PRELOAD.
 *
 * WALL_CLOCK_OFFSET names a file of eight bytes: how many seconds the clock is ahead, at any time. Waits until a point in time of the
 * wall clock do not end before this clock has reached it, as the kernel's do not when somebody puts the clock back. The monotonic
 * clock is left alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000L

static const volatile int64_t *offset;
static int (*real_pthread_wait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_c11_wait)(cnd_t *, mtx_t *, const struct timespec *);

__attribute__((constructor)) static void prepare(void) {
  const char *path = getenv("WALL_CLOCK_OFFSET");
  int file = path ? open(path, O_RDONLY) : -1;
  void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
  if (page == MAP_FAILED)
    abort();
  offset = page;
  /* A plain look-up may find the oldest of its versions, which is for other condition variables. */
  *(void **)&real_pthread_wait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  if (!real_pthread_wait)
    *(void **)&real_pthread_wait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
  *(void **)&real_c11_wait = dlsym(RTLD_NEXT, "cnd_timedwait");
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int failed = (int)syscall(SYS_clock_gettime, clock, now);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) && offset)
    now->tv_sec += *offset;
  return failed;
}

int timespec_get(struct timespec *now, int base) {
  return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, now) ? base : 0;
}

int gettimeofday(struct timeval *now, void *zone) {
  struct timespec precise;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &precise))
    return -1;
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *seconds) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (seconds)
    *seconds = now.tv_sec;
  return now.tv_sec;
}

/* Whether this clock has not reached `until` yet; then `end` is when the real one will have, unless this one is moved. */
static int is_ahead(const struct timespec *until, struct timespec *end) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  int64_t left = (until->tv_sec - now.tv_sec) * SECOND_NS + until->tv_nsec - now.tv_nsec;
  if (left <= 0)
    return 0;
  syscall(SYS_clock_gettime, CLOCK_REALTIME, end);
  left += end->tv_nsec;
  end->tv_sec += left / SECOND_NS;
  end->tv_nsec = left % SECOND_NS;
  return 1;
}

/* A wait under way goes on where the clock was put back meanwhile; where it was put forward, it ends when it would have ended. */

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until) {
  struct timespec end;
  while (is_ahead(until, &end)) {
    int ended = real_pthread_wait(condition, mutex, &end);
    if (ended != ETIMEDOUT)
      return ended;
  }
  return ETIMEDOUT;
}

int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const struct timespec *until) {
  struct timespec end;
  while (is_ahead(until, &end)) {
    int ended = real_c11_wait(condition, mutex, &end);
    if (ended != thrd_timedout)
      return ended;
  }
  return thrd_timedout;
}
