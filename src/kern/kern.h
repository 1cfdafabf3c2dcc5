/* The small kernels between the matrix products: one table of functions for each instruction set. Equations
 * are those of docs/math.md, "The model".
 *
 * Kernels cannot fail, allocate nothing and run on the calling thread. All arrays are f32 unless named
 * otherwise; pointers need no alignment; arrays overlap only where it says "in place" or "may be". NaN and
 * Inf pass through to the result. ref.c defines each kernel; the others differ from it by rounding only: exp
 * errs by less than 2 ulp, and results below about 2^-125 become 0. */
#ifndef KQ_KERN_KERN_H
#define KQ_KERN_KERN_H

#include "base/isa.h"

typedef struct kq_kern {
    const char *name;
    /* x[i] = exp(x[i] - shift), in place; returns the sum. Arguments above 88.37 count as 88.37. */
    float (*exp_sum)(float *x, size_t n, float shift);
    /* The sum of exp(x[i] - shift), in double over blocks of 1024. */
    double (*sum_exp)(const float *x, size_t n, float shift);
    float (*max)(const float *x, size_t n); /* n >= 1; NaN when x holds one */
    /* Eq. 82: KL(p || q) in nats of p = exp(t - lse_t) and q = exp(s - lse_s), in double over blocks of 1024.
     * s becomes its gradient, q - p, in place. */
    double (*kl_back)(const float *t, float *s, size_t n, float lse_t, float lse_s);
    /* Eq. 15: softmax of scale * x (scale > 0), in place; returns lse(scale * x) of eq. 19. n >= 1. */
    float (*softmax)(float *x, size_t n, float scale);
    /* x[i] = exp(scale * x[i] - shift), in place: softmax's result again from its returned value. */
    void (*softmax_again)(float *x, size_t n, float scale, float shift);
    /* Eq. 25, back through a softmax: ds[i] = p[i] * (ds[i] - delta) * scale, in place; ds comes in as
     * dLoss/dp, delta = sum p dp. */
    void (*softmax_back)(const float *p, float *ds, size_t n, float delta, float scale);
    /* Eq. 16: h[i] = silu(g[i]) * u[i], silu(g) = g / (1 + exp(-g)); h may be g or u. */
    void (*swiglu)(const float *g, const float *u, float *h, size_t n);
    /* Eq. 27, back: g becomes dLoss/dg and u becomes dLoss/du, from dh = dLoss/dh, in place. */
    void (*swiglu_back)(float *g, float *u, const float *dh, size_t n);
    /* Eq. 11: y = x * r * w with r = 1/sqrt(mean(x^2) + eps), which is returned. y may be x. */
    float (*rms_norm)(const float *x, const float *w, float *y, size_t n, float eps);
    /* Eq. 23, back: dx = add + r * (w * dy - x * r^2 * mean(x w dy)); add may be NULL (0), and dx may be add
     * or dy. */
    void (*rms_norm_back)(const float *x, const float *w, const float *dy, float r, const float *add,
                          float *dx, size_t n);
    /* Eq. 13: y[i] = x[i] cos[i] - x[i+half] sin[i], y[i+half] = x[i+half] cos[i] + x[i] sin[i] for i < half;
     * y may be x. sign 1; sign -1 rotates back, which is the transpose and so the gradient (eq. 24). */
    void (*rope)(const float *x, const float *cos, const float *sin, float *y, size_t half, float sign);
    float (*dot)(const float *a, const float *b, size_t n);          /* sum_i a[i] b[i] */
    void (*add)(const float *a, const float *b, float *y, size_t n); /* y = a + b; y may be a or b */
    void (*scale)(float *x, size_t n, float s);                      /* x *= s */
    /* Eq. 100, one row of a weight matrix with factors, a w[j] b[j], and g = dLoss/d(the row): returns
     * sum_j g[j] w[j] b[j], and adds a g[j] w[j] to db[j]. */
    float (*factor_back)(const float *g, const float *w, float a, const float *b, float *db, size_t n);
    float (*factor_back_bf16)(const float *g, const uint16_t *w, float a, const float *b, float *db,
                              size_t n);
    /* y[r] = sum_i W[r, i] x[i], W [rows, n] with row stride ld. */
    void (*matvec)(const float *W, size_t ld, size_t rows, size_t n, const float *x, float *y);
    void (*matvec_bf16)(const uint16_t *W, size_t ld, size_t rows, size_t n, const float *x, float *y);
    /* y[i] = sum_r x[r] W[r, i], the transposed product, W [rows, n] with row stride ld. */
    void (*matvec_t)(const float *W, size_t ld, size_t rows, size_t n, const float *x, float *y);
    void (*matvec_t_bf16)(const uint16_t *W, size_t ld, size_t rows, size_t n, const float *x, float *y);
    void (*to_bf16)(const float *x, uint16_t *y, size_t n); /* kq_f32_to_bf16 of each value, bit for bit */
    bool (*all_finite)(const float *x, size_t n);           /* no NaN, no Inf */
} kq_kern;

/* The best kernels at or below an instruction set, which the machine must run (kq_isa_pick makes sure of it).
 */
const kq_kern *kq_kern_pick(kq_isa isa);

extern const kq_kern kq_kern_ref;
#if defined(__x86_64__)
extern const kq_kern kq_kern_avx2;
extern const kq_kern kq_kern_avx512;
#endif

#endif
