/* Files. A written file appears under its name only when it is whole and on the disk: a job that is killed
 * leaves no half checkpoint that looks like one. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/text.h"

kq_status kq_map_open(const char *path, kq_map *out, kq_error *err)
{
    *out = (kq_map){0};
    /* a pipe without a writer must not hang us */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return kq_fail(err, KQ_E_IO, "%s: %s", path, strerror(errno));
    struct stat st;
    kq_status status = KQ_OK;
    char *copy = NULL;
    if (fstat(fd, &st)) {
        status = kq_fail(err, KQ_E_IO, "%s: %s", path, strerror(errno));
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        status = kq_fail(err, KQ_E_IO, "%s: is %s, expected a file", path,
                         S_ISDIR(st.st_mode) ? "a folder" : "not a regular file");
        goto out;
    }
    if (!(copy = strdup(path))) {
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
        goto out;
    }
    const void *data = "";
    if (st.st_size > 0) {
        data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            status = kq_fail(err, KQ_E_IO, "%s: cannot be mapped: %s", path, strerror(errno));
            free(copy);
            goto out;
        }
    }
    *out = (kq_map){.data = data, .size = (size_t)st.st_size, .path = copy};
out:
    close(fd);
    return status;
}

void kq_map_release(const void *data, size_t size)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)data;
    const uintptr_t from = (at + page - 1) / page * page, to = (at + size) / page * page;
    if (size >= 1 << 16 && to > from) /* whole pages only; below that the call costs more than the pages */
        madvise((void *)from, to - from, MADV_DONTNEED);
}

void kq_map_close(kq_map *map)
{
    if (map->size)
        munmap((void *)map->data, map->size);
    free(map->path);
    *map = (kq_map){0};
}

enum { OUT_BUFFER = 1 << 20 };

struct kq_out {
    int fd;
    size_t used;
    char *path, *tmp; /* owned */
    uint8_t buffer[OUT_BUFFER];
};

/* The finished file is renamed over its name. Over a device (/dev/full, /dev/stdout) that would put a file in
 * the device's place, for every program of the machine. */
static kq_status check_is_file(const char *path, kq_error *err)
{
    struct stat st;
    if (stat(path, &st) || S_ISREG(st.st_mode))
        return KQ_OK;
    return kq_fail(err, KQ_E_IO, "%s: is %s; the name of a file is expected", path,
                   S_ISDIR(st.st_mode) ? "a folder" : "a device or a pipe");
}

kq_status kq_out_open(const char *path, kq_out **out, kq_error *err)
{
    *out = NULL;
    kq_status refused = check_is_file(path, err);
    if (refused)
        return refused;
    kq_out *o = kq_alloc(1, sizeof *o);
    if (!o)
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    o->used = 0;
    o->fd = -1;
    o->path = strdup(path);
    o->tmp = NULL;
    if (!o->path || asprintf(&o->tmp, "%s.tmp", path) < 0) {
        free(o->path);
        kq_free(o);
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    }
    o->fd = open(o->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (o->fd < 0) {
        kq_status status = kq_fail(err, KQ_E_IO, "%s: cannot be created: %s", o->tmp, strerror(errno));
        free(o->path);
        free(o->tmp);
        kq_free(o);
        return status;
    }
    *out = o;
    return KQ_OK;
}

static kq_status write_all(kq_out *o, const uint8_t *data, size_t size, kq_error *err)
{
    while (size) {
        ssize_t n = write(o->fd, data, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return kq_fail(err, KQ_E_IO, "%s: cannot be written: %s", o->path,
                           n < 0 ? strerror(errno) : "no progress");
        data += n;
        size -= (size_t)n;
    }
    return KQ_OK;
}

kq_status kq_out_write(kq_out *o, const void *data, size_t size, kq_error *err)
{
    kq_status status;
    if (size >=
        OUT_BUFFER - o->used) { /* does not fit: empty the buffer, and pass what is large straight on */
        if ((status = write_all(o, o->buffer, o->used, err)))
            return status;
        o->used = 0;
        if (size >= OUT_BUFFER)
            return write_all(o, data, size, err);
    }
    if (size)
        memcpy(o->buffer + o->used, data, size);
    o->used += size;
    return KQ_OK;
}

static void out_free(kq_out *o)
{
    if (o->fd >= 0)
        close(o->fd);
    free(o->path);
    free(o->tmp);
    kq_free(o);
}

/* Make the rename itself last: fsync on the folder that holds path. */
static void sync_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        fsync(fd); /* some file systems refuse this for folders; the data itself is safe by then */
        close(fd);
    }
    free(dir);
}

kq_status kq_out_commit(kq_out *o, kq_error *err)
{
    kq_status status = write_all(o, o->buffer, o->used, err);
    if (!status && fsync(o->fd) && errno != EINVAL)
        status = kq_fail(err, KQ_E_IO, "%s: cannot be written: %s", o->path, strerror(errno));
    int closed = close(o->fd);
    o->fd = -1;
    if (!status && closed)
        status = kq_fail(err, KQ_E_IO, "%s: cannot be written: %s", o->path, strerror(errno));
    if (!status && rename(o->tmp, o->path))
        status = kq_fail(err, KQ_E_IO, "%s: cannot be renamed from %s: %s", o->path, o->tmp, strerror(errno));
    if (status)
        unlink(o->tmp);
    else
        sync_folder(o->path);
    out_free(o);
    return status;
}

void kq_out_abort(kq_out *o)
{
    if (!o)
        return;
    unlink(o->tmp);
    out_free(o);
}

kq_status kq_file_read(const char *path, size_t max_size, char **out, size_t *size, kq_error *err)
{
    *out = NULL;
    kq_map map;
    kq_status status = kq_map_open(path, &map, err);
    if (status)
        return status;
    if (map.size > max_size) {
        status = kq_fail(err, KQ_E_FORMAT, "%s: %zu bytes, at most %zu are sensible here", path, map.size,
                         max_size);
    } else if (!(*out = kq_alloc(map.size + 1, 1))) {
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    } else {
        memcpy(*out, map.data, map.size);
        (*out)[map.size] = 0;
        *size = map.size;
    }
    kq_map_close(&map);
    return status;
}

kq_status kq_file_write(const char *path, const void *data, size_t size, kq_error *err)
{
    kq_out *o;
    kq_status status = kq_out_open(path, &o, err);
    if (status)
        return status;
    if ((status = kq_out_write(o, data, size, err))) {
        kq_out_abort(o);
        return status;
    }
    return kq_out_commit(o, err);
}

bool kq_is_lfs_pointer(const void *data, size_t size)
{
    static const char begin[] = "version https://git-lfs.github.com/spec/";
    return size >= sizeof begin - 1 && !memcmp(data, begin, sizeof begin - 1);
}

bool kq_path_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool kq_exists_in(const char *dir, const char *name)
{
    const int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    const bool there = fd >= 0 && !faccessat(fd, name, F_OK, 0);
    if (fd >= 0)
        close(fd);
    return there;
}

bool kq_path_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

kq_status kq_mkdirs(const char *path, kq_error *err)
{
    if (!*path)
        return kq_fail(err, KQ_E_ARG, "the name of a folder is empty");
    char *copy = strdup(path);
    if (!copy)
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    kq_status status = KQ_OK;
    for (char *p = copy + 1; !status; p++) {
        if (*p != '/' && *p)
            continue;
        char c = *p;
        *p = 0;
        if (mkdir(copy, 0777) && errno != EEXIST)
            status = kq_fail(err, KQ_E_IO, "%s: cannot be created: %s", copy, strerror(errno));
        *p = c;
        if (!c)
            break;
    }
    if (!status && !kq_path_is_dir(path))
        status = kq_fail(err, KQ_E_IO, "%s: is not a folder", path);
    free(copy);
    return status;
}

/* path without its last part, in place; false: there is none before it. */
static bool cut_last(char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    while (n && path[n - 1] != '/')
        n--;
    while (n > 1 && path[n - 1] == '/')
        n--;
    path[n] = 0;
    return n && strcmp(path, "/");
}

size_t kq_missing_folders(const char *path)
{
    char *copy = strdup(path);
    size_t n = 0;
    while (copy && *copy && !kq_path_exists(copy)) {
        n++;
        if (!cut_last(copy))
            break;
    }
    free(copy);
    return n;
}

void kq_remove_folders(const char *path, size_t n)
{
    char *copy = strdup(path);
    while (copy && n-- && (!rmdir(copy) || errno == ENOENT) && cut_last(copy))
        ;
    free(copy);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

kq_status kq_remove_tree(const char *path, kq_error *err)
{
    struct stat st;
    if (lstat(path, &st) && errno == ENOENT)
        return KQ_OK;
    return nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS)
               ? kq_fail(err, KQ_E_IO, "%s: cannot be removed: %s", path, strerror(errno))
               : KQ_OK;
}

const char *kq_path_name(const char *path)
{
    const char *start = path;
    for (const char *p = path; *p; p++)
        if (*p == '/' && p[1] && p[1] != '/')
            start = p + 1;
    return start;
}

kq_status kq_path_dir(const char *path, char **out, kq_error *err)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return kq_format(out, err, ".");
    return kq_format(out, err, "%.*s", (int)(slash - path) + (slash == path), path);
}
