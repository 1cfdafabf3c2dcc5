/* What can be refused before any work: weights that are no numbers or beyond what their new type holds,
 * texts that are missing or too short. */
#ifndef KQ_QUANT_CHECK_H
#define KQ_QUANT_CHECK_H

#include "grid/types.h"
#include "quant/prepare.h"

/* Look at every value of the model. types: what kq_quantize_gguf will write; NULL: nothing of that kind.
 * packed: kq_quantize's embedding and head rows. KQ_E_NUMERIC names tensor and place: NaN, Inf, or a
 * value that the type's scales cannot reach. A tensor so small that F16 scales hardly hold it is warned
 * of. Several threads, the first error in the order of the file. */
kq_status kq_check_weights(const kq_prepared *p, const kq_gguf_types *types, bool packed, kq_error *err);

/* The calibration's texts hold enough sequences for every one of the counts; p->windows then holds those. A
 * model that writes its own text has a token to begin with. KQ_E_ARG; nothing to do without a calibration. */
kq_status kq_check_texts(kq_prepared *p, const size_t *counts, size_t n_counts, kq_error *err);

#endif
