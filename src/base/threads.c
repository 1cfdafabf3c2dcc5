/* How many threads to use: the processors that the process may run on, and not more than its control group
 * pays for. In a container with two processors' time, OpenMP's default of one thread a core would stall at
 * every barrier. */
#include "base/threads.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/warn.h"

/* The first n numbers of a file such as "200000 100000"; "max 100000" has none. Files are opened from
 * descriptors of their folders, so that no path has to be put together. */
static bool read_numbers(int folder, const char *name, int n, double *x, double *y)
{
    const int fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
    FILE *f = fd >= 0 ? fdopen(fd, "r") : NULL;
    const bool ok = f && fscanf(f, n == 1 ? "%lf" : "%lf %lf", x, y) == n && *x > 0;
    if (f)
        fclose(f);
    else if (fd >= 0)
        close(fd);
    return ok;
}

/* The share of the group whose folder is named, relative to root. */
static void add_share(int root, const char *name, double *least)
{
    double quota, period = 0;
    const int folder = openat(root, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return;
    if (read_numbers(folder, "cpu.max", 2, &quota, &period) && period > 0 && quota / period < *least)
        *least = quota / period;
    close(folder);
}

/* The shares of the group that a line of /proc/self/cgroup names, "0::/a/b", and of the groups above it. */
static void group_line(int root, char *line, double *least)
{
    if (strncmp(line, "0::/", 4))
        return;
    line[strcspn(line, "\n")] = 0;
    for (char *end = line + strlen(line); end > line + 3; *(end = strrchr(line, '/')) = 0)
        if (line[4])
            add_share(root, line + 4, least);
}

/* Processors' time that the control groups allow, as a number of processors; a large number: no limit.
 * Version 2 has cpu.max in the process's group and those above it; version 1, in a container, has two
 * files in its root. */
static double group_share(void)
{
    char *line = NULL;
    size_t cap = 0;
    double least = 1e9, quota, period;
    const int root = open("/sys/fs/cgroup", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return least;
    if (read_numbers(root, "cpu/cpu.cfs_quota_us", 1, &quota, NULL) &&
        read_numbers(root, "cpu/cpu.cfs_period_us", 1, &period, NULL))
        least = quota / period;
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && getline(&line, &cap, f) > 0)
        group_line(root, line, &least);
    free(line);
    if (f)
        fclose(f);
    add_share(root, ".", &least);
    close(root);
    return least;
}

int kq_processors(void)
{
    cpu_set_t set;
    long n = sched_getaffinity(0, sizeof set, &set) ? sysconf(_SC_NPROCESSORS_ONLN) : CPU_COUNT(&set);
    const double share = group_share();
    if (share < (double)n)
        n = (long)share + (share > (double)(long)share);
    return n < 1 ? 1 : n > KQ_MOST_THREADS ? KQ_MOST_THREADS : (int)n;
}

kq_status kq_threads_pick(int asked, int *threads, kq_error *err)
{
    if (asked < 0 || asked > KQ_MOST_THREADS)
        return kq_fail(err, KQ_E_ARG, "--threads %d: from 1 to %d, or 0 for all processors", asked,
                       KQ_MOST_THREADS);
    const int n = kq_processors();
    if (asked > n)
        kq_warn("--threads %d: this process may use %d processor%s; more threads than processors only take "
                "longer",
                asked, n, n == 1 ? "" : "s");
    *threads = asked ? asked : n;
    return KQ_OK;
}
