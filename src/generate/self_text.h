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
 * decoded beside it. 32 sequences are written at once, or fewer, so that their key/value caches take at most
 * 4 GiB. Of opt: threads, isa, compute and progress; the cache is in bf16. KQ_E_ARG: there is no token to
 * begin with; KQ_E_NUMERIC: NaN or Inf in the logits; KQ_E_INTERRUPTED: opt->progress asked to stop. */
kq_status kq_self_text(const kq_weights *w, const kq_tokenizer *tok, size_t n_seq, size_t seq_len,
                       const kq_eval_options *opt, uint64_t seed, int32_t *ids, kq_error *err);
/* Bytes it takes: the whole model in the compute type, and the caches of one batch. */
size_t kq_self_text_bytes(const kq_config *cfg, size_t seq_len, kq_compute compute);

#endif
