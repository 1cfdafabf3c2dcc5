/* Inside the room: what an engine is, for the files that load it (load.c), run it (pass.c) and manage its
 * slots (engine.c). */
#ifndef KQ_DECODE_ENGINE_STATE_H
#define KQ_DECODE_ENGINE_STATE_H

#include "decode/engine.h"
#include "decode/matrix.h"
#include "kern/kern.h"

enum { KQ_ROW_BLOCK = 32 }; /* rows of a matrix that a thread takes at a time */

typedef struct kq_engine_layer {
    kq_matrix lin[KQ_N_LINEAR];
    float *attn_norm, *mlp_norm, *q_norm, *k_norm; /* owned; the last two Qwen3 only */
} kq_engine_layer;

struct kq_engine {
    const kq_weights *weights;
    const kq_model_file *model; /* NULL: only weights */
    kq_engine_options opt;
    const kq_config *cfg;
    kq_model_ctx *mc;
    const kq_kern *kern;
    kq_matrix_kern mk;
    size_t dq, dkv, group;
    float attn_scale;
    kq_engine_layer *layers; /* owned, as is the rest */
    float *norm;
    kq_matrix head;
    size_t *length;  /* [n_slots] */
    uint8_t *K, *V;  /* [n_layer][n_slots][n_kv_head][max_T][head_dim] in the kv type */
    size_t kv_width; /* bytes an element */
    /* Scratch of KQ_ENGINE_ROWS rows. */
    float *x, *xn, *q, *k, *v, *o, *g, *u;
    float *scores; /* [threads][group][max_T] */
    float *logits; /* [threads][KQ_ENGINE_ROWS][KQ_ROW_BLOCK] */
    /* Packed linears: rotations by order, integer codes by bits, and scratch of three matrices that
     * share an input. */
    kq_rotation *rotations[8];
    size_t n_rotations;
    kq_packed_code *codes[5];
    size_t n_pad, m_pad, z_width; /* the largest orders; bytes an element of z */
    uint8_t *z;                   /* [3][KQ_ENGINE_ROWS][n_pad] rotated inputs, int16 or f32 */
    /* inputs of a matrix in bf16, packed by mk.bf16: up to KQ_ENGINE_ROWS vectors of the widest input */
    uint32_t *packed;
    uint32_t *query;  /* [threads] the queries of one key head, packed */
    float *w, *steps; /* [3][KQ_ENGINE_ROWS][m_pad] products, [3][KQ_ENGINE_ROWS] */
    /* [threads][18 n_pad + m_pad]: 16 rows of weights, and two vectors being rotated */
    float *panel;
    size_t scratch_bytes;
};

/* One row of a chunk: a token at a position of a slot, and where its logits go (NULL: nowhere). */
typedef struct kq_engine_row {
    int32_t id;
    size_t slot, pos;
    float *logits;
} kq_engine_row;

/* Bytes before key head j of a slot in layer l. */
static inline size_t kq_cache_at(const kq_engine *e, size_t l, size_t slot, size_t j)
{
    return ((l * e->opt.n_slots + slot) * e->cfg->n_kv_head + j) * e->opt.max_T * e->cfg->head_dim *
           e->kv_width;
}

/* Floats of scratch that a thread needs for packed linears. */
static inline size_t kq_engine_panel_size(const kq_engine *e)
{
    return e->n_pad ? (18 * e->n_pad + e->m_pad + 15) / 16 * 16 : 0;
}

/* Read all weights into e->layers, e->norm and e->head, then allocate caches and scratch. What was loaded
 * before a failure stays for kq_engine_free. */
kq_status kq_engine_load(kq_engine *e, kq_error *err);

/* One pass over the weights for n rows, at most KQ_ENGINE_ROWS. */
kq_status kq_engine_pass(kq_engine *e, const kq_engine_row *rows, size_t n, kq_error *err);

#endif
