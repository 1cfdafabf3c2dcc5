#include "io/encode.h"

#include <math.h>
#include <string.h>

#include "base/f16.h"
#include "io/dequant.h"

static bool is_finite_f16(uint16_t h)
{
    return (h & 0x7c00) != 0x7c00;
}

static kq_status too_large(kq_dtype dtype, float x, size_t i, size_t *at, kq_error *err)
{
    if (at)
        *at = i;
    return kq_fail(err, KQ_E_NUMERIC, "value %g at index %zu is too large for %s", (double)x, i, kq_dtype_name(dtype));
}

static kq_status encode_q8_0(const float *x, size_t n, uint8_t *dst, size_t *at, kq_error *err)
{
    for (size_t b = 0; b < n; b += 32, dst += 34) {
        float max = 0;
        for (size_t i = 0; i < 32; i++)
            max = fmaxf(max, fabsf(x[b + i]));
        const float d = max / 127, inverse = d != 0 ? 1 / d : 0;
        const uint16_t scale = kq_f32_to_f16(d);
        if (!is_finite_f16(scale))
            return too_large(KQ_T_Q8_0, max, b, at, err);
        memcpy(dst, &scale, 2);
        for (size_t i = 0; i < 32; i++) {
            const float q = isfinite(inverse) ? x[b + i] * inverse : 0; /* a block of values so small that their scale is 0 in F16 */
            dst[2 + i] = (uint8_t)(int8_t)roundf(q);
        }
    }
    return KQ_OK;
}

kq_status kq_encode(kq_dtype dtype, const float *x, size_t n, uint8_t *dst, size_t *at, kq_error *err)
{
    size_t elems, bytes;
    if (!kq_dtype_block(dtype, &elems, &bytes) || n % elems)
        return kq_fail(err, KQ_E_ARG, "%zu values are no whole number of %s's blocks", n, kq_dtype_name(dtype));
    switch (dtype) {
    case KQ_T_F32:
        memcpy(dst, x, n * sizeof *x);
        return KQ_OK;
    case KQ_T_BF16:
    case KQ_T_F16:
        for (size_t i = 0; i < n; i++) {
            const uint16_t h = dtype == KQ_T_F16 ? kq_f32_to_f16(x[i]) : kq_f32_to_bf16(x[i]);
            if (dtype == KQ_T_F16 && !is_finite_f16(h))
                return too_large(dtype, x[i], i, at, err);
            memcpy(dst + 2 * i, &h, 2);
        }
        return KQ_OK;
    case KQ_T_Q8_0:
        return encode_q8_0(x, n, dst, at, err);
    default:
        return kq_fail(err, KQ_E_ARG, "%s is not a type that is exported to", kq_dtype_name(dtype));
    }
}
