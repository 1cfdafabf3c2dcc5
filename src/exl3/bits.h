/* Inside the room: how many bits each linear gets. */
#ifndef KQ_EXL3_BITS_H
#define KQ_EXL3_BITS_H

#include "quant/work.h"

typedef struct kq_exl3_bits {
    uint8_t *k;   /* owned [n_layer * KQ_N_LINEAR]: 1 to 8; 0: not selected, or not chosen yet */
    bool settled; /* every selected linear has its bits */
} kq_exl3_bits;

/* Settle what can be settled without factors: the rules of --module-bits (REGEX=K, the first that matches
 * counts), and --bits where it is a whole number. KQ_E_ARG: a rule that is wrong or matches nothing. b is to
 * be freed after a failure too. */
kq_status kq_exl3_bits_open(const kq_prepared *p, kq_exl3_bits *b, kq_error *err);
void kq_exl3_bits_free(kq_exl3_bits *b);
/* Choose the others by the factors of the work's factor file, so that the average of all is at most --bits:
 * by the forecast of what each would lose (docs/math.md, eq. 67). q, k and v of a layer get equal bits, and
 * so do gate and up, because exllamav3 fuses them only then. KQ_E_ARG: the file's method predicts no loss, or
 * the rules alone exceed the average. */
kq_status kq_exl3_bits_share(kq_output *o, kq_exl3_bits *b, kq_code code, kq_error *err);
/* Bits of a linear; the average asked for while they are not chosen; 0 where it is not selected. */
double kq_exl3_bits_of(const kq_output *o, const kq_exl3_bits *b, size_t layer, kq_linear_id id);

#endif
