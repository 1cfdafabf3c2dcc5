/* Writes the GGUF of a quantized model, tensor by tensor in llama.cpp's order. A tensor's bytes come from a
 * part file, from rounding its rows here, or from the source, so that only some rows are in memory at
 * a time. */
#include "checkpoint/gguf_save.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "format/dequant.h"
#include "format/encode.h"
#include "format/safetensors_write.h"
#include "source/gguf_model.h"
#include "checkpoint/gguf_model_write.h"
#include "source/rope.h"

enum { NAME = 160, SLAB = 1024 };

/* One tensor of the file. */
typedef struct entry {
    kq_gguf_slot slot;
    const kq_tensor *t; /* of the source, borrowed; NULL for rope_freqs.weight */
    kq_dtype type;      /* in the file */
    /* in this order: rounded already; rounded here; converted; the source's own bytes; computed */
    enum { PART, ROWS, PLAIN, STORED, ROPE } from;
} entry;

typedef struct saver {
    const kq_gguf_save_options *o;
    const kq_config *cfg;
    entry *e; /* owned */
    size_t n;
} saver;

/* Decide where the bytes of each tensor come from. A linear that was not selected keeps its bytes when the
 * source is a GGUF, and its plain type otherwise. */
static kq_status list_tensors(saver *s, kq_error *err)
{
    const kq_source *src = s->o->src;
    kq_gguf_slot *slots = NULL;
    kq_status status = kq_gguf_layout(s->cfg, &slots, &s->n, err);
    if (!status)
        status = kq_alloc_for((void **)&s->e, s->n, sizeof *s->e, "list of tensors", err);
    for (size_t i = 0; i < s->n && !status; i++) {
        entry *e = &s->e[i];
        *e = (entry){.slot = slots[i], .type = KQ_T_F32, .from = PLAIN};
        if (!*e->slot.hf_name) {
            e->from = ROPE;
            continue;
        }
        if (!(e->t = kq_source_find(src, e->slot.hf_name))) {
            status =
                kq_fail(err, KQ_E_SHAPE, "%s: tensor %s is missing", kq_source_path(src), e->slot.hf_name);
            break;
        }
        if (e->slot.rank == 1)
            continue;
        if (e->slot.linear < 0) {
            e->type = strcmp(e->slot.hf_name, "lm_head.weight") ? s->o->types->embed : s->o->types->head;
            e->from = kq_grid_known(e->type) ? ROWS : PLAIN;
        } else if ((e->type = s->o->types->linear[e->slot.layer * KQ_N_LINEAR + (size_t)e->slot.linear]) !=
                   KQ_T_OTHER) {
            e->from = PART;
        } else {
            e->type = kq_source_gguf(src) ? e->t->dtype : kq_dtype_plain(e->t->dtype);
            e->from = kq_source_gguf(src) ? STORED : PLAIN;
        }
    }
    kq_free(slots);
    return status;
}

static size_t cols_of(const kq_tensor *t)
{
    return t->rank == 2 ? t->shape[1] : t->shape[0];
}

static size_t rows_of(const kq_tensor *t)
{
    return t->rank == 2 ? t->shape[0] : 1;
}

/* Give rows that are in Hugging Face's order to the writer in the file's order. */
static kq_status write_rows(kq_gguf_writer *w, const entry *e, const uint8_t *data, size_t rows, size_t size,
                            kq_error *err)
{
    if (!e->slot.head_dim)
        return kq_gguf_writer_data(w, data, rows * size, err);
    uint8_t *moved;
    kq_status status = kq_alloc_for((void **)&moved, rows, size, e->slot.name, err);
    for (size_t r = 0; r < rows && !status; r++)
        memcpy(moved + r * size, data + kq_gguf_hf_row(r, e->slot.head_dim) * size, size);
    if (!status)
        status = kq_gguf_writer_data(w, moved, rows * size, err);
    kq_free(moved);
    return status;
}

static kq_status write_part(kq_gguf_writer *w, const entry *e, const kq_st_file *part, kq_error *err)
{
    char name[NAME];
    snprintf(name, sizeof name, "%.*s.blocks", (int)(strlen(e->slot.hf_name) - strlen(".weight")),
             e->slot.hf_name);
    const kq_tensor *b = kq_st_find(part, name);
    const size_t row = kq_gguf_row_bytes(e->type, 1, cols_of(e->t));
    if (!b || b->dtype != KQ_T_U8 || b->rank != 2 || b->shape[0] != rows_of(e->t) || b->shape[1] != row)
        return kq_fail(err, KQ_E_FORMAT,
                       "%s of the unfinished work is missing or has another shape; --fresh discards the "
                       "unfinished work and starts anew",
                       name);
    return write_rows(w, e, b->data, b->shape[0], row, err);
}

/* Write a tensor's rows from the source, a slab at a time, converted or rounded. The rows of embedding and
 * head do not depend on each other, so that a slab is rounded as the whole would be. A q or k projection is
 * written as a whole, because its rows change places. */
static kq_status write_source_rows(const saver *s, kq_gguf_writer *w, const entry *e, kq_error *err)
{
    const size_t rows = rows_of(e->t), n = cols_of(e->t), row = kq_gguf_row_bytes(e->type, 1, n),
                 step = e->slot.head_dim || rows < SLAB ? rows : SLAB;
    const kq_common *c = s->o->common;
    const float *H = strcmp(e->slot.hf_name, "lm_head.weight") ? s->o->embed_H : s->o->head_H;
    float *x = NULL;
    uint8_t *out = NULL;
    kq_status status = kq_alloc_for((void **)&x, step * n, sizeof *x, e->slot.name, err);
    if (!status)
        status = kq_alloc_for((void **)&out, step, row, e->slot.name, err);
    for (size_t r = 0; r < rows && !status; r += step) {
        const size_t count = rows - r < step ? rows - r : step;
        if ((status = kq_source_read_f32(s->o->src, e->t, e->t->rank == 2 ? r : 0,
                                         e->t->rank == 2 ? count : n, x, err)))
            break;
        if (e->from == ROWS && H)
            status = kq_grid_round(
                e->type, &(kq_round_input){.name = e->slot.hf_name, .W = x, .m = count, .n = n, .H_in = H},
                &s->o->rounding, out, NULL, err);
        else if (e->from == ROWS)
            status = kq_grid_nearest(e->type, e->slot.hf_name, x, count, n, s->o->threads, out, err);
        else
            status = kq_fail_within(err, kq_encode(e->type, x, count * n, out, NULL, err), e->slot.hf_name);
        if (!status)
            status = write_rows(w, e, out, count, row, err);
        if (!status && e->from == ROWS && c->progress &&
            c->progress(c->ctx, "embedding", (double)(r + count) / (double)rows, NULL))
            status = kq_fail(err, KQ_E_INTERRUPTED, "stopped while writing %s", e->slot.name);
    }
    kq_free(x);
    kq_free(out);
    return status;
}

static kq_status write_metadata(const kq_gguf_save_options *o, kq_gguf_writer *w, kq_error *err)
{
    kq_status status;
    if ((status = kq_gguf_writer_u32(w, "general.quantization_version", 2, err)) ||
        (status = kq_gguf_writer_str(w, "kronq.version", kq_version(), err)) ||
        (status = kq_gguf_writer_str(w, "kronq.settings", o->settings, err)))
        return status;
    return kq_gguf_write_model(w, o->src, o->types->mix->file_type, err);
}

kq_status kq_gguf_try_metadata(const kq_gguf_save_options *o, kq_error *err)
{
    char *path;
    kq_gguf_writer *w = NULL;
    kq_error why = {0};
    kq_status status = kq_path_in(&path, err, o->part_dir, "job.json.try");
    if (status)
        return status;
    status = kq_gguf_writer_new(path, &w, err);
    if (!status && (status = write_metadata(o, w, &why)))
        kq_fail(err, status, "%s", why.message);
    kq_gguf_writer_abort(w);
    kq_free(path);
    return status;
}

static kq_status write_rope(const saver *s, kq_gguf_writer *w, const entry *e, kq_error *err)
{
    float *factors;
    kq_status status = kq_alloc_for((void **)&factors, e->slot.ne[0], sizeof *factors, e->slot.name, err);
    if (!status) {
        kq_rope_divisors(s->cfg, factors);
        status = kq_gguf_writer_data(w, factors, e->slot.ne[0] * sizeof *factors, err);
    }
    kq_free(factors);
    return status;
}

/* The part file of a layer, opened when the first of its linears is written. */
static kq_status open_part(const saver *s, size_t layer, kq_st_file **part, kq_error *err)
{
    char *path;
    kq_status status = kq_path_in(&path, err, s->o->part_dir, "block-%05zu.safetensors", layer);
    kq_st_close(*part);
    *part = NULL;
    if (!status)
        status = kq_st_open(path, part, err);
    kq_free(path);
    return status;
}

static kq_status write_tensors(const saver *s, kq_gguf_writer *w, kq_error *err)
{
    kq_st_file *part = NULL;
    size_t part_layer = SIZE_MAX;
    kq_status status = KQ_OK;
    for (size_t i = 0; i < s->n && !status; i++) {
        const entry *e = &s->e[i];
        switch (e->from) {
        case PART:
            if (e->slot.layer != part_layer)
                status = open_part(s, part_layer = e->slot.layer, &part, err);
            if (!status)
                status = write_part(w, e, part, err);
            break;
        case STORED:
            status = kq_gguf_writer_data(w, e->t->data, e->t->size_bytes, err);
            kq_map_release(e->t->data, e->t->size_bytes);
            break;
        case ROPE: status = write_rope(s, w, e, err); break;
        case ROWS:
        case PLAIN: status = write_source_rows(s, w, e, err); break;
        }
    }
    kq_st_close(part);
    return status;
}

kq_status kq_gguf_save(const kq_gguf_save_options *o, const char *path, kq_gguf_saved *saved, kq_error *err)
{
    saver s = {.o = o, .cfg = kq_source_config(o->src)};
    kq_gguf_writer *w = NULL;
    *saved = (kq_gguf_saved){0};
    kq_status status = list_tensors(&s, err);
    if (!status)
        status = kq_gguf_writer_new(path, &w, err);
    if (!status)
        status = write_metadata(o, w, err);
    for (size_t i = 0; i < s.n && !status; i++) {
        const entry *e = &s.e[i];
        status =
            kq_gguf_writer_declare(w, e->slot.name, kq_gguf_type_of(e->type), e->slot.rank, e->slot.ne, err);
        saved->n_parameters += e->t ? e->t->n_elem : 0;
    }
    if (!status)
        status = write_tensors(&s, w, err);
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
        status = kq_fail(
            err, KQ_E_MISMATCH,
            "%s: the file there was not made with these settings; choose another output or remove it", path);
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
            if (x && kq_source_gguf(src))
                sum += x->size_bytes;
            else if (x)
                sum += kq_gguf_row_bytes(kq_dtype_plain(x->dtype), rows_of(x), cols_of(x));
        }
    return sum;
}
