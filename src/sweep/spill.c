/* Spills: files of records of one size, each followed by its 64-bit checksum, which is seeded with the
 * record's number so that two records cannot be exchanged unnoticed. Plain positioned reads and writes, not a
 * map: a full disk must be an error, and with a map it is a signal. */
#include "sweep/spill.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/mem.h"

struct kq_spill {
    int fd;
    bool created;
    size_t n_records, record_bytes;
    char *path, *tmp; /* owned */
};

static kq_status new_spill(const char *path, size_t n_records, size_t record_bytes, kq_spill **out,
                           kq_error *err)
{
    kq_spill *s = kq_calloc(1, sizeof *s);
    if (s) {
        *s = (kq_spill){.fd = -1, .n_records = n_records, .record_bytes = record_bytes, .path = strdup(path)};
        if (s->path && asprintf(&s->tmp, "%s.tmp", path) >= 0) {
            *out = s;
            return KQ_OK;
        }
        free(s->path);
        kq_free(s);
    }
    return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
}

kq_status kq_spill_create(const char *path, size_t n_records, size_t record_bytes, kq_spill **out,
                          kq_error *err)
{
    *out = NULL;
    kq_spill *s = NULL;
    char size[32];
    kq_status status = new_spill(path, n_records, record_bytes, &s, err);
    if (status)
        return status;
    s->created = true;
    s->fd = open(s->tmp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    /* Claim the space now, so that a full disk is found before the work and not after it. */
    int full = s->fd < 0 ? errno : posix_fallocate(s->fd, 0, (off_t)(n_records * (record_bytes + 8)));
    if (full && full != EOPNOTSUPP && full != EINVAL) {
        status = kq_fail(err, KQ_E_IO, "%s: cannot be created with %s: %s", s->tmp,
                         kq_bytes_text((double)(n_records * (record_bytes + 8)), size), strerror(full));
        kq_spill_close(s);
        return status;
    }
    *out = s;
    return KQ_OK;
}

kq_status kq_spill_open(const char *path, size_t n_records, size_t record_bytes, kq_spill **out,
                        kq_error *err)
{
    *out = NULL;
    kq_spill *s = NULL;
    kq_status status = new_spill(path, n_records, record_bytes, &s, err);
    if (status)
        return status;
    struct stat st;
    s->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0 || fstat(s->fd, &st))
        status = kq_fail(err, KQ_E_IO, "%s: %s", path, strerror(errno));
    else if ((size_t)st.st_size != n_records * (record_bytes + 8))
        status = kq_fail(err, KQ_E_FORMAT,
                         "%s: %lld bytes, expected %zu; --fresh discards the unfinished work and starts anew",
                         path, (long long)st.st_size, n_records * (record_bytes + 8));
    if (status) {
        kq_spill_close(s);
        return status;
    }
    *out = s;
    return KQ_OK;
}

kq_status kq_spill_write(kq_spill *s, size_t i, const void *data, kq_error *err)
{
    const uint64_t sum = kq_hash64(data, s->record_bytes, i);
    const struct {
        const void *p;
        size_t size;
    } parts[] = {{data, s->record_bytes}, {&sum, sizeof sum}};
    off_t at = (off_t)(i * (s->record_bytes + 8));
    for (int k = 0; k < 2; k++) {
        const uint8_t *p = parts[k].p;
        for (size_t left = parts[k].size; left;) {
            ssize_t n = pwrite(s->fd, p, left, at);
            if (n < 0 && errno == EINTR)
                continue;
            if (n <= 0)
                return kq_fail(err, KQ_E_IO, "%s: cannot be written: %s", s->tmp,
                               n < 0 ? strerror(errno) : "no progress");
            p += n;
            at += n;
            left -= (size_t)n;
        }
    }
    return KQ_OK;
}

static kq_status read_all(kq_spill *s, void *data, size_t size, off_t at, kq_error *err)
{
    for (uint8_t *p = data; size;) {
        ssize_t n = pread(s->fd, p, size, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return kq_fail(err, KQ_E_IO, "%s: cannot be read: %s", s->path,
                           n < 0 ? strerror(errno) : "it ends early");
        p += n;
        at += n;
        size -= (size_t)n;
    }
    return KQ_OK;
}

kq_status kq_spill_read(kq_spill *s, size_t i, void *data, kq_error *err)
{
    uint64_t sum;
    const off_t at = (off_t)(i * (s->record_bytes + 8));
    kq_status status = read_all(s, data, s->record_bytes, at, err);
    if (!status)
        status = read_all(s, &sum, sizeof sum, at + (off_t)s->record_bytes, err);
    if (!status && sum != kq_hash64(data, s->record_bytes, i))
        status = kq_fail(err, KQ_E_FORMAT,
                         "%s: record %zu is damaged; --fresh discards the unfinished work and starts anew",
                         s->path, i);
    return status;
}

kq_status kq_spill_commit(kq_spill *s, kq_error *err)
{
    kq_status status = KQ_OK;
    if (rename(s->tmp, s->path))
        status = kq_fail(err, KQ_E_IO, "%s: cannot be renamed from %s: %s", s->path, s->tmp, strerror(errno));
    else
        s->created = false;
    kq_spill_close(s);
    return status;
}

void kq_spill_close(kq_spill *s)
{
    if (!s)
        return;
    if (s->fd >= 0)
        close(s->fd);
    if (s->created)
        unlink(s->tmp);
    free(s->path);
    free(s->tmp);
    kq_free(s);
}
