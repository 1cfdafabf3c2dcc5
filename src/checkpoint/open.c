/* Opens any MODEL as weights: a folder or a GGUF as they are, a kronq checkpoint through its trellis codes.
 * Every tensor of a checkpoint is checked against the shapes of docs/format.md before it is used, because the
 * file may come from a stranger. */
#include "base/f16.h"
#include "base/file.h"
#include "base/mem.h"
#include "checkpoint/checkpoint.h"
#include "format/exl3.h"
#include "format/json.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

struct kq_model_file {
    kq_source *src; /* owned */
    kq_weights weights;
    kq_trellis *trellis[5]; /* owned; by bits a weight, NULL where no module has that many */
    /* owned [n_layer * KQ_N_LINEAR]: su [n], then sv [m] of each packed linear; NULL for others */
    float **scales;
    float *row_scales[KQ_N_ROWS]; /* owned: the same of the head and of the embedding, where they are
                                     trellises */
    kq_hadamard *row_u;           /* owned: their transform; NULL: neither is a trellis */
    int row_k[KQ_N_ROWS];         /* their bits */
    size_t frequent_rows;         /* quantization_config's: rows that have KQ_FINE_BITS */
};

const kq_source *kq_model_file_source(const kq_model_file *f)
{
    return f->src;
}

const kq_weights *kq_model_file_weights(const kq_model_file *f)
{
    return &f->weights;
}

void kq_model_file_close(kq_model_file *f)
{
    if (!f)
        return;
    for (int k = 0; k < 5; k++)
        kq_trellis_free(f->trellis[k]);
    const size_t n_linear = f->scales ? kq_model_n_linears(kq_source_config(f->src)) : 0;
    for (size_t i = 0; i < n_linear; i++)
        kq_free(f->scales[i]);
    kq_free(f->scales);
    for (size_t i = 0; i < KQ_N_ROWS; i++)
        kq_free(f->row_scales[i]);
    kq_hadamard_free(f->row_u);
    kq_source_close(f->src);
    kq_free(f);
}

/* *out = the tensor `module`.`suffix`, which must have this type and shape; the error names what
 * was found. */
static kq_status find_tensor(const kq_source *src, const char *module, const char *suffix, kq_dtype dtype,
                             size_t rank, const size_t *shape, const kq_tensor **out, kq_error *err)
{
    char name[192];
    snprintf(name, sizeof name, "%s.%s", module, suffix);
    const kq_tensor *t = kq_source_find(src, name);
    if (!t)
        return kq_fail(err, KQ_E_FORMAT, "%s: tensor %s is missing", kq_source_path(src), name);
    bool same = t->dtype == dtype && t->rank == rank;
    for (size_t i = 0; same && i < rank; i++)
        same = t->shape[i] == shape[i];
    if (!same)
        return kq_fail(
            err, KQ_E_SHAPE,
            "%s: tensor %s is %s [%zu, %zu, %zu] of rank %zu, expected %s [%zu, %zu, %zu] of rank %zu",
            t->file, name, kq_dtype_name(t->dtype), t->rank > 0 ? t->shape[0] : 0,
            t->rank > 1 ? t->shape[1] : 0, t->rank > 2 ? t->shape[2] : 0, t->rank, kq_dtype_name(dtype),
            rank > 0 ? shape[0] : 0, rank > 1 ? shape[1] : 0, rank > 2 ? shape[2] : 0, rank);
    *out = t;
    return KQ_OK;
}

static const kq_tensor *find_trellis(const kq_source *src, size_t layer, kq_linear_id id, char module[128])
{
    char name[192];
    kq_linear_name(module, 128, layer, id);
    snprintf(name, sizeof name, "%s.trellis", module);
    return kq_source_find(src, name);
}

static kq_status read_scale(const kq_tensor *t, float *scale, kq_error *err)
{
    memcpy(scale, t->data, sizeof *scale);
    return *scale >= 0 && *scale <= KQ_PACKED_SCALE_MAX
               ? KQ_OK
               : kq_fail(err, KQ_E_NUMERIC, "%s: %s is %g, expected 0 to %g", t->file, t->name,
                         (double)*scale, (double)KQ_PACKED_SCALE_MAX);
}

int kq_model_file_bits(const kq_model_file *f, size_t layer, kq_linear_id id)
{
    char module[128];
    const kq_tensor *t = find_trellis(f->src, layer, id, module);
    if (!t) {
        t = kq_source_find(f->src, kq_model_linear(kq_source_config(f->src), layer, id).name);
        return t && t->exl3 ? t->exl3->bits : 0;
    }
    return t->rank == 3 ? (int)(t->shape[2] / 16) : 0;
}

kq_status kq_model_file_packed(const kq_model_file *f, size_t layer, kq_linear_id id, kq_packed *out,
                               const kq_trellis **trellis, kq_error *err)
{
    *out = (kq_packed){0};
    *trellis = NULL;
    size_t m, n;
    char module[128];
    kq_linear_shape(kq_source_config(f->src), id, &m, &n);
    const kq_tensor *t = find_trellis(f->src, layer, id, module);
    if (!t)
        return KQ_OK;
    const kq_tensor *scale;
    float *scales = f->scales[layer * KQ_N_LINEAR + id];
    const size_t m_pad = (m + 15) / 16 * 16, n_pad = (n + 15) / 16 * 16;
    const int k = kq_model_file_bits(f, layer, id);
    kq_status status;
    if ((status = find_tensor(f->src, module, "trellis", KQ_T_I16, 3,
                              (size_t[]){m_pad / 16, n_pad / 16, (size_t)(16 * k)}, &t, err)) ||
        (status = find_tensor(f->src, module, "scale", KQ_T_F32, 0, NULL, &scale, err)))
        return status;
    kq_packed p = {.m = m,
                   .n = n,
                   .m_pad = m_pad,
                   .n_pad = n_pad,
                   .trellis = (uint16_t *)t->data,
                   .su = scales,
                   .sv = scales + n};
    if ((status = read_scale(scale, &p.scale, err)))
        return status;
    *out = p;
    *trellis = f->trellis[k];
    return KQ_OK;
}

/* Which rows a module or its tensor is (kq_rows_id), by its name; -1: neither. */
static int row_module(const char *name)
{
    for (int i = 0; i < KQ_N_ROWS; i++)
        if (!strncmp(name, kq_rows_module[i], strlen(kq_rows_module[i])))
            return i;
    return -1;
}

static const kq_tensor *find_row_trellis(const kq_source *src, int which)
{
    char name[64];
    snprintf(name, sizeof name, "%s.trellis", kq_rows_module[which]);
    return kq_source_find(src, name);
}

kq_status kq_model_file_packed_rows(const kq_model_file *f, const char *name, kq_packed *out,
                                    kq_row_codes *codes, kq_error *err)
{
    *out = (kq_packed){0};
    *codes = (kq_row_codes){0};
    const kq_config *cfg = kq_source_config(f->src);
    const int which = row_module(name);
    if (which < 0 || !f->row_scales[which])
        return KQ_OK;
    const size_t m = cfg->vocab_size, n = cfg->d_model, m_pad = (m + 15) / 16 * 16,
                 n_pad = (n + 15) / 16 * 16;
    const kq_tensor *t, *scale;
    const int k = f->row_k[which];
    int bits;
    kq_packed p = {.m = m, .n = n, .m_pad = m_pad, .n_pad = n_pad, .one_sided = true};
    kq_fine_rows(&p, f->frequent_rows, k);
    const bool fine = p.fine_first || p.fine_last;
    const size_t shape[] = {m_pad / 16, n_pad / 16, (size_t)(16 * k)},
                 words = kq_packed_row_at(&p, k, m_pad / 16, &bits);
    kq_status status;
    if ((status = find_tensor(f->src, kq_rows_module[which], "trellis", KQ_T_I16, fine ? 1 : 3,
                              fine ? &words : shape, &t, err)) ||
        (status = find_tensor(f->src, kq_rows_module[which], "scale", KQ_T_F32, 0, NULL, &scale, err)))
        return status;
    p.trellis = (uint16_t *)t->data;
    p.su = f->row_scales[which];
    p.sv = f->row_scales[which] + n;
    *out = p;
    codes->most = f->trellis[k];
    codes->fine = fine ? f->trellis[KQ_FINE_BITS] : NULL;
    return read_scale(scale, &out->scale, err);
}

static kq_status linear(void *ctx, size_t layer, kq_linear_id id, float *W, kq_error *err)
{
    kq_model_file *f = ctx;
    kq_packed p;
    const kq_trellis *trellis;
    char module[128];
    kq_status status = kq_model_file_packed(f, layer, id, &p, &trellis, err);
    if (status)
        return status;
    kq_linear_name(module, sizeof module, layer, id);
    if (!trellis) {
        char name[160];
        size_t m, n;
        kq_linear_shape(kq_source_config(f->src), id, &m, &n);
        snprintf(name, sizeof name, "%s.weight", module);
        const kq_tensor *plain = kq_source_find(f->src, name);
        if (!plain)
            return kq_fail(err, KQ_E_FORMAT, "%s: tensor %s is missing", kq_source_path(f->src), name);
        return kq_source_read_f32(f->src, plain, 0, m, W, err);
    }
    const void *mapped = p.trellis;
    const size_t n_words = p.m_pad / KQ_TILE * (p.n_pad / KQ_TILE) * kq_trellis_words(trellis);
    uint16_t *words = NULL; /* a copy, only when the file does not hold them at an even address */
    if ((uintptr_t)p.trellis % 2) {
        if ((status = kq_alloc_for((void **)&words, n_words, sizeof *words, module, err)))
            return status;
        memcpy(words, p.trellis, n_words * sizeof *words);
        p.trellis = words;
    }
    status = kq_unround_linear(trellis, &p, W, 1, err);
    kq_map_release(mapped, n_words * sizeof *words);
    kq_free(words);
    return status;
}

kq_status kq_model_file_rows(const kq_model_file *f, const char *name, kq_packed_rows *out, kq_error *err)
{
    *out = (kq_packed_rows){0};
    const int which = row_module(name);
    if (kq_source_find(f->src, name) || (which >= 0 && f->row_scales[which]))
        return KQ_OK;
    /* "lm_head.weight" may be stored as lm_head.qweight and lm_head.scales */
    const kq_config *cfg = kq_source_config(f->src);
    char module[128];
    size_t len = strlen(name);
    if (len <= 7 || len - 7 >= sizeof module || strcmp(name + len - 7, ".weight"))
        return kq_fail(err, KQ_E_FORMAT, "%s: tensor %s is missing", kq_source_path(f->src), name);
    memcpy(module, name, len - 7);
    module[len - 7] = 0;
    char q_name[160];
    snprintf(q_name, sizeof q_name, "%s.qweight", module);
    const kq_tensor *q = kq_source_find(f->src, q_name), *s;
    if (!q)
        return kq_fail(err, KQ_E_FORMAT, "%s: tensor %s is missing", kq_source_path(f->src), name);
    const size_t V = cfg->vocab_size, n = cfg->d_model, n_groups = n / kq_rows_group(n);
    const int bits = q->dtype == KQ_T_I8 ? 8 : 4;
    const size_t row_bytes = bits == 8 ? n : (n + 1) / 2;
    kq_status status;
    if ((status = find_tensor(f->src, module, "qweight", bits == 8 ? KQ_T_I8 : KQ_T_U8, 2,
                              (size_t[]){V, row_bytes}, &q, err)) ||
        (status = find_tensor(f->src, module, "scales", KQ_T_F16, 2, (size_t[]){V, n_groups}, &s, err)))
        return status;
    *out = (kq_packed_rows){.bits = bits,
                            .rows = V,
                            .n = n,
                            .group = kq_rows_group(n),
                            .row_bytes = row_bytes,
                            .q = q->data,
                            .scales = s->data,
                            .scales_tensor = s};
    return KQ_OK;
}

kq_status kq_packed_rows_scales(const kq_packed_rows *r, size_t row, uint16_t *scales, kq_error *err)
{
    const size_t n_groups = r->n / r->group;
    /* the file may hold them at an odd address */
    memcpy(scales, r->scales + row * n_groups * 2, n_groups * 2);
    for (size_t g = 0; g < n_groups; g++)
        if ((scales[g] & 0x7c00) == 0x7c00)
            return kq_fail(err, KQ_E_NUMERIC, "%s: %s[%zu, %zu] is not finite", r->scales_tensor->file,
                           r->scales_tensor->name, row, g);
    return KQ_OK;
}

static kq_status rows(void *ctx, const char *name, size_t row0, size_t n_rows, float *dst, kq_error *err)
{
    kq_model_file *f = ctx;
    const kq_tensor *t = kq_source_find(f->src, name);
    if (t)
        return kq_source_read_f32(f->src, t, row0, n_rows, dst, err);
    kq_packed p;
    kq_row_codes codes;
    kq_status status = kq_model_file_packed_rows(f, name, &p, &codes, err);
    if (status)
        return status;
    if (codes.most) {
        int bits;
        const int k = kq_trellis_k(codes.most);
        status = kq_unround_rows(&codes, &p, f->row_u, row0, n_rows, dst, err);
        if (!status && n_rows > KQ_TILE) {
            const size_t from = kq_packed_row_at(&p, k, row0 / KQ_TILE, &bits),
                         to = kq_packed_row_at(&p, k, (row0 + n_rows + KQ_TILE - 1) / KQ_TILE, &bits);
            kq_map_release(p.trellis + from, 2 * (to - from));
        }
        return status;
    }
    kq_packed_rows r;
    if ((status = kq_model_file_rows(f, name, &r, err)))
        return status;
    if (row0 > r.rows || n_rows > r.rows - row0)
        return kq_fail(err, KQ_E_ARG, "%s: rows %zu to %zu asked for, it has %zu", name, row0, row0 + n_rows,
                       r.rows);
    uint16_t *scales;
    if ((status = kq_alloc_for((void **)&scales, r.n / r.group, sizeof *scales, name, err)))
        return status;
    for (size_t i = 0; i < n_rows && !status; i++) {
        status = kq_packed_rows_scales(&r, row0 + i, scales, err);
        if (!status)
            kq_rows_decode(r.q + (row0 + i) * r.row_bytes, scales, r.n, r.bits, dst + i * r.n);
    }
    kq_map_release(r.q + row0 * r.row_bytes, n_rows * r.row_bytes);
    kq_free(scales);
    return status;
}

/* dst [n] = the scales of one side, `suffix` "su" or "sv". Version 1 has signs. NaN and Inf are refused. */
static kq_status read_side(const kq_source *src, const char *module, const char *suffix, int version,
                           size_t n, float *dst, kq_error *err)
{
    const kq_tensor *t;
    kq_status status = find_tensor(src, module, suffix, version == 1 ? KQ_T_I8 : KQ_T_F16, 1, &n, &t, err);
    if (!status)
        status = kq_source_read_f32(src, t, 0, n, dst, err);
    for (size_t i = 0; version == 1 && i < n && !status; i++)
        if (dst[i] != 1 && dst[i] != -1)
            status = kq_fail(err, KQ_E_FORMAT, "%s: %s[%zu] is %g, expected +1 or -1", t->file, t->name, i,
                             (double)dst[i]);
    return status;
}

/* Read su and sv of every packed linear. */
static kq_status read_scales(kq_model_file *f, int version, kq_error *err)
{
    const kq_config *cfg = kq_source_config(f->src);
    const size_t n_linear = kq_model_n_linears(cfg);
    if (!(f->scales = kq_calloc(n_linear, sizeof *f->scales)))
        return kq_fail(err, KQ_E_MEMORY, "out of memory: scales");
    kq_status status = KQ_OK;
    for (size_t i = 0; i < n_linear && !status; i++) {
        char module[128];
        size_t m, n;
        kq_linear_shape(cfg, (kq_linear_id)(i % KQ_N_LINEAR), &m, &n);
        if (!find_trellis(f->src, i / KQ_N_LINEAR, (kq_linear_id)(i % KQ_N_LINEAR), module))
            continue;
        if (!(status = kq_alloc_for((void **)&f->scales[i], m + n, sizeof **f->scales, "scales", err)) &&
            !(status = read_side(f->src, module, "su", version, n, f->scales[i], err)))
            status = read_side(f->src, module, "sv", version, m, f->scales[i] + n, err);
    }
    for (int i = 0; i < KQ_N_ROWS && !status; i++) {
        const size_t m = cfg->vocab_size, n = cfg->d_model;
        float **own = &f->row_scales[i];
        if (!find_row_trellis(f->src, i))
            continue;
        if (!(status = kq_alloc_for((void **)own, m + n, sizeof **own, "scales", err)) &&
            !(status = read_side(f->src, kq_rows_module[i], "su", version, n, *own, err)))
            status = read_side(f->src, kq_rows_module[i], "sv", version, m, *own + n, err);
        if (!status && !f->row_u)
            status = kq_hadamard_new((n + 15) / 16 * 16, &f->row_u, err);
    }
    return status;
}

/* f->trellis[k], made when the first tensor needs it. */
static kq_status make_trellis(kq_model_file *f, int k, kq_code code, kq_isa isa, const float (*table)[2],
                              kq_error *err)
{
    return f->trellis[k] ? KQ_OK : kq_trellis_new(code, k, isa, table, &f->trellis[k], err);
}

/* The trellis of the bits that a tensor [m/16, n/16, 16 k] has. */
static kq_status trellis_for(kq_model_file *f, const kq_tensor *t, kq_code code, kq_isa isa,
                             const float (*table)[2], kq_error *err)
{
    const int k = t->rank == 3 && t->shape[2] % 16 == 0 && t->shape[2] <= 64 ? (int)(t->shape[2] / 16) : 0;
    if (k < 2)
        return kq_fail(err, KQ_E_SHAPE, "%s: %s must be [m/16, n/16, 32, 48 or 64]", t->file, t->name);
    return make_trellis(f, k, code, isa, table, err);
}

/* The trellises of an embedding or head: the configuration says how many bits its rows have. */
static kq_status row_trellises(kq_model_file *f, const json_t *qc, int which, kq_code code, kq_isa isa,
                               const float (*table)[2], kq_error *err)
{
    const json_int_t k = json_integer_value(
                         json_object_get(json_object_get(qc, "one_sided_modules"), kq_rows_module[which])),
                     frequent = json_integer_value(json_object_get(qc, "frequent_rows"));
    const char *path = kq_source_path(f->src);
    if (k < 2 || k > 4)
        return kq_fail(
            err, KQ_E_FORMAT,
            "%s/config.json: quantization_config.one_sided_modules gives %s %lld bits, expected 2, 3 or "
            "4, because the tensor %s.trellis is there",
            path, kq_rows_module[which], (long long)k, kq_rows_module[which]);
    if (frequent < 0)
        return kq_fail(err, KQ_E_FORMAT,
                       "%s/config.json: quantization_config.frequent_rows is %lld, expected 0 or more", path,
                       (long long)frequent);
    f->row_k[which] = (int)k;
    f->frequent_rows = (size_t)frequent;
    kq_status status = make_trellis(f, (int)k, code, isa, table, err);
    return status || !frequent ? status : make_trellis(f, KQ_FINE_BITS, code, isa, table, err);
}

/* Read the code from config.json and its table from the file, and make a trellis for every number of bits in
 * use. */
static kq_status open_trellises(kq_model_file *f, kq_isa isa, kq_error *err)
{
    const char *path = kq_source_path(f->src);
    json_t *config = kq_json_again(kq_source_config_json(f->src));
    const json_t *qc = json_object_get(config, "quantization_config");
    const char *code_name = json_string_value(json_object_get(qc, "code"));
    kq_code code = KQ_HYB;
    kq_status status = KQ_OK;
    float(*table)[2] = NULL;
    const json_int_t version = json_integer_value(json_object_get(qc, "format_version"));
    if (!config)
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: the configuration");
    else if (version < 1 || version > KQ_FORMAT_VERSION)
        status =
            kq_fail(err, KQ_E_UNSUPPORTED,
                    "%s/config.json: quantization_config.format_version is %lld, this kronq reads 1 to %d",
                    path, (long long)version, KQ_FORMAT_VERSION);
    else if (!code_name)
        status = kq_fail(err, KQ_E_FORMAT, "%s/config.json: quantization_config.code is missing", path);
    else
        status = kq_code_parse(code_name, &code, err);
    if (!status && code == KQ_HYB) {
        const kq_tensor *t;
        if (!(status = find_tensor(f->src, "kronq", "hyb_table", KQ_T_F32, 2, (size_t[]){KQ_HYB_ENTRIES, 2},
                                   &t, err)) &&
            !(status = kq_alloc_for((void **)&table, KQ_HYB_ENTRIES, sizeof *table, "the code's table", err)))
            status = kq_source_read_f32(f->src, t, 0, KQ_HYB_ENTRIES, &table[0][0], err);
    }
    const kq_config *cfg = kq_source_config(f->src);
    for (size_t l = 0; l < cfg->n_layer && !status; l++) {
        for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
            char module[128];
            const kq_tensor *t = find_trellis(f->src, l, (kq_linear_id)id, module);
            if (t)
                status = trellis_for(f, t, code, isa, (const float(*)[2])table, err);
        }
    }
    for (int i = 0; i < KQ_N_ROWS && !status; i++)
        if (find_row_trellis(f->src, i))
            status = row_trellises(f, qc, i, code, isa, (const float(*)[2])table, err);
    kq_free(table);
    json_decref(config);
    return status ? status : read_scales(f, (int)version, err);
}

static const kq_tensor *stored(void *ctx, const char *name)
{
    const kq_model_file *f = ctx;
    return kq_source_find(f->src, name);
}

kq_status kq_model_file_open(const char *path, kq_isa isa, kq_model_file **out, kq_error *err)
{
    *out = NULL;
    kq_model_file *f = kq_calloc(1, sizeof *f);
    if (!f)
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    kq_status status = kq_source_open(path, &f->src, err);
    if (!status && kq_source_is_kronq(f->src))
        status = open_trellises(f, isa, err);
    if (status) {
        kq_model_file_close(f);
        return status;
    }
    f->weights = (kq_weights){
        .cfg = kq_source_config(f->src), .ctx = f, .linear = linear, .rows = rows, .stored = stored};
    *out = f;
    return KQ_OK;
}
