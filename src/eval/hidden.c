/* The hidden states of a reference as a safetensors file, whose name is a hash of everything that the states
 * depend on. Each window has a checksum, because a damaged file would only show as a slightly
 * wrong measure. */
#include "eval/hidden.h"

#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/text.h"
#include "format/safetensors_write.h"

struct kq_hidden {
    char *path;             /* owned */
    size_t windows, values; /* values of a window: ctx * d */
    kq_st_file *file;       /* when whole, owned */
    const kq_tensor *x, *check;
    kq_st_writer *writer; /* else, owned; NULL once finished */
    uint64_t *sum;        /* [windows] checksums of what was added, owned */
    size_t n;             /* windows added */
};

static uint64_t checksum(const void *x, size_t values)
{
    return kq_hash64(x, values * sizeof(float), 0);
}

static kq_status open_file(kq_hidden *h, const char *key, const size_t shape[3], kq_error *err)
{
    kq_status status = kq_st_open(h->path, &h->file, err);
    if (status)
        return status;
    const char *there = kq_st_meta(h->file, "kronq.hidden");
    h->x = kq_st_find(h->file, "hidden");
    h->check = kq_st_find(h->file, "checksums");
    if (!there || strcmp(there, key) || !h->x || h->x->dtype != KQ_T_F32 || h->x->rank != 3 ||
        memcmp(h->x->shape, shape, 3 * sizeof *shape) || !h->check || h->check->dtype != KQ_T_I64 ||
        h->check->rank != 1 || h->check->shape[0] != shape[0])
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: does not hold the hidden states that its name promises; remove it", h->path);
    return KQ_OK;
}

static kq_status begin_file(kq_hidden *h, const char *key, const size_t shape[3], kq_error *err)
{
    kq_status status = kq_alloc_for((void **)&h->sum, h->windows, sizeof *h->sum, "checksums", err);
    if (status || (status = kq_st_writer_new(h->path, &h->writer, err)))
        return status;
    if ((status = kq_st_writer_meta(h->writer, "kronq.hidden", key, err)) ||
        (status = kq_st_writer_declare(h->writer, "hidden", KQ_T_F32, 3, shape, err)))
        return status;
    return kq_st_writer_declare(h->writer, "checksums", KQ_T_I64, 1, shape, err);
}

kq_status kq_hidden_open(const char *folder, const char *key, size_t windows, size_t ctx, size_t d,
                         kq_hidden **out, kq_error *err)
{
    char hex[33];
    const size_t shape[3] = {windows, ctx, d};
    *out = NULL;
    kq_hash *hash = kq_hash_new();
    kq_hidden *h = kq_calloc(1, sizeof *h);
    if (!hash || !h) {
        kq_free(h);
        if (hash)
            kq_hash_finish(hash, hex);
        return kq_fail(err, KQ_E_MEMORY, "out of memory: hidden states");
    }
    kq_hash_add(hash, key, strlen(key));
    kq_hash_finish(hash, hex);
    h->windows = windows;
    kq_status status = kq_mkdirs(folder, err);
    if (!status && !kq_mul_size(ctx, d, &h->values))
        status = kq_fail(err, KQ_E_ARG, "a window of %zu tokens is too large", ctx);
    if (!status)
        status = kq_path_in(&h->path, err, folder, "%s.safetensors", hex);
    if (!status)
        status = kq_path_exists(h->path) ? open_file(h, key, shape, err) : begin_file(h, key, shape, err);
    if (status) {
        kq_hidden_close(h);
        return status;
    }
    *out = h;
    return KQ_OK;
}

bool kq_hidden_whole(const kq_hidden *h)
{
    return h->file;
}

kq_status kq_hidden_read(const kq_hidden *h, size_t first, size_t n, float *x, kq_error *err)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t expected;
        float *to = x + i * h->values;
        /* the file may hold them at an odd address */
        memcpy(to, h->x->data + (first + i) * h->values * sizeof *to, h->values * sizeof *to);
        memcpy(&expected, h->check->data + (first + i) * sizeof expected, sizeof expected);
        if (checksum(to, h->values) != expected)
            return kq_fail(err, KQ_E_FORMAT, "%s: window %zu is damaged; remove the file", h->path,
                           first + i);
    }
    return KQ_OK;
}

kq_status kq_hidden_add(kq_hidden *h, const float *x, size_t n, kq_error *err)
{
    for (size_t i = 0; i < n; i++)
        h->sum[h->n++] = checksum(x + i * h->values, h->values);
    return kq_st_writer_data(h->writer, x, n * h->values * sizeof *x, err);
}

kq_status kq_hidden_finish(kq_hidden *h, kq_error *err)
{
    kq_status status = kq_st_writer_data(h->writer, h->sum, h->windows * sizeof *h->sum, err);
    if (status)
        return status;
    kq_st_writer *w = h->writer;
    h->writer = NULL;
    return kq_st_writer_finish(w, err);
}

void kq_hidden_close(kq_hidden *h)
{
    if (!h)
        return;
    kq_st_close(h->file);
    if (h->writer)
        kq_st_writer_abort(h->writer);
    kq_free(h->sum);
    kq_free(h->path);
    kq_free(h);
}
