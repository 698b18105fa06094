/* Shifts the time of day, and the monotonic clock if asked to: LD_PRELOAD it into one process of a test.
 *
 * CLOCK_OFFSET_S: seconds added from the start. CLOCK_JUMP_S: added too once the file CLOCK_JUMP_FILE exists.
 * CLOCK_DRIFT_PPM: grows the offset with the kernel's monotonic clock, from CLOCK_BEGAN_S of it on (default: now).
 * CLOCK_MONO_OFFSET_S and CLOCK_MONO_DRIFT_PPM do the same to the monotonic clock, and to the time of day on top, as a
 * kernel would. Only a little of it: waits until a moment go by the kernel's own clock, and are wrong by the shift. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int (*real_clock_gettime)(clockid_t, struct timespec *);
static double offset_s, jump_s, drift_ppm, mono_offset_s, mono_drift_ppm, began_s;
static const char *jump_file;

static double number(const char *name) {
    const char *text = getenv(name);
    return text ? atof(text) : 0;
}

static double monotonic(void) {
    struct timespec at;
    real_clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

__attribute__((constructor)) static void begin(void) {
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    offset_s = number("CLOCK_OFFSET_S");
    jump_s = number("CLOCK_JUMP_S");
    drift_ppm = number("CLOCK_DRIFT_PPM");
    jump_file = getenv("CLOCK_JUMP_FILE");
    mono_offset_s = number("CLOCK_MONO_OFFSET_S");
    mono_drift_ppm = number("CLOCK_MONO_DRIFT_PPM");
    began_s = getenv("CLOCK_BEGAN_S") ? number("CLOCK_BEGAN_S") : monotonic();
}

static void shift(struct timespec *at, int of_day) {
    double since_s = monotonic() - began_s;
    double by = mono_offset_s + mono_drift_ppm / 1e6 * since_s;
    if (of_day)
        by += offset_s + drift_ppm / 1e6 * since_s;
    if (of_day && jump_file && access(jump_file, F_OK) == 0)
        by += jump_s;
    double whole = floor(by);
    at->tv_sec += (time_t)whole;
    at->tv_nsec += (long)((by - whole) * 1e9);
    if (at->tv_nsec >= 1000000000L) {
        at->tv_nsec -= 1000000000L;
        at->tv_sec += 1;
    }
}

int clock_gettime(clockid_t which, struct timespec *at) {
    if (!real_clock_gettime)
        real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real_clock_gettime(which, at);
    if (status == 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
        shift(at, 1);
    else if (status == 0 && (which == CLOCK_MONOTONIC || which == CLOCK_MONOTONIC_COARSE))
        shift(at, 0);
    return status;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    (void)zone;
    struct timespec now;
    int status = clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return status;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}
