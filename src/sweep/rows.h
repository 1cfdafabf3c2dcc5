/* The factors of the embedding's and the head's rows (docs/math.md, "Rows", eq. 140 to 142). Private to
 * src/sweep. */
#ifndef KQ_SWEEP_ROWS_H
#define KQ_SWEEP_ROWS_H

#include "sweep/sweeper.h"

/* Give every estimate the head's factor. `in` holds the final hidden states, spread [n_seq, T] is eq. 140's
 * 1 - sum_v p_v^2 of each position; w->head is loaded. */
kq_status kq_sweep_head_factor(kq_sweeper *w, kq_spill *in, const float *spread, kq_error *err);
/* Give every estimate the embedding's factor, from the gradients at the input of layer 0, which are on disk.
 */
kq_status kq_sweep_embedding_factor(kq_sweeper *w, kq_error *err);
/* Bytes that either takes beyond the workers. */
size_t kq_sweep_rows_bytes(const kq_sweeper *w);

#endif
