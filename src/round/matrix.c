/* The dense helpers of matrix.h. Everything is a loop over fixed tiles or a product of gemm.h, so that the
 * number of threads changes no bit. */
#include "round/matrix.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/mem.h"
#include "kern/gemm.h"

enum { BLOCK = 32, ROWS = 16 };

void kq_transpose(const float *src, size_t rows, size_t cols, float *dst, int threads)
{
    size_t nr = (rows + BLOCK - 1) / BLOCK, nc = (cols + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (size_t t = 0; t < nr * nc; t++) {
        size_t r0 = t / nc * BLOCK, c0 = t % nc * BLOCK;
        size_t r1 = r0 + BLOCK < rows ? r0 + BLOCK : rows, c1 = c0 + BLOCK < cols ? c0 + BLOCK : cols;
        for (size_t c = c0; c < c1; c++)
            for (size_t r = r0; r < r1; r++)
                dst[c * rows + r] = src[r * cols + c];
    }
}

void kq_transpose_square(float *A, size_t n, int threads)
{
    size_t nb = (n + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (size_t bi = 0; bi < nb; bi++)
        for (size_t bj = 0; bj <= bi; bj++) {
            size_t r1 = (bi + 1) * BLOCK < n ? (bi + 1) * BLOCK : n,
                   c1 = (bj + 1) * BLOCK < n ? (bj + 1) * BLOCK : n;
            for (size_t r = bi * BLOCK; r < r1; r++)
                for (size_t c = bj * BLOCK; c < (bi == bj ? r : c1); c++) {
                    float t = A[r * n + c];
                    A[r * n + c] = A[c * n + r];
                    A[c * n + r] = t;
                }
        }
}

kq_status kq_hadamard_rows_mt(const kq_hadamard *h, bool transpose, float *x, size_t rows, size_t ld,
                              int threads, kq_error *err)
{
    size_t n = kq_hadamard_order(h), tiles = (rows + ROWS - 1) / ROWS;
    if (threads < 1)
        threads = 1;
    float *scratch;
    kq_status st = kq_alloc_for((void **)&scratch, (size_t)threads * 2 * n, sizeof *scratch,
                                "orthogonal transform", err);
    if (st != KQ_OK)
        return st;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (size_t t = 0; t < tiles; t++) {
        size_t r0 = t * ROWS, count = rows - r0 < ROWS ? rows - r0 : ROWS;
        kq_hadamard_rows(h, transpose, x + r0 * ld, count, ld,
                         scratch + (size_t)omp_get_thread_num() * 2 * n);
    }
    kq_free(scratch);
    return KQ_OK;
}

size_t kq_first_nonfinite(const float *x, size_t n)
{
    /* x - x is 0 for a finite x and NaN otherwise: a block at a time, so that it vectorises. */
    for (size_t i = 0; i < n; i += 1024) {
        size_t end = n - i < 1024 ? n : i + 1024;
        unsigned bad = 0;
        for (size_t j = i; j < end; j++)
            bad |= !(x[j] - x[j] == 0);
        if (bad)
            for (size_t j = i; j < end; j++)
                if (!isfinite(x[j]))
                    return j;
    }
    return n;
}

double kq_sum_squares(const float *x, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += (double)x[i] * x[i];
    return s;
}

kq_status kq_predicted_loss(const float *E, size_t m, size_t n, const float *H_in, const float *H_out,
                            int threads, double *out, kq_error *err)
{
    float *P = NULL, *Q = NULL;
    kq_status st = KQ_OK;
    const float *left = E, *right = E;
    if (H_in) {
        if ((st = kq_alloc_for((void **)&P, m * n, sizeof *P, "predicted loss", err)) != KQ_OK)
            goto out;
        kq_gemm_f32_tiled(false, false, m, n, n, 1, E, n, H_in, n, 0, P, n, threads);
        right = P;
    }
    if (H_out) {
        if ((st = kq_alloc_for((void **)&Q, m * n, sizeof *Q, "predicted loss", err)) != KQ_OK)
            goto out;
        kq_gemm_f32_tiled(false, false, m, n, m, 1, H_out, m, E, n, 0, Q, n, threads);
        left = Q;
    }
    double sum = 0;
    for (size_t i = 0; i < m * n; i++)
        sum += (double)left[i] * right[i];
    *out = 0.5 * sum;
out:
    kq_free(P);
    kq_free(Q);
    return st;
}
