/* imatrix files. Values stay in the mapped file and are read where they are, unaligned: a file of a large
 * model has hundreds of megabytes, of which one linear is used at a time. */
#include "factors/imatrix.h"

#include <float.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "source/tensors.h"
#include "format/gguf_write.h"

enum { NAME = 192, MAX_ENTRIES = 1 << 17 };

typedef struct entry {
    /* owned; Hugging Face name of the linear, or the tensor's own name where it has none */
    char *module;
    const uint8_t *sum; /* borrowed from the map, unaligned: f32 [n] */
    size_t n;
    double count; /* tokens (GGUF), calls (.dat): the divisor of sum; 0: never counted */
} entry;

struct kq_imatrix_file {
    char *path, *settings; /* owned */
    kq_map map;            /* zero when the bytes are borrowed */
    kq_gguf *gguf;         /* owned; NULL for a .dat */
    entry *entries;        /* owned, sorted by module */
    size_t n;
};

static uint32_t load32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static float load_f32(const uint8_t *p)
{
    const uint32_t u = load32(p);
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static bool is_gguf(const uint8_t *data, size_t size)
{
    return size >= 4 && !memcmp(data, "GGUF", 4);
}

bool kq_imatrix_recognise(const uint8_t *data, size_t size)
{
    if (is_gguf(data, size))
        return true;
    /* .dat: a number of entries, the length of the first name, the name. (safetensors: 8 bytes of header
     * length, of which the last four are zero.) */
    return size > 8 && load32(data) - 1 < MAX_ENTRIES && load32(data + 4) - 1 < NAME &&
           (data[8] == 'b' || data[8] == 'o') && data[0] != '{';
}

void kq_imatrix_close(kq_imatrix_file *f)
{
    if (!f)
        return;
    for (size_t i = 0; i < f->n; i++)
        free(f->entries[i].module);
    kq_free(f->entries);
    kq_gguf_close(f->gguf);
    kq_map_close(&f->map);
    free(f->settings);
    free(f->path);
    kq_free(f);
}

/* The next entry, named as in the file. */
static kq_status add_entry(kq_imatrix_file *f, const char *name, const uint8_t *sum, size_t n, double count,
                           kq_error *err)
{
    char hf[2 * NAME];
    kq_gguf_hf_name(name, hf, sizeof hf);
    char *suffix = strstr(hf, ".weight");
    if (suffix && !suffix[7])
        *suffix = '\0';
    if (!n)
        return kq_fail(err, KQ_E_FORMAT, "%s: %s: has no values", f->path, name);
    if (!isfinite(count))
        return kq_fail(err, KQ_E_NUMERIC, "%s: %s: a count of %g, expected a number of tokens", f->path, name,
                       count);
    for (size_t i = 0; i < n; i++) {
        const double x = load_f32(sum + 4 * i);
        if (!isfinite(x) || x < 0)
            return kq_fail(err, KQ_E_NUMERIC, "%s: %s: sum of squares %zu is %g", f->path, name, i, x);
    }
    if (!(f->entries[f->n].module = strdup(hf)))
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", f->path);
    f->entries[f->n].sum = sum;
    f->entries[f->n].n = n;
    f->entries[f->n++].count = count;
    return KQ_OK;
}

/* ---- the GGUF form ---- */

/* One of the two tensors of an entry: name[0 .. len) is the entry's. */
typedef struct entry_half {
    const kq_gguf_tensor *t;
    size_t len;
    bool counts;
} entry_half;

static int compare_halves(const void *a, const void *b)
{
    const entry_half *x = a, *y = b;
    const size_t n = x->len < y->len ? x->len : y->len;
    const int c = memcmp(x->t->name, y->t->name, n);
    return c ? c : x->len != y->len ? (x->len > y->len ? 1 : -1) : (int)x->counts - (int)y->counts;
}

static kq_status pair_up(kq_imatrix_file *f, const entry_half *sum, const entry_half *counts, kq_error *err)
{
    char name[NAME];
    snprintf(name, sizeof name, "%.*s", (int)sum->len, sum->t->name);
    for (int i = 0; i < 2; i++) {
        const kq_gguf_tensor *t = i ? counts->t : sum->t;
        if (t->type != 0)
            return kq_fail(err, KQ_E_FORMAT, "%s: %s is %s, expected F32", f->path, t->name,
                           kq_ggml_type_name(t->type));
    }
    if (counts->t->n_elem != 1 || sum->t->ne[0] != sum->t->n_elem)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: %s holds %llu matrices of experts, expected one", f->path,
                       name, (unsigned long long)counts->t->n_elem);
    return add_entry(f, name, sum->t->data, (size_t)sum->t->n_elem, load_f32(counts->t->data), err);
}

static kq_status read_gguf_entries(kq_imatrix_file *f, kq_error *err)
{
    const size_t n = kq_gguf_n_tensors(f->gguf);
    entry_half *halves = NULL;
    size_t found = 0;
    kq_status status = kq_alloc_for((void **)&halves, n, sizeof *halves, "the imatrix's table", err);
    for (size_t i = 0; i < n && !status; i++) {
        static const char *const suffix[2] = {".in_sum2", ".counts"};
        const kq_gguf_tensor *t = kq_gguf_tensor_at(f->gguf, i);
        for (int k = 0; k < 2; k++) {
            const size_t len = strlen(t->name), tail = strlen(suffix[k]);
            if (len > tail && !strcmp(t->name + len - tail, suffix[k]))
                halves[found++] = (entry_half){.t = t, .len = len - tail, .counts = k};
        }
    }
    if (!status)
        qsort(halves, found, sizeof *halves, compare_halves);
    if (!status && !(f->entries = kq_calloc(found / 2 + 1, sizeof *f->entries)))
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", f->path);
    for (size_t i = 0; i < found && !status; i += 2) {
        const entry_half *a = &halves[i], *b = i + 1 < found ? &halves[i + 1] : NULL;
        if (!b || a->counts || !b->counts || a->len != b->len || memcmp(a->t->name, b->t->name, a->len))
            status = kq_fail(err, KQ_E_FORMAT, "%s: %s has no %s beside it", f->path, a->t->name,
                             a->counts ? ".in_sum2" : ".counts");
        else
            status = pair_up(f, a, b, err);
    }
    kq_free(halves);
    return status;
}

static json_t *text_name(const char *text, size_t size)
{
    for (size_t i = size; i-- > 0;)
        if (text[i] == '/') { /* a path of the machine where the imatrix was made */
            text += i + 1;
            size -= i + 1;
            break;
        }
    json_t *s = json_stringn(text, size);
    return s ? s : json_string("?"); /* no UTF-8 */
}

static kq_status read_gguf(kq_imatrix_file *f, json_t *texts, size_t *chunks, size_t *chunk_size,
                           kq_error *err)
{
    const kq_gguf_kv *type = kq_gguf_find(f->gguf, "general.type"),
                     *sets = kq_gguf_find(f->gguf, "imatrix.datasets");
    if (!kq_gguf_str_is(type, 0, "imatrix")) {
        const char *text = "";
        size_t size = 0;
        kq_gguf_str(type, 0, &text, &size);
        return kq_fail(err, KQ_E_FORMAT, "%s: is a GGUF file but no imatrix (general.type is \"%.*s\")",
                       f->path, size > 40 ? 40 : (int)size, text);
    }
    const char *const keys[2] = {"imatrix.chunk_count", "imatrix.chunk_size"};
    size_t *const values[2] = {chunks, chunk_size};
    for (int i = 0; i < 2; i++) {
        const kq_gguf_kv *kv = kq_gguf_find(f->gguf, keys[i]);
        int64_t v = 0;
        if (kv && (kv->is_array || !kq_gguf_int(kv, 0, &v) || v < 0 || v > INT32_MAX))
            return kq_fail(err, KQ_E_FORMAT, "%s: %s is no number from 0 to 2^31 - 1", f->path, keys[i]);
        *values[i] = (size_t)v;
    }
    for (size_t i = 0; sets && i < sets->n && i < 64; i++) {
        const char *text;
        size_t size;
        if (kq_gguf_str(sets, i, &text, &size))
            json_array_append_new(texts, text_name(text, size));
    }
    return read_gguf_entries(f, err);
}

/* ---- the .dat form ---- */

typedef struct cursor {
    const uint8_t *p;
    size_t left;
} cursor;

static bool next_bytes(cursor *c, size_t n, const uint8_t **p)
{
    if (c->left < n)
        return false;
    *p = c->p;
    c->p += n;
    c->left -= n;
    return true;
}

static bool next_i32(cursor *c, int32_t *v)
{
    const uint8_t *p;
    if (!next_bytes(c, 4, &p))
        return false;
    *v = (int32_t)load32(p);
    return true;
}

static kq_status read_dat(kq_imatrix_file *f, cursor c, json_t *texts, size_t *chunks, kq_error *err)
{
    int32_t n = 0, len, calls, values;
    const uint8_t *p, *sum;
    char name[NAME];
    /* an entry has 4 + 1 + 4 + 4 + 4 bytes at least */
    if (!next_i32(&c, &n) || n < 1 || n > MAX_ENTRIES || (size_t)n > c.left / 16)
        return kq_fail(err, KQ_E_FORMAT, "%s: %d entries do not fit into %zu bytes", f->path, (int)n, c.left);
    if (!(f->entries = kq_calloc((size_t)n, sizeof *f->entries)))
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", f->path);
    for (int32_t i = 0; i < n; i++) {
        if (!next_i32(&c, &len) || len < 1 || len >= NAME || !next_bytes(&c, (size_t)len, &p))
            return kq_fail(err, KQ_E_FORMAT, "%s: the name of entry %d is cut off, empty or too long",
                           f->path, (int)i);
        memcpy(name, p, (size_t)len);
        name[len] = '\0';
        if (!next_i32(&c, &calls) || !next_i32(&c, &values) || values < 1 || (size_t)values > c.left / 4 ||
            !next_bytes(&c, 4 * (size_t)values, &sum))
            return kq_fail(err, KQ_E_FORMAT, "%s: %s: its values are cut off", f->path, name);
        /* llama-quantize takes values without calls as they are */
        kq_status status = add_entry(f, name, sum, (size_t)values, calls > 0 ? calls : 1, err);
        if (status)
            return status;
    }
    if (next_i32(&c, &calls) && calls > 0)
        *chunks = (size_t)calls;
    if (next_i32(&c, &len) && len > 0 && next_bytes(&c, (size_t)len, &p))
        json_array_append_new(texts, text_name((const char *)p, (size_t)len));
    return KQ_OK;
}

/* ---- both ---- */

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->module, ((const entry *)b)->module);
}

static kq_status describe(kq_imatrix_file *f, const uint8_t *data, size_t size, json_t *texts, size_t chunks,
                          size_t chunk_size, kq_error *err)
{
    char hex[33];
    kq_hash *h = kq_hash_new();
    if (!h)
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", f->path);
    kq_hash_add(h, data, size);
    kq_hash_finish(h, hex);
    json_t *calibration = json_pack("{s:O}", "text", texts);
    size_t tokens;
    if (kq_mul_size(chunks, chunk_size, &tokens) && tokens) {
        json_object_set_new(calibration, "tokens", json_integer((json_int_t)tokens));
        json_object_set_new(calibration, "seq_len", json_integer((json_int_t)chunk_size));
    }
    json_t *o = json_pack("{s:s, s:{s:o, s:s}, s:o}", "method", "imatrix", "imatrix", "file",
                          text_name(f->path, strlen(f->path)), "hash", hex, "calibration", calibration);
    f->settings = o ? json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    json_decref(o);
    return f->settings ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", f->path);
}

static kq_status open_bytes(kq_imatrix_file *f, const uint8_t *data, size_t size, const char *path,
                            kq_error *err)
{
    size_t chunks = 0, chunk_size = 0;
    json_t *texts = json_array();
    kq_status status = KQ_OK;
    if (!texts || !(f->path = strdup(path)))
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    else if (!is_gguf(data, size))
        status = read_dat(f, (cursor){data, size}, texts, &chunks, err);
    else if (!(status = kq_gguf_open_memory(data, size, path, &f->gguf, err)))
        status = read_gguf(f, texts, &chunks, &chunk_size, err);
    if (!status && !f->n)
        status = kq_fail(err, KQ_E_FORMAT, "%s: the imatrix has no entries", path);
    if (!status)
        qsort(f->entries, f->n, sizeof *f->entries, compare_entries);
    for (size_t i = 1; i < f->n && !status; i++)
        if (!compare_entries(&f->entries[i - 1], &f->entries[i]))
            status = kq_fail(err, KQ_E_FORMAT, "%s: %s appears twice", path, f->entries[i].module);
    if (!status)
        status = describe(f, data, size, texts, chunks, chunk_size, err);
    json_decref(texts);
    return status;
}

kq_status kq_imatrix_open_memory(const uint8_t *data, size_t size, const char *path, kq_imatrix_file **out,
                                 kq_error *err)
{
    *out = NULL;
    kq_imatrix_file *f = kq_calloc(1, sizeof *f);
    if (!f)
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    kq_status status = open_bytes(f, data, size, path, err);
    if (status)
        kq_imatrix_close(f);
    else
        *out = f;
    return status;
}

kq_status kq_imatrix_open(const char *path, kq_imatrix_file **out, kq_error *err)
{
    *out = NULL;
    kq_map map;
    kq_status status = kq_map_open(path, &map, err);
    if (!status)
        status = kq_imatrix_open_memory(map.data, map.size, path, out, err);
    if (status)
        kq_map_close(&map);
    else
        (*out)->map = map;
    return status;
}

const char *kq_imatrix_settings(const kq_imatrix_file *f)
{
    return f->settings;
}

size_t kq_imatrix_n_entries(const kq_imatrix_file *f)
{
    return f->n;
}

kq_status kq_imatrix_read(const kq_imatrix_file *f, const char *module, size_t n, float *mean, kq_lack *lack,
                          kq_error *err)
{
    const entry key = {.module = (char *)module},
                *e = bsearch(&key, f->entries, f->n, sizeof key, compare_entries);
    double total = 0;
    *lack = e ? KQ_LACK_NOTHING : KQ_LACK_ENTRY;
    if (!e)
        return KQ_OK;
    if (e->n != n)
        return kq_fail(
            err, KQ_E_SHAPE,
            "%s: the imatrix has %zu inputs for %s, the model has %zu (an imatrix of another model?)",
            f->path, e->n, module, n);
    for (size_t i = 0; i < n && e->count > 0; i++) {
        const double x = load_f32(e->sum + 4 * i) / e->count;
        total += x;
        if (mean)
            mean[i] = x < FLT_MAX ? (float)x : FLT_MAX;
    }
    if (!(e->count > 0))
        *lack = KQ_LACK_COUNT;
    else if (!(total / (double)n >= 1e-35)) /* the bound of kq_factor_is_tiny */
        *lack = KQ_LACK_VALUES;
    return KQ_OK;
}

typedef struct output {
    char tensor[NAME];
    const kq_imatrix_entry *entry;
} output;

static int compare_outputs(const void *a, const void *b)
{
    return strcmp(((const output *)a)->tensor, ((const output *)b)->tensor);
}

kq_status kq_imatrix_write(const char *path, const kq_imatrix_entry *entries, size_t n, size_t n_chunks,
                           size_t chunk_size, const char *const *texts, size_t n_texts, const char *settings,
                           kq_error *err)
{
    const float count = (float)((double)n_chunks * (double)chunk_size);
    kq_gguf_writer *w = NULL;
    output *list = kq_calloc(n, sizeof *list);
    kq_status status =
        list ? kq_gguf_writer_new(path, &w, err) : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    if (n_chunks > INT32_MAX || chunk_size > INT32_MAX)
        status = kq_fail(err, KQ_E_ARG, "%s: %zu chunks of %zu tokens are too many for the format", path,
                         n_chunks, chunk_size);
    for (size_t i = 0; i < n && !status; i++) {
        char name[NAME];
        if (snprintf(name, sizeof name, "%s.weight", entries[i].module) >= (int)sizeof name)
            status = kq_fail(err, KQ_E_ARG, "%s: the name %.40s... is too long", path, entries[i].module);
        kq_gguf_name(name, list[i].tensor, sizeof list[i].tensor);
        list[i].entry = &entries[i];
    }
    if (!status)
        qsort(list, n, sizeof *list, compare_outputs);
    if (!status && !(status = kq_gguf_writer_str(w, "general.type", "imatrix", err)) &&
        !(status = kq_gguf_writer_strings(w, "imatrix.datasets", texts, n_texts, err)) &&
        !(status = kq_gguf_writer_u32(w, "imatrix.chunk_count", (uint32_t)n_chunks, err)) &&
        !(status = kq_gguf_writer_u32(w, "imatrix.chunk_size", (uint32_t)chunk_size, err)))
        status = kq_gguf_writer_str(w, "kronq.imatrix", settings, err);
    for (int data = 0; data < 2; data++)
        for (size_t i = 0; i < n && !status; i++) {
            const kq_imatrix_entry *e = list[i].entry;
            char name[NAME + 16];
            if (data) {
                if (!(status = kq_gguf_writer_data(w, e->sum, e->n * sizeof *e->sum, err)))
                    status = kq_gguf_writer_data(w, &count, sizeof count, err);
                continue;
            }
            snprintf(name, sizeof name, "%s.in_sum2", list[i].tensor);
            status = kq_gguf_writer_declare(w, name, 0, 1, &(uint64_t){e->n}, err);
            snprintf(name, sizeof name, "%s.counts", list[i].tensor);
            if (!status)
                status = kq_gguf_writer_declare(w, name, 0, 1, &(uint64_t){1}, err);
        }
    kq_free(list);
    if (!status)
        return kq_gguf_writer_finish(w, err);
    kq_gguf_writer_abort(w);
    return status;
}
