/* An EXL3 folder out of part files (docs/format.md, "EXL3 folders"). exllamav3 reads the tensors; tools that
 * show or serve models read config.json and quantization_config.json, so both are as its converter writes
 * them, with kronq's own settings beside. */
#include "exl3/save.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/f16.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "checkpoint/card.h"
#include "checkpoint/side_files.h"
#include "format/dequant.h"
#include "format/exl3.h"
#include "format/json.h"

/* The version of exllamav3 whose format this is. */
static const char exllamav3_version[] = "1.4.1";

double kq_exl3_linear_bits(size_t m, size_t n, double k, kq_code code)
{
    const double mp = (double)kq_exl3_padded(m), np = (double)kq_exl3_padded(n);
    uint32_t multiplier;
    return mp * np * k + 16 * (mp + np) + (kq_exl3_code_tensor(code, &multiplier) ? 32 : 0);
}

/* ---- part files ---- */

static kq_status declare(kq_st_writer *w, const kq_packed *p, const kq_module_report *r, kq_code code,
                         kq_error *err)
{
    uint32_t multiplier;
    const char *const named = kq_exl3_code_tensor(code, &multiplier);
    const kq_st_decl tensors[] = {
        {"trellis", KQ_T_I16, 3, {p->n_pad / KQ_TILE, p->m_pad / KQ_TILE, 16 * (size_t)r->bits}},
        {"suh", KQ_T_F16, 1, {p->n_pad}},
        {"svh", KQ_T_F16, 1, {p->m_pad}},
        {named, KQ_T_I32, 0, {0}}};
    char name[160], *text = kq_module_report_json(r);
    kq_status status = text ? kq_st_writer_meta(w, r->name, text, err)
                            : kq_fail(err, KQ_E_MEMORY, "out of memory: %s", r->name);
    free(text);
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors && !status; i++) {
        if (!tensors[i].name)
            continue;
        snprintf(name, sizeof name, "%s.%s", r->name, tensors[i].name);
        status = kq_st_writer_declare(w, name, tensors[i].dtype, tensors[i].rank, tensors[i].shape, err);
    }
    return status;
}

/* The tiles, which are packed by rows of outputs, by rows of inputs. */
static kq_status write_trellis(kq_st_writer *w, const kq_packed *p, size_t words, kq_error *err)
{
    const size_t rows = p->m_pad / KQ_TILE, cols = p->n_pad / KQ_TILE;
    uint16_t *line;
    kq_status status = kq_alloc_for((void **)&line, rows * words, sizeof *line, "packed weights", err);
    for (size_t c = 0; c < cols && !status; c++) {
        for (size_t r = 0; r < rows; r++)
            memcpy(line + r * words, p->trellis + (r * cols + c) * words, words * sizeof *line);
        status = kq_st_writer_data(w, line, rows * words * sizeof *line, err);
    }
    kq_free(line);
    return status;
}

/* Scales [n], and zeros for the padding: what is stored there then counts for nothing. */
static kq_status write_scales(kq_st_writer *w, const float *scales, size_t n, size_t padded, kq_error *err)
{
    uint16_t *half = kq_calloc(padded, sizeof *half);
    if (!half)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: scales");
    kq_f32_to_f16_n(scales, half, n);
    const kq_status status = kq_st_writer_data(w, half, padded * sizeof *half, err);
    kq_free(half);
    return status;
}

static kq_status write(kq_st_writer *w, const kq_packed *p, int bits, kq_code code, kq_error *err)
{
    uint32_t multiplier;
    kq_status status;
    if ((status = write_trellis(w, p, 16 * (size_t)bits, err)) ||
        (status = write_scales(w, p->su, p->n, p->n_pad, err)) ||
        (status = write_scales(w, p->sv, p->m, p->m_pad, err)) || !kq_exl3_code_tensor(code, &multiplier))
        return status;
    return kq_st_writer_data(w, &multiplier, sizeof multiplier, err);
}

kq_status kq_exl3_part_write(const char *path, kq_code code, size_t n, const kq_packed *const packed[],
                             const kq_module_report *const report[], kq_error *err)
{
    kq_st_writer *w;
    kq_status status = kq_st_writer_new(path, &w, err);
    if (status)
        return status;
    for (size_t i = 0; i < n && !status; i++)
        status = declare(w, packed[i], report[i], code, err);
    for (size_t i = 0; i < n && !status; i++)
        status = write(w, packed[i], report[i]->bits, code, err);
    if (!status)
        return kq_st_writer_finish(w, err);
    kq_st_writer_abort(w);
    return status;
}

/* ---- gathering ---- */

/* A tensor of the folder: as the source has it, or out of a part file. */
typedef struct entry {
    const kq_tensor *t; /* borrowed */
    kq_dtype dtype;
    bool from_part;
} entry;

typedef struct gathering {
    const kq_exl3_save_options *o;
    kq_st_file **parts; /* owned [n_parts] */
    entry *list;        /* owned */
    size_t n, cap;
} gathering;

static kq_status add(gathering *g, const kq_tensor *t, kq_dtype dtype, bool from_part, kq_error *err)
{
    kq_status status =
        kq_grow((void **)&g->list, &g->cap, g->n, g->n + 1, sizeof *g->list, "the folder's tensors", err);
    if (!status)
        g->list[g->n++] = (entry){t, dtype, from_part};
    return status;
}

/* Is NAME.weight replaced by NAME.trellis of a part file? */
static bool is_replaced(const gathering *g, const char *name)
{
    char tensor[192];
    const size_t len = strlen(name), end = sizeof ".weight" - 1;
    if (len <= end || len >= sizeof tensor || strcmp(name + len - end, ".weight"))
        return false;
    snprintf(tensor, sizeof tensor, "%.*s.trellis", (int)(len - end), name);
    for (size_t i = 0; i < g->o->n_parts; i++)
        if (kq_st_find(g->parts[i], tensor))
            return true;
    return false;
}

static kq_status list_tensors(gathering *g, kq_error *err)
{
    const kq_source *src = g->o->src;
    kq_status status = KQ_OK;
    for (size_t i = 0; i < kq_source_n_tensors(src) && !status; i++) {
        const kq_tensor *t = kq_source_tensor(src, i);
        const bool copy = kq_source_config(src)->tie_embeddings && !strcmp(t->name, "lm_head.weight");
        if (!copy && !is_replaced(g, t->name))
            status = add(g, t, kq_kept_dtype(t->dtype), false, err);
    }
    for (size_t p = 0; p < g->o->n_parts; p++)
        for (size_t i = 0; i < kq_st_n_tensors(g->parts[p]) && !status; i++) {
            const kq_tensor *t = kq_st_tensor(g->parts[p], i);
            status = add(g, t, t->dtype, true, err);
        }
    return status;
}

static kq_status write_entry(void *ctx, size_t i, kq_st_writer *w, kq_error *err)
{
    const gathering *g = ctx;
    const entry *e = &g->list[i];
    if (!e->from_part)
        return kq_write_kept(w, g->o->src, e->t, err);
    const kq_status status = kq_st_writer_data(w, e->t->data, e->t->size_bytes, err);
    kq_map_release(e->t->data, e->t->size_bytes);
    return status;
}

static kq_status write_tensors(const gathering *g, kq_exl3_saved *out, kq_error *err)
{
    kq_st_decl *decl;
    kq_status status = kq_alloc_for((void **)&decl, g->n, sizeof *decl, "the folder's tensors", err);
    for (size_t i = 0; i < g->n && !status; i++) {
        const kq_tensor *t = g->list[i].t;
        decl[i] = (kq_st_decl){.name = t->name, .dtype = g->list[i].dtype, .rank = t->rank};
        memcpy(decl[i].shape, t->shape, sizeof decl[i].shape);
    }
    if (!status)
        status = kq_st_write_shards(g->o->dir, g->o->shard_size, decl, g->n, write_entry,
                                    (void *)(uintptr_t)g, &out->file_bytes, err);
    kq_free(decl);
    return status;
}

/* ---- config.json and quantization_config.json ---- */

static const char *torch_name(kq_dtype t)
{
    switch (t) {
    case KQ_T_F32: return "torch.float32";
    case KQ_T_F16: return "torch.float16";
    case KQ_T_I16: return "torch.int16";
    case KQ_T_I32: return "torch.int32";
    default: return "torch.bfloat16";
    }
}

/* Add one tensor to the entry of its module. */
static bool describe_tensor(json_t *storage, const entry *e, kq_code code)
{
    char module[192];
    const char *dot = strrchr(e->t->name, '.'), *end = dot ? dot + 1 : "";
    size_t elems = 1, bytes = 2;
    json_t *shape = json_array();
    uint32_t multiplier;
    const char *named = kq_exl3_code_tensor(code, &multiplier);
    kq_dtype_block(e->dtype, &elems, &bytes);
    snprintf(module, sizeof module, "%.*s", dot ? (int)(dot - e->t->name) : 0, e->t->name);
    for (size_t i = 0; i < e->t->rank; i++)
        json_array_append_new(shape, json_integer((json_int_t)e->t->shape[i]));
    json_t *of = json_object_get(storage, module);
    if (!of) {
        of = json_pack("{s:{}}", "stored_tensors");
        json_object_set_new(storage, module, of);
    }
    json_t *tensor = json_pack("{s:o, s:I, s:s}", "shape", shape, "n_bytes",
                               (json_int_t)(e->t->n_elem * bytes), "dtype", torch_name(e->dtype));
    bool ok = !json_object_set_new(json_object_get(of, "stored_tensors"), e->t->name, tensor);
    if (e->from_part && !strcmp(end, "trellis"))
        ok = ok && !json_object_set_new(of, "quant_format", json_string("exl3")) &&
             !json_object_set_new(of, "bits_per_weight", json_integer((json_int_t)e->t->shape[2] / 16));
    if (e->from_part && named && !strcmp(end, named)) {
        char key[32];
        snprintf(key, sizeof key, "%s_multiplier", named);
        ok = ok && !json_object_set_new(of, key, json_integer(multiplier));
    }
    return ok;
}

/* quantization_config of both files; new. NULL: out of memory. */
static json_t *quantization_config(const kq_exl3_save_options *o)
{
    char by[64];
    json_t *settings = json_loads(o->settings_json, 0, NULL);
    snprintf(by, sizeof by, "kronq %s", kq_version());
    return json_pack("{s:s, s:s, s:o, s:i, s:{s:I, s:I}, s:s, s:s, s:s, s:o}", "quant_method", "exl3",
                     "version", exllamav3_version, "bits",
                     o->bits == (int)o->bits ? json_integer((json_int_t)o->bits) : json_real(o->bits),
                     "head_bits", o->head_bits, "calibration", "rows", (json_int_t)o->rows, "cols",
                     (json_int_t)o->cols, "out_scales", "always", "codebook", kq_code_name(o->code),
                     "quantized_by", by, "kronq", settings);
}

static kq_status write_storage(const gathering *g, const json_t *qc, kq_error *err)
{
    json_t *whole = json_deep_copy(qc), *storage = json_object();
    char *path = NULL, *text = NULL;
    bool ok = whole && storage;
    for (size_t i = 0; i < g->n && ok; i++)
        ok = describe_tensor(storage, &g->list[i], g->o->code);
    ok = ok && !json_object_set(whole, "tensor_storage", storage);
    kq_status status = kq_path_in(&path, err, g->o->dir, "quantization_config.json");
    if (!status && (!ok || !(text = json_dumps(whole, JSON_INDENT(4) | JSON_REAL_PRECISION(9)))))
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    if (!status)
        status = kq_file_write(path, text, strlen(text), err);
    free(text);
    kq_free(path);
    json_decref(whole);
    json_decref(storage);
    return status;
}

static kq_status write_configs(const gathering *g, const kq_exl3_saved *out, kq_error *err)
{
    const kq_exl3_save_options *o = g->o;
    char *text = NULL;
    kq_status status = kq_config_json(o->src, &text, err);
    if (status)
        return status;
    json_t *config = kq_json_again(text), *qc = quantization_config(o);
    kq_free(text);
    if (!config || !qc || json_object_set(config, "quantization_config", qc))
        status = kq_fail(err, KQ_E_MEMORY, "%s/config.json: out of memory", o->dir);
    if (!status && !(status = write_storage(g, qc, err))) {
        const kq_card_facts facts = {.command = o->command,
                                     .predicted_loss = o->predicted_loss,
                                     .relative_mse = o->relative_mse,
                                     .file_bytes = out->file_bytes,
                                     .n_parameters = out->n_parameters};
        status = kq_card_exl3(o->src, qc, &facts, o->dir, err);
    }
    if (!status)
        status = kq_write_config(o->dir, config, err);
    json_decref(config);
    json_decref(qc);
    return status;
}

kq_status kq_exl3_save(const kq_exl3_save_options *o, kq_exl3_saved *out, kq_error *err)
{
    gathering g = {.o = o, .parts = kq_calloc(o->n_parts + 1, sizeof *g.parts)};
    *out = (kq_exl3_saved){.n_parameters = kq_count_parameters(kq_source_config(o->src))};
    kq_status status = g.parts ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: the part files");
    for (size_t i = 0; i < o->n_parts && !status; i++)
        status = kq_st_open(o->parts[i], &g.parts[i], err);
    if (!status && !(status = list_tensors(&g, err)) && !(status = write_tensors(&g, out, err)) &&
        !(status = kq_write_hf_side_files(o->src, o->dir, err)))
        status = write_configs(&g, out, err);
    for (size_t i = 0; g.parts && i < o->n_parts; i++)
        kq_st_close(g.parts[i]);
    kq_free(g.parts);
    kq_free(g.list);
    return status;
}

/* ---- before and after ---- */

size_t kq_exl3_planned_bytes(const kq_source *src, kq_code code, int head_bits,
                             double (*bits)(void *ctx, size_t layer, kq_linear_id id), void *ctx)
{
    const kq_config *cfg = kq_source_config(src);
    double sum = head_bits < 16 ? kq_exl3_linear_bits(cfg->vocab_size, cfg->d_model, head_bits, code) : 0;
    for (size_t i = 0; i < kq_model_n_tensors(cfg); i++) {
        const kq_model_tensor t = kq_model_tensor_at(cfg, i);
        const double k = t.role == KQ_ROLE_LINEAR ? bits(ctx, t.layer, t.linear)
                         : t.role == KQ_ROLE_HEAD ? (head_bits < 16 ? -1 : 0)
                                                  : 0;
        const kq_tensor *stored = kq_source_find(src, t.name);
        size_t elems = 1, bytes = 2;
        if (stored)
            kq_dtype_block(kq_kept_dtype(stored->dtype), &elems, &bytes);
        sum += k > 0    ? kq_exl3_linear_bits(t.rows, t.cols, k, code)
               : k == 0 ? 8.0 * (double)bytes * (double)(t.rows * t.cols)
                        : 0;
    }
    return (size_t)(sum / 8);
}

kq_status kq_exl3_check_saved(const char *path, const char *settings_json, kq_error *err)
{
    char *text;
    size_t size;
    kq_status status = kq_file_read(path, 1 << 26, &text, &size, err);
    if (status)
        return status;
    json_t *config = json_loadb(text, size, 0, NULL), *now = json_loads(settings_json, 0, NULL);
    const json_t *there = json_object_get(json_object_get(config, "quantization_config"), "kronq");
    kq_free(text);
    /* both as text with the digits that config.json keeps */
    char *a = there ? json_dumps(there, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(8)) : NULL,
         *b = now ? json_dumps(now, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(8)) : NULL;
    if (!b)
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    else if (!a)
        status =
            kq_fail(err, KQ_E_MISMATCH, "%s: is not of an EXL3 folder by kronq; choose another output", path);
    else if (strcmp(a, b))
        status = kq_fail(err, KQ_E_MISMATCH,
                         "%s: the folder there was made with other settings; choose another output or remove "
                         "it",
                         path);
    free(a);
    free(b);
    json_decref(config);
    json_decref(now);
    return status;
}
