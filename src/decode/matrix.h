/* A weight matrix as the engine holds it: dense, or as the checkpoint stores it. */
#ifndef KQ_DECODE_MATRIX_H
#define KQ_DECODE_MATRIX_H

#include "checkpoint/checkpoint.h"
#include "decode/kernels.h"
#include "decode/packed.h"
#include "decode/rotate.h"

typedef enum kq_matrix_kind {
    KQ_MATRIX_F32,
    KQ_MATRIX_BF16,
    KQ_MATRIX_Q8,
    KQ_MATRIX_Q4,
    KQ_MATRIX_PACKED
} kq_matrix_kind;

typedef struct kq_matrix {
    kq_matrix_kind kind;
    size_t m, n;
    float *f32;       /* owned [m, n] */
    uint16_t *bf16;   /* owned [m, n] */
    const uint8_t *q; /* borrowed: rows in 8 or 4 bits */
    float *scales;    /* owned [m, n / group] */
    size_t group;
    /* Packed: y = sv * (U_m (W' (U_n^T (su * x)))), the code's unit and the scale in sv. */
    const uint16_t *words; /* borrowed, or owned_words: [m_pad/16, n_pad/16, words a tile] */
    uint16_t *owned_words;
    float *su, *sv; /* owned [n], [m] */
    size_t m_pad, n_pad;
    const kq_trellis *trellis;  /* borrowed, as are the rest */
    const kq_packed_code *code; /* NULL: products in f32 */
    const kq_rotation *u_m, *u_n;
} kq_matrix;
void kq_matrix_free(kq_matrix *M);
size_t kq_matrix_bytes(const kq_matrix *M);

/* Not packed: y[t * ldy + r - r0] = (W x_t)[r] for rows r0 <= r < r1 and T vectors. */
void kq_matrix_rows(const kq_matrix *M, const kq_decode_kern *k, size_t r0, size_t r1, const float *x,
                    size_t ldx, size_t T, float *y, size_t ldy);

/* Packed, in three steps. One vector x [n] to z (n_pad floats, or as many int16 when M->code is set;
 * *step then). scratch: 2 n_pad floats. */
void kq_matrix_rotate_in(const kq_matrix *M, const kq_decode_kern *k, const kq_packed_kern *p, const float *x,
                         void *z, float *step, float *scratch);
/* Row tile: y[t * ldy + r] for its 16 rows of W' and T vectors z, ldz (floats or int16) apart. panel: 16
 * n_pad floats, 64-byte aligned. */
void kq_matrix_tile(const kq_matrix *M, const kq_decode_kern *k, const kq_packed_kern *p, size_t tile,
                    const void *z, size_t ldz, size_t T, float *y, size_t ldy, void *panel);
/* y [m] from the product w [m_pad] (changed). scratch: m_pad floats. */
void kq_matrix_rotate_out(const kq_matrix *M, const kq_decode_kern *k, float *w, float step, float *y,
                          float *scratch);

#endif
