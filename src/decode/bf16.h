/* Products with a matrix in bf16 through AMX, whose tile instructions multiply 16 x 32 weights with 32 x 16
 * inputs at once. The weights lie as they are stored, row by row, and are read as the left operand. Only the
 * inputs are rearranged ("packed"), once for all rows of all matrices that share them.
 *
 * An input x is split into two bf16 numbers, hi = bf16(x) and lo = bf16(x - hi), so that 16 of its bits count
 * and the products are as exact as those of kernels.h to about 2^-17. A sum takes 32 columns at a time, first
 * with hi, then with lo: this order depends on the row's length alone, never on how many rows or vectors
 * share the call. Numbers below 2^-126 count as 0. */
#ifndef KQ_DECODE_BF16_H
#define KQ_DECODE_BF16_H

#include <stdint.h>

#include "base/isa.h"

enum {
    KQ_BF16_GROUP = 16, /* vectors that are packed side by side */
    KQ_BF16_STEP = 32   /* columns of a tile */
};

typedef struct kq_bf16_kern {
    /* Columns [32 step0, 32 step1) of vectors x [count, n], ldx apart, count <= 16, go to their place in
     * `packed`, where all of the group's kq_bf16_packed_size(n, count) words will lie. */
    void (*pack)(const float *x, size_t ldx, size_t count, size_t n, size_t step0, size_t step1,
                 uint32_t *packed);
    /* y[t * ldy + r] = sum_i W[r * n + i] x_t[i] for r < rows and T vectors: packed in groups of 16, the last
     * one of what is left, one group after the other. */
    void (*dots)(const uint16_t *W, size_t rows, size_t n, const uint32_t *packed, size_t T, float *y,
                 size_t ldy);
} kq_bf16_kern;

static inline size_t kq_bf16_steps(size_t n)
{
    return (n + KQ_BF16_STEP - 1) / KQ_BF16_STEP;
}

/* Words (of 32 bits) of T packed vectors of n columns. */
static inline size_t kq_bf16_packed_size(size_t n, size_t T)
{
    return kq_bf16_steps(n) * KQ_BF16_STEP * T;
}

/* NULL below AMX: the kernels of kernels.h multiply there. */
const kq_bf16_kern *kq_bf16_kern_pick(kq_isa isa);

#endif
