/* f32 to the number formats that GGUF files are written with. The rounding is ggml's own of each format, so
 * that a file from kronq and one from llama.cpp's converter have the same bytes where neither calibrates. */
#include "format/encode.h"

#include <math.h>
#include <string.h>

#include "base/f16.h"
#include "format/dequant.h"

static bool is_finite_f16(uint16_t h)
{
    return (h & 0x7c00) != 0x7c00;
}

static kq_status too_large(kq_dtype dtype, float x, size_t i, size_t *at, kq_error *err)
{
    if (at)
        *at = i;
    return kq_fail(err, KQ_E_NUMERIC, "value %g at index %zu is too large for %s", (double)x, i,
                   kq_dtype_name(dtype));
}

static kq_status encode_q8_0(const float *x, size_t n, uint8_t *dst, size_t *at, kq_error *err)
{
    for (size_t b = 0; b < n; b += 32, dst += 34) {
        float max = 0;
        for (size_t i = 0; i < 32; i++)
            max = fmaxf(max, fabsf(x[b + i]));
        const float d = max / 127;
        uint16_t scale = kq_f32_to_f16(d);
        float inverse = d != 0 ? 1 / d : 0;
        if (!is_finite_f16(scale))
            return too_large(KQ_T_Q8_0, max, b, at, err);
        if (max > 0 && scale < 0x0400) { /* below the normal numbers */
            scale = scale ? scale : 1;
            inverse = 1 / kq_f16_to_f32(scale);
        }
        memcpy(dst, &scale, 2);
        for (size_t i = 0; i < 32; i++)
            dst[2 + i] = (uint8_t)(int8_t)fmaxf(-127, fminf(127, roundf(x[b + i] * inverse)));
    }
    return KQ_OK;
}

kq_status kq_encode(kq_dtype dtype, const float *x, size_t n, uint8_t *dst, size_t *at, kq_error *err)
{
    size_t elems, bytes;
    if (!kq_dtype_block(dtype, &elems, &bytes) || n % elems)
        return kq_fail(err, KQ_E_ARG, "%zu values are no whole number of %s's blocks", n,
                       kq_dtype_name(dtype));
    switch (dtype) {
    case KQ_T_F32: memcpy(dst, x, n * sizeof *x); return KQ_OK;
    case KQ_T_BF16:
    case KQ_T_F16:
        for (size_t i = 0; i < n; i++) {
            const uint16_t h = dtype == KQ_T_F16 ? kq_f32_to_f16(x[i]) : kq_f32_to_bf16(x[i]);
            if (dtype == KQ_T_F16 && !is_finite_f16(h))
                return too_large(dtype, x[i], i, at, err);
            memcpy(dst + 2 * i, &h, 2);
        }
        return KQ_OK;
    case KQ_T_Q8_0: return encode_q8_0(x, n, dst, at, err);
    default: return kq_fail(err, KQ_E_ARG, "%s is not a type that is exported to", kq_dtype_name(dtype));
    }
}

/* How far a type's values reach: largest code times largest integer scale; below 0 apart where an offset
 * is stored. Values of a group share both. */
static const struct reach {
    kq_dtype type;
    int group;
    float above, below;
} reaches[] = {
    {KQ_T_F16, 1, 1, 0},
    {KQ_T_Q8_0, 32, 127, 0},
    {KQ_T_Q4_0, 32, 8, 0},
    {KQ_T_Q5_0, 32, 16, 0},
    {KQ_T_IQ4_NL, 32, 127, 0},
    {KQ_T_Q4_1, 32, 15, 1},
    {KQ_T_Q5_1, 32, 31, 1},
    {KQ_T_Q2_K, 16, 3 * 15, 15},
    {KQ_T_Q3_K, 16, 4 * 32, 0},
    {KQ_T_Q4_K, 32, 15 * 63, 63},
    {KQ_T_Q5_K, 32, 31 * 63, 63},
    {KQ_T_Q6_K, 16, 32 * 128, 0},
    {KQ_T_IQ4_XS, 32, 127 * 32, 0},
    {KQ_T_IQ2_XXS, 32, 43 * 31 / 8.0f, 0},
    {KQ_T_IQ2_XS, 16, 43 * 31 / 8.0f, 0},
    {KQ_T_IQ2_S, 16, 43 * 31 / 8.0f, 0},
    {KQ_T_IQ3_XXS, 32, 62 * 31 / 4.0f, 0},
    {KQ_T_IQ3_S, 32, 15 * 31, 0},
};
#define F16_MAX 65504.0

static const struct reach *reach_of(kq_dtype dtype)
{
    for (size_t i = 0; i < sizeof reaches / sizeof *reaches; i++)
        if (reaches[i].type == dtype)
            return &reaches[i];
    return NULL;
}

bool kq_type_holds(kq_dtype dtype, const float *x, size_t n, size_t *at)
{
    const struct reach *r = reach_of(dtype);
    for (size_t i = 0; dtype == KQ_T_BF16 && i < n; i++)
        if ((kq_f32_to_bf16(x[i]) & 0x7f80) == 0x7f80) {
            *at = i;
            return false;
        }
    for (size_t b = 0; r && b < n; b += (size_t)r->group) {
        const size_t end = n - b < (size_t)r->group ? n : b + (size_t)r->group;
        size_t lo = b, hi = b;
        for (size_t i = b + 1; i < end; i++) {
            lo = x[i] < x[lo] ? i : lo;
            hi = x[i] > x[hi] ? i : hi;
        }
        const double low = x[lo], high = x[hi], offset = r->below > 0 ? fmin(low, 0) : 0;
        const double above = dtype == KQ_T_F16 ? 65519.99 /* rounds to 65504 */ : F16_MAX * r->above;
        if (-offset <= F16_MAX * r->below && high - offset <= above && (r->below > 0 || -low <= above))
            continue;
        *at = -low > high ? lo : hi;
        return false;
    }
    return true;
}

float kq_type_floor(kq_dtype dtype)
{
    const struct reach *r = reach_of(dtype);
    return r ? 4 * 0x1p-24f * r->above : 0;
}
