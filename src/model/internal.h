/* What the files of this room share. */
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

/* X [T, n] in the type of the products: xb when that is bf16 (filled here), else nothing happens. */
void kq_to_compute(const kq_model_ctx *mc, const float *X, size_t count, uint16_t *xb, int threads);
/* Y [T, m] (+)= X W^T; X must have been through kq_to_compute. */
kq_status kq_linear_forward(const kq_model_ctx *mc, const kq_linear *lin, const float *X, const uint16_t *xb,
                            size_t T, bool accumulate, float *Y, int threads, kq_error *err);
/* dX [T, n] (+)= G W; G likewise. One thread. */
kq_status kq_linear_backward(const kq_model_ctx *mc, const kq_linear *lin, const float *G, const uint16_t *gb,
                             size_t T, bool accumulate, float *dX, kq_error *err);

/* Causal attention of one key head, a tile of queries at a time. The `group` query heads that share it
 * stand as neighbouring rows: row t * group + g is query t of head g.  Q, O [n * group, head_dim] of the
 * tile's n queries, at positions pos0..pos0+n-1; K, V [pos0 + n, head_dim]. S [n * group, pos0 + n]
 * scratch. lse [n * group]: log sum exp of each row's scaled scores (may be NULL). */
enum { KQ_ATTN_ROWS = 128 };
size_t kq_attn_tile(const kq_model_ctx *mc); /* queries a tile: about KQ_ATTN_ROWS rows */
void kq_attn_forward(const kq_model_ctx *mc, const float *Q, const float *K, const float *V, size_t pos0,
                     size_t n, float *O, float *lse, float *S);
/* Back through it. dO [n * group, head_dim]; dQ is written, dK and dV [pos0 + n, head_dim] are added to.
 * S, D: two such scratch arrays. */
void kq_attn_backward(const kq_model_ctx *mc, const float *Q, const float *K, const float *V, const float *O,
                      const float *dO, const float *lse, size_t pos0, size_t n, float *dQ, float *dK,
                      float *dV, float *S, float *D);

#endif
