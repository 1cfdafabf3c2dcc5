#include "factors/file.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/f16.h"
#include "base/file.h"
#include "base/mem.h"
#include "factors/imatrix.h"
#include "source/tensors.h"

enum { MAX_ITEMS = 2 * KQ_N_LINEAR, NAME = 192 };

typedef struct item {
    char name[NAME];
    size_t n;   /* values: order (order + 1) / 2 */
    void *data; /* owned; f32 or bf16 */
} item;

struct kq_factor_part {
    bool bf16;
    size_t n_items, n_reports;
    item items[MAX_ITEMS];
    char module[KQ_N_LINEAR][NAME];
    char *report[KQ_N_LINEAR]; /* owned; JSON */
};

kq_factor_part *kq_factor_part_new(bool bf16)
{
    kq_factor_part *p = kq_calloc(1, sizeof *p);
    if (p)
        p->bf16 = bf16;
    return p;
}

void kq_factor_part_free(kq_factor_part *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->n_items; i++)
        kq_free(p->items[i].data);
    for (size_t i = 0; i < p->n_reports; i++)
        free(p->report[i]);
    kq_free(p);
}

static kq_status add_matrix(kq_factor_part *p, const char *module, const char *suffix, const float *H,
                            size_t order, kq_error *err)
{
    item *it = &p->items[p->n_items];
    snprintf(it->name, sizeof it->name, "%s.%s", module, suffix);
    it->n = order * (order + 1) / 2;
    float *packed;
    kq_status status = kq_alloc_for((void **)&packed, it->n, sizeof *packed, it->name, err);
    if (status)
        return status;
    kq_factor_pack(H, order, packed);
    it->data = packed;
    p->n_items++;
    if (p->bf16) {
        uint16_t *half;
        if ((status = kq_alloc_for((void **)&half, it->n, sizeof *half, it->name, err)))
            return status;
        kq_f32_to_bf16_n(packed, half, it->n);
        kq_free(packed);
        it->data = half;
    }
    return KQ_OK;
}

kq_status kq_factor_part_add(kq_factor_part *p, const char *module, const float *H_in, size_t n,
                             const float *H_out, size_t m, const kq_factor_report *r, kq_error *err)
{
    kq_status status = H_in ? add_matrix(p, module, "H_in", H_in, n, err) : KQ_OK;
    if (!status && H_out)
        status = add_matrix(p, module, "H_out", H_out, m, err);
    if (status)
        return status;
    json_t *o = json_pack("{s:i, s:f, s:f, s:f, s:f, s:b, s:i, s:f}", "products", r->products, "sigma1",
                          r->sigma1, "sigma2", r->sigma2, "sigma2_residual", r->sigma2_residual, "residual",
                          r->residual, "converged", r->converged, "regularised", r->regularised,
                          "trace_product", r->trace_product);
    if (r->lack)
        json_object_set_new(o, "identity", json_string(kq_lack_name(r->lack)));
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    if (!text)
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", module);
    snprintf(p->module[p->n_reports], NAME, "%s", module);
    p->report[p->n_reports++] = text;
    return KQ_OK;
}

kq_status kq_factor_part_write(const kq_factor_part *p, const char *path, kq_error *err)
{
    kq_st_writer *w;
    const size_t width = p->bf16 ? 2 : 4;
    kq_status status = kq_st_writer_new(path, &w, err);
    if (status)
        return status;
    for (size_t i = 0; i < p->n_reports && !status; i++)
        status = kq_st_writer_meta(w, p->module[i], p->report[i], err);
    for (size_t i = 0; i < p->n_items && !status; i++)
        status =
            kq_st_writer_declare(w, p->items[i].name, p->bf16 ? KQ_T_BF16 : KQ_T_F32, 1, &p->items[i].n, err);
    for (size_t i = 0; i < p->n_items && !status; i++)
        status = kq_st_writer_data(w, p->items[i].data, p->items[i].n * width, err);
    if (!status)
        return kq_st_writer_finish(w, err);
    kq_st_writer_abort(w);
    return status;
}

/* One safetensors file out of several; the reports of their metadata become one object. One part is
 * mapped at a time. */
static kq_status merge(const char *path, char *const *parts, size_t n_parts, const char *settings,
                       kq_error *err)
{
    kq_st_writer *w;
    kq_status status = kq_st_writer_new(path, &w, err);
    if (status)
        return status;
    status = kq_st_writer_meta(w, "kronq.factors", settings, err);
    for (int data = 0; data < 2; data++) {
        for (size_t p = 0; p < n_parts && !status; p++) {
            kq_st_file *part;
            const char *module;
            if ((status = kq_st_open(parts[p], &part, err)))
                break;
            for (size_t i = 0; !data && (module = kq_st_meta_key(part, i)) && !status;
                 i++) /* those without factors too */
                status = kq_st_writer_meta(w, module, kq_st_meta(part, module), err);
            for (size_t i = 0; i < kq_st_n_tensors(part) && !status; i++) {
                const kq_tensor *t = kq_st_tensor(part, i);
                status = data ? kq_st_writer_data(w, t->data, t->size_bytes, err)
                              : kq_st_writer_declare(w, t->name, t->dtype, t->rank, t->shape, err);
            }
            kq_st_close(part);
        }
    }
    if (!status)
        return kq_st_writer_finish(w, err);
    kq_st_writer_abort(w);
    return status;
}

kq_status kq_factors_gather(const char *path, char *const *parts, size_t n_parts, const char *settings,
                            size_t shard_size, size_t *file_bytes, kq_error *err)
{
    kq_status status = KQ_OK;
    *file_bytes = 0;
    for (size_t p = 0; p < n_parts && !status; p++) {
        kq_st_file *part;
        if ((status = kq_st_open(parts[p], &part, err)))
            break;
        for (size_t i = 0; i < kq_st_n_tensors(part); i++)
            *file_bytes += kq_st_tensor(part, i)->size_bytes;
        kq_st_close(part);
    }
    if (status || *file_bytes <= shard_size)
        return status ? status : merge(path, parts, n_parts, settings, err);

    json_t *list = json_array();
    const char *slash = strrchr(path, '/');
    for (size_t p = 0; p < n_parts && !status; p++) {
        char shard[4400];
        snprintf(shard, sizeof shard, "%s-%05zu-of-%05zu.safetensors", path, p + 1, n_parts);
        status = merge(shard, &parts[p], 1, settings, err);
        json_array_append_new(list, json_string(shard + (slash ? slash - path + 1 : 0)));
    }
    json_t *index = json_pack("{s:s, s:O}", "kronq.factors", settings, "files", list);
    char *text = index ? json_dumps(index, JSON_INDENT(2)) : NULL;
    if (!status)
        status = text ? kq_file_write(path, text, strlen(text), err)
                      : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    free(text);
    json_decref(index);
    json_decref(list);
    return status;
}

struct kq_factor_file {
    char *path, *settings; /* owned */
    kq_st_file **files;    /* owned */
    size_t n_files;
    kq_imatrix_file *imatrix; /* owned; instead of files */
};

void kq_factor_file_close(kq_factor_file *f)
{
    if (!f)
        return;
    for (size_t i = 0; i < f->n_files; i++)
        if (f->files[i])
            kq_st_close(f->files[i]);
    kq_free(f->files);
    kq_imatrix_close(f->imatrix);
    free(f->path);
    free(f->settings);
    kq_free(f);
}

const char *kq_factor_file_settings(const kq_factor_file *f)
{
    return f->settings;
}

/* PATH is an index: a JSON object that lists the files beside it. */
static kq_status open_index(kq_factor_file *f, const json_t *index, kq_error *err)
{
    const json_t *list = json_object_get(index, "files");
    const char *settings = json_string_value(json_object_get(index, "kronq.factors")),
               *slash = strrchr(f->path, '/');
    if (!settings || !json_is_array(list) || !json_array_size(list) || json_array_size(list) > 100000)
        return kq_fail(err, KQ_E_FORMAT, "%s: is not an index of factor files", f->path);
    if (!(f->files = kq_calloc(json_array_size(list), sizeof *f->files)) || !(f->settings = strdup(settings)))
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", f->path);
    kq_status status = KQ_OK;
    for (f->n_files = 0; f->n_files < json_array_size(list) && !status; f->n_files++) {
        const char *name = json_string_value(json_array_get(list, f->n_files));
        char path[4400];
        if (!name || strchr(name, '/'))
            return kq_fail(err, KQ_E_FORMAT, "%s: entry %zu of \"files\" is not the name of a file beside it",
                           f->path, f->n_files);
        snprintf(path, sizeof path, "%.*s%s", (int)(slash ? slash - f->path + 1 : 0), f->path, name);
        if ((status = kq_st_open(path, &f->files[f->n_files], err)))
            break;
        const char *own = kq_st_meta(f->files[f->n_files], "kronq.factors");
        if (!own || strcmp(own, settings))
            status = kq_fail(err, KQ_E_MISMATCH,
                             "%s: is not of the calibration that %s lists; make both again", path, f->path);
    }
    return status;
}

kq_status kq_factor_file_open(const char *path, kq_factor_file **out, kq_error *err)
{
    *out = NULL;
    kq_map map;
    kq_status status = kq_map_open(path, &map, err);
    if (status)
        return status;
    json_t *index = map.size && map.data[0] == '{' && map.size < 1 << 24
                        ? json_loadb((const char *)map.data, map.size, JSON_REJECT_DUPLICATES, NULL)
                        : NULL;
    const bool imatrix = !index && kq_imatrix_recognise(map.data, map.size);
    kq_map_close(&map);
    kq_factor_file *f = kq_calloc(1, sizeof *f);
    if (!f || !(f->path = strdup(path))) {
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    } else if (index) {
        status = open_index(f, index, err);
    } else if (imatrix) {
        if (!(status = kq_imatrix_open(path, &f->imatrix, err)) &&
            !(f->settings = strdup(kq_imatrix_settings(f->imatrix))))
            status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    } else {
        f->files = kq_calloc(1, sizeof *f->files);
        if (!f->files)
            status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
        else if (!(status = kq_st_open(path, &f->files[0], err))) {
            f->n_files = 1;
            const char *settings = kq_st_meta(f->files[0], "kronq.factors");
            if (!settings)
                status = kq_fail(err, KQ_E_FORMAT,
                                 "%s: is not a factor file (its metadata has no \"kronq.factors\"); "
                                 "make one with kronq calibrate",
                                 path);
            else if (!(f->settings = strdup(settings)))
                status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
        }
    }
    json_decref(index);
    if (status) {
        kq_factor_file_close(f);
        return status;
    }
    *out = f;
    return KQ_OK;
}

kq_status kq_factor_file_open_parts(char *const *parts, size_t n, const char *settings, kq_factor_file **out,
                                    kq_error *err)
{
    *out = NULL;
    kq_factor_file *f = kq_calloc(1, sizeof *f);
    kq_status status = KQ_OK;
    if (!f || !(f->path = strdup(n ? parts[0] : "")) || !(f->settings = strdup(settings)) ||
        !(f->files = kq_calloc(n, sizeof *f->files)))
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: factor files");
    for (size_t i = 0; i < n && !status; i++, f->n_files++)
        status = kq_st_open(parts[i], &f->files[i], err);
    if (status)
        kq_factor_file_close(f);
    else
        *out = f;
    return status;
}

static const kq_tensor *find(const kq_factor_file *f, const char *module, const char *suffix)
{
    char name[NAME + 16];
    snprintf(name, sizeof name, "%s.%s", module, suffix);
    for (size_t i = 0; i < f->n_files; i++) {
        const kq_tensor *t = kq_st_find(f->files[i], name);
        if (t)
            return t;
    }
    return NULL;
}

static kq_lack lack_in(const char *report)
{
    json_t *o = report ? json_loads(report, JSON_REJECT_DUPLICATES, NULL) : NULL;
    const kq_lack lack = kq_lack_of(json_string_value(json_object_get(o, "identity")));
    json_decref(o);
    return lack;
}

/* Does the file say of a module that it has no factors, and why? */
static kq_lack lack_of(const kq_factor_file *f, const char *module)
{
    const char *report = NULL;
    for (size_t i = 0; i < f->n_files && !report; i++)
        report = kq_st_meta(f->files[i], module);
    return lack_in(report);
}

kq_status kq_factor_part_lacks(const char *path, kq_lacks *lacks, kq_error *err)
{
    kq_st_file *f;
    const char *module;
    kq_status status = kq_st_open(path, &f, err);
    for (size_t i = 0; !status && (module = kq_st_meta_key(f, i)); i++)
        kq_lacks_add(lacks, lack_in(kq_st_meta(f, module)), module);
    if (!status)
        kq_st_close(f);
    return status;
}

static kq_status check_matrix(const kq_tensor *t, size_t order, kq_error *err)
{
    const size_t count = order * (order + 1) / 2;
    if (t->rank != 1 || t->shape[0] != count || (t->dtype != KQ_T_F32 && t->dtype != KQ_T_BF16))
        return kq_fail(
            err, KQ_E_SHAPE,
            "%s: %s is %s with %zu values, expected F32 or BF16 with %zu (a triangle of order %zu)", t->file,
            t->name, kq_dtype_name(t->dtype), t->n_elem, count, order);
    return KQ_OK;
}

static float value_at(const kq_tensor *t, size_t i)
{
    float x;
    uint16_t h;
    if (t->dtype == KQ_T_F32) {
        memcpy(&x, t->data + 4 * i, 4);
        return x;
    }
    memcpy(&h, t->data + 2 * i, 2);
    return kq_bf16_to_f32(h);
}

/* The right type and size, every value finite, and none on the diagonal below zero. */
static kq_status check_values(const kq_tensor *t, size_t order, kq_error *err)
{
    kq_status status = check_matrix(t, order, err);
    for (size_t i = 0, at = 0; i < order && !status; i++)
        for (size_t j = 0; j <= i && !status; j++, at++) {
            const float x = value_at(t, at);
            if (!isfinite(x))
                status = kq_fail(err, KQ_E_NUMERIC, "%s: %s[%zu] is %g, expected a finite number", t->file,
                                 t->name, at, (double)x);
            else if (i == j && x < 0)
                status = kq_fail(err, KQ_E_NUMERIC,
                                 "%s: %s[%zu] is %g, on the diagonal of a factor, expected 0 or more",
                                 t->file, t->name, at, (double)x);
        }
    return status;
}

static kq_status read_matrix(const kq_tensor *t, size_t order, float *H, kq_error *err)
{
    const size_t count = order * (order + 1) / 2;
    float *packed;
    kq_status status = check_values(t, order, err);
    if (!status)
        status = kq_alloc_for((void **)&packed, count, sizeof *packed, t->name, err);
    if (status)
        return status;
    for (size_t i = 0; i < count; i++)
        packed[i] = value_at(t, i);
    kq_factor_unpack(packed, order, H);
    kq_free(packed);
    return KQ_OK;
}

static kq_status missing(const kq_factor_file *f, const char *module, kq_error *err)
{
    return kq_fail(err, KQ_E_MISMATCH,
                   "%s: holds no factors of %s; calibrate with an --only that includes it", f->path, module);
}

bool kq_factor_file_is_imatrix(const kq_factor_file *f)
{
    return f->imatrix != NULL;
}

kq_status kq_factor_file_check(const kq_factor_file *f, const char *module, size_t m, size_t n, bool both,
                               kq_lack *lack, kq_error *err)
{
    *lack = KQ_LACK_NOTHING;
    if (f->imatrix)
        return kq_imatrix_read(f->imatrix, module, n, NULL, lack, err);
    const kq_tensor *in = find(f, module, "H_in"), *out = find(f, module, "H_out");
    if (!in && !out && (*lack = lack_of(f, module)))
        return KQ_OK;
    if (!in)
        return missing(f, module, err);
    if (both && !out)
        return kq_fail(
            err, KQ_E_MISMATCH,
            "%s: holds %s.H_in but no %s.H_out, which its method has; make it again with kronq calibrate",
            f->path, module, module);
    kq_status status = check_values(in, n, err);
    return status || !out ? status : check_values(out, m, err);
}

static kq_status read_diagonal(const kq_imatrix_file *f, const char *module, size_t n, float *H_in,
                               kq_lack *lack, kq_error *err)
{
    memset(H_in, 0, n * n * sizeof *H_in);
    /* into the first row, then along the diagonal */
    kq_status status = kq_imatrix_read(f, module, n, H_in, lack, err);
    for (size_t i = n; i-- > 1 && !status;) {
        H_in[i * n + i] = H_in[i];
        H_in[i] = 0;
    }
    return status;
}

kq_status kq_factor_file_read(const kq_factor_file *f, const char *module, size_t m, size_t n, float *H_in,
                              float *H_out, bool *has_out, kq_lack *lack, kq_error *err)
{
    *has_out = false;
    *lack = KQ_LACK_NOTHING;
    if (f->imatrix)
        return read_diagonal(f->imatrix, module, n, H_in, lack, err);
    const kq_tensor *in = find(f, module, "H_in"), *out = find(f, module, "H_out");
    if (!in && !out && (*lack = lack_of(f, module)))
        return KQ_OK;
    if (!in)
        return missing(f, module, err);
    kq_status status = read_matrix(in, n, H_in, err);
    *has_out = out != NULL;
    if (!status && out)
        status = read_matrix(out, m, H_out, err);
    return status;
}
