/* Reading GGUF, versions 2 and 3, of one file or of parts. The file is taken for hostile: every count is
 * checked against the bytes that are left before anything is allocated for it, and nothing is copied that can
 * stay in the map. */
#include "format/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"

struct kq_gguf {
    kq_map map; /* owned; zero when the bytes are borrowed */
    const uint8_t *data;
    size_t size;
    char *path;     /* owned */
    kq_gguf_kv *kv; /* owned [n_kv], keys and offsets owned */
    size_t n_kv;
    const kq_gguf_kv **sorted; /* owned [n_kv], by key */
    kq_gguf_tensor *tensor;    /* owned [n_tensor], names owned */
    size_t n_tensor;
    /* owned [n_part]; of a split file the parts after the first, whose tensors stand in `tensor` */
    kq_gguf **part;
    size_t n_part;
};

static const struct ggml_type {
    uint8_t type;
    const char *name;
    uint16_t elems, bytes;
} ggml_types[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},      {3, "Q4_1", 32, 20},
    {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},      {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 40},
    {10, "Q2_K", 256, 84},    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},   {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},   {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56},
    {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},
    {40, "NVFP4", 64, 36},    {41, "Q1_0", 128, 18},
};

static const struct ggml_type *find_type(uint32_t type)
{
    for (size_t i = 0; i < sizeof ggml_types / sizeof *ggml_types; i++)
        if (ggml_types[i].type == type)
            return &ggml_types[i];
    return NULL;
}

const char *kq_ggml_type_name(uint32_t type)
{
    const struct ggml_type *t = find_type(type);
    return t ? t->name : NULL;
}

bool kq_ggml_type_size(uint32_t type, uint32_t *block_elems, uint32_t *block_bytes)
{
    const struct ggml_type *t = find_type(type);
    if (!t)
        return false;
    *block_elems = t->elems;
    *block_bytes = t->bytes;
    return true;
}

/* Bytes of one value; 0 for strings and arrays. */
static size_t value_size(uint32_t type)
{
    static const uint8_t sizes[KQ_GGUF_N_TYPE] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return sizes[type];
}

static uint32_t load32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t load64(const uint8_t *p)
{
    return (uint64_t)load32(p) | (uint64_t)load32(p + 4) << 32;
}

/* A cursor that never passes the end. */
typedef struct reader {
    const uint8_t *data;
    size_t pos, size;
} reader;

static bool get32(reader *r, uint32_t *out)
{
    if (r->size - r->pos < 4)
        return false;
    *out = load32(r->data + r->pos);
    r->pos += 4;
    return true;
}

static bool get64(reader *r, uint64_t *out)
{
    if (r->size - r->pos < 8)
        return false;
    *out = load64(r->data + r->pos);
    r->pos += 8;
    return true;
}

/* A string's bytes; false when its length passes the end of the file. */
static bool get_string(reader *r, const char **text, size_t *size)
{
    uint64_t n;
    if (!get64(r, &n) || n > r->size - r->pos)
        return false;
    *text = (const char *)r->data + r->pos;
    *size = (size_t)n;
    r->pos += (size_t)n;
    return true;
}

/* A key or a tensor name as a C string (owned by the caller). */
static kq_status get_name(kq_gguf *g, reader *r, const char *what, size_t index, size_t max, const char **out,
                          kq_error *err)
{
    const char *text;
    size_t size;
    if (!get_string(r, &text, &size))
        return kq_fail(err, KQ_E_FORMAT, "%s: %s %zu: its name is longer than the file", g->path, what,
                       index);
    if (!size || size > max || memchr(text, 0, size))
        return kq_fail(err, KQ_E_FORMAT, "%s: %s %zu: its name is %s", g->path, what, index,
                       !size        ? "empty"
                       : size > max ? "too long"
                                    : "broken (it holds a zero byte)");
    char *name = kq_alloc(size + 1, 1);
    if (!name)
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", g->path);
    memcpy(name, text, size);
    name[size] = 0;
    *out = name;
    return KQ_OK;
}

static kq_status parse_kv(kq_gguf *g, reader *r, size_t index, kq_error *err)
{
    kq_gguf_kv *kv = &g->kv[index];
    kq_status status = get_name(g, r, "metadata key", index, 65535, &kv->key, err);
    if (status)
        return status;
    uint32_t type;
    uint64_t n = 1;
    if (!get32(r, &type))
        goto cut;
    if (type == KQ_GGUF_ARRAY) {
        kv->is_array = true;
        if (!get32(r, &type) || !get64(r, &n))
            goto cut;
        if (type == KQ_GGUF_ARRAY)
            return kq_fail(err, KQ_E_FORMAT, "%s: %.200s: arrays of arrays are not read", g->path, kv->key);
    }
    if (type >= KQ_GGUF_N_TYPE)
        return kq_fail(err, KQ_E_FORMAT, "%s: %.200s: value type %u does not exist", g->path, kv->key, type);
    kv->type = (kq_gguf_type)type;
    size_t left = r->size - r->pos, each = type == KQ_GGUF_STRING ? 8 : value_size(type);
    if (n > left / each)
        return kq_fail(err, KQ_E_FORMAT, "%s: %.200s: %llu values do not fit into the %zu bytes that remain",
                       g->path, kv->key, (unsigned long long)n, left);
    kv->n = (size_t)n;
    kv->data = r->data + r->pos;
    if (type != KQ_GGUF_STRING) {
        r->pos += kv->n * each;
        return KQ_OK;
    }
    uint64_t *offsets;
    if ((status = kq_alloc_for((void **)&offsets, kv->n, sizeof *offsets, "a GGUF string array", err)))
        return status;
    kv->offsets = offsets;
    size_t start = r->pos;
    for (size_t i = 0; i < kv->n; i++) {
        const char *text;
        size_t size;
        offsets[i] = r->pos - start;
        if (!get_string(r, &text, &size))
            return kq_fail(err, KQ_E_FORMAT, "%s: %.200s: string %zu is longer than the file", g->path,
                           kv->key, i);
    }
    return KQ_OK;
cut:
    return kq_fail(err, KQ_E_FORMAT, "%s: the file ends inside metadata key %.200s", g->path, kv->key);
}

static int compare_kv(const void *a, const void *b)
{
    return strcmp((*(const kq_gguf_kv *const *)a)->key, (*(const kq_gguf_kv *const *)b)->key);
}

static kq_status sort_kv(kq_gguf *g, kq_error *err)
{
    kq_status status =
        kq_alloc_for((void **)&g->sorted, g->n_kv, sizeof *g->sorted, "the GGUF metadata", err);
    if (status)
        return status;
    for (size_t i = 0; i < g->n_kv; i++)
        g->sorted[i] = &g->kv[i];
    qsort(g->sorted, g->n_kv, sizeof *g->sorted, compare_kv);
    for (size_t i = 1; i < g->n_kv; i++)
        if (!strcmp(g->sorted[i - 1]->key, g->sorted[i]->key))
            return kq_fail(err, KQ_E_FORMAT, "%s: metadata key %.200s appears twice", g->path,
                           g->sorted[i]->key);
    return KQ_OK;
}

static int compare_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Also in the other parts of a split file. */
static kq_status check_names(kq_gguf *g, kq_error *err)
{
    const char **names;
    kq_status status =
        kq_alloc_for((void **)&names, g->n_tensor, sizeof *names, "the GGUF tensor names", err);
    if (status)
        return status;
    for (size_t i = 0; i < g->n_tensor; i++)
        names[i] = g->tensor[i].name;
    qsort(names, g->n_tensor, sizeof *names, compare_name);
    for (size_t i = 1; i < g->n_tensor && !status; i++)
        if (!strcmp(names[i - 1], names[i]))
            status = kq_fail(err, KQ_E_FORMAT, "%s: tensor %s appears twice%s", g->path, names[i],
                             g->n_part ? " (in two of the parts, or in one)" : "");
    kq_free(names);
    return status;
}

/* One entry of the tensor table. offset is where the previous tensor's padded bytes end; it moves on. */
static kq_status parse_tensor(kq_gguf *g, reader *r, size_t index, size_t alignment, size_t *offset,
                              size_t *stored_offset, kq_error *err)
{
    kq_gguf_tensor *t = &g->tensor[index];
    kq_status status = get_name(g, r, "tensor", index, 63, &t->name, err);
    if (status)
        return status;
    uint64_t stored;
    if (!get32(r, &t->rank))
        goto cut;
    if (t->rank < 1 || t->rank > 4)
        return kq_fail(err, KQ_E_FORMAT, "%s: %s: %u dimensions, expected 1 to 4", g->path, t->name, t->rank);
    size_t n_elem = 1, size, padded;
    for (uint32_t d = 0; d < 4; d++) {
        t->ne[d] = 1;
        if (d >= t->rank)
            continue;
        if (!get64(r, &t->ne[d]))
            goto cut;
        if (t->ne[d] > INT64_MAX)
            return kq_fail(err, KQ_E_FORMAT, "%s: %s: dimension %u is negative", g->path, t->name, d);
        if (!kq_mul_size(n_elem, (size_t)t->ne[d], &n_elem) || n_elem > INT64_MAX)
            return kq_fail(err, KQ_E_FORMAT, "%s: %s: its number of elements overflows", g->path, t->name);
    }
    if (!get32(r, &t->type) || !get64(r, &stored))
        goto cut;
    const struct ggml_type *type = find_type(t->type);
    if (!type)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: %s has tensor type %u, which kronq does not know", g->path,
                       t->name, t->type);
    if (t->ne[0] % type->elems)
        return kq_fail(err, KQ_E_FORMAT, "%s: %s: rows of %llu elements are no multiple of %s's block of %u",
                       g->path, t->name, (unsigned long long)t->ne[0], type->name, type->elems);
    if (!kq_mul_size(n_elem / type->elems, type->bytes, &size) || !kq_add_size(size, alignment - 1, &padded))
        return kq_fail(err, KQ_E_FORMAT, "%s: %s: its size in bytes overflows", g->path, t->name);
    padded &= ~(alignment - 1);
    if (stored != *offset)
        return kq_fail(err, KQ_E_FORMAT, "%s: %s: its data offset is %llu, expected %zu", g->path, t->name,
                       (unsigned long long)stored, *offset);
    *stored_offset = (size_t)stored;
    if (!kq_add_size(*offset, padded, offset))
        return kq_fail(err, KQ_E_FORMAT, "%s: %s: the sum of the tensor sizes overflows", g->path, t->name);
    t->n_elem = n_elem;
    t->size_bytes = size;
    t->file = g->path;
    return KQ_OK;
cut:
    return kq_fail(err, KQ_E_FORMAT, "%s: the file ends inside the table entry of tensor %s", g->path,
                   t->name);
}

static kq_status parse_alignment(const kq_gguf *g, size_t *alignment, kq_error *err)
{
    *alignment = 32;
    const kq_gguf_kv *kv = kq_gguf_find(g, "general.alignment");
    if (!kv)
        return KQ_OK;
    int64_t value;
    if (kv->is_array || kv->type != KQ_GGUF_U32 || !kq_gguf_int(kv, 0, &value))
        return kq_fail(err, KQ_E_FORMAT, "%s: general.alignment is not a 32-bit unsigned number", g->path);
    if (value < 1 || (value & (value - 1)))
        return kq_fail(err, KQ_E_FORMAT, "%s: general.alignment is %lld, expected a power of two", g->path,
                       (long long)value);
    *alignment = (size_t)value;
    return KQ_OK;
}

static kq_status parse_header(kq_gguf *g, reader *r, uint64_t *n_tensor, uint64_t *n_kv, kq_error *err)
{
    uint32_t version;
    if (r->size < 4 || memcmp(r->data, "GGUF", 4))
        return kq_fail(err, KQ_E_FORMAT, "%s: is no GGUF file (it %s)", g->path,
                       kq_is_lfs_pointer(g->data, g->size)
                           ? "is a Git LFS pointer, not the file itself; fetch it with git lfs pull"
                           : "does not begin with \"GGUF\"");
    r->pos = 4;
    if (!get32(r, &version))
        return kq_fail(err, KQ_E_FORMAT, "%s: the file ends inside its header", g->path);
    if (version && !(version & 0xffff))
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: is a big-endian GGUF file, which kronq does not read",
                       g->path);
    if (version < 2 || version > 3)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: GGUF version %u, kronq reads 2 and 3", g->path, version);
    if (!get64(r, n_tensor) || !get64(r, n_kv))
        return kq_fail(err, KQ_E_FORMAT, "%s: the file ends inside its header", g->path);
    /* The least one entry takes: a tensor 8 + 1 + 4 + 8 + 4 + 8 bytes, a pair 8 + 1 + 4 + 1. */
    size_t left = r->size - r->pos;
    if (*n_tensor > left / 33 || *n_kv > left / 14)
        return kq_fail(err, KQ_E_FORMAT, "%s: %llu tensors and %llu metadata keys do not fit into %zu bytes",
                       g->path, (unsigned long long)*n_tensor, (unsigned long long)*n_kv, r->size);
    return KQ_OK;
}

static kq_status parse(kq_gguf *g, kq_error *err)
{
    reader r = {.data = g->data, .size = g->size};
    uint64_t n_tensor = 0, n_kv = 0;
    size_t *offsets = NULL, alignment, offset = 0;
    kq_status status = parse_header(g, &r, &n_tensor, &n_kv, err);
    if (status)
        return status;
    if (!(g->kv = kq_calloc((size_t)n_kv, sizeof *g->kv)) ||
        !(g->tensor = kq_calloc((size_t)n_tensor, sizeof *g->tensor)))
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory for %llu metadata keys and %llu tensors", g->path,
                       (unsigned long long)n_kv, (unsigned long long)n_tensor);
    g->n_kv = (size_t)n_kv;
    g->n_tensor = (size_t)n_tensor;
    for (size_t i = 0; i < g->n_kv; i++)
        if ((status = parse_kv(g, &r, i, err)))
            return status;
    if ((status = sort_kv(g, err)) || (status = parse_alignment(g, &alignment, err)))
        return status;
    if ((status =
             kq_alloc_for((void **)&offsets, g->n_tensor, sizeof *offsets, "the GGUF tensor table", err)))
        return status;
    for (size_t i = 0; i < g->n_tensor; i++)
        if ((status = parse_tensor(g, &r, i, alignment, &offset, &offsets[i], err)))
            goto out;
    if ((status = check_names(g, err)))
        goto out;
    size_t start = r.pos;
    if (!kq_add_size(start, alignment - 1, &start)) {
        status = kq_fail(err, KQ_E_FORMAT, "%s: the data's start overflows", g->path);
        goto out;
    }
    start &= ~(alignment - 1);
    for (size_t i = 0; i < g->n_tensor; i++) {
        kq_gguf_tensor *t = &g->tensor[i];
        size_t end;
        if (!kq_add_size(offsets[i], start, &end) || !kq_add_size(end, t->size_bytes, &end) ||
            end > g->size) {
            status = kq_fail(
                err, KQ_E_FORMAT,
                "%s: the data of %s passes the end of the file (%zu bytes; is the download complete?)",
                g->path, t->name, g->size);
            goto out;
        }
        t->data = g->data + (end - t->size_bytes);
    }
out:
    kq_free(offsets);
    return status;
}

static kq_status open_bytes(kq_gguf *g, const char *path, kq_error *err)
{
    kq_status status;
    if (!(g->path = strdup(path)))
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    else
        status = parse(g, err);
    return status;
}

/* ---- split files (llama-gguf-split): NAME-00001-of-00003.gguf holds all metadata, every part some of the
 * tensors  */

enum { MAX_PART = 65535 }; /* split.count is a U16 */

/* split.no, split.count, split.tensors.count; *count 0: the file is whole. */
static kq_status split_keys(const kq_gguf *g, int64_t *no, int64_t *count, int64_t *n_tensor, kq_error *err)
{
    const kq_gguf_kv *kv = kq_gguf_find(g, "split.count");
    *count = 0;
    if (!kv)
        return KQ_OK;
    if (kv->is_array || !kq_gguf_int(kv, 0, count) || *count < 0 || *count > MAX_PART)
        return kq_fail(err, KQ_E_FORMAT, "%s: split.count is not a number of files", g->path);
    if (*count < 2) {
        *count = 0;
        return KQ_OK;
    }
    const kq_gguf_kv *which = kq_gguf_find(g, "split.no"), *all = kq_gguf_find(g, "split.tensors.count");
    if (!which || which->is_array || !kq_gguf_int(which, 0, no) || *no < 0 || *no >= *count)
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: split.no is not the number of one of its %lld parts, counted from 0", g->path,
                       (long long)*count);
    if (!all || all->is_array || !kq_gguf_int(all, 0, n_tensor) || *n_tensor < 0)
        return kq_fail(err, KQ_E_FORMAT, "%s: split.tensors.count is not a number of tensors", g->path);
    return KQ_OK;
}

/* *out: the path of part `no` (from 0) beside part `own`, of path `path`; the caller's (kq_free).
 * KQ_E_FORMAT: its name does not end as the parts' names do. */
static kq_status part_path(const char *path, int64_t own, int64_t no, int64_t count, char **out,
                           kq_error *err)
{
    char end[64];
    *out = NULL;
    snprintf(end, sizeof end, "-%05d-of-%05d.gguf", (int)own + 1, (int)count);
    const size_t n = strlen(path), m = strlen(end);
    if (n <= m || strcmp(path + n - m, end))
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: is part %d of %d, whose names end in \"%s\"; without that name the other parts "
                       "cannot be found (rename it back, "
                       "or join the parts with llama-gguf-split --merge)",
                       path, (int)own + 1, (int)count, end);
    return kq_format(out, err, "%.*s-%05d-of-%05d.gguf", (int)(n - m), path, (int)no + 1, (int)count);
}

static kq_status open_one(const char *path, kq_gguf **out, kq_error *err)
{
    *out = NULL;
    kq_gguf *g = kq_calloc(1, sizeof *g);
    if (!g)
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    kq_status status = kq_map_open(path, &g->map, err);
    if (!status) {
        g->data = g->map.data;
        g->size = g->map.size;
        status = open_bytes(g, path, err);
    }
    if (status)
        kq_gguf_close(g);
    else
        *out = g;
    return status;
}

/* Part `no` belongs to g? */
static kq_status check_part(const kq_gguf *g, const kq_gguf *part, int64_t no, int64_t count,
                            int64_t n_tensor, kq_error *err)
{
    int64_t its_no, its_count, its_tensors;
    kq_status status = split_keys(part, &its_no, &its_count, &its_tensors, err);
    if (status)
        return status;
    if (its_count != count || its_no != no || its_tensors != n_tensor)
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: is %s%lld of %lld (%lld tensors in all), expected part %lld of %lld (%lld "
                       "tensors) as %s says: a part of another model?",
                       part->path, its_count ? "part " : "no part: ", its_count ? (long long)its_no + 1 : 1,
                       its_count ? (long long)its_count : 1,
                       its_count ? (long long)its_tensors : (long long)part->n_tensor, (long long)no + 1,
                       (long long)count, (long long)n_tensor, g->path);
    const char *mine, *its;
    size_t n, its_n;
    if (kq_gguf_str(kq_gguf_find(part, "general.architecture"), 0, &its, &its_n) &&
        (!kq_gguf_str(kq_gguf_find(g, "general.architecture"), 0, &mine, &n) || n != its_n ||
         memcmp(mine, its, n)))
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: its general.architecture is not that of %s: a part of another model?", part->path,
                       g->path);
    return KQ_OK;
}

/* Move the tensors of a part behind g's own. */
static kq_status take_tensors(kq_gguf *g, kq_gguf *part, kq_error *err)
{
    kq_gguf_tensor *all;
    kq_status status =
        kq_alloc_for((void **)&all, g->n_tensor + part->n_tensor, sizeof *all, "the GGUF tensor table", err);
    if (status)
        return status;
    memcpy(all, g->tensor, g->n_tensor * sizeof *all);
    memcpy(all + g->n_tensor, part->tensor, part->n_tensor * sizeof *all);
    kq_free(g->tensor);
    g->tensor = all;
    g->n_tensor += part->n_tensor;
    part->n_tensor = 0; /* the names are g's now */
    return KQ_OK;
}

static kq_status not_the_first(const kq_gguf *g, int64_t no, int64_t count, kq_error *err)
{
    char *first;
    if (part_path(g->path, no, 0, count, &first, NULL))
        (void)kq_format(&first, NULL, "the one whose name ends in -00001-of-%05d.gguf", (int)count);
    kq_fail(err, KQ_E_ARG, "%s: is part %lld of %lld of a model: open the first part, %s", g->path,
            (long long)no + 1, (long long)count, first ? first : "");
    kq_free(first);
    return KQ_E_ARG;
}

/* Open part i of the model that g, its first part, begins, and take its tensors. */
static kq_status join_part(kq_gguf *g, int64_t i, int64_t count, int64_t n_tensor, kq_error *err)
{
    char *path;
    kq_status status = part_path(g->path, 0, i, count, &path, err);
    if (!status && !kq_path_exists(path))
        status = kq_fail(err, KQ_E_IO, "%s: part %lld of %lld is missing beside %s", path, (long long)i + 1,
                         (long long)count, g->path);
    if (!status && !(status = open_one(path, &g->part[g->n_part], err))) {
        kq_gguf *part = g->part[g->n_part++];
        if (!(status = check_part(g, part, i, count, n_tensor, err)))
            status = take_tensors(g, part, err);
    }
    kq_free(path);
    return status;
}

static kq_status join_parts(kq_gguf *g, kq_error *err)
{
    int64_t no, count, n_tensor;
    kq_status status = split_keys(g, &no, &count, &n_tensor, err);
    if (status || !count)
        return status;
    if (no)
        return not_the_first(g, no, count, err);
    if ((status =
             kq_alloc_for((void **)&g->part, (size_t)count - 1, sizeof *g->part, "the parts of a GGUF", err)))
        return status;
    for (int64_t i = 1; i < count; i++)
        if ((status = join_part(g, i, count, n_tensor, err)))
            return status;
    if ((int64_t)g->n_tensor != n_tensor)
        return kq_fail(err, KQ_E_FORMAT, "%s: its %lld parts hold %zu tensors, split.tensors.count says %lld",
                       g->path, (long long)count, g->n_tensor, (long long)n_tensor);
    return check_names(g, err);
}

kq_status kq_gguf_open_memory(const void *data, size_t size, const char *path, kq_gguf **out, kq_error *err)
{
    *out = NULL;
    kq_gguf *g = kq_calloc(1, sizeof *g);
    if (!g)
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    g->data = data;
    g->size = size;
    kq_status status = open_bytes(g, path, err);
    if (status)
        kq_gguf_close(g);
    else
        *out = g;
    return status;
}

kq_status kq_gguf_open(const char *path, kq_gguf **out, kq_error *err)
{
    kq_status status = open_one(path, out, err);
    if (!status && (status = join_parts(*out, err))) {
        kq_gguf_close(*out);
        *out = NULL;
    }
    return status;
}

void kq_gguf_close(kq_gguf *g)
{
    if (!g)
        return;
    for (size_t i = 0; i < g->n_kv; i++) {
        kq_free((void *)g->kv[i].key);
        kq_free((void *)g->kv[i].offsets);
    }
    for (size_t i = 0; i < g->n_tensor; i++)
        kq_free((void *)g->tensor[i].name);
    for (size_t i = 0; i < g->n_part; i++)
        kq_gguf_close(g->part[i]);
    kq_free(g->part);
    kq_free(g->kv);
    kq_free(g->tensor);
    kq_free(g->sorted);
    kq_map_close(&g->map);
    free(g->path);
    kq_free(g);
}

const char *kq_gguf_path(const kq_gguf *g)
{
    return g->path;
}

const uint8_t *kq_gguf_bytes(const kq_gguf *g, size_t *size)
{
    *size = g->size;
    return g->data;
}

size_t kq_gguf_n_parts(const kq_gguf *g)
{
    return g->n_part + 1;
}

size_t kq_gguf_n_kv(const kq_gguf *g)
{
    return g->n_kv;
}

const kq_gguf_kv *kq_gguf_kv_at(const kq_gguf *g, size_t i)
{
    return i < g->n_kv ? &g->kv[i] : NULL;
}

const kq_gguf_kv *kq_gguf_find(const kq_gguf *g, const char *key)
{
    size_t lo = 0, hi = g->n_kv;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = strcmp(g->sorted[mid]->key, key);
        if (!c)
            return g->sorted[mid];
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

size_t kq_gguf_n_tensors(const kq_gguf *g)
{
    return g->n_tensor;
}

const kq_gguf_tensor *kq_gguf_tensor_at(const kq_gguf *g, size_t i)
{
    return i < g->n_tensor ? &g->tensor[i] : NULL;
}

bool kq_gguf_int(const kq_gguf_kv *kv, size_t i, int64_t *out)
{
    if (!kv || i >= kv->n)
        return false;
    const uint8_t *p = kv->data;
    switch (kv->type) {
    case KQ_GGUF_U8: *out = p[i]; return true;
    case KQ_GGUF_BOOL: *out = p[i] != 0; return true;
    case KQ_GGUF_I8: *out = (int8_t)p[i]; return true;
    case KQ_GGUF_U16: *out = (uint16_t)(p[2 * i] | p[2 * i + 1] << 8); return true;
    case KQ_GGUF_I16: *out = (int16_t)(p[2 * i] | p[2 * i + 1] << 8); return true;
    case KQ_GGUF_U32: *out = load32(p + 4 * i); return true;
    case KQ_GGUF_I32: *out = (int32_t)load32(p + 4 * i); return true;
    case KQ_GGUF_I64: *out = (int64_t)load64(p + 8 * i); return true;
    case KQ_GGUF_U64:
        if (load64(p + 8 * i) > INT64_MAX)
            return false;
        *out = (int64_t)load64(p + 8 * i);
        return true;
    case KQ_GGUF_F32:
    case KQ_GGUF_F64:
    case KQ_GGUF_STRING:
    case KQ_GGUF_ARRAY:
    case KQ_GGUF_N_TYPE: break;
    }
    return false;
}

bool kq_gguf_f64(const kq_gguf_kv *kv, size_t i, double *out)
{
    if (!kv || i >= kv->n)
        return false;
    if (kv->type == KQ_GGUF_F32) {
        uint32_t u = load32(kv->data + 4 * i);
        float f;
        memcpy(&f, &u, 4);
        *out = f;
        return true;
    }
    if (kv->type == KQ_GGUF_F64) {
        uint64_t u = load64(kv->data + 8 * i);
        memcpy(out, &u, 8);
        return true;
    }
    int64_t n;
    if (kv->type == KQ_GGUF_BOOL || !kq_gguf_int(kv, i, &n))
        return false;
    *out = (double)n;
    return true;
}

bool kq_gguf_bool(const kq_gguf_kv *kv, size_t i, bool *out)
{
    if (!kv || i >= kv->n || kv->type != KQ_GGUF_BOOL)
        return false;
    *out = kv->data[i] != 0;
    return true;
}

bool kq_gguf_str(const kq_gguf_kv *kv, size_t i, const char **text, size_t *size)
{
    if (!kv || i >= kv->n || kv->type != KQ_GGUF_STRING)
        return false;
    const uint8_t *p = kv->data + kv->offsets[i];
    *size = (size_t)load64(p);
    *text = (const char *)p + 8;
    return true;
}

bool kq_gguf_str_is(const kq_gguf_kv *kv, size_t i, const char *text)
{
    const char *p;
    size_t size;
    return kq_gguf_str(kv, i, &p, &size) && size == strlen(text) && !memcmp(p, text, size);
}
