/* The stages of a product of eq. 2 through BLAS (f32) and oneDNN (bf16).
 *
 * Whole samples, result [dim, dim]: stage 1 multiplies each G_i by the middle matrix, T_i = mid G_i or G_i
 * mid^T; stage 2 sums T_i^T T_i, T_i^T G_i or the transposes over the samples, lower tiles only. A triangular
 * middle (Y = C^T C) is half the work in both stages. Factored samples G_i = a_i^T p_i (eq. 7): stage 1
 * multiplies p_i by the middle, S_i = p_i Y p_i^T [T, T] is formed, and stage 2 sums a_i^T (S_i a_i). Every
 * task is one call of the libraries on one thread; tiling.h cuts the tasks. */
#include "fisher/stages.h"

#include <omp.h>
#include <string.h>

#include "base/f16.h"
#include "base/first_error.h"
#include "kern/lapack.h"

/* A stack of matrices: element (s, i, j) is data[s * sample + i * row + j], in the type of the products. */
typedef struct stack {
    const void *data;
    size_t sample, row;
} stack;

static const void *at(const kq_product *p, stack s, size_t sample, size_t i, size_t j)
{
    size_t o = sample * s.sample + i * s.row + j;
    return p->plan.compute == KQ_F32 ? (const void *)((const float *)s.data + o)
                                     : (const void *)((const uint16_t *)s.data + o);
}

/* C [m, n] (+)= op(A) op(B) with the shapes and strides of kq_gemm_f32. */
typedef struct gemm {
    bool ta, tb;
    size_t m, n, k;
    const void *A;
    size_t lda;
    const void *B;
    size_t ldb;
    bool accumulate;
    float *C;
    size_t ldc;
} gemm;

static kq_status multiply(const kq_product *p, const gemm *g, kq_error *err)
{
    if (p->plan.compute == KQ_BF16)
        return kq_gemm_bf16(g->ta, g->tb, g->m, g->n, g->k, g->A, g->lda, g->B, g->ldb, g->accumulate, g->C,
                            g->ldc, err);
    kq_gemm_f32(g->ta, g->tb, g->m, g->n, g->k, 1, g->A, g->lda, g->B, g->ldb, g->accumulate, g->C, g->ldc);
    return KQ_OK;
}

/* bf16: this thread's f32 result before it is rounded. */
static float *panel_scratch(const kq_product *p)
{
    return p->panel +
           (size_t)omp_get_thread_num() * (p->plan.panel / sizeof(float) / (size_t)p->plan.threads / 16 * 16);
}

/* ---- stage 0 ------------------------------------------------------------------------------------------- */

static void widen_factored(kq_product *p, const uint16_t *g, size_t count)
{
    const size_t m = p->plan.m, n = p->plan.n, T = p->plan.T;
    float *x = p->gf + p->plan.chunk * T * m;
#pragma omp parallel for schedule(static) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t task = 0; task < count * T; task++) {
        const uint16_t *sample = g + task / T * p->plan.sample;
        const size_t t = task % T, row = p->held * T + task;
        kq_bf16_to_f32_n(sample + t * m, p->gf + row * m, m);
        kq_bf16_to_f32_n(sample + T * m + t * n, x + row * n, n);
    }
}

static void widen_whole(kq_product *p, const uint16_t *g, size_t count)
{
    size_t m = p->plan.m, n = p->plan.n, strips = (m + 63) / 64, all = kq_chunk_count(p);
#pragma omp parallel for schedule(static) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t task = 0; task < count * strips; task++) {
        size_t s = task / strips, row = task % strips * 64, end = kq_min_size(row + 64, m);
        const uint16_t *src = g + (s * m + row) * n;
        s += p->held;
        if (p->adjoint)
            kq_bf16_to_f32_n(src, p->gf + (s * m + row) * n, (end - row) * n);
        else
            for (; row < end; row++, src += n)
                kq_bf16_to_f32_n(src, p->gf + (row * all + s) * n, n);
    }
}

void kq_stage_widen(kq_product *p, const uint16_t *g, size_t count)
{
    (p->plan.T ? widen_factored : widen_whole)(p, g, count);
}

/* ---- stage 1 ------------------------------------------------------------------------------------------- */

/* T_s = mid G_s (left) or G_s mid^T, for G_s [m, n]. */
typedef struct stage1 {
    bool left;
    size_t m, n;
    stack G, T;
} stage1;

/* f32 with a triangular middle: the panel's diagonal block C [w, w] is a triangular product in place, out = C
 * G (left) or G C^T over the panel's rows or columns lo.. of G_s. BLAS sees the transposes: out^T = G^T C^T
 * with C^T upper, or out^T = C G^T with C = (C^T)^T. */
static void multiply_diagonal(const kq_product *p, const stage1 *z, size_t s, size_t lo, size_t w,
                              const float *C, float *out)
{
    const float one = 1;
    const size_t m = z->m, n = z->n, ld = z->T.row;
    int W = (int)w, M = (int)m, N = (int)n, D = (int)(z->left ? m : n), L = (int)ld;
    if (z->left) {
        for (size_t i = 0; i < w; i++)
            memcpy(out + i * ld, at(p, z->G, s, lo + i, 0), n * sizeof *out);
        strmm_("R", "U", "N", "N", &N, &W, &one, C, &D, out, &L, 1, 1, 1, 1);
    } else {
        for (size_t i = 0; i < m; i++)
            memcpy(out + i * ld, at(p, z->G, s, i, lo), w * sizeof *out);
        strmm_("L", "U", "T", "N", &W, &M, &one, C, &D, out, &L, 1, 1, 1, 1);
    }
}

/* Rows (left) or columns lo..hi-1 of T_s. A triangular middle's panel ends at its diagonal, so that k shrinks
 * with lo. */
static kq_status multiply_panel(kq_product *p, const stage1 *z, size_t s, size_t lo, size_t hi, kq_error *err)
{
    const bool f32 = p->plan.compute == KQ_F32, triangular = p->kind == KQ_MID_TRIANGULAR, left = z->left;
    const size_t m = z->m, n = z->n, dim = left ? m : n, w = hi - lo;
    const void *rows = f32 ? (const void *)(p->mid + lo * dim) : p->mid16 + lo * dim;
    void *dst = (void *)(uintptr_t)(left ? at(p, z->T, s, lo, 0) : at(p, z->T, s, 0, lo));
    float *out = f32 ? dst : panel_scratch(p);
    const size_t ld = f32 ? z->T.row : left ? n : w;
    const bool diagonal = f32 && triangular;
    size_t k = triangular ? hi : dim;
    kq_status st = KQ_OK;
    if (diagonal) {
        multiply_diagonal(p, z, s, lo, w, (const float *)rows + lo, out);
        k = lo;
    }
    if (k) {
        gemm g = {.tb = !left, .k = k, .accumulate = diagonal, .C = out, .ldc = ld};
        const void *whole = at(p, z->G, s, 0, 0);
        if (left)
            g.m = w, g.n = n, g.A = rows, g.lda = dim, g.B = whole, g.ldb = z->G.row;
        else
            g.m = m, g.n = w, g.A = whole, g.lda = z->G.row, g.B = rows, g.ldb = dim;
        st = multiply(p, &g, err);
    }
    if (!f32 && !st)
        for (size_t i = 0; i < (left ? w : m); i++)
            kq_f32_to_bf16_n(out + i * ld, (uint16_t *)dst + i * z->T.row, left ? n : w);
    return st;
}

static kq_status multiply_middle(kq_product *p, const stage1 *z, size_t count, kq_error *err)
{
    const size_t dim = z->left ? z->m : z->n, panels = (dim + KQ_STAGE_PANEL - 1) / KQ_STAGE_PANEL;
    kq_first_error first = KQ_FIRST_ERROR;
#pragma omp parallel for schedule(dynamic) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t task = 0; task < count * panels; task++) {
        const size_t lo = (panels - 1 - task / count) * KQ_STAGE_PANEL;
        kq_error e;
        kq_status st = multiply_panel(p, z, task % count, lo, kq_min_size(lo + KQ_STAGE_PANEL, dim), &e);
        kq_first_error_note(&first, task, st, &e);
    }
    return kq_first_error_get(&first, err);
}

/* ---- stage 2 ------------------------------------------------------------------------------------------- */

/* The sum over samples of T_s^T G_s (adjoint) or T_s G_s^T, for G_s [m, n]. */
typedef struct stage2 {
    bool adjoint;
    size_t m, n;
    stack T, G;
} stage2;

/* Tile (r, c) of the result over samples s0..s1-1, added to C. */
static kq_status sum_tile(kq_product *p, const stage2 *z, size_t r, size_t c, size_t s0, size_t s1,
                          float *sums, kq_error *err)
{
    const bool adjoint = z->adjoint, f32 = p->plan.compute == KQ_F32, same = z->T.data == z->G.data;
    const size_t dim = adjoint ? z->n : z->m, inner = adjoint ? z->m : z->n,
                 edge = kq_tile_edge(dim, p->plan.compute), r0 = r * edge, h = kq_min_size(edge, dim - r0),
                 c0 = c * edge, w = kq_min_size(edge, dim - c0);
    float *C = sums + r0 * dim + c0;
    /* Samples that lie end to end along the inner dimension make one long product. */
    const bool joined =
        z->T.sample == inner * (adjoint ? z->T.row : 1) && z->G.sample == inner * (adjoint ? z->G.row : 1);
    const size_t step = joined ? s1 - s0 : 1;
    kq_status st = KQ_OK;
    for (size_t s = s0; s < s1 && !st; s += step) {
        const void *A = adjoint ? at(p, z->T, s, 0, r0) : at(p, z->T, s, r0, 0),
                   *B = adjoint ? at(p, z->G, s, 0, c0) : at(p, z->G, s, c0, 0);
        if (f32 && same && r == c) {
            const float one = 1;
            int H = (int)h, K = (int)(step * inner), L = (int)z->T.row, D = (int)dim;
            ssyrk_("U", adjoint ? "N" : "T", &H, &K, &one, A, &L, &one, C, &D, 1, 1);
        } else
            st = multiply(p,
                          &(gemm){.ta = adjoint,
                                  .tb = !adjoint,
                                  .m = h,
                                  .n = w,
                                  .k = step * inner,
                                  .A = A,
                                  .lda = z->T.row,
                                  .B = B,
                                  .ldb = z->G.row,
                                  .accumulate = true,
                                  .C = C,
                                  .ldc = dim},
                          err);
    }
    return st;
}

static kq_status sum_samples(kq_product *p, const stage2 *z, size_t count, kq_error *err)
{
    const size_t dim = z->adjoint ? z->n : z->m, edge = kq_tile_edge(dim, p->plan.compute),
                 tiles = (dim + edge - 1) / edge,
                 splits = kq_split_count(dim, p->plan.chunk, p->plan.compute);
    kq_first_error first = KQ_FIRST_ERROR;
#pragma omp parallel for schedule(dynamic) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t task = 0; task < tiles * (tiles + 1) / 2 * splits; task++) {
        const size_t split = task % splits;
        size_t r, c;
        kq_error e;
        kq_lower_tile(task / splits, tiles, &r, &c);
        kq_status st = sum_tile(p, z, r, c, count * split / splits, count * (split + 1) / splits,
                                p->acc + split * dim * dim, &e);
        kq_first_error_note(&first, task, st, &e);
    }
    return kq_first_error_get(&first, err);
}

/* ---- factored samples ---------------------------------------------------------------------------------- */

/* Row and column of a lower triangle's entry number `index`, row by row. */
static void lower_entry(size_t index, size_t *row, size_t *column)
{
    for (*row = 0; index > *row; index -= ++*row)
        ;
    *column = index;
}

/* S_s = Q_s P_s^T [T, T] for Q_s, P_s [T, K], symmetric: lower tiles, mirrored. */
static kq_status form_grams(kq_product *p, stack Q, stack P, size_t K, size_t count, kq_error *err)
{
    const size_t T = p->plan.T, tiles = (T + KQ_STAGE_PANEL - 1) / KQ_STAGE_PANEL,
                 tiles_a_sample = tiles * (tiles + 1) / 2;
    const bool f32 = p->plan.compute == KQ_F32;
    kq_first_error first = KQ_FIRST_ERROR;
#pragma omp parallel for schedule(dynamic) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t task = 0; task < count * tiles_a_sample; task++) {
        size_t s = task / tiles_a_sample, c, r;
        lower_entry(task % tiles_a_sample, &r, &c);
        r *= KQ_STAGE_PANEL, c *= KQ_STAGE_PANEL;
        const size_t h = kq_min_size(KQ_STAGE_PANEL, T - r), w = kq_min_size(KQ_STAGE_PANEL, T - c),
                     o = s * T * T;
        float *S = f32 ? (float *)p->gram + o + r * T + c : panel_scratch(p);
        const size_t ld = f32 ? T : w;
        kq_error e;
        kq_status st = multiply(p,
                                &(gemm){.tb = true,
                                        .m = h,
                                        .n = w,
                                        .k = K,
                                        .A = at(p, Q, s, r, 0),
                                        .lda = Q.row,
                                        .B = at(p, P, s, c, 0),
                                        .ldb = P.row,
                                        .C = S,
                                        .ldc = ld},
                                &e);
        for (size_t i = 0; i < h && f32; i++)
            for (size_t j = 0; j < w && c + j < r + i; j++)
                ((float *)p->gram)[o + (c + j) * T + r + i] = S[i * ld + j];
        for (size_t i = 0; i < h && !f32; i++)
            for (size_t j = 0; j < w && c + j <= r + i; j++)
                ((uint16_t *)p->gram)[o + (c + j) * T + r + i] =
                    ((uint16_t *)p->gram)[o + (r + i) * T + c + j] = kq_f32_to_bf16(S[i * ld + j]);
        kq_first_error_note(&first, task, st, &e);
    }
    return kq_first_error_get(&first, err);
}

/* B_s = S_s A_s [T, dim]. */
static kq_status apply_grams(kq_product *p, stack A, stack B, size_t dim, size_t count, kq_error *err)
{
    const size_t T = p->plan.T, panels = (T + KQ_STAGE_PANEL - 1) / KQ_STAGE_PANEL;
    const bool f32 = p->plan.compute == KQ_F32;
    const stack S = {p->gram, T * T, T};
    kq_first_error first = KQ_FIRST_ERROR;
#pragma omp parallel for schedule(dynamic) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t task = 0; task < count * panels; task++) {
        const size_t s = task / panels, r = task % panels * KQ_STAGE_PANEL,
                     h = kq_min_size(KQ_STAGE_PANEL, T - r);
        void *dst = (void *)(uintptr_t)at(p, B, s, r, 0);
        float *out = f32 ? dst : panel_scratch(p);
        kq_error e;
        kq_status st = multiply(p,
                                &(gemm){.m = h,
                                        .n = dim,
                                        .k = T,
                                        .A = at(p, S, s, r, 0),
                                        .lda = T,
                                        .B = at(p, A, s, 0, 0),
                                        .ldb = A.row,
                                        .C = out,
                                        .ldc = dim},
                                &e);
        if (!f32 && !st)
            kq_f32_to_bf16_n(out, dst, h * dim);
        kq_first_error_note(&first, task, st, &e);
    }
    return kq_first_error_get(&first, err);
}

/* ---- a chunk ------------------------------------------------------------------------------------------- */

static kq_status factored_chunk(kq_product *p, const uint16_t *g, size_t count, kq_error *err)
{
    const size_t m = p->plan.m, n = p->plan.n, T = p->plan.T, dim = p->adjoint ? n : m,
                 K = p->adjoint ? m : n;
    stack outputs = {p->gf, T * m, m}, inputs = {p->gf + p->plan.chunk * T * m, T * n, n};
    if (p->plan.compute == KQ_BF16) {
        outputs = (stack){g, p->plan.sample, m};
        inputs = (stack){g + T * m, p->plan.sample, n};
    }
    const stack A = p->adjoint ? inputs : outputs, P = p->adjoint ? outputs : inputs, Q = {p->t, T * K, K},
                B = {p->t, T * dim, dim};
    kq_status status = KQ_OK;
    if (p->kind != KQ_MID_IDENTITY)
        status = multiply_middle(p, &(stage1){.m = T, .n = K, .G = P, .T = Q}, count, err);
    if (!status)
        status = form_grams(p, p->kind == KQ_MID_IDENTITY ? P : Q, p->kind == KQ_MID_TRIANGULAR ? Q : P, K,
                            count, err);
    if (!status)
        status = apply_grams(p, A, B, dim, count, err);
    return status ? status
                  : sum_samples(p, &(stage2){.adjoint = true, .m = T, .n = dim, .T = B, .G = A}, count, err);
}

static kq_status whole_chunk(kq_product *p, const uint16_t *g, size_t count, kq_error *err)
{
    const size_t m = p->plan.m, n = p->plan.n;
    const stack side = {p->gf, p->adjoint ? m * n : n, p->adjoint ? n : count * n};
    stack G = side, T = side;
    if (p->plan.compute == KQ_BF16)
        G = (stack){g, m * n, n};
    T.data = p->t;
    kq_status status = KQ_OK;
    if (p->kind == KQ_MID_IDENTITY)
        T = G;
    else
        status =
            multiply_middle(p, &(stage1){.left = p->adjoint, .m = m, .n = n, .G = G, .T = T}, count, err);
    const stage2 sum = {
        .adjoint = p->adjoint, .m = m, .n = n, .T = T, .G = p->kind == KQ_MID_SYMMETRIC ? G : T};
    return status ? status : sum_samples(p, &sum, count, err);
}

kq_status kq_stage_chunk(kq_product *p, const uint16_t *g, size_t count, kq_error *err)
{
    return (p->plan.T ? factored_chunk : whole_chunk)(p, g, count, err);
}
