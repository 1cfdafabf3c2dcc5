/* Rounding from a factor file: what kq_sweep_run does, with no text and no gradients. */
#ifndef KQ_QUANT_FROM_FACTORS_H
#define KQ_QUANT_FROM_FACTORS_H

#include "factors/file.h"
#include "quant/prepare.h"

/* Open p->opt->factors and make sure that it belongs to the model, holds every selected module, and was
 * made with what calibration.given names (KQ_E_MISMATCH, KQ_E_SHAPE); p->factor.method becomes the
 * file's (of an imatrix: input-only). *settings, a new
 * object: what the factors were made with. p's fingerprint must be known. */
kq_status kq_from_factors_open(kq_prepared *p, kq_factor_file **file, json_t **settings, kq_error *err);
/* Calls s->linear (with the ctx of s's first estimate) for each selected linear and s->block after each block
 * that s->done does not call done; s->common hears of `stage` between blocks. */
kq_status kq_from_factors_run(const kq_prepared *p, const kq_factor_file *file, const kq_sweep *s,
                              const char *stage, kq_error *err);

#endif
