/* One block and one record: the steps that every sweep is made of. Private to src/sweep. */
#ifndef KQ_SWEEP_BLOCK_PASS_H
#define KQ_SWEEP_BLOCK_PASS_H

#include "sweep/records.h"

/* The block at work, and the records that a loop over the sequences reads and writes. */
typedef struct kq_block_pass {
    kq_block block;
    kq_spill *in; /* the block's input */
    kq_spill *dy; /* the gradient at its output; NULL on the way up */
    /* what the loop writes, NULL: nothing: the block's output on the way up, the gradient at its input on the
     * way down */
    kq_spill *out;
} kq_block_pass;

/* One block forward for all sequences: the inputs of `layer` become those of layer + 1. */
kq_status kq_sweep_forward_block(kq_sweeper *w, size_t layer, kq_error *err);

/* Back through a block for record r, which belongs to sequence r % n_seq: reads the block's input and the
 * gradient at its output, gives the selected linears' inputs and gradients to sink, and leaves the gradient
 * at the block's input in k->dy, written to p->out unless NULL. */
kq_status kq_sweep_backward_record(kq_sweeper *w, kq_sweep_worker *k, const kq_block_pass *p, size_t r,
                                   const kq_linear_sink *sink, kq_error *err);

/* k->G[id] (+)= G^T X, the gradient of one sequence: X [T, n] the linear's inputs, G [T, m] the gradients at
 * its outputs. accumulate: add to what is there. */
kq_status kq_sweep_weight_gradient(kq_sweeper *w, kq_sweep_worker *k, kq_linear_id id, const float *X,
                                   const float *G, size_t T, bool accumulate, kq_error *err);

#endif
