/* EXL3's layout and its way back to weights: exl3.h. */
#include "format/exl3.h"

#include <string.h>

#include "base/f16.h"
#include "base/mem.h"

enum { BLOCK = KQ_EXL3_BLOCK, TILES = BLOCK / KQ_TILE /* along an edge of a block */ };

bool kq_exl3_has_code(kq_code code)
{
    return code == KQ_MUL1 || code == KQ_MCG || code == KQ_3INST;
}

const char *kq_exl3_code_tensor(kq_code code, uint32_t *multiplier)
{
    *multiplier = code == KQ_MUL1 ? 0x83DCD12Du : code == KQ_MCG ? 0xCBAC1FEDu : 0;
    return code == KQ_MUL1 ? "mul1" : code == KQ_MCG ? "mcg" : NULL;
}

void kq_exl3_values(kq_code code, float *values)
{
    kq_code_values(code, values);
    for (size_t s = 0; s < 65536; s++)
        values[s] = kq_f16_to_f32(kq_f32_to_f16(values[s]));
}

/* ---- the layout of a tile ---- */

/* As the tensor cores take it: lane t / 8 has eight weights, four of each of two outputs. */
void kq_exl3_order(uint8_t at[KQ_TILE_SIZE])
{
    for (int t = 0; t < KQ_TILE_SIZE; t++) {
        const int lane = t / 8, i = t % 8, in = lane % 4 * 2 + i % 2 + i / 2 % 2 * 8,
                  out = lane / 4 + i / 4 * 8;
        at[t] = (uint8_t)(in * KQ_TILE + out);
    }
}

/* 16 bits of a circle of n words from bit position `pos` on, the first the most significant. */
static uint16_t window(const uint16_t *circle, size_t n, size_t pos)
{
    const size_t word = pos / 16 % n;
    const uint32_t two = (uint32_t)circle[word] << 16 | circle[(word + 1) % n];
    return (uint16_t)(two >> (16 - pos % 16));
}

void kq_exl3_from_circle(const uint16_t *circle, int bits, uint16_t *words)
{
    const size_t n = 16 * (size_t)bits, turn = 16 - (size_t)bits;
    for (size_t w = 0; w < n; w++)
        words[w ^ 1] = window(circle, n, 16 * w + turn);
}

void kq_exl3_to_circle(const uint16_t *words, int bits, uint16_t *circle)
{
    uint16_t ordered[16 * KQ_EXL3_BITS_MAX];
    const size_t n = 16 * (size_t)bits, turn = 16 - (size_t)bits;
    for (size_t w = 0; w < n; w++)
        ordered[w] = words[w ^ 1];
    for (size_t w = 0; w < n; w++)
        circle[w] = window(ordered, n, 16 * (w + n) - turn);
}

/* ---- back to weights ---- */

/* The values of a tile, into out[c * BLOCK + r] for its input r and output c. */
static void decode_tile(const kq_exl3 *x, const uint8_t *stored, const uint8_t at[KQ_TILE_SIZE], float *out)
{
    const size_t n = 16 * (size_t)x->bits, step = (size_t)x->bits;
    uint16_t words[16 * KQ_EXL3_BITS_MAX], circle[16 * KQ_EXL3_BITS_MAX];
    memcpy(words, stored, 2 * n);
    kq_exl3_to_circle(words, x->bits, circle);
    for (size_t t = 0; t < KQ_TILE_SIZE; t++)
        out[at[t] % KQ_TILE * BLOCK + at[t] / KQ_TILE] = x->values[window(circle, n, t * step)];
}

/* H along both edges of a block, without the factors 1 / sqrt(128): x [BLOCK, BLOCK]. */
static void transform(float *x)
{
    for (size_t row = 0; row < BLOCK; row++)
        for (size_t h = 1; h < BLOCK; h *= 2)
            for (size_t i = 0; i < BLOCK; i += 2 * h)
                for (size_t j = i; j < i + h; j++) {
                    float *p = x + row * BLOCK + j;
                    const float a = p[0], b = p[h];
                    p[0] = a + b;
                    p[h] = a - b;
                }
    for (size_t h = 1; h < BLOCK; h *= 2)
        for (size_t i = 0; i < BLOCK; i += 2 * h)
            for (size_t row = i; row < i + h; row++) {
                float *p = x + row * BLOCK, *q = p + h * BLOCK;
#pragma omp simd
                for (size_t j = 0; j < BLOCK; j++) {
                    const float a = p[j], b = q[j];
                    p[j] = a + b;
                    q[j] = a - b;
                }
            }
}

/* Outputs 128 band .. and inputs 128 block .., transformed: w [BLOCK outputs, BLOCK inputs]. */
static void decode_block(const kq_exl3 *x, size_t band, size_t block, const uint8_t at[KQ_TILE_SIZE],
                         float *w)
{
    const size_t bytes = 32 * (size_t)x->bits, across = x->n_out / KQ_TILE;
    for (size_t i = 0; i < TILES; i++)
        for (size_t j = 0; j < TILES; j++)
            decode_tile(x, x->trellis + ((block * TILES + i) * across + band * TILES + j) * bytes, at,
                        w + j * KQ_TILE * BLOCK + i * KQ_TILE);
    transform(w);
}

static float half_at(const uint8_t *halves, size_t i)
{
    uint16_t h;
    memcpy(&h, halves + 2 * i, 2);
    return kq_f16_to_f32(h);
}

kq_status kq_exl3_read_rows(const kq_exl3 *x, size_t n, size_t row0, size_t count, float *dst, kq_error *err)
{
    uint8_t at[KQ_TILE_SIZE];
    float *w;
    if (n > x->n_in || row0 > x->n_out || count > x->n_out - row0)
        return kq_fail(err, KQ_E_ARG, "rows %zu to %zu of %zu weights asked for, stored are %zu of %zu", row0,
                       row0 + count, n, x->n_out, x->n_in);
    kq_status status = kq_alloc_for((void **)&w, BLOCK * BLOCK, sizeof *w, "a block of weights", err);
    if (status)
        return status;
    kq_exl3_order(at);
    for (size_t band = row0 / BLOCK; band * BLOCK < row0 + count; band++)
        for (size_t col0 = 0; col0 < n; col0 += BLOCK) {
            const size_t first = band * BLOCK < row0 ? row0 : band * BLOCK,
                         end = (band + 1) * BLOCK < row0 + count ? (band + 1) * BLOCK : row0 + count,
                         cols = n - col0 < BLOCK ? n - col0 : BLOCK;
            decode_block(x, band, col0 / BLOCK, at, w);
            for (size_t row = first; row < end; row++) {
                const float svh = half_at(x->svh, row), *from = w + (row - band * BLOCK) * BLOCK;
                float *to = dst + (row - row0) * n + col0;
                for (size_t j = 0; j < cols; j++)
                    to[j] = from[j] * (1.0f / BLOCK) * (half_at(x->suh, col0 + j) * svh);
            }
        }
    kq_free(w);
    return KQ_OK;
}
