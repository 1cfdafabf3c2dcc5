/* How many bits each module gets. There are four ways: one number for all (--bits 2), the user's exceptions
 * (--module-bits), an average (--bits 2.5) that is shared out by what each module would lose, or a size or a
 * loss to aim at (--size, --bpw, --kld: aim.h). For the last two the factors of all modules must be known
 * first (docs/math.md, "Sharing out bits"). */
#ifndef KQ_QUANT_BITS_H
#define KQ_QUANT_BITS_H

#include "allocate/allocate.h"
#include "quant/work.h"

/* What is expected of a checkpoint whose bits an aim chose (aim.h). */
typedef struct kq_expected {
    double bytes;            /* of the safetensors files, exact */
    double bpw_file;         /* of them, bits a weight of the model */
    double kld_per_loss;     /* of the trial: KL divergence for a nat of eq. 66 */
    double linears_kld;      /* that times eq. 66 over all linears, nats a token */
    double rows_kld;         /* of embedding and head, as measured, nats a token */
    double bound;            /* no choice of this size has a smaller sum of the two */
    size_t count[KQ_N_BITS]; /* linears with 2, 3, 4 bits */
} kq_expected;

typedef struct kq_bits {
    const kq_prepared *p; /* borrowed */
    kq_round_options round;
    uint8_t *k;   /* owned [n_layer * KQ_N_LINEAR]: 2, 3 or 4; 0: not selected, or not chosen yet */
    bool settled; /* every selected module has its bits */
    bool shared;  /* --bits is an average, which is or will be shared out; or an aim chooses (aim.h) */
    /* what follows is known once bits have been shared out */
    kq_forecast *forecast;    /* owned [n_layer * KQ_N_LINEAR]; NULL before */
    double error[KQ_N_BITS];  /* the code's relative error at 2, 3, 4 bits */
    kq_allocation allocation; /* losses in nats a sample */
    double average;           /* bits of a selected weight */
    kq_expected expected;     /* zero without an aim */
} kq_bits;

/* Are the numbers that kq_quantize takes in their ranges, whatever the model is? KQ_E_ARG. */
kq_status kq_bits_check(const kq_quantize_options *opt, kq_error *err);
/* What --module-bits may give, and how its message ends: an example, and what is possible. */
typedef struct kq_bits_range {
    int least, most;
    const char *example;
} kq_bits_range;
/* One "REGEX=BITS" into k [n_layer * KQ_N_LINEAR], for the selected linears that no earlier rule matched
 * (0). KQ_E_ARG: it is malformed, or matches nothing. */
kq_status kq_bits_apply_rule(const kq_prepared *p, const char *text, const kq_bits_range *range, uint8_t *k,
                             kq_error *err);
/* Settle what can be settled without factors. KQ_E_ARG: a rule of --module-bits that is wrong or matches no
 * module, or an average that the exceptions alone exceed. b is to be freed after a failure too. */
kq_status kq_bits_open(const kq_prepared *p, kq_bits *b, kq_error *err);
void kq_bits_free(kq_bits *b);
/* KQ_E_ARG when bits are to be shared out and p's method predicts no loss. */
kq_status kq_bits_check_method(const kq_bits *b, kq_error *err);

/* Share out o->bits by the factors of the work's factor file: forecast the loss of every selected linear,
 * then choose. Each block's forecasts stay in the work folder for --resume, unless the work is only planned.
 */
kq_status kq_bits_share(kq_output *o, kq_error *err);

/* Bits of a linear, for kq_checkpoint_plan: 2, 3 or 4; the average while it is not chosen; 0 where it is not
 * selected. ctx is the kq_bits. */
double kq_bits_of(void *ctx, size_t layer, kq_linear_id id);
/* The predicted loss of a linear, in nats a sample; NaN while it is not known. */
double kq_bits_forecast(const kq_bits *b, size_t layer, kq_linear_id id);

/* Add to the settings of a job or a checkpoint that modules differ: "bits_asked", or what was aimed at
 * (kq_aim_settings); and, if there are rules, "module_bits_rules". Nothing is added where all have the same
 * bits. False: out of memory. */
bool kq_bits_settings(const kq_quantize_options *opt, json_t *settings);
/* All settings that a checkpoint depends on beside its factors and the instruction set: "bits", "code",
 * "sigma_reg" and so on. A new object; NULL: out of memory. */
json_t *kq_quantize_settings(const kq_quantize_options *opt);
/* Remove from these settings what an aim chooses: "bits", and "embed_bits" and "head_bits" that are not kept.
 */
void kq_bits_forget_chosen(const kq_quantize_options *opt, json_t *settings);
/* An integer where the number is whole; new. */
json_t *kq_bits_number(double bits);
/* "2 bits", "2.5 bits on average, some by --module-bits", into buf. */
const char *kq_bits_text(const kq_quantize_options *opt, char buf[64]);

#endif
