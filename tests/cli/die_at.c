/* Loaded into the program before libc (LD_PRELOAD): the process is killed just before its DIE_AT-th call
 * that changes a folder or makes a file's bytes last. Counts from 1; without DIE_AT nothing happens. */
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void count(void)
{
    static atomic_long n;
    const char *at = getenv("DIE_AT");
    if (atomic_fetch_add(&n, 1) + 1 == (at ? atol(at) : 0))
        kill(getpid(), SIGKILL);
}

#define COUNTED(name, parameters, arguments)       \
    int name parameters                            \
    {                                              \
        int(*real) parameters;                     \
        *(void **)&real = dlsym(RTLD_NEXT, #name); \
        count();                                   \
        return real arguments;                     \
    }

COUNTED(rename, (const char *from, const char *to), (from, to))
COUNTED(remove, (const char *path), (path))
COUNTED(unlink, (const char *path), (path))
COUNTED(unlinkat, (int dir, const char *path, int flags), (dir, path, flags))
COUNTED(rmdir, (const char *path), (path))
COUNTED(mkdir, (const char *path, mode_t mode), (path, mode))
COUNTED(ftruncate, (int fd, off_t size), (fd, size))
COUNTED(fsync, (int fd), (fd))
