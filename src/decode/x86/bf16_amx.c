/* bf16 products by AMX (Intel 64 and IA-32 Architectures Software Developer's Manual, vol. 1, chapter 18).
 * The tiles hold a block of 32 rows and of 16 or 32 vectors: 0 to 3 are sums [row half + 2 group], 4 and 5
 * are weights, 6 and 7 inputs. Two groups go together where both are full, because then four independent sums
 * hide the latency of a product (52 cycles, one every 16). */
#include "decode/bf16.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>

#define VECTOR __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define TILE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,amx-tile,amx-bf16")))

enum { GROUP = KQ_BF16_GROUP, STEP = KQ_BF16_STEP, HALF = 16 /* rows of a tile */ };

/* v[i] lane j becomes v[j] lane i. */
static inline __attribute__((always_inline)) VECTOR void transpose(__m512i v[16])
{
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    /* v[4 b + c] has column 4 q + c of rows 4 b .. 4 b + 3 in its quarter q */
    for (int c = 0; c < 4; c++) {
        const __m512i a = _mm512_shuffle_i32x4(v[c], v[4 + c], 0x88),
                      b = _mm512_shuffle_i32x4(v[c], v[4 + c], 0xdd),
                      d = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0x88),
                      e = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0xdd);
        t[c] = _mm512_shuffle_i32x4(a, d, 0x88);
        t[8 + c] = _mm512_shuffle_i32x4(a, d, 0xdd);
        t[4 + c] = _mm512_shuffle_i32x4(b, e, 0x88);
        t[12 + c] = _mm512_shuffle_i32x4(b, e, 0xdd);
    }
    memcpy(v, t, sizeof t);
}

/* hi and lo of 32 columns, two in a lane. */
static inline VECTOR void split(__m512 x0, __m512 x1, __m512i *hi, __m512i *lo)
{
    *hi = (__m512i)_mm512_cvtne2ps_pbh(x1, x0);
    const __m512i h0 = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(*hi)), 16),
                  h1 = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(*hi, 1)), 16);
    *lo = (__m512i)_mm512_cvtne2ps_pbh(_mm512_sub_ps(x1, _mm512_castsi512_ps(h1)),
                                       _mm512_sub_ps(x0, _mm512_castsi512_ps(h0)));
}

static __mmask16 first(size_t k)
{
    return k >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << k) - 1);
}

static VECTOR void pack(const float *x, size_t ldx, size_t count, size_t n, size_t step0, size_t step1,
                        uint32_t *packed)
{
    const __mmask16 wanted = first(count);
    packed += step0 * STEP * count;
    for (size_t s = step0; s < step1; s++) {
        __m512i hi[GROUP], lo[GROUP];
        const size_t at = s * STEP, left = n - at;
        const __mmask16 m0 = first(left), m1 = first(left > 16 ? left - 16 : 0);
        for (size_t t = 0; t < count; t++)
            split(_mm512_maskz_loadu_ps(m0, x + t * ldx + at),
                  _mm512_maskz_loadu_ps(m1, x + t * ldx + at + (m1 ? 16 : 0)), &hi[t], &lo[t]);
        if (count == 1) {
            _mm512_storeu_si512(packed, hi[0]);
            _mm512_storeu_si512(packed + 16, lo[0]);
            packed += STEP;
            continue;
        }
        for (size_t t = count; t < GROUP; t++)
            hi[t] = lo[t] = _mm512_setzero_si512();
        transpose(hi);
        transpose(lo);
        for (size_t p = 0; p < 16; p++)
            _mm512_mask_storeu_epi32(packed + p * count, wanted, hi[p]);
        for (size_t p = 0; p < 16; p++)
            _mm512_mask_storeu_epi32(packed + (16 + p) * count, wanted, lo[p]);
        packed += STEP * count;
    }
}

static TILE void configure(size_t columns)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.rows[i] = 16;
        c.row_bytes[i] = i == 4 || i == 5 ? 64 : (uint16_t)(4 * columns);
    }
    _tile_loadconfig(&c);
}

/* What a tile of weights is loaded from: the matrix itself, or a copy with zeros where it ends. */
typedef struct place {
    const uint16_t *p;
    size_t stride; /* bytes */
} place;

static inline place weights(const uint16_t *W, size_t rows, size_t n, size_t step, uint16_t copy[HALF * STEP])
{
    const size_t at = step * STEP, columns = n - at < STEP ? n - at : STEP;
    if (rows >= HALF && columns == STEP)
        return (place){W + at, 2 * n};
    memset(copy, 0, HALF * STEP * sizeof *copy);
    for (size_t r = 0; r < rows && r < HALF; r++)
        memcpy(copy + r * STEP, W + r * n + at, columns * sizeof *copy);
    return (place){copy, 2 * STEP};
}

/* One tile of sums, [16 rows, columns], to y. */
static VECTOR void give(const float *sum, size_t rows, size_t columns, float *y, size_t ldy)
{
    rows = rows < HALF ? rows : HALF;
    if (columns == GROUP) {
        __m512i v[16];
        for (size_t r = 0; r < 16; r++)
            v[r] = _mm512_loadu_si512(sum + r * GROUP);
        transpose(v);
        for (size_t t = 0; t < GROUP; t++)
            _mm512_mask_storeu_epi32(y + t * ldy, first(rows), v[t]);
        return;
    }
    for (size_t t = 0; t < columns; t++)
        for (size_t r = 0; r < rows; r++)
            y[t * ldy + r] = sum[r * columns + t];
}

/* At most 32 rows with one group of `columns` vectors. */
static TILE void block1(const uint16_t *W, size_t rows, size_t n, const uint32_t *B, size_t columns, float *y,
                        size_t ldy)
{
    _Alignas(64) uint16_t copy[2][HALF * STEP];
    _Alignas(64) float sum[2][HALF * GROUP];
    const size_t steps = kq_bf16_steps(n), lower = rows > HALF ? rows - HALF : 0;
    _tile_zero(0);
    _tile_zero(1);
    for (size_t s = 0; s < steps; s++, B += STEP * columns) {
        const place a = weights(W, rows, n, s, copy[0]);
        _tile_loadd(4, a.p, a.stride);
        _tile_loadd(6, B, 4 * columns);
        _tile_loadd(7, B + 16 * columns, 4 * columns);
        _tile_dpbf16ps(0, 4, 6);
        if (lower) {
            const place b = weights(W + HALF * n, lower, n, s, copy[1]);
            _tile_loadd(5, b.p, b.stride);
            _tile_dpbf16ps(1, 5, 6);
            _tile_dpbf16ps(1, 5, 7);
        }
        _tile_dpbf16ps(0, 4, 7);
    }
    _tile_stored(0, sum[0], 4 * columns);
    give(sum[0], rows, columns, y, ldy);
    if (lower) {
        _tile_stored(1, sum[1], 4 * columns);
        give(sum[1], lower, columns, y + HALF, ldy);
    }
}

/* 32 rows with two full groups, B and C. */
static TILE void block2(const uint16_t *W, size_t n, const uint32_t *B, const uint32_t *C, float *y,
                        size_t ldy)
{
    _Alignas(64) uint16_t copy[2][HALF * STEP];
    _Alignas(64) float sum[4][HALF * GROUP];
    const size_t steps = kq_bf16_steps(n);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t s = 0; s < steps; s++, B += STEP * GROUP, C += STEP * GROUP) {
        const place a = weights(W, HALF, n, s, copy[0]), b = weights(W + HALF * n, HALF, n, s, copy[1]);
        _tile_loadd(4, a.p, a.stride);
        _tile_loadd(6, B, 64);
        _tile_loadd(5, b.p, b.stride);
        _tile_loadd(7, C, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(6, B + 16 * GROUP, 64);
        _tile_loadd(7, C + 16 * GROUP, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sum[0], 64);
    _tile_stored(1, sum[1], 64);
    _tile_stored(2, sum[2], 64);
    _tile_stored(3, sum[3], 64);
    for (size_t i = 0; i < 4; i++)
        give(sum[i], HALF, GROUP, y + i / 2 * GROUP * ldy + i % 2 * HALF, ldy);
}

static TILE void dots(const uint16_t *W, size_t rows, size_t n, const uint32_t *packed, size_t T, float *y,
                      size_t ldy)
{
    const size_t group = kq_bf16_packed_size(n, GROUP), full = T / GROUP;
    if (full)
        configure(GROUP);
    for (size_t r = 0; r < rows && full; r += 2 * HALF) {
        size_t g = 0;
        for (; rows - r >= 2 * HALF && full - g >= 2; g += 2)
            block2(W + r * n, n, packed + g * group, packed + (g + 1) * group, y + g * GROUP * ldy + r, ldy);
        for (; g < full; g++)
            block1(W + r * n, rows - r, n, packed + g * group, GROUP, y + g * GROUP * ldy + r, ldy);
    }
    if (T % GROUP) {
        configure(T % GROUP);
        for (size_t r = 0; r < rows; r += 2 * HALF)
            block1(W + r * n, rows - r, n, packed + full * group, T % GROUP, y + full * GROUP * ldy + r, ldy);
    }
    _tile_release();
}

const kq_bf16_kern *kq_bf16_kern_pick(kq_isa isa)
{
    static const kq_bf16_kern amx = {.pack = pack, .dots = dots};
    return isa >= KQ_ISA_AMX ? &amx : NULL;
}
#else
const kq_bf16_kern *kq_bf16_kern_pick(kq_isa isa)
{
    (void)isa;
    return NULL;
}
#endif
