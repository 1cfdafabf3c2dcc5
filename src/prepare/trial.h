/* How much KL divergence comes of a nat of predicted loss. Eq. 1 is right about which module loses more, but
 * its scale depends on the method, on the number of tokens and on how much of the Fisher matrix a Kronecker
 * product holds. So a few blocks are rounded at 2 bits before the allocation, and the model with these blocks
 * is measured. */
#ifndef KQ_PREPARE_TRIAL_H
#define KQ_PREPARE_TRIAL_H

#include "prepare/from_factors.h"
#include "prepare/measure.h"

/* *kld_per_loss = the measured KL divergence over the sum of the predicted losses (both nats a token); 1
 * where nothing is predicted. seq_len: tokens of a sample of the factors. */
kq_status kq_trial(const kq_measure *m, const kq_factor_file *file, const kq_round_options *round,
                   size_t seq_len, double *kld_per_loss, kq_error *err);
/* Bytes that the rounded blocks take while they are measured. */
size_t kq_trial_bytes(const kq_config *cfg);

#endif
