/* The two streams of hidden states, block by block, in files of the work folder.
 *
 * They are f32: the targets are made of differences of the two, and bf16 would add an error of its own to
 * every block's difference. */
#include <omp.h>
#include <string.h>

#include "base/f16.h"
#include "base/first_error.h"
#include "base/mem.h"
#include "sequential/internal.h"

static const char stem[] = "stream", suffix[] = "f32";

/* About this many tokens are in memory at once. */
enum { GROUP_TOKENS = 2048 };

static size_t group_of(const kq_sequential_options *o)
{
    const size_t n = GROUP_TOKENS / o->T;
    return n > o->n_seq ? o->n_seq : n ? n : 1;
}

static size_t widest_input(const kq_config *cfg)
{
    const size_t dq = cfg->n_head * cfg->head_dim, n = cfg->d_ff > cfg->d_model ? cfg->d_ff : cfg->d_model;
    return dq > n ? dq : n;
}

size_t kq_sequential_memory(const kq_config *cfg, const kq_sequential_options *o)
{
    const size_t n = widest_input(cfg), d = cfg->d_model, tokens = group_of(o) * o->T;
    kq_model_ctx *mc;
    if (kq_model_ctx_new(cfg, o->isa, o->compute, o->T, &mc, NULL))
        return SIZE_MAX;
    const size_t scratch = kq_block_scratch_bytes(mc, o->T) + o->T * d * sizeof(float);
    kq_model_ctx_free(mc);
    return kq_block_bytes(cfg, o->compute) + kq_block_load_bytes(cfg, o->compute) +
           (2 * n * n + d * n + KQ_N_STREAM * tokens * (n + d)) * sizeof(float) +
           (o->compute == KQ_BF16 ? tokens * (KQ_N_STREAM * n + d) * sizeof(uint16_t) : 0) +
           (size_t)o->threads * scratch;
}

size_t kq_sequential_disk(const kq_config *cfg, const kq_sequential_options *o)
{
    /* the files before and after the block at work */
    return 2 * KQ_N_STREAM * o->n_seq * (o->T * cfg->d_model * sizeof(float) + 8);
}

/* ---- files ---- */

static kq_status open_file(kq_sequential *s, size_t layer, bool create, kq_spill **out, kq_error *err)
{
    char *path;
    kq_status st = kq_job_path(s->o.job, stem, layer, suffix, &path, err);
    if (!st)
        st = (create ? kq_spill_create : kq_spill_open)(path, KQ_N_STREAM * s->o.n_seq,
                                                        s->record * sizeof(float), out, err);
    kq_free(path);
    return st;
}

/* Both streams begin with the embeddings of the tokens. */
static kq_status embed(kq_sequential *s, kq_error *err)
{
    const kq_weights *w = s->o.weights;
    const size_t d = s->cfg->d_model, vocab = s->cfg->vocab_size;
    float *x = s->hidden[0];
    kq_spill *f = NULL;
    kq_status st = open_file(s, 0, true, &f, err);
    for (size_t i = 0; i < s->o.n_seq && !st; i++) {
        const int32_t *ids = s->ids + i * s->o.T;
        for (size_t t = 0; t < s->o.T && !st; t++)
            st = ids[t] >= 0 && (size_t)ids[t] < vocab
                     ? w->rows(w->ctx, "model.embed_tokens.weight", (size_t)ids[t], 1, x + t * d, err)
                     : kq_fail(err, KQ_E_ARG, "token id %d: outside the vocabulary of %zu", (int)ids[t],
                               vocab);
        for (int k = 0; k < KQ_N_STREAM && !st; k++)
            st = kq_spill_write(f, KQ_N_STREAM * i + (size_t)k, x, err);
    }
    if (!st)
        return kq_spill_commit(f, err);
    kq_spill_close(f);
    return st;
}

/* ---- blocks ---- */

static void unload(kq_sequential *s)
{
    for (int k = 0; k < KQ_N_STREAM; k++)
        kq_block_free(&s->block[k]);
    s->loaded = false;
    s->moments.step = KQ_NO_STEP;
    kq_spill_close(s->in);
    s->in = NULL;
}

static kq_status load(kq_sequential *s, kq_error *err)
{
    kq_status st = KQ_OK;
    for (int k = 0; k < KQ_N_STREAM && !st; k++)
        st = kq_block_load(s->mc, s->o.weights, s->layer, &s->block[k], err);
    if (!st)
        st = open_file(s, s->layer, false, &s->in, err);
    s->loaded = !st;
    return st;
}

static kq_status forward_record(kq_sequential *s, kq_spill *out, size_t r, int thread, kq_error *err)
{
    float *h = s->hidden[thread];
    kq_status st = kq_spill_read(s->in, r, h, err);
    if (!st)
        st = kq_block_forward(s->mc, &s->block[r % KQ_N_STREAM], h, s->o.T, h, s->scratch[thread], 1, err);
    return st ? st : kq_spill_write(out, r, h, err);
}

kq_status kq_streams_advance(kq_sequential *s, kq_error *err)
{
    kq_spill *out = NULL;
    kq_first_error failed = KQ_FIRST_ERROR;
    kq_status st = open_file(s, s->layer + 1, true, &out, err);
    if (st)
        return st;
#pragma omp parallel for schedule(dynamic, 1) num_threads(s->o.threads)
    for (size_t r = 0; r < KQ_N_STREAM * s->o.n_seq; r++) {
        kq_error e;
        if (!kq_first_error_skip(&failed, r))
            kq_first_error_note(&failed, r, forward_record(s, out, r, omp_get_thread_num(), &e), &e);
    }
    if ((st = kq_first_error_get(&failed, err))) {
        kq_spill_close(out);
        return st;
    }
    unload(s);
    return kq_spill_commit(out, err);
}

/* Find the file that the work begins with. An interrupted run has left that of the block that is next, or,
 * when blocks before it are not to be rounded, that of a lower block. */
static kq_status begin(kq_sequential *s, size_t layer, kq_error *err)
{
    for (s->layer = layer; s->layer > 0 && !kq_job_has_file(s->o.job, stem, s->layer, suffix);)
        s->layer--;
    kq_status st = kq_job_has_file(s->o.job, stem, s->layer, suffix) ? KQ_OK : embed(s, err);
    s->begun = !st;
    return st;
}

kq_status kq_streams_go_to(kq_sequential *s, size_t layer, kq_error *err)
{
    kq_status st = s->begun ? KQ_OK : begin(s, layer, err);
    if (st)
        return st;
    if (s->layer > layer)
        return kq_fail(err, KQ_E_ARG, "block %zu: its streams are at block %zu already", layer, s->layer);
    while (s->layer < layer && !st) {
        if (!s->loaded)
            st = load(s, err);
        if (!st)
            st = kq_sequential_block_done(s, s->layer, err);
    }
    return st || s->loaded ? st : load(s, err);
}

kq_status kq_sequential_block_done(kq_sequential *s, size_t layer, kq_error *err)
{
    kq_status st = s->loaded && s->layer == layer ? KQ_OK : kq_streams_go_to(s, layer, err);
    if (!st)
        st = kq_streams_advance(s, err);
    if (st)
        return st;
    if (s->layer > 0) /* the files of block `layer` stay: its part file is not sealed yet */
        kq_job_remove_file(s->o.job, stem, s->layer - 1, suffix);
    s->layer++;
    return KQ_OK;
}

kq_status kq_sequential_rounded(kq_sequential *s, size_t layer, kq_linear_id id, const kq_trellis *t,
                                const kq_packed *packed, kq_error *err)
{
    kq_linear *lin = &s->block[KQ_ROUNDED].lin[id];
    kq_status st = kq_streams_go_to(s, layer, err);
    if (st)
        return st;
    if (lin->f32)
        return kq_unround_linear(t, packed, lin->f32, s->o.threads, err);
    float *W;
    if ((st = kq_alloc_for((void **)&W, lin->m * lin->n, sizeof *W, "a rounded linear", err)))
        return st;
    if (!(st = kq_unround_linear(t, packed, W, s->o.threads, err)))
        kq_f32_to_bf16_n(W, lin->bf16, lin->m * lin->n);
    kq_free(W);
    return st;
}

/* ---- making and freeing ---- */

static kq_status allocate(kq_sequential *s, kq_error *err)
{
    const size_t n = widest_input(s->cfg), d = s->cfg->d_model, tokens = s->group * s->o.T;
    kq_moments *mo = &s->moments;
    kq_status st = kq_model_ctx_new(s->cfg, s->o.isa, s->o.compute, s->o.T, &s->mc, err);
    const size_t half = s->o.compute == KQ_BF16 ? tokens : 0;
    for (int k = 0; k < KQ_N_STREAM && !st; k++)
        if (!(st = kq_alloc_for((void **)&s->x[k], tokens * n, sizeof(float), "inputs of linears", err)) &&
            !(st = kq_alloc_for((void **)&s->half[k], half * n + 1, 2, "inputs of linears", err)))
            st = kq_alloc_for((void **)&s->residual[k], tokens * d, sizeof(float), "residual streams", err);
    if (!st)
        st = kq_alloc_for((void **)&s->half_residual, half * d + 1, 2, "residual streams", err);
    if (!st && (!(mo->C = kq_alloc(n * n, sizeof(float))) || !(mo->D = kq_alloc(n * n, sizeof(float))) ||
                !(mo->R = kq_alloc(d * n, sizeof(float))) ||
                !(s->hidden = kq_calloc((size_t)s->o.threads, sizeof *s->hidden)) ||
                !(s->scratch = kq_calloc((size_t)s->o.threads, sizeof *s->scratch))))
        st = kq_fail(err, KQ_E_MEMORY, "out of memory: sequential rounding");
    if (!st && !(st = kq_alloc_for((void **)&s->ids, s->o.n_seq * s->o.T, sizeof *s->ids, "token ids", err)))
        memcpy(s->ids, s->o.ids, s->o.n_seq * s->o.T * sizeof *s->ids);
    for (int i = 0; i < s->o.threads && !st; i++) {
        st = kq_alloc_for((void **)&s->hidden[i], s->record, sizeof(float), "hidden states", err);
        if (!st)
            st = kq_alloc_for(&s->scratch[i], kq_block_scratch_bytes(s->mc, s->o.T), 1, "scratch", err);
    }
    return st;
}

kq_status kq_sequential_new(const kq_sequential_options *o, kq_sequential **out, kq_error *err)
{
    kq_sequential *s = *out = kq_calloc(1, sizeof *s);
    if (!s)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: sequential rounding");
    s->o = *o;
    s->cfg = o->weights->cfg;
    s->record = o->T * s->cfg->d_model;
    s->group = group_of(o);
    s->moments.step = KQ_NO_STEP;
    kq_status st = allocate(s, err);
    if (st) {
        kq_sequential_free(s);
        *out = NULL;
    }
    return st;
}

void kq_sequential_free(kq_sequential *s)
{
    if (!s)
        return;
    unload(s);
    for (int i = 0; i < s->o.threads; i++) {
        kq_free(s->hidden ? s->hidden[i] : NULL);
        kq_free(s->scratch ? s->scratch[i] : NULL);
    }
    for (int k = 0; k < KQ_N_STREAM; k++) {
        kq_free(s->x[k]);
        kq_free(s->residual[k]);
        kq_free(s->half[k]);
    }
    kq_free(s->half_residual);
    kq_free(s->ids);
    kq_free(s->hidden);
    kq_free(s->scratch);
    kq_free(s->moments.C);
    kq_free(s->moments.D);
    kq_free(s->moments.R);
    kq_model_ctx_free(s->mc);
    kq_free(s);
}
