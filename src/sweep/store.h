/* One block's weight gradients, and the factors of the estimates that take them. Private to src/sweep. */
#ifndef KQ_SWEEP_STORE_H
#define KQ_SWEEP_STORE_H

#include "sweep/sweeper.h"

/* The factors of a block, of every estimate that takes gradients of whole samples, one linear after the
 * other; and, when keep_dx, the gradient at the block's input. selected 0, or no such estimate: the block is
 * only passed through. */
kq_status kq_sweep_gradient_block(kq_sweeper *w, size_t layer, unsigned selected, bool keep_dx,
                                  kq_error *err);
/* The forms in which a linear's gradients are needed, a bit each: 1 multiplied out, 2 factored. */
unsigned kq_sweep_forms(const kq_sweeper *w, int id);
/* Bytes held of one block in memory, beside its weights and what kq_sweep_worker has; and on disk. */
void kq_sweep_store_plan(const kq_sweeper *w, size_t *memory, size_t *disk);

#endif
