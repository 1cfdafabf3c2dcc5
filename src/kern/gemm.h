/* Matrix products. A call of kq_gemm_f32 or kq_gemm_bf16 runs on the calling thread alone; for more threads
 * the work is cut into fixed tiles (kq_gemm_*_tiled), so that the result does not depend on how many there
 * are.
 *
 * The parameters stand in the order of BLAS' sgemm (Dongarra et al. 1990), which every reader of such code
 * knows; these four functions are the only ones of kronq with so many (scripts/house.py, MIRRORS). All
 * matrices are row-major; lda, ldb and ldc are row strides, in elements, of the arrays as they are stored. A,
 * B and C may not overlap. */
#ifndef KQ_KERN_GEMM_H
#define KQ_KERN_GEMM_H

#include "base/isa.h"

typedef enum kq_compute { KQ_F32 = 0, KQ_BF16 = 1 } kq_compute;

/* C [m,n] = alpha op(A) op(B) + beta C with op(A) [m,k], op(B) [k,n]; ta, tb: the operand is stored
 * transposed. Through oneDNN's sgemm for large products and OpenBLAS's for small ones, each held to one
 * thread. */
void kq_gemm_f32(bool ta, bool tb, size_t m, size_t n, size_t k, float alpha, const float *A, size_t lda,
                 const float *B, size_t ldb, float beta, float *C, size_t ldc);

/* C [m,n] = op(A) op(B), or += where accumulate is set, with A and B in bf16, sums and C in f32. Through
 * oneDNN, which uses AMX (isa amx) or AVX512_BF16 (isa avx512) where the processor has it and emulates bf16
 * otherwise, slower than f32 (kq_compute_best says what pays). Below AVX-512 oneDNN has no bf16: the operands
 * are widened and multiplied in f32. Primitives are kept in a small cache of the calling thread. KQ_E_MEMORY,
 * or KQ_E_NUMERIC when oneDNN fails. */
kq_status kq_gemm_bf16(bool ta, bool tb, size_t m, size_t n, size_t k, const uint16_t *A, size_t lda,
                       const uint16_t *B, size_t ldb, bool accumulate, float *C, size_t ldc, kq_error *err);

/* kq_gemm_f32 on several threads: C is cut into fixed tiles, each one a call of kq_gemm_f32, spread over
 * `threads` OpenMP threads. The same bits for every number of threads. With threads <= 1, or inside a
 * parallel region, the same tiles one after the other. */
void kq_gemm_f32_tiled(bool ta, bool tb, size_t m, size_t n, size_t k, float alpha, const float *A,
                       size_t lda, const float *B, size_t ldb, float beta, float *C, size_t ldc, int threads);

/* kq_gemm_bf16 cut into the same tiles. On failure C's contents are undefined. */
kq_status kq_gemm_bf16_tiled(bool ta, bool tb, size_t m, size_t n, size_t k, const uint16_t *A, size_t lda,
                             const uint16_t *B, size_t ldb, bool accumulate, float *C, size_t ldc,
                             int threads, kq_error *err);

/* KQ_BF16 where the processor multiplies bf16 faster than f32 (isa >= KQ_ISA_AMX), else KQ_F32. */
kq_compute kq_compute_best(kq_isa isa);
/* "f32" or "bf16"; name NULL: kq_compute_best. KQ_E_ARG on another word. */
kq_status kq_compute_pick(const char *name, kq_isa isa, kq_compute *out, kq_error *err);

/* For calls of BLAS or LAPACK outside kq_gemm_*: the calling task has one thread from here on. Returns what
 * kq_one_thread_end takes. */
int kq_one_thread_begin(void);
void kq_one_thread_end(int before);
/* Hold the matrix libraries to the instruction set and to one thread. Call it before the first product: only
 * the first call counts, because the libraries fix their choice then; a product without it calls it with the
 * best. Safe from several threads. OpenBLAS cannot be told its instruction set once it is loaded, so that
 * below what the machine has every f32 product goes through oneDNN, which can (ref: SSE4.1, its lowest). */
void kq_kern_init(kq_isa isa);
/* The instruction set that kq_kern_init chose. */
kq_isa kq_kern_isa(void);

#endif
