/* The loss on the calibration text and its gradient at the last block's output. Private to src/sweep. */
#ifndef KQ_SWEEP_LOSS_H
#define KQ_SWEEP_LOSS_H

#include "sweep/records.h"

/* From the final hidden states, for every sequence and draw: write the gradients of the summed loss [T, d] as
 * KQ_REC_GRAD of layer n_layer, and the mean loss in nats a token to the report. Needs w->head. KQ_E_NUMERIC:
 * the loss is not finite. */
kq_status kq_sweep_loss(kq_sweeper *w, kq_error *err);

#endif
