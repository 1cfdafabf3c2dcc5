/* How many bits each module gets: one number for all, the user's exceptions (--module-bits), or an
 * average to be shared out by what each module would lose, for which the factors of all of them must be
 * known first (docs/math.md, "Sharing out bits"). */
#ifndef KQ_QUANT_BITS_H
#define KQ_QUANT_BITS_H

#include "quant/allocate.h"
#include "quant/work.h"

typedef struct kq_bits {
    const kq_prepared *p; /* borrowed */
    /* [n_layer * KQ_N_LINEAR], owned: 2, 3 or 4; 0: not selected, or still to be chosen */
    uint8_t *k;
    bool settled;             /* every selected module has its bits */
    bool shared;              /* they are, or will be, shared out: --bits is an average */
    kq_forecast *forecast;    /* [n_layer * KQ_N_LINEAR], owned; NULL until they are */
    double error[KQ_N_BITS];  /* the code's, at 2, 3, 4 bits; then too */
    kq_allocation allocation; /* then too; losses in nats a sample */
} kq_bits;

/* Every number that kq_quantize takes is in its range, whatever the model. */
kq_status kq_bits_check(const kq_quantize_options *opt, kq_error *err);
/* Settle what can be settled without factors. KQ_E_ARG: a bad rule, or one that matches no module. b is
 * to be freed also on failure. */
kq_status kq_bits_open(const kq_prepared *p, kq_bits *b, kq_error *err);
void kq_bits_free(kq_bits *b);
/* KQ_E_ARG when bits are to be shared out and p's method predicts no loss. */
kq_status kq_bits_check_method(const kq_bits *b, kq_error *err);

/* Share out o->bits by the factors of the work's factor file: forecast the loss of every selected linear,
 * then choose. Each block's forecasts stay in the work folder for --resume, unless the work is only planned.
 */
kq_status kq_bits_share(kq_output *o, kq_error *err);

/* Bits of a linear: 2, 3, 4; the average asked for while it is not known; 0 where it is not selected. ctx
 * is the kq_bits. For kq_checkpoint_plan. */
double kq_bits_of(void *ctx, size_t layer, kq_linear_id id);
/* The loss a module will have, nats a sample; NaN while it is not known. */
double kq_bits_forecast(const kq_bits *b, size_t layer, kq_linear_id id);
/* Where modules differ, the settings of a job or a checkpoint say so: "bits_asked" and, if there are
 * any, "module_bits_rules". False: out of memory. */
bool kq_bits_settings(const kq_quantize_options *opt, json_t *settings);
/* All that a checkpoint depends on beside its factors and the instruction set: "bits", "code",
 * "sigma_reg", ... A new object; NULL: out of memory. */
json_t *kq_quantize_settings(const kq_quantize_options *opt);
json_t *kq_bits_number(double bits); /* an integer where it is one */
/* "2 bits", "2.5 bits on average", ... */
const char *kq_bits_text(const kq_quantize_options *opt, char buf[64]);

#endif
