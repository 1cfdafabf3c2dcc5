/* A weight matrix as the engine holds it: dense in f32, bf16 or f16, rows in 8 or 4 bits, or a packed
 * trellis; and its product with T vectors. A packed one is never decoded as a whole (docs/math.md,
 * "Decoding"). */
#ifndef KQ_DECODE_MATRIX_H
#define KQ_DECODE_MATRIX_H

#include "checkpoint/checkpoint.h"
#include "decode/bf16.h"
#include "decode/kernels.h"
#include "decode/packed.h"
#include "decode/rotate.h"

typedef enum kq_matrix_kind {
    KQ_MATRIX_F32,
    KQ_MATRIX_BF16,
    KQ_MATRIX_F16,
    KQ_MATRIX_Q8,
    KQ_MATRIX_Q4,
    KQ_MATRIX_PACKED
} kq_matrix_kind;

typedef struct kq_matrix {
    kq_matrix_kind kind;
    size_t m, n;
    float *f32;           /* owned [m, n] */
    const uint16_t *half; /* bf16 or f16 [m, n]: owned_half, or borrowed from the mapped file */
    uint16_t *owned_half;
    const uint8_t *q; /* borrowed: rows in 8 or 4 bits */
    float *scales;    /* owned [m, n / group] */
    size_t group;
    /* Packed: y = sv * (U_m (W' (U_n^T (su * x)))), the code's unit and the scale in sv. */
    const uint16_t *words; /* borrowed, or owned_words: [m_pad/16, n_pad/16, words a tile] */
    uint16_t *owned_words;
    float *su, *sv; /* owned [n], [m] */
    size_t m_pad, n_pad;
    /* a head may have rows of tiles of more bits, at its beginning and its end (kq_packed) */
    size_t fine_first, fine_last;
    const kq_trellis *fine;
    const kq_packed_code *fine_code;
    const kq_trellis *trellis;    /* borrowed, as are the rest */
    const kq_packed_code *code;   /* NULL: products in f32 */
    const kq_rotation *u_m, *u_n; /* u_m NULL: a head, whose outputs are not rotated */
} kq_matrix;
void kq_matrix_free(kq_matrix *M);
size_t kq_matrix_bytes(const kq_matrix *M); /* that one product reads, mapped bytes included */

/* The kernels of an instruction set that products need. */
typedef struct kq_matrix_kern {
    const kq_decode_kern *dense;
    const kq_packed_kern *packed;
    const kq_bf16_kern *bf16; /* NULL: products with a bf16 matrix go through `dense` */
} kq_matrix_kern;

/* A matrix that is not packed: y[t * ldy + r - r0] = (W x_t)[r] for rows r0 <= r < r1 and T vectors x_t, ldx
 * apart. */
void kq_matrix_rows(const kq_matrix *M, const kq_decode_kern *k, size_t r0, size_t r1, const float *x,
                    size_t ldx, size_t T, float *y, size_t ldy);

/* The same for a matrix in bf16 and T inputs that k->bf16 has packed. */
void kq_matrix_rows_packed(const kq_matrix *M, const kq_bf16_kern *k, size_t r0, size_t r1,
                           const uint32_t *packed, size_t T, float *y, size_t ldy);

/* A packed matrix, in three steps.
 * 1. One vector x [n], signed and rotated, to z: n_pad floats, or n_pad int16 where M->code is set, z ~ q *
 * *step then. scratch: 2 n_pad floats. */
void kq_matrix_rotate_in(const kq_matrix *M, const kq_matrix_kern *k, const float *x, void *z, float *step,
                         float *scratch);
/* 2. One row of tiles: y[t * ldy + r] for its 16 rows of W' and T vectors z, ldz elements apart. panel: 16
 * n_pad floats, 64-byte aligned. */
void kq_matrix_tile(const kq_matrix *M, const kq_matrix_kern *k, size_t tile, const void *z, size_t ldz,
                    size_t T, float *y, size_t ldy, void *panel);
/* 2 and 3 of a packed head, whose outputs are not rotated: y[t * ldy + r - r0] for rows r0 <= r < r1, r0 a
 * multiple of 16. y has room for whole rows of tiles. panel as in step 2. */
typedef struct kq_rotated {
    const void *z; /* T vectors of step 1, ldz elements apart */
    size_t ldz, T;
    const float *steps; /* [T] */
} kq_rotated;
void kq_matrix_head_rows(const kq_matrix *M, const kq_matrix_kern *k, size_t r0, size_t r1,
                         const kq_rotated *x, float *y, size_t ldy, void *panel);
/* 3. y [m] from one vector's product w [m_pad], rotated back and signed; w is changed. scratch: m_pad floats.
 */
void kq_matrix_rotate_out(const kq_matrix *M, const kq_decode_kern *k, float *w, float step, float *y,
                          float *scratch);

#endif
