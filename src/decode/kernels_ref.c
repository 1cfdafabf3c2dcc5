/* The kernels of decoding in plain C, which define them, and the choice between the tables. */
#include "base/f16.h"
#include "decode/kernels.h"

static float f32_of_f32(const float *p)
{
    return *p;
}
static float f32_of_bf16(const uint16_t *p)
{
    return kq_bf16_to_f32(*p);
}
static float f32_of_f16(const uint16_t *p)
{
    return kq_f16_to_f32(*p);
}

#define DOTS(name, type, get)                                                                            \
    static void name##_ref(const type *W, size_t ldw, size_t rows, size_t n, const float *x, size_t ldx, \
                           size_t T, float *y, size_t ldy)                                               \
    {                                                                                                    \
        for (size_t t = 0; t < T; t++)                                                                   \
            for (size_t r = 0; r < rows; r++) {                                                          \
                float sum = 0;                                                                           \
                for (size_t i = 0; i < n; i++)                                                           \
                    sum += get(W + r * ldw + i) * x[t * ldx + i];                                        \
                y[t * ldy + r] = sum;                                                                    \
            }                                                                                            \
    }
DOTS(dots_f32, float, f32_of_f32)
DOTS(dots_bf16, uint16_t, f32_of_bf16)
DOTS(dots_f16, uint16_t, f32_of_f16)

#define MIX(name, type, get)                                                                             \
    static void name##_ref(const type *W, size_t ldw, size_t rows, size_t n, const float *x, size_t ldx, \
                           size_t T, float *y, size_t ldy)                                               \
    {                                                                                                    \
        for (size_t t = 0; t < T; t++)                                                                   \
            for (size_t i = 0; i < n; i++) {                                                             \
                float sum = 0;                                                                           \
                for (size_t r = 0; r < rows; r++)                                                        \
                    sum += x[t * ldx + r] * get(W + r * ldw + i);                                        \
                y[t * ldy + i] = sum;                                                                    \
            }                                                                                            \
    }
MIX(mix_f32, float, f32_of_f32)
MIX(mix_bf16, uint16_t, f32_of_bf16)
MIX(mix_f16, uint16_t, f32_of_f16)

static void sylvester_ref(float *x, size_t n, size_t step)
{
    for (; step < n; step *= 2)
        for (size_t i = 0; i < n; i++)
            if (!(i / step & 1)) {
                float a = x[i], b = x[i + step];
                x[i] = a + b, x[i + step] = a - b;
            }
}

static void to_f16_ref(const float *x, uint16_t *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = kq_f32_to_f16(x[i]);
}

static int value_q8(const int8_t *q, size_t i)
{
    return q[i];
}
static int value_q4(const uint8_t *q, size_t i)
{
    return (q[i / 2] >> (i % 2 * 4) & 15) - 8;
}

#define DOTS_Q(name, type, bits, value)                                                             \
    static void name##_ref(const type *q, const float *scales, size_t rows, size_t n, size_t group, \
                           const float *x, size_t ldx, size_t T, float *y, size_t ldy)              \
    {                                                                                               \
        const size_t row_bytes = (n * bits + 7) / 8;                                                \
        for (size_t t = 0; t < T; t++)                                                              \
            for (size_t r = 0; r < rows; r++) {                                                     \
                float sum = 0;                                                                      \
                for (size_t g = 0; g < n / group; g++) {                                            \
                    float part = 0;                                                                 \
                    for (size_t i = g * group; i < (g + 1) * group; i++)                            \
                        part += (float)value(q + r * row_bytes, i) * x[t * ldx + i];                \
                    sum += scales[r * (n / group) + g] * part;                                      \
                }                                                                                   \
                y[t * ldy + r] = sum;                                                               \
            }                                                                                       \
    }
DOTS_Q(dots_q8, int8_t, 8, value_q8)
DOTS_Q(dots_q4, uint8_t, 4, value_q4)

const kq_decode_kern kq_decode_kern_ref = {
    .name = "ref",
    .dots_f32 = dots_f32_ref,
    .dots_bf16 = dots_bf16_ref,
    .dots_f16 = dots_f16_ref,
    .mix_f32 = mix_f32_ref,
    .mix_bf16 = mix_bf16_ref,
    .mix_f16 = mix_f16_ref,
    .to_f16 = to_f16_ref,
    .sylvester = sylvester_ref,
    .dots_q8 = dots_q8_ref,
    .dots_q4 = dots_q4_ref,
};

const kq_decode_kern *kq_decode_kern_pick(kq_isa isa)
{
#if defined(__x86_64__)
    if (isa >= KQ_ISA_AVX512)
        return &kq_decode_kern_avx512;
    if (isa == KQ_ISA_AVX2)
        return &kq_decode_kern_avx2;
#endif
    (void)isa;
    return &kq_decode_kern_ref;
}
