/* What a checkpoint says of how it was made, and whether a finished one is what these settings would make. */
#ifndef KQ_QUANT_CHECKPOINT_SETTINGS_H
#define KQ_QUANT_CHECKPOINT_SETTINGS_H

#include "quant/work.h"

/* The JSON text that goes into config.json, as members of "quantization_config": the output's settings, to
 * which those of rounding are added. The caller's (free); NULL: out of memory. */
char *kq_checkpoint_settings(kq_output *o);
/* The command line that makes this checkpoint again, with the names of files but not of their folders, for
 * the model card. After kq_checkpoint_settings. The caller's (free); NULL: out of memory. */
char *kq_checkpoint_command(const kq_output *o);
/* Is the config.json that is there, o->done_path, of a checkpoint that these settings would have made?
 * KQ_E_MISMATCH names the first setting that differs. */
kq_status kq_checkpoint_check(const kq_output *o, kq_error *err);

#endif
