/* A wall clock that a test moves, for a process that is started with this as LD_PRELOAD.
 *
 * WALL_CLOCK_OFFSET names a file of eight bytes: how many seconds the clock is ahead, at any time. Waits until a point in time of the
 * wall clock end when this clock has reached it, as the kernel's do when somebody sets the clock. The monotonic clock is left alone.
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
#include <time.h>
#include <unistd.h>

/* How long a wait overlooks that the clock was moved. */
#define SLICE_NS 10000000L
#define SECOND_NS 1000000000L

typedef int wait_until(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);

static const volatile int64_t *offset;
static wait_until *real_wait;

__attribute__((constructor)) static void prepare(void) {
  const char *path = getenv("WALL_CLOCK_OFFSET");
  int file = path ? open(path, O_RDONLY) : -1;
  void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
  if (page == MAP_FAILED)
    abort();
  offset = page;
  /* The oldest of its versions, which a plain look-up may find, is for other condition variables. */
  real_wait = (wait_until *)dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  if (!real_wait)
    real_wait = (wait_until *)dlsym(RTLD_NEXT, "pthread_cond_timedwait");
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

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until) {
  for (;;) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec > until->tv_sec || (now.tv_sec == until->tv_sec && now.tv_nsec >= until->tv_nsec))
      return ETIMEDOUT;
    long left = until->tv_sec - now.tv_sec > 1 ? SLICE_NS : (until->tv_sec - now.tv_sec) * SECOND_NS + until->tv_nsec - now.tv_nsec;
    struct timespec slice;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &slice);
    slice.tv_nsec += left < SLICE_NS ? left : SLICE_NS;
    if (slice.tv_nsec >= SECOND_NS) {
      slice.tv_sec++;
      slice.tv_nsec -= SECOND_NS;
    }
    int ended = real_wait(condition, mutex, &slice);
    if (ended != ETIMEDOUT)
      return ended;
  }
}
