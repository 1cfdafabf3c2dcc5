/* The first pass over a matrix: two-sided LDLQ with one element a step. Tiles of 16 outputs and one block of
 * inputs are done by anti-diagonals, from the bottom right to the top left; within a tile, rows from the last
 * up, since each needs the errors of those below it. The scale of a block is chosen when its turn comes
 * (search.c), with the feedback already in its target. */
#include "grid/work.h"

#include <omp.h>
#include <string.h>

#include "base/mem.h"
#include "kern/gemm.h"

/* The tile of rows r0.. and block column b; everything below it and to its right is done. X and S
 * [KQ_GRID_ROWS, B]: scratch. */
static void round_tile(const kq_grid_work *z, size_t r0, size_t b, float *X, float *S)
{
    const size_t m = z->m, n = z->n, B = z->B, r1 = kq_grid_min(r0 + KQ_GRID_ROWS, m), c0 = b * B,
                 c1 = c0 + B, rows = r1 - r0;
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
            .w = w, .v = v, .L = L, .D = z->in.D ? z->in.D + c0 : NULL, .ld = n, .slot = z->slot + c0};
        kq_grid_row_round(&z->search, &row, kq_grid_block_at(z, i, b), what);
        float *e = z->E + i * n + c0, *f = z->F + i * n + c0;
        for (size_t j = 0; j < B; j++) {
            e[j] = w[j] - what[j];
            f[j] = e[j] + s[j];
        }
    }
}

kq_status kq_grid_first_pass(const kq_grid_work *z, kq_error *err)
{
    const size_t n_tile = (z->m + KQ_GRID_ROWS - 1) / KQ_GRID_ROWS, by_row = z->out.L ? 1 : 0,
                 by_col = z->in.L ? 1 : 0;
    const size_t scratch_each = 2 * KQ_GRID_ROWS * z->B;
    size_t *list = NULL;
    float *scratch = NULL;
    kq_status st =
        kq_alloc_for((void **)&scratch, (size_t)z->threads * scratch_each, sizeof *scratch, "tiles", err);
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
            float *mine = scratch + (size_t)omp_get_thread_num() * scratch_each;
            round_tile(z, list[i] / z->n_block * KQ_GRID_ROWS, list[i] % z->n_block, mine,
                       mine + KQ_GRID_ROWS * z->B);
        }
    }
    kq_free(list);
    kq_free(scratch);
    return st;
}
