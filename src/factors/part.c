/* Writing factors: a part file for each block while a calibration runs, gathered into one file at its end.
 * Matrices are symmetric, so only their lower triangles are stored. */
#include "factors/part.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/f16.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "format/safetensors_write.h"
#include "source/tensors.h"

enum { MAX_ITEMS = 2 * KQ_N_LINEAR, NAME = 192 };

/* A matrix that waits to be written. */
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

kq_status kq_factor_part_write_input(const char *path, const char *module, const float *H_in, size_t n,
                                     kq_error *err)
{
    const kq_factor_report report = {.converged = true};
    kq_factor_part *part = kq_factor_part_new(false);
    kq_status status = part ? kq_factor_part_add(part, module, H_in, n, NULL, 0, &report, err)
                            : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", module);
    if (!status)
        status = kq_factor_part_write(part, path, err);
    kq_factor_part_free(part);
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
            /* modules without factors have a report, too */
            for (size_t i = 0; !data && (module = kq_st_meta_key(part, i)) && !status; i++)
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
        char *shard;
        status = kq_format(&shard, err, "%s-%05zu-of-%05zu.safetensors", path, p + 1, n_parts);
        if (!status)
            status = merge(shard, &parts[p], 1, settings, err);
        if (!status)
            json_array_append_new(list, json_string(shard + (slash ? slash - path + 1 : 0)));
        kq_free(shard);
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

kq_status kq_factor_part_lacks(const char *path, kq_lacks *lacks, kq_error *err)
{
    kq_st_file *f;
    const char *module;
    kq_status status = kq_st_open(path, &f, err);
    for (size_t i = 0; !status && (module = kq_st_meta_key(f, i)); i++)
        kq_lacks_add(lacks, kq_lack_in_report(kq_st_meta(f, module)), module);
    if (!status)
        kq_st_close(f);
    return status;
}
