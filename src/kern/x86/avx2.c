/* The kernels for AVX2 and FMA. */
#include "kern/kern.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#include "base/f16.h"

#define TARGET __attribute__((target("avx2,fma")))
#define FN(name) name##_avx2
#define VF_N 8
#define KERN_NAME "avx2"
#define KERN_TABLE kq_kern_avx2
typedef __m256 vf;
#define vf_set1 _mm256_set1_ps
#define vf_load _mm256_loadu_ps
#define vf_store _mm256_storeu_ps
#define vf_add _mm256_add_ps
#define vf_sub _mm256_sub_ps
#define vf_mul _mm256_mul_ps
#define vf_div _mm256_div_ps
#define vf_fma _mm256_fmadd_ps
#define vf_fnma _mm256_fnmadd_ps
#define vf_max _mm256_max_ps
#define vf_min _mm256_min_ps
#define vf_round(v) _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

static inline TARGET __m256i lanes(size_t k)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)k), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline TARGET vf vf_part(const float *p, size_t k, float fill)
{
    __m256i m = lanes(k);
    return _mm256_blendv_ps(_mm256_set1_ps(fill), _mm256_maskload_ps(p, m), _mm256_castsi256_ps(m));
}

static inline TARGET void vf_part_store(float *p, size_t k, vf v)
{
    _mm256_maskstore_ps(p, lanes(k), v);
}

static inline TARGET vf vf_keep(vf v, size_t k)
{
    return _mm256_and_ps(v, _mm256_castsi256_ps(lanes(k)));
}

static inline TARGET float vf_sum(vf v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static inline TARGET float vf_hmax(vf v)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

/* v 2^n, v in [0.7, 1.5), n in [-182, 128]; 0 where the result could fall below the normal numbers (n <
 * -125). Adding n to the exponent field is exact; a NaN keeps an exponent of ones because n is NaN too
 * and converts to 0x80000000, whose shift is 0. */
static inline TARGET vf vf_pow2(vf v, vf n)
{
    __m256i e = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    vf r = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), e));
    return _mm256_andnot_ps(_mm256_cmp_ps(n, _mm256_set1_ps(-125.0f), _CMP_LT_OQ), r);
}

static inline TARGET vf vf_load_bf16(const uint16_t *p)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)), 16));
}

static inline TARGET vf vf_part_bf16(const uint16_t *p, size_t k)
{
    uint16_t t[8] = {0};
    for (size_t i = 0; i < k; i++)
        t[i] = p[i];
    return vf_load_bf16(t);
}

static inline TARGET void vf_store_bf16(uint16_t *p, vf v)
{
    __m256i u = _mm256_castps_si256(v), hi = _mm256_srli_epi32(u, 16),
            lsb = _mm256_and_si256(hi, _mm256_set1_epi32(1));
    __m256i r = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), lsb), 16);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    r = _mm256_blendv_epi8(r, _mm256_or_si256(hi, _mm256_set1_epi32(0x40)), nan);
    r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0xd8);
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_castsi256_si128(r));
}

#include "kern/kern_template.h"
#else
typedef int kq_no_avx2;
#endif
