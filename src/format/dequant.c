/* The number formats of GGUF and safetensors as f32. Each is restated from the layout that its source defines
 * (ggml's blocks: ggml-common.h; FP8: the OCP specification), without vector code: reading is limited by the
 * disk. */
#include "format/dequant.h"

#include <string.h>

#include "base/f16.h"
#include "format/codebook.h"

/* ggml's block layouts (ggml-common.h, MIT), restated as byte offsets. */
enum {
    QK = 32,
    QK_K = 256,
    Q4_0_BYTES = 2 + 16,
    Q4_1_BYTES = 4 + 16,
    Q5_0_BYTES = 2 + 4 + 16,
    Q5_1_BYTES = 4 + 4 + 16,
    Q8_0_BYTES = 2 + 32,
    Q4_K_BYTES = 4 + 12 + 128,
    Q5_K_BYTES = 4 + 12 + 32 + 128,
    Q6_K_BYTES = 128 + 64 + 16 + 2,
    Q2_K_BYTES = 16 + 64 + 4,
    Q3_K_BYTES = 32 + 64 + 12 + 2,
    IQ4_NL_BYTES = 2 + 16,
    IQ4_XS_BYTES = 2 + 2 + 4 + 128,
    IQ2_XXS_BYTES = 2 + 8 * (4 + 4),
    IQ2_XS_BYTES = 2 + 64 + 8,
    IQ2_S_BYTES = 2 + 32 + 32 + 8 + 8,
    IQ3_XXS_BYTES = 2 + 64 + 8 * 4,
    IQ3_S_BYTES = 2 + 64 + 8 + 32 + 4
};

const char *kq_dtype_name(kq_dtype dtype)
{
    static const char *const names[] = {"F32",     "F16",    "BF16",  "I8",      "I16",   "I32",    "I64",
                                        "U8",      "BOOL",   "Q8_0",  "Q4_0",    "Q4_1",  "Q5_0",   "Q5_1",
                                        "Q4_K",    "Q5_K",   "Q6_K",  "Q2_K",    "Q3_K",  "IQ4_NL", "IQ4_XS",
                                        "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "F64",    "F8_E4M3",
                                        "F8_E5M2", "EXL3",   "other"};
    return (size_t)dtype < sizeof names / sizeof *names ? names[dtype] : "?";
}

bool kq_dtype_block(kq_dtype dtype, size_t *block_elems, size_t *block_bytes)
{
    static const struct {
        uint16_t elems, bytes;
    } table[] = {
        [KQ_T_F32] = {1, 4},
        [KQ_T_F16] = {1, 2},
        [KQ_T_BF16] = {1, 2},
        [KQ_T_I8] = {1, 1},
        [KQ_T_I16] = {1, 2},
        [KQ_T_I32] = {1, 4},
        [KQ_T_I64] = {1, 8},
        [KQ_T_U8] = {1, 1},
        [KQ_T_BOOL] = {1, 1},
        [KQ_T_Q8_0] = {QK, Q8_0_BYTES},
        [KQ_T_Q4_0] = {QK, Q4_0_BYTES},
        [KQ_T_Q4_1] = {QK, Q4_1_BYTES},
        [KQ_T_Q5_0] = {QK, Q5_0_BYTES},
        [KQ_T_Q5_1] = {QK, Q5_1_BYTES},
        [KQ_T_Q4_K] = {QK_K, Q4_K_BYTES},
        [KQ_T_Q5_K] = {QK_K, Q5_K_BYTES},
        [KQ_T_Q6_K] = {QK_K, Q6_K_BYTES},
        [KQ_T_Q2_K] = {QK_K, Q2_K_BYTES},
        [KQ_T_Q3_K] = {QK_K, Q3_K_BYTES},
        [KQ_T_IQ4_NL] = {QK, IQ4_NL_BYTES},
        [KQ_T_IQ4_XS] = {QK_K, IQ4_XS_BYTES},
        [KQ_T_IQ2_XXS] = {QK_K, IQ2_XXS_BYTES},
        [KQ_T_IQ2_XS] = {QK_K, IQ2_XS_BYTES},
        [KQ_T_IQ2_S] = {QK_K, IQ2_S_BYTES},
        [KQ_T_IQ3_XXS] = {QK_K, IQ3_XXS_BYTES},
        [KQ_T_IQ3_S] = {QK_K, IQ3_S_BYTES},
        [KQ_T_F64] = {1, 8},
        [KQ_T_F8_E4M3] = {1, 1},
        [KQ_T_F8_E5M2] = {1, 1},
    };
    if ((size_t)dtype >= sizeof table / sizeof *table)
        return false;
    *block_elems = table[dtype].elems;
    *block_bytes = table[dtype].bytes;
    return true;
}

static uint16_t load16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t load32(const uint8_t *p)
{
    return (uint32_t)load16(p) | (uint32_t)load16(p + 2) << 16;
}

static float half_at(const uint8_t *p)
{
    return kq_f16_to_f32(load16(p));
}

static void q8_0(const uint8_t *b, float *y)
{
    float d = half_at(b);
    for (int i = 0; i < QK; i++)
        y[i] = (float)(int8_t)b[2 + i] * d;
}

/* value = d * (q - 8) */
static void q4_0(const uint8_t *b, float *y)
{
    float d = half_at(b);
    for (int i = 0; i < QK / 2; i++) {
        y[i] = d * (float)((b[2 + i] & 15) - 8);
        y[i + QK / 2] = d * (float)((b[2 + i] >> 4) - 8);
    }
}

/* value = d * q + m */
static void q4_1(const uint8_t *b, float *y)
{
    float d = half_at(b), m = half_at(b + 2);
    for (int i = 0; i < QK / 2; i++) {
        y[i] = d * (float)(b[4 + i] & 15) + m;
        y[i + QK / 2] = d * (float)(b[4 + i] >> 4) + m;
    }
}

/* The fifth bit of value i is bit i of a 32-bit word. */
static void q5_0(const uint8_t *b, float *y)
{
    float d = half_at(b);
    uint32_t high = load32(b + 2);
    for (int i = 0; i < QK / 2; i++) {
        y[i] = d * (float)((int)((b[6 + i] & 15) | (high >> i & 1) << 4) - 16);
        y[i + QK / 2] = d * (float)((int)((b[6 + i] >> 4) | (high >> (i + QK / 2) & 1) << 4) - 16);
    }
}

static void q5_1(const uint8_t *b, float *y)
{
    float d = half_at(b), m = half_at(b + 2);
    uint32_t high = load32(b + 4);
    for (int i = 0; i < QK / 2; i++) {
        y[i] = d * (float)((b[8 + i] & 15) | (high >> i & 1) << 4) + m;
        y[i + QK / 2] = d * (float)((b[8 + i] >> 4) | (high >> (i + QK / 2) & 1) << 4) + m;
    }
}

/* Eight 6-bit scales and eight 6-bit minima in 12 bytes: the first four of each whole in bytes 0-3 and
 * 4-7, whose top bits hold the top bits of the last four; their low nibbles are in bytes 8-11. */
static void k_scale_min(const uint8_t *s, int j, float d, float dmin, float *scale, float *min)
{
    int sc, m;
    if (j < 4) {
        sc = s[j] & 63;
        m = s[j + 4] & 63;
    } else {
        sc = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        m = (s[j + 4] >> 4) | (s[j] >> 6) << 4;
    }
    *scale = d * (float)sc;
    *min = dmin * (float)m;
}

static void q4_k(const uint8_t *b, float *y)
{
    float d = half_at(b), dmin = half_at(b + 2), scale, min;
    for (int j = 0; j < 8; j++) { /* groups of 32; two share 32 bytes, low nibbles first */
        const uint8_t *q = b + 16 + (j / 2) * 32;
        k_scale_min(b + 4, j, d, dmin, &scale, &min);
        for (int i = 0; i < 32; i++)
            y[j * 32 + i] = scale * (float)(q[i] >> (j % 2 * 4) & 15) - min;
    }
}

static void q5_k(const uint8_t *b, float *y)
{
    float d = half_at(b), dmin = half_at(b + 2), scale, min;
    const uint8_t *high = b + 16;
    for (int j = 0; j < 8; j++) {
        const uint8_t *q = b + 48 + (j / 2) * 32;
        k_scale_min(b + 4, j, d, dmin, &scale, &min);
        for (int i = 0; i < 32; i++)
            y[j * 32 + i] = scale * (float)((q[i] >> (j % 2 * 4) & 15) | (high[i] >> j & 1) << 4) - min;
    }
}

static void q6_k(const uint8_t *b, float *y)
{
    const uint8_t *low = b, *high = b + 128, *scales = b + 192;
    float d = half_at(b + 208);
    for (int j = 0; j < 8; j++) { /* rows of 32: half h = j / 4 of the block, row j % 4 of it */
        const uint8_t *ql = low + (j / 4) * 64 + (j % 2) * 32, *qh = high + (j / 4) * 32;
        int low_shift = (j % 4) / 2 * 4, high_shift = j % 4 * 2;
        for (int i = 0; i < 32; i++) {
            int q = ((ql[i] >> low_shift & 15) | (qh[i] >> high_shift & 3) << 4) - 32;
            y[j * 32 + i] = d * (float)(int8_t)scales[j * 2 + i / 16] * (float)q;
        }
    }
}

/* Sixteen groups of 16, each with a 4-bit scale and a 4-bit minimum. Group j is value pair (j % 8) / 2
 * of the bytes of half j / 8. */
static void q2_k(const uint8_t *b, float *y)
{
    float d = half_at(b + 80), dmin = half_at(b + 82);
    for (int j = 0; j < 16; j++) {
        const uint8_t *q = b + 16 + j / 8 * 32 + j % 2 * 16;
        float scale = d * (float)(b[j] & 15), min = dmin * (float)(b[j] >> 4);
        for (int i = 0; i < 16; i++)
            y[j * 16 + i] = scale * (float)(q[i] >> (j % 8 / 2 * 2) & 3) - min;
    }
}

/* Sixteen groups of 16 with 6-bit signed scales; the third bit of a value, inverted, is in a mask of its
 * own. */
static void q3_k(const uint8_t *b, float *y)
{
    const uint8_t *mask = b, *s = b + 96;
    float d = half_at(b + 108);
    for (int j = 0; j < 16; j++) {
        const uint8_t *q = b + 32 + j / 8 * 32 + j % 2 * 16, *high = mask + j % 2 * 16;
        int scale = ((s[j % 8] >> (j / 8 * 4) & 15) | (s[8 + j % 4] >> (j / 4 * 2) & 3) << 4) - 32;
        float step = d * (float)scale;
        for (int i = 0; i < 16; i++)
            y[j * 16 + i] = step * (float)((q[i] >> (j % 8 / 2 * 2) & 3) - (high[i] >> (j / 2) & 1 ? 0 : 4));
    }
}

const int8_t kq_iq4nl_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static void iq4_nl(const uint8_t *b, float *y)
{
    float d = half_at(b);
    for (int i = 0; i < QK / 2; i++) {
        y[i] = d * (float)kq_iq4nl_values[b[2 + i] & 15];
        y[i + QK / 2] = d * (float)kq_iq4nl_values[b[2 + i] >> 4];
    }
}

/* IQ4_NL's levels in groups of 32 with signed scales of 6 bits: their low four bits in bytes 4-7, their upper
 * two in the 16-bit word before. */
static void iq4_xs(const uint8_t *b, float *y)
{
    const float d = half_at(b);
    const uint16_t high = load16(b + 2);
    for (int j = 0; j < 8; j++, b += 16, y += 32) {
        const uint8_t *scales = b - 16 * j + 4, *q = b + 8;
        const int scale = ((scales[j / 2] >> (j % 2 * 4) & 15) | (high >> (2 * j) & 3) << 4) - 32;
        const float step = d * (float)scale;
        for (int i = 0; i < 16; i++) {
            y[i] = step * (float)kq_iq4nl_values[q[i] & 15];
            y[i + 16] = step * (float)kq_iq4nl_values[q[i] >> 4];
        }
    }
}

static bool each_codebook_block(kq_dtype dtype, const uint8_t *src, size_t bytes, size_t n_elem, float *dst)
{
    const kq_codebook *c = kq_codebook_of(dtype);
    kq_codebook_block block;
    for (size_t i = 0; i < n_elem / QK_K; i++) {
        kq_codebook_unpack(c, src + i * bytes, &block);
        kq_codebook_values(c, &block, dst + i * QK_K);
    }
    return true;
}

#define EACH_BLOCK(fn, bytes, elems)              \
    for (size_t i = 0; i < n_elem / (elems); i++) \
        fn(src + i * (bytes), dst + i * (elems)); \
    return true

#define EACH(bytes, expression)               \
    for (size_t i = 0; i < n_elem; i++) {     \
        const uint8_t *p = src + i * (bytes); \
        dst[i] = (expression);                \
    }                                         \
    return true

static int64_t load_i64(const uint8_t *p)
{
    return (int64_t)((uint64_t)load32(p) | (uint64_t)load32(p + 4) << 32);
}

static float load_f32(const uint8_t *p)
{
    float f;
    memcpy(&f, p, 4);
    return f;
}

static double load_f64(const uint8_t *p)
{
    double x;
    memcpy(&x, p, 8);
    return x;
}

/* Sign, 4 bits of exponent (bias 7), 3 of fraction; no infinity, all ones are NaN (float8_e4m3fn). */
static float e4m3(uint8_t b)
{
    uint32_t exponent = b >> 3 & 15, fraction = b & 7,
             u = (uint32_t)(b & 0x80) << 24 | (exponent + 120) << 23 | fraction << 20;
    float x;
    if (!exponent) { /* fraction 2^-9 */
        x = (float)fraction * 0.001953125f;
        return b & 0x80 ? -x : x;
    }
    if ((b & 0x7f) == 0x7f)
        u |= 0x7fc00000u;
    memcpy(&x, &u, 4);
    return x;
}

kq_dtype kq_dtype_plain(kq_dtype dtype)
{
    return dtype == KQ_T_F32 || dtype == KQ_T_F64 ? KQ_T_F32 : dtype == KQ_T_F16 ? KQ_T_F16 : KQ_T_BF16;
}

bool kq_dequantize(kq_dtype dtype, const uint8_t *src, size_t n_elem, float *dst)
{
    size_t elems, bytes;
    if (!kq_dtype_block(dtype, &elems, &bytes) || n_elem % elems)
        return false;
    switch (dtype) {
    case KQ_T_F32: EACH(4, load_f32(p));
    case KQ_T_F16: EACH(2, half_at(p));
    case KQ_T_BF16: EACH(2, kq_bf16_to_f32(load16(p)));
    case KQ_T_I8: EACH(1, (float)(int8_t)*p);
    case KQ_T_U8: EACH(1, (float)*p);
    case KQ_T_BOOL: EACH(1, *p ? 1.0f : 0.0f);
    case KQ_T_I16: EACH(2, (float)(int16_t)load16(p));
    case KQ_T_I32: EACH(4, (float)(int32_t)load32(p));
    case KQ_T_I64: EACH(8, (float)load_i64(p));
    case KQ_T_Q8_0: EACH_BLOCK(q8_0, Q8_0_BYTES, QK);
    case KQ_T_Q4_0: EACH_BLOCK(q4_0, Q4_0_BYTES, QK);
    case KQ_T_Q4_1: EACH_BLOCK(q4_1, Q4_1_BYTES, QK);
    case KQ_T_Q5_0: EACH_BLOCK(q5_0, Q5_0_BYTES, QK);
    case KQ_T_Q5_1: EACH_BLOCK(q5_1, Q5_1_BYTES, QK);
    case KQ_T_Q4_K: EACH_BLOCK(q4_k, Q4_K_BYTES, QK_K);
    case KQ_T_Q5_K: EACH_BLOCK(q5_k, Q5_K_BYTES, QK_K);
    case KQ_T_Q6_K: EACH_BLOCK(q6_k, Q6_K_BYTES, QK_K);
    case KQ_T_Q2_K: EACH_BLOCK(q2_k, Q2_K_BYTES, QK_K);
    case KQ_T_Q3_K: EACH_BLOCK(q3_k, Q3_K_BYTES, QK_K);
    case KQ_T_IQ4_NL: EACH_BLOCK(iq4_nl, IQ4_NL_BYTES, QK);
    case KQ_T_IQ4_XS: EACH_BLOCK(iq4_xs, IQ4_XS_BYTES, QK_K);
    case KQ_T_IQ2_XXS:
    case KQ_T_IQ2_XS:
    case KQ_T_IQ2_S:
    case KQ_T_IQ3_XXS:
    case KQ_T_IQ3_S: return each_codebook_block(dtype, src, bytes, n_elem, dst);
    case KQ_T_F64: EACH(8, (float)load_f64(p));
    case KQ_T_F8_E4M3: EACH(1, e4m3(*p));
    case KQ_T_F8_E5M2: EACH(1, kq_f16_to_f32((uint16_t)(*p << 8))); /* the upper half of an F16 */
    case KQ_T_EXL3:
    case KQ_T_OTHER: break;
    }
    return false;
}
