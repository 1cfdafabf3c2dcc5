/* What the files of this room share. */
#ifndef KQ_TUNE_INTERNAL_H
#define KQ_TUNE_INTERNAL_H

#include <jansson.h>

#include "base/progress.h"
#include "checkpoint/checkpoint.h"
#include "prepare/prepare.h"
#include "sweep/job.h"
#include "tune/tuner.h"

kq_status kq_params_make(const kq_config *cfg, const kq_tuner_options *o, kq_params *p, kq_error *err);
void kq_params_free(kq_params *p);
/* Shape and scales of a linear, and the tensor behind it. */
kq_trained_linear kq_trained_shape(const kq_weights *w, size_t layer, kq_linear_id id);
/* The same of the embedding, or of the head, which may be the same matrix. */
kq_trained_linear kq_trained_rows_shape(const kq_weights *w, bool embedding);
/* Fill in l->offsets, where the type of the tensor has them; owned by the caller (kq_free). */
kq_status kq_trained_offsets(kq_trained_linear *l, kq_error *err);
/* Give back the pages of the file that apply has read. */
void kq_trained_release(const kq_trained_linear *l);
/* Eq. 102 for n numbers. */
void kq_adam(const kq_tuner_arrays *s, size_t n, double lr, size_t step, int threads);

/* ---- embedding and head as trained matrices: rows.c ---- */

typedef struct kq_tuned_rows {
    const kq_tuner_options *o; /* borrowed; NULL: the matrix is not trained */
    kq_trained_linear l;       /* owned, What too */
    size_t per_row;            /* numbers of a row */
} kq_tuned_rows;
size_t kq_tuned_rows_bytes(const kq_config *cfg, const kq_tuner_options *o, bool embedding);
/* From a head that was just loaded: its weights are copied before they change. After a failure
 * kq_tuned_rows_free frees what there is. */
kq_status kq_tuned_rows_new(const kq_tuner_options *o, const kq_head *head, bool embedding, kq_tuned_rows *r,
                            kq_error *err);
void kq_tuned_rows_free(kq_tuned_rows *r);
/* W, the head's own matrix, with these numbers. Several threads. */
kq_status kq_tuned_rows_apply(const kq_tuned_rows *r, const kq_kern *kern, const float *theta, kq_linear W,
                              kq_error *err);
/* A tile of the loss: the head's inputs X [n, d] and dLoss/d(logits) G [n, vocab], and both in bf16, or NULL.
 */
typedef struct kq_head_tile {
    const float *X, *G;
    const uint16_t *Xb, *Gb;
    size_t n;
} kq_head_tile;
/* grad += dLoss/dtheta. Gw: scratch of `room` floats, at least d. One thread. */
kq_status kq_tuned_rows_head_gradient(const kq_tuned_rows *r, const kq_kern *kern, const float *theta,
                                      const kq_head_tile *t, float *Gw, size_t room, float *grad,
                                      kq_error *err);
/* grad += dLoss/dtheta, where dx [T, d] = dLoss/d(the embedded tokens). One thread. */
void kq_tuned_rows_embed_gradient(const kq_tuned_rows *r, const kq_kern *kern, const float *theta,
                                  const int32_t *ids, size_t T, const float *dx, float *grad);

/* ---- the teacher: teacher.c ---- */

/* The original's final hidden states of all sequences, in bf16 files of the work folder, one a sequence. */
typedef struct kq_teacher kq_teacher;
typedef struct kq_teacher_options {
    const kq_weights *weights; /* all pointers are borrowed */
    const int32_t *ids;        /* [n, T] */
    size_t n, T;
    size_t at_once; /* sequences that go through the blocks together; it changes no byte */
    kq_isa isa;
    kq_compute compute;
    int threads;
    const kq_job *job;
    const kq_common *common;
} kq_teacher_options;
/* Compute what is not there yet. KQ_E_INTERRUPTED; KQ_E_NUMERIC; KQ_E_IO. */
kq_status kq_teacher_new(const kq_teacher_options *o, kq_teacher **out, kq_error *err);
void kq_teacher_free(kq_teacher *t);
/* kq_tuner_options.hidden; ctx is the kq_teacher. */
kq_status kq_teacher_read(void *ctx, size_t sequence, float *x, kq_error *err);
/* How many sequences at once `room` bytes allow, at least one and at most all; o->at_once is not read. */
size_t kq_teacher_at_once(const kq_config *cfg, const kq_teacher_options *o, size_t room);
/* Peak of the memory that kq_teacher_new allocates, in bytes. */
size_t kq_teacher_memory(const kq_config *cfg, const kq_teacher_options *o);
size_t kq_teacher_disk(const kq_config *cfg, size_t n, size_t T);

/* ---- the state of unfinished work: state.c ---- */

/* Everything that the next step depends on. */
typedef struct kq_tune_state {
    uint64_t step;                     /* steps done */
    uint64_t best_step;                /* after how many steps `best` was seen; 0: untuned */
    uint64_t n_watched;                /* entries of watched_kl and watched_step */
    double best_kl, untuned_kl;        /* on the held-out sequences; untuned_kl NaN: not measured yet */
    float *theta, *m, *v, *best;       /* [n_params]; the first three are the tuner's */
    double *loss;                      /* [steps] of the training sequences, before each step */
    double *watched_kl, *watched_step; /* [watches] */
    size_t n_params, steps, watches;
} kq_tune_state;
/* Bytes of the file for so many numbers, the losses not counted. */
size_t kq_tune_state_bytes(size_t n_params);
/* Write WORK/state-00000.bin, or read it where it is; *found: it was. KQ_E_FORMAT: it is damaged. */
kq_status kq_tune_state_save(const kq_job *job, const kq_tune_state *s, kq_error *err);
kq_status kq_tune_state_load(const kq_job *job, kq_tune_state *s, bool *found, kq_error *err);

/* ---- one run, and the kinds of files that can be tuned ---- */

typedef struct kq_tune_run kq_tune_run;
typedef struct kq_tune_kind {
    const kq_trained *trained;
    /* Set done_path, the file whose presence says that OUT is complete, and work_dir. */
    kq_status (*locate)(kq_tune_run *r, kq_error *err);
    /* Can this file be tuned? */
    kq_status (*accept)(const kq_tune_run *r, kq_error *err);
    /* The fingerprint of the model that the file says it was made from, the caller's (free); NULL: it says
     * none. */
    char *(*made_from)(const kq_tune_run *r);
    bool (*is_trained)(const kq_tune_run *r, size_t layer, kq_linear_id id);
    bool (*trains_rows)(const kq_tune_run *r, bool embedding); /* or else the head; NULL: neither */
    /* Write OUT with the best numbers; r->file_bytes is set. */
    kq_status (*save)(kq_tune_run *r, kq_error *err);
    /* OUT is complete: is it what these settings give? */
    kq_status (*check_complete)(const kq_tune_run *r, kq_error *err);
    void (*report)(const kq_tune_run *r, json_t *report); /* adds members; NULL: none */
} kq_tune_kind;
extern const kq_tune_kind kq_tune_of_checkpoint, kq_tune_of_gguf; /* of_checkpoint.c, of_gguf.c */

struct kq_tune_run {
    const char *checkpoint, *out;
    const kq_tune_kind *kind;
    kq_tune_options opt;
    kq_progress guard;
    kq_common common;      /* the caller's, with the guard */
    kq_quantize_options q; /* the same wishes for the text, as kq_prepare takes them */
    kq_prepared p;         /* the reference and the text */
    kq_model_file *file;   /* owned, as is everything below: what is tuned */
    char *done_path, *work_dir;
    kq_job job;
    json_t *settings;
    uint8_t *packed;          /* [n_layer], bit id set: that linear is trained */
    uint32_t *held, *trained; /* [n_held], [n_trained]: sequences */
    uint32_t *order;          /* [steps * batch, at most]: the sequences of all steps */
    size_t n_held, n_trained, n_order;
    kq_tuner_options tuner_options;
    kq_teacher_options teacher_options;
    kq_teacher *teacher;
    kq_tuner *tuner;
    kq_tune_state state;
    size_t memory, disk, file_bytes;
    size_t n_kept_scales; /* of a GGUF: F16 numbers that could not be changed (kq_tuned_gguf_save) */
    double start, reference_s, tuning_s, save_s; /* seconds */
};

/* Where the factors of a tensor begin in a kq_params; SIZE_MAX: it is not trained. */
size_t kq_params_of_tensor(const kq_params *p, const kq_model_tensor *t);
/* Does this config.json of a checkpoint say that it was tuned with these settings? KQ_E_MISMATCH: no. */
kq_status kq_tuned_config_check(const kq_tune_run *r, const char *config_path, kq_error *err);
/* The member "tuned" of quantization_config and most of the report, new; NULL: out of memory. */
json_t *kq_tune_facts(const kq_tune_run *r);

#endif
