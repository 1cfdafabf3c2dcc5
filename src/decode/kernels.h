/* The kernels of decoding (docs/math.md, "Decoding"). Each value's sum is taken in an order that depends on
 * the row's length alone, never on how many rows or vectors share the call: so the logits of a position do
 * not depend on the batch. They cannot fail, allocate nothing and run on the calling thread; pointers need no
 * alignment. kernels_ref.c defines them. */
#ifndef KQ_DECODE_KERNELS_H
#define KQ_DECODE_KERNELS_H

#include "base/isa.h"

typedef struct kq_decode_kern {
    const char *name;
    /* y[t * ldy + r] = sum_i W[r * ldw + i] x[t * ldx + i] for r < rows, t < T. */
    void (*dots_f32)(const float *W, size_t ldw, size_t rows, size_t n, const float *x, size_t ldx, size_t T,
                     float *y, size_t ldy);
    void (*dots_bf16)(const uint16_t *W, size_t ldw, size_t rows, size_t n, const float *x, size_t ldx,
                      size_t T, float *y, size_t ldy);
    void (*dots_f16)(const uint16_t *W, size_t ldw, size_t rows, size_t n, const float *x, size_t ldx,
                     size_t T, float *y, size_t ldy);
    /* y[t * ldy + i] = sum_r x[t * ldx + r] W[r * ldw + i] for i < n, t < T. */
    void (*mix_f32)(const float *W, size_t ldw, size_t rows, size_t n, const float *x, size_t ldx, size_t T,
                    float *y, size_t ldy);
    void (*mix_bf16)(const uint16_t *W, size_t ldw, size_t rows, size_t n, const float *x, size_t ldx,
                     size_t T, float *y, size_t ldy);
    void (*mix_f16)(const uint16_t *W, size_t ldw, size_t rows, size_t n, const float *x, size_t ldx,
                    size_t T, float *y, size_t ldy);
    void (*to_f16)(const float *x, uint16_t *y, size_t n); /* kq_f32_to_f16 of each */
    /* Sylvester's transform across the n / step rows of x [n / step, step], n / step a power of two; not
     * normalised. */
    void (*sylvester)(float *x, size_t n, size_t step);
    /* y[t * ldy + r] of T vectors x against rows stored in 8 bits (int8) or 4 bits with one scale a group
     * (kq_rows_encode): a group is summed first, then the groups. scales: f32 [rows, n / group]. */
    void (*dots_q8)(const int8_t *q, const float *scales, size_t rows, size_t n, size_t group, const float *x,
                    size_t ldx, size_t T, float *y, size_t ldy);
    void (*dots_q4)(const uint8_t *q, const float *scales, size_t rows, size_t n, size_t group,
                    const float *x, size_t ldx, size_t T, float *y, size_t ldy);
} kq_decode_kern;

/* The best at or below isa, which the machine must run. */
const kq_decode_kern *kq_decode_kern_pick(kq_isa isa);
extern const kq_decode_kern kq_decode_kern_ref;
#if defined(__x86_64__)
extern const kq_decode_kern kq_decode_kern_avx2, kq_decode_kern_avx512;
#endif

#endif
