/* Dense helpers that rounding needs beside BLAS: transposes, the factorisations that condition and split a
 * factor in one step, and the loss of an error matrix. Used by this room, by grid and by the benchmarks.
 * f32 and row-major unless it says otherwise; work is cut into fixed tiles, so that every number of threads
 * gives the same bits. */
#ifndef KQ_ROUND_MATRIX_H
#define KQ_ROUND_MATRIX_H

#include "round/round.h"

/* A number of threads that OpenMP takes. */
static inline int kq_at_least_one(int threads)
{
    return threads < 1 ? 1 : threads;
}

/* dst [cols, rows] = transpose of src [rows, cols]; they must not overlap. */
void kq_transpose(const float *src, size_t rows, size_t cols, float *dst, int threads);
/* A <- A^T in place, A [n, n]. */
void kq_transpose_square(float *A, size_t n, int threads);
/* kq_hadamard_rows for many rows on several threads. KQ_E_MEMORY: it allocates 2 n floats a thread. */
kq_status kq_hadamard_rows_mt(const kq_hadamard *h, bool transpose, float *x, size_t rows, size_t ld,
                              int threads, kq_error *err);
/* Index of the first NaN or Inf of x [n]; n when there is none. */
size_t kq_first_nonfinite(const float *x, size_t n);
/* Sum of the squares of x [n], in double and in order. */
double kq_sum_squares(const float *x, size_t n);

/* kq_factor_condition and kq_factor_block_ldl in one step, with one Cholesky factorisation instead of two and
 * on several threads. H [n, n] is overwritten by the conditioned factor; L_minus_I may be H itself. *extra:
 * how often sigma_reg was added again. Errors as those of the two functions. Needs 8 n^2 bytes. */
kq_status kq_factor_condition_ldl(float *H, size_t n, double sigma_reg, int *extra, float *L_minus_I,
                                  int threads, kq_error *err);

/* kq_factor_condition_ldl with blocks of one element: H = L diag(D) L^T, L unit lower triangular, D [n] > 0.
 * n need not be a multiple of 16; L_minus_I [n, n] may not be H, which holds the conditioned factor
 * afterwards. */
kq_status kq_factor_condition_ldl_scalar(float *H, size_t n, double sigma_reg, int *extra, float *L_minus_I,
                                         float *D, int threads, kq_error *err);

/* How much of an error that is made in rounding the targets remains after the feedback, on one side of the
 * matrix. With H = L Dg L^T after conditioning (eq. 54, 55) and M the factor as measured: */
typedef struct kq_side_weight {
    double loss;   /* w of eq. 64: tr(L^-1 M L^-T) */
    double spread; /* of eq. 65: ||L^-1||_F^2 */
} kq_side_weight;
/* H [n, n] rotated and perhaps shrunk, n a multiple of 16 (KQ_E_ARG): it is overwritten by the conditioned
 * factor. M [n, n]: the factor rotated alone. KQ_E_NUMERIC: H cannot be conditioned. Needs 8 n^2 bytes and
 * 2 KB n a thread. */
kq_status kq_factor_side_weight(float *H, const float *M, size_t n, double sigma_reg, int threads,
                                kq_side_weight *out, kq_error *err);

/* Eq. 1: *out = 1/2 tr(E H_in E^T H_out) for E [m, n]; a factor that is NULL is the identity. Needs 8 m n
 * bytes. */
kq_status kq_predicted_loss(const float *E, size_t m, size_t n, const float *H_in, const float *H_out,
                            int threads, double *out, kq_error *err);

#endif
