/* Gathers the part files into a checkpoint (docs/format.md). It makes the list of tensors, then writes the
 * safetensors files in one pass, and then the files beside them. config.json is the last file, because a
 * folder with a config.json counts as complete. */
#include "base/buffer.h"
#include "base/f16.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "checkpoint/card.h"
#include "checkpoint/checkpoint.h"
#include "format/dequant.h"
#include "format/json.h"
#include "tokenizer/tokenizer.h"
#include "checkpoint/side_files.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { NAME = 192 }; /* longest name of a tensor, with its end */

/* One tensor of the checkpoint, and where its bytes come from. */
typedef struct entry {
    char name[NAME];
    kq_dtype dtype;
    size_t rank, shape[4];
    enum { FROM_SOURCE, FROM_PART, FROM_TABLE, ROWS_Q, ROWS_SCALES } from;
    const kq_tensor *t; /* FROM_SOURCE, FROM_PART, ROWS_*: borrowed */
} entry;

typedef struct entries {
    entry *e; /* owned */
    size_t n, cap;
} entries;

static kq_status add(entries *list, entry e, kq_error *err)
{
    kq_status status = kq_grow((void **)&list->e, &list->cap, list->n, list->n + 1, sizeof *list->e,
                               "the list of the checkpoint's tensors", err);
    if (!status)
        list->e[list->n++] = e;
    return status;
}

static size_t dtype_bytes(kq_dtype t)
{
    switch (t) {
    case KQ_T_F32:
    case KQ_T_I32: return 4;
    case KQ_T_F16:
    case KQ_T_BF16:
    case KQ_T_I16: return 2;
    case KQ_T_I64: return 8;
    default: return 1;
    }
}

static entry make(const char *name, kq_dtype dtype, size_t rank, const size_t *shape)
{
    entry e = {.dtype = dtype, .rank = rank};
    snprintf(e.name, sizeof e.name, "%s", name);
    for (size_t i = 0; i < rank; i++)
        e.shape[i] = shape[i];
    return e;
}

static bool is_head(const kq_tensor *t)
{
    return !strcmp(t->name, "lm_head.weight");
}

static bool is_rows(const kq_tensor *t)
{
    return !strcmp(t->name, "model.embed_tokens.weight") || is_head(t);
}

static bool is_integer(kq_dtype t)
{
    return t == KQ_T_I8 || t == KQ_T_I16 || t == KQ_T_I32 || t == KQ_T_I64 || t == KQ_T_U8 || t == KQ_T_BOOL;
}

/* The type in which a tensor is kept: its own, or bf16 when the source has it in a block type. */
kq_dtype kq_kept_dtype(kq_dtype t)
{
    return is_integer(t) ? t : kq_dtype_plain(t);
}

/* Rows of 8 bits. */
static kq_status add_rows(entries *list, const kq_tensor *t, kq_error *err)
{
    char name[NAME];
    const int stem = (int)(strlen(t->name) - strlen(".weight"));
    const size_t V = t->shape[0], n = t->shape[1];
    snprintf(name, sizeof name, "%.*s.qweight", stem, t->name);
    entry q = make(name, KQ_T_I8, 2, (size_t[]){V, n});
    snprintf(name, sizeof name, "%.*s.scales", stem, t->name);
    entry s = make(name, KQ_T_F16, 2, (size_t[]){V, n / kq_rows_group(n)});
    q.from = ROWS_Q;
    s.from = ROWS_SCALES;
    q.t = s.t = t;
    kq_status status = add(list, q, err);
    return status ? status : add(list, s, err);
}

/* Is the source's tensor NAME.weight of block `layer` replaced by a packed linear? ctx is the asker's. */
typedef bool is_packed(void *ctx, size_t layer, const char *name);

/* Add every plain tensor of the source that no packed linear replaces. */
static kq_status add_source(entries *list, const kq_save_options *o, is_packed *packed, void *ctx,
                            kq_error *err)
{
    for (size_t i = 0; i < kq_source_n_tensors(o->src); i++) {
        const kq_tensor *t = kq_source_tensor(o->src, i);
        size_t layer;
        char name[NAME];
        const size_t len = strlen(t->name);
        if (len > 7 && len < NAME - 16 && !strcmp(t->name + len - 7, ".weight") &&
            sscanf(t->name, "model.layers.%zu.", &layer) == 1) {
            snprintf(name, sizeof name, "%.*s", (int)(len - 7), t->name);
            if (packed(ctx, layer, name))
                continue;
        }
        if (len >= NAME)
            return kq_fail(err, KQ_E_UNSUPPORTED, "%s: tensor name of %zu bytes, at most %d are kept",
                           t->file, len, NAME - 1);
        if (is_head(t) && kq_source_config(o->src)->tie_embeddings)
            continue; /* a copy of the embedding, which some programs write although the head is tied */
        const int bits = is_head(t) ? o->head_bits : is_rows(t) ? o->embed_bits : 16;
        kq_status status;
        if (bits < 8)
            continue; /* its part file replaces it */
        if (bits < 16) {
            status = add_rows(list, t, err);
        } else {
            entry e = make(t->name, kq_kept_dtype(t->dtype), t->rank, t->shape);
            e.from = FROM_SOURCE;
            e.t = t;
            status = add(list, e, err);
        }
        if (status)
            return status;
    }
    return KQ_OK;
}

kq_status kq_write_kept(kq_st_writer *w, const kq_source *src, const kq_tensor *t, kq_error *err)
{
    const kq_dtype dtype = kq_kept_dtype(t->dtype);
    const bool as_stored = t->dtype == dtype && !t->permuted_qk;
    if (is_integer(dtype) || (as_stored && (t->rank == 0 || t->rank > 2)))
        return kq_st_writer_data(w, t->data, t->size_bytes, err);
    const size_t rows = t->rank ? t->shape[0] : 1, row = t->n_elem / (rows ? rows : 1), step = 256;
    float *x = kq_alloc(step * row, sizeof *x);
    uint16_t *h = kq_alloc(step * row, sizeof *h);
    kq_status status = x && h ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: %s", t->name);
    for (size_t r = 0; r < rows && !status; r += step) {
        const size_t n = rows - r < step ? rows - r : step;
        if ((status = kq_source_read_f32(src, t, r, n, x, err)))
            break; /* NaN and Inf are found even where nothing is converted */
        if (as_stored)
            continue;
        if (dtype == KQ_T_F32) {
            status = kq_st_writer_data(w, x, n * row * 4, err);
            continue;
        }
        for (size_t i = 0; i < n * row; i++)
            h[i] = dtype == KQ_T_F16 ? kq_f32_to_f16(x[i]) : kq_f32_to_bf16(x[i]);
        status = kq_st_writer_data(w, h, n * row * 2, err);
    }
    if (!status && as_stored)
        status = kq_st_writer_data(w, t->data, t->size_bytes, err);
    kq_free(x);
    kq_free(h);
    return status;
}

static kq_status write_rows(kq_st_writer *w, const kq_source *src, const entry *e, kq_error *err)
{
    const size_t V = e->t->shape[0], n = e->t->shape[1], groups = n / kq_rows_group(n);
    float *x = kq_alloc(n, sizeof *x);
    uint8_t *q = kq_alloc(n, 1);
    uint16_t *s = kq_alloc(groups, sizeof *s);
    kq_status status = x && q && s ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: %s", e->name);
    for (size_t r = 0; r < V && !status; r++) {
        if ((status = kq_source_read_f32(src, e->t, r, 1, x, err)))
            break;
        kq_rows_encode(x, n, 8, q, s);
        for (size_t g = 0; g < groups && !status; g++)
            if ((s[g] & 0x7c00) == 0x7c00)
                status = kq_fail(err, KQ_E_NUMERIC,
                                 "%s: %s, row %zu: values too large for a scale in F16; --embed-bits 16 (or "
                                 "--head-bits 16) keeps them",
                                 e->t->file, e->t->name, r);
        if (status)
            break;
        status =
            e->from == ROWS_Q ? kq_st_writer_data(w, q, n, err) : kq_st_writer_data(w, s, 2 * groups, err);
    }
    kq_free(x);
    kq_free(q);
    kq_free(s);
    return status;
}

typedef struct gathering {
    const kq_source *src;
    const entries *list;
} gathering;

static kq_status write_entry(void *ctx, size_t i, kq_st_writer *w, kq_error *err)
{
    const gathering *g = ctx;
    const entry *e = &g->list->e[i];
    switch (e->from) {
    case FROM_SOURCE: return kq_write_kept(w, g->src, e->t, err);
    case FROM_PART: {
        kq_status status = kq_st_writer_data(w, e->t->data, e->t->size_bytes, err);
        kq_map_release(e->t->data, e->t->size_bytes);
        return status;
    }
    case FROM_TABLE: return kq_st_writer_data(w, kq_hyb_table, sizeof kq_hyb_table, err);
    case ROWS_Q:
    case ROWS_SCALES: break;
    }
    return write_rows(w, g->src, e, err);
}

/* The entries as declarations, the caller's (kq_free). */
static kq_status declare(const entries *list, kq_st_decl **out, kq_error *err)
{
    kq_st_decl *decl;
    kq_status status =
        kq_alloc_for((void **)&decl, list->n, sizeof *decl, "the list of the checkpoint's tensors", err);
    *out = decl;
    for (size_t i = 0; i < list->n && !status; i++) {
        const entry *e = &list->e[i];
        decl[i] = (kq_st_decl){.name = e->name,
                               .dtype = e->dtype,
                               .rank = e->rank,
                               .shape = {e->shape[0], e->shape[1], e->shape[2], e->shape[3]}};
    }
    return status;
}

static kq_status write_tensors(const kq_save_options *o, const entries *list, kq_save_report *report,
                               kq_error *err)
{
    kq_st_decl *decl;
    kq_status status = declare(list, &decl, err);
    gathering g = {o->src, list};
    if (!status)
        status = kq_st_write_shards(o->dir, o->shard_size, decl, list->n, write_entry, &g,
                                    &report->file_bytes, err);
    kq_free(decl);
    return status;
}

static bool same_bits(const json_t *bits_of)
{
    const json_t *first = json_object_iter_value(json_object_iter((json_t *)bits_of)), *value;
    const char *name;
    json_object_foreach((json_t *)bits_of, name, value)
        if (!json_equal(first, value))
            return false;
    return true;
}

/* A checkpoint in the making. */
typedef struct saving {
    const kq_save_options *o;
    kq_save_report *report;
    kq_st_file **parts; /* owned [n_layer]; NULL where a block has no part file */
    kq_st_file
        *rows[KQ_N_ROWS];      /* owned: the part files of the head and the embedding; NULL: there is none */
    entries list;              /* owned */
    json_t *bits_of, *skipped; /* owned: bits by module; modules that are not quantized */
    json_t *one_sided;         /* owned: bits of embedding and head, where they are trellises */
    double packed, trellis;    /* bits of all quantized linears: with scales; of the trellis alone */
} saving;

/* Write the model card, and then config.json with quantization_config and auto_map, the last file of all. */
static kq_status write_config(const saving *z, kq_error *err)
{
    const kq_save_options *o = z->o;
    const kq_save_report *report = z->report;
    json_t *bits_of = z->bits_of, *skipped = z->skipped;
    char *text = NULL;
    kq_status status = kq_config_json(o->src, &text, err);
    if (status)
        return status;
    json_t *config = kq_json_again(text),
           *extra = o->settings_json ? json_loads(o->settings_json, 0, NULL) : NULL;
    kq_free(text);
    const kq_code code = o->code;
    json_t *qc =
        json_pack("{s:s, s:i, s:i, s:f, s:f, s:s, s:i, s:i, s:[i,i], s:i, s:O, s:O}", "quant_method", "kronq",
                  "format_version", KQ_FORMAT_VERSION, "bits", (int)lround(report->bits), "bpw",
                  report->bpw_linear, "bpw_file", report->bpw_file, "code", kq_code_name(code), "L",
                  KQ_TRELLIS_L, "V", kq_code_V(code), "tile", KQ_TILE, KQ_TILE, "embed_bits", o->embed_bits,
                  "module_bits", bits_of, "modules_to_not_convert", skipped);
    if (qc && !kq_source_config(o->src)->tie_embeddings)
        json_object_set_new(qc, "head_bits", json_integer(o->head_bits));
    if (qc && json_object_size(z->one_sided))
        json_object_set(qc, "one_sided_modules", z->one_sided);
    if (qc && o->frequent_rows)
        json_object_set_new(qc, "frequent_rows", json_integer((json_int_t)o->frequent_rows));
    if (qc && !same_bits(bits_of))
        json_object_set_new(qc, "bits_average", json_real(report->bits));
    json_t *auto_map =
        json_pack("{s:s}", "AutoModelForCausalLM",
                  kq_source_config(o->src)->arch == KQ_ARCH_QWEN3 ? "modeling_kronq.Qwen3ForCausalLM"
                                                                  : "modeling_kronq.LlamaForCausalLM");
    if (!config || !qc || (extra && json_object_update(qc, extra)) ||
        json_object_set(config, "quantization_config", qc) || json_object_set(config, "auto_map", auto_map))
        status = kq_fail(err, KQ_E_MEMORY, "%s/config.json: out of memory", o->dir);
    else if (o->command) {
        const kq_card_facts facts = {.command = o->command,
                                     .predicted_loss = o->predicted_loss,
                                     .relative_mse = o->relative_mse,
                                     .file_bytes = report->file_bytes,
                                     .n_parameters = report->n_parameters};
        status = kq_card_quantized(o->src, qc, &facts, o->dir, err);
    }
    if (!status)
        status = kq_write_config(o->dir, config, err);
    json_decref(config);
    json_decref(extra);
    json_decref(qc);
    json_decref(auto_map);
    return status;
}

/* Bits that one linear takes: its scales and its trellis words. */
double kq_packed_bits(size_t m, size_t n, double k)
{
    return (double)((m + 15) / 16 * ((n + 15) / 16) * 256) * k + 16 * (double)(m + n) + 32;
}

static kq_packed shape_of(size_t m, size_t n)
{
    return (kq_packed){.m = m, .n = n, .m_pad = (m + 15) / 16 * 16, .n_pad = (n + 15) / 16 * 16};
}

static kq_packed shape_of_rows(const kq_config *cfg, int k, size_t frequent)
{
    kq_packed p = shape_of(cfg->vocab_size, cfg->d_model);
    kq_fine_rows(&p, frequent, k);
    return p;
}

void kq_fine_rows(kq_packed *p, size_t frequent, int k)
{
    const size_t rows = p->m_pad / 16, first = (frequent + 15) / 16, last = (p->m / 256 + 15) / 16;
    p->fine_first = p->fine_last = 0;
    if (!frequent || k == KQ_FINE_BITS)
        return;
    p->fine_first = first < rows ? first : rows;
    p->fine_last = last < rows - p->fine_first ? last : rows - p->fine_first;
}

double kq_packed_rows_bits(const kq_config *cfg, int k, size_t frequent)
{
    const kq_packed p = shape_of_rows(cfg, k, frequent);
    int bits;
    return 16 * (double)kq_packed_row_at(&p, k, p.m_pad / 16, &bits) + 16 * (double)(p.m + p.n) + 32;
}

size_t kq_count_parameters(const kq_config *cfg)
{
    size_t total = cfg->d_model * (2 * cfg->n_layer + 1) +
                   cfg->vocab_size * cfg->d_model * (cfg->tie_embeddings ? 1 : 2);
    if (cfg->arch == KQ_ARCH_QWEN3)
        total += 2 * cfg->head_dim * cfg->n_layer;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        total += cfg->n_layer * m * n;
    }
    return total;
}

void kq_checkpoint_plan(const kq_source *src, int embed_bits, int head_bits, size_t frequent_rows,
                        double (*bits)(void *ctx, size_t layer, kq_linear_id id), void *ctx,
                        kq_save_report *report)
{
    const kq_config *cfg = kq_source_config(src);
    double packed = 0, trellis = 0;
    size_t weights = 0, other_bits = 0;
    *report = (kq_save_report){.n_parameters = kq_count_parameters(cfg)};
    for (size_t i = 0; i < kq_source_n_tensors(src); i++) {
        const kq_tensor *t = kq_source_tensor(src, i);
        if (is_head(t) && cfg->tie_embeddings)
            continue;
        const int b = is_head(t) ? head_bits : is_rows(t) ? embed_bits : 16;
        if (b < 8)
            other_bits += (size_t)kq_packed_rows_bits(cfg, b, frequent_rows);
        else if (b < 16)
            other_bits += t->n_elem * (size_t)b + t->n_elem / kq_rows_group(cfg->d_model) * 16;
        else
            other_bits += t->n_elem * dtype_bytes(kq_kept_dtype(t->dtype)) * 8;
    }
    for (size_t l = 0; l < cfg->n_layer; l++) {
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            const double k = bits(ctx, l, (kq_linear_id)id);
            if (k == 0)
                continue;
            size_t m, n;
            char name[160];
            kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
            kq_linear_name(name, sizeof name - 8, l, (kq_linear_id)id);
            strcat(name, ".weight");
            const kq_tensor *t = kq_source_find(src, name);
            if (t)
                other_bits -= t->n_elem * dtype_bytes(kq_kept_dtype(t->dtype)) * 8;
            packed += kq_packed_bits(m, n, k);
            trellis += (double)(m * n) * k;
            weights += m * n;
            report->n_quantized++;
        }
    }
    report->n_weights_quantized = weights;
    report->file_bytes = (size_t)((packed + (double)other_bits) / 8);
    report->bits = weights ? trellis / (double)weights : 0;
    report->bpw_linear = weights ? packed / (double)weights : 0;
    report->bpw_file = (packed + (double)other_bits) / (double)report->n_parameters;
}

/* Open block l's part file, where there is one, and count its linears. */
static kq_status open_part(saving *z, size_t l, kq_error *err)
{
    const kq_config *cfg = kq_source_config(z->o->src);
    char *path = NULL;
    kq_status status = kq_path_in(&path, err, z->o->part_dir, "block-%05zu.safetensors", l);
    if (!status && kq_path_exists(path))
        status = kq_st_open(path, &z->parts[l], err);
    kq_free(path);
    for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
        char module[128], name[NAME];
        size_t m, n;
        kq_linear_name(module, sizeof module, l, (kq_linear_id)id);
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        snprintf(name, sizeof name, "%s.trellis", module);
        const kq_tensor *t = z->parts[l] ? kq_st_find(z->parts[l], name) : NULL;
        if (!t) {
            json_array_append_new(z->skipped, json_string(module));
            continue;
        }
        const size_t k = t->rank == 3 ? t->shape[2] / 16 : 0; /* docs/format.md: [m/16, n/16, 16 k] */
        json_object_set_new(z->bits_of, module, json_integer((json_int_t)k));
        z->packed += kq_packed_bits(m, n, (double)k);
        z->trellis += (double)(m * n) * (double)k;
        z->report->n_quantized++;
        z->report->n_weights_quantized += m * n;
    }
    return status;
}

static bool is_in_part(void *ctx, size_t layer, const char *name)
{
    const saving *z = ctx;
    char tensor[NAME];
    snprintf(tensor, sizeof tensor, "%s.trellis", name);
    return layer < kq_source_config(z->o->src)->n_layer && z->parts[layer] &&
           kq_st_find(z->parts[layer], tensor);
}

static kq_status add_table(entries *list, kq_code code, kq_error *err)
{
    entry e = make("kronq.hyb_table", KQ_T_F32, 2, (size_t[]){KQ_HYB_ENTRIES, 2});
    e.from = FROM_TABLE;
    return code == KQ_HYB ? add(list, e, err) : KQ_OK;
}

/* Bits of head or embedding (kq_rows_id); a tied head has none of its own. */
static int bits_of_rows(const kq_save_options *o, size_t i)
{
    return i == KQ_ROWS_EMBEDDING                     ? o->embed_bits
           : kq_source_config(o->src)->tie_embeddings ? 16
                                                      : o->head_bits;
}

/* Open the part files of embedding and head, where they are trellises. */
static kq_status open_rows(saving *z, kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t i = 0; i < KQ_N_ROWS && !status; i++) {
        char *path = NULL;
        if (bits_of_rows(z->o, i) >= 8)
            continue;
        if (!(status = kq_path_in(&path, err, z->o->part_dir, "packed-%05zu.safetensors",
                                  (size_t)(KQ_ROWS_PART * bits_of_rows(z->o, i)) + i)) &&
            !(status = kq_st_open(path, &z->rows[i], err)))
            json_object_set_new(z->one_sided, kq_rows_module[i], json_integer(bits_of_rows(z->o, i)));
        kq_free(path);
    }
    return status;
}

static kq_status add_part(entries *list, const kq_st_file *part, kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t i = 0; part && i < kq_st_n_tensors(part) && !status; i++) {
        const kq_tensor *t = kq_st_tensor(part, i);
        entry e = make(t->name, t->dtype, t->rank, t->shape);
        e.from = FROM_PART;
        e.t = t;
        status = add(list, e, err);
    }
    return status;
}

/* Make the list of the checkpoint's tensors: those that are kept, those of the part files, the table
 * of hyb. */
static kq_status list_tensors(saving *z, kq_error *err)
{
    const size_t n_layer = kq_source_config(z->o->src)->n_layer;
    kq_status status = add_source(&z->list, z->o, is_in_part, z, err);
    for (size_t i = 0; i < KQ_N_ROWS && !status; i++)
        status = add_part(&z->list, z->rows[i], err);
    for (size_t l = 0; l < n_layer && !status; l++)
        status = add_part(&z->list, z->parts[l], err);
    return status ? status : add_table(&z->list, z->o->code, err);
}

/* Compute the figures of the report and write the files beside the weights, config.json last. */
static kq_status write_side_files(saving *z, kq_error *err)
{
    kq_save_report *r = z->report;
    const double weights = (double)r->n_weights_quantized;
    r->bpw_linear = weights > 0 ? z->packed / weights : 0;
    r->bits = weights > 0 ? z->trellis / weights : 0;
    r->bpw_file = 8.0 * (double)r->file_bytes / (double)r->n_parameters;
    json_array_append_new(z->skipped, json_string("lm_head"));
    kq_status status;
    if ((status = kq_write_hf_side_files(z->o->src, z->o->dir, err)) ||
        (status = kq_write_modeling(z->o->dir, err)))
        return status;
    return write_config(z, err);
}

kq_status kq_checkpoint_save(const kq_save_options *o, kq_save_report *report, kq_error *err)
{
    const kq_config *cfg = kq_source_config(o->src);
    *report = (kq_save_report){.n_parameters = kq_count_parameters(cfg)};
    saving z = {.o = o,
                .report = report,
                .parts = kq_calloc(cfg->n_layer, sizeof *z.parts),
                .bits_of = json_object(),
                .skipped = json_array(),
                .one_sided = json_object()};
    kq_status status = z.parts && z.bits_of && z.skipped && z.one_sided
                           ? KQ_OK
                           : kq_fail(err, KQ_E_MEMORY, "out of memory: the checkpoint's list");
    for (size_t l = 0; l < cfg->n_layer && !status; l++)
        status = open_part(&z, l, err);
    if (!status)
        status = open_rows(&z, err);
    if (!status && !(status = list_tensors(&z, err)) && !(status = write_tensors(o, &z.list, report, err)))
        status = write_side_files(&z, err);
    for (size_t l = 0; z.parts && l < cfg->n_layer; l++)
        kq_st_close(z.parts[l]);
    for (size_t i = 0; i < KQ_N_ROWS; i++)
        kq_st_close(z.rows[i]);
    kq_free(z.parts);
    kq_free(z.list.e);
    json_decref(z.bits_of);
    json_decref(z.skipped);
    json_decref(z.one_sided);
    return status;
}

/* ---- the size of a checkpoint, before any work ---- */

/* The linears that will be packed, by the bits that they will have. */
typedef struct packing {
    const kq_config *cfg;
    double (*bits)(void *ctx, size_t layer, kq_linear_id id);
    void *ctx;
} packing;

static bool will_be_packed(void *ctx, size_t layer, const char *name)
{
    const packing *p = ctx;
    for (int id = 0; id < KQ_N_LINEAR && layer < p->cfg->n_layer; id++) {
        char module[128];
        kq_linear_name(module, sizeof module, layer, (kq_linear_id)id);
        if (!strcmp(module, name))
            return p->bits(p->ctx, layer, (kq_linear_id)id) > 0;
    }
    return false;
}

/* The tensors of one packed matrix of k bits. */
static kq_status add_packed(entries *list, const char *module, const kq_packed *p, int k, kq_error *err)
{
    kq_st_decl parts[KQ_PACKED_TENSORS];
    kq_packed_tensors(p, k, parts);
    kq_status status = KQ_OK;
    for (size_t i = 0; i < KQ_PACKED_TENSORS && !status; i++) {
        entry e = make("", parts[i].dtype, parts[i].rank, parts[i].shape);
        snprintf(e.name, sizeof e.name, "%s.%s", module, parts[i].name);
        status = add(list, e, err);
    }
    return status;
}

/* The tensors of embedding and head, where they will be trellises. */
static kq_status add_packed_rows(entries *list, const kq_save_options *o, kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t i = 0; i < KQ_N_ROWS && !status; i++) {
        const int k = bits_of_rows(o, i);
        const kq_config *cfg = kq_source_config(o->src);
        const kq_packed p = shape_of_rows(cfg, k, o->frequent_rows);
        if (k < 8)
            status = add_packed(list, kq_rows_module[i], &p, k, err);
    }
    return status;
}

kq_status kq_checkpoint_bytes(const kq_save_options *o,
                              double (*bits)(void *ctx, size_t layer, kq_linear_id id), void *ctx,
                              size_t *bytes, kq_error *err)
{
    packing p = {kq_source_config(o->src), bits, ctx};
    entries list = {0};
    kq_st_decl *decl = NULL;
    kq_status status = add_source(&list, o, will_be_packed, &p, err);
    if (!status)
        status = add_packed_rows(&list, o, err);
    for (size_t l = 0; l < p.cfg->n_layer && !status; l++)
        for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
            char module[128];
            size_t m, n;
            kq_linear_name(module, sizeof module, l, (kq_linear_id)id);
            kq_linear_shape(p.cfg, (kq_linear_id)id, &m, &n);
            const kq_packed shape = shape_of(m, n);
            const int k = (int)bits(ctx, l, (kq_linear_id)id);
            if (k)
                status = add_packed(&list, module, &shape, k, err);
        }
    if (!status && !(status = add_table(&list, o->code, err)) && !(status = declare(&list, &decl, err)))
        status = kq_st_planned_shards(o->shard_size, decl, list.n, bytes, err);
    kq_free(decl);
    kq_free(list.e);
    return status;
}
