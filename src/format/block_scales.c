/* Which bytes of a GGUF block are its F16 scales. The layouts are ggml's (ggml-common.h), as in dequant.c. */
#include "format/block_scales.h"

#include <string.h>

#include "format/dequant.h"

kq_block_scales kq_block_scales_of(kq_dtype dtype)
{
    static const struct {
        kq_dtype dtype;
        size_t n, at[2], group;
    } table[] = {
        {KQ_T_Q4_0, 1, {0}, 0},       {KQ_T_Q5_0, 1, {0}, 0},     {KQ_T_Q8_0, 1, {0}, 0},
        {KQ_T_IQ4_NL, 1, {0}, 0},     {KQ_T_Q4_1, 2, {0, 2}, 32}, {KQ_T_Q5_1, 2, {0, 2}, 32},
        {KQ_T_Q2_K, 2, {80, 82}, 16}, {KQ_T_Q3_K, 1, {108}, 0},   {KQ_T_Q4_K, 2, {0, 2}, 32},
        {KQ_T_Q5_K, 2, {0, 2}, 32},   {KQ_T_Q6_K, 1, {208}, 0},   {KQ_T_IQ4_XS, 1, {0}, 0},
        {KQ_T_IQ2_XXS, 1, {0}, 0},    {KQ_T_IQ2_XS, 1, {0}, 0},   {KQ_T_IQ2_S, 1, {0}, 0},
        {KQ_T_IQ3_XXS, 1, {0}, 0},    {KQ_T_IQ3_S, 1, {0}, 0},
    };
    kq_block_scales s = {0};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].dtype == dtype) {
            kq_dtype_block(dtype, &s.elems, &s.bytes);
            s.n = table[i].n;
            s.group = table[i].group;
            memcpy(s.at, table[i].at, sizeof s.at);
        }
    return s;
}

/* With d = 0 a block decodes to exactly this part. */
void kq_block_offsets(kq_dtype dtype, const uint8_t *src, size_t n_elem, float *offsets)
{
    enum { MOST_BYTES = 256, MOST_ELEMS = 256 };
    const kq_block_scales s = kq_block_scales_of(dtype);
    uint8_t block[MOST_BYTES];
    float w[MOST_ELEMS];
    if (s.n != 2 || s.bytes > MOST_BYTES || s.elems > MOST_ELEMS)
        return;
    for (size_t b = 0; b < n_elem / s.elems; b++) {
        memcpy(block, src + b * s.bytes, s.bytes);
        memset(block + s.at[0], 0, 2);
        kq_dequantize(dtype, block, s.elems, w);
        for (size_t g = 0; g < s.elems / s.group; g++)
            *offsets++ = w[g * s.group];
    }
}
