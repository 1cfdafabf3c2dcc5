/* The frame of long work: everything that quantizing to a checkpoint, quantizing to a GGUF, calibrating and
 * making an imatrix have in common.
 *
 * All four go over the blocks of a model once and use the factors of every selected linear; they differ in
 * what they make of the factors. The frame (work.c) does the rest, in this order:
 *
 *   prepare   options are checked, the model is opened, the settings are collected; nothing is written yet
 *   check     weights, texts, memory and disk are good enough; nothing is written yet
 *   open      the work folder is made, or taken up again (--resume), or cleared (--fresh), and locked
 *   announce  one line says what will be done and what it takes
 *   stage     the sweep, or a factor file, yields factors block by block; each finished block is a
 *             sealed file
 *   finish    the result is written, the report is made, the work folder is removed
 *
 * What differs is a receiver: a table of functions (struct kq_receiver). quantize.c rounds to a trellis,
 * quantize_gguf.c rounds to a grid, calibrate.c keeps the factors of one or several estimates,
 * imatrix_collect.c keeps diagonals. A new kind of result is one more receiver. */
#ifndef KQ_QUANT_WORK_H
#define KQ_QUANT_WORK_H

#include "base/progress.h"
#include "prepare/from_factors.h"
#include "quant/block_note.h"

typedef struct kq_work kq_work;
struct kq_bits;

/* One result of the work: a checkpoint, a GGUF, a factor file, an imatrix. Most work has one; a calibration
 * may have several that share the sweep. The receiver fills in the first group, zero elsewhere. */
typedef struct kq_output {
    const char *name;        /* as the caller gave it: a file, or the folder of a checkpoint; borrowed */
    kq_quantize_options opt; /* the caller's, with the calibration of this output */
    void *ctx;               /* the receiver's own state of this output; borrowed */
    struct kq_bits *bits;    /* a checkpoint's: how many bits each module gets; borrowed */

    kq_work *work;
    char *done_path; /* owned: the file whose presence says that the output is complete */
    char *work_dir;  /* owned: where unfinished work is kept */
    kq_prepared p;
    json_t *settings; /* owned: what its factors are, or will be, made with */
    char *identity;   /* owned JSON text: everything the output depends on; job.json holds it */
    kq_job job;
    uint32_t *seq;      /* owned [p.n_seq]: which of the sweep's sequences it looks at; NULL: all of them */
    kq_block_note note; /* of the block at work */
} kq_output;

/* One selected linear with its factors. */
typedef struct kq_linear_factors {
    size_t layer;
    kq_linear_id id;
    char name[128]; /* "model.layers.3.self_attn.q_proj" */
    size_t m, n;    /* rows (outputs) and columns (inputs) of the weights */
    /* [n, n] and [m, m], or [n] of a diagonal stage; NULL stands for the identity */
    const float *H_in, *H_out;
    const kq_factor_report *report;
} kq_linear_factors;

/* One pass over the factors of all selected linears, block by block. A finished block is one sealed file,
 * WORK/STEM-00012.SUFFIX; a block whose file is there already is left out. */
typedef struct kq_stage {
    const char *stem, *suffix;
    const char *doing; /* "rounding": the name of the stage for the progress function */
    bool diagonal;     /* the sweep yields the diagonal of sum_t x_t x_t^T only (kq_sweep.diagonal) */
    kq_status (*linear)(kq_output *o, const kq_linear_factors *f, kq_error *err);
    /* Write the block's file. The frame seals it. */
    kq_status (*block)(kq_output *o, size_t layer, const char *path, kq_error *err);
} kq_stage;

/* Bytes that the receiver takes beside the sweep. */
typedef struct kq_receiver_bytes {
    size_t peak; /* of memory while `linear` is called, beyond the factors */
    size_t kept; /* of memory until the block is finished */
    size_t disk; /* part files and the result together */
} kq_receiver_bytes;

/* A function that is NULL has nothing to do. */
typedef struct kq_receiver {
    const char *result;   /* "a GGUF file": what the output's name should be the name of */
    const char *complete; /* the line that says that --resume found nothing left to do */
    kq_stage stage;
    bool takes_factors; /* opt.factors may take the sweep's place */

    /* ---- prepare: nothing may be written ---- */
    kq_status (*check)(const kq_quantize_options *opt, kq_error *err); /* before the model is opened */
    /* Sets done_path and work_dir. NULL: they are the named file and FILE.work. */
    kq_status (*locate)(kq_output *o, kq_error *err);
    kq_status (*prepare)(kq_output *o, kq_error *err);  /* the model is open */
    kq_status (*identify)(kq_output *o, kq_error *err); /* settings are known; sets identity */
    kq_status (*check_weights)(const kq_output *o, kq_error *err);
    /* Are the factors of the vocabulary's rows wanted, when the sweep finds them? The frame keeps them, one
     * sealed file each (rows.h). */
    bool (*wants_rows)(const kq_output *o);
    void (*bytes)(const kq_work *w, kq_receiver_bytes *out);

    /* ---- open and announce ---- */
    kq_status (*opened)(kq_output *o, kq_error *err); /* the work folder is there; the output is not */
    /* The output exists: KQ_E_MISMATCH unless it is what the identity would give. */
    kq_status (*check_complete)(const kq_output *o, kq_error *err);
    /* "210 modules to 2 bits", the beginning of the announcement; NULL: nothing is announced. */
    void (*describe)(const kq_work *w, char line[160]);
    kq_status (*sequences)(kq_output *o, kq_error *err); /* p.windows is there and may be changed */

    /* ---- stage and finish ---- */
    kq_status (*before)(kq_output *o, kq_error *err); /* what the stage must know first */
    kq_status (*finish)(kq_output *o, kq_error *err); /* writes the result; all part files are there */
    kq_status (*report)(kq_work *w, json_t **out, kq_error *err); /* a new object; NULL: out of memory */
    void (*close)(kq_output *o); /* frees what ctx owns; after failures too */

    /* ---- kq_work_plan ---- */
    json_t *(*plan)(const kq_work *w); /* what it says of the whole */
    void (*plan_linear)(const kq_output *o, size_t layer, int id, json_t *module); /* and of each linear */
} kq_receiver;

struct kq_work {
    const kq_receiver *receiver;
    const char *model;  /* as the caller gave it; borrowed */
    kq_output *outputs; /* [n]; borrowed */
    size_t n;
    kq_common common; /* the caller's; the outputs have `guard` in front of its progress function */
    kq_progress guard;
    size_t *counts;       /* owned [n]: sequences that each output looks at */
    bool planning;        /* nothing is to be written: kq_work_plan */
    kq_factor_file *file; /* owned; NULL: the sweep finds the factors */
    bool predicts;        /* eq. 1 means something: the method saw gradients */
    size_t seq_len;       /* tokens of a calibration sequence, by which eq. 1 is divided; 1 without any */
    kq_job pass;          /* the folder of a sweep that serves several outputs, for its spilled records */
    kq_sweep sweep;
    kq_sweep_estimate *estimates; /* owned [sweep.n_estimates]: one for each output that is not there yet */
    size_t memory, disk;          /* planned bytes */
    const kq_stage *stage;        /* that runs now */
    double start;                 /* kq_now_s at the beginning */
    double round_s, save_s;       /* seconds of rounding and of writing results */
    kq_sweep_report swept;
};

/* Make the n outputs. report_json may be NULL; else it gets the report as JSON text, the caller's (free),
 * {"complete": true} where a single output was there already. Errors are those of the receiver and of the
 * frame's steps: KQ_E_ARG for options and names, KQ_E_MISMATCH for other settings than those of unfinished
 * work or of the complete output, KQ_E_MEMORY and KQ_E_IO for too little memory or disk, KQ_E_INTERRUPTED
 * when the progress function asks to stop. Sealed blocks then stay for --resume. */
kq_status kq_work_run(const char *model, const kq_receiver *r, kq_output *outputs, size_t n,
                      char **report_json, kq_error *err);
/* kq_work_run for one output, whose opt is read from what a host gave (KQ_OPTIONS_READ). */
kq_status kq_work_quantize(const char *model, const kq_receiver *r, kq_output *output,
                           const kq_quantize_options *opt, char **report_json, kq_error *err);
/* What that would take, as JSON text, the caller's (free). Writes nothing. */
kq_status kq_work_plan(const char *model, const kq_receiver *r, kq_output *output,
                       const kq_quantize_options *opt, char **plan_json, kq_error *err);

/* ---- for receivers ---- */

/* The model's fingerprint and where factors come from: the factor file is opened and checked, or the settings
 * of the calibration are collected. Fills in settings, w->file, w->predicts and w->seq_len. */
kq_status kq_work_open_source(kq_output *o, kq_error *err);
/* A receiver's identify: the output depends on its settings and on --only, and on nothing else. */
kq_status kq_identify_by_settings(kq_output *o, kq_error *err);
/* What a plan calls the method: its name, or the factor file that brings it. */
const char *kq_work_method(const kq_work *w);
/* Run a stage over the output's work: by the factor file when there is one, else by the sweep. */
kq_status kq_work_stage(kq_work *w, const kq_stage *stage, kq_error *err);

#endif
