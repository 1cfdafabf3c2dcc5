/* Statistics over tokens: sums of weighted outer products, and the weights (docs/math.md, eq. 44 to 47). The
 * pass over the tokens is the caller's (sweep), because x and g of a token exist only while its block is at
 * work. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "fisher/product.h"

enum { TILE = 192 };

static size_t tile_end(size_t i, size_t n)
{
    return n - i < TILE ? n : i + TILE;
}

void kq_token_gram(const float *X, const float *w, size_t rows, size_t n, float *H, float *scaled,
                   int threads)
{
    const float *A = X;
    if (w) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
        for (size_t t = 0; t < rows; t++)
            for (size_t j = 0; j < n; j++)
                scaled[t * n + j] = w[t] * X[t * n + j];
        A = scaled;
    }
    const size_t tiles = (n + TILE - 1) / TILE;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (size_t k = 0; k < tiles * tiles; k++) {
        const size_t r = k / tiles * TILE, c = k % tiles * TILE;
        if (c <= r)
            kq_gemm_f32(true, false, tile_end(r, n) - r, tile_end(c, n) - c, rows, 1, A + r, n, X + c, n, 1,
                        H + r * n + c, n);
    }
}

void kq_token_quadratic(const float *X, size_t rows, size_t n, const float *H, float *q, float *scratch,
                        int threads)
{
    const size_t tiles = (rows + TILE - 1) / TILE;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (size_t k = 0; k < tiles; k++) {
        const size_t t0 = k * TILE, t1 = tile_end(t0, rows);
        kq_gemm_f32(false, false, t1 - t0, n, n, 1, X + t0 * n, n, H, n, 0, scratch + t0 * n, n);
        for (size_t t = t0; t < t1; t++) {
            double sum = 0;
            for (size_t j = 0; j < n; j++)
                sum += (double)X[t * n + j] * scratch[t * n + j];
            q[t] = sum > 0 ? (float)sum : 0; /* H is PSD up to rounding */
        }
    }
}

kq_status kq_token_weight(kq_token_weighting kind, const float *H, size_t n, double rho, int threads,
                          float *W, int *regularised, kq_error *err)
{
    if (kind ==
        KQ_WEIGHT_FACTOR) { /* H / ||H||_F^2: only the shape matters, eq. 6 sets the scale at the end */
        double sum = 0;
        for (size_t i = 0; i < n * n; i++)
            sum += (double)H[i] * H[i];
        if (!(sum > 0))
            return kq_fail(err, KQ_E_NUMERIC, "a factor over the tokens is zero or overflows");
        for (size_t i = 0; i < n * n; i++)
            W[i] = (float)(H[i] / sum);
        return KQ_OK;
    }
    float *L = kq_alloc(n * n, sizeof *L), *C = kq_alloc(n * n, sizeof *C);
    kq_status status =
        L && C ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: an inverse [%zu, %zu]", n, n);
    if (!status)
        status = kq_regularised_inverse(H, n, rho, L, C, threads, regularised, err);
    if (!status) { /* C is lower triangular: the inverse is C^T C */
        memset(W, 0, n * n * sizeof *W);
        kq_token_gram(C, NULL, n, n, W, NULL, threads);
        status = kq_token_finish(W, n, 1, err);
    }
    kq_free(L);
    kq_free(C);
    return status;
}

kq_status kq_token_finish(float *H, size_t n, size_t D, kq_error *err)
{
    double trace = 0, sum = 0;
    if (!n || !D)
        return kq_fail(err, KQ_E_ARG, "token statistics: width %zu, %zu samples", n, D);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j <= i; j++)
            sum += H[i * n + j];
        trace += H[i * n + i];
    }
    if (!isfinite(sum) || !isfinite(trace))
        return kq_fail(err, KQ_E_NUMERIC, "token statistics hold a NaN or an infinity");
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++)
            H[i * n + j] = H[j * n + i] = (float)(H[i * n + j] / (double)D);
    return KQ_OK;
}
