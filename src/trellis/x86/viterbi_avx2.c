/* The Viterbi search with 16 lanes (AVX2). */
#ifdef __x86_64__
#include <immintrin.h>

#include "trellis/internal.h"

#define FN(name) name##_avx2
#define TARGET __attribute__((target("avx2")))
#define W 16
#ifndef BATCH
#define BATCH 2
#endif
#define vi __m256i
#define v_load(p) _mm256_load_si256((const __m256i *)(const void *)(p))
#define v_store(p, x) _mm256_store_si256((__m256i *)(void *)(p), x)
#define v_set1(x) _mm256_set1_epi16((int16_t)(x))
#define v_add _mm256_add_epi16
#define v_sub _mm256_sub_epi16
#define v_subs _mm256_subs_epi16
#define v_min _mm256_min_epu16
#define v_mulhrs _mm256_mulhrs_epi16
#define AI static inline __attribute__((always_inline)) TARGET
AI vi v_bc32(const uint16_t *p)
{
    int32_t x;
    memcpy(&x, p, 4);
    return _mm256_set1_epi32(x);
}
AI vi v_bc64(const uint16_t *p)
{
    int64_t x;
    memcpy(&x, p, 8);
    return _mm256_set1_epi64x(x);
}
AI vi v_bc128(const uint16_t *p)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* Word i of the natural order sits in lane i / (16 / NS) + i % (16 / NS) NS; NS is 1, 2 or 4 (R >= 2). */
AI vi v_nat(vi x, int NS)
{
    if (NS == 1)
        return x;
    if (NS == 2) { /* each half: [r][2] -> [2][r], then the halves' quarters interleave */
        const __m256i m = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5,
                                           8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
        return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(x, m), 0xD8);
    }
    const __m256i m = _mm256_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15, 0, 1, 8, 9, 2, 3,
                                       10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
    return _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(x, m), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
AI vi v_rev(vi x)
{
    const __m256i m = _mm256_setr_epi8(14, 15, 12, 13, 10, 11, 8, 9, 6, 7, 4, 5, 2, 3, 0, 1, 14, 15, 12, 13,
                                       10, 11, 8, 9, 6, 7, 4, 5, 2, 3, 0, 1);
    return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(x, m), 0x4E);
}
AI vi v_duplo(vi x)
{
    x = _mm256_permute4x64_epi64(x, 0x50);
    return _mm256_unpacklo_epi16(x, x);
}
AI vi v_duphi(vi x)
{
    x = _mm256_permute4x64_epi64(x, 0xFA);
    return _mm256_unpacklo_epi16(x, x);
}
AI uint16_t v_hmin(vi x)
{
    return (uint16_t)_mm_cvtsi128_si32(
        _mm_minpos_epu16(_mm_min_epu16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1))));
}
#undef AI

#include "trellis/viterbi_template.h"
#else
typedef int kq_no_avx2; /* a translation unit must not be empty */
#endif
