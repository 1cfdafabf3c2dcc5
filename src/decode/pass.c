/* One pass over the weights for all rows at hand (docs/math.md, "Decoding"). The whole pass is one parallel
 * region: every thread runs through the same functions, takes items of each phase from a shared counter and
 * waits at a barrier (team.h), because a pass over a small model has hundreds of phases of a few
 * microseconds. Each value is summed in an order that depends on the model alone, so that the logits of a
 * position do not depend on what else is in the call. */
#include "decode/engine_state.h"

#include <omp.h>
#include <string.h>

#include "base/first_error.h"
#include "decode/team.h"

typedef struct pass {
    kq_engine *e;
    kq_team team;
    size_t n; /* rows */
    const kq_engine_row *rows;
    const size_t *wanted; /* rows whose logits are wanted */
    size_t n_wanted;
    atomic_int bad_layer; /* first layer with NaN or Inf, n_layer: none */
    kq_first_error embedding;
} pass;

/* x [head_dim] to the cache, in the kv type. */
static void store(const kq_engine *e, const float *x, uint8_t *dst)
{
    const size_t n = e->cfg->head_dim;
    if (e->opt.kv == KQ_KV_F32)
        memcpy(dst, x, n * sizeof *x);
    else if (e->opt.kv == KQ_KV_BF16)
        e->kern->to_bf16(x, (uint16_t *)(void *)dst, n);
    else
        e->mk.dense->to_f16(x, (uint16_t *)(void *)dst, n);
}

/* The items i < total that this thread gets; kq_team_barrier follows when all are handed out. */
#define FOR_SHARED(i, total) for (size_t i; (i = kq_team_next(&p->team)) < (total);)

static size_t blocks_of(const kq_matrix *M)
{
    return (M->m + KQ_ROW_BLOCK - 1) / KQ_ROW_BLOCK;
}

/* x [n, columns], ldx apart, to e->packed, for products with matrices in bf16. */
static void pack_inputs(pass *p, const float *x, size_t ldx, size_t n, size_t columns)
{
    enum { CHUNK = 16 }; /* steps of columns that a thread takes at a time */
    const kq_engine *e = p->e;
    const size_t steps = kq_bf16_steps(columns), chunks = (steps + CHUNK - 1) / CHUNK;
    FOR_SHARED(i, (n + KQ_BF16_GROUP - 1) / KQ_BF16_GROUP * chunks)
    {
        const size_t t = i / chunks * KQ_BF16_GROUP, count = n - t < KQ_BF16_GROUP ? n - t : KQ_BF16_GROUP,
                     step = i % chunks * CHUNK, end = steps - step < CHUNK ? steps : step + CHUNK;
        e->mk.bf16->pack(x + t * ldx, ldx, count, columns, step, end,
                         e->packed + kq_bf16_packed_size(columns, t));
    }
    kq_team_barrier(&p->team);
}

/* Rows r0 <= r < r1 of a matrix that is not packed, times the inputs x, which pack_inputs has seen. */
static void some_rows(const kq_engine *e, const kq_matrix *M, size_t r0, size_t r1, const float *x,
                      size_t ldx, size_t n, float *y, size_t ldy)
{
    if (M->kind == KQ_MATRIX_BF16 && e->mk.bf16)
        kq_matrix_rows_packed(M, e->mk.bf16, r0, r1, e->packed, n, y, ldy);
    else
        kq_matrix_rows(M, e->mk.dense, r0, r1, x, ldx, n, y, ldy);
}

/* y[j] = M[j] x for up to three matrices that share their input x [n, ldx]. A packed one goes through z
 * and w. */
static void linears(pass *p, const kq_matrix *M, size_t count, const float *x, size_t ldx, float *const *y)
{
    const kq_engine *e = p->e;
    const size_t n = p->n;
    float *panel = e->panel + (size_t)omp_get_thread_num() * kq_engine_panel_size(e),
          *rotating = panel + 16 * e->n_pad;
    size_t total = 0, packed = 0, bf16 = 0;
    for (size_t j = 0; j < count; j++) {
        total += blocks_of(&M[j]);
        packed += M[j].kind == KQ_MATRIX_PACKED;
        bf16 += M[j].kind == KQ_MATRIX_BF16;
    }
    if (bf16 && e->mk.bf16)
        pack_inputs(p, x, ldx, n, M->n);
    if (packed) {
        FOR_SHARED(i, count * n)
        {
            const size_t j = i % count, t = i / count, at = j * KQ_ENGINE_ROWS + t;
            if (M[j].kind == KQ_MATRIX_PACKED)
                kq_matrix_rotate_in(&M[j], &e->mk, x + t * ldx, e->z + at * e->n_pad * e->z_width,
                                    e->steps + at, rotating);
        }
        kq_team_barrier(&p->team);
    }
    FOR_SHARED(i, total)
    {
        size_t j = 0;
        for (; i >= blocks_of(&M[j]); j++)
            i -= blocks_of(&M[j]);
        const kq_matrix *A = &M[j];
        const size_t r0 = i * KQ_ROW_BLOCK, r1 = A->m - r0 < KQ_ROW_BLOCK ? A->m : r0 + KQ_ROW_BLOCK;
        if (A->kind != KQ_MATRIX_PACKED)
            some_rows(e, A, r0, r1, x, ldx, n, y[j] + r0, A->m);
        else
            for (size_t tile = r0 / 16; tile * 16 < r1; tile++)
                kq_matrix_tile(A, &e->mk, tile, e->z + j * KQ_ENGINE_ROWS * e->n_pad * e->z_width, e->n_pad,
                               n, e->w + j * KQ_ENGINE_ROWS * e->m_pad + tile * 16, e->m_pad, panel);
    }
    kq_team_barrier(&p->team);
    if (packed) {
        FOR_SHARED(i, count * n)
        {
            const size_t j = i % count, t = i / count, at = j * KQ_ENGINE_ROWS + t;
            if (M[j].kind == KQ_MATRIX_PACKED)
                kq_matrix_rotate_out(&M[j], e->mk.dense, e->w + at * e->m_pad, e->steps[at],
                                     y[j] + t * M[j].m, rotating);
        }
        kq_team_barrier(&p->team);
    }
}

/* Eq. 15 of one row and the query heads of key head j. */
static void attend(const kq_engine *e, size_t l, const kq_engine_row *r, const float *q, float *o, size_t j,
                   int thread)
{
    const size_t hd = e->cfg->head_dim, at = kq_cache_at(e, l, r->slot, j), keys = r->pos + 1, G = e->group,
                 ld = e->opt.max_T;
    const void *K = e->K + at, *V = e->V + at;
    float *scores = e->scores + (size_t)thread * G * ld;
    uint32_t *query = e->query + (size_t)thread * kq_bf16_packed_size(hd, G);
    q += j * G * hd, o += j * G * hd;
    if (e->opt.kv == KQ_KV_F32)
        e->mk.dense->dots_f32(K, hd, keys, hd, q, hd, G, scores, ld);
    else if (e->opt.kv == KQ_KV_BF16 && e->mk.bf16) {
        for (size_t t = 0; t < G; t += KQ_BF16_GROUP)
            e->mk.bf16->pack(q + t * hd, hd, G - t < KQ_BF16_GROUP ? G - t : KQ_BF16_GROUP, hd, 0,
                             kq_bf16_steps(hd), query + kq_bf16_packed_size(hd, t));
        e->mk.bf16->dots(K, keys, hd, query, G, scores, ld);
    } else if (e->opt.kv == KQ_KV_BF16)
        e->mk.dense->dots_bf16(K, hd, keys, hd, q, hd, G, scores, ld);
    else
        e->mk.dense->dots_f16(K, hd, keys, hd, q, hd, G, scores, ld);
    for (size_t g = 0; g < G; g++)
        e->kern->softmax(scores + g * ld, keys, e->attn_scale);
    if (e->opt.kv == KQ_KV_F32)
        e->mk.dense->mix_f32(V, hd, keys, hd, scores, ld, G, o, hd);
    else if (e->opt.kv == KQ_KV_BF16)
        e->mk.dense->mix_bf16(V, hd, keys, hd, scores, ld, G, o, hd);
    else
        e->mk.dense->mix_f16(V, hd, keys, hd, scores, ld, G, o, hd);
}

/* One row: q is rotated in place; k, rotated, and v go into the cache. */
static void store_keys(const kq_engine *e, size_t l, const kq_engine_row *r, float *q, float *k,
                       const float *v)
{
    const size_t hd = e->cfg->head_dim;
    const kq_engine_layer *b = &e->layers[l];
    for (size_t h = 0; h < e->cfg->n_head; h++)
        kq_head_rotate(e->mc, b->q_norm, q + h * hd, r->pos, q + h * hd, NULL);
    for (size_t j = 0; j < e->cfg->n_kv_head; j++) {
        const size_t at = kq_cache_at(e, l, r->slot, j) + r->pos * hd * e->kv_width;
        kq_head_rotate(e->mc, b->k_norm, k + j * hd, r->pos, k + j * hd, NULL);
        store(e, k + j * hd, e->K + at);
        store(e, v + j * hd, e->V + at);
    }
}

static void run_layer(pass *p, size_t l)
{
    kq_engine *e = p->e;
    const kq_config *c = e->cfg;
    const kq_engine_layer *b = &e->layers[l];
    const size_t d = c->d_model, ff = c->d_ff, n = p->n;
    const float *next_norm = l + 1 < c->n_layer ? e->layers[l + 1].attn_norm : e->norm;

    linears(p, &b->lin[KQ_Q], 3, e->xn, d, (float *const[]){e->q, e->k, e->v});
    FOR_SHARED(i, n)
    store_keys(e, l, &p->rows[i], e->q + i * e->dq, e->k + i * e->dkv, e->v + i * e->dkv);
    kq_team_barrier(&p->team);
    FOR_SHARED(i, n * c->n_kv_head)
    {
        const size_t r = i / c->n_kv_head;
        attend(e, l, &p->rows[r], e->q + r * e->dq, e->o + r * e->dq, i % c->n_kv_head, omp_get_thread_num());
    }
    kq_team_barrier(&p->team);
    linears(p, &b->lin[KQ_O], 1, e->o, e->dq, (float *const[]){e->xn});
    FOR_SHARED(i, n)
    {
        float *x = e->x + i * d;
        e->kern->add(x, e->xn + i * d, x, d);
        e->kern->rms_norm(x, b->mlp_norm, e->xn + i * d, d, c->rms_eps);
    }
    kq_team_barrier(&p->team);
    linears(p, &b->lin[KQ_GATE], 2, e->xn, d, (float *const[]){e->g, e->u});
    FOR_SHARED(i, n)
    e->kern->swiglu(e->g + i * ff, e->u + i * ff, e->g + i * ff, ff);
    kq_team_barrier(&p->team);
    linears(p, &b->lin[KQ_DOWN], 1, e->g, ff, (float *const[]){e->xn});
    FOR_SHARED(i, n)
    {
        float *x = e->x + i * d;
        e->kern->add(x, e->xn + i * d, x, d);
        int none = (int)c->n_layer;
        if (!e->kern->all_finite(x, d))
            atomic_compare_exchange_strong(&p->bad_layer, &none, (int)l);
        e->kern->rms_norm(x, next_norm, e->xn + i * d, d, c->rms_eps);
    }
    kq_team_barrier(&p->team);
}

/* Rows whose logits are wanted are moved to the front of x (they come in ascending order), then go through
 * the head. */
static void run_head(pass *p)
{
    const kq_engine *e = p->e;
    const size_t d = e->cfg->d_model, V = e->head.m, T = p->n_wanted;
    float *panel = e->panel + (size_t)omp_get_thread_num() * kq_engine_panel_size(e);
    const bool packed = e->head.kind == KQ_MATRIX_PACKED;
    const kq_rotated rotated = {.z = e->z, .ldz = e->n_pad, .T = T, .steps = e->steps};
    FOR_SHARED(i, T)
    {
        const float *x = e->xn + p->wanted[i] * d;
        if (packed)
            kq_matrix_rotate_in(&e->head, &e->mk, x, e->z + i * e->n_pad * e->z_width, e->steps + i,
                                panel + 16 * e->n_pad);
        else
            memcpy(e->x + i * d, x, d * sizeof *e->x);
    }
    kq_team_barrier(&p->team);
    if (e->head.kind == KQ_MATRIX_BF16 && e->mk.bf16)
        pack_inputs(p, e->x, d, T, d);
    float *part = e->logits + (size_t)omp_get_thread_num() * KQ_ENGINE_ROWS * KQ_ROW_BLOCK;
    FOR_SHARED(i, (V + KQ_ROW_BLOCK - 1) / KQ_ROW_BLOCK)
    {
        const size_t r0 = i * KQ_ROW_BLOCK, r1 = V - r0 < KQ_ROW_BLOCK ? V : r0 + KQ_ROW_BLOCK;
        if (packed)
            kq_matrix_head_rows(&e->head, &e->mk, r0, r1, &rotated, part, KQ_ROW_BLOCK, panel);
        else
            some_rows(e, &e->head, r0, r1, e->x, d, T, part, KQ_ROW_BLOCK);
        for (size_t t = 0; t < T; t++)
            memcpy(p->rows[p->wanted[t]].logits + r0, part + t * KQ_ROW_BLOCK, (r1 - r0) * sizeof *part);
    }
    kq_team_barrier(&p->team);
}

static void run_embedding(pass *p)
{
    kq_engine *e = p->e;
    const size_t d = e->cfg->d_model;
    FOR_SHARED(i, p->n)
    {
        kq_error err;
        float *x = e->x + i * d;
        if (e->weights->rows(e->weights->ctx, "model.embed_tokens.weight", (size_t)p->rows[i].id, 1, x,
                             &err)) {
            memset(x, 0, d * sizeof *x);
            kq_first_error_note(&p->embedding, i, err.status, &err);
        }
        e->kern->rms_norm(x, e->layers[0].attn_norm, e->xn + i * d, d, e->cfg->rms_eps);
    }
    kq_team_barrier(&p->team);
}

kq_status kq_engine_pass(kq_engine *e, const kq_engine_row *rows, size_t n, kq_error *err)
{
    size_t wanted[KQ_ENGINE_ROWS], n_wanted = 0;
    for (size_t i = 0; i < n; i++)
        if (rows[i].logits)
            wanted[n_wanted++] = i;
    pass p = {.e = e,
              .n = n,
              .rows = rows,
              .wanted = wanted,
              .n_wanted = n_wanted,
              .bad_layer = (int)e->cfg->n_layer,
              .embedding = KQ_FIRST_ERROR};
#pragma omp parallel num_threads(e->opt.threads)
    {
#pragma omp single
        p.team.n = omp_get_num_threads();
        run_embedding(&p);
        for (size_t l = 0; l < e->cfg->n_layer; l++)
            run_layer(&p, l);
        if (n_wanted)
            run_head(&p);
    }
    const kq_status st = kq_first_error_get(&p.embedding, err);
    if (st)
        return st;
    if (atomic_load(&p.bad_layer) < (int)e->cfg->n_layer)
        return kq_fail(err, KQ_E_NUMERIC, "model.layers.%d: NaN or Inf in the block's output",
                       atomic_load(&p.bad_layer));
    return KQ_OK;
}
