/* Sequential rounding: each linear is rounded towards a target that corrects what the rounded linears below
 * it have got wrong (docs/math.md, eq. 160 to 163).
 *
 * Two streams of hidden states go through the model from the bottom to the top, over the same tokens: that of
 * the original, and that of the model whose linears are rounded as far as the work has come. Both are files
 * of the work folder, one block at a time is in memory, and nothing but forward passes is computed. The
 * caller asks for the target of a linear, rounds it, gives the rounded linear back, and says when a block is
 * done. Sources: the least-squares target with the inputs of the rounded model is that of GPTAQ (Li et al.
 * 2025) and QEP (Arai and Ichikawa 2025); the term of the residual stream is our own. */
#ifndef KQ_SEQUENTIAL_SEQUENTIAL_H
#define KQ_SEQUENTIAL_SEQUENTIAL_H

#include "model/model.h"
#include "round/round.h"
#include "sweep/job.h"

typedef struct kq_sequential kq_sequential;

typedef struct kq_sequential_options {
    const kq_weights *weights; /* the original; borrowed */
    const int32_t *ids;        /* [n_seq, T]; copied by kq_sequential_new */
    size_t n_seq, T;
    kq_isa isa;
    kq_compute compute;
    int threads;
    const kq_job *job; /* the streams are its files stream-000NN.f32; borrowed */
} kq_sequential_options;

/* Peak bytes of memory that the functions below allocate, and bytes of disk of the streams. */
size_t kq_sequential_memory(const kq_config *cfg, const kq_sequential_options *o);
size_t kq_sequential_disk(const kq_config *cfg, const kq_sequential_options *o);

/* Begin, or go on where the work folder's streams have come to. *out is the caller's (kq_sequential_free).
 * KQ_E_MEMORY; KQ_E_ARG: an id is outside the vocabulary. */
kq_status kq_sequential_new(const kq_sequential_options *o, kq_sequential **out, kq_error *err);
void kq_sequential_free(kq_sequential *s); /* NULL is fine */

/* target [m, n] = the matrix that linear id of block `layer` is rounded to, W [m, n] being its original (eq.
 * 161). Blocks and linears must come in their order in the model; those in between keep the original's
 * weights. KQ_E_IO and KQ_E_FORMAT: the streams; KQ_E_NUMERIC: NaN or Inf in a hidden state; KQ_E_MEMORY. */
kq_status kq_sequential_target(kq_sequential *s, size_t layer, kq_linear_id id, const float *W, float *target,
                               kq_error *err);
/* The linear is rounded: the second stream goes through these weights from here on. t: its code. */
kq_status kq_sequential_rounded(kq_sequential *s, size_t layer, kq_linear_id id, const kq_trellis *t,
                                const kq_packed *packed, kq_error *err);
/* Block `layer` is rounded: both streams go through it, and their files are those of the next block. The
 * files before it stay until the next call, so that a run that ends before the block's part file is sealed
 * can round the block again. */
kq_status kq_sequential_block_done(kq_sequential *s, size_t layer, kq_error *err);

#endif
