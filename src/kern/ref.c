/* The kernels in plain C: the definition of each, which the other tables must agree with (selfcheck,
 * tests/kern). They are also what runs on a processor without AVX2. */
#include "kern/kern.h"

#include <math.h>

#include "base/f16.h"

static float exp_one(float x)
{
    float e = expf(x > 88.37f ? 88.37f : x); /* NaN fails the comparison and stays */
    return e < 0x1p-126f ? 0.0f : e;
}

static float exp_sum_ref(float *x, size_t n, float shift)
{
    float s = 0;
    for (size_t i = 0; i < n; i++)
        s += x[i] = exp_one(x[i] - shift);
    return s;
}

static double sum_exp_ref(const float *x, size_t n, float shift)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += exp_one(x[i] - shift);
    return s;
}

static float max_ref(const float *x, size_t n)
{
    float m = x[0];
    for (size_t i = 1; i < n; i++)
        if (x[i] > m || x[i] != x[i])
            m = x[i];
    return m;
}

static float softmax_ref(float *x, size_t n, float scale)
{
    float m = max_ref(x, n) * scale, s = 0;
    for (size_t i = 0; i < n; i++)
        s += x[i] = exp_one(x[i] * scale - m);
    float inv = 1.0f / s;
    for (size_t i = 0; i < n; i++)
        x[i] *= inv;
    return m + logf(s);
}

static void softmax_again_ref(float *x, size_t n, float scale, float shift)
{
    for (size_t i = 0; i < n; i++)
        x[i] = exp_one(x[i] * scale - shift);
}

static void softmax_back_ref(const float *p, float *ds, size_t n, float delta, float scale)
{
    for (size_t i = 0; i < n; i++)
        ds[i] = p[i] * (ds[i] - delta) * scale;
}

static void swiglu_ref(const float *g, const float *u, float *h, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h[i] = g[i] / (1.0f + exp_one(-g[i])) * u[i];
}

static void swiglu_back_ref(float *g, float *u, const float *dh, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float s = 1.0f / (1.0f + exp_one(-g[i]));
        float du = dh[i] * g[i] * s;
        g[i] = dh[i] * u[i] * s * (1.0f + g[i] * (1.0f - s));
        u[i] = du;
    }
}

static float rms_norm_ref(const float *x, const float *w, float *y, size_t n, float eps)
{
    float s = 0;
    for (size_t i = 0; i < n; i++)
        s += x[i] * x[i];
    float r = 1.0f / sqrtf(s / (float)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * r * w[i];
    return r;
}

static void rms_norm_back_ref(const float *x, const float *w, const float *dy, float r, const float *add,
                              float *dx, size_t n)
{
    float s = 0;
    for (size_t i = 0; i < n; i++)
        s += x[i] * w[i] * dy[i];
    s *= r * r / (float)n;
    for (size_t i = 0; i < n; i++)
        dx[i] = r * (w[i] * dy[i] - x[i] * s) + (add ? add[i] : 0.0f);
}

static double kl_back_ref(const float *t, float *s, size_t n, float lse_t, float lse_s)
{
    double total = 0;
    for (size_t i = 0; i < n; i++) {
        const float lp = t[i] - lse_t, lq = s[i] - lse_s, p = expf(lp);
        total += (double)p * (lp - lq);
        s[i] = expf(lq) - p;
    }
    return total;
}

static float factor_back_ref(const float *g, const float *w, float a, const float *b, float *db, size_t n)
{
    float s = 0;
    for (size_t i = 0; i < n; i++) {
        const float gw = g[i] * w[i];
        s += gw * b[i];
        db[i] += a * gw;
    }
    return s;
}

static float factor_back_bf16_ref(const float *g, const uint16_t *w, float a, const float *b, float *db,
                                  size_t n)
{
    float s = 0;
    for (size_t i = 0; i < n; i++) {
        const float gw = g[i] * kq_bf16_to_f32(w[i]);
        s += gw * b[i];
        db[i] += a * gw;
    }
    return s;
}

static void rope_ref(const float *x, const float *cos, const float *sin, float *y, size_t half, float sign)
{
    for (size_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half], c = cos[i], s = sign * sin[i];
        y[i] = a * c - b * s;
        y[i + half] = b * c + a * s;
    }
}

static float dot_ref(const float *a, const float *b, size_t n)
{
    float s = 0;
    for (size_t i = 0; i < n; i++)
        s += a[i] * b[i];
    return s;
}

static void add_ref(const float *a, const float *b, float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

static void scale_ref(float *x, size_t n, float s)
{
    for (size_t i = 0; i < n; i++)
        x[i] *= s;
}

static void matvec_ref(const float *W, size_t ld, size_t rows, size_t n, const float *x, float *y)
{
    for (size_t r = 0; r < rows; r++)
        y[r] = dot_ref(W + r * ld, x, n);
}

static void matvec_bf16_ref(const uint16_t *W, size_t ld, size_t rows, size_t n, const float *x, float *y)
{
    for (size_t r = 0; r < rows; r++) {
        float s = 0;
        for (size_t i = 0; i < n; i++)
            s += kq_bf16_to_f32(W[r * ld + i]) * x[i];
        y[r] = s;
    }
}

static void matvec_t_ref(const float *W, size_t ld, size_t rows, size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = 0;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < n; i++)
            y[i] += x[r] * W[r * ld + i];
}

static void matvec_t_bf16_ref(const uint16_t *W, size_t ld, size_t rows, size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = 0;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < n; i++)
            y[i] += x[r] * kq_bf16_to_f32(W[r * ld + i]);
}

static void to_bf16_ref(const float *x, uint16_t *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = kq_f32_to_bf16(x[i]);
}

static bool all_finite_ref(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

const kq_kern kq_kern_ref = {
    .name = "ref",
    .exp_sum = exp_sum_ref,
    .sum_exp = sum_exp_ref,
    .max = max_ref,
    .kl_back = kl_back_ref,
    .softmax = softmax_ref,
    .softmax_again = softmax_again_ref,
    .softmax_back = softmax_back_ref,
    .swiglu = swiglu_ref,
    .swiglu_back = swiglu_back_ref,
    .rms_norm = rms_norm_ref,
    .rms_norm_back = rms_norm_back_ref,
    .rope = rope_ref,
    .dot = dot_ref,
    .add = add_ref,
    .scale = scale_ref,
    .factor_back = factor_back_ref,
    .factor_back_bf16 = factor_back_bf16_ref,
    .matvec = matvec_ref,
    .matvec_bf16 = matvec_bf16_ref,
    .matvec_t = matvec_t_ref,
    .matvec_t_bf16 = matvec_t_bf16_ref,
    .to_bf16 = to_bf16_ref,
    .all_finite = all_finite_ref,
};
