/* Block descent (docs/math.md, eq. 95): after the first pass every block is rounded again, given all the
 * others as they now are, and the result is kept where it lowers the objective. The gradient H_out E H_in is
 * kept up to date block column by block column, so that a sweep costs about as much as the first pass. */
#include "grid/work.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "kern/gemm.h"

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
    float *P;     /* [m, n] H_out E */
    float *G;     /* [m, B]: the block column of H_out E H_in, half the gradient */
    float *dE;    /* [m, B]: how the block column of E has changed */
    float *Z;     /* [m, B]: dE H_bb, what the change adds to other rows' G */
    float *L, *D; /* of the diagonal block */
    double *A;
} descent;

static void descend_row(const kq_grid_work *z, descent *d, size_t i, size_t b)
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
        v[j] = z->W[i * n + c0 + j] - e[j] + eta[j]; /* w - e*, where this block would best be */
    }
    double now = 0; /* eq. 95 of the present block, without its constant */
    for (size_t j = 0; j < B; j++) {
        double s = eta[j];
        for (size_t k = j + 1; k < B && L; k++)
            s += (double)eta[k] * L[k * B + j];
        now += (D ? D[j] : 1) * s * s;
    }
    const kq_grid_row row = {.w = v, .v = v, .L = L, .D = D, .ld = B, .slot = z->slot + c0};
    uint8_t bytes[512];
    const double cost = kq_grid_row_round(&z->search, &row, bytes, what);
    memset(dE, 0, B * sizeof *dE);
    memset(Z, 0, B * sizeof *Z);
    if (!(cost < now * (1 - 1e-5)))
        return;
    memcpy(kq_grid_block_at(z, i, b), bytes, z->block_bytes);
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

static void descend_column(const kq_grid_work *z, descent *d, size_t b)
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
        for (size_t r0 = 0; r0 < m; r0 += KQ_GRID_ROWS) {
            const size_t r1 = kq_grid_min(r0 + KQ_GRID_ROWS, m);
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

kq_status kq_grid_descend(const kq_grid_work *z, int sweeps, kq_error *err)
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
