/* Two-sided LDLQ (docs/math.md, eq. 56 to 60; Tseng et al. 2025b, eq. 12 of the FastKron paper): 16 x 16
 * tiles from the bottom right to the top left.
 *
 *     target = W' + L_out^T E + (E + L_out^T E) L_in,      E = W' - What' over the finished tiles,
 * with L_in and L_out strictly lower by blocks (they stand for L - I). Recomputing these products for each
 * tile would cost O((mn)^2 / 256). Instead, with
 *     S0(r,c) = sum_{r'>r} L_out(r',r)^T E(r',c)   and   S(r,c) = E(r,c) + S0(r,c),
 * both final once tile (r,c) is rounded, eq. 60 reads
 *     target(r,c) = W'(r,c) + S0(r,c) + sum_{c'>c} S(r,c') L_in(c',c),
 * O(mn(m+n)) in all.
 *
 * Tiles are grouped into square supertiles of 4 x 4 or 8 x 8. What reaches a supertile from outside (nearly
 * all of the work) is two matrix products, made when everything below it and to its right is rounded. What
 * comes from inside is added tile by tile. Supertiles are done by anti-diagonals, and so are the tiles within
 * them: the tiles of one step, over all supertiles of the anti-diagonal, are independent of each other. Each
 * sum has one fixed order, so that every number of threads gives the same bits. */
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
    kq_ldlq_input in; /* borrowed */
    size_t side;      /* tiles along a supertile's edge */
    uint16_t *packed;
    float *What; /* until a tile is rounded: the sum over c' right of its supertile */
    float *E;    /* owned */
    float *S;    /* owned; the same array as E without L_out */
    int threads;
    /* The order of work. Without L_out rows do not depend on each other, without L_in columns do not: then
     * their distance from the corner does not count (by_row, by_col: 1 where it does). */
    size_t by_row, by_col;
    size_t *super; /* owned: the supertiles of the anti-diagonal */
    size_t *tiles; /* owned: the tiles of the step */
    char *scratch; /* owned: scratch_each bytes a thread */
    size_t scratch_each;
} ldlq;

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* The scratch of one thread begins with this; packed words follow, then the quantizer's own scratch, each at
 * a multiple of 64 bytes. */
typedef struct batch {
    float s0[BATCH_MAX][KQ_TILE_SIZE], x[BATCH_MAX][KQ_TILE_SIZE], y[BATCH_MAX][KQ_TILE_SIZE];
} batch;

static size_t packed_bytes(const kq_tile_rounder *q)
{
    return (BATCH_MAX * q->words * sizeof(uint16_t) + 63) / 64 * 64;
}

/* The sums of eq. 60 that reach supertile (R, C) from outside. */
static void add_from_outside(const ldlq *z, size_t R, size_t C)
{
    const size_t m = z->in.m, n = z->in.n, w = z->side * T;
    size_t r0 = R * w, r1 = min_size(r0 + w, m), c0 = C * w, c1 = min_size(c0 + w, n);
    if (z->in.L_out) {
        float *S = z->S + r0 * n + c0;
        if (r1 < m)
            kq_gemm_f32(true, false, r1 - r0, c1 - c0, m - r1, 1, z->in.L_out + r1 * m + r0, m,
                        z->E + r1 * n + c0, n, 0, S, n);
        else
            for (size_t i = 0; i < r1 - r0; i++)
                memset(S + i * n, 0, (c1 - c0) * sizeof *S);
    }
    float *A = z->What + r0 * n + c0;
    if (z->in.L_in && c1 < n)
        kq_gemm_f32(false, false, r1 - r0, c1 - c0, n - c1, 1, z->S + r0 * n + c1, n,
                    z->in.L_in + c1 * n + c0, n, 0, A, n);
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

/* The target of the tile whose top left weight is (r, c), over the scale, into b->x[t]; S0 into b->s0[t]. */
static void make_target(const ldlq *z, size_t r, size_t c, size_t t, batch *b)
{
    const kq_ldlq_input *in = &z->in;
    const size_t m = in->m, n = in->n, w = z->side * T, r1 = min_size((r / w + 1) * w, m),
                 c1 = min_size((c / w + 1) * w, n);
    float *s0 = b->s0[t], *x = b->x[t];
    for (size_t i = 0; i < T; i++)
        for (size_t j = 0; j < T; j++) {
            s0[i * T + j] = in->L_out ? z->S[(r + i) * n + c + j] : 0;
            x[i * T + j] = z->What[(r + i) * n + c + j];
        }
    if (in->L_out)
        accumulate(true, r1 - r - T, in->L_out + (r + T) * m + r, m, z->E + (r + T) * n + c, n, s0);
    if (in->L_in)
        accumulate(false, c1 - c - T, z->S + r * n + c + T, n, in->L_in + (c + T) * n + c, n, x);
    for (size_t i = 0; i < T; i++)
        for (size_t j = 0; j < T; j++) {
            float target = in->Wp[(r + i) * n + c + j] + s0[i * T + j] + x[i * T + j];
            x[i * T + j] = in->scale > 0 ? target / in->scale : 0;
        }
}

/* The rounded tile t of the batch into What, E and S. */
static void keep_result(const ldlq *z, size_t r, size_t c, size_t t, const batch *b)
{
    const size_t n = z->in.n;
    for (size_t i = 0; i < T; i++)
        for (size_t j = 0; j < T; j++) {
            const size_t at = (r + i) * n + c + j;
            const float value = z->in.scale * b->y[t][i * T + j];
            z->What[at] = value;
            z->E[at] = z->in.Wp[at] - value;
            if (z->in.L_out)
                z->S[at] = z->E[at] + b->s0[t][i * T + j];
        }
}

/* Round up to BATCH_MAX tiles together. index[i] = r (n/16) + c. */
static void round_batch(const ldlq *z, const size_t *index, size_t count, batch *b)
{
    const size_t nc = z->in.n / T, words = z->q->words;
    uint16_t *packed = (uint16_t *)(b + 1);
    void *scratch = (char *)(b + 1) + packed_bytes(z->q);
    for (size_t t = 0; t < count; t++)
        make_target(z, index[t] / nc * T, index[t] % nc * T, t, b);
    z->q->round(z->q->ctx, b->x[0], index, count, packed, b->y[0], scratch);
    for (size_t t = 0; t < count; t++) {
        memcpy(z->packed + index[t] * words, packed + t * words, words * sizeof *packed);
        keep_result(z, index[t] / nc * T, index[t] % nc * T, t, b);
    }
}

static kq_status check(const kq_tile_rounder *q, const kq_ldlq_input *in, kq_error *err)
{
    if (in->m == 0 || in->n == 0 || in->m % T != 0 || in->n % T != 0)
        return kq_fail(err, KQ_E_ARG, "LDLQ of %zu x %zu: not multiples of %d", in->m, in->n, T);
    if (!(in->scale >= 0) || !isfinite(in->scale))
        return kq_fail(err, KQ_E_ARG, "LDLQ: scale %g", (double)in->scale);
    if (q->batch < 1 || q->batch > BATCH_MAX)
        return kq_fail(err, KQ_E_ARG, "LDLQ: batches of %zu tiles (1 to %d)", q->batch, BATCH_MAX);
    return KQ_OK;
}

/* Supertiles along one edge. */
static size_t supers(const ldlq *z, size_t edge)
{
    return (edge / T + z->side - 1) / z->side;
}

static kq_status make_room(ldlq *z, kq_error *err)
{
    const size_t m = z->in.m, n = z->in.n;
    kq_status st;
    z->scratch_each = sizeof(batch) + packed_bytes(z->q) + (z->q->scratch_bytes + 63) / 64 * 64;
    if ((st = kq_alloc_for((void **)&z->E, m * n, sizeof *z->E, "LDLQ error", err)) != KQ_OK ||
        (z->in.L_out &&
         (st = kq_alloc_for((void **)&z->S, m * n, sizeof *z->S, "LDLQ sums", err)) != KQ_OK) ||
        (st = kq_alloc_for((void **)&z->super, supers(z, m) * supers(z, n), sizeof *z->super, "LDLQ order",
                           err)) != KQ_OK ||
        (st = kq_alloc_for((void **)&z->tiles, m / T * (n / T), sizeof *z->tiles, "LDLQ order", err)) !=
            KQ_OK ||
        (st = kq_alloc_for((void **)&z->scratch, (size_t)z->threads, z->scratch_each, "trellis scratch",
                           err)) != KQ_OK)
        return st;
    if (!z->in.L_out)
        z->S = z->E;
    return KQ_OK;
}

/* z->super = the supertiles at this distance from the bottom right; their number. */
static size_t list_supertiles(const ldlq *z, size_t distance)
{
    const size_t NR = supers(z, z->in.m), NC = supers(z, z->in.n);
    size_t count = 0;
    for (size_t R = 0; R < NR; R++)
        for (size_t C = 0; C < NC; C++)
            if (z->by_row * (NR - 1 - R) + z->by_col * (NC - 1 - C) == distance)
                z->super[count++] = R * NC + C;
    return count;
}

/* z->tiles = the tiles at this distance from the bottom right of their supertiles; their number. */
static size_t list_tiles(const ldlq *z, size_t n_super, size_t distance)
{
    const size_t nr = z->in.m / T, nc = z->in.n / T, NC = supers(z, z->in.n), side = z->side;
    size_t count = 0;
    for (size_t i = 0; i < n_super; i++)
        for (size_t r = 0; r < side; r++)
            for (size_t c = 0; c < side; c++) {
                const size_t tr = z->super[i] / NC * side + r, tc = z->super[i] % NC * side + c;
                if (z->by_row * (side - 1 - r) + z->by_col * (side - 1 - c) == distance && tr < nr && tc < nc)
                    z->tiles[count++] = tr * nc + tc;
            }
    return count;
}

/* Even batches, one or a few for each thread: a tile's bits do not depend on its batch. */
static void round_listed_tiles(const ldlq *z, size_t count)
{
    const size_t most = z->q->batch, team = (size_t)z->threads,
                 rounds = (count + most * team - 1) / (most * team);
    const size_t group = (count + rounds * team - 1) / (rounds * team), groups = (count + group - 1) / group;
#pragma omp parallel for schedule(dynamic, 1) num_threads(z->threads) if (z->threads > 1 && groups > 1)
    for (size_t g = 0; g < groups; g++)
        round_batch(z, z->tiles + g * group, min_size(group, count - g * group),
                    (batch *)(void *)(z->scratch + (size_t)omp_get_thread_num() * z->scratch_each));
}

kq_status kq_ldlq_with(const kq_tile_rounder *q, const kq_ldlq_input *in, uint16_t *packed, float *What,
                       int threads, kq_error *err)
{
    kq_status st = check(q, in, err);
    if (st != KQ_OK)
        return st;
    /* Larger supertiles make the products more efficient and the parallel steps fewer; the choice depends on
     * the shape alone. */
    ldlq z = {.q = q,
              .in = *in,
              .side = min_size(in->m, in->n) >= 2048 ? 8 : 4,
              .packed = packed,
              .What = What,
              .threads = threads < 1 ? 1 : threads,
              .by_row = in->L_out ? 1 : 0,
              .by_col = in->L_in ? 1 : 0};
    const size_t NR = supers(&z, in->m), NC = supers(&z, in->n);
    if ((st = make_room(&z, err)) != KQ_OK)
        goto out;
    for (size_t far = 0; far <= z.by_row * (NR - 1) + z.by_col * (NC - 1); far++) {
        const size_t n_super = list_supertiles(&z, far);
#pragma omp parallel for schedule(dynamic, 1) num_threads(z.threads) if (z.threads > 1)
        for (size_t i = 0; i < n_super; i++)
            add_from_outside(&z, z.super[i] / NC, z.super[i] % NC);
        for (size_t near = 0; near <= (z.by_row + z.by_col) * (z.side - 1); near++) {
            const size_t count = list_tiles(&z, n_super, near);
            if (count)
                round_listed_tiles(&z, count);
        }
    }
out:
    if (z.S != z.E)
        kq_free(z.S);
    kq_free(z.E);
    kq_free(z.super);
    kq_free(z.tiles);
    kq_free(z.scratch);
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

kq_status kq_ldlq(const kq_trellis *t, const kq_ldlq_input *in, uint16_t *packed, float *What, int threads,
                  kq_error *err)
{
    kq_tile_rounder q = kq_trellis_rounder(t);
    return kq_ldlq_with(&q, in, packed, What, threads, err);
}
