/* Decoding for AVX2, FMA and F16C. */
#include "decode/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "base/f16.h"

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define FN(name) name##_avx2
#define VF_N 8
#define ROWS 2
#define VECS 4
#define MIX_VECS 2
#define MIX_STRIP 4
#define KERN_NAME "avx2"
#define KERN_TABLE kq_decode_kern_avx2
typedef __m256 vf;
#define vf_set1 _mm256_set1_ps
#define vf_load _mm256_loadu_ps
#define vf_store _mm256_storeu_ps
#define vf_add _mm256_add_ps
#define vf_sub _mm256_sub_ps
#define vf_fma _mm256_fmadd_ps

static inline TARGET __m256i lanes(size_t k)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)k), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#define vf_part(p, k) _mm256_maskload_ps(p, lanes(k))
#define vf_part_store(p, k, v) _mm256_maskstore_ps(p, lanes(k), v)

static inline TARGET float vf_sum(vf v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static inline TARGET __m128i part_u16(const uint16_t *p, size_t k)
{
    uint16_t all[8] = {0};
    memcpy(all, p, k * sizeof *p);
    return _mm_loadu_si128((const __m128i *)(const void *)all);
}
#define BF16(v) _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16))
#define vf_load_bf16(p) BF16(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define vf_part_bf16(p, k) BF16(part_u16(p, k))
#define vf_load_f16(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define vf_part_f16(p, k) _mm256_cvtph_ps(part_u16(p, k))
#define vf_store_f16(p, v)                   \
    _mm_storeu_si128((__m128i *)(void *)(p), \
                     _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#define vf_load_i8(p) \
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p))))

/* 4 bytes to 8 values: byte i / 2 in lane i, shifted by 4 in the odd lanes. */
static inline TARGET vf vf_load_u4(const uint8_t *p)
{
    int32_t four;
    memcpy(&four, p, 4);
    __m128i b = _mm_cvtsi32_si128(four);
    __m256i v = _mm256_cvtepu8_epi32(_mm_unpacklo_epi8(b, b));
    v = _mm256_srlv_epi32(v, _mm256_set1_epi64x((int64_t)4 << 32));
    return _mm256_cvtepi32_ps(
        _mm256_sub_epi32(_mm256_and_si256(v, _mm256_set1_epi32(15)), _mm256_set1_epi32(8)));
}

#include "decode/kernels_template.h"
#else
typedef int kq_no_decode_avx2;
#endif
