/* Packed products for AVX2: eight rows at a time, the words of a state gathered once for the steps that
 * begin in them. */
#include "decode/packed.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define INLINE static inline __attribute__((always_inline)) TARGET

/* States at `bit` of rows r .. r + 7, from the tile's words followed by the first two again. */
INLINE __m256i states(const uint16_t *words, int k, size_t row, size_t bit)
{
    const __m256i rows = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(k));
    __m256i v =
        _mm256_i32gather_epi32((const int *)(const void *)(words + row * (size_t)k + bit / 16), rows, 2);
    /* the earlier word on top */
    v = _mm256_or_si256(_mm256_slli_epi32(v, 16), _mm256_srli_epi32(v, 16));
    return _mm256_and_si256(_mm256_srl_epi32(v, _mm_cvtsi32_si128((int)(16 - bit % 16))),
                            _mm256_set1_epi32(0xffff));
}

INLINE __m256i hyb(const uint32_t *pair, __m256i s)
{
    __m256i h = _mm256_mullo_epi32(s, _mm256_add_epi32(s, _mm256_set1_epi32(1)));
    return _mm256_i32gather_epi32((const int *)(const void *)pair,
                                  _mm256_and_si256(_mm256_srli_epi32(h, 6), _mm256_set1_epi32(1023)), 4);
}

INLINE __m256i mad1(__m256i s)
{
    __m256i x =
        _mm256_add_epi32(_mm256_mullo_epi32(s, _mm256_set1_epi32(34038481)), _mm256_set1_epi32(76625530));
    x = _mm256_madd_epi16(_mm256_maddubs_epi16(x, _mm256_set1_epi8(1)), _mm256_set1_epi16(1));
    return _mm256_sub_epi32(x, _mm256_set1_epi32(510));
}

/* 4 sum - 2041 */
INLINE __m256i mul1(__m256i s)
{
    __m256i x = _mm256_mullo_epi32(s, _mm256_set1_epi32((int)0x83DCD12D));
    x = _mm256_madd_epi16(_mm256_maddubs_epi16(x, _mm256_set1_epi8(4)), _mm256_set1_epi16(1));
    return _mm256_sub_epi32(x, _mm256_set1_epi32(2041));
}

INLINE __m256 halves(__m256i v) /* the low 16 bits of each lane as f16 */
{
    __m256i p = _mm256_packus_epi32(v, v);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(p, 0x08)));
}

/* x: the product of 3inst or mcg, whose halves are added. */
INLINE __m256 sum_of_halves(__m256i x)
{
    x = _mm256_xor_si256(_mm256_and_si256(x, _mm256_set1_epi32((int)0x8FFF8FFF)),
                         _mm256_set1_epi32(0x3B603B60));
    return _mm256_add_ps(halves(_mm256_and_si256(x, _mm256_set1_epi32(0xffff))),
                         halves(_mm256_srli_epi32(x, 16)));
}

INLINE __m256i inst3(__m256i s, float inverse)
{
    __m256i x =
        _mm256_add_epi32(_mm256_mullo_epi32(s, _mm256_set1_epi32(89226354)), _mm256_set1_epi32(64248484));
    return _mm256_cvtps_epi32(_mm256_mul_ps(sum_of_halves(x), _mm256_set1_ps(inverse)));
}

INLINE __m256i mcg(__m256i s, float inverse)
{
    __m256 v = sum_of_halves(_mm256_mullo_epi32(s, _mm256_set1_epi32((int)0xCBAC1FED)));
    v = _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    return _mm256_cvtps_epi32(_mm256_mul_ps(v, _mm256_set1_ps(inverse)));
}

/* The integers of 8 states of a code of one weight a step. */
INLINE __m256i integers(__m256i s, const kq_packed_code *c)
{
    switch (c->code) {
    case KQ_1MAD: return mad1(s);
    case KQ_3INST: return inst3(s, c->inverse);
    case KQ_MUL1: return mul1(s);
    default: return mcg(s, c->inverse);
    }
}

static TARGET void decode(const kq_packed_code *c, const uint16_t *words, size_t n_tiles, int16_t *panel)
{
    const __m256i low = _mm256_set1_epi32(0xffff);
    const size_t k = (size_t)c->k;
    for (size_t i = 0; i < n_tiles; i++, words += c->words, panel += KQ_PANEL_TILE) {
        uint16_t w[64 + 2];
        memcpy(w, words, c->words * sizeof *w);
        w[c->words] = words[0];
        for (size_t r = 0; r < 16; r += 8) {
            int16_t *out = panel + 2 * r;
            if (c->code == KQ_HYB) {
                for (size_t a = 0; a < 4; a++) {
                    __m256i p = hyb(c->pair, states(w, c->k, r, a * 2 * k)),
                            q = hyb(c->pair, states(w, c->k, r, (a + 4) * 2 * k));
                    _mm256_storeu_si256((void *)(out + 64 * a),
                                        _mm256_or_si256(_mm256_and_si256(p, low), _mm256_slli_epi32(q, 16)));
                    _mm256_storeu_si256(
                        (void *)(out + 64 * a + 32),
                        _mm256_or_si256(_mm256_srli_epi32(p, 16), _mm256_andnot_si256(low, q)));
                }
                continue;
            }
            for (size_t j = 0; j < 8; j++) {
                __m256i p = states(w, c->k, r, j * k), q = states(w, c->k, r, (j + 8) * k);
                p = integers(p, c);
                q = integers(q, c);
                _mm256_storeu_si256((void *)(out + 32 * j),
                                    _mm256_or_si256(_mm256_and_si256(p, low), _mm256_slli_epi32(q, 16)));
            }
        }
    }
}

INLINE __m256i pair_of(const int16_t *x)
{
    int32_t v;
    memcpy(&v, x, sizeof v);
    return _mm256_set1_epi32(v);
}

/* Two vectors of rows, V vectors x. */
INLINE void dots_block(const int16_t *panel, size_t n_tiles, const int16_t *x, size_t ldx, float *y,
                       size_t ldy, const int V)
{
    __m256 sum[2][4];
    for (int t = 0; t < V; t++)
        sum[0][t] = sum[1][t] = _mm256_setzero_ps();
    for (size_t i = 0; i < n_tiles; i += KQ_PACKED_FLUSH) {
        const size_t end = (n_tiles - i < KQ_PACKED_FLUSH ? n_tiles : i + KQ_PACKED_FLUSH) * 8;
        __m256i a[2][4];
        for (int t = 0; t < V; t++)
            a[0][t] = a[1][t] = _mm256_setzero_si256();
        for (size_t at = i * 8; at < end; at++) {
            const __m256i w0 = _mm256_loadu_si256((const void *)(panel + 32 * at)),
                          w1 = _mm256_loadu_si256((const void *)(panel + 32 * at + 16));
            _Pragma("GCC unroll 4") for (int t = 0; t < V; t++)
            {
                const __m256i v = pair_of(x + (size_t)t * ldx + 2 * at);
                a[0][t] = _mm256_add_epi32(a[0][t], _mm256_madd_epi16(w0, v));
                a[1][t] = _mm256_add_epi32(a[1][t], _mm256_madd_epi16(w1, v));
            }
        }
        for (int t = 0; t < V; t++) {
            sum[0][t] = _mm256_add_ps(sum[0][t], _mm256_cvtepi32_ps(a[0][t]));
            sum[1][t] = _mm256_add_ps(sum[1][t], _mm256_cvtepi32_ps(a[1][t]));
        }
    }
    for (int t = 0; t < V; t++) {
        _mm256_storeu_ps(y + (size_t)t * ldy, sum[0][t]);
        _mm256_storeu_ps(y + (size_t)t * ldy + 8, sum[1][t]);
    }
}

static TARGET void dots(const int16_t *panel, size_t n_tiles, const int16_t *x, size_t ldx, size_t T,
                        float *y, size_t ldy)
{
    size_t t = 0;
    for (; T - t >= 4; t += 4)
        dots_block(panel, n_tiles, x + t * ldx, ldx, y + t * ldy, ldy, 4);
    for (; t < T; t++)
        dots_block(panel, n_tiles, x + t * ldx, ldx, y + t * ldy, ldy, 1);
}

static void dot(const kq_packed_code *c, const uint16_t *words, size_t n_tiles, const int16_t *x, float y[16])
{
    kq_packed_dot_by_panel(&kq_packed_kern_avx2, c, words, n_tiles, x, y);
}

static float quantize(const float *x, size_t n, int x_max, int16_t *q)
{
    return kq_packed_kern_ref.quantize(x, n, x_max, q);
}

const kq_packed_kern kq_packed_kern_avx2 = {
    .name = "avx2", .decode = decode, .dot = dot, .dots = dots, .quantize = quantize};
#else
typedef int kq_no_packed_avx2;
#endif
