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

/* Does PATH begin as such a file does? */
bool kq_kld_base_is(const char *path);
/* KQ_E_FORMAT names what does not fit: the file's length must be exactly what its header says. */
kq_status kq_kld_base_open(const char *path, kq_kld_base *out, kq_error *err);
void kq_kld_base_close(kq_kld_base *b); /* zeroed is fine */

size_t kq_kld_row_bytes(size_t vocab);
/* Logits [vocab] with their stats as one row: f32 scale, f32 smallest log-probability, then u16
 * multiples of scale above it. */
void kq_kld_row_encode(const float *logits, const kq_row_stats *st, size_t vocab, uint8_t *row);

/* One position compared with the file's, as llama-perplexity does it: KL over the tokens that the file
 * gives more than e^-16, not renormalised. */
/* nll: the file's, of token `next`; top: its most likely, ties to the lowest id */
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
