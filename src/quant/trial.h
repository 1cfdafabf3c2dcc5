/* How much KL divergence comes of a nat of predicted loss. Eq. 1 is right about which module loses more, but
 * its scale depends on the method, on the number of tokens and on how much of the Fisher matrix a Kronecker
 * product holds. So a few blocks are rounded at 2 bits before the allocation, and the model with these blocks
 * is measured. */
#ifndef KQ_QUANT_TRIAL_H
#define KQ_QUANT_TRIAL_H

#include "quant/measure.h"

/* *kld_per_loss = the measured KL divergence over the sum of the predicted losses (both nats a token); 1
 * where nothing is predicted. The factors come from the work's factor file. */
kq_status kq_trial(kq_output *o, const kq_measure *m, double *kld_per_loss, kq_error *err);
/* Bytes that the rounded blocks take while they are measured. */
size_t kq_trial_bytes(const kq_output *o);

#endif
