/* f32 to stored elements: the other direction of dequant.h, for the types of an export. */
#ifndef KQ_FORMAT_ENCODE_H
#define KQ_FORMAT_ENCODE_H

#include "format/tensor.h"

/* n values (a whole number of blocks) to dst, unaligned, little-endian: F32, F16, BF16 rounded to
 * nearest, ties to even; Q8_0 as ggml's reference does it (scale max|x|/127 in F16, values rounded half
 * away from zero), bit-equal to the gguf Python package; but where that scale is below F16's normal
 * numbers, values are divided by the scale as it is stored, at least 2^-24: the package's codes belong
 * to another scale there. KQ_E_NUMERIC: a value, or a block's scale, above what F16 holds (65504); at
 * says which value when not NULL. KQ_E_ARG: another type, or half a block. */
kq_status kq_encode(kq_dtype dtype, const float *x, size_t n, uint8_t *dst, size_t *at, kq_error *err);

/* Can the type hold n values (whole blocks, where it has blocks), as far as its F16 scales reach? false:
 * *at is the value that is furthest out of the first block that it cannot. What it holds may still be
 * rounded coarsely. Types of GGUF and F32, F16, BF16; any other holds everything. */
bool kq_type_holds(kq_dtype dtype, const float *x, size_t n, size_t *at);
/* Below this largest magnitude a tensor's scales would be so few multiples of F16's least number, 2^-24,
 * that its values are hardly told apart. 0: any. */
float kq_type_floor(kq_dtype dtype);

#endif
