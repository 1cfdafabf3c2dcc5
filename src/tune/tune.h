/* Tuning as a part of `kronq quantize`. */
#ifndef KQ_TUNE_TUNE_H
#define KQ_TUNE_TUNE_H

#include <jansson.h>

#include "base/error.h"

/* The folder inside OUT in which unfinished work of kq_round_and_tune is. */
#define KQ_TUNE_WORK ".kronq-tune"

/* Round MODEL into a checkpoint: kq_quantize without tuning. */
typedef kq_status kq_rounding(const char *model, const char *out, const kq_quantize_options *opt,
                              char **report_json, kq_error *err);

/* What kq_quantize_options.tune comes to. "auto": whoever rounds a part of the model, or wants no text to be
 * read or written, wants no tuning. */
bool kq_tune_wanted(const kq_quantize_options *opt);

/* Round MODEL into OUT/.kronq-tune/rounded, tune that into OUT, and remove it. When tuning does not help, the
 * rounded checkpoint moves to OUT, and the member "tuned" of its config.json has best_step 0. The report is
 * that of the rounding, with "tuned": that of kq_tune, or null when it did not help. With opt->resume all of
 * it goes on where it was. Errors of both. */
kq_status kq_round_and_tune(const char *model, const char *out, const kq_quantize_options *opt,
                            kq_rounding *round, char **report_json, kq_error *err);

/* Before any work: the options are in range, and the text is long enough to tune on. */
kq_status kq_tune_check_text(const kq_tune_options *opt, kq_error *err);
/* KQ_E_MISMATCH: the checkpoint whose config.json this is was not tuned with these settings. The checkpoint
 * that it was tuned from is not compared, because it may be gone. */
kq_status kq_tune_check_complete(const char *config_path, const kq_tune_options *opt, kq_error *err);
/* kq_tune with options of this version. no_gain (may be NULL): after KQ_E_NO_GAIN the member "tuned" that
 * would say so in config.json; the caller's (json_decref). */
kq_status kq_tune_rounded(const char *checkpoint, const char *out, const kq_tune_options *opt,
                          char **report_json, json_t **no_gain, kq_error *err);

#endif
