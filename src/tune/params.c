/* Where the trained numbers stand, and what they are: the two factors of a kronq checkpoint's linears, and
 * the factors of a GGUF's blocks. */
#include "tune/internal.h"

#include <math.h>

#include "base/f16.h"
#include "base/file.h"
#include "base/mem.h"
#include "format/dequant.h"

static kq_trained_linear shape_of(const kq_weights *w, const char *name, size_t m, size_t n)
{
    kq_trained_linear l = {.What = {.m = m, .n = n}, .head_dim = w->cfg->head_dim};
    l.stored = w->stored ? w->stored(w->ctx, name) : NULL;
    if (l.stored)
        l.scales = kq_block_scales_of(l.stored->dtype);
    return l;
}

kq_trained_linear kq_trained_rows_shape(const kq_weights *w, bool embedding)
{
    return shape_of(w, embedding || w->cfg->tie_embeddings ? "model.embed_tokens.weight" : "lm_head.weight",
                    w->cfg->vocab_size, w->cfg->d_model);
}

kq_trained_linear kq_trained_shape(const kq_weights *w, size_t layer, kq_linear_id id)
{
    const kq_model_tensor t = kq_model_linear(w->cfg, layer, id);
    return shape_of(w, t.name, t.rows, t.cols);
}

/* The numbers of one layer, from p->n on. */
static void place_layer(const kq_config *cfg, const kq_tuner_options *o, size_t layer, kq_params *p)
{
    p->layer_at[layer] = p->n;
    for (size_t i = 0; i < KQ_N_LINEAR; i++) {
        const bool trained = o->packed[layer] >> i & 1;
        const kq_trained_linear l = kq_trained_shape(o->student, layer, (kq_linear_id)i);
        p->linear_at[layer * KQ_N_LINEAR + i] = trained ? p->n : SIZE_MAX;
        p->n += trained ? o->trained->count(&l) : 0;
    }
    for (size_t i = 0; i < KQ_N_NORM; i++) {
        const bool there = i < (size_t)kq_model_n_norms(cfg);
        p->norm_at[layer * KQ_N_NORM + i] = there ? p->n : SIZE_MAX;
        p->n += there ? kq_model_norm(cfg, layer, (kq_norm_id)i).rows : 0;
    }
}

kq_status kq_params_make(const kq_config *cfg, const kq_tuner_options *o, kq_params *p, kq_error *err)
{
    const size_t n_linear = cfg->n_layer * KQ_N_LINEAR, n_norm = cfg->n_layer * KQ_N_NORM;
    *p = (kq_params){0};
    kq_status st = kq_alloc_for((void **)&p->linear_at, n_linear, sizeof(size_t), "trained numbers", err);
    if (!st)
        st = kq_alloc_for((void **)&p->norm_at, n_norm, sizeof(size_t), "trained numbers", err);
    if (!st)
        st = kq_alloc_for((void **)&p->layer_at, cfg->n_layer + 1, sizeof(size_t), "trained numbers", err);
    for (size_t l = 0; l < cfg->n_layer && !st; l++)
        place_layer(cfg, o, l, p);
    if (st)
        return st;
    p->layer_at[cfg->n_layer] = p->final_at = p->n;
    p->n += cfg->d_model;
    const kq_trained_linear rows = kq_trained_rows_shape(o->student, false),
                            embedding = kq_trained_rows_shape(o->student, true);
    const bool head = o->head && !cfg->tie_embeddings;
    p->head_at = head ? p->n : SIZE_MAX;
    p->n += head ? o->trained->count(&rows) : 0;
    p->embed_at = o->embedding ? p->n : SIZE_MAX;
    p->n += o->embedding ? o->trained->count(&embedding) : 0;
    return KQ_OK;
}

void kq_params_free(kq_params *p)
{
    kq_free(p->linear_at);
    kq_free(p->norm_at);
    kq_free(p->layer_at);
    *p = (kq_params){0};
}

size_t kq_tuner_numbers(const kq_config *cfg, const kq_tuner_options *o)
{
    kq_params p;
    const size_t n = kq_params_make(cfg, o, &p, NULL) ? 0 : p.n;
    kq_params_free(&p);
    return n;
}

/* ---- the factors of rows and columns ---- */

static size_t scales_count(const kq_trained_linear *l)
{
    return l->What.m + l->What.n;
}

static void scales_apply(const kq_kern *kern, const kq_trained_linear *l, const float *theta, size_t row0,
                         size_t rows, kq_linear *W, float *row)
{
    const kq_linear *What = &l->What;
    const size_t n = What->n;
    const float *a = theta, *b = theta + What->m;
    for (size_t i = row0; i < row0 + rows; i++) {
        float *to = W->f32 ? W->f32 + i * n : row;
        const float *from = What->f32 ? What->f32 + i * n : row;
        if (!What->f32)
            kq_bf16_to_f32_n(What->bf16 + i * n, row, n);
        for (size_t j = 0; j < n; j++)
            to[j] = from[j] * b[j] * a[i];
        if (!W->f32)
            kern->to_bf16(row, W->bf16 + i * n, n);
    }
}

static void scales_gradient(const kq_kern *kern, const kq_trained_linear *l, const float *theta,
                            const float *Gw, size_t row0, size_t rows, float *grad, float *columns)
{
    const kq_linear *What = &l->What;
    const size_t n = What->n;
    const float *a = theta, *b = theta + What->m;
    for (size_t i = row0; i < row0 + rows; i++)
        grad[i] += What->f32 ? kern->factor_back(Gw + i * n, What->f32 + i * n, a[i], b, columns, n)
                             : kern->factor_back_bf16(Gw + i * n, What->bf16 + i * n, a[i], b, columns, n);
}

const kq_trained kq_trained_scales = {
    .count = scales_count, .apply = scales_apply, .gradient = scales_gradient, .columns = true};

/* ---- the factors of blocks ---- */

static size_t blocks_count(const kq_trained_linear *l)
{
    return l->What.m * (l->What.n / l->scales.elems) * l->scales.n;
}

/* One row: w = a (What - o) + b o, or w = a What where no offsets are. It is What exactly for a = b = 1. */
static void blocks_apply_row(const kq_block_scales *s, const float *theta, const float *offsets, size_t n,
                             const float *from, float *to)
{
    const size_t group = s->n == 2 ? s->group : s->elems;
    for (size_t j = 0; j < n; j += group) {
        const float *block = theta + j / s->elems * s->n, a = block[0],
                    b = s->n == 2 ? (block[1] - a) * offsets[j / group] : 0;
        for (size_t k = j; k < j + group; k++)
            to[k] = a * from[k] + b;
    }
}

/* The blocks of row i. */
static const uint8_t *stored_blocks(const kq_trained_linear *l, size_t i)
{
    return l->stored->data +
           kq_tensor_stored_row(l->stored, i, l->head_dim) * (l->What.n / l->scales.elems) * l->scales.bytes;
}

/* Where What is in bf16, a row is decoded again: factors near 1 would hardly change values that are rounded
 * to bf16 already. */
static void blocks_apply(const kq_kern *kern, const kq_trained_linear *l, const float *theta, size_t row0,
                         size_t rows, kq_linear *W, float *row)
{
    const kq_linear *What = &l->What;
    const kq_block_scales *s = &l->scales;
    const size_t n = What->n, per_row = n / s->elems * s->n;
    for (size_t i = row0; i < row0 + rows; i++) {
        if (!What->f32)
            kq_dequantize(l->stored->dtype, stored_blocks(l, i), n, row);
        blocks_apply_row(s, theta + i * per_row, s->n == 2 ? l->offsets + i * (n / s->group) : NULL, n,
                         What->f32 ? What->f32 + i * n : row, W->f32 ? W->f32 + i * n : row);
        if (!W->f32)
            kern->to_bf16(row, W->bf16 + i * n, n);
    }
}

/* sum_k g[k] w[k] and sum_k g[k] of n weights, n a multiple of 16, in sixteen sums that vector code can
 * hold. w is in f32 or in bf16. */
static inline void sums_of(const float *g, const float *w, const uint16_t *wb, size_t n, float *gw,
                           float *sum)
{
    enum { LANES = 16 };
    float x[LANES] = {0}, y[LANES] = {0};
    for (size_t k = 0; k < n; k += LANES)
        for (size_t i = 0; i < LANES; i++) {
            const float v = w ? w[k + i] : kq_bf16_to_f32(wb[k + i]);
            x[i] += g[k + i] * v;
            y[i] += g[k + i];
        }
    for (size_t half = LANES / 2; half; half /= 2)
        for (size_t i = 0; i < half; i++) {
            x[i] += x[i + half];
            y[i] += y[i + half];
        }
    *gw = x[0];
    *sum = y[0];
}

/* dL/da = sum_j Gw_j (What_j - o_j), dL/db = sum_j Gw_j o_j over a block (eq. 104). */
static void blocks_gradient(const kq_kern *kern, const kq_trained_linear *l, const float *theta,
                            const float *Gw, size_t row0, size_t rows, float *grad, float *columns)
{
    (void)kern;
    (void)theta;
    (void)columns;
    const kq_linear *What = &l->What;
    const kq_block_scales *s = &l->scales;
    const size_t group = s->n == 2 ? s->group : s->elems, per_block = s->elems / group,
                 per_row = What->n / group;
    for (size_t i = row0 * per_row; i < (row0 + rows) * per_row; i++) {
        float gw, sum, *to = grad + i / per_block * s->n;
        if (What->f32)
            sums_of(Gw + i * group, What->f32 + i * group, NULL, group, &gw, &sum);
        else
            sums_of(Gw + i * group, NULL, What->bf16 + i * group, group, &gw, &sum);
        if (s->n == 2) {
            to[1] += sum * l->offsets[i];
            gw -= sum * l->offsets[i];
        }
        to[0] += gw;
    }
}

const kq_trained kq_trained_blocks = {
    .count = blocks_count, .apply = blocks_apply, .gradient = blocks_gradient};

void kq_trained_release(const kq_trained_linear *l)
{
    if (l->stored)
        kq_map_release(l->stored->data, l->stored->size_bytes);
}

kq_status kq_trained_offsets(kq_trained_linear *l, kq_error *err)
{
    const kq_block_scales *s = &l->scales;
    const size_t m = l->What.m, n = l->What.n;
    if (s->n != 2)
        return KQ_OK;
    kq_status st =
        kq_alloc_for((void **)&l->offsets, m * (n / s->group), sizeof(float), "minima of blocks", err);
    for (size_t i = 0; i < m && !st; i++)
        kq_block_offsets(l->stored->dtype, stored_blocks(l, i), n, l->offsets + i * (n / s->group));
    kq_trained_release(l);
    return st;
}

/* ---- steps ---- */

double kq_tune_peak_rate(double kl)
{
    return 0.004 * sqrt(fmin(fmax(kl, 1e-6), 4));
}

double kq_tune_rate(double lr, size_t warmup, size_t step, size_t steps)
{
    const double ramp = warmup ? fmin(1, (double)(step + 1) / (double)warmup) : 1;
    return lr * ramp * 0.5 * (1 + cos(M_PI * (double)step / (double)steps));
}

void kq_adam(const kq_tuner_arrays *s, size_t n, double lr, size_t step, int threads)
{
    const double b1 = 0.9, b2 = 0.95, eps = 1e-8;
    const double c1 = 1 - pow(b1, (double)step + 1), c2 = 1 - pow(b2, (double)step + 1);
#pragma omp parallel for num_threads(threads)
    for (size_t i = 0; i < n; i++) {
        const double g = s->grad[i];
        s->m[i] = (float)(b1 * s->m[i] + (1 - b1) * g);
        s->v[i] = (float)(b2 * s->v[i] + (1 - b2) * g * g);
        s->theta[i] -= (float)(lr * (s->m[i] / c1) / (sqrt(s->v[i] / c2) + eps));
    }
}
