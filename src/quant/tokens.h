/* Calibration text -> sequences of token ids (design section 3). */
#ifndef KQ_QUANT_TOKENS_H
#define KQ_QUANT_TOKENS_H

#include "io/tokenizer.h"

/* A .jsonl file gives one document a line (its "text" field), any other file is one document; documents are joined with the tokenizer's
 * end-of-text token. Of the whole windows of seq_len tokens, window i * floor(windows / n_seq) is taken for i < n_seq.
 * ids [n_seq, seq_len], the caller's (kq_free). KQ_E_ARG: empty or too short a text. */
kq_status kq_text_windows(const kq_tokenizer *tok, const char *const *files, size_t n_files, size_t n_seq, size_t seq_len,
                          int32_t **ids, kq_error *err);

#endif
