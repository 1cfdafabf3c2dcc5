/* A factor file in place of a sweep: it gives the same factors in the same order, without texts and
 * gradients. */
#ifndef KQ_PREPARE_FROM_FACTORS_H
#define KQ_PREPARE_FROM_FACTORS_H

#include "factors/file.h"
#include "prepare/prepare.h"

/* Open p->opt->factors and check that it belongs to the model (p's fingerprint must be known), holds every
 * selected module, and was made with the values that calibration.given names, because an option that has
 * silently no effect would be worse than none. p->factor.method becomes the file's method, input-only for an
 * imatrix. *settings, a new object, says what the factors were made with. KQ_E_MISMATCH: another model, a
 * missing module, another value; KQ_E_SHAPE; KQ_E_FORMAT; KQ_E_NUMERIC: a factor that is not finite. *file is
 * the caller's after a failure too. */
kq_status kq_from_factors_open(kq_prepared *p, kq_factor_file **file, json_t **settings, kq_error *err);
/* Call s->linear, with the ctx of s's first estimate, for each selected linear, and s->block after each
 * block. A block for which s->done says true is left out. The progress function of s->common is called with
 * `stage` after each block. KQ_E_INTERRUPTED: it asks to stop. */
kq_status kq_from_factors_run(const kq_prepared *p, const kq_factor_file *file, const kq_sweep *s,
                              const char *stage, kq_error *err);

#endif
