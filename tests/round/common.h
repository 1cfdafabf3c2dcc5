/* Random matrices and naive f64 references for the tests of the rounding room. */
#ifndef KQ_TESTS_ROUND_COMMON_H
#define KQ_TESTS_ROUND_COMMON_H

#include "base/mem.h"
#include "base/rng.h"
#include "check.h"
#include "round/matrix.h"
#include "round/round.h"

static inline float *normal(size_t count, const char *label)
{
    kq_rng rng = kq_rng_stream(20260, label);
    float *x = kq_alloc(count, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)kq_rng_normal(&rng);
    return x;
}

/* Symmetric positive definite [n, n] with a decaying spectrum like a Fisher factor's: sum over n + 8
 * samples of x x^T / n, x noise of uneven variances plus twelve directions of decaying strength. n >=
 * 12. */
static inline float *spd(size_t n, const char *label)
{
    float *G = normal((n + 8) * n, label), *H = kq_calloc(n * n, sizeof *H);
    assert_non_null(H);
    for (size_t s = 0; s < n + 8; s++) {
        float *x = G + s * n, z[12];
        memcpy(z, x, sizeof z);
        for (size_t j = 0; j < n; j++) {
            x[j] *= powf(1.0f + (float)(j % 7), -1.5f);
            for (size_t d = 0; d < 12; d++)
                x[j] += z[d] * 1.5f / sqrtf((float)d + 1) * cosf(1.3f * (float)((d + 1) * j) + (float)d);
        }
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                H[i * n + j] += x[i] * x[j] / (float)n;
    }
    kq_free(G);
    return H;
}

/* Dense U [n, n] f64 from its definition: (S (x) B)/sqrt(n). */
static inline double *dense_u(const kq_hadamard *h)
{
    size_t n = kq_hadamard_order(h), b = kq_hadamard_base(h);
    const float *B = kq_hadamard_base_matrix(h);
    double *U = kq_alloc(n * n, sizeof *U);
    assert_non_null(U);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            size_t bits = (i / b) & (j / b);
            U[i * n + j] =
                (__builtin_popcountll(bits) & 1 ? -1.0 : 1.0) * B[i % b * b + j % b] / sqrt((double)n);
        }
    return U;
}

/* C [m, n] = op(A) B in f64, A [m, k] or stored transposed [k, m]. */
static inline void mul(bool ta, size_t m, size_t n, size_t k, const double *A, const double *B, double *C)
{
    memset(C, 0, m * n * sizeof *C);
    for (size_t i = 0; i < m; i++)
        for (size_t p = 0; p < k; p++) {
            double a = ta ? A[p * m + i] : A[i * k + p];
            for (size_t j = 0; j < n; j++)
                C[i * n + j] += a * B[p * n + j];
        }
}

static inline double *widened(const float *x, size_t count)
{
    double *y = kq_alloc(count, sizeof *y);
    assert_non_null(y);
    for (size_t i = 0; i < count; i++)
        y[i] = x[i];
    return y;
}

/* tr(E H_in E^T H_out), E [m, n]; NULL is the identity. */
static inline double quadratic(const float *E, size_t m, size_t n, const float *H_in, const float *H_out)
{
    double *P = kq_calloc(m * n, sizeof *P), sum = 0;
    assert_non_null(P);
    for (size_t i = 0; i < m; i++)
        for (size_t k = 0; k < n; k++)
            for (size_t j = 0; j < n; j++)
                P[i * n + j] += E[i * n + k] * (H_in ? (double)H_in[k * n + j] : k == j);
    for (size_t i = 0; i < m; i++)
        for (size_t k = 0; k < m; k++) {
            double h = H_out ? (double)H_out[i * m + k] : i == k, dot = 0;
            if (h == 0)
                continue;
            for (size_t j = 0; j < n; j++)
                dot += P[k * n + j] * E[i * n + j];
            sum += h * dot;
        }
    kq_free(P);
    return sum;
}

#endif
