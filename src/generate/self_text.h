/* Calibration text that the model writes itself. */
#ifndef KQ_GENERATE_SELF_TEXT_H
#define KQ_GENERATE_SELF_TEXT_H

#include "eval/eval.h"
#include "tokenizer/tokenizer.h"

/* Calibration text written by the model itself: n_seq sequences of seq_len ids each, sampled at
 * temperature 1, seeded; the first id of each is kq_text_start's. A token that ends an answer
 * (kq_is_end), or a document, ends the text: it is kept, and behind it a new text begins with
 * kq_text_start's token, of which the one before is forgotten (where both are the same token, it stands
 * once). ids [n_seq, seq_len].
 * Sequence i depends only on the model, seq_len and (seed, i): the engine's logits do not depend on what
 * is decoded beside it. 32 sequences at once, halved until their key/value cache is at most 4 GiB. opt:
 * threads, isa, compute and progress are used; the cache is in bf16. KQ_E_ARG when there is no token to
 * begin with. */
kq_status kq_self_text(const kq_weights *w, const kq_tokenizer *tok, size_t n_seq, size_t seq_len,
                       const kq_eval_options *opt, uint64_t seed, int32_t *ids, kq_error *err);
/* Bytes it takes: the whole model in the compute type, and the caches of one batch. */
size_t kq_self_text_bytes(const kq_config *cfg, size_t seq_len, kq_compute compute);

#endif
