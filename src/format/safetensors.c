/* Reading one safetensors file: 8 bytes of header length, a JSON header, the tensors' bytes without gaps
 * to the end of the file. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "format/json.h"
#include "format/safetensors_write.h"

enum { MAX_HEADER = 100000000 }; /* as the reference implementation */

struct kq_st_file {
    kq_map map; /* owned; zero when the bytes are borrowed */
    const uint8_t *data;
    size_t size;
    char *path;        /* owned */
    json_t *meta;      /* owned; NULL: no __metadata__ */
    kq_tensor *tensor; /* owned [n], names owned; in file order */
    size_t n;
    const kq_tensor **sorted; /* owned [n], by name */
};

static const struct st_type {
    const char *name;
    kq_dtype dtype;
    unsigned bits;
} st_types[] = {
    {"F32", KQ_T_F32, 32},          {"F16", KQ_T_F16, 16},
    {"BF16", KQ_T_BF16, 16},        {"I8", KQ_T_I8, 8},
    {"I16", KQ_T_I16, 16},          {"I32", KQ_T_I32, 32},
    {"I64", KQ_T_I64, 64},          {"U8", KQ_T_U8, 8},
    {"BOOL", KQ_T_BOOL, 8},         {"F64", KQ_T_F64, 64},
    {"U16", KQ_T_OTHER, 16},        {"U32", KQ_T_OTHER, 32},
    {"U64", KQ_T_OTHER, 64},        {"C64", KQ_T_OTHER, 64},
    {"F8_E4M3", KQ_T_F8_E4M3, 8},   {"F8_E5M2", KQ_T_F8_E5M2, 8},
    {"F8_E8M0", KQ_T_OTHER, 8},     {"F8_E4M3FNUZ", KQ_T_OTHER, 8},
    {"F8_E5M2FNUZ", KQ_T_OTHER, 8}, {"F6_E2M3", KQ_T_OTHER, 6},
    {"F6_E3M2", KQ_T_OTHER, 6},     {"F4", KQ_T_OTHER, 4},
};

static const struct st_type *find_st_type(const char *name)
{
    for (size_t i = 0; i < sizeof st_types / sizeof *st_types; i++)
        if (!strcmp(st_types[i].name, name))
            return &st_types[i];
    return NULL;
}

/* Rank, shape and number of elements. */
static kq_status parse_shape(kq_json_node shape, const char *name, kq_tensor *t, kq_error *err)
{
    const json_t *list;
    kq_status status = kq_json_get_list(shape, KQ_JSON_REQUIRED, &list, err);
    if (status)
        return status;
    /* no model has more: the dimensions from the fourth on become one */
    t->rank = json_array_size(list) > 4 ? 4 : json_array_size(list);
    t->n_elem = 1;
    for (size_t d = 0; d < json_array_size(list); d++) {
        size_t dim = 0, *last = &t->shape[d < 4 ? d : 3];
        if ((status = kq_json_get_size(kq_json_entry(&shape, d), KQ_JSON_REQUIRED, 0, SIZE_MAX, &dim, err)))
            return status;
        if (!kq_mul_size(t->n_elem, dim, &t->n_elem) || !kq_mul_size(d < 4 ? 1 : *last, dim, last))
            return kq_fail(err, KQ_E_FORMAT, "%s: %.200s: its number of elements overflows", shape.file,
                           name);
    }
    return KQ_OK;
}

/* Where its bytes are: at base[*begin, *end), of base_size bytes in all. */
static kq_status parse_offsets(kq_json_node offsets, const char *name, size_t base_size, size_t *begin,
                               size_t *end, kq_error *err)
{
    kq_status status;
    if (json_array_size(offsets.value) != 2)
        return kq_json_unexpected(offsets, "a list of two numbers", err);
    if ((status = kq_json_get_size(kq_json_entry(&offsets, 0), KQ_JSON_REQUIRED, 0, SIZE_MAX, begin, err)) ||
        (status = kq_json_get_size(kq_json_entry(&offsets, 1), KQ_JSON_REQUIRED, 0, SIZE_MAX, end, err)))
        return status;
    if (*begin > *end || *end > base_size)
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: %.200s: data_offsets [%zu, %zu] do not lie in the %zu bytes of data (is the "
                       "download complete?)",
                       offsets.file, name, *begin, *end, base_size);
    return KQ_OK;
}

/* The header's entry of one tensor. base [base_size]: the data of the file. */
static kq_status parse_entry(const kq_json_node *entry, const uint8_t *base, size_t base_size, kq_tensor *t,
                             kq_error *err)
{
    const char *path = entry->file, *name = entry->key, *dtype = NULL;
    size_t begin = 0, end = 0, bits = 0;
    kq_status status;
    if ((status = kq_json_get_object(*entry, KQ_JSON_REQUIRED, NULL, err)) ||
        (status = kq_json_get_text(kq_json_field(entry, "dtype"), KQ_JSON_REQUIRED, &dtype, err)))
        return status;
    const struct st_type *type = find_st_type(dtype);
    if (!type)
        return kq_fail(err, KQ_E_FORMAT, "%s: %.200s: dtype %.100s does not exist", path, name, dtype);
    if ((status = parse_shape(kq_json_field(entry, "shape"), name, t, err)) ||
        (status = parse_offsets(kq_json_field(entry, "data_offsets"), name, base_size, &begin, &end, err)))
        return status;
    if (!kq_mul_size(t->n_elem, type->bits, &bits) || bits % 8)
        return kq_fail(err, KQ_E_FORMAT, "%s: %.200s: its size in bytes %s", path, name,
                       bits % 8 ? "is not whole" : "overflows");
    if (bits / 8 != end - begin)
        return kq_fail(err, KQ_E_FORMAT, "%s: %.200s: %zu bytes, its shape and %s need %zu", path, name,
                       end - begin, type->name, bits / 8);
    t->dtype = type->dtype;
    t->data = base + begin;
    t->size_bytes = end - begin;
    t->file = path;
    char *copy;
    status = kq_format(&copy, err, "%s", name);
    t->name = copy;
    return status;
}

static int compare_bytes(const void *a, const void *b)
{
    const kq_tensor *s = a, *t = b;
    if (s->data != t->data)
        return s->data < t->data ? -1 : 1;
    if (s->size_bytes != t->size_bytes)
        return s->size_bytes < t->size_bytes ? -1 : 1;
    return strcmp(s->name, t->name);
}

static int compare_tensor_name(const void *a, const void *b)
{
    return strcmp((*(const kq_tensor *const *)a)->name, (*(const kq_tensor *const *)b)->name);
}

static kq_status parse_metadata(kq_st_file *f, json_t *meta, kq_error *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(meta))
        return kq_fail(err, KQ_E_FORMAT, "%s: __metadata__ is not an object", f->path);
    json_object_foreach(meta, key, value)
        if (!json_is_string(value))
            return kq_fail(err, KQ_E_FORMAT, "%s: __metadata__.%.200s is not a string", f->path, key);
    f->meta = json_incref(meta);
    return KQ_OK;
}

static kq_status parse_tensors(kq_st_file *f, json_t *root, const uint8_t *base, size_t base_size,
                               kq_error *err)
{
    const kq_json_node header = kq_json_root(root, f->path);
    const char *name;
    json_t *info;
    kq_status status;
    size_t n = json_object_size(root);
    if ((status = kq_alloc_for((void **)&f->tensor, n, sizeof *f->tensor, "the safetensors header", err)) ||
        (status = kq_alloc_for((void **)&f->sorted, n, sizeof *f->sorted, "the safetensors header", err)))
        return status;
    json_object_foreach(root, name, info) {
        if (!strcmp(name, "__metadata__")) {
            if ((status = parse_metadata(f, info, err)))
                return status;
            continue;
        }
        f->tensor[f->n] = (kq_tensor){0};
        const kq_json_node entry = kq_json_field(&header, name);
        if ((status = parse_entry(&entry, base, base_size, &f->tensor[f->n], err)))
            return status;
        f->n++;
    }
    qsort(f->tensor, f->n, sizeof *f->tensor, compare_bytes);
    const uint8_t *at = base;
    for (size_t i = 0; i < f->n; i++) {
        const kq_tensor *t = &f->tensor[i];
        if (t->data != at)
            return kq_fail(
                err, KQ_E_FORMAT,
                "%s: %.200s: begins at byte %zu of the data, the tensor before it ends at %zu (%s)", f->path,
                t->name, (size_t)(t->data - base), (size_t)(at - base),
                t->data < at ? "they overlap" : "a hole");
        at += t->size_bytes;
        f->sorted[i] = t;
    }
    if (at != base + base_size)
        return kq_fail(err, KQ_E_FORMAT, "%s: %zu bytes after the last tensor belong to none", f->path,
                       base_size - (size_t)(at - base));
    qsort(f->sorted, f->n, sizeof *f->sorted, compare_tensor_name);
    return KQ_OK;
}

static kq_status parse_file(kq_st_file *f, kq_error *err)
{
    uint64_t header = 0;
    if (kq_is_lfs_pointer(f->data, f->size))
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: it is a Git LFS pointer, not the file itself; fetch it (git lfs pull), or "
                       "download the file again",
                       f->path);
    if (f->size < 8)
        return kq_fail(err, KQ_E_FORMAT, "%s: %zu bytes are too few for a safetensors file", f->path,
                       f->size);
    for (int i = 7; i >= 0; i--)
        header = header << 8 | f->data[i];
    if (header > MAX_HEADER)
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: a header of %llu bytes, at most %d are allowed (is this a safetensors file?)",
                       f->path, (unsigned long long)header, MAX_HEADER);
    if (header > f->size - 8)
        return kq_fail(
            err, KQ_E_FORMAT,
            "%s: a header of %llu bytes does not fit into a file of %zu (is the download complete?)", f->path,
            (unsigned long long)header, f->size);
    if (header < 2 || f->data[8] != '{')
        return kq_fail(err, KQ_E_FORMAT, "%s: the header does not begin with '{'", f->path);
    json_error_t json_error;
    json_t *root;
    kq_status status =
        kq_json_load((const char *)f->data + 8, (size_t)header, JSON_REJECT_DUPLICATES, &root, &json_error);
    if (status == KQ_E_FORMAT)
        return kq_fail(err, status, "%s: the header is broken at byte %d: %s", f->path, json_error.position,
                       json_error.text);
    if (status)
        return kq_fail(err, status, "%s: %s", f->path, json_error.text);
    status = json_is_object(root)
                 ? parse_tensors(f, root, f->data + 8 + header, f->size - 8 - (size_t)header, err)
                 : kq_fail(err, KQ_E_FORMAT, "%s: the header is not an object", f->path);
    json_decref(root);
    return status;
}

static kq_status open_st(const char *path, const void *data, size_t size, kq_st_file **out, kq_error *err)
{
    *out = NULL;
    kq_st_file *f = kq_calloc(1, sizeof *f);
    kq_status status = KQ_OK;
    if (!f || !(f->path = strdup(path))) {
        kq_free(f);
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    }
    if (!data && !(status = kq_map_open(path, &f->map, err))) {
        data = f->map.data;
        size = f->map.size;
    }
    f->data = data;
    f->size = size;
    if (status || (status = parse_file(f, err)))
        kq_st_close(f);
    else
        *out = f;
    return status;
}

kq_status kq_st_open(const char *path, kq_st_file **out, kq_error *err)
{
    return open_st(path, NULL, 0, out, err);
}

kq_status kq_st_open_memory(const void *data, size_t size, const char *path, kq_st_file **out, kq_error *err)
{
    return open_st(path, data, size, out, err);
}

void kq_st_close(kq_st_file *f)
{
    if (!f)
        return;
    for (size_t i = 0; i < f->n; i++)
        kq_free((void *)f->tensor[i].name);
    kq_free(f->tensor);
    kq_free(f->sorted);
    json_decref(f->meta);
    kq_map_close(&f->map);
    free(f->path);
    kq_free(f);
}

size_t kq_st_n_tensors(const kq_st_file *f)
{
    return f->n;
}

const kq_tensor *kq_st_tensor(const kq_st_file *f, size_t i)
{
    return i < f->n ? &f->tensor[i] : NULL;
}

const kq_tensor *kq_st_find(const kq_st_file *f, const char *name)
{
    kq_tensor key = {.name = name};
    const kq_tensor *want = &key;
    const kq_tensor **found = bsearch(&want, f->sorted, f->n, sizeof *f->sorted, compare_tensor_name);
    return found ? *found : NULL;
}

const char *kq_st_meta_key(const kq_st_file *f, size_t i)
{
    void *at = json_object_iter(f->meta);
    while (at && i--)
        at = json_object_iter_next(f->meta, at);
    return at ? json_object_iter_key(at) : NULL;
}

const char *kq_st_meta(const kq_st_file *f, const char *key)
{
    return json_string_value(json_object_get(f->meta, key));
}
