/* The kernels for AVX-512 F, BW, VL, DQ. */
#include "kern/kern.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#include "base/f16.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#define FN(name) name##_avx512
#define VF_N 16
#define KERN_NAME "avx512"
#define KERN_TABLE kq_kern_avx512
typedef __m512 vf;
#define vf_set1 _mm512_set1_ps
#define vf_load _mm512_loadu_ps
#define vf_store _mm512_storeu_ps
#define MASK(k) ((__mmask16)((1u << (k)) - 1))
#define vf_part(p, k, fill) _mm512_mask_loadu_ps(_mm512_set1_ps(fill), MASK(k), p)
#define vf_part_store(p, k, v) _mm512_mask_storeu_ps(p, MASK(k), v)
#define vf_keep(v, k) _mm512_maskz_mov_ps(MASK(k), v)
#define vf_add _mm512_add_ps
#define vf_sub _mm512_sub_ps
#define vf_mul _mm512_mul_ps
#define vf_div _mm512_div_ps
#define vf_fma _mm512_fmadd_ps
#define vf_fnma _mm512_fnmadd_ps
#define vf_max _mm512_max_ps
#define vf_min _mm512_min_ps
#define vf_round(v) _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define vf_hmax _mm512_reduce_max_ps
#define vf_sum _mm512_reduce_add_ps
#define vf_load_bf16(p)                    \
    _mm512_castsi512_ps(_mm512_slli_epi32( \
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(p))), 16))
#define vf_part_bf16(p, k) \
    _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(MASK(k), p)), 16))

/* v 2^n; 0 where the result could fall below the normal numbers (n < -125). */
static inline TARGET vf vf_pow2(vf v, vf n)
{
    __mmask16 tiny = _mm512_cmp_ps_mask(n, _mm512_set1_ps(-125.0f), _CMP_LT_OQ);
    return _mm512_mask_mov_ps(_mm512_scalef_ps(v, n), tiny, _mm512_setzero_ps());
}

static inline TARGET void vf_store_bf16(uint16_t *p, vf v)
{
    __m512i u = _mm512_castps_si512(v),
            lsb = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), lsb), 16);
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    r = _mm512_mask_or_epi32(r, nan, _mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(r));
}

#include "kern/kern_template.h"
#else
typedef int kq_no_avx512;
#endif
