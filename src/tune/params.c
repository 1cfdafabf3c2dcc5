/* Where the trained numbers stand, and the two factors of a kronq checkpoint's linears. */
#include "tune/internal.h"

#include <math.h>

#include "base/f16.h"
#include "base/mem.h"

kq_status kq_params_make(const kq_config *cfg, const kq_tuner_options *o, kq_params *p, kq_error *err)
{
    const size_t n_linear = cfg->n_layer * KQ_N_LINEAR, n_norm = cfg->n_layer * KQ_N_NORM;
    *p = (kq_params){0};
    kq_status st = kq_alloc_for((void **)&p->linear_at, n_linear, sizeof(size_t), "trained numbers", err);
    if (!st)
        st = kq_alloc_for((void **)&p->norm_at, n_norm, sizeof(size_t), "trained numbers", err);
    for (size_t l = 0; l < cfg->n_layer && !st; l++) {
        for (size_t i = 0; i < KQ_N_LINEAR; i++) {
            size_t m, n;
            kq_linear_shape(cfg, (kq_linear_id)i, &m, &n);
            const bool trained = o->packed[l] >> i & 1;
            p->linear_at[l * KQ_N_LINEAR + i] = trained ? p->n : SIZE_MAX;
            p->n += trained ? o->trained->count(m, n) : 0;
        }
        for (size_t i = 0; i < KQ_N_NORM; i++) {
            const bool there = i < (size_t)kq_model_n_norms(cfg);
            p->norm_at[l * KQ_N_NORM + i] = there ? p->n : SIZE_MAX;
            p->n += there ? kq_model_norm(cfg, l, (kq_norm_id)i).rows : 0;
        }
    }
    p->final_at = p->n;
    p->n += cfg->d_model;
    return st;
}

void kq_params_free(kq_params *p)
{
    kq_free(p->linear_at);
    kq_free(p->norm_at);
    *p = (kq_params){0};
}

/* ---- the factors of rows and columns ---- */

static size_t scales_count(size_t m, size_t n)
{
    return m + n;
}

static void scales_apply(const kq_kern *kern, const kq_linear *What, const float *theta, size_t row0,
                         size_t rows, kq_linear *W, float *row)
{
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

static void scales_gradient(const kq_kern *kern, const kq_linear *What, const float *theta, const float *Gw,
                            float *grad)
{
    const size_t m = What->m, n = What->n;
    const float *a = theta, *b = theta + m;
    for (size_t i = 0; i < m; i++)
        grad[i] += What->f32 ? kern->factor_back(Gw + i * n, What->f32 + i * n, a[i], b, grad + m, n)
                             : kern->factor_back_bf16(Gw + i * n, What->bf16 + i * n, a[i], b, grad + m, n);
}

const kq_trained kq_trained_scales = {scales_count, scales_apply, scales_gradient};

/* ---- steps ---- */

double kq_tune_rate(double lr, size_t warmup, size_t step, size_t steps)
{
    const double ramp = warmup ? fmin(1, (double)(step + 1) / (double)warmup) : 1;
    return lr * ramp * 0.5 * (1 + cos(M_PI * (double)step / (double)steps));
}

void kq_adam(const kq_tuner_arrays *s, size_t n, double lr, size_t step)
{
    const double b1 = 0.9, b2 = 0.95, eps = 1e-8;
    const double c1 = 1 - pow(b1, (double)step + 1), c2 = 1 - pow(b2, (double)step + 1);
    for (size_t i = 0; i < n; i++) {
        const double g = s->grad[i];
        s->m[i] = (float)(b1 * s->m[i] + (1 - b1) * g);
        s->v[i] = (float)(b2 * s->v[i] + (1 - b2) * g * g);
        s->theta[i] -= (float)(lr * (s->m[i] / c1) / (sqrt(s->v[i] / c2) + eps));
    }
}
