/* A measurement of the KL divergence on a little text, by which an allocation judges what eq. 1 does not
 * predict: what the embedding and the head lose, and how much KL divergence comes of a nat of predicted loss.
 */
#ifndef KQ_PREPARE_MEASURE_H
#define KQ_PREPARE_MEASURE_H

#include "prepare/prepare.h"

/* About 2048 tokens: the first sequences of the calibration; with a factor file windows of --text, or,
 * without it, text that the model writes itself. */
typedef struct kq_measure {
    const kq_prepared *p; /* borrowed */
    int32_t *ids;         /* owned [n, ctx] */
    size_t n, ctx;
} kq_measure;

/* used: how many sequences the factors were made from. Errors are those of reading texts and of kq_self_text.
 * m is to be closed after a failure too. */
kq_status kq_measure_open(const kq_prepared *p, size_t used, kq_measure *m, kq_error *err);
void kq_measure_close(kq_measure *m);
/* KL(original || model), nats a token. held: bytes that the caller holds meanwhile, of --memory. stage is
 * what the progress function hears. */
kq_status kq_measure_kld(const kq_measure *m, const kq_weights *model, size_t held, const char *stage,
                         double *kld, kq_error *err);

/* Before any work: is --memory enough for a measurement? KQ_E_MEMORY, KQ_E_ARG. */
kq_status kq_measure_check(const kq_prepared *p, size_t held, kq_error *err);

#endif
