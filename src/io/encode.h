/* f32 to stored elements: the other direction of dequant.h, for the types of an export. */
#ifndef KQ_IO_ENCODE_H
#define KQ_IO_ENCODE_H

#include "io/source.h"

/* n values (a whole number of blocks) to dst, unaligned, little-endian: F32, F16, BF16 rounded to nearest, ties to even; Q8_0 as ggml's reference
 * does it (scale max|x|/127 in F16, values rounded half away from zero), bit-equal to the gguf Python package. KQ_E_NUMERIC: a value, or a block's
 * scale, above what F16 holds (65504); at says which value when not NULL. KQ_E_ARG: another type, or half a block. */
kq_status kq_encode(kq_dtype dtype, const float *x, size_t n, uint8_t *dst, size_t *at, kq_error *err);

#endif
