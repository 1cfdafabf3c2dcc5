#include "quant/gguf_save.h"

#include <stdio.h>
#include <string.h>

#include "base/f16.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/gguf_model.h"
#include "io/gguf_write.h"

enum { NAME = 160, SLAB = 1024 };

/* One tensor of the file. */
typedef struct entry {
    char hf[NAME], gguf[64];
    const kq_tensor *t;     /* of the source, borrowed */
    kq_dtype type;          /* in the file */
    enum { PART, ROWS, PLAIN, STORED } from; /* rounded already; rounded here; converted; the source's own bytes */
    size_t layer;
} entry;

typedef struct saver {
    const kq_prepared *p;
    const kq_gguf_types *types;
    entry *e; /* owned */
    size_t n;
} saver;

static kq_status add(saver *s, const char *hf, const char *gguf, kq_dtype type, int from, size_t layer, kq_error *err)
{
    entry *e = &s->e[s->n++];
    *e = (entry){.type = type, .from = from, .layer = layer};
    snprintf(e->hf, sizeof e->hf, "%s", hf);
    snprintf(e->gguf, sizeof e->gguf, "%s", gguf);
    e->t = kq_source_find(s->p->src, hf);
    return e->t ? KQ_OK : kq_fail(err, KQ_E_SHAPE, "%s: tensor %s is missing", kq_source_path(s->p->src), hf);
}

/* A linear that was not wanted: its own bytes where a GGUF holds them, else its own plain type. */
static kq_status add_kept(saver *s, const char *hf, const char *gguf, size_t layer, kq_error *err)
{
    const kq_tensor *t = kq_source_find(s->p->src, hf);
    const bool stored = t && kq_source_gguf(s->p->src);
    return add(s, hf, gguf, t ? t->dtype : KQ_T_OTHER, stored ? STORED : PLAIN, layer, err);
}

/* Every tensor, in the order in which llama.cpp's converter writes them. */
static kq_status list_tensors(saver *s, kq_error *err)
{
    static const char *const part[] = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"};
    static const struct { const char *hf, *gguf; } norms[] = {{"input_layernorm", "attn_norm"}, {"post_attention_layernorm", "ffn_norm"},
                                                             {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"}};
    const kq_config *cfg = s->p->cfg;
    const kq_gguf_types *types = s->types;
    char hf[NAME], gguf[64];
    kq_status status = kq_alloc_for((void **)&s->e, 4 + cfg->n_layer * (KQ_N_LINEAR + 4), sizeof *s->e, "list of tensors", err);
    if (status)
        return status;
    status = add(s, "model.embed_tokens.weight", "token_embd.weight", types->embed, kq_grid_known(types->embed) ? ROWS : PLAIN, 0, err);
    for (size_t l = 0; l < cfg->n_layer && !status; l++) {
        for (size_t i = 0; i < (cfg->arch == KQ_ARCH_QWEN3 ? 4 : 2) && !status; i++) {
            snprintf(hf, sizeof hf, "model.layers.%zu.%s.weight", l, norms[i].hf);
            snprintf(gguf, sizeof gguf, "blk.%zu.%s.weight", l, norms[i].gguf);
            status = add(s, hf, gguf, KQ_T_F32, PLAIN, l, err);
        }
        for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
            const kq_dtype type = types->linear[l * KQ_N_LINEAR + (size_t)id];
            kq_linear_name(hf, sizeof hf - 8, l, (kq_linear_id)id);
            strcat(hf, ".weight");
            snprintf(gguf, sizeof gguf, "blk.%zu.%s.weight", l, part[id]);
            status = type == KQ_T_OTHER ? add_kept(s, hf, gguf, l, err) : add(s, hf, gguf, type, PART, l, err);
        }
    }
    if (!status)
        status = add(s, "model.norm.weight", "output_norm.weight", KQ_T_F32, PLAIN, 0, err);
    if (!status && !cfg->tie_embeddings)
        status = add(s, "lm_head.weight", "output.weight", types->head, kq_grid_known(types->head) ? ROWS : PLAIN, 0, err);
    if (!status && cfg->rope_scaling.llama3 && kq_source_find(s->p->src, "rope_freqs.weight"))
        status = add(s, "rope_freqs.weight", "rope_freqs.weight", KQ_T_F32, PLAIN, 0, err);
    return status;
}

void kq_gguf_plain(kq_dtype type, const float *x, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i++) {
        const uint16_t h = type == KQ_T_F16 ? kq_f32_to_f16(x[i]) : kq_f32_to_bf16(x[i]);
        if (type == KQ_T_F32)
            memcpy(out + 4 * i, &x[i], 4);
        else
            memcpy(out + 2 * i, &h, 2);
    }
}

static size_t cols_of(const kq_tensor *t)
{
    return t->rank == 2 ? t->shape[1] : t->shape[0];
}

static size_t rows_of(const kq_tensor *t)
{
    return t->rank == 2 ? t->shape[0] : 1;
}

/* Is row i of Hugging Face's order elsewhere in the file? */
static bool interleaved(const saver *s, const entry *e)
{
    return s->p->cfg->arch == KQ_ARCH_LLAMA && (strstr(e->gguf, ".attn_q.weight") || strstr(e->gguf, ".attn_k.weight"));
}

/* Rows in Hugging Face's order to the writer, in the file's. row(i) is at data + i * size. */
static kq_status write_rows(const saver *s, kq_gguf_writer *w, const entry *e, const uint8_t *data, size_t rows, size_t size, kq_error *err)
{
    if (!interleaved(s, e))
        return kq_gguf_writer_data(w, data, rows * size, err);
    uint8_t *moved;
    kq_status status = kq_alloc_for((void **)&moved, rows, size, e->gguf, err);
    for (size_t r = 0; r < rows && !status; r++)
        memcpy(moved + kq_gguf_qk_row(r, s->p->cfg->head_dim) * size, data + r * size, size);
    if (!status)
        status = kq_gguf_writer_data(w, moved, rows * size, err);
    kq_free(moved);
    return status;
}

static kq_status write_part(const saver *s, kq_gguf_writer *w, const entry *e, const kq_st_file *part, kq_error *err)
{
    char name[NAME];
    snprintf(name, sizeof name, "%.*s.blocks", (int)(strlen(e->hf) - strlen(".weight")), e->hf);
    const kq_tensor *b = kq_st_find(part, name);
    const size_t row = kq_gguf_row_bytes(e->type, 1, cols_of(e->t));
    if (!b || b->dtype != KQ_T_U8 || b->rank != 2 || b->shape[0] != rows_of(e->t) || b->shape[1] != row)
        return kq_fail(err, KQ_E_FORMAT, "%s of the unfinished work is missing or has another shape; remove the unfinished output and start again", name);
    return write_rows(s, w, e, b->data, b->shape[0], row, err);
}

/* Rows straight from the source, a slab at a time: converted, or rounded each for itself. A q or k goes whole, its rows change places. */
static kq_status write_source_rows(const saver *s, kq_gguf_writer *w, const entry *e, kq_error *err)
{
    const size_t rows = rows_of(e->t), n = cols_of(e->t), row = kq_gguf_row_bytes(e->type, 1, n), step = interleaved(s, e) || rows < SLAB ? rows : SLAB;
    const kq_common *c = &s->p->opt->common;
    float *x = NULL;
    uint8_t *out = NULL;
    kq_status status = kq_alloc_for((void **)&x, step * n, sizeof *x, e->gguf, err);
    if (!status)
        status = kq_alloc_for((void **)&out, step, row, e->gguf, err);
    for (size_t r = 0; r < rows && !status; r += step) {
        const size_t count = rows - r < step ? rows - r : step;
        if ((status = kq_source_read_f32(s->p->src, e->t, e->t->rank == 2 ? r : 0, e->t->rank == 2 ? count : n, x, err)))
            break;
        if (e->from == ROWS)
            status = kq_grid_nearest(e->type, e->hf, x, count, n, s->p->threads, out, err);
        else
            kq_gguf_plain(e->type, x, count * n, out);
        if (!status)
            status = write_rows(s, w, e, out, count, row, err);
        if (!status && e->from == ROWS && c->progress && c->progress(c->ctx, "embedding", (double)(r + count) / (double)rows, NULL))
            status = kq_fail(err, KQ_E_INTERRUPTED, "stopped while writing %s", e->gguf);
    }
    kq_free(x);
    kq_free(out);
    return status;
}

static kq_status write_metadata(const saver *s, kq_gguf_writer *w, const char *settings, kq_error *err)
{
    kq_status status;
    if ((status = kq_gguf_writer_u32(w, "general.file_type", s->types->mix->file_type, err)) ||
        (status = kq_gguf_writer_u32(w, "general.quantization_version", 2, err)) ||
        (status = kq_gguf_writer_str(w, "kronq.version", kq_version(), err)) || (status = kq_gguf_writer_str(w, "kronq.settings", settings, err)))
        return status;
    const kq_gguf *g = kq_source_gguf(s->p->src);
    if (!g)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: a GGUF from a Hugging Face folder is not written yet", kq_source_path(s->p->src));
    for (size_t i = 0; i < kq_gguf_n_kv(g) && !status; i++) {
        const kq_gguf_kv *kv = kq_gguf_kv_at(g, i);
        if (!kq_gguf_writer_has(w, kv->key) && strncmp(kv->key, "split.", 6) && strcmp(kv->key, "general.alignment"))
            status = kq_gguf_writer_copy(w, kv, err);
    }
    return status;
}

static uint32_t ggml_type(kq_dtype type)
{
    for (uint32_t i = 0; i < 64; i++)
        if (kq_gguf_dtype(i) == type)
            return i;
    return UINT32_MAX;
}

kq_status kq_gguf_save(const kq_prepared *p, const kq_gguf_types *types, const kq_job *job, const char *path, const char *settings, kq_gguf_saved *saved,
                       kq_error *err)
{
    saver s = {.p = p, .types = types};
    kq_gguf_writer *w = NULL;
    kq_st_file *part = NULL;
    size_t part_layer = SIZE_MAX;
    *saved = (kq_gguf_saved){0};
    kq_status status = list_tensors(&s, err);
    if (!status)
        status = kq_gguf_writer_new(path, &w, err);
    if (!status)
        status = write_metadata(&s, w, settings, err);
    for (size_t i = 0; i < s.n && !status; i++) {
        const entry *e = &s.e[i];
        const uint64_t ne[2] = {cols_of(e->t), rows_of(e->t)};
        status = kq_gguf_writer_declare(w, e->gguf, ggml_type(e->type), e->t->rank == 2 ? 2 : 1, ne, err);
        saved->n_parameters += strcmp(e->gguf, "rope_freqs.weight") ? e->t->n_elem : 0;
    }
    for (size_t i = 0; i < s.n && !status; i++) {
        const entry *e = &s.e[i];
        if (e->from == PART && e->layer != part_layer) {
            char name[4400];
            kq_st_close(part);
            part = NULL;
            kq_job_path(job, "block", e->layer, "safetensors", name);
            status = kq_st_open(name, &part, err);
            part_layer = e->layer;
        }
        if (status)
            break;
        switch (e->from) {
        case PART: status = write_part(&s, w, e, part, err); break;
        case STORED: status = kq_gguf_writer_data(w, e->t->data, e->t->size_bytes, err); break;
        case ROWS: case PLAIN: status = write_source_rows(&s, w, e, err); break;
        }
    }
    kq_st_close(part);
    if (status)
        kq_gguf_writer_abort(w);
    else
        status = kq_gguf_writer_finish(w, err);
    kq_free(s.e);
    kq_map map;
    if (!status && !(status = kq_map_open(path, &map, err))) {
        saved->file_bytes = map.size;
        kq_map_close(&map);
    }
    return status;
}

kq_status kq_gguf_check_saved(const char *path, const char *settings, kq_error *err)
{
    kq_gguf *g;
    kq_status status = kq_gguf_open(path, &g, err);
    if (status)
        return status;
    if (!kq_gguf_str_is(kq_gguf_find(g, "kronq.settings"), 0, settings))
        status = kq_fail(err, KQ_E_MISMATCH, "%s: the file there was not made with these settings; choose another output or remove it", path);
    kq_gguf_close(g);
    return status;
}

size_t kq_gguf_linear_bytes(const kq_gguf_types *t, const kq_config *cfg)
{
    size_t sum = 0;
    for (size_t l = 0; l < cfg->n_layer; l++)
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            size_t m, n;
            const kq_dtype type = t->linear[l * KQ_N_LINEAR + (size_t)id];
            kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
            if (type != KQ_T_OTHER)
                sum += kq_gguf_row_bytes(type, m, n);
        }
    return sum;
}

size_t kq_gguf_planned_bytes(const kq_source *src, const kq_gguf_types *t)
{
    const kq_config *cfg = kq_source_config(src);
    size_t sum = kq_gguf_linear_bytes(t, cfg) + kq_gguf_row_bytes(t->embed, cfg->vocab_size, cfg->d_model);
    if (!cfg->tie_embeddings)
        sum += kq_gguf_row_bytes(t->head, cfg->vocab_size, cfg->d_model);
    for (size_t i = 0; i < kq_source_n_tensors(src); i++) {
        const kq_tensor *x = kq_source_tensor(src, i);
        if (x->rank < 2)
            sum += 4 * x->n_elem;
    }
    for (size_t l = 0; l < cfg->n_layer; l++)
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            char name[NAME];
            if (t->linear[l * KQ_N_LINEAR + (size_t)id] != KQ_T_OTHER)
                continue;
            kq_linear_name(name, sizeof name - 8, l, (kq_linear_id)id);
            strcat(name, ".weight");
            const kq_tensor *x = kq_source_find(src, name);
            sum += x ? x->size_bytes : 0;
        }
    return sum;
}
