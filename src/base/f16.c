/* Conversions between 16-bit and 32-bit floats, by integer arithmetic: the results are the same bits on every
 * machine, which hardware instructions give only where they exist and only in the mode that is set. */
#include "base/f16.h"

float kq_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 0x1f, mantissa = h & 0x3ff, u;
    if (exponent == 0x1f) {
        u = sign | 0x7f800000u | (mantissa << 13);
    } else if (exponent) {
        u = sign | ((exponent + 112) << 23) | (mantissa << 13);
    } else { /* zero or subnormal: mantissa * 2^-24, exact in f32 */
        float f = (float)mantissa * 0x1p-24f;
        memcpy(&u, &f, 4);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, 4);
    return f;
}

uint16_t kq_f32_to_f16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint16_t sign = (uint16_t)((u >> 16) & 0x8000);
    u &= 0x7fffffffu;
    if (u > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00);
    if (u >= 0x47800000u) /* 65536 and more, infinity too; 65520..65535 round up to it below */
        return (uint16_t)(sign | 0x7c00);
    if (u < 0x38800000u) { /* below 2^-14: subnormal, multiples of 2^-24; adding 0.5 lets the FPU round to
                              nearest even */
        float a;
        memcpy(&a, &u, 4);
        a += 0.5f;
        memcpy(&u, &a, 4);
        return (uint16_t)(sign | (u - 0x3f000000u));
    }
    u += 0xfffu + ((u >> 13) & 1); /* ties to even */
    return (uint16_t)(sign | ((u - 0x38000000u) >> 13));
}

void kq_bf16_to_f32_n(const uint16_t *restrict src, float *restrict dst, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = kq_bf16_to_f32(src[i]);
}

void kq_f32_to_bf16_n(const float *restrict src, uint16_t *restrict dst, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = kq_f32_to_bf16(src[i]);
}

void kq_f16_to_f32_n(const uint16_t *restrict src, float *restrict dst, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = kq_f16_to_f32(src[i]);
}

void kq_f32_to_f16_n(const float *restrict src, uint16_t *restrict dst, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = kq_f32_to_f16(src[i]);
}
