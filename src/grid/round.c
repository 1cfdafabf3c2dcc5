/* A whole matrix: order of rounding, the first pass over tiles by anti-diagonals, then block descent.
 * docs/math.md, "Grids". */
#include "grid/internal.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "format/encode.h"
#include "kern/gemm.h"
#include "round/matrix.h"

enum { ROWS = 16 }; /* of a tile */

kq_grid_options kq_grid_defaults(void)
{
    return (kq_grid_options){.sigma_in = 1e-2, .sigma_out = 1e-2, .threads = 1};
}

/* One factor, put into the order of rounding and conditioned. */
typedef struct side {
    uint32_t *order;  /* [n] owned: what stands at place i */
    float *H, *L, *D; /* owned; NULL for the identity */
    size_t n;
} side;

typedef struct work {
    const kq_grid *g;
    kq_grid_lanes_fn *lanes;
    size_t m, n, B, n_block, block_bytes;
    side in, out;
    uint16_t *place; /* [n]: where a weight lies in its block */
    /* [m, n] in the order of rounding; F = (I + L_out)^T E, the same array as E without H_out */
    float *W, *E, *F;
    uint8_t *blocks;
    int threads;
} work;

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t kq_grid_bytes(size_t m, size_t n)
{
    const double mm = (double)m * (double)m, nn = (double)n * (double)n, big = mm > nn ? mm : nn;
    const double bytes = 8 * (mm + nn) + 8 * big + 20.0 * (double)m * (double)n;
    return bytes < (double)SIZE_MAX / 2 ? (size_t)bytes : SIZE_MAX;
}

/* ---- order: what matters most is rounded first (last in the order), since its error can still be made up
 * for by all the others  */

typedef struct ranked {
    float key;
    uint32_t index;
} ranked;

static int by_key(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    return x->key < y->key ? -1 : x->key > y->key ? 1 : x->index < y->index ? -1 : x->index > y->index;
}

/* Sort `count` units of `unit` consecutive entries of order by the sum of the diagonal over each. */
static void sort_units(const float *diag, size_t stride, uint32_t *order, size_t count, size_t unit,
                       ranked *scratch, uint32_t *copy)
{
    for (size_t u = 0; u < count; u++) {
        float sum = 0;
        for (size_t i = 0; i < unit; i++)
            sum += diag[(size_t)order[u * unit + i] * stride];
        scratch[u] = (ranked){sum, (uint32_t)u};
    }
    qsort(scratch, count, sizeof *scratch, by_key);
    memcpy(copy, order, count * unit * sizeof *order);
    for (size_t u = 0; u < count; u++)
        memcpy(order + u * unit, copy + (size_t)scratch[u].index * unit, unit * sizeof *order);
}

/* Blocks by weight, groups within their block, single ones within their group. block 1: single ones. */
static kq_status make_order(const float *H, size_t n, size_t block, size_t group, uint32_t **out,
                            kq_error *err)
{
    uint32_t *order, *copy = NULL;
    ranked *scratch = NULL;
    kq_status st = kq_alloc_for((void **)out, n, sizeof **out, "order of rounding", err);
    if (st)
        return st;
    order = *out;
    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    if (!H)
        return KQ_OK;
    if ((st = kq_alloc_for((void **)&copy, n, sizeof *copy, "order of rounding", err)) == KQ_OK &&
        (st = kq_alloc_for((void **)&scratch, n, sizeof *scratch, "order of rounding", err)) == KQ_OK) {
        sort_units(H, n + 1, order, n / block, block, scratch, copy);
        for (size_t b = 0; b < n; b += block) {
            if (group < block)
                sort_units(H, n + 1, order + b, block / group, group, scratch, copy);
            for (size_t k = b; k < b + block && block > 1; k += group)
                sort_units(H, n + 1, order + k, group, 1, scratch, copy);
        }
    }
    kq_free(copy);
    kq_free(scratch);
    return st;
}

static kq_status make_side(side *s, const float *H, size_t n, size_t block, size_t group, double sigma,
                           double shrink, const char *name, const char *what, int threads, int *extra,
                           kq_error *err)
{
    *extra = 0;
    s->n = n;
    kq_status st;
    if (H) {
        const size_t bad = kq_first_nonfinite(H, n * n);
        if (bad < n * n)
            return kq_fail(err, KQ_E_NUMERIC, "%s: %s holds NaN or Inf at [%zu, %zu]", name, what, bad / n,
                           bad % n);
    }
    if ((st = make_order(H, n, block, group, &s->order, err)) || !H)
        return st;
    if ((st = kq_alloc_for((void **)&s->H, n * n, sizeof *s->H, "ordered factor", err)) ||
        (st = kq_alloc_for((void **)&s->L, n * n, sizeof *s->L, "factor's L", err)) ||
        (st = kq_alloc_for((void **)&s->D, n, sizeof *s->D, "factor's D", err)))
        return st;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            s->H[i * n + j] = H[(size_t)s->order[i] * n + s->order[j]];
    kq_factor_shrink(s->H, n, shrink);
    kq_error why = {0};
    if ((st = kq_factor_condition_ldl_scalar(s->H, n, sigma, extra, s->L, s->D, threads, &why)))
        return kq_fail(err, st, "%s: %s: %s", name, what, why.message);
    return KQ_OK;
}

static void free_side(side *s)
{
    kq_free(s->order);
    kq_free(s->H);
    kq_free(s->L);
    kq_free(s->D);
}

static uint8_t *block_at(const work *z, size_t i, size_t b)
{
    const size_t row = z->out.order[i], column = z->in.order[b * z->B] / z->B;
    return z->blocks + (row * z->n_block + column) * z->block_bytes;
}

/* ---- the first pass ---- */

/* Rows r0.. of block column b: everything below and to the right is done. X and S [ROWS, B] scratch. */
static void round_tile(const work *z, size_t r0, size_t b, float *X, float *S)
{
    const size_t m = z->m, n = z->n, B = z->B, r1 = min_size(r0 + ROWS, m), c0 = b * B, c1 = c0 + B,
                 rows = r1 - r0;
    const float *L_in = z->in.L, *L_out = z->out.L, *L = L_in ? L_in + c0 * n + c0 : NULL;
    if (L_in && c1 < n)
        kq_gemm_f32(false, false, rows, B, n - c1, 1, z->F + r0 * n + c1, n, L_in + c1 * n + c0, n, 0, X, B);
    else
        memset(X, 0, rows * B * sizeof *X);
    if (L_out && r1 < m)
        kq_gemm_f32(true, false, rows, B, m - r1, 1, L_out + r1 * m + r0, m, z->E + r1 * n + c0, n, 0, S, B);
    else
        memset(S, 0, rows * B * sizeof *S);
    float v[KQ_GRID_BLOCK], what[KQ_GRID_BLOCK];
    for (size_t i = r1; i-- > r0;) {
        float *s = S + (i - r0) * B;
        const float *x = X + (i - r0) * B, *w = z->W + i * n + c0;
        for (size_t k = i + 1; k < r1 && L_out; k++) {
            const float l = L_out[k * m + i], *e = z->E + k * n + c0;
            for (size_t j = 0; j < B; j++)
                s[j] += l * e[j];
        }
        for (size_t j = 0; j < B; j++)
            v[j] = w[j] + x[j] + s[j];
        for (size_t k = 1; k < B && L && L_out; k++)
            for (size_t j = 0; j < k; j++)
                v[j] += s[k] * L[k * n + j];
        const kq_grid_row row = {
            .w = w, .v = v, .L = L, .D = z->in.D ? z->in.D + c0 : NULL, .ld = n, .place = z->place + c0};
        kq_grid_code code;
        kq_grid_row_round(z->g, z->lanes, &row, &code, block_at(z, i, b), what);
        float *e = z->E + i * n + c0, *f = z->F + i * n + c0;
        for (size_t j = 0; j < B; j++) {
            e[j] = w[j] - what[j];
            f[j] = e[j] + s[j];
        }
    }
}

static kq_status first_pass(const work *z, kq_error *err)
{
    const size_t n_tile = (z->m + ROWS - 1) / ROWS, by_row = z->out.L ? 1 : 0, by_col = z->in.L ? 1 : 0;
    const size_t each = 2 * ROWS * z->B;
    size_t *list = NULL;
    float *scratch = NULL;
    kq_status st = kq_alloc_for((void **)&scratch, (size_t)z->threads * each, sizeof *scratch, "tiles", err);
    if (!st)
        st = kq_alloc_for((void **)&list, n_tile * z->n_block, sizeof *list, "order of tiles", err);
    for (size_t wave = 0; wave <= by_row * (n_tile - 1) + by_col * (z->n_block - 1) && !st; wave++) {
        size_t count = 0;
        for (size_t r = 0; r < n_tile; r++)
            for (size_t b = 0; b < z->n_block; b++)
                if (by_row * (n_tile - 1 - r) + by_col * (z->n_block - 1 - b) == wave)
                    list[count++] = r * z->n_block + b;
#pragma omp parallel for schedule(dynamic, 1) num_threads(z->threads) if (z->threads > 1 && count > 1)
        for (size_t i = 0; i < count; i++) {
            float *mine = scratch + (size_t)omp_get_thread_num() * each;
            round_tile(z, list[i] / z->n_block * ROWS, list[i] % z->n_block, mine, mine + ROWS * z->B);
        }
    }
    kq_free(list);
    kq_free(scratch);
    return st;
}

/* ---- block descent: each block rounded again towards the best it could be, given all the others as they now
 * are  */

/* LDL of one diagonal block of H_in (conditioned, so positive definite). */
static void small_ldl(const float *H, size_t ld, size_t B, double *A, float *L, float *D)
{
    for (size_t i = 0; i < B; i++)
        for (size_t j = 0; j <= i; j++) {
            double s = H[i * ld + j];
            for (size_t k = 0; k < j; k++)
                s -= A[i * B + k] * A[j * B + k];
            A[i * B + j] = i == j ? sqrt(s > 1e-30 ? s : 1e-30) : s / A[j * B + j];
        }
    for (size_t i = 0; i < B; i++) {
        D[i] = (float)(A[i * B + i] * A[i * B + i]);
        for (size_t j = 0; j < B; j++)
            L[i * B + j] = j < i ? (float)(A[i * B + j] / A[j * B + j]) : 0;
    }
}

/* out <- g (L D L^T)^-1, row vectors. */
static void small_solve(const float *L, const float *D, size_t B, const float *g, float *out)
{
    memcpy(out, g, B * sizeof *out);
    for (size_t i = 0; i < B; i++) /* x L^T ... : first (L y = g), then D, then L^T */
        for (size_t j = 0; j < i; j++)
            out[i] -= L[i * B + j] * out[j];
    for (size_t i = 0; i < B; i++)
        out[i] /= D[i];
    for (size_t i = B; i-- > 0;)
        for (size_t j = 0; j < i; j++)
            out[j] -= L[i * B + j] * out[i];
}

typedef struct descent {
    float *P;          /* [m, n] H_out E */
    float *G, *Z, *dE; /* [m, B]: gradient, its changes' way to the others, changes of E */
    float *L, *D;      /* of the diagonal block */
    double *A;
} descent;

static void descend_row(const work *z, descent *d, size_t i, size_t b)
{
    const size_t n = z->n, B = z->B, c0 = b * B;
    const float h = z->out.H ? z->out.H[i * z->m + i] : 1.0f;
    float *e = z->E + i * n + c0, *g = d->G + i * B, *dE = d->dE + i * B, *Z = d->Z + i * B;
    float back[KQ_GRID_BLOCK], v[KQ_GRID_BLOCK], what[KQ_GRID_BLOCK], eta[KQ_GRID_BLOCK];
    const float *L = z->in.H ? d->L : NULL, *D = z->in.H ? d->D : NULL;
    if (L)
        small_solve(L, D, B, g, back);
    else
        memcpy(back, g, B * sizeof *back);
    for (size_t j = 0; j < B; j++) {
        eta[j] = back[j] / h;
        v[j] = z->W[i * n + c0 + j] - e[j] + eta[j]; /* where this block would best be */
    }
    double now = 0; /* how far from it the block is, in its own metric */
    for (size_t j = 0; j < B; j++) {
        double s = eta[j];
        for (size_t k = j + 1; k < B && L; k++)
            s += (double)eta[k] * L[k * B + j];
        now += (D ? D[j] : 1) * s * s;
    }
    const kq_grid_row row = {.w = v, .v = v, .L = L, .D = D, .ld = B, .place = z->place + c0};
    kq_grid_code code;
    uint8_t bytes[512];
    const double cost = kq_grid_row_round(z->g, z->lanes, &row, &code, bytes, what);
    memset(dE, 0, B * sizeof *dE);
    memset(Z, 0, B * sizeof *Z);
    if (!(cost < now * (1 - 1e-5)))
        return;
    memcpy(block_at(z, i, b), bytes, z->block_bytes);
    for (size_t j = 0; j < B; j++) {
        const float next = z->W[i * n + c0 + j] - what[j];
        dE[j] = next - e[j];
        e[j] = next;
    }
    if (!z->in.H) {
        memcpy(Z, dE, B * sizeof *Z);
        return;
    }
    for (size_t k = 0; k < B; k++) {
        const float *H = z->in.H + (c0 + k) * n + c0;
        for (size_t j = 0; j < B; j++)
            Z[j] += dE[k] * H[j];
    }
}

static void descend_column(const work *z, descent *d, size_t b)
{
    const size_t m = z->m, n = z->n, B = z->B, c0 = b * B;
    if (z->in.H) {
        kq_gemm_f32_tiled(false, false, m, B, n, 1, d->P, n, z->in.H + c0, n, 0, d->G, B, z->threads);
        small_ldl(z->in.H + c0 * n + c0, n, B, d->A, d->L, d->D);
    } else {
        for (size_t i = 0; i < m; i++)
            memcpy(d->G + i * B, d->P + i * n + c0, B * sizeof *d->G);
    }
    const float *H = z->out.H;
    if (!H) {
#pragma omp parallel for schedule(dynamic, 8) num_threads(z->threads) if (z->threads > 1)
        for (size_t i = 0; i < m; i++)
            descend_row(z, d, i, b);
    } else {
        for (size_t r0 = 0; r0 < m; r0 += ROWS) {
            const size_t r1 = min_size(r0 + ROWS, m);
            if (r0)
                kq_gemm_f32(false, false, r1 - r0, B, r0, 1, H + r0 * m, m, d->Z, B, 1, d->G + r0 * B, B);
            for (size_t i = r0; i < r1; i++) {
                for (size_t k = r0; k < i; k++)
                    for (size_t j = 0; j < B; j++)
                        d->G[i * B + j] += H[i * m + k] * d->Z[k * B + j];
                descend_row(z, d, i, b);
            }
        }
    }
    if (H) {
        kq_gemm_f32_tiled(false, false, m, B, m, 1, H, m, d->dE, B, 1, d->P + c0, n, z->threads);
    } else {
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < B; j++)
                d->P[i * n + c0 + j] += d->dE[i * B + j];
    }
}

static kq_status descend(const work *z, int sweeps, kq_error *err)
{
    const size_t m = z->m, n = z->n, B = z->B;
    descent d = {0};
    kq_status st;
    if ((st = kq_alloc_for((void **)&d.P, m * n, sizeof *d.P, "block descent", err)) ||
        (st = kq_alloc_for((void **)&d.G, m * B, sizeof *d.G, "block descent", err)) ||
        (st = kq_alloc_for((void **)&d.Z, m * B, sizeof *d.Z, "block descent", err)) ||
        (st = kq_alloc_for((void **)&d.dE, m * B, sizeof *d.dE, "block descent", err)) ||
        (st = kq_alloc_for((void **)&d.L, B * B, sizeof *d.L, "block descent", err)) ||
        (st = kq_alloc_for((void **)&d.D, B, sizeof *d.D, "block descent", err)) ||
        (st = kq_alloc_for((void **)&d.A, B * B, sizeof *d.A, "block descent", err)))
        goto out;
    for (int sweep = 0; sweep < sweeps; sweep++) {
        if (z->out.H)
            kq_gemm_f32_tiled(false, false, m, n, m, 1, z->out.H, m, z->E, n, 0, d.P, n, z->threads);
        else
            memcpy(d.P, z->E, m * n * sizeof *d.P);
        for (size_t b = z->n_block; b-- > 0;)
            descend_column(z, &d, b);
    }
out:
    kq_free(d.P);
    kq_free(d.G);
    kq_free(d.Z);
    kq_free(d.dE);
    kq_free(d.L);
    kq_free(d.D);
    kq_free(d.A);
    return st;
}

/* ---- the whole ---- */

static kq_status objective(const work *z, double *out, kq_error *err)
{
    kq_status st = kq_predicted_loss(z->E, z->m, z->n, z->in.H, z->out.H, z->threads, out, err);
    *out *= 2;
    return st;
}

kq_status kq_grid_round(kq_dtype type, const char *name, const float *W, size_t m, size_t n,
                        const float *H_in, const float *H_out, bool predicts, const kq_grid_options *opt,
                        uint8_t *blocks, kq_grid_report *report, kq_error *err)
{
    const kq_grid *g = kq_grid_of(type);
    size_t elems, mn;
    work z = {.g = g, .m = m, .n = n, .blocks = blocks, .threads = opt->threads < 1 ? 1 : opt->threads};
    kq_grid_report rep = {.predicted_loss = NAN, .objective = NAN, .first = NAN};
    if (!g || !kq_dtype_block(type, &elems, &z.block_bytes))
        return kq_fail(err, KQ_E_ARG, "%s: %s is no type to round onto", name, kq_dtype_name(type));
    if (m == 0 || n == 0 || m > 1u << 20 || n > 1u << 20 || !kq_mul_size(m, n, &mn))
        return kq_fail(err, KQ_E_ARG, "%s: a weight matrix of %zu x %zu", name, m, n);
    if (n % elems)
        return kq_fail(err, KQ_E_SHAPE, "%s: rows of %zu weights are no whole number of %s blocks of %zu",
                       name, n, kq_dtype_name(type), elems);
    const size_t bad = kq_first_nonfinite(W, mn);
    if (bad < mn)
        return kq_fail(err, KQ_E_NUMERIC, "%s: the weight holds NaN or Inf at [%zu, %zu]", name, bad / n,
                       bad % n);
    size_t at;
    if (!kq_type_holds(type, W, mn, &at))
        return kq_fail(
            err, KQ_E_NUMERIC,
            "%s: [%zu, %zu] is %g, beyond what the scales of %s can hold (half floats, which end at 65504)",
            name, at / n, at % n, (double)W[at], kq_dtype_name(type));
    z.lanes = kq_grid_lanes_for(kq_kern_isa());
    z.B = elems;
    z.n_block = n / elems;
    kq_status st;
    if ((st = make_side(&z.in, H_in, n, elems, (size_t)g->group, opt->sigma_in, opt->shrink, name, "H_in",
                        z.threads, &rep.extra_in, err)) ||
        (st = make_side(&z.out, H_out, m, 1, 1, opt->sigma_out, opt->shrink, name, "H_out", z.threads,
                        &rep.extra_out, err)) ||
        (st = kq_alloc_for((void **)&z.place, n, sizeof *z.place, "order of rounding", err)) ||
        (st = kq_alloc_for((void **)&z.W, mn, sizeof *z.W, "ordered weights", err)) ||
        (st = kq_alloc_for((void **)&z.E, mn, sizeof *z.E, "rounding error", err)) ||
        (z.out.H && (st = kq_alloc_for((void **)&z.F, mn, sizeof *z.F, "rounding sums", err))))
        goto out;
    if (!z.F)
        z.F = z.E;
    for (size_t j = 0; j < n; j++)
        z.place[j] = (uint16_t)(z.in.order[j] % elems);
    double energy = 0, error = 0;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            z.W[i * n + j] = W[(size_t)z.out.order[i] * n + z.in.order[j]];
    if ((st = first_pass(&z, err)) || (opt->measure && (st = objective(&z, &rep.first, err))))
        goto out;
    rep.objective = rep.first;
    if (opt->sweeps > 0 && (H_in || H_out) &&
        ((st = descend(&z, opt->sweeps, err)) || (opt->measure && (st = objective(&z, &rep.objective, err)))))
        goto out;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            const float w = z.W[i * n + j], e = z.E[i * n + j];
            energy += (double)w * w;
            error += (double)e * e;
        }
    rep.relative_mse = energy > 0 ? error / energy : 0;
    if (!isfinite(error)) {
        st = kq_fail(err, KQ_E_NUMERIC,
                     "%s: rounding diverged (values beyond the type's F16 scales, or factors that feed "
                     "errors back without bound)",
                     name);
        goto out;
    }
    if (predicts) {
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++)
                z.W[(size_t)z.out.order[i] * n + z.in.order[j]] = z.E[i * n + j];
        if ((st = kq_predicted_loss(z.W, m, n, H_in, H_out, z.threads, &rep.predicted_loss, err)))
            goto out;
    }
    if (report)
        *report = rep;
out:
    free_side(&z.in);
    free_side(&z.out);
    kq_free(z.place);
    kq_free(z.W);
    if (z.F != z.E)
        kq_free(z.F);
    kq_free(z.E);
    return st;
}

kq_status kq_grid_nearest(kq_dtype type, const char *name, const float *W, size_t m, size_t n, int threads,
                          uint8_t *blocks, kq_error *err)
{
    const kq_grid_options opt = {.threads = threads};
    return kq_grid_round(type, name, W, m, n, NULL, NULL, false, &opt, blocks, NULL, err);
}
