/* Inside the room: the context that all blocks share, one linear, and attention of one key head. */
#ifndef KQ_MODEL_INTERNAL_H
#define KQ_MODEL_INTERNAL_H

#include "kern/kern.h"
#include "model/model.h"

struct kq_model_ctx {
    kq_config cfg;
    kq_compute compute;
    const kq_kern *kern;
    size_t max_T;
    size_t dq, dkv, group; /* n_head * head_dim, n_kv_head * head_dim, query heads per key head */
    size_t widest;         /* the largest number of inputs or outputs of a linear */
    float attn_scale;      /* 1/sqrt(head_dim) */
    float *cos, *sin;      /* owned [max_T, head_dim/2] */
};

/* Read a tensor's rows in the compute type; exactly one of *f32, *bf16 is set (owned by the caller). */
kq_status kq_load_rows(const kq_model_ctx *mc, const kq_weights *w, const char *name, size_t rows,
                       size_t cols, float **f32, uint16_t **bf16, kq_error *err);
kq_status kq_load_vector(const kq_weights *w, const char *name, size_t n, float **out, kq_error *err);

/* The operand X [count] in the type of the products: xb is filled where that is bf16; otherwise nothing
 * happens. */
void kq_to_compute(const kq_model_ctx *mc, const float *X, size_t count, uint16_t *xb, int threads);
/* Eq. 12: Y [T, m] (+)= X W^T for X [T, n] and xb, what kq_to_compute made of X. */
kq_status kq_linear_forward(const kq_model_ctx *mc, const kq_linear *lin, const float *X, const uint16_t *xb,
                            size_t T, bool accumulate, float *Y, int threads, kq_error *err);
/* Eq. 22: dX [T, n] (+)= G W for G [T, m] and gb, what kq_to_compute made of G. */
kq_status kq_linear_backward(const kq_model_ctx *mc, const kq_linear *lin, const float *G, const uint16_t *gb,
                             size_t T, bool accumulate, float *dX, int threads, kq_error *err);

/* Eq. 101: dw [n] += x[j] r dy[j], the gradient of a norm's weights from one row. */
static inline void kq_norm_weight_back(const float *x, const float *dy, float r, float *dw, size_t n)
{
    for (size_t j = 0; j < n; j++)
        dw[j] += x[j] * r * dy[j];
}

/* Causal attention of one key head (eq. 15), a tile of n queries at positions pos0 .. pos0+n-1. The `group`
 * query heads that share the key head stand as neighbouring rows: row t * group + g is query t of head g. */
enum { KQ_ATTN_ROWS = 128 };
typedef struct kq_attn_tile {
    const float *Q;     /* [n * group, head_dim], through the rotary embedding */
    const float *K, *V; /* [pos0 + n, head_dim] */
    size_t pos0, n;
} kq_attn_tile;
size_t kq_attn_tile_queries(const kq_model_ctx *mc); /* queries a tile: about KQ_ATTN_ROWS rows */
/* O [n * group, head_dim]; lse [n * group]: lse of each row's scaled scores (eq. 19), may be NULL. S [n *
 * group, pos0 + n]: scratch. */
void kq_attn_forward(const kq_model_ctx *mc, const kq_attn_tile *z, float *O, float *lse, float *S);

/* The arrays of the backward pass through kq_attn_forward (eq. 25, 26). */
typedef struct kq_attn_gradient {
    const float *O, *lse; /* of the forward pass */
    const float *dO;      /* [n * group, head_dim] */
    float *dQ;            /* [n * group, head_dim], written */
    float *dK, *dV;       /* [pos0 + n, head_dim], added to */
} kq_attn_gradient;
/* S, D [n * group, pos0 + n]: scratch. */
void kq_attn_backward(const kq_model_ctx *mc, const kq_attn_tile *z, const kq_attn_gradient *g, float *S,
                      float *D);

#endif
