/* Matrix products. Each call runs on the calling thread alone: who wants more threads cuts the work into
 * fixed tiles (kq_gemm_*_tiled), so that the result does not depend on how many there are. */
#ifndef KQ_KERN_GEMM_H
#define KQ_KERN_GEMM_H

#include "base/isa.h"

typedef enum kq_compute { KQ_F32 = 0, KQ_BF16 = 1 } kq_compute;

/* Row-major C[m,n] = alpha op(A) op(B) + beta C, op(A) [m,k], op(B) [k,n]; ta/tb: the operand is stored
 * transposed.
 * f32 through BLAS held to one thread: oneDNN's, for small products OpenBLAS's. lda.. are row strides in
 * elements of the array as stored. */
void kq_gemm_f32(bool ta, bool tb, size_t m, size_t n, size_t k, float alpha, const float *A, size_t lda,
                 const float *B, size_t ldb, float beta, float *C, size_t ldc);

/* The same with A and B in bf16, sums and C in f32, alpha 1 and beta 0 or 1; through oneDNN, which uses
 * AMX or AVX512_BF16 where the processor has it (isa amx; avx512) and emulates elsewhere (slower than
 * f32 there: kq_compute_best says what pays). Below AVX-512 oneDNN has no bf16: the operands are widened
 * and multiplied in f32. KQ_E_MEMORY or KQ_E_NUMERIC when
 * oneDNN cannot make the primitive. Primitives are kept in a small per-thread cache. */
kq_status kq_gemm_bf16(bool ta, bool tb, size_t m, size_t n, size_t k, const uint16_t *A, size_t lda,
                       const uint16_t *B, size_t ldb, bool accumulate, float *C, size_t ldc, kq_error *err);

/* Thread-parallel f32 product: C is cut into fixed tiles, each one kq_gemm_f32 call, spread over
 * `threads` OpenMP threads. The same bits for any number of threads. threads <= 1, or inside a parallel
 * region: serial, same tiles, same bits. */
void kq_gemm_f32_tiled(bool ta, bool tb, size_t m, size_t n, size_t k, float alpha, const float *A,
                       size_t lda, const float *B, size_t ldb, float beta, float *C, size_t ldc, int threads);

/* The same cut for bf16. On failure C holds rubbish. */
kq_status kq_gemm_bf16_tiled(bool ta, bool tb, size_t m, size_t n, size_t k, const uint16_t *A, size_t lda,
                             const uint16_t *B, size_t ldb, bool accumulate, float *C, size_t ldc,
                             int threads, kq_error *err);

/* KQ_BF16 where the processor multiplies bf16 faster than f32 (isa >= KQ_ISA_AMX), else KQ_F32. */
kq_compute kq_compute_best(kq_isa isa);
/* "f32" or "bf16"; name NULL: kq_compute_best. KQ_E_ARG on another word. */
kq_status kq_compute_pick(const char *name, kq_isa isa, kq_compute *out, kq_error *err);

/* For BLAS or LAPACK calls outside kq_gemm_*: one thread from here on for the calling task; gives what
 * to hand to kq_one_thread_end. */
int kq_one_thread_begin(void);
void kq_one_thread_end(int before);
/* Hold the matrix libraries to the instruction set and to one thread. Call it before the first product;
 * only the first call counts (the libraries fix their choice then), and a product without it calls it
 * with the best. Safe from several threads. OpenBLAS cannot be told its instruction set once loaded:
 * below what the machine has, every f32 product goes through oneDNN, which can (ref: SSE4.1, its
 * lowest). */
void kq_kern_init(kq_isa isa);
/* What kq_kern_init settled on. */
kq_isa kq_kern_isa(void);

#endif
