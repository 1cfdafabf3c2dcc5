/* Clocks, and durations for people. */
#include "base/time.h"

#include <stdio.h>
#include <time.h>

double kq_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double kq_cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

const char *kq_duration(double seconds, char buf[32])
{
    if (seconds < 600)
        snprintf(buf, 32, "%.0f s", seconds);
    else if (seconds < 2 * 3600)
        snprintf(buf, 32, "%.0f min", seconds / 60);
    else
        snprintf(buf, 32, "%.1f h", seconds / 3600);
    return buf;
}
