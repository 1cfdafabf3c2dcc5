/* The file in which llama.cpp's llama-perplexity keeps a model's predictions (--kl-divergence-base),
 * read and written: docs/format.md, "Saved logits". Its conventions: windows of ctx tokens, of which
 * only the positions ctx/2 .. ctx-2 are kept (each predicts its next token); log-probabilities in 16
 * bits, down to 16 nats below the most likely. */
#ifndef KQ_EVAL_KLD_BASE_H
#define KQ_EVAL_KLD_BASE_H

#include "base/file.h"
#include "eval/score.h"

typedef struct kq_kld_base {
    kq_map map; /* owned */
    size_t ctx, vocab, windows;
    const int32_t *ids;  /* [windows, ctx], all in the vocabulary; borrowed from the map, as is */
    const uint8_t *rows; /* [windows, ctx - 1 - ctx/2, kq_kld_row_bytes(vocab)] */
} kq_kld_base;

/* Does the file at path begin as a file of saved logits does? */
bool kq_kld_base_is(const char *path);
/* Open a file of saved logits; *out is the caller's (kq_kld_base_close). KQ_E_FORMAT names what is wrong; the
 * file must be exactly as long as its header says. */
kq_status kq_kld_base_open(const char *path, kq_kld_base *out, kq_error *err);
void kq_kld_base_close(kq_kld_base *b); /* zeroed is fine */

size_t kq_kld_row_bytes(size_t vocab);
/* Encode logits [vocab] with their stats as one row: the scale (f32), the smallest log-probability (f32), and
 * then each log-probability as a u16 multiple of the scale above the smallest. */
void kq_kld_row_encode(const float *logits, const kq_row_stats *st, size_t vocab, uint8_t *row);

/* One position compared with the file's, as llama-perplexity does it: the KL divergence is summed over the
 * tokens to which the file gives more than e^-16, without renormalising. */
/* nll: the file's, of the token `next`; top: the file's most likely token, ties to the lowest id */
typedef struct kq_kld_row {
    double kl, nll;
    int32_t top;
} kq_kld_row;
/* scratch [2 vocab]. KQ_E_FORMAT when the row's scale and minimum are no log-probabilities. */
kq_status kq_kld_row_compare(const kq_kern *kern, const uint8_t *row, const float *logits,
                             const kq_row_stats *st, size_t vocab, int32_t next, float *scratch,
                             kq_kld_row *out, kq_error *err);

/* Writing: header and ids first, then the rows in order. */
kq_status kq_kld_writer_open(const char *path, size_t ctx, size_t vocab, size_t windows, const int32_t *ids,
                             kq_out **out, kq_error *err);

#endif
