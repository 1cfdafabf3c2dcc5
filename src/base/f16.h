/* bf16 and IEEE half <-> float. The only converters in the tree; the rounding is to nearest, ties to even. */
#ifndef KQ_BASE_F16_H
#define KQ_BASE_F16_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline float kq_bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* NaN stays NaN (made quiet), overflow rounds to infinity. */
static inline uint16_t kq_f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

float kq_f16_to_f32(uint16_t h);
uint16_t kq_f32_to_f16(float f);

/* n values each; source and destination must not overlap. */
void kq_bf16_to_f32_n(const uint16_t *src, float *dst, size_t n);
void kq_f32_to_bf16_n(const float *src, uint16_t *dst, size_t n);
void kq_f16_to_f32_n(const uint16_t *src, float *dst, size_t n);
void kq_f32_to_f16_n(const float *src, uint16_t *dst, size_t n);

#endif
