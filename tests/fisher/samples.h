/* Gradients for the tests of factors, and the same sums by triple loops in f64. */
#ifndef KQ_TESTS_FISHER_SAMPLES_H
#define KQ_TESTS_FISHER_SAMPLES_H

#include "check.h"
#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "fisher/panel.h"
#include "fisher/product.h"
#include "kern/lapack.h"

static kq_error err;

/* Every allocation of the room goes through here (linked with --wrap): the sizes promised are compared
 * with those asked for. */
static size_t allocated;

kq_status __real_kq_alloc_for(void **out, size_t count, size_t size, const char *what, kq_error *e);

kq_status __wrap_kq_alloc_for(void **out, size_t count, size_t size, const char *what, kq_error *e);

kq_status __wrap_kq_alloc_for(void **out, size_t count, size_t size, const char *what, kq_error *e)
{
    allocated += count * size;
    return __real_kq_alloc_for(out, count, size, what, e);
}

static inline void *zeroed(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);
    assert_non_null(p);
    return p;
}

typedef struct sample_set {
    kq_gradients G;
    uint16_t *bits;
    double *x;
} sample_set;

/* Heavy-ish tails and a common structure: rows and columns of unequal scale, samples too. */
static inline sample_set samples(size_t D, size_t m, size_t n, uint64_t seed)
{
    sample_set s = {.bits = zeroed(D * m * n, 2), .x = zeroed(D * m * n, sizeof(double))};
    kq_rng rng = kq_rng_stream(seed, "test gradients");
    for (size_t i = 0; i < D; i++) {
        double scale = exp(0.5 * kq_rng_normal(&rng));
        for (size_t a = 0; a < m; a++)
            for (size_t b = 0; b < n; b++) {
                size_t at = (i * m + a) * n + b;
                s.x[at] = kq_rng_normal(&rng) + (b ? 0.5 * s.x[at - 1] : 0) + (a ? 0.3 * s.x[at - n] : 0);
                s.bits[at] = kq_f32_to_bf16((float)(scale * s.x[at] / (1 + 0.2 * (double)(a % 9))));
            }
    }
    for (size_t i = 0; i < D * m * n; i++)
        s.x[i] = kq_bf16_to_f32(s.bits[i]);
    s.G = (kq_gradients){.D = D, .m = m, .n = n, .g = s.bits};
    return s;
}

static inline void free_samples(sample_set s)
{
    free(s.bits);
    free(s.x);
}

/* scale * sum_i G_i Y G_i^T (adjoint: G_i^T Y G_i), triple loops in f64. */
static inline double *naive(const sample_set *s, bool adjoint, const double *Y, double scale)
{
    size_t D = s->G.D, m = s->G.m, n = s->G.n, dim = adjoint ? n : m, k = adjoint ? m : n;
    double *out = zeroed(dim * dim, sizeof *out), *T = zeroed(dim * k, sizeof *T);
    for (size_t i = 0; i < D; i++) {
        const double *G = s->x + i * m * n;
        for (size_t a = 0; a < dim; a++)
            for (size_t b = 0; b < k; b++) {
                double sum = 0;
                for (size_t c = 0; c < k; c++)
                    sum += (adjoint ? G[c * n + a] : G[a * n + c]) * Y[c * k + b];
                T[a * k + b] = sum;
            }
        for (size_t a = 0; a < dim; a++)
            for (size_t b = 0; b < dim; b++) {
                double sum = 0;
                for (size_t c = 0; c < k; c++)
                    sum += T[a * k + c] * (adjoint ? G[c * n + b] : G[b * n + c]);
                out[a * dim + b] += scale * sum;
            }
    }
    free(T);
    return out;
}

static inline float *to_float(const double *x, size_t n)
{
    float *y = zeroed(n, sizeof *y);
    for (size_t i = 0; i < n; i++)
        y[i] = (float)x[i];
    return y;
}

/* A^-1 of a positive definite matrix and log det A, by Cholesky in f64. */
static inline double invert(const double *A, size_t n, double *inverse)
{
    double *L = zeroed(n * n, sizeof *L), logdet = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) {
            double sum = A[i * n + j];
            for (size_t k = 0; k < j; k++)
                sum -= L[i * n + k] * L[j * n + k];
            if (i == j) {
                assert_true(sum > 0);
                L[i * n + i] = sqrt(sum);
                logdet += log(sum);
            } else
                L[i * n + j] = sum / L[j * n + j];
        }
    for (size_t c = 0; c < n; c++) {
        double *x = inverse + c * n; /* symmetric: row c is column c */
        for (size_t i = 0; i < n; i++) {
            double sum = i == c;
            for (size_t k = 0; k < i; k++)
                sum -= L[i * n + k] * x[k];
            x[i] = sum / L[i * n + i];
        }
        for (size_t i = n; i-- > 0;) {
            double sum = x[i];
            for (size_t k = i + 1; k < n; k++)
                sum -= L[k * n + i] * x[k];
            x[i] = sum / L[i * n + i];
        }
    }
    free(L);
    return logdet;
}

static inline double trace_of(const float *H, size_t n)
{
    double t = 0;
    for (size_t i = 0; i < n; i++)
        t += H[i * n + i];
    return t;
}

static inline double mean_square(const sample_set *s)
{
    double sum = 0;
    for (size_t i = 0; i < s->G.D * s->G.m * s->G.n; i++)
        sum += s->x[i] * s->x[i];
    return sum / (double)s->G.D;
}

/* What kq_factors promises of every result. */
static inline void check_factors(const sample_set *s, const float *H_in, const float *H_out,
                                 const kq_factor_report *report)
{
    size_t m = s->G.m, n = s->G.n;
    double want = mean_square(s), a = trace_of(H_in, n), b = trace_of(H_out, m);
    assert_true(fabs(a * b / want - 1) < 1e-5);
    assert_true(fabs(report->trace_product / want - 1) < 1e-5);
    assert_true(fabs(a / (double)n / (b / (double)m) - 1) < 1e-5);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++)
            assert_true(H_in[i * n + j] == H_in[j * n + i]);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < i; j++)
            assert_true(H_out[i * m + j] == H_out[j * m + i]);
}

static inline void apply(kq_product *p, const kq_gradients *G, bool adjoint, kq_middle kind, const float *mid,
                         float *out)
{
    check_ok(kq_product_begin(p, adjoint, kind, mid, p->plan.D, &err));
    for (size_t first = 0; first < G->D; first += p->plan.chunk) {
        size_t count = G->D - first < p->plan.chunk ? G->D - first : p->plan.chunk;
        check_ok(kq_product_add(p, G->g + first * p->plan.sample, count, &err));
    }
    check_ok(kq_product_end(p, out, &err));
}

/* Eq. 3 word for word, f64; the rounds before the last over the first `early` samples. */
static inline void naive_flipflop(const sample_set *s, double rho, int rounds, size_t early, double **H_in,
                                  double **H_out)
{
    size_t m = s->G.m, n = s->G.n;
    double *inverse = zeroed((m > n ? m * m : n * n), sizeof *inverse), *I = zeroed(m * m, sizeof *I),
           *in = NULL, *out = NULL;
    for (size_t i = 0; i < m; i++)
        I[i * m + i] = 1;
    for (int half = 0; half < 2 * rounds; half++) {
        bool adjoint = half % 2 == 0;
        double *from = adjoint ? out : in, **to = adjoint ? &in : &out;
        size_t dim = adjoint ? m : n;
        if (from) {
            double trace = 0;
            for (size_t i = 0; i < dim; i++)
                trace += from[i * dim + i];
            double *A = zeroed(dim * dim, sizeof *A);
            for (size_t i = 0; i < dim * dim; i++)
                A[i] = from[i] * (double)dim / trace + (i % (dim + 1) == 0 ? rho : 0);
            invert(A, dim, inverse);
            free(A);
        }
        free(*to);
        sample_set these = *s;
        these.G.D = half < 2 * (rounds - 1) ? early : s->G.D;
        *to = naive(&these, adjoint, from ? inverse : I, 1.0 / ((double)these.G.D * (double)dim));
    }
    double ti = 0, to = 0, want = mean_square(s);
    for (size_t i = 0; i < n; i++)
        ti += in[i * n + i];
    for (size_t i = 0; i < m; i++)
        to += out[i * m + i];
    double mean = sqrt(want / (double)(m * n));
    for (size_t i = 0; i < n * n; i++)
        in[i] *= mean * (double)n / ti;
    for (size_t i = 0; i < m * m; i++)
        out[i] *= mean * (double)m / to;
    free(inverse);
    free(I);
    *H_in = in;
    *H_out = out;
}

#endif
