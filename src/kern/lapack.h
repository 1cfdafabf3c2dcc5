/* The Fortran entry points of BLAS and LAPACK (OpenBLAS) that gemm.h does not wrap. Column-major: a
 * row-major lower triangle is their upper one. All run on the calling thread once kq_kern_init has held
 * OpenBLAS to one. The hidden string lengths are passed, as gfortran's convention asks. */
#ifndef KQ_KERN_LAPACK_H
#define KQ_KERN_LAPACK_H

#include <stddef.h>

/* C = alpha A A^T + beta C (trans 'N', A [n,k]) or alpha A^T A + beta C ('T', A [k,n]), one triangle. */
void ssyrk_(const char *uplo, const char *trans, const int *n, const int *k, const float *alpha,
            const float *A, const int *lda, const float *beta, float *C, const int *ldc, size_t uplo_len,
            size_t trans_len);
/* B = alpha op(A)^-1 B or B op(A)^-1, A triangular. */
void strsm_(const char *side, const char *uplo, const char *transa, const char *diag, const int *m,
            const int *n, const float *alpha, const float *A, const int *lda, float *B, const int *ldb,
            size_t side_len, size_t uplo_len, size_t trans_len, size_t diag_len);
/* B = alpha op(A) B or B op(A), A triangular. */
void strmm_(const char *side, const char *uplo, const char *transa, const char *diag, const int *m,
            const int *n, const float *alpha, const float *A, const int *lda, float *B, const int *ldb,
            size_t side_len, size_t uplo_len, size_t trans_len, size_t diag_len);
/* Cholesky factor in place; info > 0: not positive definite. */
void spotrf_(const char *uplo, const int *n, float *A, const int *lda, int *info, size_t uplo_len);
void dpotrf_(const char *uplo, const int *n, double *A, const int *lda, int *info, size_t uplo_len);
/* Inverse of a triangular matrix in place. */
void strtri_(const char *uplo, const char *diag, const int *n, float *A, const int *lda, int *info,
             size_t uplo_len, size_t diag_len);
/* Eigenvalues (ascending) and, with jobz 'V', eigenvectors (columns, in A) of a symmetric matrix, divide
 * and conquer. */
void ssyevd_(const char *jobz, const char *uplo, const int *n, float *A, const int *lda, float *w,
             float *work, const int *lwork, int *iwork, const int *liwork, int *info, size_t jobz_len,
             size_t uplo_len);
void dsyev_(const char *jobz, const char *uplo, const int *n, double *A, const int *lda, double *w,
            double *work, const int *lwork, int *info, size_t jobz_len, size_t uplo_len);
/* Singular value decomposition A = U diag(s) VT, s descending. */
void dgesvd_(const char *jobu, const char *jobvt, const int *m, const int *n, double *A, const int *lda,
             double *s, double *U, const int *ldu, double *VT, const int *ldvt, double *work,
             const int *lwork, int *info, size_t jobu_len, size_t jobvt_len);

#endif
