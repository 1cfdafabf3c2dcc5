/* Tuning as a part of `kronq quantize`. */
#ifndef KQ_TUNE_TUNE_H
#define KQ_TUNE_TUNE_H

#include "base/error.h"

/* Round MODEL into a checkpoint: kq_quantize without tuning. */
typedef kq_status kq_rounding(const char *model, const char *out, const kq_quantize_options *opt,
                              char **report_json, kq_error *err);

/* Round MODEL into OUT/.kronq-tune/rounded, tune that into OUT, and remove it. When tuning does not help, the
 * rounded checkpoint moves to OUT. The report is that of the rounding, with "tuned": that of kq_tune, or null
 * when it did not help. With opt->resume both go on where they were. Errors of both. */
kq_status kq_round_and_tune(const char *model, const char *out, const kq_quantize_options *opt,
                            kq_rounding *round, char **report_json, kq_error *err);

/* Before any work: the options are in range, and the text is long enough to tune on. */
kq_status kq_tune_check_text(const char *reference, const kq_tune_options *opt, kq_error *err);

#endif
