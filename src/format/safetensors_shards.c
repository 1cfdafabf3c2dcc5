/* A checkpoint's tensors as one safetensors file, or as shards with an index. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "format/dequant.h"
#include "format/safetensors_write.h"

/* False when it overflows; the writer would refuse the tensor anyway. */
static bool tensor_bytes(const kq_st_decl *d, size_t *out)
{
    size_t elems, bytes;
    if (!kq_dtype_block(d->dtype, &elems, &bytes) || elems != 1)
        return false;
    for (size_t i = 0; i < d->rank; i++)
        if (!kq_mul_size(bytes, d->shape[i], &bytes))
            return false;
    *out = bytes;
    return true;
}

static bool fits(size_t bytes, size_t more, size_t limit)
{
    return !bytes || (bytes <= limit && more <= limit - bytes);
}

typedef kq_status data_fn(void *ctx, size_t i, kq_st_writer *w, kq_error *err);

static kq_status write_shard(const char *path, const kq_st_decl *d, size_t first, size_t last, data_fn *data,
                             void *ctx, kq_error *err)
{
    kq_st_writer *w;
    kq_status status = kq_st_writer_new(path, &w, err);
    if (status)
        return status;
    status = kq_st_writer_meta(w, "format", "pt", err); /* transformers refuses a file without it */
    for (size_t i = first; i < last && !status; i++)
        status = kq_st_writer_declare(w, d[i].name, d[i].dtype, d[i].rank, d[i].shape, err);
    for (size_t i = first; i < last && !status; i++)
        status = data(ctx, i, w, err);
    if (!status)
        return kq_st_writer_finish(w, err);
    kq_st_writer_abort(w);
    return status;
}

static kq_status write_index(const char *dir, size_t total, json_t *map, kq_error *err)
{
    char *path;
    json_t *index =
        json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    char *text = index ? json_dumps(index, JSON_INDENT(2)) : NULL;
    kq_status status = kq_path_in(&path, err, dir, "model.safetensors.index.json");
    if (!status)
        status = text ? kq_file_write(path, text, strlen(text), err)
                      : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    free(text);
    kq_free(path);
    json_decref(index);
    return status;
}

/* How many shards of at most limit bytes the tensors fill. */
static kq_status count_shards(const char *dir, size_t limit, const kq_st_decl *decl, size_t n,
                              size_t *n_shards, kq_error *err)
{
    size_t bytes = 0, size = 0;
    *n_shards = 1;
    for (size_t i = 0; i < n; i++) {
        if (!tensor_bytes(&decl[i], &size))
            return kq_fail(err, KQ_E_ARG, "%s: %s cannot be written to safetensors", dir, decl[i].name);
        if (!fits(bytes, size, limit)) {
            ++*n_shards;
            bytes = 0;
        }
        bytes += size;
    }
    return KQ_OK;
}

/* The end of the shard that begins with tensor `first`, and the bytes of its tensors. */
static size_t shard_end(size_t limit, const kq_st_decl *decl, size_t n, size_t first, size_t *bytes)
{
    size_t last = first, size = 0;
    for (*bytes = 0; last < n && tensor_bytes(&decl[last], &size) && fits(*bytes, size, limit); last++)
        *bytes += size;
    return last;
}

kq_status kq_st_planned_shards(size_t shard_size, const kq_st_decl *decl, size_t n, size_t *bytes,
                               kq_error *err)
{
    const size_t limit = shard_size ? shard_size : SIZE_MAX;
    size_t n_shards;
    *bytes = 0;
    kq_status status = count_shards("model.safetensors", limit, decl, n, &n_shards, err);
    for (size_t first = 0; first < n && !status;) {
        size_t ignored, one = 0;
        const size_t last = shard_end(limit, decl, n, first, &ignored);
        status = kq_st_planned_bytes(decl + first, last - first, &one, err);
        *bytes += one;
        first = last;
    }
    return status;
}

/* The size of a file that has just been written. */
static kq_status add_size(const char *path, size_t *bytes, kq_error *err)
{
    kq_map m;
    kq_status status = kq_map_open(path, &m, err);
    if (!status) {
        *bytes += m.size;
        kq_map_close(&m);
    }
    return status;
}

kq_status kq_st_write_shards(const char *dir, size_t shard_size, const kq_st_decl *decl, size_t n,
                             data_fn *data, void *ctx, size_t *file_bytes, kq_error *err)
{
    const size_t limit = shard_size ? shard_size : SIZE_MAX;
    size_t n_shards, bytes = 0, total = 0, first = 0;
    *file_bytes = 0;
    kq_status status = count_shards(dir, limit, decl, n, &n_shards, err);
    if (status)
        return status;
    json_t *map = json_object();
    status = map ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: the index");
    for (size_t shard = 0; shard < n_shards && !status; shard++) {
        char name[64], *path;
        if (n_shards == 1)
            snprintf(name, sizeof name, "model.safetensors");
        else
            snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", shard + 1, n_shards);
        const size_t last = shard_end(limit, decl, n, first, &bytes);
        for (size_t i = first; i < last; i++)
            if (json_object_set_new(map, decl[i].name, json_string(name)))
                status = kq_fail(err, KQ_E_MEMORY, "out of memory: the index");
        if (!status && !(status = kq_path_in(&path, err, dir, "%s", name))) {
            if (!(status = write_shard(path, decl, first, last, data, ctx, err)))
                status = add_size(path, file_bytes, err);
            kq_free(path);
        }
        total += bytes;
        first = last;
    }
    if (!status && n_shards > 1)
        status = write_index(dir, total, map, err);
    json_decref(map);
    return status;
}
