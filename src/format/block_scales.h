/* The F16 numbers of a GGUF block, which all of its weights share. A block's weights are
 *
 *     w = d p - m o                                       (Q4_1, Q5_1: w = d p + m o)
 *
 * with small integers p and o that the block holds too (o = 0 in a type without minima). Whoever changes d
 * and m and leaves the integers alone changes no size and no layout: so a GGUF can be tuned. */
#ifndef KQ_FORMAT_BLOCK_SCALES_H
#define KQ_FORMAT_BLOCK_SCALES_H

#include "format/tensor.h"

typedef struct kq_block_scales {
    size_t n;            /* F16 numbers of a block: 1 (d), 2 (d and m); 0: the type has no such numbers */
    size_t at[2];        /* where in the block they stand, bytes */
    size_t elems, bytes; /* of a block */
    size_t group;        /* n == 2: neighbouring weights that have the same m o; it divides elems */
} kq_block_scales;

/* Those of a type; n is 0 for types whose weights share no F16 number (F16, F32, I8, ...). */
kq_block_scales kq_block_scales_of(kq_dtype dtype);

/* The part of the weights that does not depend on d, w - d p, of n_elem weights (whole blocks) at src: one
 * number for every group, offsets [n_elem / group]. Only for a type with n == 2. */
void kq_block_offsets(kq_dtype dtype, const uint8_t *src, size_t n_elem, float *offsets);

#endif
