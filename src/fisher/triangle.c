/* Cholesky factors, their inverses and the check that a matrix is positive semidefinite. The factorisation
 * and the inverse go by blocks of 128, spread over threads, so that they keep up with the products when there
 * are many threads; each block is one call of LAPACK or BLAS on one thread, so that the bits do not depend on
 * their number. */
#include <math.h>
#include <string.h>

#include "fisher/product.h"
#include "kern/gemm.h"
#include "kern/lapack.h"

enum { BLOCK = 128 };

static size_t block_end(size_t from, size_t n)
{
    return n - from < BLOCK ? n : from + BLOCK;
}

static bool cholesky(const float *A, size_t n, float shift, float *L, int threads)
{
    int ld = (int)n, info;
    for (size_t i = 0; i < n; i++) {
        if (L != A)
            memcpy(L + i * n, A + i * n, (i + 1) * sizeof *L);
        L[i * n + i] += shift;
    }
    for (size_t k = 0; k < n; k += BLOCK) {
        size_t k1 = block_end(k, n), blocks = (n - k1 + BLOCK - 1) / BLOCK;
        int kb = (int)(k1 - k);
        float *diagonal = L + k * n + k;
        spotrf_("U", &kb, diagonal, &ld, &info, 1);
        if (info || !isfinite(diagonal[(size_t)(kb - 1) * n + (size_t)(kb - 1)]))
            return false;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
        for (size_t b = 0; b < blocks; b++) {
            const float one = 1;
            size_t i = k1 + b * BLOCK;
            int ib = (int)(block_end(i, n) - i);
            strsm_("L", "U", "T", "N", &kb, &ib, &one, diagonal, &ld, L + i * n + k, &ld, 1, 1, 1, 1);
        }
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
        for (size_t task = 0; task < blocks * blocks; task++) {
            size_t i = k1 + task / blocks * BLOCK, j = k1 + task % blocks * BLOCK;
            if (j <= i)
                kq_gemm_f32(false, true, block_end(i, n) - i, block_end(j, n) - j, (size_t)kb, -1,
                            L + i * n + k, n, L + j * n + k, n, 1, L + i * n + j, n);
        }
    }
    return true;
}

/* Outside a parallel region LAPACK would take threads of its own, and their number would change the last
 * bits. */
bool kq_cholesky(const float *A, size_t n, float shift, float *L, int threads)
{
    const int before = kq_one_thread_begin();
    const bool positive = cholesky(A, n, shift, L, threads);
    kq_one_thread_end(before);
    return positive;
}

void kq_triangle_inverse(const float *L, size_t n, float *C, int threads)
{
    const int before = kq_one_thread_begin();
    size_t blocks = (n + BLOCK - 1) / BLOCK;
    int ld = (int)n;
    memset(C, 0, n * n * sizeof *C);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (size_t b = 0; b < blocks; b++) { /* one block column of the inverse, top to bottom */
        const float minus = -1;
        size_t j = b * BLOCK, jb = block_end(j, n) - j;
        int info, J = (int)jb;
        for (size_t i = j; i < j + jb; i++)
            memcpy(C + i * n + j, L + i * n + j, (i - j + 1) * sizeof *C);
        strtri_("U", "N", &J, C + j * n + j, &ld, &info, 1, 1);
        for (size_t i = j + jb; i < n; i += BLOCK) {
            size_t ib = block_end(i, n) - i;
            int I = (int)ib;
            kq_gemm_f32(false, false, ib, jb, i - j, 1, L + i * n + j, n, C + j * n + j, n, 0, C + i * n + j,
                        n);
            strsm_("R", "U", "N", "N", &J, &I, &minus, L + i * n + i, &ld, C + i * n + j, &ld, 1, 1, 1, 1);
        }
    }
    kq_one_thread_end(before);
}

kq_status kq_regularised_inverse(const float *H, size_t n, double rho, float *L, float *C, int threads,
                                 int *regularised, kq_error *err)
{
    double trace = 0;
    for (size_t i = 0; i < n; i++)
        trace += H[i * n + i];
    if (!isfinite(trace) || trace <= 0)
        return kq_fail(err, KQ_E_NUMERIC,
                       "flipflop: a factor's trace is %g: the gradients over- or underflow f32 when squared",
                       trace);
    double scale = (double)n / trace;
    for (int tries = 1; tries <= 64; tries++) {
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j <= i; j++)
                L[i * n + j] = (float)(H[i * n + j] * scale);
        if (kq_cholesky(L, n, (float)(rho * tries), L, threads)) {
            kq_triangle_inverse(L, n, C, threads);
            return KQ_OK;
        }
        ++*regularised;
        if (rho <= 0)
            break;
    }
    return kq_fail(err, KQ_E_NUMERIC, "flipflop: a factor is singular even with rho = %g: raise --rho", rho);
}

size_t kq_psd_work(size_t n)
{
    /* eigenvectors n^2, eigenvalues n, ssyevd's scratch of 2 n^2 + 6 n + 1 values and 5 n + 3 integers */
    return 3 * n * n + 13 * n + 16;
}

kq_status kq_psd_check(float *H, size_t n, double tol, float *work, int threads, const char *what,
                       kq_error *err)
{
    double sum = 0;
    for (size_t i = 0; i < n * n; i++)
        sum += (double)H[i] * H[i];
    if (!isfinite(sum) || sum <= 0)
        return kq_fail(err, KQ_E_NUMERIC, "%s is zero or holds a NaN or an infinity", what);
    if (kq_cholesky(H, n, (float)(1e-6 * sqrt(sum)), work, threads))
        return KQ_OK;

    int N = (int)n, lwork = (int)(2 * n * n + 6 * n + 1), liwork = (int)(5 * n + 3), info;
    float *Z = work, *w = Z + n * n, *inner = w + n;
    int *iwork = (int *)(inner + lwork);
    memcpy(Z, H, n * n * sizeof *Z);
    ssyevd_("V", "U", &N, Z, &N, w, inner, &lwork, iwork, &liwork, &info, 1, 1);
    if (info)
        return kq_fail(err, KQ_E_NUMERIC, "%s: the eigenvalue solver failed (%d)", what, info);
    if (w[0] < -tol * w[n - 1])
        return kq_fail(err, KQ_E_NUMERIC,
                       "%s is not positive semidefinite: eigenvalues from %.3g to %.3g (more --max-iter?)",
                       what, (double)w[0], (double)w[n - 1]);
    for (size_t k = 0; k < n; k++) { /* row k of Z is eigenvector k: H = Z^T diag(w) Z */
        float root = sqrtf(w[k] > 0 ? w[k] : 0);
        for (size_t i = 0; i < n; i++)
            Z[k * n + i] *= root;
    }
    kq_gemm_f32_tiled(true, false, n, n, n, 1, Z, n, Z, n, 0, H, n, threads);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++)
            H[j * n + i] = H[i * n + j];
    return KQ_OK;
}
