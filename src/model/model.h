/* Forward and backward of LLaMA-2/3 and Qwen3, one block and one sequence at a time.
 *
 * A function runs on the calling thread alone, unless it takes `threads`: the caller's threads work on
 * different sequences. Activations are f32 [T, width] row-major. The compute type is that of the matrix
 * products. Notation and equations: docs/math.md, "The model". d = d_model, T = tokens of the sequence. */
#ifndef KQ_MODEL_MODEL_H
#define KQ_MODEL_MODEL_H

#include "kern/gemm.h"
#include "model/weights.h"

/* What all blocks share: configuration, kernels, cos/sin of the rotary embedding for max_T positions. */
typedef struct kq_model_ctx kq_model_ctx;
kq_status kq_model_ctx_new(const kq_config *cfg, kq_isa isa, kq_compute compute, size_t max_T,
                           kq_model_ctx **out, kq_error *err);
void kq_model_ctx_free(kq_model_ctx *mc);
const kq_config *kq_model_ctx_config(const kq_model_ctx *mc);

/* One attention head of one token: y = rope(norm ? rms_norm(x, norm) : x, pos). x and y are [head_dim] and
 * may be the same array. *r (may be NULL) gets the norm's factor. */
void kq_head_rotate(const kq_model_ctx *mc, const float *norm, const float *x, size_t pos, float *y,
                    float *r);

/* The weights of one linear in the compute type. Exactly one pointer is set; the block owns it. */
typedef struct kq_linear {
    size_t m, n;
    float *f32;
    uint16_t *bf16;
} kq_linear;

typedef struct kq_block {
    size_t layer;
    kq_linear lin[KQ_N_LINEAR];
    float *attn_norm, *mlp_norm; /* [d] */
    float *q_norm, *k_norm;      /* [head_dim], Qwen3 only, else NULL */
} kq_block;
kq_status kq_block_load(const kq_model_ctx *mc, const kq_weights *w, size_t layer, kq_block *out,
                        kq_error *err);
void kq_block_free(kq_block *b); /* a zeroed block is fine */
size_t kq_block_bytes(const kq_config *cfg, kq_compute compute);
/* Bytes at the peak while a block is loaded: the block, and its largest linear in f32. */
size_t kq_block_load_bytes(const kq_config *cfg, kq_compute compute);

/* Bytes of scratch that a forward pass over one sequence of T tokens needs. */
size_t kq_block_scratch_bytes(const kq_model_ctx *mc, size_t T);

/* y = block(x), causal, at positions 0 to T - 1. x, y [T, d]; they may be the same array. scratch:
 * kq_block_scratch_bytes(mc, T). threads: the work is spread over fixed tiles, with the same bits for
 * every number of threads; inside a parallel region it must be 1. */
kq_status kq_block_forward(const kq_model_ctx *mc, const kq_block *b, const float *x, size_t T, float *y,
                           void *scratch, int threads, kq_error *err);

/* One of many short sequences that are packed into one pass, or a piece of one: the rows [row, row + n) of x.
 * With prefix_n > 0 it continues the rows [prefix_row, prefix_row + prefix_n), which must be a whole segment
 * without a prefix. Several segments may continue the same prefix, whose rows are then computed once. Row row
 * + i is at position prefix_n + i; it sees the prefix and the rows of its own segment up to itself. */
typedef struct kq_segment {
    size_t row, n, prefix_row, prefix_n;
} kq_segment;

/* The segments of one pass: they cover the T rows without overlap. */
typedef struct kq_packing {
    size_t T;
    const kq_segment *seg; /* [n_seg], borrowed */
    size_t n_seg;
    size_t longest; /* the greatest prefix_n + n, at most the context's max_T */
} kq_packing;

/* x = block(x) in place for all segments of x [T, d]. scratch: kq_block_packed_scratch_bytes(mc, T, longest,
 * threads). The bits are the same for every number of threads, because the work is spread over fixed tiles.
 * Another packing gives other last bits, because those of a product depend on its number of rows. KQ_E_ARG: a
 * segment is outside the rows or longer than `longest`; KQ_E_NUMERIC: NaN or Inf in the
 * output; KQ_E_MEMORY. */
size_t kq_block_packed_scratch_bytes(const kq_model_ctx *mc, size_t T, size_t longest, int threads);
kq_status kq_block_forward_packed(const kq_model_ctx *mc, const kq_block *b, float *x, const kq_packing *p,
                                  void *scratch, int threads, kq_error *err);

/* Where a pass hands the inputs and gradients of its linears. */
typedef struct kq_linear_sink {
    /* X [T, n]: the linear's input. G [T, m]: dLoss/d(its output), NULL in a forward pass; its weight
     * gradient is G^T X (eq. 22). Both are valid during the call only. An error ends the pass. */
    kq_status (*give)(void *ctx, kq_linear_id id, const float *X, const float *G, size_t T, kq_error *err);
    void *ctx;
    unsigned selected; /* a backward pass gives the linears whose bit is set; a forward pass gives all */
    /* A backward pass adds dLoss/d(weights of the block's norms) to these, [d] or [head_dim] each (eq. 101);
     * NULL: not wanted. It needs dx. */
    float *dnorm[KQ_N_NORM];
} kq_linear_sink;

/* kq_block_forward on one thread, which also gives each linear's input to the sink. */
kq_status kq_block_forward_sink(const kq_model_ctx *mc, const kq_block *b, const float *x, size_t T, float *y,
                                void *scratch, const kq_linear_sink *sink, kq_error *err);

/* The block's forward pass up to one of its linears, on one thread: X [T, n] = its input; residual [T, d]
 * (may be NULL) = the residual stream at that place: x up to o_proj, and the sum after attention from
 * gate_proj on. scratch: kq_block_scratch_bytes(mc, T). */
kq_status kq_block_forward_to(const kq_model_ctx *mc, const kq_block *b, kq_linear_id id, const float *x,
                              size_t T, float *X, float *residual, void *scratch, kq_error *err);

/* n_seq sequences of T tokens, one behind the other: R = n_seq * T rows. Each sequence is at positions 0 to
 * T - 1. The work is spread over fixed tiles, with the same bits for every number of threads; inside a
 * parallel region one thread does it. */
typedef struct kq_rows {
    size_t n_seq, T;
    int threads;
} kq_rows;

/* Recompute the block from x [R, d], back-propagate dy = dLoss/dy [R, d] to dx [R, d] (may be dy's array;
 * NULL: not wanted), and give the selected linears' inputs and gradients, of all R rows at once, to the sink
 * (NULL: none), which the calling thread calls. scratch: kq_block_backward_bytes(mc, rows). KQ_E_NUMERIC: NaN
 * or Inf in dx; the sink's own errors. */
size_t kq_block_backward_bytes(const kq_model_ctx *mc, kq_rows rows);
kq_status kq_block_backward(const kq_model_ctx *mc, const kq_block *b, const float *x, const float *dy,
                            kq_rows rows, float *dx, const kq_linear_sink *sink, void *scratch,
                            kq_error *err);

/* Embedding, final norm and head. The embedding E and, when it is not tied, the head are held in the compute
 * type. */
typedef struct kq_head kq_head;
kq_status kq_head_load(const kq_model_ctx *mc, const kq_weights *w, kq_head **out, kq_error *err);
void kq_head_free(kq_head *h);
size_t kq_head_bytes(const kq_config *cfg, kq_compute compute);
/* x[t] = E[ids[t]]; KQ_E_ARG when an id is outside the vocabulary. */
kq_status kq_head_embed(const kq_head *h, const int32_t *ids, size_t T, float *x, kq_error *err);
/* logits [T, vocab] of final hidden states x [T, d]. scratch: T * d floats. */
kq_status kq_head_logits(const kq_head *h, const float *x, size_t T, float *logits, void *scratch,
                         int threads, kq_error *err);

/* Cross-entropy, worked through in tiles of KQ_HEAD_TILE tokens so that [T, vocab] never exists.
 *   x [T, d]               the final hidden states
 *   target [T]             the token that should come next; -1: this position is not scored
 *   nll [T], may be NULL   the loss of each position in nats; 0 where it is not scored
 *   dx [T, d], may be NULL d(sum of nll)/dx
 *   spread [T], may be NULL 1 - sum_v p_v^2 of the model's distribution (eq. 140); 0 where it is not scored
 * scratch: kq_head_scratch_bytes(). Single thread. */
enum { KQ_HEAD_TILE = 64 };
size_t kq_head_scratch_bytes(const kq_model_ctx *mc);
kq_status kq_head_loss(const kq_head *h, const float *x, size_t T, const int32_t *target, float *nll,
                       float *dx, float *spread, void *scratch, kq_error *err);
/* y [T, d] = what the head multiplies: the final norm of final hidden states x [T, d]. y may be x. */
void kq_head_norm(const kq_head *h, const float *x, size_t T, float *y);

/* The weights of the final norm [d], which the head owns. A trainer may change them between calls. */
float *kq_head_norm_weights(kq_head *h);
/* The matrix [vocab, d] of the head, or of the embedding: the same when they are tied. The head owns it; a
 * trainer may change it between calls. */
kq_linear kq_head_matrix(const kq_head *h, bool embedding);

/* How far a model's predictions are from those of another, its teacher (eq. 82), in tiles as kq_head_loss.
 * The tiles have more tokens, because the products of 64 rows with the head run at half the rate.
 *   x, teacher_x [T, d]      the final hidden states of both, which go through the heads h and teacher
 *   kl [T], may be NULL      KL(teacher || model) of each position, nats
 *   dx [T, d], may be NULL   d(sum of kl)/dx; it may be x
 *   dnorm [d], may be NULL   d(sum of kl)/d(weights of h's final norm) is added to it; needs dx
 *   give, may be NULL        is called for every tile of n tokens with the head's inputs X [n, d] and with
 *                            d(sum of kl)/d(logits) G [n, vocab], which Gb has in bf16 (NULL where products
 * are in f32); an error ends the work; needs dx Both heads have the same vocabulary and d, and are of
 * contexts with the same compute type. scratch: kq_head_distill_bytes(). Single thread. KQ_E_NUMERIC: NaN or
 * Inf in a head's output. */
enum { KQ_DISTILL_TILE = 128 };
typedef struct kq_distill {
    const kq_head *h, *teacher;
    const float *x, *teacher_x;
    size_t T;
    float *kl, *dx, *dnorm;
    kq_status (*give)(void *ctx, const float *X, const float *G, const uint16_t *Gb, size_t n, kq_error *err);
    void *ctx;
} kq_distill;
size_t kq_head_distill_bytes(const kq_model_ctx *mc);
kq_status kq_head_distill(const kq_distill *z, void *scratch, kq_error *err);

/* Draw a next token for every position of x [T, d] from the model's own distribution. u [T]: uniform random
 * numbers in [0, 1). ids [T]: the result. scratch: kq_head_scratch_bytes(). Single thread. KQ_E_NUMERIC: NaN
 * or Inf. */
kq_status kq_head_sample(const kq_head *h, const float *x, size_t T, const float *u, int32_t *ids,
                         void *scratch, kq_error *err);

/* log-softmax in place over one row of n logits (max subtracted, sum in double). */
void kq_log_softmax(float *row, size_t n);

#endif
