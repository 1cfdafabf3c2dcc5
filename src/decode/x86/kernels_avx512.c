/* Decoding for AVX-512 F, BW, VL, DQ. */
#include "decode/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "base/f16.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")))
#define FN(name) name##_avx512
#define VF_N 16
#define ROWS 4
#define VECS 4
#define MIX_VECS 4
#define MIX_STRIP 4
#define KERN_NAME "avx512"
#define KERN_TABLE kq_decode_kern_avx512
typedef __m512 vf;
#define MASK(k) ((__mmask16)((1u << (k)) - 1))
#define vf_set1 _mm512_set1_ps
#define vf_load _mm512_loadu_ps
#define vf_store _mm512_storeu_ps
#define vf_part(p, k) _mm512_maskz_loadu_ps(MASK(k), p)
#define vf_part_store(p, k, v) _mm512_mask_storeu_ps(p, MASK(k), v)
#define vf_add _mm512_add_ps
#define vf_sub _mm512_sub_ps
#define vf_fma _mm512_fmadd_ps
#define vf_sum _mm512_reduce_add_ps
#define BF16(v) _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16))
#define vf_load_bf16(p) BF16(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define vf_part_bf16(p, k) BF16(_mm256_maskz_loadu_epi16(MASK(k), p))
#define vf_load_f16(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define vf_part_f16(p, k) _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(MASK(k), p))
#define vf_store_f16(p, v)                      \
    _mm256_storeu_si256((__m256i *)(void *)(p), \
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#define vf_load_i8(p) \
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))))

/* 8 bytes to 16 values: byte i / 2 in lane i, shifted by 4 in the odd lanes. */
static inline TARGET vf vf_load_u4(const uint8_t *p)
{
    __m128i b = _mm_loadl_epi64((const __m128i *)(const void *)p);
    __m512i v = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(b, b));
    v = _mm512_srlv_epi32(v, _mm512_set1_epi64((int64_t)4 << 32));
    return _mm512_cvtepi32_ps(
        _mm512_sub_epi32(_mm512_and_si512(v, _mm512_set1_epi32(15)), _mm512_set1_epi32(8)));
}

#include "decode/kernels_template.h"
#else
typedef int kq_no_decode_avx512;
#endif
