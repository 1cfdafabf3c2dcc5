/* Perplexity and KL divergence of consecutive windows (docs/math.md, eq. 80 to 86). Each block is loaded once
 * for a group of windows, so that only one block of each model is in memory at a time, whatever the model's
 * size. */
#include "eval/eval.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/first_error.h"
#include "base/mem.h"
#include "base/threads.h"
#include "eval/score.h"

/* bytes of hidden states of one group of windows, both models together, unless a memory limit asks
 * for less */
#define GROUP_BYTES ((size_t)512 << 20)

typedef struct side {
    const char *name; /* for messages and progress */
    const kq_weights *w;
    kq_model_ctx *mc;
    kq_head *head;
    size_t d;
    float *h;          /* [group, ctx, d] hidden states */
    kq_hidden *hidden; /* the file of its states, which is read or added to; NULL: none */
} side;

typedef struct run {
    const kq_eval_options *opt;
    const kq_kern *kern;
    int threads;
    size_t ctx, group, n_side; /* group: windows of a group; n_side: 1 or 2 models */
    /* the positions from .. to-1 of a window are compared; the first `scored` of them predict a token of the
     * window */
    size_t from, to, scored;
    bool compare; /* with a reference model or saved logits */
    side side[2]; /* model, reference */
    /* [windows, scored]: nll, the reference's nll, the difference of the next token's probabilities */
    double *nll, *ref, *dp;
    double *kld, *same; /* [windows, to - from] */
    double done, work;  /* for progress: blocks and heads times windows */
} run;

kq_eval_options kq_eval_defaults(void)
{
    kq_isa isa = kq_isa_best();
    return (kq_eval_options){.ctx = 2048, .isa = isa, .compute = kq_compute_best(isa)};
}

static kq_status advance(run *r, const char *stage, double work, kq_error *err)
{
    r->done += work;
    if (r->opt->progress && r->opt->progress(r->opt->progress_ctx, stage, r->done / r->work))
        return kq_fail(err, KQ_E_INTERRUPTED, "evaluation stopped on request");
    return KQ_OK;
}

/* ---- memory ---- */

/* Bytes of scratch that one thread needs for a forward pass through a block. */
static size_t scratch_slice(const kq_model_ctx *mc, size_t ctx)
{
    return (kq_block_scratch_bytes(mc, ctx) + 63) & ~(size_t)63;
}

/* How many floats one thread needs for the logits of a tile and their scores. */
static size_t tile_slice(size_t n_side, size_t vocab, size_t d_max)
{
    return (n_side * KQ_HEAD_TILE + 2) * vocab + KQ_HEAD_TILE * d_max;
}

/* Bytes at the peak without the hidden states of a group: the program, the heads, the scores of all windows,
 * and the larger of two: a block with the scratch of its forward pass and one linear in f32, or tiles of
 * logits. */
static size_t fixed_bytes(const kq_model_ctx *const mc[2], size_t n_side, size_t ctx, size_t windows,
                          int threads, const kq_eval_options *opt)
{
    const size_t vocab = kq_model_ctx_config(mc[0])->vocab_size, n = (size_t)threads;
    size_t heads = 0, block = 0, d_max = 0;
    for (size_t k = 0; k < n_side; k++) {
        const kq_config *cfg = kq_model_ctx_config(mc[k]);
        const size_t one = kq_block_load_bytes(cfg, opt->compute) + n * scratch_slice(mc[k], ctx);
        heads += kq_head_bytes(cfg, opt->compute);
        block = one > block ? one : block;
        d_max = cfg->d_model > d_max ? cfg->d_model : d_max;
    }
    const size_t tiles = n * tile_slice(n_side, vocab, d_max) * sizeof(float) +
                         (opt->save ? n * KQ_HEAD_TILE * kq_kld_row_bytes(vocab) : 0);
    return KQ_PROGRAM_BYTES + heads + 5 * windows * ctx * sizeof(double) +
           (opt->logits ? ctx * vocab * sizeof(float) : 0) + (block > tiles ? block : tiles);
}

static kq_status check_memory(size_t limit, size_t fixed, size_t window_bytes, kq_error *err)
{
    return limit && (limit < fixed || limit - fixed < window_bytes)
               ? kq_fail(err, KQ_E_MEMORY,
                         "--memory %zuM is too little: evaluation takes at least %zuM; a shorter --ctx or "
                         "fewer --threads take less",
                         limit >> 20, ((fixed + window_bytes) >> 20) + 1)
               : KQ_OK;
}

/* Choose how many windows are evaluated at once: as many as GROUP_BYTES and the memory limit can hold. */
static kq_status choose_group(run *r, size_t windows, size_t window_bytes, kq_error *err)
{
    const kq_model_ctx *mc[2] = {r->side[0].mc, r->side[1].mc};
    const size_t limit = r->opt->memory,
                 fixed = fixed_bytes(mc, r->n_side, r->ctx, windows, r->threads, r->opt);
    const size_t room = limit && limit - fixed < GROUP_BYTES ? limit - fixed : GROUP_BYTES;
    kq_status st = check_memory(limit, fixed, window_bytes, err);
    if (st)
        return st;
    r->group = window_bytes > room ? 1 : room / window_bytes;
    if (r->group > (size_t)r->threads)
        r->group -= r->group % (size_t)r->threads;
    if (r->group > windows)
        r->group = windows;
    return KQ_OK;
}

kq_status kq_evaluate_fits(const kq_config *model, const kq_config *reference, const kq_eval_options *opt,
                           kq_error *err)
{
    const kq_config *cfg[2] = {model, reference};
    const size_t n_side = reference ? 2 : 1;
    kq_model_ctx *mc[2] = {NULL, NULL};
    size_t window = 0;
    kq_status st = KQ_OK;
    for (size_t k = 0; k < n_side && !st; k++) {
        st = kq_model_ctx_new(cfg[k], opt->isa, opt->compute, opt->ctx, &mc[k], err);
        window += opt->ctx * cfg[k]->d_model * sizeof(float);
    }
    if (!st)
        st = check_memory(opt->memory,
                          fixed_bytes((const kq_model_ctx *const[2]){mc[0], mc[1]}, n_side, opt->ctx,
                                      opt->chunks ? opt->chunks : 1,
                                      opt->threads > 0 ? opt->threads : kq_processors(), opt),
                          window, err);
    kq_model_ctx_free(mc[0]);
    kq_model_ctx_free(mc[1]);
    return st;
}

/* ---- one model ---- */

static kq_status side_open(run *r, side *s, const char *name, const kq_weights *w, kq_hidden *hidden,
                           kq_error *err)
{
    *s = (side){.name = name, .w = w, .d = w->cfg->d_model, .hidden = hidden};
    kq_status st = kq_model_ctx_new(w->cfg, r->opt->isa, r->opt->compute, r->ctx, &s->mc, err);
    return st == KQ_OK ? kq_head_load(s->mc, w, &s->head, err) : st;
}

static void side_close(side *s)
{
    kq_free(s->h);
    kq_head_free(s->head);
    kq_model_ctx_free(s->mc);
}

static kq_status forward_window(const run *r, side *s, const kq_block *b, size_t window0, size_t g,
                                char *scratch, int threads, kq_error *err)
{
    float *h = s->h + g * r->ctx * s->d;
    /* the error names the layer where NaN or Inf appeared; the model and the window are added here */
    kq_error e;
    kq_status st = kq_block_forward(s->mc, b, h, r->ctx, h, scratch, threads, &e);
    return st == KQ_OK ? st : kq_fail(err, st, "%s, window %zu: %s", s->name, window0 + g, e.message);
}

/* Compute the hidden states of windows [window0, window0 + n) after the last block, into s->h. */
static kq_status side_forward(run *r, side *s, const int32_t *ids, size_t window0, size_t n, kq_error *err)
{
    kq_status st = KQ_OK;
    kq_block b = {0};
    if (s->hidden && kq_hidden_whole(s->hidden)) {
        st = kq_hidden_read(s->hidden, window0, n, s->h, err);
        return st == KQ_OK ? advance(r, s->name, (double)n * (double)s->w->cfg->n_layer, err) : st;
    }
    const size_t slice = scratch_slice(s->mc, r->ctx);
    char *scratch;
    if ((st = kq_alloc_for((void **)&scratch, (size_t)r->threads, slice, "evaluation scratch", err)))
        return st;
    for (size_t g = 0; g < n && st == KQ_OK; g++)
        st = kq_head_embed(s->head, ids + (window0 + g) * r->ctx, r->ctx, s->h + g * r->ctx * s->d, err);
    /* Each thread computes windows of its own, in rounds of one window a thread. Windows that do not fill a
     * round are computed one after the other, each by all threads. */
    size_t whole = n / (size_t)r->threads * (size_t)r->threads;
    for (size_t layer = 0; layer < s->w->cfg->n_layer && st == KQ_OK; layer++) {
        st = kq_block_load(s->mc, s->w, layer, &b, err);
        if (st != KQ_OK)
            break;
        kq_first_error f = KQ_FIRST_ERROR;
#pragma omp parallel for schedule(static, 1) num_threads(r->threads)
        for (size_t g = 0; g < whole; g++) {
            kq_error e = {0};
            if (!kq_first_error_skip(&f, g))
                kq_first_error_note(&f, g,
                                    forward_window(r, s, &b, window0, g,
                                                   scratch + (size_t)omp_get_thread_num() * slice, 1, &e),
                                    &e);
        }
        st = kq_first_error_get(&f, err);
        for (size_t g = whole; g < n && st == KQ_OK; g++)
            st = forward_window(r, s, &b, window0, g, scratch, r->threads, err);
        kq_block_free(&b);
        b = (kq_block){0};
        if (st == KQ_OK)
            st = advance(r, s->name, (double)n, err);
    }
    kq_block_free(&b);
    kq_free(scratch);
    return st == KQ_OK && s->hidden ? kq_hidden_add(s->hidden, s->h, n, err) : st;
}

/* Compute the scores of one position. lp: the logits of the model (and of the reference) there. row: where
 * the model's logits are encoded for a file of saved logits; NULL: nowhere. */
static kq_status score_position(run *r, const int32_t *ids, size_t window, size_t t, float *const lp[2],
                                float *scratch, uint8_t *row, kq_error *err)
{
    const size_t vocab = r->side[0].w->cfg->vocab_size, i = t - r->from, at = window * (r->to - r->from) + i,
                 scored = window * r->scored + i;
    const bool predicts = i < r->scored;
    const int32_t next = predicts ? ids[window * r->ctx + t + 1] : 0;
    kq_row_stats st[2];
    double nll = 0, ref = 0;
    for (size_t k = 0; k < r->n_side; k++) {
        st[k] = kq_row_score(r->kern, lp[k], vocab);
        if (!isfinite(st[k].lse))
            return kq_fail(err, KQ_E_NUMERIC, "the %s's logits hold NaN or Inf (window %zu, position %zu)",
                           r->side[k].name, window, t);
    }
    if (predicts)
        r->nll[scored] = nll = st[0].lse - (double)lp[0][next];
    if (row)
        kq_kld_row_encode(lp[0], &st[0], vocab, row);
    if (r->opt->base) {
        kq_kld_row base;
        const uint8_t *saved = r->opt->base->rows + (window * r->scored + i) * kq_kld_row_bytes(vocab);
        kq_error e;
        if (kq_kld_row_compare(r->kern, saved, lp[0], &st[0], vocab, next, scratch, &base, &e))
            return kq_fail(err, e.status, "%s: window %zu, position %zu: %s", r->opt->base->map.path, window,
                           t, e.message);
        r->kld[at] = base.kl;
        r->same[at] = st[0].top == base.top;
        ref = base.nll;
    } else if (r->n_side == 2) {
        r->kld[at] = kq_row_kl(r->kern, lp[1], &st[1], lp[0], &st[0], vocab, scratch);
        r->same[at] = st[0].top == st[1].top;
        ref = predicts ? st[1].lse - (double)lp[1][next] : 0;
    }
    if (r->compare && !isfinite(r->kld[at]))
        return kq_fail(err, KQ_E_NUMERIC, "the logits hold -Inf (window %zu, position %zu)", window, t);
    if (r->compare && predicts) {
        r->ref[scored] = ref;
        r->dp[scored] = exp(-nll) - exp(-ref);
    }
    return KQ_OK;
}

/* Compute one tile of at most KQ_HEAD_TILE positions: the logits of both models, then the scores of each
 * position. rows: where the model's logits are encoded for a file of saved logits; NULL: nowhere. */
static kq_status score_tile(run *r, const int32_t *ids, size_t window0, size_t g, size_t t0, float *scratch,
                            uint8_t *rows, kq_error *err)
{
    size_t vocab = r->side[0].w->cfg->vocab_size, window = window0 + g;
    size_t n = r->to - t0 < KQ_HEAD_TILE ? r->to - t0 : KQ_HEAD_TILE;
    float *logits[2] = {scratch, scratch + KQ_HEAD_TILE * vocab};
    float *exps = scratch + r->n_side * KQ_HEAD_TILE * vocab, *norm = exps + 2 * vocab;
    kq_status st = KQ_OK;
    for (size_t k = 0; k < r->n_side && !st; k++) {
        side *s = &r->side[k];
        st = kq_head_logits(s->head, s->h + (g * r->ctx + t0) * s->d, n, logits[k], norm, 1, err);
    }
    if (!st && r->opt->logits && window == 0)
        memcpy(r->opt->logits + t0 * vocab, logits[0], n * vocab * sizeof *logits[0]);
    for (size_t i = 0; i < n && !st; i++) {
        float *const lp[2] = {logits[0] + i * vocab, logits[1] + i * vocab};
        st = score_position(r, ids, window, t0 + i, lp, exps,
                            rows ? rows + i * kq_kld_row_bytes(vocab) : NULL, err);
    }
    return st;
}

static kq_status score_group(run *r, const int32_t *ids, size_t window0, size_t n, kq_error *err)
{
    size_t vocab = r->side[0].w->cfg->vocab_size, d_max = r->side[0].d;
    if (r->n_side == 2 && r->side[1].d > d_max)
        d_max = r->side[1].d;
    size_t per_window = (r->to - r->from + KQ_HEAD_TILE - 1) / KQ_HEAD_TILE, tiles = n * per_window;
    size_t slice = tile_slice(r->n_side, vocab, d_max), row_bytes = kq_kld_row_bytes(vocab);
    int threads = tiles < (size_t)r->threads ? (int)tiles : r->threads;
    /* saved logits are written in order, so the tiles go in rounds of one tile a thread */
    size_t round = r->opt->save ? (size_t)threads : tiles;
    float *scratch;
    uint8_t *rows = NULL;
    kq_status st =
        kq_alloc_for((void **)&scratch, (size_t)threads * slice, sizeof *scratch, "tiles of logits", err);
    if (!st && r->opt->save)
        st = kq_alloc_for((void **)&rows, round * KQ_HEAD_TILE, row_bytes, "logits to save", err);
    kq_first_error f = KQ_FIRST_ERROR;
    for (size_t i0 = 0; i0 < tiles && !st; i0 += round) {
        size_t end = tiles - i0 < round ? tiles : i0 + round;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
        for (size_t i = i0; i < end; i++) {
            kq_error e = {0};
            if (kq_first_error_skip(&f, i))
                continue;
            float *mine = scratch + (size_t)omp_get_thread_num() * slice;
            kq_status t = score_tile(r, ids, window0, i / per_window, r->from + i % per_window * KQ_HEAD_TILE,
                                     mine, rows ? rows + (i - i0) * KQ_HEAD_TILE * row_bytes : NULL, &e);
            kq_first_error_note(&f, i, t, &e);
        }
        st = kq_first_error_get(&f, err);
        for (size_t i = i0; i < end && rows && !st; i++) {
            size_t left = r->to - r->from - i % per_window * KQ_HEAD_TILE,
                   k = left < KQ_HEAD_TILE ? left : KQ_HEAD_TILE;
            st = kq_out_write(r->opt->save, rows + (i - i0) * KQ_HEAD_TILE * row_bytes, k * row_bytes, err);
        }
    }
    kq_free(scratch);
    kq_free(rows);
    return st == KQ_OK ? advance(r, "scores", (double)(n * r->n_side), err) : st;
}

static kq_status summarise(const run *r, size_t windows, kq_eval_figures *out, kq_error *err)
{
    const size_t n_pos = r->to - r->from;
    kq_eval_figures e = {.windows = windows, .tokens = windows * r->scored};
    kq_mean_stderr(r->nll, e.tokens, r->scored, &e.nll, &e.nll_stderr, &e.nll_stderr_windows);
    e.ppl = exp(e.nll);
    e.ppl_stderr = e.ppl * e.nll_stderr;
    e.ppl_stderr_windows = e.ppl * e.nll_stderr_windows;
    for (size_t w = 0; r->opt->per_window && w < windows; w++) {
        kq_eval_window *p = &r->opt->per_window[w];
        double se, sw;
        *p = (kq_eval_window){0};
        kq_mean_stderr(r->nll + w * r->scored, r->scored, r->scored, &p->nll, &se, &sw);
        if (r->compare) {
            kq_mean_stderr(r->kld + w * n_pos, n_pos, n_pos, &p->kld, &se, &sw);
            kq_mean_stderr(r->same + w * n_pos, n_pos, n_pos, &p->top1, &se, &sw);
        }
    }
    if (r->compare) {
        double square = 0, sw, *sorted;
        e.has_kld = true;
        kq_mean_stderr(r->kld, windows * n_pos, n_pos, &e.kld, &e.kld_stderr, &e.kld_stderr_windows);
        kq_mean_stderr(r->same, windows * n_pos, n_pos, &e.top1, &e.top1_stderr, &e.top1_stderr_windows);
        kq_status st = kq_alloc_for((void **)&sorted, windows * n_pos, sizeof *sorted, "scores", err);
        if (st)
            return st;
        memcpy(sorted, r->kld, windows * n_pos * sizeof *sorted);
        kq_quantiles(sorted, windows * n_pos, e.kld_quantile);
        kq_free(sorted);
        for (size_t i = 0; i < e.tokens; i++) {
            e.reference_nll += r->ref[i] / (double)e.tokens;
            e.dp_mean += r->dp[i] / (double)e.tokens;
            square += r->dp[i] * r->dp[i] / (double)e.tokens;
            r->ref[i] = r->nll[i] - r->ref[i]; /* the mean of this difference is the logarithm of the ratio */
        }
        e.dp_rms = sqrt(square);
        kq_mean_stderr(r->ref, e.tokens, e.tokens, &e.ratio, &e.ratio_stderr, &sw);
    }
    *out = e;
    return KQ_OK;
}

static kq_status check_options(const kq_weights *model, const kq_weights *reference, size_t windows,
                               const kq_eval_options *opt, kq_error *err)
{
    const kq_kld_base *b = opt->base;
    if (opt->half && opt->ctx < 4)
        return kq_fail(err, KQ_E_ARG, "a window whose second half is scored needs at least 4 tokens, not %zu",
                       opt->ctx);
    if ((b || opt->save) && !opt->half)
        return kq_fail(err, KQ_E_ARG, "saved logits are of the second halves of windows");
    if (b && (reference || b->ctx != opt->ctx || b->windows < windows))
        return kq_fail(err, KQ_E_ARG, "%s holds %zu windows of %zu tokens, %zu of %zu are asked for",
                       b->map.path, b->windows, b->ctx, windows, opt->ctx);
    if (b && b->vocab != model->cfg->vocab_size)
        return kq_fail(err, KQ_E_MISMATCH, "%s is of a model of %zu tokens, this one has %zu", b->map.path,
                       b->vocab, model->cfg->vocab_size);
    return KQ_OK;
}

/* Check the input and choose how many windows of the text are measured. */
static kq_status choose_windows(const kq_weights *model, const kq_weights *reference, size_t n_ids,
                                const kq_eval_options *opt, size_t *windows, kq_error *err)
{
    const size_t ctx = opt->ctx;
    if (ctx < 2)
        return kq_fail(err, KQ_E_ARG, "a window needs at least 2 tokens, not %zu", ctx);
    *windows = n_ids / ctx;
    if (*windows == 0)
        return kq_fail(err, KQ_E_ARG,
                       "the text has %zu tokens, one window needs %zu (a longer text, or a smaller --ctx)",
                       n_ids, ctx);
    if (opt->chunks && opt->chunks < *windows)
        *windows = opt->chunks;
    if (reference && reference->cfg->vocab_size != model->cfg->vocab_size)
        return kq_fail(err, KQ_E_MISMATCH,
                       "the model has %zu tokens, the reference %zu: their predictions cannot be compared",
                       model->cfg->vocab_size, reference->cfg->vocab_size);
    return check_options(model, reference, *windows, opt, err);
}

/* Allocate the hidden states of a group and the scores of all windows. */
static kq_status make_room(run *r, size_t windows, kq_error *err)
{
    size_t width = 0, window_bytes;
    kq_status st = KQ_OK;
    for (size_t k = 0; k < r->n_side; k++)
        width += r->side[k].d;
    if (!kq_mul_size(r->ctx, width * sizeof(float), &window_bytes))
        return kq_fail(err, KQ_E_ARG, "a window of %zu tokens is too large", r->ctx);
    if ((st = choose_group(r, windows, window_bytes, err)))
        return st;
    for (size_t k = 0; k < r->n_side && st == KQ_OK; k++) {
        r->work += (double)windows * ((double)r->side[k].w->cfg->n_layer + 1);
        st = kq_alloc_for((void **)&r->side[k].h, r->group * r->ctx, r->side[k].d * sizeof(float),
                          "hidden states", err);
    }
    double **scores[] = {&r->nll, &r->kld, &r->same, &r->ref, &r->dp};
    for (size_t i = 0; i < (r->compare ? 5 : 1) && st == KQ_OK; i++)
        st = kq_alloc_for((void **)scores[i], windows * r->ctx, sizeof(double), "scores", err);
    return st;
}

kq_status kq_evaluate(const kq_weights *model, const kq_weights *reference, const int32_t *ids, size_t n_ids,
                      const kq_eval_options *opt, kq_eval_figures *out, kq_error *err)
{
    const size_t ctx = opt->ctx;
    size_t windows = 0;
    kq_status st = choose_windows(model, reference, n_ids, opt, &windows, err);
    if (st != KQ_OK)
        return st;
    run r = {.opt = opt,
             .kern = kq_kern_pick(opt->isa),
             .ctx = ctx,
             .n_side = reference ? 2 : 1,
             .compare = reference || opt->base,
             .from = opt->half ? ctx / 2 : 0,
             .to = opt->half ? ctx - 1 : ctx,
             .threads = opt->threads > 0 ? opt->threads : kq_processors()};
    r.scored = ctx - 1 - r.from;
    kq_mem_give_back();
    st = side_open(&r, &r.side[0], "model", model, NULL, err);
    if (st == KQ_OK && reference)
        st = side_open(&r, &r.side[1], "reference", reference, opt->hidden, err);
    if (st == KQ_OK)
        st = make_room(&r, windows, err);
    for (size_t w0 = 0; w0 < windows && st == KQ_OK; w0 += r.group) {
        const size_t n = windows - w0 < r.group ? windows - w0 : r.group;
        for (size_t k = 0; k < r.n_side && st == KQ_OK; k++)
            st = side_forward(&r, &r.side[k], ids, w0, n, err);
        if (st == KQ_OK)
            st = score_group(&r, ids, w0, n, err);
    }
    if (st == KQ_OK)
        st = summarise(&r, windows, out, err);
    for (size_t k = 0; k < 2; k++)
        side_close(&r.side[k]);
    double *owned[] = {r.nll, r.kld, r.same, r.ref, r.dp};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        kq_free(owned[i]);
    return st;
}
