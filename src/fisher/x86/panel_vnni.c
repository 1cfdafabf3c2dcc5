/* The kernels of flip-flop's products in block integers (panel.h), for AVX-512 with VNNI. vpdpwssd adds two
 * products of 16-bit integers to a 32-bit sum in one instruction, twice the multiply-adds of an f32 FMA. */
#include "fisher/panel.h"

#include <math.h>

#include "kern/gemm.h"

enum { PAIRS = KQ_PANEL_BLOCK / 2 };
#define NORM 46300.0f    /* largest Euclidean norm of a block's integers: panel.h derives it */
#define LARGEST 32766.0f /* largest integer */
/* Below SMALL the square of a column's norm may have lost its bits; 16 times the largest value bounds the
 * norm then (256 values at most). A column whose values are all below NOTHING, whose squares f32 cannot hold,
 * becomes zero. */
#define SMALL 1e-28f
#define NOTHING 1e-30f

#if defined(__x86_64__)
#include <immintrin.h>

bool kq_panel_available(void)
{
    kq_isa isa;
    return kq_isa_pick(NULL, &isa, NULL) == KQ_OK && isa >= KQ_ISA_AVX512 && kq_kern_isa() >= KQ_ISA_AVX512 &&
           kq_cpu_has(KQ_CPU_VNNI);
}
#else
bool kq_panel_available(void)
{
    return false;
}
#endif

void kq_panel_balance(const float *C, size_t K, float *e)
{
    for (size_t k = 0; k < K; k++)
        e[k] = 0;
    for (size_t r = 0; r < K; r++)
        for (size_t k = 0; k <= r; k++)
            e[k] += C[r * K + k] * C[r * K + k];
    for (size_t k = 0; k < K; k++)
        e[k] = e[k] > 1e-36f && e[k] < 1e36f ? ldexpf(1, ilogbf(e[k]) / 2) : 1;
}

void kq_panel_pack(const float *C, size_t K, size_t r0, const float *e, int32_t *packed, float *scales)
{
    for (size_t k0 = 0; k0 < K; k0 += KQ_PANEL_BLOCK, scales += 8) {
        size_t end = K - k0 < KQ_PANEL_BLOCK ? K : k0 + KQ_PANEL_BLOCK;
        for (size_t i = 0; i < 8; i++) {
            size_t r = r0 + i, stop = r >= K ? k0 : r + 1 < end ? r + 1 : end;
            float norm = 0, most = 0;
            for (size_t k = k0; k < stop; k++) {
                float x = C[r * K + k] / e[k];
                norm += x * x;
                most = fmaxf(most, fabsf(x));
            }
            norm = norm < SMALL ? 16 * most : sqrtf(norm);
            float steps = most < NOTHING ? 0 : NORM / norm; /* a NaN stays one */
            steps = steps > LARGEST / most ? LARGEST / most : steps;
            scales[i] = most < NOTHING ? 0 : 1 / steps;
            for (size_t k = k0; k < end; k += 2) {
                int32_t low = k < stop ? (int32_t)lrintf(C[r * K + k] / e[k] * steps) : 0;
                int32_t high = k + 1 < stop ? (int32_t)lrintf(C[r * K + k + 1] / e[k + 1] * steps) : 0;
                packed[k / 2 * 8 + i] = (int32_t)((uint32_t)high << 16 | ((uint32_t)low & 0xffff));
            }
        }
    }
}

#if defined(__x86_64__)
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define INLINE inline __attribute__((always_inline))

/* One operand of micro: pairs of 16-bit values, `stride` int32 a pair of k, and the scale of each row or
 * column. */
typedef struct operand {
    const int32_t *pairs;
    const float *scales;
    size_t stride;
} operand;

/* C [8, 16 nv] (+)= A.scales[i] B.scales[j] sum_k A[k][i] B[k][j] over pairs k: up to 24 sums in registers, 8
 * broadcasts and 3 loads for 24 times 32 multiply-adds. B's stride is KQ_PANEL. Assembler, because GCC 12
 * copies and spills the sums of the intrinsic (a third of the speed). */
static TARGET INLINE void micro(int nv, size_t n_pairs, operand a_in, operand b_in, float *C, size_t ldc,
                                bool add)
{
    const int32_t *A = a_in.pairs, *B = b_in.pairs;
    const float *rows = a_in.scales, *columns = b_in.scales;
    const size_t lda = a_in.stride;
    __m512i s[8][3];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++)
            s[i][j] = _mm512_setzero_si512();
    }
    for (size_t k = 0; k < n_pairs; k++, A += lda, B += KQ_PANEL) {
        __m512i b[3];
        /* A's lines are three apart, which the hardware does not predict: worth a tenth of the time */
        _mm_prefetch((const char *)(A + 8 * lda), _MM_HINT_T0);
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++)
            b[j] = _mm512_load_si512(B + (j < nv ? 16 * j : 0));
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            __m512i a = _mm512_set1_epi32(A[i]);
#pragma GCC unroll 3
            for (int j = 0; j < 3; j++)
                if (j < nv)
                    __asm__("vpdpwssd %2, %1, %0" : "+v"(s[i][j]) : "v"(a), "v"(b[j]));
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++)
            if (j < nv) {
                float *c = C + (size_t)i * ldc + 16 * j;
                __m512 scale = _mm512_mul_ps(_mm512_set1_ps(rows[i]), _mm512_load_ps(columns + 16 * j)),
                       x = _mm512_cvtepi32_ps(s[i][j]);
                _mm512_store_ps(c,
                                add ? _mm512_fmadd_ps(x, scale, _mm512_load_ps(c)) : _mm512_mul_ps(x, scale));
            }
    }
}

/* One block: x [rows, 48] to pairs X [(rows + 1)/2][48] and scales [48]. */
static TARGET void quantize(const float *x, size_t rows, int32_t *X, float *scales)
{
    __m512 sum[3], most[3], steps[3];
#pragma GCC unroll 3
    for (int j = 0; j < 3; j++)
        sum[j] = most[j] = _mm512_setzero_ps();
    for (size_t k = 0; k < rows; k++) {
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++) {
            __m512 v = _mm512_load_ps(x + k * KQ_PANEL + 16 * j);
            sum[j] = _mm512_fmadd_ps(v, v, sum[j]);
            most[j] = _mm512_max_ps(most[j], _mm512_abs_ps(v));
        }
    }
#pragma GCC unroll 3
    for (int j = 0; j < 3; j++) {
        __mmask16 small = _mm512_cmp_ps_mask(sum[j], _mm512_set1_ps(SMALL), _CMP_LT_OQ);
        __mmask16 some = _mm512_cmp_ps_mask(most[j], _mm512_set1_ps(NOTHING), _CMP_NLT_UQ);
        __m512 norm = _mm512_mask_mul_ps(_mm512_sqrt_ps(sum[j]), small, most[j], _mm512_set1_ps(16));
        steps[j] = _mm512_maskz_min_ps(some, _mm512_div_ps(_mm512_set1_ps(LARGEST), most[j]),
                                       _mm512_div_ps(_mm512_set1_ps(NORM), norm));
        /* an infinity or NaN stays one */
        _mm512_store_ps(scales + 16 * j, _mm512_maskz_div_ps(some, _mm512_set1_ps(1), steps[j]));
    }
    for (size_t k = 0; k < rows; k += 2, x += 2 * KQ_PANEL, X += KQ_PANEL) {
#pragma GCC unroll 3
        for (int j = 0; j < 3; j++) {
            __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(x + 16 * j), steps[j])),
                    high = _mm512_setzero_si512();
            if (k + 1 < rows)
                high = _mm512_slli_epi32(
                    _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(x + KQ_PANEL + 16 * j), steps[j])), 16);
            _mm512_store_si512(X + 16 * j, _mm512_mask_mov_epi16(high, 0x55555555, low));
        }
    }
}

/* 16 bf16 values as f32; lanes outside the mask are 0. */
static TARGET INLINE __m512 widen(const uint16_t *g, __mmask16 mask)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, g)), 16));
}

/* The lanes of 16 columns from `from` on that lie below `end`. */
static __mmask16 lanes_below(size_t from, size_t end)
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
        r[i + 2] =
            _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
        r[i + 3] =
            _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
    }
    for (int i = 0; i < 4;
         i++) { /* then the quarters: column 4 q + i is quarter q of rows i, i+4, i+8, i+12 */
        __m512 a = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88),
               b = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        __m512 c = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd),
               d = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
        t[i] = _mm512_shuffle_f32x4(a, b, 0x88);
        t[i + 8] = _mm512_shuffle_f32x4(a, b, 0xdd);
        t[i + 4] = _mm512_shuffle_f32x4(c, d, 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(c, d, 0xdd);
    }
    for (int i = 0; i < 16; i++)
        r[i] = t[i];
}

/* Rows k0 .. k0+rows-1 of the panel at column c, as f32. */
static TARGET void rows_of(const uint16_t *g, size_t n, size_t k0, size_t rows, size_t c, const float *e,
                           float *out)
{
    __mmask16 mask[3] = {lanes_below(c, n), lanes_below(c + 16, n), lanes_below(c + 32, n)};
    for (size_t k = 0; k < rows; k++) {
        __m512 factor = _mm512_set1_ps(e ? e[k0 + k] : 1);
        for (size_t j = 0; j < 3; j++)
            _mm512_store_ps(out + k * KQ_PANEL + 16 * j,
                            mask[j] ? _mm512_mul_ps(factor, widen(g + (k0 + k) * n + c + 16 * j, mask[j]))
                                    : _mm512_setzero_ps());
    }
}

static TARGET void rows_of_transposed(const uint16_t *g, size_t m, size_t n, size_t k0, size_t rows, size_t c,
                                      const float *e, float *out)
{
    for (size_t k = 0; k < rows; k += 16) {
        __mmask16 mask = lanes_below(k0 + k, n);
        __m512 factor = e ? _mm512_maskz_loadu_ps(mask, e + k0 + k) : _mm512_set1_ps(1);
        for (size_t j = 0; j < KQ_PANEL; j += 16) {
            __m512 r[16];
            for (size_t i = 0; i < 16; i++)
                r[i] = c + j + i < m ? _mm512_mul_ps(factor, widen(g + (c + j + i) * n + k0 + k, mask))
                                     : _mm512_setzero_ps();
            transpose16(r);
            for (size_t i = 0; i < 16; i++) /* rows past the edge lie inside the scratch, a multiple of 16 */
                _mm512_store_ps(out + (k + i) * KQ_PANEL + j, r[i]);
        }
    }
}

TARGET void kq_panel_load_vnni(const uint16_t *g, size_t m, size_t n, bool transposed, size_t p,
                               const float *e, int32_t *X, float *scales, float *out)
{
    size_t K = transposed ? n : m;
    for (size_t k0 = 0; k0 < K; k0 += KQ_PANEL_BLOCK, X += PAIRS * KQ_PANEL, scales += KQ_PANEL) {
        size_t rows = K - k0 < KQ_PANEL_BLOCK ? K - k0 : KQ_PANEL_BLOCK;
        if (transposed)
            rows_of_transposed(g, m, n, k0, rows, p * KQ_PANEL, e, out);
        else
            rows_of(g, n, k0, rows, p * KQ_PANEL, e, out);
        quantize(out, rows, X, scales);
    }
}

TARGET void kq_panel_middle_vnni(const int32_t *packed, const float *row_scales, size_t K, int32_t *X,
                                 float *scales, float *out)
{
    size_t blocks = kq_panel_blocks(K), pairs = (K + 1) / 2;
    for (size_t R = blocks;
         R-- > 0;) { /* from the last up: a block of rows needs the ones above it as they were */
        size_t r0 = R * KQ_PANEL_BLOCK, r1 = K - r0 < KQ_PANEL_BLOCK ? K : r0 + KQ_PANEL_BLOCK;
        for (size_t b = 0; b <= R; b++)
            for (size_t r = r0; r < r1; r += 8) {
                size_t stop = b < R ? KQ_PANEL_BLOCK : (r + 8 < K ? r + 8 : K) - r0;
                const operand A = {packed + (r / 8 * pairs + b * PAIRS) * 8,
                                   row_scales + (r / 8 * blocks + b) * 8, 8},
                              B = {X + b * PAIRS * KQ_PANEL, scales + b * KQ_PANEL, KQ_PANEL};
                micro(3, (stop + 1) / 2, A, B, out + (r - r0) * KQ_PANEL, KQ_PANEL, b > 0);
            }
        quantize(out, r1 - r0, X + R * PAIRS * KQ_PANEL, scales + R * KQ_PANEL);
    }
}

TARGET void kq_panel_gather_vnni(const int32_t *X, const float *scales, size_t K, size_t r0, size_t r1,
                                 size_t c0, size_t c1, float *acc, size_t ld)
{
    size_t blocks = kq_panel_blocks(K), pairs = (K + 1) / 2;
    for (size_t b = 0; b < blocks; b++) {
        size_t count = pairs - b * PAIRS < PAIRS ? pairs - b * PAIRS : PAIRS;
        for (size_t c = c0; c < c1; c++)
            for (size_t r = r0 > c ? r0 : c; r < r1; r++)
                for (size_t i = 0; i < KQ_PANEL; i += 8) {
                    const operand A = {X + (r * pairs + b * PAIRS) * KQ_PANEL + i,
                                       scales + (r * blocks + b) * KQ_PANEL + i, KQ_PANEL},
                                  B = {X + (c * pairs + b * PAIRS) * KQ_PANEL,
                                       scales + (c * blocks + b) * KQ_PANEL, KQ_PANEL};
                    float *C = acc + (r * KQ_PANEL + i) * ld + c * KQ_PANEL;
                    /* vectors of the tile that touch the lower triangle */
                    if (r > c || i >= 32)
                        micro(3, count, A, B, C, ld, true);
                    else if (i >= 16)
                        micro(2, count, A, B, C, ld, true);
                    else
                        micro(1, count, A, B, C, ld, true);
                }
    }
}
#else
void kq_panel_load_vnni(const uint16_t *g, size_t m, size_t n, bool transposed, size_t p, const float *e,
                        int32_t *X, float *scales, float *out)
{
    (void)g, (void)m, (void)n, (void)transposed, (void)p, (void)e, (void)X, (void)scales, (void)out;
}

void kq_panel_middle_vnni(const int32_t *packed, const float *row_scales, size_t K, int32_t *X, float *scales,
                          float *out)
{
    (void)packed, (void)row_scales, (void)K, (void)X, (void)scales, (void)out;
}

void kq_panel_gather_vnni(const int32_t *X, const float *scales, size_t K, size_t r0, size_t r1, size_t c0,
                          size_t c1, float *acc, size_t ld)
{
    (void)X, (void)scales, (void)K, (void)r0, (void)r1, (void)c0, (void)c1, (void)acc, (void)ld;
}
#endif
