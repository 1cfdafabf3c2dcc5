/* The original's final hidden states, which every pass over the text needs again: computed once, block by
 * block, kept in bf16 files of the work folder. A group of sequences goes through all blocks together and is
 * one file, so that --resume goes on after the last finished group. */
#include <omp.h>

#include "base/f16.h"
#include "base/first_error.h"
#include "base/mem.h"
#include "base/progress.h"
#include "sweep/spill.h"
#include "tune/internal.h"

struct kq_teacher {
    kq_teacher_options o;
    size_t record, group, n_group; /* values of a sequence; sequences a file; files */
    kq_spill **file;               /* owned [n_group] */
};

/* Hidden states of a group in f32, bytes: it does not depend on --memory, which may change until --resume. */
static const size_t group_bytes = (size_t)256 << 20;

static size_t group_of(const kq_config *cfg, size_t T)
{
    const size_t n = group_bytes / (T * cfg->d_model * sizeof(float));
    return n ? n : 1;
}

size_t kq_teacher_disk(const kq_config *cfg, size_t n, size_t T)
{
    return n * (T * cfg->d_model * 2 + 8);
}

size_t kq_teacher_memory(const kq_config *cfg, const kq_teacher_options *o)
{
    const size_t group = group_of(cfg, o->T), n = group < o->n ? group : o->n;
    kq_model_ctx *mc;
    if (kq_model_ctx_new(cfg, o->isa, o->compute, o->T, &mc, NULL))
        return SIZE_MAX;
    const size_t scratch = kq_block_scratch_bytes(mc, o->T, false);
    kq_model_ctx_free(mc);
    return kq_head_bytes(cfg, o->compute) + kq_block_load_bytes(cfg, o->compute) +
           n * o->T * cfg->d_model * sizeof(float) + (size_t)o->threads * (scratch + o->T * cfg->d_model * 2);
}

/* One group through all blocks: x [n, T, d]. done: how many of all groups are finished, for the progress. */
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
                        ((double)done + (double)(l + 1) / (double)n_layer) / (double)t->n_group, NULL))
            st = kq_fail(err, KQ_E_INTERRUPTED, "stopped while the reference was computed");
    }
    return st;
}

static kq_status write_group(const kq_teacher *t, const char *path, const float *x, size_t n, kq_error *err)
{
    kq_spill *f = NULL;
    uint16_t *half;
    kq_status st = kq_alloc_for((void **)&half, t->record, sizeof *half, "hidden states", err);
    if (!st)
        st = kq_spill_create(path, n, t->record * sizeof *half, &f, err);
    for (size_t s = 0; s < n && !st; s++) {
        kq_f32_to_bf16_n(x + s * t->record, half, t->record);
        st = kq_spill_write(f, s, half, err);
    }
    kq_free(half);
    if (!st)
        return kq_spill_commit(f, err);
    kq_spill_close(f);
    return st;
}

/* What all groups are computed with. */
typedef struct forward_work {
    kq_model_ctx *mc;
    kq_head *head;
    float *x;
    void **scratch; /* [threads] */
} forward_work;

static void free_work(forward_work *w, int threads)
{
    for (int i = 0; w->scratch && i < threads; i++)
        kq_free(w->scratch[i]);
    kq_free(w->scratch);
    kq_free(w->x);
    kq_head_free(w->head);
    kq_model_ctx_free(w->mc);
}

static kq_status begin_work(const kq_teacher *t, forward_work *w, kq_error *err)
{
    const kq_teacher_options *o = &t->o;
    const size_t n = t->group < o->n ? t->group : o->n;
    kq_status st = kq_model_ctx_new(o->weights->cfg, o->isa, o->compute, o->T, &w->mc, err);
    if (!st)
        st = kq_head_load(w->mc, o->weights, &w->head, err);
    if (!st)
        st = kq_alloc_for((void **)&w->x, n * t->record, sizeof(float), "hidden states", err);
    if (!st && !(w->scratch = kq_calloc((size_t)o->threads, sizeof *w->scratch)))
        st = kq_fail(err, KQ_E_MEMORY, "out of memory: scratch");
    for (int i = 0; i < o->threads && !st; i++)
        st = kq_alloc_for(&w->scratch[i], kq_block_scratch_bytes(w->mc, o->T, false), 1, "scratch", err);
    return st;
}

/* Compute the groups whose file is not there. */
static kq_status run(const kq_teacher *t, kq_error *err)
{
    const kq_teacher_options *o = &t->o;
    forward_work w = {0};
    kq_status st = KQ_OK;
    for (size_t g = 0; g < t->n_group && !st; g++) {
        const size_t first = g * t->group, n = o->n - first < t->group ? o->n - first : t->group;
        char *path;
        if (kq_job_has_file(o->job, "teacher", g, "bf16"))
            continue;
        if (!w.scratch && (st = begin_work(t, &w, err)))
            break;
        for (size_t s = 0; s < n && !st; s++)
            st = kq_head_embed(w.head, o->ids + (first + s) * o->T, o->T, w.x + s * t->record, err);
        if (st || (st = run_blocks(t, w.mc, w.x, n, w.scratch, g, err)) ||
            (st = kq_job_path(o->job, "teacher", g, "bf16", &path, err)))
            break;
        st = write_group(t, path, w.x, n, err);
        kq_free(path);
    }
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
    t->group = group_of(o->weights->cfg, o->T);
    t->n_group = (o->n + t->group - 1) / t->group;
    kq_status st = run(t, err);
    if (!st && !(t->file = kq_calloc(t->n_group, sizeof *t->file)))
        st = kq_fail(err, KQ_E_MEMORY, "out of memory: the reference");
    for (size_t g = 0; g < t->n_group && !st; g++) {
        const size_t first = g * t->group, n = o->n - first < t->group ? o->n - first : t->group;
        char *path;
        if (!(st = kq_job_path(o->job, "teacher", g, "bf16", &path, err)))
            st = kq_spill_open(path, n, t->record * 2, &t->file[g], err);
        kq_free(path);
    }
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
    kq_status st = kq_alloc_for((void **)&half, t->record, sizeof *half, "hidden states", err);
    if (!st)
        st = kq_spill_read(t->file[sequence / t->group], sequence % t->group, half, err);
    if (!st)
        kq_bf16_to_f32_n(half, x, t->record);
    kq_free(half);
    return st;
}

void kq_teacher_free(kq_teacher *t)
{
    if (!t)
        return;
    for (size_t g = 0; t->file && g < t->n_group; g++)
        kq_spill_close(t->file[g]);
    kq_free(t->file);
    kq_free(t);
}
