/* Rows of an embedding or head as integers (docs/format.md): symmetric, one f16 scale a group, rounded to the
 * nearest value. 8 bits are written; 4 bits are what earlier versions wrote, and are read. */
#include "base/f16.h"
#include "checkpoint/checkpoint.h"

#include <math.h>

const char *const kq_rows_module[KQ_N_ROWS] = {
    [KQ_ROWS_HEAD] = "lm_head", [KQ_ROWS_EMBEDDING] = "model.embed_tokens"};

size_t kq_rows_group(size_t n)
{
    for (size_t g = 64; g >= 16; g /= 2)
        if (n % g == 0)
            return g;
    return n;
}

void kq_rows_encode(const float *row, size_t n, int bits, uint8_t *q, uint16_t *scales)
{
    const size_t group = kq_rows_group(n);
    const int max = bits == 8 ? 127 : 7;
    for (size_t g = 0; g * group < n; g++) {
        const float *x = row + g * group;
        float top = 0;
        for (size_t i = 0; i < group; i++)
            top = fmaxf(top, fabsf(x[i]));
        scales[g] = kq_f32_to_f16(top / (float)max);
        const float s = kq_f16_to_f32(scales[g]);
        for (size_t i = 0; i < group; i++) {
            /* divided by the scale as it is stored, so that the rounding of the scale adds no error */
            long v = s > 0 ? lrintf(x[i] / s) : 0;
            v = v > max ? max : v < -max ? -max : v;
            const size_t at = g * group + i;
            if (bits == 8)
                q[at] = (uint8_t)(int8_t)v;
            else if (at % 2 == 0)
                q[at / 2] = (uint8_t)(v + 8);
            else
                q[at / 2] |= (uint8_t)((v + 8) << 4);
        }
    }
}

void kq_rows_decode(const uint8_t *q, const uint16_t *scales, size_t n, int bits, float *row)
{
    const size_t group = kq_rows_group(n);
    for (size_t i = 0; i < n; i++) {
        int v = bits == 8 ? (int8_t)q[i] : ((q[i / 2] >> (i % 2 * 4)) & 15) - 8;
        row[i] = (float)v * kq_f16_to_f32(scales[i / group]);
    }
}
