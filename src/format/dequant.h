/* Stored tensor elements to f32: plain types and GGUF's quantized blocks. */
#ifndef KQ_FORMAT_DEQUANT_H
#define KQ_FORMAT_DEQUANT_H

#include "format/tensor.h"

/* Elements and bytes of one block of a type (plain types: one element). False for KQ_T_OTHER. */
bool kq_dtype_block(kq_dtype dtype, size_t *block_elems, size_t *block_bytes);

/* n_elem values (a whole number of blocks) at src, unaligned, little-endian, to dst. Bit-equal to the
 * reference dequantization of the gguf Python package: every product and sum is rounded to f32 by
 * itself. Integers are converted to the nearest f32. False, and dst is unchanged: the type is KQ_T_OTHER, or
 * n_elem is no whole number of blocks. */
bool kq_dequantize(kq_dtype dtype, const uint8_t *src, size_t n_elem, float *dst);

/* The plain type in which a written file keeps a tensor that was read as this type: F32 for F32 and F64, F16
 * for F16, BF16 for all others. */
kq_dtype kq_dtype_plain(kq_dtype dtype);

/* The sixteen levels of IQ4_NL, ascending. */
extern const int8_t kq_iq4nl_values[16];

#endif
