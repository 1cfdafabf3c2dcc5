/* Writing GGUF, version 3. Metadata and the table of tensors are collected first; the data then follow in the
 * order of the table, so that a file of any size needs memory for its table only. */
#include "format/gguf_write.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/file.h"
#include "base/buffer.h"
#include "base/mem.h"

_Static_assert(
    __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
    "GGUF files of version 3 are written in this machine's byte order, which must be little-endian");

enum { ALIGNMENT = 32 }; /* the format's default; no general.alignment is written */

struct kq_gguf_writer {
    kq_out *out;           /* owned */
    char *path;            /* owned */
    kq_buffer meta, table; /* encoded pairs, encoded tensor entries */
    json_t *keys, *names;  /* owned; the sets of what is there */
    uint64_t n_kv, n;
    size_t *size, cap; /* owned [n]: bytes of each declared tensor */
    size_t total;      /* padded bytes declared so far */
    size_t at, done;   /* tensor being written, bytes of it that came */
    bool started;
    kq_status failed; /* the first failure; finish returns it */
};

kq_status kq_gguf_writer_new(const char *path, kq_gguf_writer **out, kq_error *err)
{
    *out = NULL;
    kq_gguf_writer *w = kq_calloc(1, sizeof *w);
    kq_status status;
    if (!w || !(w->path = strdup(path)) || !(w->keys = json_object()) || !(w->names = json_object()))
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    else
        status = kq_out_open(path, &w->out, err);
    if (status)
        kq_gguf_writer_abort(w);
    else
        *out = w;
    return status;
}

void kq_gguf_writer_abort(kq_gguf_writer *w)
{
    if (!w)
        return;
    kq_out_abort(w->out);
    kq_free(w->meta.data);
    kq_free(w->table.data);
    json_decref(w->keys);
    json_decref(w->names);
    kq_free(w->size);
    free(w->path);
    kq_free(w);
}

/* ---- metadata ---- */

/* Bytes of one number in the file; 0 for strings and arrays. */
static size_t number_size(kq_gguf_type type)
{
    static const uint8_t sizes[KQ_GGUF_N_TYPE] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return (unsigned)type < KQ_GGUF_N_TYPE ? sizes[type] : 0;
}

static kq_status put(kq_gguf_writer *w, kq_buffer *buf, const void *data, size_t size, kq_error *err)
{
    kq_status status = kq_buffer_add(buf, data, size, err);
    if (status)
        w->failed = status; /* half a pair may be in the buffer */
    return status;
}

static kq_status put_string(kq_gguf_writer *w, kq_buffer *buf, const char *text, size_t size, kq_error *err)
{
    const uint64_t n = size;
    kq_status status = put(w, buf, &n, 8, err);
    return status ? status : put(w, buf, text, size, err);
}

/* A name that was not there yet joins its set. */
static kq_status join(kq_gguf_writer *w, json_t *set, const char *what, const char *name, size_t max,
                      kq_error *err)
{
    const size_t size = strlen(name);
    if (w->failed)
        return kq_fail(err, w->failed, "%s: an earlier write failed", w->path);
    if (w->started)
        return kq_fail(err, KQ_E_ARG, "%s: %s %.200s comes after the first tensor's data", w->path, what,
                       name);
    if (!size || size > max)
        return kq_fail(err, KQ_E_ARG, "%s: %s \"%.80s\" has %zu bytes, expected 1 to %zu", w->path, what,
                       name, size, max);
    if (json_object_get(set, name))
        return kq_fail(err, KQ_E_ARG, "%s: %s %.200s is written twice", w->path, what, name);
    if (json_object_set_new(set, name, json_true()))
        return kq_fail(err, KQ_E_ARG, "%s: %s %.80s is not valid UTF-8", w->path, what, name);
    return KQ_OK;
}

/* Key and type of a pair. */
static kq_status begin(kq_gguf_writer *w, const char *key, kq_gguf_type type, bool is_array, uint64_t n,
                       kq_error *err)
{
    const uint32_t array = KQ_GGUF_ARRAY, element = (uint32_t)type;
    kq_status status = join(w, w->keys, "metadata key", key, 65535, err);
    if (status)
        return status;
    if ((status = put_string(w, &w->meta, key, strlen(key), err)) ||
        (is_array && (status = put(w, &w->meta, &array, 4, err))) ||
        (status = put(w, &w->meta, &element, 4, err)) ||
        (is_array && (status = put(w, &w->meta, &n, 8, err))))
        return status;
    w->n_kv++;
    return KQ_OK;
}

static kq_status numbers(kq_gguf_writer *w, const char *key, kq_gguf_type type, bool is_array,
                         const void *values, size_t n, kq_error *err)
{
    size_t size;
    if (!strcmp(key, "general.alignment"))
        return kq_fail(err, KQ_E_ARG, "%s: general.alignment cannot be chosen, it is %d", w->path, ALIGNMENT);
    if (!number_size(type) || !kq_mul_size(n, number_size(type), &size))
        return kq_fail(err, KQ_E_ARG, "%s: metadata key %.200s: %zu values of type %d are no numbers of GGUF",
                       w->path, key, n, (int)type);
    kq_status status = begin(w, key, type, is_array, n, err);
    return status ? status : put(w, &w->meta, values, size, err);
}

kq_status kq_gguf_writer_number(kq_gguf_writer *w, const char *key, kq_gguf_type type, const void *value,
                                kq_error *err)
{
    return numbers(w, key, type, false, value, 1, err);
}

kq_status kq_gguf_writer_array(kq_gguf_writer *w, const char *key, kq_gguf_type type, const void *values,
                               size_t n, kq_error *err)
{
    return numbers(w, key, type, true, values, n, err);
}

kq_status kq_gguf_writer_u32(kq_gguf_writer *w, const char *key, uint32_t value, kq_error *err)
{
    return numbers(w, key, KQ_GGUF_U32, false, &value, 1, err);
}

kq_status kq_gguf_writer_f32(kq_gguf_writer *w, const char *key, float value, kq_error *err)
{
    return numbers(w, key, KQ_GGUF_F32, false, &value, 1, err);
}

kq_status kq_gguf_writer_bool(kq_gguf_writer *w, const char *key, bool value, kq_error *err)
{
    const uint8_t byte = value;
    return numbers(w, key, KQ_GGUF_BOOL, false, &byte, 1, err);
}

kq_status kq_gguf_writer_str(kq_gguf_writer *w, const char *key, const char *text, kq_error *err)
{
    kq_status status = begin(w, key, KQ_GGUF_STRING, false, 1, err);
    return status ? status : put_string(w, &w->meta, text, strlen(text), err);
}

kq_status kq_gguf_writer_strings(kq_gguf_writer *w, const char *key, const char *const *text, size_t n,
                                 kq_error *err)
{
    kq_status status = begin(w, key, KQ_GGUF_STRING, true, n, err);
    for (size_t i = 0; i < n && !status; i++)
        status = put_string(w, &w->meta, text[i], strlen(text[i]), err);
    return status;
}

kq_status kq_gguf_writer_copy(kq_gguf_writer *w, const kq_gguf_kv *kv, kq_error *err)
{
    if (!strcmp(kv->key, "general.alignment"))
        return KQ_OK;
    if (kv->type != KQ_GGUF_STRING)
        return numbers(w, kv->key, kv->type, kv->is_array, kv->data, kv->n, err);
    kq_status status = begin(w, kv->key, KQ_GGUF_STRING, kv->is_array, kv->n, err);
    for (size_t i = 0; i < kv->n && !status; i++) {
        const char *text;
        size_t size;
        status = kq_gguf_str(kv, i, &text, &size) ? put_string(w, &w->meta, text, size, err)
                                                  : kq_fail(err, KQ_E_FORMAT, "%s: not a string", kv->key);
    }
    return status;
}

bool kq_gguf_writer_has(const kq_gguf_writer *w, const char *key)
{
    return json_object_get(w->keys, key) != NULL;
}

/* ---- tensors ---- */

kq_status kq_gguf_tensor_size(const char *name, uint32_t type, uint32_t rank, const uint64_t *ne,
                              size_t *size_bytes, kq_error *err)
{
    uint32_t block, bytes;
    if (rank < 1 || rank > 4)
        return kq_fail(err, KQ_E_ARG, "%s: %u dimensions, GGUF has 1 to 4", name, rank);
    if (!kq_ggml_type_size(type, &block, &bytes))
        return kq_fail(err, KQ_E_ARG, "%s: ggml type %u is not known", name, type);
    if (ne[0] % block)
        return kq_fail(err, KQ_E_ARG, "%s: rows of %llu weights are no whole number of %s's blocks of %u",
                       name, (unsigned long long)ne[0], kq_ggml_type_name(type), block);
    size_t elems = 1;
    for (uint32_t d = 0; d < rank; d++)
        if (ne[d] > INT64_MAX || !kq_mul_size(elems, ne[d], &elems))
            return kq_fail(err, KQ_E_ARG, "%s: its size overflows", name);
    if (!kq_mul_size(elems / block, bytes, size_bytes) || *size_bytes > INT64_MAX - ALIGNMENT)
        return kq_fail(err, KQ_E_ARG, "%s: its size overflows", name);
    return KQ_OK;
}

kq_status kq_gguf_writer_declare(kq_gguf_writer *w, const char *name, uint32_t type, uint32_t rank,
                                 const uint64_t *ne, kq_error *err)
{
    size_t size = 0, end;
    kq_status status = kq_gguf_tensor_size(name, type, rank, ne, &size, err);
    if (status)
        return kq_fail_within(err, status, w->path);
    if (!kq_add_size(w->total, (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT, &end) || end > INT64_MAX)
        return kq_fail(err, KQ_E_ARG, "%s: %s: the file's size overflows", w->path, name);
    if ((status = join(w, w->names, "tensor", name, 63, err)))
        return status;
    void *block = w->size;
    if ((status = kq_grow(&block, &w->cap, w->n, w->n + 1, sizeof *w->size, "the tokenizer", err)))
        return w->failed = status;
    w->size = block;
    const uint64_t offset = w->total;
    if ((status = put_string(w, &w->table, name, strlen(name), err)) ||
        (status = put(w, &w->table, &rank, 4, err)) ||
        (status = put(w, &w->table, ne, rank * sizeof *ne, err)) ||
        (status = put(w, &w->table, &type, 4, err)) || (status = put(w, &w->table, &offset, 8, err)))
        return status;
    w->size[w->n++] = size;
    w->total = end;
    return KQ_OK;
}

static const uint8_t zeros[ALIGNMENT];

static kq_status pad(kq_gguf_writer *w, size_t size, kq_error *err)
{
    return size % ALIGNMENT ? kq_out_write(w->out, zeros, ALIGNMENT - size % ALIGNMENT, err) : KQ_OK;
}

static kq_status write_header(kq_gguf_writer *w, kq_error *err)
{
    const uint32_t version = 3;
    kq_status status;
    w->started = true;
    if ((status = kq_out_write(w->out, "GGUF", 4, err)) ||
        (status = kq_out_write(w->out, &version, 4, err)) || (status = kq_out_write(w->out, &w->n, 8, err)) ||
        (status = kq_out_write(w->out, &w->n_kv, 8, err)) ||
        (status = kq_out_write(w->out, w->meta.data, w->meta.size, err)) ||
        (status = kq_out_write(w->out, w->table.data, w->table.size, err)))
        return status;
    return pad(w, 24 + w->meta.size + w->table.size, err);
}

/* Pass tensors that are complete (or empty), each with its padding. */
static kq_status skip_complete(kq_gguf_writer *w, kq_error *err)
{
    kq_status status = KQ_OK;
    while (!status && w->at < w->n && w->done == w->size[w->at]) {
        status = pad(w, w->done, err);
        w->at++;
        w->done = 0;
    }
    return status;
}

kq_status kq_gguf_writer_data(kq_gguf_writer *w, const void *data, size_t size, kq_error *err)
{
    kq_status status;
    if (w->failed)
        return kq_fail(err, w->failed, "%s: an earlier write failed", w->path);
    if ((!w->started && (status = write_header(w, err))) || (status = skip_complete(w, err)))
        return w->failed = status;
    if (!size)
        return KQ_OK;
    if (w->at == w->n || size > w->size[w->at] - w->done)
        return w->failed = kq_fail(err, KQ_E_ARG, "%s: more data than tensor %zu of %zu declares", w->path,
                                   w->at, (size_t)w->n);
    if ((status = kq_out_write(w->out, data, size, err)))
        return w->failed = status;
    w->done += size;
    return KQ_OK;
}

kq_status kq_gguf_writer_finish(kq_gguf_writer *w, kq_error *err)
{
    kq_status status = w->failed;
    if (status)
        kq_fail(err, status, "%s: not written, an earlier write failed", w->path);
    else if (!w->started)
        status = write_header(w, err);
    if (!status)
        status = skip_complete(w, err);
    if (!status && w->at != w->n)
        status = kq_fail(err, KQ_E_ARG, "%s: less data than declared: tensor %zu of %zu has %zu bytes of %zu",
                         w->path, w->at, (size_t)w->n, w->done, w->size[w->at]);
    if (!status) {
        kq_out *out = w->out;
        w->out = NULL;
        status = kq_out_commit(out, err);
    }
    kq_gguf_writer_abort(w);
    return status;
}
