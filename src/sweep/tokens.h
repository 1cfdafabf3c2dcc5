/* Statistics over a block's tokens, and the factors of the estimates that take them. Private to src/sweep. */
#ifndef KQ_SWEEP_TOKENS_H
#define KQ_SWEEP_TOKENS_H

#include "sweep/sweeper.h"

/* The factors of a block for one estimate over inputs and gradients of tokens, on the way down. keep: the
 * first pass over the tokens also writes the gradient at the block's input for the block below; that needs an
 * estimate over all sequences. */
kq_status kq_sweep_token_block(kq_sweeper *w, const kq_sweep_estimate *e, size_t layer, unsigned selected,
                               bool keep, kq_error *err);
/* The factors of a block for one estimate over inputs alone, on either way. keep: the pass also writes the
 * block's output as the input of the block above. */
kq_status kq_sweep_input_block(kq_sweeper *w, const kq_sweep_estimate *e, size_t layer, unsigned selected,
                               bool keep, kq_error *err);
/* Bytes that one such block holds in memory. */
size_t kq_sweep_token_bytes(const kq_config *cfg, size_t T, size_t n_seq, bool backward, bool diagonal);

#endif
