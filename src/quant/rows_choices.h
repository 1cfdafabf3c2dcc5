/* What the embedding and an untied head may become where an allocation chooses their bits: for each choice
 * its bits, its bytes in the file, and what it is expected to lose (kq_choice). Whoever adds a way to store
 * them adds a choice here. */
#ifndef KQ_QUANT_ROWS_CHOICES_H
#define KQ_QUANT_ROWS_CHOICES_H

#include "prepare/measure.h"
#include "allocate/allocate.h"
#include "quant/work.h"

/* The choices without their losses, which are 0: those of the embedding, then those of the head. *n is 1
 * where the head is tied to the embedding, else 2. Bits that the options keep (keep_embed_bits,
 * keep_head_bits) are the only choice. */
kq_status kq_rows_choices(const kq_output *o, kq_item rows[KQ_N_ROWS], size_t *n, kq_error *err);

/* Fill in the losses: the KL divergence, in nats a token, of the model with nothing but these rows rounded.
 */
kq_status kq_rows_measure(const kq_output *o, const kq_measure *m, kq_item *rows, size_t n, kq_error *err);

#endif
