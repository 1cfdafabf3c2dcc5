#include "eval/eval.h"

#include <math.h>
#include <omp.h>
#include <stdatomic.h>
#include <string.h>

#include "base/mem.h"
#include "eval/score.h"

/* Hidden states of one group of windows, both models together. */
#define GROUP_BYTES ((size_t)512 << 20)

typedef struct side {
    const char *name; /* for messages and progress */
    const kq_weights *w;
    kq_model_ctx *mc;
    kq_head *head;
    size_t d;
    float *h;             /* [group, ctx, d] hidden states */
    char *scratch;        /* one slice a thread */
    size_t scratch_bytes; /* of a slice: block forward */
} side;

typedef struct run {
    const kq_eval_options *opt;
    const kq_kern *kern;
    int threads;
    size_t ctx, group, n_side; /* windows a group; 1 or 2 models */
    side side[2];              /* model, reference */
    double *nll, *kld, *same;  /* [windows (ctx-1)], [windows ctx], [windows ctx] */
    double done, work;         /* for progress: blocks and heads times windows */
} run;

/* The first failure among parallel iterations; the others see `failed` and return early. */
typedef struct verdict {
    atomic_int failed;
    kq_status status;
    kq_error err;
} verdict;

static void verdict_set(verdict *v, kq_status status, const kq_error *err)
{
#pragma omp critical(kq_eval_verdict)
    if (!atomic_load(&v->failed)) {
        v->status = status;
        v->err = *err;
        atomic_store(&v->failed, 1);
    }
}

static kq_status verdict_get(const verdict *v, kq_error *err)
{
    return v->status == KQ_OK ? KQ_OK : kq_fail(err, v->status, "%s", v->err.message);
}

kq_eval_options kq_eval_defaults(void)
{
    kq_isa isa = kq_isa_best();
    return (kq_eval_options){.ctx = 2048, .isa = isa, .compute = kq_compute_best(isa)};
}

static kq_status tick(run *r, const char *stage, double work, kq_error *err)
{
    r->done += work;
    if (r->opt->progress && r->opt->progress(r->opt->progress_ctx, stage, r->done / r->work))
        return kq_fail(err, KQ_E_INTERRUPTED, "evaluation stopped on request");
    return KQ_OK;
}

static kq_status side_open(run *r, side *s, const char *name, const kq_weights *w, kq_error *err)
{
    *s = (side){.name = name, .w = w, .d = w->cfg->d_model};
    kq_status st = kq_model_ctx_new(w->cfg, r->opt->isa, r->opt->compute, r->ctx, &s->mc, err);
    if (st == KQ_OK)
        st = kq_head_load(s->mc, w, &s->head, err);
    if (st == KQ_OK) {
        s->scratch_bytes = (kq_block_scratch_bytes(s->mc, r->ctx, false) + 63) & ~(size_t)63;
        st = kq_alloc_for((void **)&s->scratch, (size_t)r->threads, s->scratch_bytes, "evaluation scratch", err);
    }
    return st;
}

static void side_close(side *s)
{
    kq_free(s->scratch);
    kq_free(s->h);
    kq_head_free(s->head);
    kq_model_ctx_free(s->mc);
}

static kq_status forward_window(const run *r, side *s, const kq_block *b, size_t window0, size_t g, char *scratch, int threads,
                                kq_error *err)
{
    float *h = s->h + g * r->ctx * s->d;
    kq_error e; /* the block names the layer where NaN or Inf appeared; here whose, and in which window */
    kq_status st = kq_block_forward(s->mc, b, h, r->ctx, h, scratch, threads, &e);
    return st == KQ_OK ? st : kq_fail(err, st, "%s, window %zu: %s", s->name, window0 + g, e.message);
}

/* Hidden states of windows [window0, window0 + n) after the last block, into s->h. */
static kq_status side_forward(run *r, side *s, const int32_t *ids, size_t window0, size_t n, kq_error *err)
{
    kq_status st = KQ_OK;
    kq_block b = {0};
    for (size_t g = 0; g < n && st == KQ_OK; g++)
        st = kq_head_embed(s->head, ids + (window0 + g) * r->ctx, r->ctx, s->h + g * r->ctx * s->d, err);
    /* Whole rounds of windows one a thread; what is left over one by one, each on all threads. */
    size_t whole = n / (size_t)r->threads * (size_t)r->threads;
    for (size_t layer = 0; layer < s->w->cfg->n_layer && st == KQ_OK; layer++) {
        st = kq_block_load(s->mc, s->w, layer, &b, err);
        if (st != KQ_OK)
            break;
        verdict v = {0};
#pragma omp parallel for schedule(static, 1) num_threads(r->threads)
        for (size_t g = 0; g < whole; g++) {
            kq_error e = {0};
            if (atomic_load(&v.failed))
                continue;
            kq_status t = forward_window(r, s, &b, window0, g, s->scratch + (size_t)omp_get_thread_num() * s->scratch_bytes, 1, &e);
            if (t != KQ_OK)
                verdict_set(&v, t, &e);
        }
        st = verdict_get(&v, err);
        for (size_t g = whole; g < n && st == KQ_OK; g++)
            st = forward_window(r, s, &b, window0, g, s->scratch, r->threads, err);
        kq_block_free(&b);
        b = (kq_block){0};
        if (st == KQ_OK)
            st = tick(r, s->name, (double)n, err);
    }
    kq_block_free(&b);
    return st;
}

/* One tile of at most KQ_HEAD_TILE positions: both models' logits, then the scores of each position. */
static kq_status score_tile(run *r, const int32_t *ids, size_t window0, size_t g, size_t t0, float *scratch, kq_error *err)
{
    size_t vocab = r->side[0].w->cfg->vocab_size, window = window0 + g;
    size_t rows = r->ctx - t0 < KQ_HEAD_TILE ? r->ctx - t0 : KQ_HEAD_TILE;
    float *logits[2] = {scratch, scratch + KQ_HEAD_TILE * vocab};
    float *exp = scratch + r->n_side * KQ_HEAD_TILE * vocab, *norm = exp + vocab;
    for (size_t k = 0; k < r->n_side; k++) {
        side *s = &r->side[k];
        kq_status st = kq_head_logits(s->head, s->h + (g * r->ctx + t0) * s->d, rows, logits[k], norm, 1, err);
        if (st != KQ_OK)
            return st;
    }
    if (r->opt->logits && window == 0)
        memcpy(r->opt->logits + t0 * vocab, logits[0], rows * vocab * sizeof *logits[0]);
    for (size_t i = 0; i < rows; i++) {
        size_t t = t0 + i;
        kq_row_stats st[2];
        for (size_t k = 0; k < r->n_side; k++) {
            st[k] = kq_row_score(r->kern, logits[k] + i * vocab, vocab);
            if (!isfinite(st[k].lse))
                return kq_fail(err, KQ_E_NUMERIC, "the %s's logits hold NaN or Inf (window %zu, position %zu)", r->side[k].name, window, t);
        }
        if (t + 1 < r->ctx)
            r->nll[window * (r->ctx - 1) + t] = st[0].lse - (double)logits[0][i * vocab + (size_t)ids[window * r->ctx + t + 1]];
        if (r->n_side == 2) {
            double kl = kq_row_kl(r->kern, logits[1] + i * vocab, &st[1], logits[0] + i * vocab, &st[0], vocab, exp);
            if (!isfinite(kl))
                return kq_fail(err, KQ_E_NUMERIC, "the logits hold -Inf (window %zu, position %zu)", window, t);
            r->kld[window * r->ctx + t] = kl;
            r->same[window * r->ctx + t] = st[0].top == st[1].top;
        }
    }
    return KQ_OK;
}

static kq_status score_group(run *r, const int32_t *ids, size_t window0, size_t n, kq_error *err)
{
    size_t vocab = r->side[0].w->cfg->vocab_size, d_max = r->side[0].d;
    if (r->n_side == 2 && r->side[1].d > d_max)
        d_max = r->side[1].d;
    size_t per_window = (r->ctx + KQ_HEAD_TILE - 1) / KQ_HEAD_TILE, tiles = n * per_window;
    size_t slice = (r->n_side * KQ_HEAD_TILE + 1) * vocab + KQ_HEAD_TILE * d_max;
    int threads = tiles < (size_t)r->threads ? (int)tiles : r->threads;
    float *scratch;
    kq_status st = kq_alloc_for((void **)&scratch, (size_t)threads * slice, sizeof *scratch, "tiles of logits", err);
    if (st != KQ_OK)
        return st;
    verdict v = {0};
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (size_t i = 0; i < tiles; i++) {
        kq_error e = {0};
        if (atomic_load(&v.failed))
            continue;
        float *mine = scratch + (size_t)omp_get_thread_num() * slice;
        kq_status t = score_tile(r, ids, window0, i / per_window, i % per_window * KQ_HEAD_TILE, mine, &e);
        if (t != KQ_OK)
            verdict_set(&v, t, &e);
    }
    kq_free(scratch);
    st = verdict_get(&v, err);
    return st == KQ_OK ? tick(r, "scores", (double)(n * r->n_side), err) : st;
}

static void summarise(const run *r, size_t windows, kq_eval_result *out)
{
    kq_eval_result e = {.windows = windows, .tokens = windows * (r->ctx - 1)};
    kq_mean_stderr(r->nll, e.tokens, r->ctx - 1, &e.nll, &e.nll_stderr, &e.nll_stderr_windows);
    e.ppl = exp(e.nll);
    e.ppl_stderr = e.ppl * e.nll_stderr;
    e.ppl_stderr_windows = e.ppl * e.nll_stderr_windows;
    if (r->n_side == 2) {
        e.has_kld = true;
        kq_mean_stderr(r->kld, windows * r->ctx, r->ctx, &e.kld, &e.kld_stderr, &e.kld_stderr_windows);
        kq_mean_stderr(r->same, windows * r->ctx, r->ctx, &e.top1, &e.top1_stderr, &e.top1_stderr_windows);
    }
    *out = e;
}

kq_status kq_evaluate(const kq_weights *model, const kq_weights *reference, const int32_t *ids, size_t n_ids,
                      const kq_eval_options *opt, kq_eval_result *out, kq_error *err)
{
    size_t ctx = opt->ctx;
    if (ctx < 2)
        return kq_fail(err, KQ_E_ARG, "a window needs at least 2 tokens, not %zu", ctx);
    size_t windows = n_ids / ctx;
    if (windows == 0)
        return kq_fail(err, KQ_E_ARG, "the text has %zu tokens, one window needs %zu (a longer text, or a smaller --ctx)", n_ids, ctx);
    if (opt->chunks && opt->chunks < windows)
        windows = opt->chunks;
    if (reference && reference->cfg->vocab_size != model->cfg->vocab_size)
        return kq_fail(err, KQ_E_MISMATCH, "the model has %zu tokens, the reference %zu: their predictions cannot be compared",
                       model->cfg->vocab_size, reference->cfg->vocab_size);

    run r = {.opt = opt, .kern = kq_kern_pick(opt->isa), .ctx = ctx, .n_side = reference ? 2 : 1};
    r.threads = opt->threads > 0 ? opt->threads : omp_get_max_threads();
    kq_status st = side_open(&r, &r.side[0], "model", model, err);
    if (st == KQ_OK && reference)
        st = side_open(&r, &r.side[1], "reference", reference, err);
    if (st != KQ_OK)
        goto out;

    size_t width = r.side[0].d + (reference ? r.side[1].d : 0), window_bytes;
    if (!kq_mul_size(ctx, width * sizeof(float), &window_bytes)) {
        st = kq_fail(err, KQ_E_ARG, "a window of %zu tokens is too large", ctx);
        goto out;
    }
    r.group = window_bytes > GROUP_BYTES ? 1 : GROUP_BYTES / window_bytes;
    if (r.group > (size_t)r.threads)
        r.group -= r.group % (size_t)r.threads;
    if (r.group > windows)
        r.group = windows;
    for (size_t k = 0; k < r.n_side; k++) {
        r.work += (double)windows * ((double)r.side[k].w->cfg->n_layer + 1);
        st = kq_alloc_for((void **)&r.side[k].h, r.group * ctx, r.side[k].d * sizeof(float), "hidden states", err);
        if (st != KQ_OK)
            goto out;
    }
    st = kq_alloc_for((void **)&r.nll, windows * ctx, sizeof(double), "scores", err);
    if (st == KQ_OK && reference)
        st = kq_alloc_for((void **)&r.kld, windows * ctx, sizeof(double), "scores", err);
    if (st == KQ_OK && reference)
        st = kq_alloc_for((void **)&r.same, windows * ctx, sizeof(double), "scores", err);

    for (size_t w0 = 0; w0 < windows && st == KQ_OK; w0 += r.group) {
        size_t n = windows - w0 < r.group ? windows - w0 : r.group;
        for (size_t k = 0; k < r.n_side && st == KQ_OK; k++)
            st = side_forward(&r, &r.side[k], ids, w0, n, err);
        if (st == KQ_OK)
            st = score_group(&r, ids, w0, n, err);
    }
    if (st == KQ_OK)
        summarise(&r, windows, out);
out:
    for (size_t k = 0; k < 2; k++)
        side_close(&r.side[k]);
    kq_free(r.nll);
    kq_free(r.kld);
    kq_free(r.same);
    return st;
}
