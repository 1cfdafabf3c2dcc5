/* Embedding, final norm and head (docs/math.md, eq. 10, 18 to 21). The loss is computed in tiles of 64
 * tokens, so that the logits of a whole sequence, [T, vocab], are never in memory. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/f16.h"
#include "base/mem.h"
#include "model/internal.h"

struct kq_head {
    const kq_model_ctx *mc; /* borrowed */
    float *norm;            /* owned, as are the rest */
    float *E, *W;           /* [vocab, d], f32; W is E when tied */
    uint16_t *Eb, *Wb;      /* the same in bf16 */
};

kq_status kq_head_load(const kq_model_ctx *mc, const kq_weights *w, kq_head **out, kq_error *err)
{
    const kq_config *c = &mc->cfg;
    *out = NULL;
    kq_head *h = kq_calloc(1, sizeof *h);
    if (!h)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: head");
    h->mc = mc;
    kq_status st = kq_load_vector(w, "model.norm.weight", c->d_model, &h->norm, err);
    if (st == KQ_OK)
        st = kq_load_rows(mc, w, "model.embed_tokens.weight", c->vocab_size, c->d_model, &h->E, &h->Eb, err);
    if (st == KQ_OK && c->tie_embeddings) {
        h->W = h->E;
        h->Wb = h->Eb;
    } else if (st == KQ_OK) {
        st = kq_load_rows(mc, w, "lm_head.weight", c->vocab_size, c->d_model, &h->W, &h->Wb, err);
    }
    if (st != KQ_OK) {
        kq_head_free(h);
        return st;
    }
    *out = h;
    return KQ_OK;
}

void kq_head_free(kq_head *h)
{
    if (!h)
        return;
    if (h->W != h->E)
        kq_free(h->W);
    if (h->Wb != h->Eb)
        kq_free(h->Wb);
    kq_free(h->E);
    kq_free(h->Eb);
    kq_free(h->norm);
    kq_free(h);
}

size_t kq_head_bytes(const kq_config *cfg, kq_compute compute)
{
    return cfg->vocab_size * cfg->d_model * (compute == KQ_BF16 ? 2 : 4) * (cfg->tie_embeddings ? 1 : 2);
}

kq_status kq_head_embed(const kq_head *h, const int32_t *ids, size_t T, float *x, kq_error *err)
{
    const size_t d = h->mc->cfg.d_model;
    for (size_t t = 0; t < T; t++) {
        if (ids[t] < 0 || (size_t)ids[t] >= h->mc->cfg.vocab_size)
            return kq_fail(err, KQ_E_ARG, "token %zu is %d, but the vocabulary has %zu", t, (int)ids[t],
                           h->mc->cfg.vocab_size);
        if (h->E)
            memcpy(x + t * d, h->E + (size_t)ids[t] * d, d * sizeof *x);
        else
            kq_bf16_to_f32_n(h->Eb + (size_t)ids[t] * d, x + t * d, d);
    }
    return KQ_OK;
}

kq_status kq_head_logits(const kq_head *h, const float *x, size_t T, float *logits, void *scratch,
                         int threads, kq_error *err)
{
    const kq_model_ctx *mc = h->mc;
    const size_t d = mc->cfg.d_model, vocab = mc->cfg.vocab_size;
    float *xn = scratch;
    if (T == 0)
        return KQ_OK;
    if (threads < 1 || omp_in_parallel())
        threads = 1;
    if (T == 1) { /* one token: one pass over the matrix, as fast as memory gives it */
        const size_t piece = 512, n = (vocab + piece - 1) / piece;
        mc->kern->rms_norm(x, h->norm, xn, d, mc->cfg.rms_eps);
#pragma omp parallel for num_threads(threads) if (threads > 1)
        for (size_t i = 0; i < n; i++) {
            size_t r = i * piece, k = vocab - r < piece ? vocab - r : piece;
            if (h->W)
                mc->kern->matvec(h->W + r * d, d, k, d, xn, logits + r);
            else
                mc->kern->matvec_bf16(h->Wb + r * d, d, k, d, xn, logits + r);
        }
        return KQ_OK;
    }
    if (h->W) {
        for (size_t t = 0; t < T; t++)
            mc->kern->rms_norm(x + t * d, h->norm, xn + t * d, d, mc->cfg.rms_eps);
        kq_gemm_f32_tiled(false, true, T, vocab, d, 1.0f, xn, d, h->W, d, 0.0f, logits, vocab, threads);
        return KQ_OK;
    }
    /* The rows in bf16 fill scratch from its front. Each row is first normed in f32 at the end of scratch,
     * where it never meets them: T rows of 2 bytes a value end before (T - 1) rows of 4 for T >= 2. */
    uint16_t *xb = scratch;
    float *row = xn + (T - 1) * d;
    for (size_t t = 0; t < T; t++) {
        mc->kern->rms_norm(x + t * d, h->norm, row, d, mc->cfg.rms_eps);
        mc->kern->to_bf16(row, xb + t * d, d);
    }
    return kq_gemm_bf16_tiled(false, true, T, vocab, d, xb, d, h->Wb, d, false, logits, vocab, threads, err);
}

typedef struct loss_work {
    float *xn, *dxn, *r; /* [rows, d], [rows] */
    float *logits;       /* [rows, vocab] */
    uint16_t *xb;        /* [rows, max(d, vocab)], bf16 only */
} loss_work;

/* rows: tokens a tile. */
static size_t lay_out(const kq_model_ctx *mc, size_t rows, void *scratch, loss_work *w)
{
    const size_t d = mc->cfg.d_model, vocab = mc->cfg.vocab_size;
    const size_t pad = 16, n_xn = rows * d + pad, n_r = rows + pad, n_logits = rows * vocab + pad;
    float *p = scratch;
    w->xn = p;
    w->dxn = p ? p + n_xn : NULL;
    w->r = p ? p + 2 * n_xn : NULL;
    w->logits = p ? p + 2 * n_xn + n_r : NULL;
    w->xb = p ? (uint16_t *)(void *)(p + 2 * n_xn + n_r + n_logits) : NULL;
    size_t n = 2 * n_xn + n_r + n_logits;
    if (mc->compute == KQ_BF16)
        n += rows * (d > vocab ? d : vocab) / 2 + pad;
    return n * sizeof(float);
}

size_t kq_head_scratch_bytes(const kq_model_ctx *mc)
{
    loss_work w;
    return lay_out(mc, KQ_HEAD_TILE, NULL, &w);
}

/* Compute the logits of n tokens, at most a tile, into w->logits, and the factors of the norm into w->r. */
static kq_status tile_logits(const kq_head *h, const float *x, size_t n, loss_work *w, kq_error *err)
{
    const kq_model_ctx *mc = h->mc;
    const size_t d = mc->cfg.d_model;
    const kq_linear lin = {.m = mc->cfg.vocab_size, .n = d, .f32 = h->W, .bf16 = h->Wb};
    for (size_t t = 0; t < n; t++)
        w->r[t] = mc->kern->rms_norm(x + t * d, h->norm, w->xn + t * d, d, mc->cfg.rms_eps);
    kq_to_compute(mc, w->xn, n * d, w->xb, 1);
    return kq_linear_forward(mc, &lin, w->xn, w->xb, n, false, w->logits, 1, err);
}

/* 1 - sum of the squares of the probabilities p [n], summed in eight fixed parts. */
static float spread_of(const float *p, size_t n)
{
    double part[8] = {0}, sum = 0;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t j = 0; j < 8; j++)
            part[j] += (double)p[i + j] * p[i + j];
    for (; i < n; i++)
        sum += (double)p[i] * p[i];
    for (size_t j = 0; j < 8; j++)
        sum += part[j];
    return sum < 1 ? (float)(1 - sum) : 0;
}

/* The loss of one tile of n tokens, its gradient, and the spread of the distributions. */
static kq_status loss_tile(const kq_head *h, const float *x, size_t n, const int32_t *target, float *nll,
                           float *dx, float *spread, loss_work *w, kq_error *err)
{
    const kq_model_ctx *mc = h->mc;
    const size_t d = mc->cfg.d_model, vocab = mc->cfg.vocab_size;
    kq_linear lin = {.m = vocab, .n = d, .f32 = h->W, .bf16 = h->Wb};
    kq_status st = tile_logits(h, x, n, w, err);
    if (st)
        return st;
    for (size_t t = 0; t < n; t++) {
        float *row = w->logits + t * vocab, top;
        if (target[t] < 0) {
            if (nll)
                nll[t] = 0;
            if (dx)
                memset(row, 0, vocab * sizeof *row);
            if (spread)
                spread[t] = 0;
            continue;
        }
        top = mc->kern->max(row, vocab);
        double lse = top + log(mc->kern->sum_exp(row, vocab, top)), loss = lse - row[target[t]];
        if (!isfinite(loss))
            return kq_fail(err, KQ_E_NUMERIC, "the head's output holds NaN or Inf");
        if (nll)
            nll[t] = (float)loss;
        if (dx || spread)
            mc->kern->exp_sum(row, vocab, (float)lse);
        if (spread)
            spread[t] = spread_of(row, vocab);
        if (dx) /* d(loss)/d(logits) = softmax - onehot(target) */
            row[target[t]] -= 1.0f;
    }
    if (!dx)
        return KQ_OK;
    kq_to_compute(mc, w->logits, n * vocab, w->xb, 1);
    if ((st = kq_linear_backward(mc, &lin, w->logits, w->xb, n, false, w->dxn, 1, err)) != KQ_OK)
        return st;
    for (size_t t = 0; t < n; t++)
        mc->kern->rms_norm_back(x + t * d, h->norm, w->dxn + t * d, w->r[t], NULL, dx + t * d, d);
    return KQ_OK;
}

kq_status kq_head_loss(const kq_head *h, const float *x, size_t T, const int32_t *target, float *nll,
                       float *dx, float *spread, void *scratch, kq_error *err)
{
    const size_t d = h->mc->cfg.d_model;
    loss_work w;
    lay_out(h->mc, KQ_HEAD_TILE, scratch, &w);
    for (size_t t = 0; t < T; t++)
        if (target[t] < -1 || (target[t] >= 0 && (size_t)target[t] >= h->mc->cfg.vocab_size))
            return kq_fail(err, KQ_E_ARG, "target %zu is %d, but the vocabulary has %zu", t, (int)target[t],
                           h->mc->cfg.vocab_size);
    for (size_t t = 0; t < T; t += KQ_HEAD_TILE) {
        size_t n = T - t < KQ_HEAD_TILE ? T - t : KQ_HEAD_TILE;
        kq_status st = loss_tile(h, x + t * d, n, target + t, nll ? nll + t : NULL, dx ? dx + t * d : NULL,
                                 spread ? spread + t : NULL, &w, err);
        if (st != KQ_OK)
            return st;
    }
    return KQ_OK;
}

void kq_head_norm(const kq_head *h, const float *x, size_t T, float *y)
{
    const size_t d = h->mc->cfg.d_model;
    for (size_t t = 0; t < T; t++)
        h->mc->kern->rms_norm(x + t * d, h->norm, y + t * d, d, h->mc->cfg.rms_eps);
}

float *kq_head_norm_weights(kq_head *h)
{
    return h->norm;
}

kq_linear kq_head_matrix(const kq_head *h, bool embedding)
{
    return (kq_linear){.m = h->mc->cfg.vocab_size,
                       .n = h->mc->cfg.d_model,
                       .f32 = embedding ? h->E : h->W,
                       .bf16 = embedding ? h->Eb : h->Wb};
}

/* The arrays of a tile, and behind them the teacher's logits. */
size_t kq_head_distill_bytes(const kq_model_ctx *mc)
{
    loss_work w;
    return lay_out(mc, KQ_DISTILL_TILE, NULL, &w) + KQ_DISTILL_TILE * mc->cfg.vocab_size * sizeof(float);
}

/* kl and d(kl)/d(logits), which take the place of the student's logits, of one tile of n tokens. */
static kq_status distill_rows(const kq_model_ctx *mc, size_t n, const float *teacher, float *logits,
                              float *kl, kq_error *err)
{
    const kq_kern *kern = mc->kern;
    const size_t vocab = mc->cfg.vocab_size;
    for (size_t i = 0; i < n; i++) {
        const float *t = teacher + i * vocab;
        float *s = logits + i * vocab;
        const float top_t = kern->max(t, vocab), top_s = kern->max(s, vocab);
        const double lse_t = top_t + log(kern->sum_exp(t, vocab, top_t)),
                     lse_s = top_s + log(kern->sum_exp(s, vocab, top_s));
        const double loss = kern->kl_back(t, s, vocab, (float)lse_t, (float)lse_s);
        if (!isfinite(loss))
            return kq_fail(err, KQ_E_NUMERIC, "the head's output holds NaN or Inf");
        if (kl)
            kl[i] = (float)loss;
    }
    return KQ_OK;
}

static kq_status distill_tile(const kq_distill *z, size_t t0, size_t n, loss_work *w, float *teacher,
                              kq_error *err)
{
    const kq_head *h = z->h;
    const kq_model_ctx *mc = h->mc;
    const size_t d = mc->cfg.d_model, vocab = mc->cfg.vocab_size;
    const kq_linear lin = {.m = vocab, .n = d, .f32 = h->W, .bf16 = h->Wb};
    const float *x = z->x + t0 * d;
    loss_work other = *w;
    other.logits = teacher;
    kq_status st = tile_logits(z->teacher, z->teacher_x + t0 * d, n, &other, err);
    if (st || (st = tile_logits(h, x, n, w, err)) ||
        (st = distill_rows(mc, n, teacher, w->logits, z->kl ? z->kl + t0 : NULL, err)) || !z->dx)
        return st;
    kq_to_compute(mc, w->logits, n * vocab, w->xb, 1);
    if ((z->give && (st = z->give(z->ctx, w->xn, w->logits, h->Wb ? w->xb : NULL, n, err))) ||
        (st = kq_linear_backward(mc, &lin, w->logits, w->xb, n, false, w->dxn, 1, err)))
        return st;
    for (size_t t = 0; t < n; t++) {
        if (z->dnorm)
            kq_norm_weight_back(x + t * d, w->dxn + t * d, w->r[t], z->dnorm, d);
        mc->kern->rms_norm_back(x + t * d, h->norm, w->dxn + t * d, w->r[t], NULL, w->xn + t * d, d);
    }
    memcpy(z->dx + t0 * d, w->xn, n * d * sizeof *z->dx);
    return KQ_OK;
}

kq_status kq_head_distill(const kq_distill *z, void *scratch, kq_error *err)
{
    loss_work w;
    const size_t bytes = lay_out(z->h->mc, KQ_DISTILL_TILE, scratch, &w);
    float *teacher = (float *)(void *)((char *)scratch + bytes);
    kq_status st = KQ_OK;
    for (size_t t = 0; t < z->T && !st; t += KQ_DISTILL_TILE)
        st = distill_tile(z, t, z->T - t < KQ_DISTILL_TILE ? z->T - t : KQ_DISTILL_TILE, &w, teacher, err);
    return st;
}

kq_status kq_head_sample(const kq_head *h, const float *x, size_t T, const float *u, int32_t *ids,
                         void *scratch, kq_error *err)
{
    const kq_model_ctx *mc = h->mc;
    const size_t d = mc->cfg.d_model, vocab = mc->cfg.vocab_size;
    loss_work w;
    lay_out(mc, KQ_HEAD_TILE, scratch, &w);
    for (size_t t0 = 0; t0 < T; t0 += KQ_HEAD_TILE) {
        const size_t n = T - t0 < KQ_HEAD_TILE ? T - t0 : KQ_HEAD_TILE;
        kq_status st = tile_logits(h, x + t0 * d, n, &w, err);
        if (st)
            return st;
        for (size_t t = 0; t < n; t++) {
            float *row = w.logits + t * vocab;
            const float top = mc->kern->max(row, vocab);
            const double sum = mc->kern->sum_exp(row, vocab, top);
            if (!isfinite(sum) || !isfinite(top))
                return kq_fail(err, KQ_E_NUMERIC, "the head's output holds NaN or Inf");
            double left = u[t0 + t] * sum;
            size_t id = 0;
            /* ids share [0, 1) in their order; rounding at its end goes to the last likely one */
            for (size_t last = 0; id < vocab; id++) {
                const double p = exp((double)row[id] - top);
                last = p > 0 ? id : last;
                if ((left -= p) < 0)
                    break;
                if (id + 1 == vocab) {
                    id = last;
                    break;
                }
            }
            ids[t0 + t] = (int32_t)id;
        }
    }
    return KQ_OK;
}

void kq_log_softmax(float *row, size_t n)
{
    const kq_kern *kern = kq_kern_pick(kq_kern_isa());
    float top = kern->max(row, n);
    float log_sum = (float)log(kern->sum_exp(row, n, top));
    for (size_t i = 0; i < n; i++)
        row[i] = row[i] - top - log_sum;
}
