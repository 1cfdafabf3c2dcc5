/* Causal attention of one key head (docs/math.md, eq. 15, 25, 26), a tile of queries at a time. Only the
 * scores of one tile are in memory, never those of a whole sequence. For the backward pass only the
 * log-sum-exp of each row is kept, and the probabilities are computed again (Dao et al. 2022). */
#include <string.h>

#include "model/internal.h"

size_t kq_attn_tile_queries(const kq_model_ctx *mc)
{
    return mc->group >= KQ_ATTN_ROWS ? 1 : KQ_ATTN_ROWS / mc->group;
}

void kq_attn_forward(const kq_model_ctx *mc, const kq_attn_tile *z, float *O, float *lse, float *S)
{
    const float *Q = z->Q, *K = z->K, *V = z->V;
    const size_t pos0 = z->pos0, n = z->n;
    const size_t hd = mc->cfg.head_dim, rows = n * mc->group, keys = pos0 + n;
    kq_gemm_f32(false, true, rows, keys, hd, 1.0f, Q, hd, K, hd, 0.0f, S, keys);
    for (size_t r = 0; r < rows; r++) {
        size_t seen = pos0 + r / mc->group + 1;
        float l = mc->kern->softmax(S + r * keys, seen, mc->attn_scale);
        if (lse)
            lse[r] = l;
        memset(S + r * keys + seen, 0, (keys - seen) * sizeof *S);
    }
    kq_gemm_f32(false, false, rows, hd, keys, 1.0f, S, keys, V, hd, 0.0f, O, hd);
}

void kq_attn_backward(const kq_model_ctx *mc, const kq_attn_tile *z, const kq_attn_gradient *g, float *S,
                      float *D)
{
    const float *Q = z->Q, *K = z->K, *V = z->V, *dO = g->dO;
    const size_t pos0 = z->pos0, n = z->n;
    const size_t hd = mc->cfg.head_dim, rows = n * mc->group, keys = pos0 + n;
    kq_gemm_f32(false, true, rows, keys, hd, 1.0f, Q, hd, K, hd, 0.0f, S, keys);
    kq_gemm_f32(false, true, rows, keys, hd, 1.0f, dO, hd, V, hd, 0.0f, D, keys);
    for (size_t r = 0; r < rows; r++) {
        size_t seen = pos0 + r / mc->group + 1;
        float *p = S + r * keys, *d = D + r * keys;
        mc->kern->softmax_again(p, seen, mc->attn_scale, g->lse[r]);
        memset(p + seen, 0, (keys - seen) * sizeof *p);
        /* sum_s p_s dp_s = sum_s p_s (dO . V_s) = dO . O */
        mc->kern->softmax_back(p, d, seen, mc->kern->dot(dO + r * hd, g->O + r * hd, hd), mc->attn_scale);
        memset(d + seen, 0, (keys - seen) * sizeof *d);
    }
    kq_gemm_f32(true, false, keys, hd, rows, 1.0f, S, keys, dO, hd, 1.0f, g->dV, hd);
    kq_gemm_f32(false, false, rows, hd, keys, 1.0f, D, keys, K, hd, 0.0f, g->dQ, hd);
    kq_gemm_f32(true, false, keys, hd, rows, 1.0f, D, keys, Q, hd, 1.0f, g->dK, hd);
}

void kq_head_rotate(const kq_model_ctx *mc, const float *norm, const float *x, size_t pos, float *y, float *r)
{
    const size_t hd = mc->cfg.head_dim, half = hd / 2;
    if (norm) {
        float f = mc->kern->rms_norm(x, norm, y, hd, mc->cfg.rms_eps);
        if (r)
            *r = f;
        x = y;
    }
    mc->kern->rope(x, mc->cos + pos * half, mc->sin + pos * half, y, half, 1.0f);
}
