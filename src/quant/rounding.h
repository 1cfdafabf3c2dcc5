/* What rounding a whole model has in common, whatever it is rounded to: one linear's steps, the sums over all
 * linears, the report. The two receivers that round are quantize.c (a trellis) and quantize_gguf.c (a grid).
 */
#ifndef KQ_QUANT_ROUNDING_H
#define KQ_QUANT_ROUNDING_H

#include "quant/work.h"

/* Rounds one linear and keeps the result for the block's file. Fills in the report's `round`, and
 * bits where they mean something. */
typedef kq_status kq_rounder(kq_output *o, const kq_linear_factors *f, const kq_round_input *in,
                             kq_module_report *report, kq_error *err);

/* Read the weights, round them, fill in the report, count seconds and figures. KQ_E_INTERRUPTED: the progress
 * function asks to stop. */
kq_status kq_round_module(kq_output *o, const kq_linear_factors *f, kq_rounder *rounder,
                          kq_module_report *report, kq_error *err);

/* The folder to be written may be absent, empty, or hold unfinished work of ours (that of --tune scales only
 * where tune is true); anything else of the user's is left alone. Changes nothing. KQ_E_ARG, KQ_E_MISMATCH.
 */
kq_status kq_quantize_check_folder(const char *out, bool tune, kq_error *err);

/* Sums over every rounded linear, out of the part files, and an entry for each. */
typedef struct kq_rounding_sums {
    json_t *modules; /* owned: what the report says of each linear, by its name */
    size_t n;
    double weights;
    double predicted_loss; /* nats a token; NaN: nothing is predicted */
    double relative_mse;   /* of all weights together */
} kq_rounding_sums;
/* describe makes a linear's entry, a new object; loss is its predicted loss in nats a token, NaN for nothing.
 * Linears that were rounded with identity factors are warned of, unless a factor file was warned of already.
 */
typedef json_t *kq_describe_module(const kq_output *o, size_t layer, kq_linear_id id,
                                   const kq_module_report *report, double loss);
kq_status kq_rounding_sum(const kq_output *o, kq_describe_module *describe, kq_rounding_sums *sums,
                          kq_error *err);

/* The report: the receiver's own object (stolen) and what every rounding reports, the modules last. */
kq_status kq_rounding_report(const kq_work *w, json_t *own, const kq_rounding_sums *sums, json_t **out,
                             kq_error *err);

#endif
