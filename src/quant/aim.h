/* --size, --bpw and --kld: instead of a number of bits the user says how large the checkpoint may be, or how
 * much it may lose. The bits of every linear, of the embedding and of the head are chosen by their forecasts
 * (docs/math.md, "A size to aim at"). */
#ifndef KQ_QUANT_AIM_H
#define KQ_QUANT_AIM_H

#include "quant/bits.h"

/* Is one of the three asked for? */
bool kq_aim_given(const kq_quantize_options *opt);
/* KQ_E_ARG: more than one. */
kq_status kq_aim_check(const kq_quantize_options *opt, kq_error *err);
/* "at most 45.00 MB", "at most 2.6 bits a weight of the file" or "a forecast of at most 0.1 nats", into buf.
 */
const char *kq_aim_text(const kq_quantize_options *opt, char buf[64]);
/* The most bytes that the checkpoint may have, by most_bytes or most_bpw; infinite for most_kld. */
double kq_aim_budget(const kq_output *o);

/* Before any work, o->bits being open: can the asked size be reached? KQ_E_ARG names the smallest. A note
 * says so where even the largest checkpoint is smaller. */
kq_status kq_aim_check_reach(const kq_output *o, kq_error *err);

/* Bytes of memory that the measurements take beside an evaluation. */
size_t kq_aim_bytes(const kq_output *o);
/* Choose by the forecasts of o->bits, after the measurements (measure.h), which stay in the work folder for
 * --resume unless the work is only planned: sets the bits of its linears, o->bits->expected, and
 * o->opt.embed_bits and head_bits; and says what is expected. KQ_E_ARG: no choice reaches most_kld. */
kq_status kq_aim_choose(kq_output *o, kq_error *err);

/* Add what was asked for to the settings of a job or a checkpoint: "size_asked", "bpw_asked" or "kld_asked".
 * False: out of memory. */
bool kq_aim_settings(const kq_quantize_options *opt, json_t *settings);
/* What was expected, as members of the report's "allocation"; new. NULL: out of memory. */
json_t *kq_aim_report(const kq_output *o);

#endif
