/* Packed products for AVX-512 with VBMI, VBMI2 and VNNI (Ice Lake and Zen 4 on). The states of a tile
 * are cut out of its words 32 at a time by funnel shifts; hyb's table of 512 pairs is four planes of 512
 * bytes, looked up 64 at a time by vpermi2b; the other codes are computed. The lanes are rows, so that
 * sums need no reduction and an input is one broadcast of two columns. */
#include "decode/packed.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#define TARGET      \
    __attribute__(( \
        target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vnni,avx2,fma,f16c")))
#define INLINE static inline __attribute__((always_inline)) TARGET

#define LOAD(p) _mm512_loadu_si512((const void *)(p))
#define SELECT(mask, a, b) _mm512_ternarylogic_epi32(mask, a, b, 0xCA) /* mask ? a : b, bit by bit */

/* A tile's words. At 2 bits: a holds the words, b the words one further on; at 3 and 4 bits: words 0..31 and
 * 32 on. */
typedef struct tile {
    __m512i a, b;
} tile;

INLINE tile load_tile(const kq_packed_code *c, const uint16_t *words, const int k)
{
    tile t;
    t.a = LOAD(words);
    if (k == 2)
        t.b = _mm512_permutexvar_epi16(LOAD(c->lane + 32), t.a); /* vector 0: word i, then word i + 1 */
    else
        t.b = k == 3 ? _mm512_castsi256_si512(_mm256_loadu_si256((const void *)(words + 32)))
                     : LOAD(words + 32);
    return t;
}

/* A shift by an immediate, also where the compiler does not see that `bits` is one (-O1). */
INLINE __m512i funnel(__m512i a, __m512i b, int bits)
{
    switch (bits) {
    case 2: return _mm512_shldi_epi16(a, b, 2);
    case 4: return _mm512_shldi_epi16(a, b, 4);
    case 6: return _mm512_shldi_epi16(a, b, 6);
    case 8: return _mm512_shldi_epi16(a, b, 8);
    case 10: return _mm512_shldi_epi16(a, b, 10);
    case 12: return _mm512_shldi_epi16(a, b, 12);
    case 14: return _mm512_shldi_epi16(a, b, 14);
    default: return a;
    }
}

/* The 32 states of vector j: lane i = 2 r + h is row r, at step j (h = 0) or j + 8 / V. */
INLINE __m512i states(const kq_packed_code *c, tile t, const int k, const int V, const int j)
{
    if (k == 2)
        return funnel(t.a, t.b, 2 * V * j);
    const uint16_t *lane = c->lane + j * 3 * 32;
    return _mm512_shldv_epi16(_mm512_permutex2var_epi16(t.a, LOAD(lane), t.b),
                              _mm512_permutex2var_epi16(t.a, LOAD(lane + 32), t.b), LOAD(lane + 64));
}

INLINE __m512i look_up(const uint8_t *plane, __m512i low, __mmask64 k7, __mmask64 k8)
{
    __m512i t0 = _mm512_permutex2var_epi8(LOAD(plane), low, LOAD(plane + 64)),
            t1 = _mm512_permutex2var_epi8(LOAD(plane + 128), low, LOAD(plane + 192));
    __m512i t2 = _mm512_permutex2var_epi8(LOAD(plane + 256), low, LOAD(plane + 320)),
            t3 = _mm512_permutex2var_epi8(LOAD(plane + 384), low, LOAD(plane + 448));
    return _mm512_mask_blend_epi8(k8, _mm512_mask_blend_epi8(k7, t0, t1), _mm512_mask_blend_epi8(k7, t2, t3));
}

/* Weights of the two vectors of states A (even bytes) and B (odd bytes): w[0], w[1] of A's steps, w[2],
 * w[3] of B's. */
INLINE void hyb_pair(const kq_packed_code *c, __m512i A, __m512i B, __m512i w[4])
{
    const __m512i even = _mm512_set1_epi16(0x00ff), one = _mm512_set1_epi16(1), zero = _mm512_setzero_si512();
    /* h mod 2^16: bits 6..14 the entry, bit 15 the sign */
    A = _mm512_mullo_epi16(A, _mm512_add_epi16(A, one));
    B = _mm512_mullo_epi16(B, _mm512_add_epi16(B, one));
    __m512i low = SELECT(even, _mm512_srli_epi16(A, 6), _mm512_slli_epi16(B, 2)),
            high = SELECT(even, _mm512_srli_epi16(A, 8), B);
    __mmask64 k7 = _mm512_movepi8_mask(low), k8 = _mm512_test_epi8_mask(high, _mm512_set1_epi8(0x40));
    for (int v = 0; v < 2; v++) {
        __m512i l = look_up(c->plane + 1024 * v, low, k7, k8),
                h = look_up(c->plane + 1024 * v + 512, low, k7, k8);
        w[v] = SELECT(even, l, _mm512_slli_epi16(h, 8));
        w[2 + v] = SELECT(even, _mm512_srli_epi16(l, 8), h);
    }
    w[0] = _mm512_mask_sub_epi16(w[0], _mm512_movepi16_mask(A), zero, w[0]);
    w[2] = _mm512_mask_sub_epi16(w[2], _mm512_movepi16_mask(B), zero, w[2]);
}

INLINE __m512i mad1(__m512i s)
{
    __m512i x =
        _mm512_add_epi32(_mm512_mullo_epi32(s, _mm512_set1_epi32(34038481)), _mm512_set1_epi32(76625530));
    return _mm512_dpbusd_epi32(_mm512_set1_epi32(-510), x, _mm512_set1_epi8(1));
}

/* 4 sum - 2041 */
INLINE __m512i mul1(__m512i s)
{
    __m512i x = _mm512_mullo_epi32(s, _mm512_set1_epi32((int)0x83DCD12D));
    return _mm512_dpbusd_epi32(_mm512_set1_epi32(-2041), x, _mm512_set1_epi8(4));
}

/* x: the product of 3inst or mcg, whose halves are added. */
INLINE __m512 sum_of_halves(__m512i x)
{
    x = _mm512_xor_si512(_mm512_and_si512(x, _mm512_set1_epi32((int)0x8FFF8FFF)),
                         _mm512_set1_epi32(0x3B603B60));
    return _mm512_add_ps(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)),
                         _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(x, 16))));
}

INLINE __m512i inst3(__m512i s, __m512 inverse)
{
    __m512i x =
        _mm512_add_epi32(_mm512_mullo_epi32(s, _mm512_set1_epi32(89226354)), _mm512_set1_epi32(64248484));
    return _mm512_cvtps_epi32(_mm512_mul_ps(sum_of_halves(x), inverse));
}

INLINE __m512i mcg(__m512i s, __m512 inverse)
{
    __m512 v = sum_of_halves(_mm512_mullo_epi32(s, _mm512_set1_epi32((int)0xCBAC1FED)));
    v = _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    return _mm512_cvtps_epi32(_mm512_mul_ps(v, inverse));
}

/* The integers of 16 states of a code of one weight a step. */
INLINE __m512i integers(__m512i s, const kq_code code, __m512 inverse)
{
    return code == KQ_1MAD    ? mad1(s)
           : code == KQ_3INST ? inst3(s, inverse)
           : code == KQ_MUL1  ? mul1(s)
                              : mcg(s, inverse);
}

/* The eight vectors of a tile's weights. */
INLINE void decode_tile(const kq_packed_code *c, const uint16_t *words, const kq_code code, const int k,
                        __m512i w[8])
{
    tile t = load_tile(c, words, k);
    if (code == KQ_HYB) {
        hyb_pair(c, states(c, t, k, 2, 0), states(c, t, k, 2, 1), w);
        hyb_pair(c, states(c, t, k, 2, 2), states(c, t, k, 2, 3), w + 4);
        return;
    }
    const __m512i even = _mm512_set1_epi32(0xffff);
    const __m512 inverse = _mm512_set1_ps(c->inverse);
    _Pragma("GCC unroll 8") for (int j = 0; j < 8; j++)
    {
        __m512i s = states(c, t, k, 1, j), a = _mm512_and_si512(s, even), b = _mm512_srli_epi32(s, 16);
        a = integers(a, code, inverse);
        b = integers(b, code, inverse);
        w[j] = SELECT(even, a, _mm512_slli_epi32(b, 16));
    }
}

INLINE void decode_all(const kq_packed_code *c, const uint16_t *words, size_t n_tiles, int16_t *panel,
                       const kq_code code, const int k)
{
    for (size_t i = 0; i < n_tiles; i++, words += 16 * k, panel += KQ_PANEL_TILE) {
        __m512i w[8];
        decode_tile(c, words, code, k, w);
        _Pragma("GCC unroll 8") for (int j = 0; j < 8; j++) _mm512_storeu_si512(panel + 32 * j, w[j]);
    }
}

INLINE void dot_all(const kq_packed_code *c, const uint16_t *words, size_t n_tiles, const int16_t *x,
                    float *y, const kq_code code, const int k)
{
    __m512 sum = _mm512_setzero_ps();
    for (size_t i = 0; i < n_tiles; i += KQ_PACKED_FLUSH) {
        const size_t end = n_tiles - i < KQ_PACKED_FLUSH ? n_tiles : i + KQ_PACKED_FLUSH;
        __m512i a = _mm512_setzero_si512(), b = a;
        for (size_t at = i; at < end; at++, words += 16 * k, x += 16) {
            __m512i w[8];
            int32_t pair[8];
            __builtin_memcpy(pair, x, sizeof pair);
            decode_tile(c, words, code, k, w);
            _Pragma("GCC unroll 4") for (int j = 0; j < 8; j += 2)
            {
                a = _mm512_dpwssd_epi32(a, w[j], _mm512_set1_epi32(pair[j]));
                b = _mm512_dpwssd_epi32(b, w[j + 1], _mm512_set1_epi32(pair[j + 1]));
            }
        }
        sum = _mm512_add_ps(sum, _mm512_cvtepi32_ps(_mm512_add_epi32(a, b)));
    }
    _mm512_storeu_ps(y, sum);
}

#define ONE(name, code, k)                                                                           \
    static TARGET void decode_##name(const kq_packed_code *c, const uint16_t *words, size_t n_tiles, \
                                     int16_t *panel)                                                 \
    {                                                                                                \
        decode_all(c, words, n_tiles, panel, code, k);                                               \
    }                                                                                                \
    static TARGET void dot_##name(const kq_packed_code *c, const uint16_t *words, size_t n_tiles,    \
                                  const int16_t *x, float *y)                                        \
    {                                                                                                \
        dot_all(c, words, n_tiles, x, y, code, k);                                                   \
    }
/* clang-format off */
ONE(hyb2, KQ_HYB, 2)
ONE(hyb3, KQ_HYB, 3)
ONE(hyb4, KQ_HYB, 4)
ONE(mad2, KQ_1MAD, 2)
ONE(mad3, KQ_1MAD, 3)
ONE(mad4, KQ_1MAD, 4)
ONE(inst2, KQ_3INST, 2)
ONE(inst3_, KQ_3INST, 3)
ONE(inst4, KQ_3INST, 4)
ONE(mul2, KQ_MUL1, 2)
ONE(mul3, KQ_MUL1, 3)
ONE(mul4, KQ_MUL1, 4)
ONE(mcg2, KQ_MCG, 2)
ONE(mcg3, KQ_MCG, 3)
ONE(mcg4, KQ_MCG, 4)
/* clang-format on */

static void decode(const kq_packed_code *c, const uint16_t *words, size_t n_tiles, int16_t *panel)
{
    static void (*const all[KQ_N_CODE][3])(const kq_packed_code *, const uint16_t *, size_t,
                                           int16_t *) = {{decode_hyb2, decode_hyb3, decode_hyb4},
                                                         {decode_mad2, decode_mad3, decode_mad4},
                                                         {decode_inst2, decode_inst3_, decode_inst4},
                                                         {decode_mul2, decode_mul3, decode_mul4},
                                                         {decode_mcg2, decode_mcg3, decode_mcg4}};
    all[c->code][c->k - 2](c, words, n_tiles, panel);
}

static void dot(const kq_packed_code *c, const uint16_t *words, size_t n_tiles, const int16_t *x, float y[16])
{
    static void (*const all[KQ_N_CODE][3])(const kq_packed_code *, const uint16_t *, size_t, const int16_t *,
                                           float *) = {{dot_hyb2, dot_hyb3, dot_hyb4},
                                                       {dot_mad2, dot_mad3, dot_mad4},
                                                       {dot_inst2, dot_inst3_, dot_inst4},
                                                       {dot_mul2, dot_mul3, dot_mul4},
                                                       {dot_mcg2, dot_mcg3, dot_mcg4}};
    all[c->code][c->k - 2](c, words, n_tiles, x, y);
}

INLINE void dots_block(const int16_t *panel, size_t n_tiles, const int16_t *x, size_t ldx, float *y,
                       size_t ldy, const int T)
{
    __m512 sum[8];
    _Pragma("GCC unroll 8") for (int t = 0; t < T; t++) sum[t] = _mm512_setzero_ps();
    for (size_t i = 0; i < n_tiles; i += KQ_PACKED_FLUSH) {
        const size_t end = (n_tiles - i < KQ_PACKED_FLUSH ? n_tiles : i + KQ_PACKED_FLUSH) * 8;
        __m512i a[8];
        _Pragma("GCC unroll 8") for (int t = 0; t < T; t++) a[t] = _mm512_setzero_si512();
        for (size_t at = i * 8; at < end; at++) {
            const __m512i w = LOAD(panel + 32 * at);
            _Pragma("GCC unroll 8") for (int t = 0; t < T; t++)
            {
                int32_t pair;
                __builtin_memcpy(&pair, x + (size_t)t * ldx + 2 * at, sizeof pair);
                a[t] = _mm512_dpwssd_epi32(a[t], w, _mm512_set1_epi32(pair));
            }
        }
        _Pragma("GCC unroll 8") for (int t = 0; t < T; t++) sum[t] =
            _mm512_add_ps(sum[t], _mm512_cvtepi32_ps(a[t]));
    }
    _Pragma("GCC unroll 8") for (int t = 0; t < T; t++) _mm512_storeu_ps(y + (size_t)t * ldy, sum[t]);
}

static TARGET void dots(const int16_t *panel, size_t n_tiles, const int16_t *x, size_t ldx, size_t T,
                        float *y, size_t ldy)
{
    size_t t = 0;
    for (; T - t >= 8; t += 8)
        dots_block(panel, n_tiles, x + t * ldx, ldx, y + t * ldy, ldy, 8);
    for (; T - t >= 2; t += 2)
        dots_block(panel, n_tiles, x + t * ldx, ldx, y + t * ldy, ldy, 2);
    for (; t < T; t++)
        dots_block(panel, n_tiles, x + t * ldx, ldx, y + t * ldy, ldy, 1);
}

static TARGET float quantize(const float *x, size_t n, int x_max, int16_t *q)
{
    __m512 m = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += 16)
        m = _mm512_max_ps(m, _mm512_abs_ps(_mm512_loadu_ps(x + i)));
    const float top = _mm512_reduce_max_ps(m), step = top / (float)x_max,
                inverse = top > 0 ? (float)x_max / top : 0;
    const __m512 f = _mm512_set1_ps(inverse);
    const __m512i low = _mm512_set1_epi32(-x_max), high = _mm512_set1_epi32(x_max);
    for (size_t i = 0; i < n; i += 16) {
        __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), f));
        __m256i w = _mm512_cvtepi32_epi16(_mm512_min_epi32(high, _mm512_max_epi32(low, v)));
        __m128i a = _mm256_castsi256_si128(w), b = _mm256_extracti128_si256(w, 1);
        _mm_storeu_si128((__m128i *)(void *)(q + i), _mm_unpacklo_epi16(a, b));
        _mm_storeu_si128((__m128i *)(void *)(q + i + 8), _mm_unpackhi_epi16(a, b));
    }
    return step;
}

const kq_packed_kern kq_packed_kern_vbmi = {
    .name = "avx512-vbmi", .decode = decode, .dot = dot, .dots = dots, .quantize = quantize};
#else
typedef int kq_no_packed_vbmi;
#endif
