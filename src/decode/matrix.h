/* A weight matrix as the engine holds it: dense, or as the checkpoint stores it. */
#ifndef KQ_DECODE_MATRIX_H
#define KQ_DECODE_MATRIX_H

#include "checkpoint/checkpoint.h"
#include "decode/kernels.h"

typedef enum kq_matrix_kind { KQ_MATRIX_F32, KQ_MATRIX_BF16, KQ_MATRIX_Q8, KQ_MATRIX_Q4 } kq_matrix_kind;

typedef struct kq_matrix {
    kq_matrix_kind kind;
    size_t m, n;
    float *f32;         /* owned [m, n] */
    uint16_t *bf16;     /* owned [m, n] */
    const uint8_t *q;   /* borrowed: rows in 8 or 4 bits */
    float *scales;      /* owned [m, n / group] */
    size_t group;
} kq_matrix;
void kq_matrix_free(kq_matrix *M);
size_t kq_matrix_bytes(const kq_matrix *M);

/* y[t * ldy + r - r0] = (W x_t)[r] for rows r0 <= r < r1 and T vectors. */
void kq_matrix_rows(const kq_matrix *M, const kq_decode_kern *k, size_t r0, size_t r1, const float *x, size_t ldx, size_t T, float *y, size_t ldy);

#endif
