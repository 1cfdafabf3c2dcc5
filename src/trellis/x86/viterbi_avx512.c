/* The Viterbi search with 32 lanes (AVX-512 BW). */
#ifdef __x86_64__
#include <immintrin.h>

#include "trellis/internal.h"

#define FN(name) name##_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define W 32
#ifndef BATCH
#define BATCH 2
#endif
#define vi __m512i
#define v_load(p) _mm512_load_si512((const void *)(p))
#define v_store(p, x) _mm512_store_si512((void *)(p), x)
#define v_set1(x) _mm512_set1_epi16((int16_t)(x))
#define v_add _mm512_add_epi16
#define v_sub _mm512_sub_epi16
#define v_subs _mm512_subs_epi16
#define v_min _mm512_min_epu16
#define v_mulhrs _mm512_mulhrs_epi16
#define AI static inline __attribute__((always_inline)) TARGET
AI vi v_bc32(const uint16_t *p)
{
    int32_t x;
    memcpy(&x, p, 4);
    return _mm512_set1_epi32(x);
}
AI vi v_bc64(const uint16_t *p)
{
    int64_t x;
    memcpy(&x, p, 8);
    return _mm512_set1_epi64(x);
}
AI vi v_bc128(const uint16_t *p)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* Word i of the natural order sits in lane i / (32 / NS) + i % (32 / NS) NS. */
AI vi v_nat(vi x, int NS)
{
    static const uint16_t order[3][32]
        __attribute__((aligned(64))) = {{0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                         1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31},
                                        {0, 4, 8,  12, 16, 20, 24, 28, 1, 5, 9,  13, 17, 21, 25, 29,
                                         2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31},
                                        {0, 8,  16, 24, 1, 9,  17, 25, 2, 10, 18, 26, 3, 11, 19, 27,
                                         4, 12, 20, 28, 5, 13, 21, 29, 6, 14, 22, 30, 7, 15, 23, 31}};
    return NS == 1 ? x : _mm512_permutexvar_epi16(v_load(order[NS == 2 ? 0 : NS == 4 ? 1 : 2]), x);
}
AI vi v_rev(vi x)
{
    static const uint16_t order[32]
        __attribute__((aligned(64))) = {31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16,
                                        15, 14, 13, 12, 11, 10, 9,  8,  7,  6,  5,  4,  3,  2,  1,  0};
    return _mm512_permutexvar_epi16(v_load(order), x);
}
AI vi v_duplo(vi x)
{
    vi y = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(x));
    return _mm512_or_si512(y, _mm512_slli_epi32(y, 16));
}
AI vi v_duphi(vi x)
{
    vi y = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(x, 1));
    return _mm512_or_si512(y, _mm512_slli_epi32(y, 16));
}
AI uint16_t v_hmin(vi x)
{
    __m256i y = _mm256_min_epu16(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
    return (uint16_t)_mm_cvtsi128_si32(
        _mm_minpos_epu16(_mm_min_epu16(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1))));
}
#undef AI

#include "trellis/viterbi_template.h"
#else
typedef int kq_no_avx512; /* a translation unit must not be empty */
#endif
