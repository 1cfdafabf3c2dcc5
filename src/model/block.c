/* One block, forward and backward (docs/math.md, eq. 11 to 17 and 22 to 28). The backward pass recomputes the
 * block from its input, so that only the input is kept between the two passes. Every array is a slice of the
 * caller's scratch. */
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/internal.h"

/* ---- weights ------------------------------------------------------------------------------------------- */

static kq_status load_linear(const kq_model_ctx *mc, const kq_weights *w, size_t layer, kq_linear_id id,
                             kq_linear *out, kq_error *err)
{
    float *f = NULL;
    size_t n;
    kq_linear_shape(&mc->cfg, id, &out->m, &out->n);
    if (!kq_mul_size(out->m, out->n, &n))
        return kq_fail(err, KQ_E_MEMORY, "layer %zu: a linear of %zu x %zu is too large", layer, out->m,
                       out->n);
    kq_status st = kq_alloc_for((void **)&f, n, sizeof *f, "a linear's weights", err);
    if (st == KQ_OK)
        st = w->linear(w->ctx, layer, id, f, err);
    if (st == KQ_OK && mc->compute == KQ_F32) {
        out->f32 = f;
        return KQ_OK;
    }
    if (st == KQ_OK)
        st = kq_alloc_for((void **)&out->bf16, n, sizeof *out->bf16, "a linear's weights", err);
    if (st == KQ_OK)
        mc->kern->to_bf16(f, out->bf16, n);
    kq_free(f);
    return st;
}

kq_status kq_block_load(const kq_model_ctx *mc, const kq_weights *w, size_t layer, kq_block *out,
                        kq_error *err)
{
    const kq_config *c = &mc->cfg;
    kq_status st = KQ_OK;
    memset(out, 0, sizeof *out);
    out->layer = layer;
    for (int id = 0; id < KQ_N_LINEAR && st == KQ_OK; id++)
        st = load_linear(mc, w, layer, (kq_linear_id)id, &out->lin[id], err);
    float **const norms[KQ_N_NORM] = {&out->attn_norm, &out->mlp_norm, &out->q_norm, &out->k_norm};
    for (kq_norm_id id = KQ_NORM_ATTN; id < kq_model_n_norms(c) && st == KQ_OK; id++) {
        const kq_model_tensor t = kq_model_norm(c, layer, id);
        st = kq_load_vector(w, t.name, t.rows, norms[id], err);
    }
    if (st != KQ_OK)
        kq_block_free(out);
    return st;
}

void kq_block_free(kq_block *b)
{
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        kq_free(b->lin[id].f32);
        kq_free(b->lin[id].bf16);
    }
    kq_free(b->attn_norm);
    kq_free(b->mlp_norm);
    kq_free(b->q_norm);
    kq_free(b->k_norm);
    memset(b, 0, sizeof *b);
}

size_t kq_block_bytes(const kq_config *cfg, kq_compute compute)
{
    size_t n = 0, m, k;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &k);
        n += m * k * (compute == KQ_BF16 ? 2 : 4);
    }
    return n + (2 * cfg->d_model + (cfg->arch == KQ_ARCH_QWEN3 ? 2 * cfg->head_dim : 0)) * 4;
}

size_t kq_block_load_bytes(const kq_config *cfg, kq_compute compute)
{
    size_t largest = 0, m, n;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        largest = m * n > largest ? m * n : largest;
    }
    return kq_block_bytes(cfg, compute) + largest * sizeof(float);
}

/* ---- scratch ------------------------------------------------------------------------------------------- */

/* All arrays of one pass over n_seq sequences of T tokens, R = n_seq * T rows. Those marked "heads" are
 * [n_seq][n_kv_head][T * group][head_dim], the order that attention.c reads. */
typedef struct work {
    size_t n_seq, T, R;
    int threads;
    float *xn, *x2, *xn2;     /* [R, d]: the normed input; the sum after attention; that sum, normed */
    float *q, *k, *v, *o;     /* [R, dq] or [R, dkv] */
    float *qh, *kh, *vh, *oh; /* heads */
    float *lse;               /* [n_seq][n_kv_head][T * group] */
    float *r1, *r2, *rq, *rk; /* factors of the norms, one for each row (rq, rk: one for each head) */
    float *g, *u, *h;         /* [R, d_ff] */
    float *tile, *tile2;      /* scores of one tile of queries */
    size_t more_tiles;        /* how many further tiles fit into the place of g and u */
    float *dxn, *dx2;         /* [R, d] */
    float *dq, *dk, *dv;      /* [R, dq] or [R, dkv]; dq first holds dO */
    float *dqh, *dkh, *dvh, *doh;
    uint16_t *xb; /* [R, widest], only for bf16 products */
} work;

/* The next n floats of the scratch, at a multiple of 64 bytes; NULL where only the size is asked for. */
static float *slice_of(char **base, size_t *used, size_t n)
{
    float *p = *base ? (float *)(void *)(*base + *used) : NULL;
    *used += (n * sizeof(float) + 63) / 64 * 64;
    return p;
}

static size_t lay_out(const kq_model_ctx *mc, kq_rows rows, bool back, void *scratch, work *w)
{
    const kq_config *c = &mc->cfg;
    const size_t T = rows.T, R = rows.n_seq * T, d = c->d_model, dq = mc->dq, dkv = mc->dkv, ff = c->d_ff,
                 tile_q = kq_attn_tile_queries(mc) < T ? kq_attn_tile_queries(mc) : T;
    const size_t tile = tile_q * mc->group * T;
    const bool normed = c->arch == KQ_ARCH_QWEN3;
    size_t used = 0;
    char *base = scratch;
    *w = (work){.n_seq = rows.n_seq, .T = T, .R = R, .threads = rows.threads};
    w->xn = slice_of(&base, &used, R * d);
    w->x2 = slice_of(&base, &used, R * d);
    w->xn2 = back ? slice_of(&base, &used, R * d) : w->xn;
    w->q = slice_of(&base, &used, R * dq);
    w->k = slice_of(&base, &used, R * dkv);
    w->v = slice_of(&base, &used, R * dkv);
    /* q before its norm is read again only by the backward pass through that norm */
    w->o = back && normed ? slice_of(&base, &used, R * dq) : w->q;
    w->qh = slice_of(&base, &used, R * dq);
    w->kh = slice_of(&base, &used, R * dkv);
    w->vh = slice_of(&base, &used, R * dkv);
    w->oh = slice_of(&base, &used, R * dq);
    w->tile = slice_of(&base, &used, tile);
    w->g = slice_of(&base, &used, R * ff);
    w->u = slice_of(&base, &used, R * ff);
    w->more_tiles = 2 * R * ff / tile;
    if (back) {
        w->h = slice_of(&base, &used, R * ff);
        w->tile2 = slice_of(&base, &used, tile);
        w->lse = slice_of(&base, &used, R * c->n_head);
        w->r1 = slice_of(&base, &used, R);
        w->r2 = slice_of(&base, &used, R);
        if (normed) {
            w->rq = slice_of(&base, &used, R * c->n_head);
            w->rk = slice_of(&base, &used, R * c->n_kv_head);
        }
        w->dxn = slice_of(&base, &used, R * d);
        w->dx2 = slice_of(&base, &used, R * d);
        w->dq = slice_of(&base, &used, R * dq);
        w->dk = slice_of(&base, &used, R * dkv);
        w->dv = slice_of(&base, &used, R * dkv);
        w->dqh = slice_of(&base, &used, R * dq);
        w->dkh = slice_of(&base, &used, R * dkv);
        w->dvh = slice_of(&base, &used, R * dkv);
        w->doh = slice_of(&base, &used, R * dq);
    } else {
        w->h = w->g;
    }
    if (mc->compute == KQ_BF16)
        w->xb = (uint16_t *)(void *)slice_of(&base, &used, (R * mc->widest + 1) / 2);
    return used;
}

size_t kq_block_scratch_bytes(const kq_model_ctx *mc, size_t T)
{
    work w;
    return lay_out(mc, (kq_rows){1, T, 1}, false, NULL, &w);
}

size_t kq_block_backward_bytes(const kq_model_ctx *mc, kq_rows rows)
{
    work w;
    return lay_out(mc, rows, true, NULL, &w);
}

/* ---- forward ------------------------------------------------------------------------------------------- */

static void norm_rows(const kq_model_ctx *mc, const float *x, const float *weight, const work *w, float *y,
                      float *r)
{
    const size_t d = mc->cfg.d_model;
#pragma omp parallel for num_threads(w->threads) if (w->threads > 1)
    for (size_t i = 0; i < w->R; i++) {
        float f = mc->kern->rms_norm(x + i * d, weight, y + i * d, d, mc->cfg.rms_eps);
        if (r)
            r[i] = f;
    }
}

/* The offset in "heads" of an attention head of row i: row t * group + g of its key head, in its sequence. */
static inline size_t head_at(const kq_model_ctx *mc, size_t T, size_t i, size_t head)
{
    const size_t seq = i / T, t = i % T;
    return (((seq * mc->cfg.n_kv_head + head / mc->group) * T + t) * mc->group + head % mc->group) *
           mc->cfg.head_dim;
}

/* The same of key head j. */
static inline size_t key_at(const kq_model_ctx *mc, size_t T, size_t i, size_t j)
{
    return ((i / T * mc->cfg.n_kv_head + j) * T + i % T) * mc->cfg.head_dim;
}

/* Normalise and rotate q and k, and bring q, k and v into attention's order. */
static void split_heads(const kq_model_ctx *mc, const kq_block *b, const work *w)
{
    const size_t hd = mc->cfg.head_dim, nh = mc->cfg.n_head, nkv = mc->cfg.n_kv_head, T = w->T;
#pragma omp parallel for num_threads(w->threads) if (w->threads > 1)
    for (size_t i = 0; i < w->R; i++) {
        for (size_t h = 0; h < nh; h++)
            kq_head_rotate(mc, b->q_norm, w->q + i * mc->dq + h * hd, i % T, w->qh + head_at(mc, T, i, h),
                           w->rq ? w->rq + i * nh + h : NULL);
        for (size_t j = 0; j < nkv; j++) {
            kq_head_rotate(mc, b->k_norm, w->k + i * mc->dkv + j * hd, i % T, w->kh + key_at(mc, T, i, j),
                           w->rk ? w->rk + i * nkv + j : NULL);
            memcpy(w->vh + key_at(mc, T, i, j), w->v + i * mc->dkv + j * hd, hd * sizeof(float));
        }
    }
}

static void heads_to_rows(const kq_model_ctx *mc, const float *heads, const work *w, float *rows)
{
    const size_t hd = mc->cfg.head_dim;
#pragma omp parallel for num_threads(w->threads) if (w->threads > 1)
    for (size_t i = 0; i < w->R; i++)
        for (size_t h = 0; h < mc->cfg.n_head; h++)
            memcpy(rows + i * mc->dq + h * hd, heads + head_at(mc, w->T, i, h), hd * sizeof(float));
}

static void rows_to_heads(const kq_model_ctx *mc, const float *rows, const work *w, float *heads)
{
    const size_t hd = mc->cfg.head_dim;
#pragma omp parallel for num_threads(w->threads) if (w->threads > 1)
    for (size_t i = 0; i < w->R; i++)
        for (size_t h = 0; h < mc->cfg.n_head; h++)
            memcpy(heads + head_at(mc, w->T, i, h), rows + i * mc->dq + h * hd, hd * sizeof(float));
}

static size_t tile_floats(const kq_model_ctx *mc, size_t T)
{
    const size_t tile_q = kq_attn_tile_queries(mc);
    return (tile_q < T ? tile_q : T) * mc->group * T;
}

static void attention(const kq_model_ctx *mc, const work *w)
{
    const size_t hd = mc->cfg.head_dim, nkv = mc->cfg.n_kv_head, T = w->T, tile_q = kq_attn_tile_queries(mc),
                 per_head = (T + tile_q - 1) / tile_q, heads = w->n_seq * nkv, tile = tile_floats(mc, T);
    const int threads = (size_t)w->threads > w->more_tiles + 1 ? (int)w->more_tiles + 1 : w->threads;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (size_t i = 0; i < per_head * heads; i++) {
        int me = omp_get_thread_num();
        float *S = threads > 1 && me > 0 ? w->g + (size_t)(me - 1) * tile : w->tile;
        /* the tiles with the most work come first, so that the threads end together */
        size_t j = i % heads, t0 = (per_head - 1 - i / heads) * tile_q;
        size_t row = (j * T + t0) * mc->group, n = T - t0 < tile_q ? T - t0 : tile_q;
        const kq_attn_tile z = {
            .Q = w->qh + row * hd, .K = w->kh + j * T * hd, .V = w->vh + j * T * hd, .pos0 = t0, .n = n};
        kq_attn_forward(mc, &z, w->oh + row * hd, w->lse ? w->lse + row : NULL, S);
    }
}

static void swiglu_rows(const kq_model_ctx *mc, const work *w)
{
    const size_t ff = mc->cfg.d_ff;
#pragma omp parallel for num_threads(w->threads) if (w->threads > 1)
    for (size_t i = 0; i < w->R; i++)
        mc->kern->swiglu(w->g + i * ff, w->u + i * ff, w->h + i * ff, ff);
}

static kq_status give_input(const kq_linear_sink *sink, kq_linear_id id, const float *X, size_t T,
                            kq_error *err)
{
    return sink ? sink->give(sink->ctx, id, X, NULL, T, err) : KQ_OK;
}

/* Y [R, m] (+)= X W^T of one linear, for X [R, n]. */
static kq_status forward_linear(const kq_model_ctx *mc, const kq_block *b, kq_linear_id id, const float *X,
                                const work *w, bool accumulate, float *Y, kq_error *err)
{
    return kq_linear_forward(mc, &b->lin[id], X, w->xb, w->R, accumulate, Y, w->threads, err);
}

/* The input of q, k and v to w->xn, and that of o_proj to w->o. */
static kq_status forward_to_o(const kq_model_ctx *mc, const kq_block *b, const float *x, work *w,
                              const kq_linear_sink *sink, kq_error *err)
{
    kq_status st;
    norm_rows(mc, x, b->attn_norm, w, w->xn, w->r1);
    for (int id = KQ_Q; id <= KQ_V; id++)
        if ((st = give_input(sink, (kq_linear_id)id, w->xn, w->R, err)) != KQ_OK)
            return st;
    kq_to_compute(mc, w->xn, w->R * mc->cfg.d_model, w->xb, w->threads);
    if ((st = forward_linear(mc, b, KQ_Q, w->xn, w, false, w->q, err)) != KQ_OK ||
        (st = forward_linear(mc, b, KQ_K, w->xn, w, false, w->k, err)) != KQ_OK ||
        (st = forward_linear(mc, b, KQ_V, w->xn, w, false, w->v, err)) != KQ_OK)
        return st;
    split_heads(mc, b, w);
    attention(mc, w);
    heads_to_rows(mc, w->oh, w, w->o);
    return give_input(sink, KQ_O, w->o, w->R, err);
}

/* From w->o on: the residual stream after attention to w->x2, and the input of gate and up to w->xn2. */
static kq_status forward_to_gate(const kq_model_ctx *mc, const kq_block *b, const float *x, work *w,
                                 const kq_linear_sink *sink, kq_error *err)
{
    kq_status st;
    memcpy(w->x2, x, w->R * mc->cfg.d_model * sizeof *x);
    kq_to_compute(mc, w->o, w->R * mc->dq, w->xb, w->threads);
    if ((st = forward_linear(mc, b, KQ_O, w->o, w, true, w->x2, err)) != KQ_OK)
        return st;
    norm_rows(mc, w->x2, b->mlp_norm, w, w->xn2, w->r2);
    if ((st = give_input(sink, KQ_GATE, w->xn2, w->R, err)) != KQ_OK)
        return st;
    return give_input(sink, KQ_UP, w->xn2, w->R, err);
}

/* Compute the block up to h, the input of down_proj, and x2, to which the caller adds the output of
 * down_proj. */
static kq_status forward_to_h(const kq_model_ctx *mc, const kq_block *b, const float *x, work *w,
                              const kq_linear_sink *sink, kq_error *err)
{
    kq_status st = forward_to_o(mc, b, x, w, sink, err);
    if (st != KQ_OK || (st = forward_to_gate(mc, b, x, w, sink, err)) != KQ_OK)
        return st;
    kq_to_compute(mc, w->xn2, w->R * mc->cfg.d_model, w->xb, w->threads);
    if ((st = forward_linear(mc, b, KQ_GATE, w->xn2, w, false, w->g, err)) != KQ_OK ||
        (st = forward_linear(mc, b, KQ_UP, w->xn2, w, false, w->u, err)) != KQ_OK)
        return st;
    swiglu_rows(mc, w);
    return KQ_OK;
}

static kq_status check_call(const kq_model_ctx *mc, size_t T, kq_error *err)
{
    if (T < 1 || T > mc->max_T)
        return kq_fail(err, KQ_E_ARG, "%zu tokens, but the model context was made for 1..%zu", T, mc->max_T);
    return KQ_OK;
}

static kq_status forward(const kq_model_ctx *mc, const kq_block *b, const float *x, kq_rows rows, float *y,
                         void *scratch, const kq_linear_sink *sink, kq_error *err)
{
    work w;
    kq_status st = check_call(mc, rows.T, err);
    if (st != KQ_OK)
        return st;
    if (rows.threads < 1 || omp_in_parallel())
        rows.threads = 1;
    lay_out(mc, rows, false, scratch, &w);
    if ((st = forward_to_h(mc, b, x, &w, sink, err)) != KQ_OK ||
        (st = give_input(sink, KQ_DOWN, w.h, w.R, err)) != KQ_OK)
        return st;
    memcpy(y, w.x2, w.R * mc->cfg.d_model * sizeof *y);
    kq_to_compute(mc, w.h, w.R * mc->cfg.d_ff, w.xb, w.threads);
    if ((st = forward_linear(mc, b, KQ_DOWN, w.h, &w, true, y, err)) != KQ_OK)
        return st;
    if (!mc->kern->all_finite(y, w.R * mc->cfg.d_model))
        return kq_fail(err, KQ_E_NUMERIC, "model.layers.%zu: NaN or Inf in the block's output", b->layer);
    return KQ_OK;
}

kq_status kq_block_forward(const kq_model_ctx *mc, const kq_block *b, const float *x, size_t T, float *y,
                           void *scratch, int threads, kq_error *err)
{
    return forward(mc, b, x, (kq_rows){1, T, threads}, y, scratch, NULL, err);
}

kq_status kq_block_forward_sink(const kq_model_ctx *mc, const kq_block *b, const float *x, size_t T, float *y,
                                void *scratch, const kq_linear_sink *sink, kq_error *err)
{
    return forward(mc, b, x, (kq_rows){1, T, 1}, y, scratch, sink, err);
}

kq_status kq_block_forward_to(const kq_model_ctx *mc, const kq_block *b, kq_linear_id id, const float *x,
                              size_t T, float *X, float *residual, void *scratch, kq_error *err)
{
    work w;
    kq_status st = check_call(mc, T, err);
    if (st != KQ_OK)
        return st;
    lay_out(mc, (kq_rows){1, T, 1}, false, scratch, &w);
    const float *input = w.xn, *before = id < KQ_GATE ? x : w.x2;
    size_t n = mc->cfg.d_model;
    if (id <= KQ_V) {
        norm_rows(mc, x, b->attn_norm, &w, w.xn, w.r1);
    } else if (id == KQ_O) {
        st = forward_to_o(mc, b, x, &w, NULL, err);
        input = w.o;
        n = mc->dq;
    } else if (id < KQ_DOWN) {
        if ((st = forward_to_o(mc, b, x, &w, NULL, err)) == KQ_OK)
            st = forward_to_gate(mc, b, x, &w, NULL, err);
        input = w.xn2;
    } else {
        st = forward_to_h(mc, b, x, &w, NULL, err);
        input = w.h;
        n = mc->cfg.d_ff;
    }
    if (st != KQ_OK)
        return st;
    memcpy(X, input, T * n * sizeof *X);
    if (residual)
        memcpy(residual, before, T * mc->cfg.d_model * sizeof *residual);
    return KQ_OK;
}

/* ---- backward ------------------------------------------------------------------------------------------ */

/* dX (+)= G W for one linear. */
static kq_status back_linear(const kq_model_ctx *mc, const kq_block *b, kq_linear_id id, const float *G,
                             const work *w, bool accumulate, float *dX, kq_error *err)
{
    kq_to_compute(mc, G, w->R * b->lin[id].m, w->xb, w->threads);
    return kq_linear_backward(mc, &b->lin[id], G, w->xb, w->R, accumulate, dX, w->threads, err);
}

/* Columns of a norm's weights whose gradient one thread sums at a time, over all rows in their order. */
enum { NORM_COLUMNS = 64 };

/* One of the block's two norms over all of x. */
typedef struct norm_back {
    const float *x, *weight, *dy; /* [R, d], [d], [R, d] */
    const float *r, *add;         /* [R]; what is added to dx [R, d] */
    float *dx;
    float *dweight; /* gets the gradient of weight too; NULL: not wanted */
} norm_back;

static void norm_rows_back(const kq_model_ctx *mc, const work *w, const norm_back *z)
{
    const size_t d = mc->cfg.d_model, R = w->R, columns = z->dweight ? d : 0;
#pragma omp parallel for num_threads(w->threads) if (w->threads > 1)
    for (size_t c = 0; c < columns; c += NORM_COLUMNS)
        for (size_t i = 0; i < R; i++)
            kq_norm_weight_back(z->x + i * d + c, z->dy + i * d + c, z->r[i], z->dweight + c,
                                d - c < NORM_COLUMNS ? d - c : NORM_COLUMNS);
#pragma omp parallel for num_threads(w->threads) if (w->threads > 1)
    for (size_t i = 0; i < R; i++) {
        const size_t at = i * d;
        mc->kern->rms_norm_back(z->x + at, z->weight, z->dy + at, z->r[i], z->add + at, z->dx + at, d);
    }
}

/* Back through the norms of n_head queries or keys a row, in place: x, dy [R, n_head, head_dim], r [R,
 * n_head]. dweight may be NULL. */
static void head_norms_back(const kq_model_ctx *mc, const work *w, size_t n_head, const float *x,
                            const float *weight, const float *r, float *dy, float *dweight)
{
    const size_t hd = mc->cfg.head_dim, n = w->R * n_head, columns = dweight ? hd : 0;
#pragma omp parallel for num_threads(w->threads) if (w->threads > 1)
    for (size_t c = 0; c < columns; c += NORM_COLUMNS)
        for (size_t i = 0; i < n; i++)
            kq_norm_weight_back(x + i * hd + c, dy + i * hd + c, r[i], dweight + c,
                                hd - c < NORM_COLUMNS ? hd - c : NORM_COLUMNS);
#pragma omp parallel for num_threads(w->threads) if (w->threads > 1)
    for (size_t i = 0; i < n; i++)
        mc->kern->rms_norm_back(x + i * hd, weight, dy + i * hd, r[i], NULL, dy + i * hd, hd);
}

/* dQ, dK and dV of every key head of every sequence, in attention's order. */
static void heads_back(const kq_model_ctx *mc, const work *w)
{
    const size_t hd = mc->cfg.head_dim, T = w->T, tile_q = kq_attn_tile_queries(mc),
                 heads = w->n_seq * mc->cfg.n_kv_head, tile = tile_floats(mc, T), more = w->more_tiles / 2;
    const int threads = (size_t)w->threads > more + 1 ? (int)more + 1 : w->threads;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (size_t j = 0; j < heads; j++) {
        /* g and u are not read any more */
        const int me = threads > 1 ? omp_get_thread_num() : 0;
        float *S = me > 0 ? w->g + (size_t)(me - 1) * 2 * tile : w->tile, *D = me > 0 ? S + tile : w->tile2;
        for (size_t t0 = 0; t0 < T; t0 += tile_q) {
            size_t at = (j * T + t0) * mc->group, n = T - t0 < tile_q ? T - t0 : tile_q, kv = j * T * hd;
            const kq_attn_tile z = {
                .Q = w->qh + at * hd, .K = w->kh + kv, .V = w->vh + kv, .pos0 = t0, .n = n};
            const kq_attn_gradient g = {.O = w->oh + at * hd,
                                        .lse = w->lse + at,
                                        .dO = w->doh + at * hd,
                                        .dQ = w->dqh + at * hd,
                                        .dK = w->dkh + kv,
                                        .dV = w->dvh + kv};
            kq_attn_backward(mc, &z, &g, S, D);
        }
    }
}

static void swiglu_rows_back(const kq_model_ctx *mc, const work *w)
{
    const size_t ff = mc->cfg.d_ff;
#pragma omp parallel for num_threads(w->threads) if (w->threads > 1)
    for (size_t i = 0; i < w->R; i++)
        mc->kern->swiglu_back(w->g + i * ff, w->u + i * ff, w->h + i * ff, ff);
}

/* dO in w->dq becomes dLoss/dq, dk, dv of the linears' outputs in w->dq, dk, dv. */
static void attention_back(const kq_model_ctx *mc, const kq_block *b, const work *w,
                           float *const dnorm[KQ_N_NORM])
{
    const size_t hd = mc->cfg.head_dim, half = hd / 2, nh = mc->cfg.n_head, nkv = mc->cfg.n_kv_head, T = w->T;
    const kq_kern *kern = mc->kern;

    rows_to_heads(mc, w->dq, w, w->doh);
    memset(w->dkh, 0, w->R * mc->dkv * sizeof(float));
    memset(w->dvh, 0, w->R * mc->dkv * sizeof(float));
    heads_back(mc, w);
#pragma omp parallel for num_threads(w->threads) if (w->threads > 1)
    for (size_t i = 0; i < w->R; i++) {
        const float *c = mc->cos + i % T * half, *s = mc->sin + i % T * half;
        for (size_t h = 0; h < nh; h++)
            kern->rope(w->dqh + head_at(mc, T, i, h), c, s, w->dq + i * mc->dq + h * hd, half, -1.0f);
        for (size_t j = 0; j < nkv; j++) {
            kern->rope(w->dkh + key_at(mc, T, i, j), c, s, w->dk + i * mc->dkv + j * hd, half, -1.0f);
            memcpy(w->dv + i * mc->dkv + j * hd, w->dvh + key_at(mc, T, i, j), hd * sizeof(float));
        }
    }
    if (b->q_norm)
        head_norms_back(mc, w, nh, w->q, b->q_norm, w->rq, w->dq, dnorm[KQ_NORM_Q]);
    if (b->k_norm)
        head_norms_back(mc, w, nkv, w->k, b->k_norm, w->rk, w->dk, dnorm[KQ_NORM_K]);
}

kq_status kq_block_backward(const kq_model_ctx *mc, const kq_block *b, const float *x, const float *dy,
                            kq_rows rows, float *dx, const kq_linear_sink *sink, void *scratch, kq_error *err)
{
    const unsigned selected = sink ? sink->selected : 0;
    static float *const no_norm[KQ_N_NORM];
    float *const *dnorm = sink ? sink->dnorm : no_norm;
    const unsigned attn = 1u << KQ_Q | 1u << KQ_K | 1u << KQ_V;
    const size_t R = rows.n_seq * rows.T;
    work w;
    kq_status st = check_call(mc, rows.T, err);
    if (st != KQ_OK)
        return st;
    if (rows.threads < 1 || omp_in_parallel())
        rows.threads = 1;
    lay_out(mc, rows, true, scratch, &w);
    if ((st = forward_to_h(mc, b, x, &w, NULL, err)) != KQ_OK)
        return st;

#define SINK(id, X, G) ((selected >> (id)&1) && (st = sink->give(sink->ctx, id, X, G, R, err)) != KQ_OK)
    /* y = x2 + W_down h */
    if (SINK(KQ_DOWN, w.h, dy))
        return st;
    if (!dx && !(selected & ~(1u << KQ_DOWN)))
        return KQ_OK;
    /* h is not read any more, so dh takes its place */
    if ((st = back_linear(mc, b, KQ_DOWN, dy, &w, false, w.h, err)) != KQ_OK)
        return st;
    swiglu_rows_back(mc, &w);
    if (SINK(KQ_GATE, w.xn2, w.g) || SINK(KQ_UP, w.xn2, w.u))
        return st;
    if ((st = back_linear(mc, b, KQ_GATE, w.g, &w, false, w.dxn, err)) != KQ_OK ||
        (st = back_linear(mc, b, KQ_UP, w.u, &w, true, w.dxn, err)) != KQ_OK)
        return st;
    norm_rows_back(mc, &w, &(norm_back){w.x2, b->mlp_norm, w.dxn, w.r2, dy, w.dx2, dnorm[KQ_NORM_MLP]});

    /* x2 = x + W_o o */
    if (SINK(KQ_O, w.o, w.dx2))
        return st;
    if (!dx && !(selected & attn))
        return KQ_OK;
    if ((st = back_linear(mc, b, KQ_O, w.dx2, &w, false, w.dq, err)) != KQ_OK)
        return st;
    attention_back(mc, b, &w, dnorm);
    if (SINK(KQ_Q, w.xn, w.dq) || SINK(KQ_K, w.xn, w.dk) || SINK(KQ_V, w.xn, w.dv))
        return st;
#undef SINK
    if (!dx)
        return KQ_OK;
    if ((st = back_linear(mc, b, KQ_Q, w.dq, &w, false, w.dxn, err)) != KQ_OK ||
        (st = back_linear(mc, b, KQ_K, w.dk, &w, true, w.dxn, err)) != KQ_OK ||
        (st = back_linear(mc, b, KQ_V, w.dv, &w, true, w.dxn, err)) != KQ_OK)
        return st;
    norm_rows_back(mc, &w, &(norm_back){x, b->attn_norm, w.dxn, w.r1, w.dx2, dx, dnorm[KQ_NORM_ATTN]});
    if (!mc->kern->all_finite(dx, R * mc->cfg.d_model))
        return kq_fail(err, KQ_E_NUMERIC, "model.layers.%zu: NaN or Inf in the block's gradient", b->layer);
    return KQ_OK;
}
