/* Shifts the wall clock of one process, and no other clock. clockshim.py compiles it and loads it with LD_PRELOAD.

   The first eight bytes of the file named by AZSESSION_TEST_CLOCK contain the offset in nanoseconds. The file is mapped, so a
   step has effect at the next read of the clock. A wait until an instant of the wall clock gets the real instant, because the
   kernel's clock is not stepped. A real step would not change the duration of such a wait either. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static volatile int64_t *shared;
static int (*real_clock)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("AZSESSION_TEST_CLOCK");
    int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    real_clock = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    if (mapped != MAP_FAILED) shared = mapped;
}

static void shift(struct timespec *at, int64_t by) {
    int64_t nanoseconds = at->tv_nsec + by % SECOND;
    at->tv_sec += by / SECOND + (nanoseconds < 0 ? -1 : nanoseconds / SECOND);
    at->tv_nsec = nanoseconds < 0 ? nanoseconds + SECOND : nanoseconds % SECOND;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int result = real_clock == NULL ? (int)syscall(SYS_clock_gettime, clock, at) : real_clock(clock, at);
    if (result == 0 && shared != NULL && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) shift(at, *shared);
    return result;
}

int timespec_get(struct timespec *at, int base) {
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, at) == 0 ? base : 0;
}

int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) return (time_t)-1;
    if (at != NULL) *at = now.tv_sec;
    return now.tv_sec;
}

/* Python 3.10 waits for locks with this function. */
int sem_timedwait(sem_t *semaphore, const struct timespec *until) {
    int (*real)(sem_t *, const struct timespec *) = (int (*)(sem_t *, const struct timespec *))dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec then = *until;
    if (shared != NULL) shift(&then, -*shared);
    return real(semaphore, &then);
}
