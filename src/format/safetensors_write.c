/* Writing safetensors: tensors are declared, then their bytes follow in the same order; so the header, which
 * comes first in the file, is known before any data are. */
#include "format/safetensors_write.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/file.h"
#include "base/mem.h"
#include "format/dequant.h"

struct kq_st_writer {
    kq_out *out;    /* owned */
    char *path;     /* owned */
    json_t *header; /* owned; keeps the order of declaration */
    json_t *meta;   /* owned */
    size_t *size;   /* owned [n]: bytes of each declared tensor */
    size_t n, cap, total;
    size_t at, done; /* tensor being written, bytes of it that came */
    bool started;
    kq_status failed; /* the first failure; finish returns it */
};

/* A writer without a file. */
static kq_status writer_alloc(const char *path, kq_st_writer **out, kq_error *err)
{
    kq_st_writer *w = kq_calloc(1, sizeof *w);
    *out = w;
    if (w && (w->path = strdup(path)) && (w->header = json_object()) && (w->meta = json_object()))
        return KQ_OK;
    kq_st_writer_abort(w);
    *out = NULL;
    return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
}

kq_status kq_st_writer_new(const char *path, kq_st_writer **out, kq_error *err)
{
    kq_status status = writer_alloc(path, out, err);
    if (status || !(status = kq_out_open(path, &(*out)->out, err)))
        return status;
    kq_st_writer_abort(*out);
    *out = NULL;
    return status;
}

void kq_st_writer_abort(kq_st_writer *w)
{
    if (!w)
        return;
    kq_out_abort(w->out);
    json_decref(w->header);
    json_decref(w->meta);
    kq_free(w->size);
    free(w->path);
    kq_free(w);
}

kq_status kq_st_writer_meta(kq_st_writer *w, const char *key, const char *value, kq_error *err)
{
    if (w->started)
        return kq_fail(err, KQ_E_ARG, "%s: metadata %s comes after the first tensor's data", w->path, key);
    json_t *string = json_string(value);
    if (!string || json_object_set_new(w->meta, key, string))
        return kq_fail(err, KQ_E_ARG, "%s: metadata %s is not valid UTF-8", w->path, key);
    return KQ_OK;
}

/* The header's entry of a tensor; NULL: out of memory. */
static json_t *entry(kq_dtype dtype, size_t rank, const size_t *shape, size_t begin, size_t end)
{
    json_t *dims = json_array();
    for (size_t d = 0; d < rank; d++)
        if (json_array_append_new(dims, json_integer((json_int_t)shape[d]))) {
            json_decref(dims);
            return NULL;
        }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", kq_dtype_name(dtype), "shape", dims, "data_offsets",
                     (json_int_t)begin, (json_int_t)end);
}

kq_status kq_st_writer_declare(kq_st_writer *w, const char *name, kq_dtype dtype, size_t rank,
                               const size_t *shape, kq_error *err)
{
    size_t size, elems;
    if (w->started)
        return kq_fail(err, KQ_E_ARG, "%s: %s is declared after the first tensor's data", w->path, name);
    if (!strcmp(name, "__metadata__") || json_object_get(w->header, name))
        return kq_fail(err, KQ_E_ARG, "%s: %s is %s", w->path, name,
                       *name == '_' ? "a reserved name" : "declared twice");
    if (!kq_dtype_block(dtype, &elems, &size) || elems != 1 || rank > 4)
        return kq_fail(err, KQ_E_ARG, "%s: %s: type %s and rank %zu cannot be written to safetensors",
                       w->path, name, kq_dtype_name(dtype), rank);
    for (size_t d = 0; d < rank; d++)
        if (!kq_mul_size(size, shape[d], &size) || shape[d] > INT64_MAX)
            return kq_fail(err, KQ_E_ARG, "%s: %s: its size overflows", w->path, name);
    size_t end;
    if (!kq_add_size(w->total, size, &end) || end > INT64_MAX)
        return kq_fail(err, KQ_E_ARG, "%s: %s: the file's size overflows", w->path, name);
    if (w->n == w->cap) {
        size_t cap = w->cap ? 2 * w->cap : 64, *grown = kq_alloc(cap, sizeof *grown);
        if (!grown)
            return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", w->path);
        if (w->n)
            memcpy(grown, w->size, w->n * sizeof *grown);
        kq_free(w->size);
        w->size = grown;
        w->cap = cap;
    }
    json_t *info = entry(dtype, rank, shape, w->total, end);
    if (!info || json_object_set_new(w->header, name, info))
        return kq_fail(err, KQ_E_ARG, "%s: the name %s is not valid UTF-8", w->path, name);
    w->size[w->n++] = size;
    w->total = end;
    return KQ_OK;
}

/* The header's text, the caller's (free), and its size once it is padded so that the data begins at a
 * multiple of 8. */
static kq_status header_text(const kq_st_writer *w, char **text, size_t *padded, kq_error *err)
{
    json_t *root = json_object();
    *text = NULL;
    if (root && (!json_object_size(w->meta) || !json_object_set(root, "__metadata__", w->meta)) &&
        !json_object_update(root, w->header))
        *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    if (!*text)
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory for the header", w->path);
    *padded = (strlen(*text) + 7) & ~(size_t)7;
    return KQ_OK;
}

kq_status kq_st_planned_bytes(const kq_st_decl *decl, size_t n, size_t *bytes, kq_error *err)
{
    kq_st_writer *w;
    kq_status status = writer_alloc("model.safetensors", &w, err);
    if (status)
        return status;
    char *text = NULL;
    size_t header = 0;
    status = kq_st_writer_meta(w, "format", "pt", err);
    for (size_t i = 0; i < n && !status; i++)
        status = kq_st_writer_declare(w, decl[i].name, decl[i].dtype, decl[i].rank, decl[i].shape, err);
    if (!status && !(status = header_text(w, &text, &header, err)))
        *bytes = 8 + header + w->total;
    free(text);
    kq_st_writer_abort(w);
    return status;
}

/* Header length, header, spaces up to its padded size. */
static kq_status write_header(kq_st_writer *w, kq_error *err)
{
    char *text;
    size_t padded;
    kq_status status = header_text(w, &text, &padded, err);
    if (status)
        return status;
    const size_t size = strlen(text);
    uint8_t length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)(padded >> (8 * i));
    if (padded > 100000000)
        status = kq_fail(err, KQ_E_UNSUPPORTED,
                         "%s: a header of %zu bytes passes safetensors' limit of 100 MB (use shards)",
                         w->path, padded);
    else
        (void)((status = kq_out_write(w->out, length, 8, err)) ||
               (status = kq_out_write(w->out, text, size, err)) ||
               (status = kq_out_write(w->out, "       ", padded - size, err)));
    free(text);
    w->started = true;
    return status;
}

static void skip_complete(kq_st_writer *w)
{
    while (w->at < w->n && w->done == w->size[w->at]) {
        w->at++;
        w->done = 0;
    }
}

kq_status kq_st_writer_data(kq_st_writer *w, const void *data, size_t size, kq_error *err)
{
    kq_status status;
    if (w->failed)
        return kq_fail(err, w->failed, "%s: an earlier write failed", w->path);
    if (!w->started && (status = write_header(w, err)))
        return w->failed = status;
    if (!size)
        return KQ_OK;
    skip_complete(w);
    if (w->at == w->n || size > w->size[w->at] - w->done)
        return w->failed = kq_fail(err, KQ_E_ARG, "%s: more data than tensor %zu of %zu declares", w->path,
                                   w->at, w->n);
    if ((status = kq_out_write(w->out, data, size, err)))
        return w->failed = status;
    w->done += size;
    return KQ_OK;
}

kq_status kq_st_writer_finish(kq_st_writer *w, kq_error *err)
{
    kq_status status = w->failed;
    if (status) {
        kq_fail(err, status, "%s: not written, an earlier write failed", w->path);
    } else if (!w->started) {
        status = write_header(w, err);
    }
    skip_complete(w);
    if (!status && w->at != w->n)
        status = kq_fail(err, KQ_E_ARG, "%s: less data than declared: tensor %zu of %zu has %zu bytes of %zu",
                         w->path, w->at, w->n, w->done, w->size[w->at]);
    if (!status) {
        kq_out *out = w->out;
        w->out = NULL;
        status = kq_out_commit(out, err);
    }
    kq_st_writer_abort(w);
    return status;
}
