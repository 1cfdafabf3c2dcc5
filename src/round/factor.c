/* Factors before rounding: rotation (eq. 51), shrinking (eq. 63), conditioning (eq. 54), block LDL (eq. 55)
 * and the weight of a side (eq. 64). The Cholesky factorisation is kronq's own blocked one over BLAS's f64
 * kernels, because LAPACK's dpotrf on several threads changes its last bits with their number: here the tiles
 * are fixed. It works in f64, because the feedback carries an error of L into every later tile. */
#include "round/round.h"

#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/mem.h"
#include "kern/gemm.h"
#include "kern/lapack.h"
#include "round/matrix.h"

enum {
    PANEL = 128,   /* rows and columns of a tile of the factorisation */
    MAX_EXTRA = 20 /* repeats of adding sigma_reg */
};

kq_status kq_factor_rotate(const kq_hadamard *u, const int8_t *s, float *H, size_t n, int threads,
                           kq_error *err)
{
    if (kq_hadamard_order(u) != n)
        return kq_fail(err, KQ_E_ARG, "a factor of order %zu cannot be rotated by a transform of order %zu",
                       n, kq_hadamard_order(u));
    threads = kq_at_least_one(threads);
    if (s)
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                H[i * n + j] *= (float)(s[i] * s[j]);
    /* H U, then (H U)^T U = U^T H U, since H is symmetric. */
    kq_status st = kq_hadamard_rows_mt(u, false, H, n, n, threads, err);
    if (st != KQ_OK)
        return st;
    kq_transpose_square(H, n, threads);
    if ((st = kq_hadamard_rows_mt(u, false, H, n, n, threads, err)) != KQ_OK)
        return st;
#pragma omp parallel for schedule(dynamic, 16) num_threads(threads) if (threads > 1)
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++)
            H[i * n + j] = H[j * n + i] = 0.5f * (H[i * n + j] + H[j * n + i]);
    return KQ_OK;
}

void kq_factor_shrink(float *H, size_t n, double shrink)
{
    if (shrink == 0)
        return;
    const float keep = (float)(1 - shrink);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            if (i != j)
                H[i * n + j] *= keep;
}

/* A = C C^T in place, row-major lower triangle of [n, n] (the upper one is scratch). False: not positive
 * definite. */
static bool cholesky(double *A, size_t n, int threads)
{
    const int ld = (int)n;
    for (size_t k = 0; k < n; k += PANEL) {
        size_t kn = n - k < PANEL ? n - k : PANEL, rest = k + kn;
        double *D = A + k * n + k;
        int info = 0, order_d = (int)kn, saved = kq_one_thread_begin();
        dpotrf_("U", &order_d, D, &ld, &info, 1); /* column-major upper is row-major lower */
        kq_one_thread_end(saved);
        for (size_t i = 0; i < kn && info == 0; i++)
            if (!isfinite(D[i * n + i]))
                info = 1;
        if (info != 0)
            return false;
        size_t tiles = (n - rest + PANEL - 1) / PANEL;
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
            int mine = kq_one_thread_begin();
#pragma omp for schedule(dynamic, 1)
            for (size_t t = 0; t < tiles; t++) {
                size_t i = rest + t * PANEL, in = n - i < PANEL ? n - i : PANEL;
                cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, (blasint)in,
                            (blasint)kn, 1, D, ld, A + i * n + k, ld);
            }
            /* Tile (ti, tj) of the lower triangle, the longest rows first. */
#pragma omp for schedule(dynamic, 1)
            for (size_t t = 0; t < tiles * tiles; t++) {
                size_t ti = tiles - 1 - t / tiles, tj = t % tiles;
                if (tj > ti)
                    continue;
                size_t i = rest + ti * PANEL, in = n - i < PANEL ? n - i : PANEL, j = rest + tj * PANEL,
                       jn = n - j < PANEL ? n - j : PANEL;
                cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)in, (blasint)jn, (blasint)kn,
                            -1, A + i * n + k, ld, A + j * n + k, ld, 1, A + i * n + j, ld);
            }
            kq_one_thread_end(mine);
        }
    }
    return true;
}

static void widen(const float *H, size_t n, double *A)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++)
            A[i * n + j] = H[i * n + j];
}

static kq_status check_order(size_t n, kq_error *err)
{
    if (n == 0 || n > 1u << 20)
        return kq_fail(err, KQ_E_ARG, "a factor of order %zu (1 to 2^20)", n);
    return KQ_OK;
}

static kq_status check_blocks(size_t n, kq_error *err)
{
    kq_status st = check_order(n, err);
    if (st == KQ_OK && n % KQ_TILE != 0)
        return kq_fail(err, KQ_E_ARG, "block LDL of order %zu, not a multiple of %d", n, KQ_TILE);
    return st;
}

/* Condition H (eq. 54); on success A [n, n] holds its Cholesky factor. */
static kq_status condition(float *H, size_t n, double sigma_reg, int *extra, double *A, int threads,
                           kq_error *err)
{
    *extra = 0;
    if (!(sigma_reg >= 0) || !isfinite(sigma_reg))
        return kq_fail(err, KQ_E_ARG, "sigma_reg %g: a number from 0 on", sigma_reg);
    size_t bad = kq_first_nonfinite(H, n * n);
    if (bad < n * n)
        return kq_fail(err, KQ_E_NUMERIC, "the factor holds NaN or Inf at [%zu, %zu]", bad / n, bad % n);
    double mean = 0;
    for (size_t i = 0; i < n; i++)
        mean += H[i * n + i];
    mean /= (double)n;
    if (mean == 0) { /* no gradient reached this layer: the factor is zero throughout, or it is indefinite */
        for (size_t i = 0; i < n * n; i++)
            if (H[i] != 0)
                return kq_fail(err, KQ_E_NUMERIC, "the factor is indefinite: its trace is 0");
        for (size_t i = 0; i < n; i++)
            H[i * n + i] = 1; /* the identity, even where sigma_reg is 0 */
        mean = 1;
    }
    if (mean < 0)
        return kq_fail(err, KQ_E_NUMERIC, "the factor is indefinite: its mean diagonal is %g", mean);
    for (size_t i = 0; i < n * n; i++)
        H[i] = (float)(H[i] / mean);
    for (;;) {
        for (size_t i = 0; i < n; i++)
            H[i * n + i] = (float)(H[i * n + i] + sigma_reg);
        widen(H, n, A);
        if (cholesky(A, n, threads))
            return KQ_OK;
        if (++*extra > MAX_EXTRA) {
            *extra = MAX_EXTRA;
            return kq_fail(err, KQ_E_NUMERIC,
                           "the factor is not positive definite even with %g on its diagonal (mean 1)",
                           sigma_reg * (MAX_EXTRA + 1));
        }
    }
}

/* L - I from the Cholesky factor C in A: L(i,b) = C(i,b) C(b,b)^-1 for blocks i > b. */
static void ldl_of_cholesky(double *A, size_t n, float *L, int threads)
{
    const int ld = (int)n;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        int mine = kq_one_thread_begin();
#pragma omp for schedule(dynamic, 1)
        for (size_t b = 0; b < n; b += KQ_TILE) {
            size_t below = n - b - KQ_TILE;
            if (below > 0)
                cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, (blasint)below,
                            KQ_TILE, 1, A + b * n + b, ld, A + (b + KQ_TILE) * n + b, ld);
        }
#pragma omp for schedule(static)
        for (size_t i = 0; i < n; i++) {
            size_t b = i / KQ_TILE * KQ_TILE;
            for (size_t j = 0; j < n; j++)
                L[i * n + j] = j < b ? (float)A[i * n + j] : 0;
        }
        kq_one_thread_end(mine);
    }
}

kq_status kq_factor_condition(float *H, size_t n, double sigma_reg, int *extra, kq_error *err)
{
    double *A;
    kq_status st = check_order(n, err);
    if (st != KQ_OK || (st = kq_alloc_for((void **)&A, n * n, sizeof *A, "Cholesky factor", err)) != KQ_OK)
        return st;
    st = condition(H, n, sigma_reg, extra, A, 1, err);
    kq_free(A);
    return st;
}

kq_status kq_factor_block_ldl(const float *H, size_t n, float *L_minus_I, kq_error *err)
{
    double *A;
    kq_status st = check_blocks(n, err);
    if (st != KQ_OK)
        return st;
    if ((st = kq_alloc_for((void **)&A, n * n, sizeof *A, "Cholesky factor", err)) != KQ_OK)
        return st;
    widen(H, n, A);
    if (cholesky(A, n, 1))
        ldl_of_cholesky(A, n, L_minus_I, 1);
    else
        st =
            kq_fail(err, KQ_E_NUMERIC, "block LDL: the factor is not positive definite (condition it first)");
    kq_free(A);
    return st;
}

kq_status kq_factor_condition_ldl(float *H, size_t n, double sigma_reg, int *extra, float *L_minus_I,
                                  int threads, kq_error *err)
{
    double *A;
    kq_status st = check_blocks(n, err);
    if (st != KQ_OK)
        return st;
    if ((st = kq_alloc_for((void **)&A, n * n, sizeof *A, "Cholesky factor", err)) != KQ_OK)
        return st;
    threads = kq_at_least_one(threads);
    if ((st = condition(H, n, sigma_reg, extra, A, threads, err)) == KQ_OK)
        ldl_of_cholesky(A, n, L_minus_I, threads);
    kq_free(A);
    return st;
}

/* Rows i0.. of L^-1 = blockdiag(C(b,b)) C^-1 from the Cholesky factor C in A: R [in, i1], i1 = i0 + in;
 * they are zero beyond. */
static void rows_of_inverse(const double *A, size_t n, size_t i0, size_t in, double *R)
{
    const size_t i1 = i0 + in;
    memset(R, 0, in * i1 * sizeof *R);
    for (size_t i = 0; i < in; i++)
        R[i * i1 + i0 + i] = 1;
    cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, (blasint)in, (blasint)i1,
                1, A, (blasint)n, R, (blasint)i1);
    for (size_t b = 0; b < in; b += KQ_TILE)
        cblas_dtrmm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, KQ_TILE, (blasint)i1, 1,
                    A + (i0 + b) * (n + 1), (blasint)n, R + b * i1, (blasint)i1);
}

/* tr(L^-1 M L^-T) and ||L^-1||_F^2 of the rows of one panel of L^-1, into sums[0] and sums[1]. R: room for
 * the rows in f64; half: twice that room in f32. */
static void panel_weight(const double *A, size_t n, const float *M, size_t panel, double *R, float *half,
                         double sums[2])
{
    const size_t i0 = panel * PANEL, in = n - i0 < PANEL ? n - i0 : PANEL, i1 = i0 + in;
    float *rows = half, *rows_M = half + PANEL * n;
    double square = 0, through = 0;
    rows_of_inverse(A, n, i0, in, R);
    for (size_t i = 0; i < in * i1; i++) {
        square += R[i] * R[i];
        rows[i] = (float)R[i];
    }
    kq_gemm_f32(false, false, in, i1, i1, 1, rows, i1, M, n, 0, rows_M, i1);
    for (size_t i = 0; i < in * i1; i++)
        through += R[i] * rows_M[i];
    sums[0] = through;
    sums[1] = square;
}

kq_status kq_factor_side_weight(float *H, const float *M, size_t n, double sigma_reg, int threads,
                                kq_side_weight *out, kq_error *err)
{
    double *A = NULL, *R = NULL, *sums = NULL;
    float *half = NULL;
    int extra;
    kq_status st = check_blocks(n, err);
    if (st != KQ_OK)
        return st;
    threads = kq_at_least_one(threads);
    const size_t panels = (n + PANEL - 1) / PANEL, room = PANEL * n;
    if ((st = kq_alloc_for((void **)&A, n * n, sizeof *A, "Cholesky factor", err)) != KQ_OK ||
        (st = condition(H, n, sigma_reg, &extra, A, threads, err)) != KQ_OK ||
        (st = kq_alloc_for((void **)&R, (size_t)threads * room, sizeof *R, "rows of an inverse", err)) !=
            KQ_OK ||
        (st = kq_alloc_for((void **)&half, 2 * (size_t)threads * room, sizeof *half, "rows of an inverse",
                           err)) != KQ_OK ||
        (st = kq_alloc_for((void **)&sums, 2 * panels, sizeof *sums, "sums", err)) != KQ_OK)
        goto out;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const int mine = kq_one_thread_begin();
        const size_t thread = (size_t)omp_get_thread_num();
#pragma omp for schedule(dynamic, 1)
        for (size_t t = 0; t < panels; t++) { /* the longest rows first */
            const size_t panel = panels - 1 - t;
            panel_weight(A, n, M, panel, R + thread * room, half + 2 * thread * room, sums + 2 * panel);
        }
        kq_one_thread_end(mine);
    }
    *out = (kq_side_weight){0};
    for (size_t panel = 0; panel < panels; panel++) {
        out->loss += sums[2 * panel];
        out->spread += sums[2 * panel + 1];
    }
out:
    kq_free(A);
    kq_free(R);
    kq_free(half);
    kq_free(sums);
    return st;
}

kq_status kq_factor_condition_ldl_scalar(float *H, size_t n, double sigma_reg, int *extra, float *L_minus_I,
                                         float *D, int threads, kq_error *err)
{
    double *A;
    kq_status st = check_order(n, err);
    if (st != KQ_OK || (st = kq_alloc_for((void **)&A, n * n, sizeof *A, "Cholesky factor", err)) != KQ_OK)
        return st;
    threads = kq_at_least_one(threads);
    if ((st = condition(H, n, sigma_reg, extra, A, threads, err)) == KQ_OK) {
        for (size_t j = 0; j < n; j++)
            D[j] = (float)(A[j * n + j] * A[j * n + j]);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                L_minus_I[i * n + j] = j < i ? (float)(A[i * n + j] / A[j * n + j]) : 0;
    }
    kq_free(A);
    return st;
}
