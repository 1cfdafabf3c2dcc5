/* What all blocks share: the configuration, the kernels and the table of the rotary embedding. Reading
 * tensors into the type of the products is here too, because it depends on nothing else. */
#include <math.h>

#include "base/f16.h"
#include "base/mem.h"
#include "source/rope.h"
#include "model/internal.h"

kq_status kq_model_ctx_new(const kq_config *cfg, kq_isa isa, kq_compute compute, size_t max_T,
                           kq_model_ctx **out, kq_error *err)
{
    *out = NULL;
    if (max_T < 1)
        return kq_fail(err, KQ_E_ARG, "a model context needs room for at least one token");
    if (cfg->head_dim % 2 != 0)
        return kq_fail(err, KQ_E_UNSUPPORTED, "head_dim %zu is odd: rotary embedding needs pairs",
                       cfg->head_dim);
    kq_status st = kq_rope_check_length(cfg, max_T, err);
    if (st != KQ_OK)
        return st;
    kq_kern_init(isa);
    float *freq = NULL;
    size_t half = cfg->head_dim / 2, n = 0;
    kq_model_ctx *mc = kq_calloc(1, sizeof *mc);
    if (!mc)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: model context");
    mc->cfg = *cfg;
    mc->compute = compute;
    mc->kern = kq_kern_pick(isa);
    mc->max_T = max_T;
    mc->dq = cfg->n_head * cfg->head_dim;
    mc->dkv = cfg->n_kv_head * cfg->head_dim;
    mc->group = cfg->n_head / cfg->n_kv_head;
    mc->attn_scale = (float)(1.0 / sqrt((double)cfg->head_dim));
    mc->widest = cfg->d_model > mc->dq ? cfg->d_model : mc->dq;
    if (cfg->d_ff > mc->widest)
        mc->widest = cfg->d_ff;
    if (!kq_mul_size(max_T, half, &n))
        st = kq_fail(err, KQ_E_MEMORY, "%zu positions are too many", max_T);
    if (st == KQ_OK)
        st = kq_alloc_for((void **)&mc->cos, n, sizeof(float), "rotary embedding", err);
    if (st == KQ_OK)
        st = kq_alloc_for((void **)&mc->sin, n, sizeof(float), "rotary embedding", err);
    if (st == KQ_OK)
        st = kq_alloc_for((void **)&freq, half, sizeof(float), "rotary embedding", err);
    if (st != KQ_OK) {
        kq_model_ctx_free(mc);
        return st;
    }
    /* The angle is rounded to f32, as in transformers; its cosine is computed in double. The attention factor
     * is part of cos and sin, so the backward pass, which multiplies by the transpose, has it too. */
    const double a = kq_rope_attention(cfg);
    kq_rope_frequencies(cfg, freq);
    for (size_t t = 0; t < max_T; t++)
        for (size_t i = 0; i < half; i++) {
            float angle = (float)t * freq[i];
            mc->cos[t * half + i] = (float)(a * cos((double)angle));
            mc->sin[t * half + i] = (float)(a * sin((double)angle));
        }
    kq_free(freq);
    *out = mc;
    return KQ_OK;
}

void kq_model_ctx_free(kq_model_ctx *mc)
{
    if (!mc)
        return;
    kq_free(mc->cos);
    kq_free(mc->sin);
    kq_free(mc);
}

const kq_config *kq_model_ctx_config(const kq_model_ctx *mc)
{
    return &mc->cfg;
}

kq_status kq_load_vector(const kq_weights *w, const char *name, size_t n, float **out, kq_error *err)
{
    kq_status st = kq_alloc_for((void **)out, n, sizeof(float), name, err);
    if (st == KQ_OK)
        st = w->rows(w->ctx, name, 0, n, *out, err);
    return st;
}

kq_status kq_load_rows(const kq_model_ctx *mc, const kq_weights *w, const char *name, size_t rows,
                       size_t cols, float **f32, uint16_t **bf16, kq_error *err)
{
    size_t n;
    if (!kq_mul_size(rows, cols, &n))
        return kq_fail(err, KQ_E_MEMORY, "%s: %zu x %zu is too large", name, rows, cols);
    if (mc->compute == KQ_F32) {
        kq_status st = kq_alloc_for((void **)f32, n, sizeof(float), name, err);
        return st == KQ_OK ? w->rows(w->ctx, name, 0, rows, *f32, err) : st;
    }
    float *piece = NULL;
    const size_t piece_rows = 256;
    kq_status st = kq_alloc_for((void **)bf16, n, sizeof(uint16_t), name, err);
    if (st == KQ_OK)
        st = kq_alloc_for((void **)&piece, piece_rows * cols, sizeof(float), name, err);
    for (size_t r = 0; st == KQ_OK && r < rows; r += piece_rows) {
        size_t k = rows - r < piece_rows ? rows - r : piece_rows;
        if ((st = w->rows(w->ctx, name, r, k, piece, err)) == KQ_OK)
            mc->kern->to_bf16(piece, *bf16 + r * cols, k * cols);
    }
    kq_free(piece);
    return st;
}
