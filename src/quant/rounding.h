/* What rounding a whole model has in common, whatever it is rounded to: where its factors come from,
 * finished parts, the report. */
#ifndef KQ_QUANT_ROUNDING_H
#define KQ_QUANT_ROUNDING_H

#include "quant/block_note.h"
#include "quant/from_factors.h"

/* The first member of what a sweep over it gets as its ctx. */
typedef struct kq_rounding {
    kq_prepared p;        /* filled in by the caller: kq_prepare */
    kq_job job;           /* likewise: kq_job_open; lock -1 before */
    kq_factor_file *file; /* owned; NULL: a sweep finds the factors */
    json_t *settings;     /* owned; what they are, or will be, made with */
    bool predicts;        /* eq. 1 means something: the method saw gradients */
    /* tokens of a calibration sequence, by which eq. 1 is divided; 1 when there is none */
    size_t seq_len;
    size_t memory, disk;   /* planned */
    kq_gradient_way way;   /* likewise */
    double start, round_s; /* kq_now_s at the beginning; seconds spent on rounding so far */
    kq_block_note note;    /* of the block at work */
    kq_sweep_report sweep;
} kq_rounding;

/* The model's fingerprint; the factor file, when there is to be one, checked; settings, predicts, seq_len. */
kq_status kq_rounding_settings(kq_rounding *r, kq_error *err);
/* after a failure too; work that is worth it stays for --resume */
void kq_rounding_close(kq_rounding *r);

/* WORK/block-00012.safetensors, and whether it is finished: kq_sweep's done. */
void kq_rounding_part(const kq_rounding *r, size_t layer, char path[4400]);
bool kq_rounding_block_done(void *ctx, size_t layer);

/* The result is there already: say so ("the checkpoint is ..."), clean up, and give the report
 * {"complete": true} (report_json may be NULL). */
kq_status kq_rounding_complete(kq_rounding *r, const char *what, char **report_json, kq_error *err);
/* Is there room on dir's disk, unless the work is resumed; and one line of what is going to be done:
 * "210 modules to WHAT; about ...". */
kq_status kq_rounding_announce(kq_rounding *r, const kq_sweep *s, const char *dir, const char *what,
                               kq_error *err);
/* Tokens of the calibration into the sweep, when it needs any. */
kq_status kq_rounding_ids(kq_rounding *r, kq_sweep *s, kq_error *err);
/* Hand out the factors, from the file or by the sweep (kq_rounding_ids first). */
kq_status kq_rounding_run(kq_rounding *r, const kq_sweep *s, kq_error *err);
/* A linear is rounded: its seconds and figures are counted. relative_mse and predicted_loss (nats a sample,
 * NaN for nothing) as reports have them. KQ_E_INTERRUPTED: the progress function asks to stop. */
kq_status kq_rounding_count(kq_rounding *r, const kq_module_report *module, const kq_factor_report *factor,
                            double seconds, kq_error *err);
/* Complete the report *o (stolen) with what all have, modules (stolen) last, as text; free() it. NULL:
 * out of memory. */
char *kq_rounding_report(const kq_rounding *r, json_t *o, json_t *modules, double save_s, kq_error *err);

#endif
