/* What can be refused before any work: weights that are no numbers or that their new type cannot hold, and
 * texts that are missing or too short. */
#ifndef KQ_PREPARE_CHECK_H
#define KQ_PREPARE_CHECK_H

#include "grid/types.h"
#include "prepare/prepare.h"

/* Read every value of the model and check that it can be stored. types: the block types that kq_quantize_gguf
 * will write; NULL: no GGUF will be written. packed: kq_quantize will write a checkpoint, whose embedding and
 * head rows have scales in F16 and whose selected linears have one scale each. Warns of a tensor whose values
 * are so small that its scales can hardly hold them. KQ_E_NUMERIC names the tensor, the position and the
 * value (NaN, Inf, or beyond what the scales can reach); of several errors it is the first in the order of
 * the file. */
kq_status kq_check_weights(const kq_prepared *p, const kq_gguf_types *types, bool packed, kq_error *err);

/* Check that the calibration's texts hold enough sequences for every one of the counts [n_counts], and put
 * the sequences into p->windows. Where the model writes its own text, check that it has a token to begin
 * with. Nothing is checked when no calibration is needed. KQ_E_ARG: the texts are too short, or there is no
 * such token. */
kq_status kq_check_texts(kq_prepared *p, const size_t *counts, size_t n_counts, kq_error *err);

#endif
