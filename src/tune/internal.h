/* What the files of this room share. */
#ifndef KQ_TUNE_INTERNAL_H
#define KQ_TUNE_INTERNAL_H

#include "sweep/job.h"
#include "tune/tuner.h"

kq_status kq_params_make(const kq_config *cfg, const kq_tuner_options *o, kq_params *p, kq_error *err);
void kq_params_free(kq_params *p);
/* Eq. 102 for n numbers. */
void kq_adam(const kq_tuner_arrays *s, size_t n, double lr, size_t step);

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
/* Write WORK/state-00000.bin, or read it where it is; *found: it was. KQ_E_FORMAT: it is damaged. */
kq_status kq_tune_state_save(const kq_job *job, const kq_tune_state *s, kq_error *err);
kq_status kq_tune_state_load(const kq_job *job, kq_tune_state *s, bool *found, kq_error *err);

#endif
