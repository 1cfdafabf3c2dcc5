/* Small dense helpers of this room: f32 row-major, spread over fixed tiles, the same bits for every
 * number of threads. */
#ifndef KQ_ROUND_MATRIX_H
#define KQ_ROUND_MATRIX_H

#include "round/round.h"

/* dst [cols, rows] = transpose of src [rows, cols]; they must not overlap. */
void kq_transpose(const float *src, size_t rows, size_t cols, float *dst, int threads);
/* A <- A^T in place, [n, n]. */
void kq_transpose_square(float *A, size_t n, int threads);
/* kq_hadamard_rows for many rows on several threads (allocates the scratch). */
kq_status kq_hadamard_rows_mt(const kq_hadamard *h, bool transpose, float *x, size_t rows, size_t ld,
                              int threads, kq_error *err);
/* Index of the first NaN or Inf of x [n], or n. */
size_t kq_first_nonfinite(const float *x, size_t n);

/* kq_factor_condition and kq_factor_block_ldl in one, with one Cholesky factorisation instead of two and
 * on several threads. H is overwritten by the conditioned factor; L_minus_I may be H itself. extra as
 * there. */
kq_status kq_factor_condition_ldl(float *H, size_t n, double sigma_reg, int *extra, float *L_minus_I,
                                  int threads, kq_error *err);

/* The same with blocks of one element: H = L diag(D) L^T, L unit lower triangular, D [n] > 0. n need not
 * be a multiple of 16; L_minus_I may not be H, which holds the conditioned factor afterwards. */
kq_status kq_factor_condition_ldl_scalar(float *H, size_t n, double sigma_reg, int *extra, float *L_minus_I,
                                         float *D, int threads, kq_error *err);

/* What an error made in rounding the targets comes to after the feedback (eq. 64): with H = L Dg L^T
 * after conditioning (eq. 54; blocks of 16, n a multiple of 16),
 *   *measured = tr(L^-1 M L^-T),  *plain = ||L^-1||_F^2.
 * M [n, n] the factor as measured, rotated; H the same, perhaps shrunk; it is overwritten by the
 * conditioned one. Needs 8 n^2 bytes. */
kq_status kq_factor_through(float *H, const float *M, size_t n, double sigma_reg, double *measured,
                            double *plain, int threads, kq_error *err);

/* Eq. 1: 1/2 tr(E H_in E^T H_out), E [m, n]; a NULL factor is the identity. Needs 8 m n bytes. */
kq_status kq_predicted_loss(const float *E, size_t m, size_t n, const float *H_in, const float *H_out,
                            int threads, double *out, kq_error *err);

#endif
