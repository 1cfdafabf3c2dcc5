/* f32 to stored elements, for the types that an export writes. dequant.h has the way back. */
#ifndef KQ_FORMAT_ENCODE_H
#define KQ_FORMAT_ENCODE_H

#include "format/tensor.h"

/* n values (a whole number of blocks) to dst, unaligned, little-endian: F32, F16, BF16 rounded to
 * nearest, ties to even; Q8_0 as ggml's reference does it (scale max|x|/127 in F16, values rounded half
 * away from zero), bit-equal to the gguf Python package. One case differs: where that scale is below F16's
 * normal numbers, values are divided by the scale as it is stored, at least 2^-24, because the package's
 * codes would be read back with another scale than they were made with.
 * KQ_E_NUMERIC: a value, or a block's scale, is above what F16 holds (65504); *at (NULL: not wanted) is its
 * index. KQ_E_ARG: another type, or n is no whole number of blocks. */
kq_status kq_encode(kq_dtype dtype, const float *x, size_t n, uint8_t *dst, size_t *at, kq_error *err);

/* Can the type hold n values (whole blocks, where it has blocks), as far as its F16 scales reach? false:
 * *at is the value that is furthest out of the first block that it cannot. What it holds may still be
 * rounded coarsely. Types of GGUF and F32, F16, BF16; any other holds everything. */
bool kq_type_holds(kq_dtype dtype, const float *x, size_t n, size_t *at);
/* A tensor whose largest magnitude is below this has scales of only a few multiples of F16's least number,
 * 2^-24, so that most of its values would become equal. 0: the type has no such floor. */
float kq_type_floor(kq_dtype dtype);

#endif
