/* Two-sided LDLQ (YAQA, eq. 12 of the FastKron paper), 16x16 tiles from the bottom right to the top
 * left.
 *
 *   target = W' + L_out^T E + (E + L_out^T E) L_in,      E = W' - What', L_in and L_out strictly lower
 *     by blocks.
 * With S0(r,c) = sum_{r'>r} L_out(r',r)^T E(r',c) and S(r,c) = E(r,c) + S0(r,c), final once tile (r,c)
 * is rounded:
 *   target(r,c) = W'(r,c) + S0(r,c) + sum_{c'>c} S(r,c') L_in(c',c).
 * Tiles are grouped into square supertiles of 4 x 4 or 8 x 8. What comes from outside a supertile
 * (nearly all of the work) is two matrix products per supertile, done when everything below and right of
 * it is rounded; what comes from inside is added tile by tile. Supertiles go by anti-diagonals, and so
 * do the tiles within them: the tiles of one step, over all supertiles of the anti-diagonal, are
 * independent. Each sum has one fixed order, whoever computes it. */
#include "round/round.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/mem.h"
#include "kern/gemm.h"
#include "round/matrix.h"

enum { T = KQ_TILE, BATCH_MAX = 16 };

typedef struct ldlq {
    const kq_tile_rounder *q;
    const float *Wp, *L_in, *L_out;
    size_t m, n, side; /* side: tiles along a supertile's edge */
    float scale;
    uint16_t *packed;
    float *What;  /* until a tile is rounded: the sum over c' right of its supertile */
    float *E, *S; /* the same array without L_out */
} ldlq;

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* One thread's working place, in one block: this, then packed words, then the rounder's scratch. Rows of
 * 64-byte multiples. */
typedef struct batch {
    float s0[BATCH_MAX][KQ_TILE_SIZE], x[BATCH_MAX][KQ_TILE_SIZE], y[BATCH_MAX][KQ_TILE_SIZE];
} batch;

static size_t packed_bytes(const kq_tile_rounder *q)
{
    return (BATCH_MAX * q->words * sizeof(uint16_t) + 63) / 64 * 64;
}

/* Everything from outside supertile (R, C). */
static void outside(const ldlq *z, size_t R, size_t C)
{
    const size_t m = z->m, n = z->n, w = z->side * T;
    size_t r0 = R * w, r1 = min_size(r0 + w, m), c0 = C * w, c1 = min_size(c0 + w, n);
    if (z->L_out) {
        float *S = z->S + r0 * n + c0;
        if (r1 < m)
            kq_gemm_f32(true, false, r1 - r0, c1 - c0, m - r1, 1, z->L_out + r1 * m + r0, m,
                        z->E + r1 * n + c0, n, 0, S, n);
        else
            for (size_t i = 0; i < r1 - r0; i++)
                memset(S + i * n, 0, (c1 - c0) * sizeof *S);
    }
    float *A = z->What + r0 * n + c0;
    if (z->L_in && c1 < n)
        kq_gemm_f32(false, false, r1 - r0, c1 - c0, n - c1, 1, z->S + r0 * n + c1, n, z->L_in + c1 * n + c0,
                    n, 0, A, n);
    else
        for (size_t i = 0; i < r1 - r0; i++)
            memset(A + i * n, 0, (c1 - c0) * sizeof *A);
}

/* acc [16,16] += op(A) B over k; A [16,k] or, transposed, [k,16]; B [k,16]. */
static void accumulate(bool ta, size_t k, const float *A, size_t lda, const float *B, size_t ldb, float *acc)
{
    for (size_t p = 0; p < k; p++) {
        const float *b = B + p * ldb;
        for (size_t i = 0; i < T; i++) {
            float a = ta ? A[p * lda + i] : A[i * lda + p];
            float *row = acc + i * T;
#pragma omp simd
            for (size_t j = 0; j < T; j++)
                row[j] += a * b[j];
        }
    }
}

/* Targets of up to BATCH_MAX tiles, rounded together. place[i] = r (n/16) + c. */
static void round_tiles(const ldlq *z, const size_t *place, size_t count, batch *b)
{
    const size_t m = z->m, n = z->n, nc = n / T, w = z->side * T;
    const size_t words = z->q->words;
    uint16_t *packed = (uint16_t *)(b + 1);
    void *scratch = (char *)(b + 1) + packed_bytes(z->q);
    for (size_t t = 0; t < count; t++) {
        size_t r = place[t] / nc * T, c = place[t] % nc * T, r1 = min_size((r / w + 1) * w, m),
               c1 = min_size((c / w + 1) * w, n);
        for (size_t i = 0; i < T; i++)
            for (size_t j = 0; j < T; j++) {
                b->s0[t][i * T + j] = z->L_out ? z->S[(r + i) * n + c + j] : 0;
                b->x[t][i * T + j] = z->What[(r + i) * n + c + j];
            }
        if (z->L_out)
            accumulate(true, r1 - r - T, z->L_out + (r + T) * m + r, m, z->E + (r + T) * n + c, n, b->s0[t]);
        if (z->L_in)
            accumulate(false, c1 - c - T, z->S + r * n + c + T, n, z->L_in + (c + T) * n + c, n, b->x[t]);
        for (size_t i = 0; i < T; i++)
            for (size_t j = 0; j < T; j++) {
                float target = z->Wp[(r + i) * n + c + j] + b->s0[t][i * T + j] + b->x[t][i * T + j];
                b->x[t][i * T + j] = z->scale > 0 ? target / z->scale : 0;
            }
    }
    z->q->round(z->q->ctx, b->x[0], place, count, packed, b->y[0], scratch);
    for (size_t t = 0; t < count; t++) {
        size_t r = place[t] / nc * T, c = place[t] % nc * T;
        memcpy(z->packed + place[t] * words, packed + t * words, words * sizeof *packed);
        for (size_t i = 0; i < T; i++)
            for (size_t j = 0; j < T; j++) {
                size_t at = (r + i) * n + c + j;
                float value = z->scale * b->y[t][i * T + j];
                z->What[at] = value;
                z->E[at] = z->Wp[at] - value;
                if (z->L_out)
                    z->S[at] = z->E[at] + b->s0[t][i * T + j];
            }
    }
}

kq_status kq_ldlq_with(const kq_tile_rounder *q, const float *Wp, size_t m, size_t n, const float *L_in,
                       const float *L_out, float scale, uint16_t *packed, float *What, int threads,
                       kq_error *err)
{
    if (m == 0 || n == 0 || m % T != 0 || n % T != 0)
        return kq_fail(err, KQ_E_ARG, "LDLQ of %zu x %zu: not multiples of %d", m, n, T);
    if (!(scale >= 0) || !isfinite(scale))
        return kq_fail(err, KQ_E_ARG, "LDLQ: scale %g", (double)scale);
    if (q->batch < 1 || q->batch > BATCH_MAX)
        return kq_fail(err, KQ_E_ARG, "LDLQ: batches of %zu tiles (1 to %d)", q->batch, BATCH_MAX);
    if (threads < 1)
        threads = 1;
    /* Larger supertiles make the products more efficient and the parallel steps fewer; the choice
     * depends on the shape alone. */
    ldlq z = {.q = q,
              .Wp = Wp,
              .L_in = L_in,
              .L_out = L_out,
              .m = m,
              .n = n,
              .side = min_size(m, n) >= 2048 ? 8 : 4,
              .scale = scale,
              .packed = packed,
              .What = What};
    const size_t nr = m / T, nc = n / T, side = z.side, NR = (nr + side - 1) / side,
                 NC = (nc + side - 1) / side;
    /* Without L_out rows do not depend on each other, without L_in columns do not: their distance from
     * the corner does not count. */
    const size_t by_row = L_out ? 1 : 0, by_col = L_in ? 1 : 0;
    size_t *super = NULL, *place = NULL;
    char *scratch = NULL;
    const size_t each = sizeof(batch) + packed_bytes(q) + (q->scratch_bytes + 63) / 64 * 64;
    kq_status st;
    if ((st = kq_alloc_for((void **)&z.E, m * n, sizeof *z.E, "LDLQ error", err)) != KQ_OK ||
        (L_out && (st = kq_alloc_for((void **)&z.S, m * n, sizeof *z.S, "LDLQ sums", err)) != KQ_OK) ||
        (st = kq_alloc_for((void **)&super, NR * NC, sizeof *super, "LDLQ order", err)) != KQ_OK ||
        (st = kq_alloc_for((void **)&place, nr * nc, sizeof *place, "LDLQ order", err)) != KQ_OK ||
        (st = kq_alloc_for((void **)&scratch, (size_t)threads, each, "trellis scratch", err)) != KQ_OK)
        goto out;
    if (!L_out)
        z.S = z.E;

    for (size_t W = 0; W <= by_row * (NR - 1) + by_col * (NC - 1); W++) {
        size_t n_super = 0;
        for (size_t R = 0; R < NR; R++)
            for (size_t C = 0; C < NC; C++)
                if (by_row * (NR - 1 - R) + by_col * (NC - 1 - C) == W)
                    super[n_super++] = R * NC + C;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
        for (size_t i = 0; i < n_super; i++)
            outside(&z, super[i] / NC, super[i] % NC);

        for (size_t w = 0; w <= (by_row + by_col) * (side - 1); w++) {
            size_t count = 0;
            for (size_t i = 0; i < n_super; i++)
                for (size_t r = 0; r < side; r++)
                    for (size_t c = 0; c < side; c++) {
                        size_t tr = super[i] / NC * side + r, tc = super[i] % NC * side + c;
                        if (by_row * (side - 1 - r) + by_col * (side - 1 - c) == w && tr < nr && tc < nc)
                            place[count++] = tr * nc + tc;
                    }
            if (count == 0)
                continue;
            /* Even batches, one or a few for each thread: a tile's bits do not depend on its batch. */
            size_t team = (size_t)threads, rounds = (count + q->batch * team - 1) / (q->batch * team);
            size_t group = (count + rounds * team - 1) / (rounds * team),
                   groups = (count + group - 1) / group;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1 && groups > 1)
            for (size_t g = 0; g < groups; g++)
                round_tiles(&z, place + g * group, min_size(group, count - g * group),
                            (batch *)(void *)(scratch + (size_t)omp_get_thread_num() * each));
        }
    }
out:
    if (z.S != z.E)
        kq_free(z.S);
    kq_free(z.E);
    kq_free(super);
    kq_free(place);
    kq_free(scratch);
    return st;
}

static void round_trellis(const void *ctx, const float *tiles, const size_t *index, size_t count,
                          uint16_t *packed, float *decoded, void *scratch)
{
    (void)index;
    kq_trellis_encode(ctx, tiles, count, packed, decoded, scratch);
}

kq_tile_rounder kq_trellis_rounder(const kq_trellis *t)
{
    return (kq_tile_rounder){.round = round_trellis,
                             .ctx = t,
                             .words = kq_trellis_words(t),
                             .scratch_bytes = kq_trellis_scratch_bytes(t),
                             .batch = KQ_TRELLIS_BATCH};
}

kq_status kq_ldlq(const kq_trellis *t, const float *Wp, size_t m, size_t n, const float *L_in,
                  const float *L_out, float scale, uint16_t *packed, float *What, int threads, kq_error *err)
{
    kq_tile_rounder q = kq_trellis_rounder(t);
    return kq_ldlq_with(&q, Wp, m, n, L_in, L_out, scale, packed, What, threads, err);
}
