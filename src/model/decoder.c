#include <omp.h>
#include <string.h>

#include "base/f16.h"
#include "base/mem.h"
#include "model/internal.h"

enum { CHUNK = 128 }; /* rows (tokens of a prompt, or sequences of a batch) worked on at once */

struct kq_decoder {
    kq_model_ctx *mc;
    kq_head *head;
    kq_block *blocks; /* [n_layer] */
    int threads;
    size_t max_T, batch;
    size_t *pos;      /* [batch] tokens in the cache */
    /* Cache, [n_layer][batch][n_kv_head][max_T][head_dim], in the type of the products. */
    float *K, *V;
    uint16_t *Kb, *Vb;
    /* Scratch for CHUNK rows. qh, oh: [n_kv_head][rows * group][head_dim]. */
    float *x, *xn, *q, *k, *v, *qh, *oh, *g, *u, *scores, *head_scratch;
    size_t scores_n;  /* floats a thread */
    uint16_t *xb;
};

static void free_cache(kq_decoder *dec)
{
    kq_free(dec->K);
    kq_free(dec->V);
    kq_free(dec->Kb);
    kq_free(dec->Vb);
    kq_free(dec->pos);
    dec->K = dec->V = NULL;
    dec->Kb = dec->Vb = NULL;
    dec->pos = NULL;
    dec->batch = 0;
}

void kq_decoder_free(kq_decoder *dec)
{
    if (!dec)
        return;
    for (size_t i = 0; dec->blocks && i < dec->mc->cfg.n_layer; i++)
        kq_block_free(&dec->blocks[i]);
    kq_free(dec->blocks);
    kq_head_free(dec->head);
    free_cache(dec);
    float *scratch[] = {dec->x, dec->xn, dec->q, dec->k, dec->v, dec->qh, dec->oh, dec->g, dec->u, dec->scores, dec->head_scratch};
    for (size_t i = 0; i < sizeof scratch / sizeof *scratch; i++)
        kq_free(scratch[i]);
    kq_free(dec->xb);
    kq_model_ctx_free(dec->mc);
    kq_free(dec);
}

kq_status kq_decoder_new(const kq_weights *w, kq_isa isa, kq_compute compute, size_t max_T, int threads, kq_decoder **out, kq_error *err)
{
    const kq_config *c = w->cfg;
    *out = NULL;
    kq_decoder *dec = kq_calloc(1, sizeof *dec);
    if (!dec)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: decoder");
    dec->threads = threads < 1 ? 1 : threads;
    dec->max_T = max_T;
    kq_status st = kq_model_ctx_new(c, isa, compute, max_T, &dec->mc, err);
    if (st != KQ_OK)
        goto fail;
    const kq_model_ctx *mc = dec->mc;
    size_t tile = kq_attn_tile(mc) * mc->group;
    if (!kq_mul_size(tile, max_T, &dec->scores_n)) {
        st = kq_fail(err, KQ_E_MEMORY, "a cache of %zu tokens is too large", max_T);
        goto fail;
    }
    dec->blocks = kq_calloc(c->n_layer, sizeof *dec->blocks);
    if (!dec->blocks) {
        st = kq_fail(err, KQ_E_MEMORY, "out of memory: decoder");
        goto fail;
    }
    for (size_t i = 0; i < c->n_layer; i++)
        if ((st = kq_block_load(mc, w, i, &dec->blocks[i], err)) != KQ_OK)
            goto fail;
    if ((st = kq_head_load(mc, w, &dec->head, err)) != KQ_OK)
        goto fail;
    const struct { float **p; size_t n, m; } arrays[] = {
        {&dec->x, CHUNK, c->d_model}, {&dec->xn, CHUNK, c->d_model}, {&dec->q, CHUNK, mc->dq}, {&dec->k, CHUNK, mc->dkv},
        {&dec->v, CHUNK, mc->dkv}, {&dec->qh, CHUNK, mc->dq}, {&dec->oh, CHUNK, mc->dq}, {&dec->g, CHUNK, c->d_ff},
        {&dec->u, CHUNK, c->d_ff}, {&dec->scores, (size_t)dec->threads, dec->scores_n}, {&dec->head_scratch, CHUNK, c->d_model},
    };
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        size_t n;
        if (!kq_mul_size(arrays[i].n, arrays[i].m, &n)) {
            st = kq_fail(err, KQ_E_MEMORY, "the decoder's scratch is too large");
            goto fail;
        }
        if ((st = kq_alloc_for((void **)arrays[i].p, n, sizeof(float), "the decoder's scratch", err)) != KQ_OK)
            goto fail;
    }
    if (compute == KQ_BF16 && (st = kq_alloc_for((void **)&dec->xb, CHUNK * mc->widest, sizeof *dec->xb, "the decoder's scratch", err)) != KQ_OK)
        goto fail;
    if ((st = kq_decoder_set_batch(dec, 1, err)) != KQ_OK)
        goto fail;
    *out = dec;
    return KQ_OK;
fail:
    kq_decoder_free(dec);
    return st;
}

void kq_decoder_reset(kq_decoder *dec)
{
    memset(dec->pos, 0, dec->batch * sizeof *dec->pos);
}

kq_status kq_decoder_set_batch(kq_decoder *dec, size_t batch, kq_error *err)
{
    const kq_config *c = &dec->mc->cfg;
    if (batch < 1 || batch > 65536)
        return kq_fail(err, KQ_E_ARG, "a batch of %zu sequences", batch);
    if (batch == dec->batch) {
        kq_decoder_reset(dec);
        return KQ_OK;
    }
    free_cache(dec);
    size_t n = 0;
    bool fits = kq_mul_size(dec->mc->dkv, dec->max_T, &n) && kq_mul_size(n, batch, &n) && kq_mul_size(n, c->n_layer, &n);
    if (!fits)
        return kq_fail(err, KQ_E_MEMORY, "a cache of %zu sequences of %zu tokens is too large", batch, dec->max_T);
    kq_status st = kq_alloc_for((void **)&dec->pos, batch, sizeof *dec->pos, "key/value cache", err);
    if (dec->mc->compute == KQ_BF16) {
        if (st == KQ_OK)
            st = kq_alloc_for((void **)&dec->Kb, n, sizeof *dec->Kb, "key/value cache", err);
        if (st == KQ_OK)
            st = kq_alloc_for((void **)&dec->Vb, n, sizeof *dec->Vb, "key/value cache", err);
    } else {
        if (st == KQ_OK)
            st = kq_alloc_for((void **)&dec->K, n, sizeof *dec->K, "key/value cache", err);
        if (st == KQ_OK)
            st = kq_alloc_for((void **)&dec->V, n, sizeof *dec->V, "key/value cache", err);
    }
    if (st != KQ_OK) {
        free_cache(dec);
        return st;
    }
    dec->batch = batch;
    kq_decoder_reset(dec);
    return KQ_OK;
}

/* Y [rows, m] (+)= X W^T; one row streams the weights once, at the speed of memory. */
static kq_status linear(kq_decoder *dec, const kq_linear *lin, const float *X, size_t rows, bool accumulate, float *Y, kq_error *err)
{
    const kq_model_ctx *mc = dec->mc;
    if (rows > 1) {
        kq_to_compute(mc, X, rows * lin->n, dec->xb, dec->threads);
        return kq_linear_forward(mc, lin, X, dec->xb, rows, accumulate, Y, dec->threads, err);
    }
    enum { PIECE = 64 };
    const size_t n = (lin->m + PIECE - 1) / PIECE;
#pragma omp parallel for num_threads(dec->threads) if (dec->threads > 1)
    for (size_t i = 0; i < n; i++) {
        size_t r = i * PIECE, k = lin->m - r < PIECE ? lin->m - r : PIECE;
        float part[PIECE], *y = accumulate ? part : Y + r;
        if (lin->f32)
            mc->kern->matvec(lin->f32 + r * lin->n, lin->n, k, lin->n, X, y);
        else
            mc->kern->matvec_bf16(lin->bf16 + r * lin->n, lin->n, k, lin->n, X, y);
        if (accumulate)
            mc->kern->add(Y + r, part, Y + r, k);
    }
    return KQ_OK;
}

/* Where key head j of sequence s in layer l begins. */
static size_t cache_at(const kq_decoder *dec, size_t l, size_t s, size_t j)
{
    return ((l * dec->batch + s) * dec->mc->cfg.n_kv_head + j) * dec->max_T * dec->mc->cfg.head_dim;
}

/* Attention of row `row` (sequence s, position pos) of a chunk of n rows, key head j. */
static void attend_one(const kq_decoder *dec, size_t l, size_t s, size_t pos, size_t row, size_t n, size_t j, float *scores)
{
    const kq_model_ctx *mc = dec->mc;
    const size_t hd = mc->cfg.head_dim, at = cache_at(dec, l, s, j);
    for (size_t g = 0; g < mc->group; g++) {
        size_t h = ((j * n + row) * mc->group + g) * hd;
        if (dec->K)
            mc->kern->matvec(dec->K + at, hd, pos + 1, hd, dec->qh + h, scores);
        else
            mc->kern->matvec_bf16(dec->Kb + at, hd, pos + 1, hd, dec->qh + h, scores);
        mc->kern->softmax(scores, pos + 1, mc->attn_scale);
        if (dec->V)
            mc->kern->matvec_t(dec->V + at, hd, pos + 1, hd, scores, dec->oh + h);
        else
            mc->kern->matvec_t_bf16(dec->Vb + at, hd, pos + 1, hd, scores, dec->oh + h);
    }
}

/* The rows in dec->x through layer l. one_seq: rows are consecutive tokens of sequence seq0; otherwise row i is the next token of
 * sequence seq0 + i. */
static kq_status layer(kq_decoder *dec, size_t l, size_t n, bool one_seq, size_t seq0, kq_error *err)
{
    const kq_model_ctx *mc = dec->mc;
    const kq_config *c = &mc->cfg;
    const kq_block *b = &dec->blocks[l];
    const size_t d = c->d_model, hd = c->head_dim, nkv = c->n_kv_head, group = mc->group, ff = c->d_ff;
    kq_status st;

    for (size_t i = 0; i < n; i++)
        mc->kern->rms_norm(dec->x + i * d, b->attn_norm, dec->xn + i * d, d, c->rms_eps);
    if ((st = linear(dec, &b->lin[KQ_Q], dec->xn, n, false, dec->q, err)) != KQ_OK ||
        (st = linear(dec, &b->lin[KQ_K], dec->xn, n, false, dec->k, err)) != KQ_OK ||
        (st = linear(dec, &b->lin[KQ_V], dec->xn, n, false, dec->v, err)) != KQ_OK)
        return st;
    for (size_t i = 0; i < n; i++) {
        size_t s = one_seq ? seq0 : seq0 + i, pos = dec->pos[s] + (one_seq ? i : 0);
        for (size_t h = 0; h < c->n_head; h++)
            kq_head_rotate(mc, b->q_norm, dec->q + i * mc->dq + h * hd, pos, dec->qh + ((h / group * n + i) * group + h % group) * hd, NULL);
        for (size_t j = 0; j < nkv; j++) {
            float *k = dec->k + i * mc->dkv + j * hd;
            const float *v = dec->v + i * mc->dkv + j * hd;
            size_t at = cache_at(dec, l, s, j) + pos * hd;
            kq_head_rotate(mc, b->k_norm, k, pos, k, NULL);
            if (dec->K) {
                memcpy(dec->K + at, k, hd * sizeof *k);
                memcpy(dec->V + at, v, hd * sizeof *v);
            } else {
                mc->kern->to_bf16(k, dec->Kb + at, hd);
                mc->kern->to_bf16(v, dec->Vb + at, hd);
            }
        }
    }

    const bool tiled = one_seq && n > 1 && dec->K;
    const size_t tile_q = tiled ? kq_attn_tile(mc) : 1, per_head = (n + tile_q - 1) / tile_q, n_tasks = per_head * nkv;
#pragma omp parallel for schedule(dynamic, 1) num_threads(dec->threads) if (dec->threads > 1 && n_tasks > 1)
    for (size_t i = 0; i < n_tasks; i++) {
        float *S = dec->scores + (size_t)omp_get_thread_num() * dec->scores_n;
        size_t j = i % nkv, row = i / nkv * tile_q, s = one_seq ? seq0 : seq0 + row, pos = dec->pos[s] + (one_seq ? row : 0);
        if (tiled) {
            size_t k = n - row < tile_q ? n - row : tile_q, h = (j * n + row) * group * hd, at = cache_at(dec, l, s, j);
            kq_attn_forward(mc, dec->qh + h, dec->K + at, dec->V + at, pos, k, dec->oh + h, NULL, S);
        } else {
            attend_one(dec, l, s, pos, row, n, j, S);
        }
    }
    for (size_t i = 0; i < n; i++)
        for (size_t h = 0; h < c->n_head; h++)
            memcpy(dec->q + i * mc->dq + h * hd, dec->oh + ((h / group * n + i) * group + h % group) * hd, hd * sizeof(float));
    if ((st = linear(dec, &b->lin[KQ_O], dec->q, n, true, dec->x, err)) != KQ_OK)
        return st;

    for (size_t i = 0; i < n; i++)
        mc->kern->rms_norm(dec->x + i * d, b->mlp_norm, dec->xn + i * d, d, c->rms_eps);
    if ((st = linear(dec, &b->lin[KQ_GATE], dec->xn, n, false, dec->g, err)) != KQ_OK ||
        (st = linear(dec, &b->lin[KQ_UP], dec->xn, n, false, dec->u, err)) != KQ_OK)
        return st;
    mc->kern->swiglu(dec->g, dec->u, dec->g, n * ff);
    if ((st = linear(dec, &b->lin[KQ_DOWN], dec->g, n, true, dec->x, err)) != KQ_OK)
        return st;
    if (!mc->kern->all_finite(dec->x, n * d))
        return kq_fail(err, KQ_E_NUMERIC, "model.layers.%zu: NaN or Inf in the block's output", l);
    return KQ_OK;
}

kq_status kq_decoder_step(kq_decoder *dec, const int32_t *ids, size_t n, float *logits, kq_error *err)
{
    const size_t d = dec->mc->cfg.d_model;
    kq_status st;
    if (n < 1)
        return kq_fail(err, KQ_E_ARG, "a decoder step needs at least one token");
    if (dec->batch != 1)
        return kq_fail(err, KQ_E_ARG, "the decoder is set to %zu sequences: use kq_decoder_step_batch", dec->batch);
    if (n > dec->max_T - dec->pos[0])
        return kq_fail(err, KQ_E_ARG, "%zu tokens and %zu more do not fit the cache of %zu", dec->pos[0], n, dec->max_T);
    size_t before = dec->pos[0];
    for (size_t t = 0; t < n; t += CHUNK) {
        size_t k = n - t < CHUNK ? n - t : CHUNK;
        st = kq_head_embed(dec->head, ids + t, k, dec->x, err);
        for (size_t l = 0; st == KQ_OK && l < dec->mc->cfg.n_layer; l++)
            st = layer(dec, l, k, true, 0, err);
        if (st != KQ_OK) {
            dec->pos[0] = before;
            return st;
        }
        dec->pos[0] += k;
        if (t + k == n)
            return kq_head_logits(dec->head, dec->x + (k - 1) * d, 1, logits, dec->head_scratch, dec->threads, err);
    }
    return KQ_OK;
}

kq_status kq_decoder_step_batch(kq_decoder *dec, const int32_t *ids, float *logits, kq_error *err)
{
    const size_t vocab = dec->mc->cfg.vocab_size;
    kq_status st;
    for (size_t s = 0; s < dec->batch; s++)
        if (dec->pos[s] >= dec->max_T)
            return kq_fail(err, KQ_E_ARG, "the cache of %zu tokens is full", dec->max_T);
    for (size_t s = 0; s < dec->batch; s += CHUNK) {
        size_t k = dec->batch - s < CHUNK ? dec->batch - s : CHUNK;
        st = kq_head_embed(dec->head, ids + s, k, dec->x, err);
        for (size_t l = 0; st == KQ_OK && l < dec->mc->cfg.n_layer; l++)
            st = layer(dec, l, k, false, s, err);
        if (st == KQ_OK)
            st = kq_head_logits(dec->head, dec->x, k, logits + s * vocab, dec->head_scratch, dec->threads, err);
        if (st != KQ_OK)
            return st;
    }
    for (size_t s = 0; s < dec->batch; s++)
        dec->pos[s]++;
    return KQ_OK;
}
