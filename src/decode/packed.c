/* The integers of a code, and the products in plain C, which define what the other kernels compute. */
#include "decode/packed.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

void kq_packed_code_free(kq_packed_code *c)
{
    if (!c)
        return;
    kq_free(c->w);
    kq_free(c->plane);
    kq_free(c->pair);
    kq_free(c->lane);
    kq_free(c);
}

/* Where the states of each vector's lanes stand in the tile's words. */
static void fill_lanes(kq_packed_code *c, size_t V)
{
    /* hyb: a vector of states serves two vectors of weights */
    const size_t n_vectors = 8 / V, R = V * (size_t)c->k;
    for (size_t j = 0; j < n_vectors; j++)
        for (size_t i = 0; i < 32; i++) {
            const size_t step = i / 2 * (16 / V) + j + i % 2 * n_vectors, bit = step * R;
            uint16_t *lane = c->lane + j * 3 * 32 + i;
            lane[0] = (uint16_t)(bit / 16);
            lane[32] = (uint16_t)((bit / 16 + 1) % c->words);
            lane[64] = (uint16_t)(bit % 16);
        }
}

/* c->w, unit, inverse, x_max from the code's n values. */
static void fill_integers(kq_packed_code *c, const float *value, size_t n)
{
    float largest = 0;
    int w_max = KQ_PACKED_W_MAX;
    for (size_t i = 0; i < n; i++)
        largest = fmaxf(largest, fabsf(value[i]));
    if (c->code == KQ_1MAD) {
        /* a value is the sum of four bytes less 510, over 147.8: the integers are exact */
        c->inverse = 147.800537f;
        w_max = 510;
    } else if (c->code == KQ_MUL1) {
        /* A value is (sum - 510.268) * 1774 / 2^18, rounded to half. 4 sum - 2041 is 0.07 off, or 1.2e-4 of
         * the code's rms, less than the rounding to half (2e-4). */
        c->inverse = 0x1p20f / 1774;
        w_max = 2041;
    } else {
        c->inverse = (float)w_max / largest;
    }
    c->unit = 1 / c->inverse;
    const int limit = 2147483647 / (16 * KQ_PACKED_FLUSH) / w_max;
    c->x_max = limit < 32767 ? limit : 32767;
    for (size_t i = 0; i < n; i++)
        if (c->code == KQ_MUL1) /* the sum of the four bytes, from the value */
            c->w[i] = (int16_t)(4 * (lrintf((value[i] + 10.3828125f) * (0x1p18f / 1774)) - 1024) - 2041);
        else
            c->w[i] = (int16_t)lrintf(value[i] * c->inverse);
}

kq_status kq_packed_code_new(const kq_trellis *t, kq_packed_code **out, kq_error *err)
{
    *out = NULL;
    kq_packed_code *c = kq_calloc(1, sizeof *c);
    if (!c)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: a code's integers");
    c->code = kq_trellis_code(t);
    c->k = kq_trellis_k(t);
    c->words = kq_trellis_words(t);
    const size_t V = (size_t)kq_code_V(c->code), n = 65536 * V;
    const float *value = kq_trellis_values(t);
    kq_status st;
    if ((st = kq_alloc_for((void **)&c->w, n, sizeof *c->w, "a code's integers", err)) ||
        (st = kq_alloc_for((void **)&c->plane, 4, KQ_HYB_ENTRIES, "a code's integers", err)) ||
        (st = kq_alloc_for((void **)&c->pair, 2 * KQ_HYB_ENTRIES, sizeof *c->pair, "a code's integers",
                           err)) ||
        (st = kq_alloc_for((void **)&c->lane, 8 * 3 * 32, sizeof *c->lane, "a code's integers", err))) {
        kq_packed_code_free(c);
        return st;
    }
    fill_integers(c, value, n);
    memset(c->plane, 0, 4 * KQ_HYB_ENTRIES);
    memset(c->pair, 0, 2 * KQ_HYB_ENTRIES * sizeof *c->pair);
    if (c->code == KQ_HYB)
        for (uint32_t s = 0; s < 65536; s++) {
            const uint32_t h = s * (s + 1), entry = h >> 6 & 511;
            const int a = h >> 15 & 1 ? -c->w[2 * s] : c->w[2 * s], b = c->w[2 * s + 1];
            c->pair[h >> 6 & 1023] = (uint16_t)c->w[2 * s] | (uint32_t)(uint16_t)b << 16;
            c->plane[entry] = (uint8_t)a;
            c->plane[KQ_HYB_ENTRIES + entry] = (uint8_t)(a >> 8);
            c->plane[2 * KQ_HYB_ENTRIES + entry] = (uint8_t)b;
            c->plane[3 * KQ_HYB_ENTRIES + entry] = (uint8_t)(b >> 8);
        }
    fill_lanes(c, V);
    *out = c;
    return KQ_OK;
}

/* ---- in plain C ---------------------------------------------------------------------------------------- */

static void decode_ref(const kq_packed_code *c, const uint16_t *words, size_t n_tiles, int16_t *panel)
{
    const size_t V = (size_t)kq_code_V(c->code), R = V * (size_t)c->k;
    for (size_t tile = 0; tile < n_tiles; tile++, words += c->words, panel += KQ_PANEL_TILE)
        for (size_t step = 0; step < KQ_TILE_SIZE / V; step++) {
            const size_t bit = step * R, word = bit / 16;
            const uint32_t two = (uint32_t)words[word] << 16 | words[(word + 1) % c->words],
                           state = two >> (16 - bit % 16) & 0xffff;
            for (size_t v = 0; v < V; v++) {
                const size_t at = step * V + v, r = at / 16, col = at % 16;
                panel[col % 8 * 32 + r * 2 + col / 8] = c->w[state * V + v];
            }
        }
}

static void dots_ref(const int16_t *panel, size_t n_tiles, const int16_t *x, size_t ldx, size_t T, float *y,
                     size_t ldy)
{
    for (size_t t = 0; t < T; t++)
        for (size_t r = 0; r < 16; r++) {
            float sum = 0;
            for (size_t c = 0; c < n_tiles; c += KQ_PACKED_FLUSH) {
                int32_t part = 0;
                for (size_t i = c * 16; i < n_tiles * 16 && i < (c + KQ_PACKED_FLUSH) * 16; i++)
                    part += panel[i / 2 * 32 + r * 2 + i % 2] * x[t * ldx + i];
                sum += (float)part;
            }
            y[t * ldy + r] = sum;
        }
}

void kq_packed_dot_by_panel(const kq_packed_kern *kern, const kq_packed_code *c, const uint16_t *words,
                            size_t n_tiles, const int16_t *x, float y[16])
{
    int16_t panel[KQ_PACKED_FLUSH * KQ_PANEL_TILE];
    memset(y, 0, 16 * sizeof *y);
    for (size_t tile = 0; tile < n_tiles; tile += KQ_PACKED_FLUSH) {
        const size_t k = n_tiles - tile < KQ_PACKED_FLUSH ? n_tiles - tile : KQ_PACKED_FLUSH;
        float part[16];
        kern->decode(c, words + tile * c->words, k, panel);
        kern->dots(panel, k, x + tile * 16, 0, 1, part, 0);
        for (size_t r = 0; r < 16; r++)
            y[r] += part[r];
    }
}

static void dot_ref(const kq_packed_code *c, const uint16_t *words, size_t n_tiles, const int16_t *x,
                    float y[16])
{
    kq_packed_dot_by_panel(&kq_packed_kern_ref, c, words, n_tiles, x, y);
}

static float quantize_ref(const float *x, size_t n, int x_max, int16_t *q)
{
    float top = 0;
    for (size_t i = 0; i < n; i++)
        top = fmaxf(top, fabsf(x[i]));
    const float step = top / (float)x_max, inverse = top > 0 ? (float)x_max / top : 0;
    for (size_t i = 0; i < n; i++) {
        long v = lrintf(x[i] * inverse);
        q[i / 16 * 16 + i % 8 * 2 + i % 16 / 8] = (int16_t)(v > x_max ? x_max : v < -x_max ? -x_max : v);
    }
    return step;
}

const kq_packed_kern kq_packed_kern_ref = {
    .name = "ref", .decode = decode_ref, .dot = dot_ref, .dots = dots_ref, .quantize = quantize_ref};

const kq_packed_kern *kq_packed_kern_pick(kq_isa isa)
{
#if defined(__x86_64__)
    if (isa >= KQ_ISA_AVX512 && kq_cpu_has(KQ_CPU_VBMI) && kq_cpu_has(KQ_CPU_VNNI))
        return &kq_packed_kern_vbmi;
    if (isa >= KQ_ISA_AVX2)
        return &kq_packed_kern_avx2;
#endif
    (void)isa;
    return &kq_packed_kern_ref;
}
