#include "fisher/panel.h"

#include <string.h>

#include "kern/gemm.h"

bool kq_panel_available(void)
{
#if defined(__x86_64__)
    kq_isa isa;
    return kq_isa_pick(NULL, &isa, NULL) == KQ_OK && isa >= KQ_ISA_AVX512 && kq_kern_isa() >= KQ_ISA_AVX512;
#else
    return false;
#endif
}

void kq_panel_pack(const float *mid, size_t K, size_t r0, bool triangular, float *packed)
{
    for (size_t k = 0; k < K; k++)
        for (size_t r = r0; r < r0 + 8; r++)
            *packed++ = r < K && (!triangular || k <= r) ? mid[r * K + k] : 0;
}

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

/* K values a pass: the two panels a tile reads are then 16 KB each, and stay in a first-level cache of 48 KB beside the sums. */
enum { KC = 128 };

/* C [8, 32] (+)= sum_k A[k][0..7]^T B[k][0..31]: 16 sums in registers, 8 broadcasts and 2 loads for 16 fused multiply-adds. */
static TARGET inline __attribute__((always_inline)) void micro(size_t K, const float *A, size_t lda, const float *B, float *C, size_t ldc, bool add)
{
    __m512 s[8][2];
    #pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        s[i][0] = s[i][1] = _mm512_setzero_ps();
    for (size_t k = 0; k < K; k++, A += lda, B += KQ_PANEL) {
        __m512 b0 = _mm512_load_ps(B), b1 = _mm512_load_ps(B + 16);
        #pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            __m512 a = _mm512_set1_ps(A[i]);
            s[i][0] = _mm512_fmadd_ps(a, b0, s[i][0]);
            s[i][1] = _mm512_fmadd_ps(a, b1, s[i][1]);
        }
    }
    #pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        float *c = C + (size_t)i * ldc;
        if (add) {
            s[i][0] = _mm512_add_ps(s[i][0], _mm512_loadu_ps(c));
            s[i][1] = _mm512_add_ps(s[i][1], _mm512_loadu_ps(c + 16));
        }
        _mm512_storeu_ps(c, s[i][0]);
        _mm512_storeu_ps(c + 16, s[i][1]);
    }
}

static TARGET inline __attribute__((always_inline)) __m512 widen(const uint16_t *g, __mmask16 mask)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, g)), 16));
}

static __mmask16 first_of(size_t from, size_t end)
{
    return end <= from ? 0 : end - from >= 16 ? 0xffff : (__mmask16)((1u << (end - from)) - 1);
}

static TARGET void transpose16(__m512 *r)
{
    __m512 t[16];
    for (int i = 0; i < 16; i += 2) { /* pairs of rows, then of pairs: 4 x 4 transposes within each quarter */
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
        r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
        r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
        r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
    }
    for (int i = 0; i < 4; i++) { /* then the quarters: column 4 q + i is quarter q of rows i, i+4, i+8, i+12 */
        __m512 a = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88), b = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        __m512 c = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd), d = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
        t[i] = _mm512_shuffle_f32x4(a, b, 0x88);
        t[i + 8] = _mm512_shuffle_f32x4(a, b, 0xdd);
        t[i + 4] = _mm512_shuffle_f32x4(c, d, 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(c, d, 0xdd);
    }
    for (int i = 0; i < 16; i++)
        r[i] = t[i];
}

TARGET void kq_panel_load_avx512(const uint16_t *g, size_t m, size_t n, bool transposed, size_t first, size_t last, float *X)
{
    size_t K = transposed ? n : m;
    for (size_t p = first; p < last; p++) {
        float *x = X + p * K * KQ_PANEL;
        size_t c = p * KQ_PANEL;
        if (!transposed) {
            __mmask16 lo = first_of(c, n), hi = first_of(c + 16, n);
            for (size_t k = 0; k < m; k++) {
                _mm512_store_ps(x + k * KQ_PANEL, widen(g + k * n + c, lo));
                _mm512_store_ps(x + k * KQ_PANEL + 16, widen(g + k * n + c + 16, hi));
            }
            continue;
        }
        for (size_t k = 0; k < n; k += 16)
            for (size_t half = 0; half < 32; half += 16) {
                __m512 r[16];
                __mmask16 mask = first_of(k, n);
                for (size_t i = 0; i < 16; i++)
                    r[i] = c + half + i < m ? widen(g + (c + half + i) * n + k, mask) : _mm512_setzero_ps();
                transpose16(r);
                for (size_t i = 0; i < 16 && k + i < n; i++)
                    _mm512_store_ps(x + (k + i) * KQ_PANEL + half, r[i]);
            }
    }
}

TARGET void kq_panel_middle_avx512(const float *packed, size_t K, bool triangular, size_t first, size_t last, const float *X, float *T, float *out)
{
    size_t groups = (K + KQ_PANEL_ROWS - 1) / KQ_PANEL_ROWS;
    for (size_t group = groups; group-- > 0;) {
        size_t r0 = group * KQ_PANEL_ROWS, r1 = K - r0 < KQ_PANEL_ROWS ? K : r0 + KQ_PANEL_ROWS, end = triangular ? r1 : K;
        for (size_t k0 = 0; k0 < end; k0 += KC)
            for (size_t p = first; p < last; p++)
                for (size_t r = r0; r < r1; r += 8) {
                    size_t stop = triangular && r + 8 < K ? r + 8 : K;
                    if (stop > k0 + KC)
                        stop = k0 + KC;
                    if (stop > k0)
                        micro(stop - k0, packed + r * K + k0 * 8, 8, X + (p * K + k0) * KQ_PANEL,
                              out + ((p - first) * KQ_PANEL_ROWS + r - r0) * KQ_PANEL, KQ_PANEL, k0 > 0);
                }
        for (size_t p = first; p < last; p++)
            memcpy(T + (p * K + r0) * KQ_PANEL, out + (p - first) * KQ_PANEL_ROWS * KQ_PANEL, (r1 - r0) * KQ_PANEL * sizeof *T);
    }
}

TARGET void kq_panel_gather_avx512(const float *T, const float *X, size_t K, size_t r0, size_t r1, size_t c0, size_t c1, float *acc, size_t ld)
{
    for (size_t k0 = 0; k0 < K; k0 += KC) {
        size_t kc = K - k0 < KC ? K - k0 : KC;
        for (size_t c = c0; c < c1; c++)
            for (size_t r = r0 > c ? r0 : c; r < r1; r++)
                for (size_t i = 0; i < KQ_PANEL; i += 8)
                    micro(kc, T + (r * K + k0) * KQ_PANEL + i, KQ_PANEL, X + (c * K + k0) * KQ_PANEL, acc + (r * KQ_PANEL + i) * ld + c * KQ_PANEL,
                          ld, true);
    }
}
#else
void kq_panel_load_avx512(const uint16_t *g, size_t m, size_t n, bool transposed, size_t first, size_t last, float *X)
{
    (void)g, (void)m, (void)n, (void)transposed, (void)first, (void)last, (void)X;
}

void kq_panel_middle_avx512(const float *packed, size_t K, bool triangular, size_t first, size_t last, const float *X, float *T, float *out)
{
    (void)packed, (void)K, (void)triangular, (void)first, (void)last, (void)X, (void)T, (void)out;
}

void kq_panel_gather_avx512(const float *T, const float *X, size_t K, size_t r0, size_t r1, size_t c0, size_t c1, float *acc, size_t ld)
{
    (void)T, (void)X, (void)K, (void)r0, (void)r1, (void)c0, (void)c1, (void)acc, (void)ld;
}
#endif
