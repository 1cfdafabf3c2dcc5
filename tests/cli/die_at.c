/* Loaded into the program before libc (LD_PRELOAD): the process is killed just before its DIE_AT-th call
 * that changes a folder or makes a file's bytes last. Counts from 1; without DIE_AT nothing happens. A
 * process that lives writes how many calls it made into the file DIE_COUNT, where that is given. */
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_long n;

static void count(void)
{
    const char *at = getenv("DIE_AT");
    if (atomic_fetch_add(&n, 1) + 1 == (at ? atol(at) : 0))
        kill(getpid(), SIGKILL);
}

__attribute__((destructor)) static void tell(void)
{
    const char *path = getenv("DIE_COUNT");
    FILE *f = path ? fopen(path, "w") : NULL;
    if (f) {
        fprintf(f, "%ld\n", atomic_load(&n));
        fclose(f);
    }
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
