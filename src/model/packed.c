/* Many short sequences in one pass (the answers of a task). The rows of all segments go through the linears
 * together, which makes the products large. Only attention works segment by segment; one segment and one key
 * head are the work of one thread at a time. */
#include <omp.h>
#include <string.h>

#include "base/mem.h"
#include "model/internal.h"

typedef struct work {
    float *xn, *q, *k, *v, *g, *u; /* [T, d], [T, dq], [T, dkv] twice, [T, d_ff] twice */
    uint16_t *xb;                  /* [T, widest], only for bf16 products */
    /* scratch, a slice for each thread: K, V [longest, head_dim]; Q, O [rows, head_dim]; S [rows, longest] */
    float *mine;
    size_t slice; /* floats */
} work;

static float *slice_of(char *base, size_t *used, size_t n)
{
    float *p = base ? (float *)(void *)(base + *used) : NULL;
    *used += (n * sizeof(float) + 63) / 64 * 64;
    return p;
}

static size_t lay_out(const kq_model_ctx *mc, size_t T, size_t longest, int threads, void *scratch, work *w)
{
    const kq_config *c = &mc->cfg;
    const size_t tile = kq_attn_tile_queries(mc) < longest ? kq_attn_tile_queries(mc) : longest,
                 rows = tile * mc->group;
    size_t used = 0;
    w->xn = slice_of(scratch, &used, T * c->d_model);
    w->q = slice_of(scratch, &used, T * mc->dq);
    w->k = slice_of(scratch, &used, T * mc->dkv);
    w->v = slice_of(scratch, &used, T * mc->dkv);
    w->g = slice_of(scratch, &used, T * c->d_ff);
    w->u = slice_of(scratch, &used, T * c->d_ff);
    w->xb = mc->compute == KQ_BF16 ? (uint16_t *)(void *)slice_of(scratch, &used, (T * mc->widest + 1) / 2)
                                   : NULL;
    w->slice = (2 * longest * c->head_dim + 2 * rows * c->head_dim + rows * longest + 15) / 16 * 16;
    w->mine = slice_of(scratch, &used, w->slice * (size_t)(threads < 1 ? 1 : threads));
    return used;
}

size_t kq_block_packed_scratch_bytes(const kq_model_ctx *mc, size_t T, size_t longest, int threads)
{
    work w;
    return lay_out(mc, T, longest, threads, NULL, &w);
}

static void norm_rows(const kq_model_ctx *mc, const float *x, const float *weight, size_t T, float *y,
                      int threads)
{
    const size_t d = mc->cfg.d_model;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (size_t t = 0; t < T; t++)
        mc->kern->rms_norm(x + t * d, weight, y + t * d, d, mc->cfg.rms_eps);
}

static void rotate(const kq_model_ctx *mc, const kq_block *b, const kq_segment *seg, size_t n_seg, work *w,
                   int threads)
{
    const size_t hd = mc->cfg.head_dim;
#pragma omp parallel for schedule(dynamic, 8) num_threads(threads) if (threads > 1)
    for (size_t s = 0; s < n_seg; s++)
        for (size_t i = 0; i < seg[s].n; i++) {
            float *q = w->q + (seg[s].row + i) * mc->dq, *k = w->k + (seg[s].row + i) * mc->dkv;
            for (size_t h = 0; h < mc->cfg.n_head; h++)
                kq_head_rotate(mc, b->q_norm, q + h * hd, seg[s].prefix_n + i, q + h * hd, NULL);
            for (size_t j = 0; j < mc->cfg.n_kv_head; j++)
                kq_head_rotate(mc, b->k_norm, k + j * hd, seg[s].prefix_n + i, k + j * hd, NULL);
        }
}

/* Copy n rows of `width` values that lie `stride` apart. */
static void gather(const float *from, size_t stride, size_t n, size_t width, float *to)
{
    for (size_t i = 0; i < n; i++)
        memcpy(to + i * width, from + i * stride, width * sizeof *to);
}

/* Attention of one key head of one segment. The output takes the place of the queries. */
static void attend(const kq_model_ctx *mc, const kq_segment *s, size_t j, size_t longest, work *w,
                   float *mine)
{
    const size_t hd = mc->cfg.head_dim, group = mc->group, wide = group * hd, total = s->prefix_n + s->n,
                 tile_q = kq_attn_tile_queries(mc);
    const size_t rows = (tile_q < longest ? tile_q : longest) * group;
    float *K = mine, *V = K + longest * hd, *Q = V + longest * hd, *O = Q + rows * hd, *S = O + rows * hd;
    const struct {
        size_t row, n, at;
    } parts[] = {{s->prefix_row, s->prefix_n, 0}, {s->row, s->n, s->prefix_n}};
    for (int p = 0; p < 2; p++) {
        gather(w->k + parts[p].row * mc->dkv + j * hd, mc->dkv, parts[p].n, hd, K + parts[p].at * hd);
        gather(w->v + parts[p].row * mc->dkv + j * hd, mc->dkv, parts[p].n, hd, V + parts[p].at * hd);
    }
    for (size_t t = s->prefix_n; t < total; t += tile_q) {
        const size_t n = total - t < tile_q ? total - t : tile_q;
        /* the query heads of a group are neighbours: rows t * group + g */
        float *q = w->q + (s->row + t - s->prefix_n) * mc->dq + j * wide;
        gather(q, mc->dq, n, wide, Q);
        kq_attn_forward(mc, &(kq_attn_tile){.Q = Q, .K = K, .V = V, .pos0 = t, .n = n}, O, NULL, S);
        for (size_t i = 0; i < n; i++)
            memcpy(q + i * mc->dq, O + i * wide, wide * sizeof *q);
    }
}

static kq_status check(const kq_model_ctx *mc, const kq_packing *p, kq_error *err)
{
    const size_t T = p->T, n_seg = p->n_seg, longest = p->longest;
    const kq_segment *seg = p->seg;
    if (longest < 1 || longest > mc->max_T)
        return kq_fail(err, KQ_E_ARG, "a sequence of %zu tokens, but the model context was made for 1..%zu",
                       longest, mc->max_T);
    for (size_t s = 0; s < n_seg; s++)
        if (seg[s].n > T || seg[s].row > T - seg[s].n || seg[s].prefix_n > T ||
            seg[s].prefix_row > T - seg[s].prefix_n || seg[s].prefix_n + seg[s].n > longest)
            return kq_fail(err, KQ_E_ARG, "segment %zu is outside the %zu packed rows", s, T);
    return KQ_OK;
}

kq_status kq_block_forward_packed(const kq_model_ctx *mc, const kq_block *b, float *x, const kq_packing *p,
                                  void *scratch, int threads, kq_error *err)
{
    const size_t T = p->T, n_seg = p->n_seg, longest = p->longest;
    const kq_segment *seg = p->seg;
    const size_t d = mc->cfg.d_model, ff = mc->cfg.d_ff, nkv = mc->cfg.n_kv_head;
    work w;
    kq_status st = check(mc, p, err);
    if (st != KQ_OK || T == 0)
        return st;
    if (threads < 1 || omp_in_parallel())
        threads = 1;
    lay_out(mc, T, longest, threads, scratch, &w);

    norm_rows(mc, x, b->attn_norm, T, w.xn, threads);
    kq_to_compute(mc, w.xn, T * d, w.xb, threads);
    if ((st = kq_linear_forward(mc, &b->lin[KQ_Q], w.xn, w.xb, T, false, w.q, threads, err)) != KQ_OK ||
        (st = kq_linear_forward(mc, &b->lin[KQ_K], w.xn, w.xb, T, false, w.k, threads, err)) != KQ_OK ||
        (st = kq_linear_forward(mc, &b->lin[KQ_V], w.xn, w.xb, T, false, w.v, threads, err)) != KQ_OK)
        return st;
    rotate(mc, b, seg, n_seg, &w, threads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (size_t i = 0; i < n_seg * nkv; i++)
        attend(mc, &seg[i / nkv], i % nkv, longest, &w, w.mine + (size_t)omp_get_thread_num() * w.slice);
    kq_to_compute(mc, w.q, T * mc->dq, w.xb, threads);
    if ((st = kq_linear_forward(mc, &b->lin[KQ_O], w.q, w.xb, T, true, x, threads, err)) != KQ_OK)
        return st;

    norm_rows(mc, x, b->mlp_norm, T, w.xn, threads);
    kq_to_compute(mc, w.xn, T * d, w.xb, threads);
    if ((st = kq_linear_forward(mc, &b->lin[KQ_GATE], w.xn, w.xb, T, false, w.g, threads, err)) != KQ_OK ||
        (st = kq_linear_forward(mc, &b->lin[KQ_UP], w.xn, w.xb, T, false, w.u, threads, err)) != KQ_OK)
        return st;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (size_t t = 0; t < T; t++)
        mc->kern->swiglu(w.g + t * ff, w.u + t * ff, w.g + t * ff, ff);
    kq_to_compute(mc, w.g, T * ff, w.xb, threads);
    if ((st = kq_linear_forward(mc, &b->lin[KQ_DOWN], w.g, w.xb, T, true, x, threads, err)) != KQ_OK)
        return st;
    if (!mc->kern->all_finite(x, T * d))
        return kq_fail(err, KQ_E_NUMERIC, "model.layers.%zu: NaN or Inf in the block's output", b->layer);
    return KQ_OK;
}
