/* Writes the dequantized weights as a GGUF file for llama.cpp: as numbers (F32, F16, BF16, Q8_0), or rounded
 * onto one of llama.cpp's smaller types, row by row and without curvature. Values that a type cannot hold are
 * found before the file is begun. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include <jansson.h>

#include "base/buffer.h"
#include "base/mem.h"
#include "base/threads.h"
#include "base/warn.h"
#include "export/rows.h"
#include "format/dequant.h"
#include "format/encode.h"
#include "checkpoint/gguf_model_write.h"
#include "format/json.h"
#include "grid/types.h"
#include "source/gguf_model.h"
#include "source/rope.h"

/* The types whose files hold numbers, and llama.cpp's number for such a file. */
static const struct file_kind {
    const char *name;
    kq_dtype dtype;
    uint32_t file_type;
} kinds[] = {
    {"F32", KQ_T_F32, 0},
    {"F16", KQ_T_F16, 1},
    {"BF16", KQ_T_BF16, 32},
    {"Q8_0", KQ_T_Q8_0, 7},
};

static const struct file_kind *find_kind(const char *name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcasecmp(name, kinds[i].name))
            return &kinds[i];
    return NULL;
}

/* Write into the metadata how the weights were made (bits, method, code). */
static kq_status write_origin(kq_gguf_writer *w, const kq_export_job *x, const char *type, kq_error *err)
{
    if (!kq_source_is_kronq(x->src))
        return KQ_OK;
    json_t *config = kq_json_again(kq_source_config_json(x->src)),
           *qc = json_object_get(config, "quantization_config");
    const char *method = json_string_value(json_object_get(qc, "method")),
               *code = json_string_value(json_object_get(qc, "code"));
    const uint32_t bits = (uint32_t)json_integer_value(json_object_get(qc, "bits"));
    const json_t *average = json_object_get(qc, "bits_average"); /* where modules differ */
    json_object_del(qc, "module_bits"); /* long, and the weights here are dense again */
    json_object_del(qc, "modules_to_not_convert");
    char *text = qc ? json_dumps(qc, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL, about[256];
    snprintf(about, sizeof about,
             "Quantized by kronq to %.*f bits a weight (method %s, code %s); stored here dequantized, as %s",
             average ? 2 : 0, average ? json_number_value(average) : bits, method ? method : "?",
             code ? code : "?", type);
    kq_status status = text ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", x->out);
    if (!status)
        (void)((status = kq_gguf_writer_str(w, "general.description", about, err)) ||
               (status = kq_gguf_writer_u32(w, "kronq.bits", bits, err)) ||
               (status = kq_gguf_writer_str(w, "kronq.quantization_config", text, err)));
    free(text);
    json_decref(config);
    return status;
}

typedef struct encoder {
    kq_gguf_writer *w;
    const char *name, *file; /* file: for messages */
    kq_dtype dtype;
    bool rounds; /* onto a smaller type */
    int threads;
    double error, energy; /* of what was rounded onto smaller types: squares of the errors, of the weights */
    size_t cols, row_bytes;
    size_t row, head_dim; /* row: rows done; head_dim: not 0 when the rows come in llama.cpp's order */
    float largest;        /* magnitude so far */
    uint8_t *buf;         /* owned */
    size_t cap;
} encoder;

/* The error for the value at `at` of the rows that come next. */
static kq_status too_large(const encoder *e, const float *rows, size_t at, kq_error *err)
{
    const size_t r = e->row + at / e->cols;
    return kq_fail(err, KQ_E_NUMERIC,
                   "%s: %s[%zu, %zu] is %g, beyond what %s can hold (%s); choose another --type", e->file,
                   e->name, e->head_dim ? kq_gguf_hf_row(r, e->head_dim) : r, at % e->cols, (double)rows[at],
                   kq_dtype_name(e->dtype),
                   e->dtype == KQ_T_BF16  ? "3.39e38 at most"
                   : e->dtype == KQ_T_F16 ? "65504 at most"
                                          : "its scales are half floats, 65504 at most");
}

/* Check that the type can hold these rows, before anything is written. */
static kq_status check_rows(void *ctx, const float *rows, size_t n, kq_error *err)
{
    encoder *e = ctx;
    size_t at;
    if (!kq_type_holds(e->dtype, rows, n * e->cols, &at))
        return too_large(e, rows, at, err);
    for (size_t i = 0; i < n * e->cols; i++)
        e->largest = fmaxf(e->largest, fabsf(rows[i]));
    e->row += n;
    return KQ_OK;
}

/* Round rows onto a smaller type, and sum up their errors. */
static kq_status round_rows(encoder *e, const float *rows, size_t n, kq_error *err)
{
    const size_t count = n * e->cols;
    float *what;
    kq_status status = kq_alloc_for((void **)&what, count, sizeof *what, e->name, err);
    if (!status)
        status = kq_grid_nearest(e->dtype, e->name, rows, n, e->cols, e->threads, e->buf, err);
    if (!status)
        kq_dequantize(e->dtype, e->buf, count, what);
    for (size_t i = 0; i < count && !status; i++) {
        const double d = (double)rows[i] - what[i];
        e->error += d * d;
        e->energy += (double)rows[i] * rows[i];
    }
    kq_free(what);
    return status;
}

static kq_status encode_rows(void *ctx, const float *rows, size_t n, kq_error *err)
{
    encoder *e = ctx;
    kq_status status = kq_grow((void **)&e->buf, &e->cap, 0, n * e->row_bytes, 1, e->name, err);
    if (status)
        return status;
    size_t at = SIZE_MAX;
    if (e->rounds) {
        if ((status = round_rows(e, rows, n, err)))
            return status;
    } else if ((status = kq_encode(e->dtype, rows, n * e->cols, e->buf, &at, err)))
        return at == SIZE_MAX ? kq_fail_within(err, status, e->name) : too_large(e, rows, at, err);
    e->row += n;
    return kq_gguf_writer_data(e->w, e->buf, n * e->row_bytes, err);
}

static void begin_slot(const kq_export_job *x, const kq_gguf_slot *s, encoder *e)
{
    size_t elems = 1, bytes = 4;
    kq_dtype_block(e->dtype, &elems, &bytes);
    e->file = kq_source_path(x->src);
    e->name = *s->hf_name ? s->hf_name : s->name;
    e->cols = s->ne[0];
    e->row_bytes = s->ne[0] / elems * bytes;
    e->row = 0;
    e->head_dim = s->head_dim;
    e->largest = 0;
}

/* Check that the type of a tensor can hold its values. The packed linears of a kronq checkpoint were checked
 * when it was made, and are not checked again. */
static kq_status check_slot(kq_export_job *x, const kq_gguf_slot *s, encoder *e, kq_error *err)
{
    begin_slot(x, s, e);
    if (!*s->hf_name || (kq_source_is_kronq(x->src) && s->linear >= 0))
        return KQ_OK;
    kq_status status = kq_export_rows(x, s, s->head_dim, check_rows, e, err);
    if (!status && e->largest > 0 && e->largest < kq_type_floor(e->dtype))
        kq_warn("%s: the largest weight of %s is %g, which %s hardly holds: F16 ends at multiples of 6e-8",
                e->file, e->name, (double)e->largest, kq_dtype_name(e->dtype));
    return status;
}

static kq_status write_slot(kq_export_job *x, const kq_gguf_slot *s, encoder *e, kq_error *err)
{
    begin_slot(x, s, e);
    if (*s->hf_name)
        return kq_export_rows(x, s, s->head_dim, encode_rows, e, err);
    float *factors;
    kq_status status = kq_alloc_for((void **)&factors, s->ne[0], sizeof *factors, s->name, err);
    if (status)
        return status;
    kq_rope_divisors(kq_source_config(x->src), factors);
    status = encode_rows(e, factors, 1, err);
    kq_free(factors);
    return status;
}

/* What the file is to be: a type for all matrices, or a mixture of smaller ones. */
typedef struct file_types {
    const struct file_kind *kind, *fallback; /* kind NULL: a mixture */
    kq_gguf_types mixture;                   /* owned */
    const char *name;
    uint32_t file_type;
} file_types;

static kq_status begin_types(const kq_export_job *x, file_types *t, kq_error *err)
{
    const kq_config *cfg = kq_source_config(x->src);
    const char *type = x->opt->type ? x->opt->type : "F16", *fallback = x->opt->fallback;
    const kq_mix *mix = kq_mix_find(type);
    *t = (file_types){.kind = find_kind(type)};
    if (!t->kind && !mix)
        return kq_fail(err, KQ_E_ARG, "--type %s is not known; F16, BF16, Q8_0, F32, and %s are", type,
                       kq_mix_names());
    t->name = t->kind ? t->kind->name : mix->name;
    t->file_type = t->kind ? t->kind->file_type : mix->file_type;
    if (t->kind) {
        t->fallback = fallback ? find_kind(fallback) : NULL;
        if (fallback && (!t->fallback || t->fallback->dtype == KQ_T_Q8_0))
            return kq_fail(err, KQ_E_ARG, "--fallback %s: expected F16, BF16 or F32", fallback);
        return KQ_OK;
    }
    uint8_t *all;
    kq_status status = kq_alloc_for((void **)&all, cfg->n_layer, 1, "the list of modules", err);
    if (status)
        return status;
    memset(all, (1 << KQ_N_LINEAR) - 1, cfg->n_layer);
    status = kq_gguf_types_choose(cfg, all, &(kq_quantize_options){.gguf_type = type, .fallback = fallback},
                                  &t->mixture, err);
    kq_free(all);
    return status;
}

/* *out = the type of a matrix, where the file has one type: the fall-back where rows are no whole number of
 * the type's blocks. */
static kq_status one_type(kq_export_job *x, const kq_gguf_slot *s, const file_types *t, kq_dtype *out,
                          kq_error *err)
{
    size_t elems = 1, bytes;
    kq_dtype_block(t->kind->dtype, &elems, &bytes);
    *out = t->kind->dtype;
    if (s->ne[0] % elems == 0)
        return KQ_OK;
    if (!t->fallback)
        return kq_fail(err, KQ_E_SHAPE,
                       "%s: %s (%s) has rows of %llu weights, no whole number of %s's blocks of %zu: "
                       "--fallback F16 stores such tensors as F16",
                       x->out, s->name, s->hf_name, (unsigned long long)s->ne[0], t->name, elems);
    *out = t->fallback->dtype;
    x->n_fallback++;
    return KQ_OK;
}

/* The type of a tensor; F32 for norms. */
static kq_status choose_type(kq_export_job *x, const kq_gguf_slot *s, const file_types *t, kq_dtype *out,
                             kq_error *err)
{
    const kq_config *cfg = kq_source_config(x->src);
    *out = KQ_T_F32;
    if (s->rank == 1)
        return KQ_OK;
    if (t->kind)
        return one_type(x, s, t, out, err);
    const kq_gguf_types *m = &t->mixture;
    const bool head = !strcmp(s->hf_name, "lm_head.weight");
    const kq_dtype rule = s->linear >= 0
                              ? kq_mix_linear(m->mix, cfg, s->layer, (kq_linear_id)s->linear, false)
                              : kq_mix_rows(m->mix, cfg, head, false);
    *out = s->linear >= 0 ? m->linear[s->layer * KQ_N_LINEAR + (size_t)s->linear] : head ? m->head : m->embed;
    x->n_fallback += *out != rule;
    return KQ_OK;
}

static void use_type(encoder *e, const file_types *t, kq_dtype dtype)
{
    e->dtype = dtype;
    e->rounds = !t->kind && kq_grid_known(dtype);
}

static kq_status declare(kq_gguf_writer *w, const kq_gguf_slot *slots, const kq_dtype *chosen, size_t n,
                         kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t i = 0; i < n && !status; i++)
        status = kq_gguf_writer_declare(w, slots[i].name, kq_gguf_type_of(chosen[i]), slots[i].rank,
                                        slots[i].ne, err);
    return status;
}

kq_status kq_export_gguf(kq_export_job *x, kq_error *err)
{
    file_types types;
    kq_dtype *chosen = NULL;
    kq_gguf_slot *slots = NULL;
    kq_gguf_writer *w = NULL;
    encoder e = {0};
    size_t n = 0;
    kq_status status;
    if ((status = begin_types(x, &types, err)) ||
        (status = kq_threads_pick(x->opt->common.threads, &e.threads, err)) ||
        (status = kq_rope_check_gguf(kq_source_config(x->src), err)) ||
        (status = kq_gguf_layout(kq_source_config(x->src), &slots, &n, err)) ||
        (status = kq_alloc_for((void **)&chosen, n, sizeof *chosen, "the list of tensors", err)))
        goto out;
    for (size_t i = 0; i < n; i++)
        if ((status = choose_type(x, &slots[i], &types, &chosen[i], err)))
            goto out;
    for (size_t i = 0; i < n; i++) {
        use_type(&e, &types, chosen[i]);
        if ((status = check_slot(x, &slots[i], &e, err)))
            goto out;
    }
    if ((status = kq_gguf_writer_new(x->out, &w, err)) || (status = write_origin(w, x, types.name, err)) ||
        (status = kq_gguf_write_model(w, x->src, types.file_type, err)) ||
        (status = declare(w, slots, chosen, n, err)))
        goto out;
    e.w = w;
    for (size_t i = 0; i < n; i++) {
        use_type(&e, &types, chosen[i]);
        if ((status = write_slot(x, &slots[i], &e, err)) || (status = kq_export_progress(x, i, n, err)))
            goto out;
    }
    status = kq_gguf_writer_finish(w, err);
    w = NULL;
    struct stat st;
    if (!status && stat(x->out, &st) == 0)
        x->file_bytes = (size_t)st.st_size;
    x->n_tensors = n;
    x->relative_mse = e.energy > 0 ? e.error / e.energy : NAN;
out:
    kq_gguf_writer_abort(w);
    kq_gguf_types_free(&types.mixture);
    kq_free(e.buf);
    kq_free(chosen);
    kq_free(slots);
    return status;
}
