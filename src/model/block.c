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

/* All arrays of one pass over T tokens. Those marked "heads" are [n_kv_head][T * group][head_dim], the order
 * that attention.c reads. */
typedef struct work {
    float *xn, *x2, *xn2;     /* [T, d]: the normed input; the sum after attention; that sum, normed */
    float *q, *k, *v, *o;     /* [T, dq] or [T, dkv] */
    float *qh, *kh, *vh, *oh; /* heads */
    float *lse;               /* [n_kv_head][T * group] */
    float *r1, *r2, *rq, *rk; /* factors of the norms, one for each row (rq, rk: one for each head) */
    float *g, *u, *h;         /* [T, d_ff] */
    float *tile, *tile2;      /* scores of one tile of queries */
    size_t more_tiles;        /* how many further tiles fit into the place of g and u */
    float *dxn, *dx2;         /* [T, d] */
    float *dq, *dk, *dv;      /* [T, dq] or [T, dkv]; dq first holds dO */
    float *dqh, *dkh, *dvh, *doh;
    uint16_t *xb; /* [T, widest], only for bf16 products */
} work;

/* The next n floats of the scratch, at a multiple of 64 bytes; NULL where only the size is asked for. */
static float *slice_of(char **base, size_t *used, size_t n)
{
    float *p = *base ? (float *)(void *)(*base + *used) : NULL;
    *used += (n * sizeof(float) + 63) / 64 * 64;
    return p;
}

static size_t lay_out(const kq_model_ctx *mc, size_t T, bool back, void *scratch, work *w)
{
    const kq_config *c = &mc->cfg;
    const size_t d = c->d_model, dq = mc->dq, dkv = mc->dkv, ff = c->d_ff,
                 tile_q = kq_attn_tile_queries(mc) < T ? kq_attn_tile_queries(mc) : T;
    const size_t tile = tile_q * mc->group * T;
    const bool normed = c->arch == KQ_ARCH_QWEN3;
    size_t used = 0;
    char *base = scratch;
    memset(w, 0, sizeof *w);
    w->xn = slice_of(&base, &used, T * d);
    w->x2 = slice_of(&base, &used, T * d);
    w->xn2 = back ? slice_of(&base, &used, T * d) : w->xn;
    w->q = slice_of(&base, &used, T * dq);
    w->k = slice_of(&base, &used, T * dkv);
    w->v = slice_of(&base, &used, T * dkv);
    /* q before its norm is read again only by the backward pass through that norm */
    w->o = back && normed ? slice_of(&base, &used, T * dq) : w->q;
    w->qh = slice_of(&base, &used, T * dq);
    w->kh = slice_of(&base, &used, T * dkv);
    w->vh = slice_of(&base, &used, T * dkv);
    w->oh = slice_of(&base, &used, T * dq);
    w->tile = slice_of(&base, &used, tile);
    w->g = slice_of(&base, &used, T * ff);
    w->u = slice_of(&base, &used, T * ff);
    w->more_tiles = 2 * T * ff / tile;
    if (back) {
        w->h = slice_of(&base, &used, T * ff);
        w->tile2 = slice_of(&base, &used, tile);
        w->lse = slice_of(&base, &used, T * c->n_head);
        w->r1 = slice_of(&base, &used, T);
        w->r2 = slice_of(&base, &used, T);
        if (normed) {
            w->rq = slice_of(&base, &used, T * c->n_head);
            w->rk = slice_of(&base, &used, T * c->n_kv_head);
        }
        w->dxn = slice_of(&base, &used, T * d);
        w->dx2 = slice_of(&base, &used, T * d);
        w->dq = slice_of(&base, &used, T * dq);
        w->dk = slice_of(&base, &used, T * dkv);
        w->dv = slice_of(&base, &used, T * dkv);
        w->dqh = slice_of(&base, &used, T * dq);
        w->dkh = slice_of(&base, &used, T * dkv);
        w->dvh = slice_of(&base, &used, T * dkv);
        w->doh = slice_of(&base, &used, T * dq);
    } else {
        w->h = w->g;
    }
    if (mc->compute == KQ_BF16)
        w->xb = (uint16_t *)(void *)slice_of(&base, &used, (T * mc->widest + 1) / 2);
    return used;
}

size_t kq_block_scratch_bytes(const kq_model_ctx *mc, size_t T, bool backward)
{
    work w;
    return lay_out(mc, T, backward, NULL, &w);
}

/* ---- forward ------------------------------------------------------------------------------------------- */

static void norm_rows(const kq_model_ctx *mc, const float *x, const float *weight, size_t T, float *y,
                      float *r, int threads)
{
    const size_t d = mc->cfg.d_model;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (size_t t = 0; t < T; t++) {
        float f = mc->kern->rms_norm(x + t * d, weight, y + t * d, d, mc->cfg.rms_eps);
        if (r)
            r[t] = f;
    }
}

/* The offset of an attention head of token t in attention's order: row t * group + g of key head j. */
static inline size_t head_at(const kq_model_ctx *mc, size_t T, size_t t, size_t head)
{
    return ((head / mc->group * T + t) * mc->group + head % mc->group) * mc->cfg.head_dim;
}

/* Normalise and rotate q and k, and bring q, k and v into attention's order. */
static void split_heads(const kq_model_ctx *mc, const kq_block *b, size_t T, work *w, int threads)
{
    const size_t hd = mc->cfg.head_dim, nh = mc->cfg.n_head, nkv = mc->cfg.n_kv_head;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (size_t t = 0; t < T; t++) {
        for (size_t i = 0; i < nh; i++)
            kq_head_rotate(mc, b->q_norm, w->q + t * mc->dq + i * hd, t, w->qh + head_at(mc, T, t, i),
                           w->rq ? w->rq + t * nh + i : NULL);
        for (size_t j = 0; j < nkv; j++) {
            kq_head_rotate(mc, b->k_norm, w->k + t * mc->dkv + j * hd, t, w->kh + (j * T + t) * hd,
                           w->rk ? w->rk + t * nkv + j : NULL);
            memcpy(w->vh + (j * T + t) * hd, w->v + t * mc->dkv + j * hd, hd * sizeof(float));
        }
    }
}

static void heads_to_rows(const kq_model_ctx *mc, const float *heads, size_t T, float *rows, int threads)
{
    const size_t hd = mc->cfg.head_dim;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < mc->cfg.n_head; i++)
            memcpy(rows + t * mc->dq + i * hd, heads + head_at(mc, T, t, i), hd * sizeof(float));
}

static void rows_to_heads(const kq_model_ctx *mc, const float *rows, size_t T, float *heads)
{
    const size_t hd = mc->cfg.head_dim;
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < mc->cfg.n_head; i++)
            memcpy(heads + head_at(mc, T, t, i), rows + t * mc->dq + i * hd, hd * sizeof(float));
}

static void attention(const kq_model_ctx *mc, size_t T, work *w, int threads)
{
    const size_t hd = mc->cfg.head_dim, tile_q = kq_attn_tile_queries(mc),
                 per_head = (T + tile_q - 1) / tile_q;
    const size_t n_tiles = per_head * mc->cfg.n_kv_head, tile = (tile_q < T ? tile_q : T) * mc->group * T;
    if ((size_t)threads > w->more_tiles + 1)
        threads = (int)w->more_tiles + 1;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (size_t i = 0; i < n_tiles; i++) {
        int me = omp_get_thread_num();
        float *S = threads > 1 && me > 0 ? w->g + (size_t)(me - 1) * tile : w->tile;
        /* the tiles with the most work come first, so that the threads end together */
        size_t j = i % mc->cfg.n_kv_head, t0 = (per_head - 1 - i / mc->cfg.n_kv_head) * tile_q;
        size_t row = (j * T + t0) * mc->group, n = T - t0 < tile_q ? T - t0 : tile_q;
        const kq_attn_tile z = {
            .Q = w->qh + row * hd, .K = w->kh + j * T * hd, .V = w->vh + j * T * hd, .pos0 = t0, .n = n};
        kq_attn_forward(mc, &z, w->oh + row * hd, w->lse ? w->lse + row : NULL, S);
    }
}

static void swiglu_rows(const kq_model_ctx *mc, size_t T, work *w, int threads)
{
    const size_t ff = mc->cfg.d_ff;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (size_t t = 0; t < T; t++)
        mc->kern->swiglu(w->g + t * ff, w->u + t * ff, w->h + t * ff, ff);
}

static kq_status give_input(const kq_linear_sink *sink, kq_linear_id id, const float *X, size_t T,
                            kq_error *err)
{
    return sink ? sink->give(sink->ctx, id, X, NULL, T, err) : KQ_OK;
}

/* Compute the block up to h, the input of down_proj, and x2, to which the caller adds the output of
 * down_proj. */
static kq_status forward_to_h(const kq_model_ctx *mc, const kq_block *b, const float *x, size_t T, work *w,
                              const kq_linear_sink *sink, int threads, kq_error *err)
{
    const size_t d = mc->cfg.d_model;
    kq_status st;

    norm_rows(mc, x, b->attn_norm, T, w->xn, w->r1, threads);
    for (int id = KQ_Q; id <= KQ_V; id++)
        if ((st = give_input(sink, (kq_linear_id)id, w->xn, T, err)) != KQ_OK)
            return st;
    kq_to_compute(mc, w->xn, T * d, w->xb, threads);
    if ((st = kq_linear_forward(mc, &b->lin[KQ_Q], w->xn, w->xb, T, false, w->q, threads, err)) != KQ_OK ||
        (st = kq_linear_forward(mc, &b->lin[KQ_K], w->xn, w->xb, T, false, w->k, threads, err)) != KQ_OK ||
        (st = kq_linear_forward(mc, &b->lin[KQ_V], w->xn, w->xb, T, false, w->v, threads, err)) != KQ_OK)
        return st;
    split_heads(mc, b, T, w, threads);
    attention(mc, T, w, threads);
    heads_to_rows(mc, w->oh, T, w->o, threads);

    if ((st = give_input(sink, KQ_O, w->o, T, err)) != KQ_OK)
        return st;
    memcpy(w->x2, x, T * d * sizeof *x);
    kq_to_compute(mc, w->o, T * mc->dq, w->xb, threads);
    if ((st = kq_linear_forward(mc, &b->lin[KQ_O], w->o, w->xb, T, true, w->x2, threads, err)) != KQ_OK)
        return st;

    norm_rows(mc, w->x2, b->mlp_norm, T, w->xn2, w->r2, threads);
    if ((st = give_input(sink, KQ_GATE, w->xn2, T, err)) != KQ_OK ||
        (st = give_input(sink, KQ_UP, w->xn2, T, err)) != KQ_OK)
        return st;
    kq_to_compute(mc, w->xn2, T * d, w->xb, threads);
    if ((st = kq_linear_forward(mc, &b->lin[KQ_GATE], w->xn2, w->xb, T, false, w->g, threads, err)) !=
            KQ_OK ||
        (st = kq_linear_forward(mc, &b->lin[KQ_UP], w->xn2, w->xb, T, false, w->u, threads, err)) != KQ_OK)
        return st;
    swiglu_rows(mc, T, w, threads);
    return KQ_OK;
}

static kq_status check_call(const kq_model_ctx *mc, size_t T, kq_error *err)
{
    if (T < 1 || T > mc->max_T)
        return kq_fail(err, KQ_E_ARG, "%zu tokens, but the model context was made for 1..%zu", T, mc->max_T);
    return KQ_OK;
}

static kq_status forward(const kq_model_ctx *mc, const kq_block *b, const float *x, size_t T, float *y,
                         void *scratch, int threads, const kq_linear_sink *sink, kq_error *err)
{
    work w;
    kq_status st = check_call(mc, T, err);
    if (st != KQ_OK)
        return st;
    if (threads < 1 || omp_in_parallel())
        threads = 1;
    lay_out(mc, T, false, scratch, &w);
    if ((st = forward_to_h(mc, b, x, T, &w, sink, threads, err)) != KQ_OK ||
        (st = give_input(sink, KQ_DOWN, w.h, T, err)) != KQ_OK)
        return st;
    memcpy(y, w.x2, T * mc->cfg.d_model * sizeof *y);
    kq_to_compute(mc, w.h, T * mc->cfg.d_ff, w.xb, threads);
    if ((st = kq_linear_forward(mc, &b->lin[KQ_DOWN], w.h, w.xb, T, true, y, threads, err)) != KQ_OK)
        return st;
    if (!mc->kern->all_finite(y, T * mc->cfg.d_model))
        return kq_fail(err, KQ_E_NUMERIC, "model.layers.%zu: NaN or Inf in the block's output", b->layer);
    return KQ_OK;
}

kq_status kq_block_forward(const kq_model_ctx *mc, const kq_block *b, const float *x, size_t T, float *y,
                           void *scratch, int threads, kq_error *err)
{
    return forward(mc, b, x, T, y, scratch, threads, NULL, err);
}

kq_status kq_block_forward_sink(const kq_model_ctx *mc, const kq_block *b, const float *x, size_t T, float *y,
                                void *scratch, const kq_linear_sink *sink, kq_error *err)
{
    return forward(mc, b, x, T, y, scratch, 1, sink, err);
}

/* ---- backward ------------------------------------------------------------------------------------------ */

/* dX (+)= G W for one linear. */
static kq_status back_linear(const kq_model_ctx *mc, const kq_block *b, kq_linear_id id, const float *G,
                             size_t T, bool accumulate, float *dX, work *w, kq_error *err)
{
    kq_to_compute(mc, G, T * b->lin[id].m, w->xb, 1);
    return kq_linear_backward(mc, &b->lin[id], G, w->xb, T, accumulate, dX, err);
}

/* One of the block's two norms over all of x. */
typedef struct norm_back {
    const float *x, *weight, *dy; /* [T, d], [d], [T, d] */
    const float *r, *add;         /* [T]; what is added to dx [T, d] */
    float *dx;
    float *dweight; /* gets the gradient of weight too; NULL: not wanted */
} norm_back;

static void norm_rows_back(const kq_model_ctx *mc, size_t T, const norm_back *z)
{
    const size_t d = mc->cfg.d_model;
    for (size_t at = 0; at < T * d; at += d) {
        const float r = z->r[at / d];
        if (z->dweight)
            kq_norm_weight_back(z->x + at, z->dy + at, r, z->dweight, d);
        mc->kern->rms_norm_back(z->x + at, z->weight, z->dy + at, r, z->add + at, z->dx + at, d);
    }
}

/* Back through the norm of one head's query or key, in place; dweight may be NULL. */
static void head_norm_back(const kq_model_ctx *mc, const float *x, const float *weight, float r, float *dy,
                           float *dweight)
{
    if (dweight)
        kq_norm_weight_back(x, dy, r, dweight, mc->cfg.head_dim);
    mc->kern->rms_norm_back(x, weight, dy, r, NULL, dy, mc->cfg.head_dim);
}

/* dO in w->dq becomes dLoss/dq, dk, dv of the linears' outputs in w->dq, dk, dv. */
static void attention_back(const kq_model_ctx *mc, const kq_block *b, size_t T, work *w,
                           float *const dnorm[KQ_N_NORM])
{
    const size_t hd = mc->cfg.head_dim, half = hd / 2, nh = mc->cfg.n_head, nkv = mc->cfg.n_kv_head,
                 tile_q = kq_attn_tile_queries(mc);
    const kq_kern *kern = mc->kern;

    rows_to_heads(mc, w->dq, T, w->doh);
    memset(w->dkh, 0, T * mc->dkv * sizeof(float));
    memset(w->dvh, 0, T * mc->dkv * sizeof(float));
    for (size_t j = 0; j < nkv; j++)
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
            kq_attn_backward(mc, &z, &g, w->tile, w->tile2);
        }
    for (size_t t = 0; t < T; t++) {
        const float *c = mc->cos + t * half, *s = mc->sin + t * half;
        for (size_t i = 0; i < nh; i++) {
            float *dq = w->dq + t * mc->dq + i * hd;
            kern->rope(w->dqh + head_at(mc, T, t, i), c, s, dq, half, -1.0f);
            if (b->q_norm)
                head_norm_back(mc, w->q + t * mc->dq + i * hd, b->q_norm, w->rq[t * nh + i], dq,
                               dnorm[KQ_NORM_Q]);
        }
        for (size_t j = 0; j < nkv; j++) {
            float *dk = w->dk + t * mc->dkv + j * hd;
            kern->rope(w->dkh + (j * T + t) * hd, c, s, dk, half, -1.0f);
            if (b->k_norm)
                head_norm_back(mc, w->k + t * mc->dkv + j * hd, b->k_norm, w->rk[t * nkv + j], dk,
                               dnorm[KQ_NORM_K]);
            memcpy(w->dv + t * mc->dkv + j * hd, w->dvh + (j * T + t) * hd, hd * sizeof(float));
        }
    }
}

kq_status kq_block_backward(const kq_model_ctx *mc, const kq_block *b, const float *x, const float *dy,
                            size_t T, float *dx, const kq_linear_sink *sink, void *scratch, kq_error *err)
{
    const unsigned selected = sink ? sink->selected : 0;
    static float *const no_norm[KQ_N_NORM];
    float *const *dnorm = sink ? sink->dnorm : no_norm;
    const unsigned attn = 1u << KQ_Q | 1u << KQ_K | 1u << KQ_V;
    const size_t d = mc->cfg.d_model, ff = mc->cfg.d_ff;
    work w;
    kq_status st = check_call(mc, T, err);
    if (st != KQ_OK)
        return st;
    lay_out(mc, T, true, scratch, &w);
    if ((st = forward_to_h(mc, b, x, T, &w, NULL, 1, err)) != KQ_OK)
        return st;

#define SINK(id, X, G) ((selected >> (id)&1) && (st = sink->give(sink->ctx, id, X, G, T, err)) != KQ_OK)
    /* y = x2 + W_down h */
    if (SINK(KQ_DOWN, w.h, dy))
        return st;
    if (!dx && !(selected & ~(1u << KQ_DOWN)))
        return KQ_OK;
    /* h is not read any more, so dh takes its place */
    if ((st = back_linear(mc, b, KQ_DOWN, dy, T, false, w.h, &w, err)) != KQ_OK)
        return st;
    mc->kern->swiglu_back(w.g, w.u, w.h, T * ff);
    if (SINK(KQ_GATE, w.xn2, w.g) || SINK(KQ_UP, w.xn2, w.u))
        return st;
    if ((st = back_linear(mc, b, KQ_GATE, w.g, T, false, w.dxn, &w, err)) != KQ_OK ||
        (st = back_linear(mc, b, KQ_UP, w.u, T, true, w.dxn, &w, err)) != KQ_OK)
        return st;
    norm_rows_back(mc, T, &(norm_back){w.x2, b->mlp_norm, w.dxn, w.r2, dy, w.dx2, dnorm[KQ_NORM_MLP]});

    /* x2 = x + W_o o */
    if (SINK(KQ_O, w.o, w.dx2))
        return st;
    if (!dx && !(selected & attn))
        return KQ_OK;
    if ((st = back_linear(mc, b, KQ_O, w.dx2, T, false, w.dq, &w, err)) != KQ_OK)
        return st;
    attention_back(mc, b, T, &w, dnorm);
    if (SINK(KQ_Q, w.xn, w.dq) || SINK(KQ_K, w.xn, w.dk) || SINK(KQ_V, w.xn, w.dv))
        return st;
#undef SINK
    if (!dx)
        return KQ_OK;
    if ((st = back_linear(mc, b, KQ_Q, w.dq, T, false, w.dxn, &w, err)) != KQ_OK ||
        (st = back_linear(mc, b, KQ_K, w.dk, T, true, w.dxn, &w, err)) != KQ_OK ||
        (st = back_linear(mc, b, KQ_V, w.dv, T, true, w.dxn, &w, err)) != KQ_OK)
        return st;
    norm_rows_back(mc, T, &(norm_back){x, b->attn_norm, w.dxn, w.r1, w.dx2, dx, dnorm[KQ_NORM_ATTN]});
    if (!mc->kern->all_finite(dx, T * d))
        return kq_fail(err, KQ_E_NUMERIC, "model.layers.%zu: NaN or Inf in the block's gradient", b->layer);
    return KQ_OK;
}
