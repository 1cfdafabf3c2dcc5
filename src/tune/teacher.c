/* The original's final hidden states, which every pass over the text needs again: computed once, block by
 * block, kept in bf16 files of the work folder, one a sequence. As many sequences as --memory leaves room for
 * go through all blocks together. The files do not show how many, so that --resume may have another --memory:
 * it computes what is missing. */
#include <omp.h>

#include "base/f16.h"
#include "base/first_error.h"
#include "base/mem.h"
#include "base/progress.h"
#include "sweep/spill.h"
#include "tune/internal.h"

struct kq_teacher {
    kq_teacher_options o;
    size_t record; /* values of a sequence */
};

size_t kq_teacher_disk(const kq_config *cfg, size_t n, size_t T)
{
    return n * (T * cfg->d_model * 2 + 4096); /* the last block of a file is not full */
}

/* Of the hidden states of one sequence in f32. */
static size_t sequence_bytes(const kq_config *cfg, size_t T)
{
    return T * cfg->d_model * sizeof(float);
}

size_t kq_teacher_memory(const kq_config *cfg, const kq_teacher_options *o)
{
    kq_model_ctx *mc;
    if (kq_model_ctx_new(cfg, o->isa, o->compute, o->T, &mc, NULL))
        return SIZE_MAX;
    const size_t scratch = kq_block_scratch_bytes(mc, o->T);
    kq_model_ctx_free(mc);
    return kq_head_bytes(cfg, o->compute) + kq_block_load_bytes(cfg, o->compute) +
           o->at_once * sequence_bytes(cfg, o->T) + (size_t)o->threads * (scratch + o->T * cfg->d_model * 2);
}

size_t kq_teacher_at_once(const kq_config *cfg, const kq_teacher_options *o, size_t room)
{
    kq_teacher_options none = *o;
    none.at_once = 0;
    const size_t least = kq_teacher_memory(cfg, &none),
                 n = room > least ? (room - least) / sequence_bytes(cfg, o->T) : 0;
    return n < 1 ? 1 : n < o->n ? n : o->n;
}

/* Some sequences through all blocks: x [n, T, d]. done: how many are finished, for the progress. */
static kq_status run_blocks(const kq_teacher *t, const kq_model_ctx *mc, float *x, size_t n, void **scratch,
                            size_t done, kq_error *err)
{
    const kq_teacher_options *o = &t->o;
    const size_t n_layer = o->weights->cfg->n_layer;
    const kq_common *c = o->common;
    kq_status st = KQ_OK;
    for (size_t l = 0; l < n_layer && !st; l++) {
        kq_block block;
        kq_first_error failed = KQ_FIRST_ERROR;
        if ((st = kq_block_load(mc, o->weights, l, &block, err)))
            break;
#pragma omp parallel for schedule(dynamic, 1) num_threads(o->threads)
        for (size_t s = 0; s < n; s++) {
            kq_error e;
            float *h = x + s * t->record;
            if (!kq_first_error_skip(&failed, s))
                kq_first_error_note(
                    &failed, s,
                    kq_block_forward(mc, &block, h, o->T, h, scratch[omp_get_thread_num()], 1, &e), &e);
        }
        st = kq_first_error_get(&failed, err);
        kq_block_free(&block);
        if (!st && c->progress &&
            c->progress(c->ctx, "reference",
                        ((double)done + (double)n * (double)(l + 1) / (double)n_layer) / (double)o->n, NULL))
            st = kq_fail(err, KQ_E_INTERRUPTED, "stopped while the reference was computed");
    }
    return st;
}

static kq_status write_sequence(const kq_teacher *t, size_t sequence, const float *x, kq_error *err)
{
    kq_spill *f = NULL;
    uint16_t *half;
    char *path = NULL;
    kq_status st = kq_alloc_for((void **)&half, t->record, sizeof *half, "hidden states", err);
    if (!st)
        st = kq_job_path(t->o.job, "teacher", sequence, "bf16", &path, err);
    if (!st)
        st = kq_spill_create(path, 1, t->record * sizeof *half, &f, err);
    if (!st) {
        kq_f32_to_bf16_n(x, half, t->record);
        if (!(st = kq_spill_write(f, 0, half, err)))
            st = kq_spill_commit(f, err);
        else
            kq_spill_close(f);
    }
    kq_free(half);
    kq_free(path);
    return st;
}

/* What all sequences are computed with. */
typedef struct forward_work {
    kq_model_ctx *mc;
    kq_head *head;
    float *x;         /* [at_once, T, d] */
    size_t *sequence; /* [at_once] */
    void **scratch;   /* [threads] */
} forward_work;

static void free_work(forward_work *w, int threads)
{
    for (int i = 0; w->scratch && i < threads; i++)
        kq_free(w->scratch[i]);
    kq_free(w->scratch);
    kq_free(w->x);
    kq_free(w->sequence);
    kq_head_free(w->head);
    kq_model_ctx_free(w->mc);
}

static kq_status begin_work(const kq_teacher *t, forward_work *w, kq_error *err)
{
    const kq_teacher_options *o = &t->o;
    kq_status st = kq_model_ctx_new(o->weights->cfg, o->isa, o->compute, o->T, &w->mc, err);
    if (!st)
        st = kq_head_load(w->mc, o->weights, &w->head, err);
    if (!st)
        st = kq_alloc_for((void **)&w->x, o->at_once * t->record, sizeof(float), "hidden states", err);
    if (!st)
        st = kq_alloc_for((void **)&w->sequence, o->at_once, sizeof *w->sequence, "sequences", err);
    if (!st && !(w->scratch = kq_calloc((size_t)o->threads, sizeof *w->scratch)))
        st = kq_fail(err, KQ_E_MEMORY, "out of memory: scratch");
    for (int i = 0; i < o->threads && !st; i++)
        st = kq_alloc_for(&w->scratch[i], kq_block_scratch_bytes(w->mc, o->T), 1, "scratch", err);
    return st;
}

/* Fill w->sequence with the first at_once sequences from *next on whose file is not there. Their number. */
static size_t take_missing(const kq_teacher *t, const forward_work *w, size_t *next)
{
    size_t n = 0;
    for (; *next < t->o.n && n < t->o.at_once; ++*next)
        if (!kq_job_has_file(t->o.job, "teacher", *next, "bf16"))
            w->sequence[n++] = *next;
    return n;
}

static kq_status run_some(const kq_teacher *t, const forward_work *w, size_t n, size_t done, kq_error *err)
{
    const kq_teacher_options *o = &t->o;
    kq_status st = KQ_OK;
    for (size_t i = 0; i < n && !st; i++)
        st = kq_head_embed(w->head, o->ids + w->sequence[i] * o->T, o->T, w->x + i * t->record, err);
    if (!st)
        st = run_blocks(t, w->mc, w->x, n, w->scratch, done, err);
    for (size_t i = 0; i < n && !st; i++)
        st = write_sequence(t, w->sequence[i], w->x + i * t->record, err);
    return st;
}

/* Compute the sequences whose file is not there. */
static kq_status run(const kq_teacher *t, kq_error *err)
{
    const kq_teacher_options *o = &t->o;
    forward_work w = {0};
    size_t missing = 0, next = 0, n;
    for (size_t s = 0; s < o->n; s++)
        missing += !kq_job_has_file(o->job, "teacher", s, "bf16");
    if (!missing)
        return KQ_OK;
    kq_status st = begin_work(t, &w, err);
    for (; !st && (n = take_missing(t, &w, &next)); missing -= n)
        st = run_some(t, &w, n, o->n - missing, err);
    free_work(&w, o->threads);
    return st;
}

kq_status kq_teacher_new(const kq_teacher_options *o, kq_teacher **out, kq_error *err)
{
    *out = NULL;
    kq_teacher *t = kq_calloc(1, sizeof *t);
    if (!t)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the reference");
    t->o = *o;
    t->record = o->T * o->weights->cfg->d_model;
    kq_status st = run(t, err);
    if (st) {
        kq_teacher_free(t);
        return st;
    }
    *out = t;
    return KQ_OK;
}

kq_status kq_teacher_read(void *ctx, size_t sequence, float *x, kq_error *err)
{
    const kq_teacher *t = ctx;
    uint16_t *half;
    kq_spill *f = NULL;
    char *path = NULL;
    kq_status st = kq_alloc_for((void **)&half, t->record, sizeof *half, "hidden states", err);
    if (!st)
        st = kq_job_path(t->o.job, "teacher", sequence, "bf16", &path, err);
    if (!st)
        st = kq_spill_open(path, 1, t->record * sizeof *half, &f, err);
    if (!st)
        st = kq_spill_read(f, 0, half, err);
    if (!st)
        kq_bf16_to_f32_n(half, x, t->record);
    kq_spill_close(f);
    kq_free(half);
    kq_free(path);
    return st;
}

void kq_teacher_free(kq_teacher *t)
{
    kq_free(t);
}
