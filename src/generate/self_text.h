/* Calibration text that the model writes itself. */
#ifndef KQ_GENERATE_SELF_TEXT_H
#define KQ_GENERATE_SELF_TEXT_H

#include "eval/eval.h"
#include "tokenizer/tokenizer.h"

/* Calibration text written by the model itself: n_seq sequences of seq_len ids each, sampled at temperature 1
 * (eq. 87), seeded; the first id of each is kq_text_start's. A token that ends an answer (kq_is_end) or a
 * document ends the text: it is kept, kq_text_start's token follows, and a new text begins there that knows
 * nothing of the one before (where both tokens are the same, it stands once). ids [n_seq, seq_len]. Sequence
 * i depends on the model, seq_len and (seed, i) only, because the engine's logits do not depend on what is
 * decoded beside it. Weights, products and cache are in bf16 whatever opt->compute says, and weights that the
 * file holds in bf16 are read where they are mapped: a sample needs no more digits, and a 16-bit model takes
 * no more than its file. 64 sequences are written at once, or fewer: kq_self_text_bytes says how many. Of
 * opt: threads, isa, memory and progress. KQ_E_ARG: there is no token to begin with; KQ_E_NUMERIC: NaN or Inf
 * in the logits; KQ_E_INTERRUPTED: opt->progress asked to stop. */
kq_status kq_self_text(const kq_weights *w, const kq_tokenizer *tok, size_t n_seq, size_t seq_len,
                       const kq_eval_options *opt, uint64_t seed, int32_t *ids, kq_error *err);
/* Bytes it takes: the whole model in 16 bits, and the caches and logits of the sequences that are written at
 * once. These are 64, or n_seq, halved until everything fits `memory` bytes or one is left. 0: no limit, but
 * 4 GiB for the caches. */
size_t kq_self_text_bytes(const kq_config *cfg, size_t n_seq, size_t seq_len, size_t memory);

#endif
