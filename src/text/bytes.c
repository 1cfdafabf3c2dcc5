/* Files, pipes and standard input as bytes. A pipe gives its bytes once, but a job reads its texts twice (to
 * check them, and to use them), so what a pipe gave is copied to a file without a name, from which it can be
 * read again. */
#include "text/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "text/text.h"

/* What a pipe gave so far. */
typedef struct kept {
    struct kept *next;
    dev_t dev;
    ino_t ino;
    int source, copy; /* descriptors: the pipe, and the unlinked file; owned */
    off_t size;       /* of copy */
    bool ended;
    size_t users;
    pthread_mutex_t lock; /* of source, copy, size, ended */
} kept;

struct kq_bytes {
    char *path; /* owned */
    int fd;     /* a regular file's, owned; -1: kept */
    kept *kept; /* one of its users */
    off_t at;
    uint64_t size;
};

/* A pipe is drained by reading it, for the whole process: so what it gave is the process's as well. */
static struct {
    pthread_mutex_t lock;
    kept *list;
    size_t keepers;
} store = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* store.lock is held. */
static void drop_unused(void)
{
    for (kept **p = &store.list; *p;) {
        kept *k = *p;
        if (k->users || store.keepers) {
            p = &k->next;
            continue;
        }
        *p = k->next;
        close(k->source);
        close(k->copy);
        pthread_mutex_destroy(&k->lock);
        free(k);
    }
}

void kq_text_keep(void)
{
    pthread_mutex_lock(&store.lock);
    store.keepers++;
    pthread_mutex_unlock(&store.lock);
}

void kq_text_forget(void)
{
    pthread_mutex_lock(&store.lock);
    store.keepers--;
    drop_unused();
    pthread_mutex_unlock(&store.lock);
}

/* A descriptor of a new file without a name; -1 with errno. */
static int unlinked_file(void)
{
    const char *dir = getenv("TMPDIR");
    char *path;
    if (kq_path_in(&path, NULL, dir && *dir ? dir : "/tmp", "kronq-text-XXXXXX"))
        return errno = ENOMEM, -1;
    const int fd = mkostemp(path, O_CLOEXEC), error = errno;
    if (fd >= 0)
        unlink(path);
    kq_free(path);
    errno = error;
    return fd;
}

/* store.lock is held. */
static kept *find(const struct stat *st)
{
    for (kept *k = store.list; k; k = k->next)
        if (k->dev == st->st_dev && k->ino == st->st_ino)
            return k;
    return NULL;
}

/* store.lock is held. fd becomes the store's; NULL with errno: it stays the caller's. */
static kept *add(int fd, const struct stat *st)
{
    kept *k = calloc(1, sizeof *k);
    if (!k || (k->copy = unlinked_file()) < 0) {
        free(k);
        return NULL;
    }
    k->source = fd;
    k->dev = st->st_dev;
    k->ino = st->st_ino;
    pthread_mutex_init(&k->lock, NULL);
    k->next = store.list;
    return store.list = k;
}

static bool is_stdin(const char *path)
{
    return !strcmp(path, "-") || !strcmp(path, "/dev/stdin") || !strcmp(path, "/dev/fd/0") ||
           !strcmp(path, "/proc/self/fd/0");
}

const char *kq_text_shown(const char *path)
{
    return is_stdin(path) ? "standard input" : path;
}

const char *kq_text_name(const char *path)
{
    return is_stdin(path)                                                          ? "standard input"
           : !strncmp(path, "/dev/fd/", 8) || !strncmp(path, "/proc/self/fd/", 14) ? "pipe"
                                                                                   : kq_path_name(path);
}

/* What is no regular file. A FIFO that the store has is not opened again: nobody may be writing to it
 * any more. */
static kq_status open_pipe(const char *path, const struct stat *st, kq_bytes *b, kq_error *err)
{
    kq_status status = KQ_OK;
    pthread_mutex_lock(&store.lock);
    kept *k = find(st);
    if (!k) {
        pthread_mutex_unlock(&store.lock); /* opening a FIFO waits for its writer */
        struct stat now;
        const int fd = is_stdin(path) ? fcntl(0, F_DUPFD_CLOEXEC, 3) : open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &now)) {
            status = kq_fail(err, KQ_E_IO, "%s: %s", path, strerror(errno));
            if (fd >= 0)
                close(fd);
            return status;
        }
        pthread_mutex_lock(&store.lock);
        if ((k = find(&now)))
            close(fd);
        else if (!(k = add(fd, &now))) {
            status = kq_fail(err, KQ_E_IO, "%s: a pipe is kept in a file in TMPDIR, which cannot be made: %s",
                             path, strerror(errno));
            close(fd);
        }
    }
    if (k)
        k->users++;
    pthread_mutex_unlock(&store.lock);
    b->kept = k;
    return status;
}

kq_status kq_bytes_open(const char *path, kq_bytes **out, kq_error *err)
{
    struct stat st;
    kq_status status = KQ_OK;
    *out = NULL;
    const bool in = is_stdin(path);
    if (in ? fstat(0, &st) : stat(path, &st))
        return kq_fail(err, KQ_E_IO, "%s: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return kq_fail(err, KQ_E_IO, "%s: is a folder; a file with text is expected", path);
    kq_bytes *b = calloc(1, sizeof *b);
    if (!b || !(b->path = strdup(kq_text_shown(path)))) {
        free(b);
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    }
    b->fd = -1;
    b->size = UINT64_MAX;
    if (!S_ISREG(st.st_mode)) {
        status = open_pipe(path, &st, b, err);
    } else {
        b->fd = in ? fcntl(0, F_DUPFD_CLOEXEC, 3) : open(path, O_RDONLY | O_CLOEXEC);
        if (b->fd < 0 || fstat(b->fd, &st)) {
            status = kq_fail(err, KQ_E_IO, "%s: %s", path, strerror(errno));
        } else {
            b->size = (uint64_t)st.st_size;
            b->at = in ? lseek(b->fd, 0, SEEK_CUR) : 0;
            b->at = b->at < 0 ? 0 : b->at;
        }
    }
    if (status) {
        kq_bytes_close(b);
        return status;
    }
    *out = b;
    return KQ_OK;
}

uint64_t kq_bytes_size(const kq_bytes *b)
{
    return b->size;
}

void kq_bytes_close(kq_bytes *b)
{
    if (!b)
        return;
    if (b->fd >= 0)
        close(b->fd);
    pthread_mutex_lock(&store.lock);
    if (b->kept)
        b->kept->users--;
    drop_unused();
    pthread_mutex_unlock(&store.lock);
    free(b->path);
    free(b);
}

/* k->lock is held. More bytes of the pipe into the copy. */
static kq_status draw(kq_bytes *b, int (*stop)(void *ctx), void *ctx, kq_error *err)
{
    kept *k = b->kept;
    char buf[65536];
    ssize_t n;
    do {
        struct pollfd p = {.fd = k->source, .events = POLLIN};
        const int ready = poll(&p, 1, 200);
        if (stop && stop(ctx))
            return kq_fail(err, KQ_E_INTERRUPTED, "stopped while waiting for %s", b->path);
        if (!ready || (ready < 0 && errno == EINTR)) {
            n = -1;
            errno = EINTR;
            continue;
        }
        n = read(k->source, buf, sizeof buf);
    } while (n < 0 && (errno == EINTR || errno == EAGAIN));
    if (n < 0)
        return kq_fail(err, KQ_E_IO, "%s: %s", b->path, strerror(errno));
    k->ended = n == 0;
    for (ssize_t done = 0; done < n;) {
        const ssize_t w = pwrite(k->copy, buf + done, (size_t)(n - done), k->size + done);
        if (w < 0 && errno != EINTR)
            return kq_fail(err, KQ_E_IO,
                           "%s: a pipe is kept in a file in TMPDIR, which cannot be written: %s", b->path,
                           strerror(errno));
        done += w > 0 ? w : 0;
    }
    k->size += n;
    return KQ_OK;
}

kq_status kq_bytes_read(kq_bytes *b, void *buf, size_t cap, size_t *n, int (*stop)(void *ctx), void *ctx,
                        kq_error *err)
{
    kq_status status = KQ_OK;
    ssize_t got;
    *n = 0;
    if (b->kept) {
        pthread_mutex_lock(&b->kept->lock);
        while (!status && b->at >= b->kept->size && !b->kept->ended)
            status = draw(b, stop, ctx, err);
        pthread_mutex_unlock(&b->kept->lock);
        if (status)
            return status;
    }
    do
        got = pread(b->kept ? b->kept->copy : b->fd, buf, cap, b->at);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return kq_fail(err, KQ_E_IO, "%s: %s", b->path, strerror(errno));
    b->at += got;
    *n = (size_t)got;
    return KQ_OK;
}
