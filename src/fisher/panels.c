/* The stages of a product in block integers: panel.h defines the numbers, x86/panel_vnni.c the kernels. Stage
 * 1 and stage 2 read the same layout, so that a sample is quantized once and never copied. The slices of the
 * workspace are those of the other stages, under other types (kq_product_plan). */
#include "fisher/stages.h"

#include <omp.h>
#include <string.h>

/* Sizes of one product: the result is [dim, dim], the middle [K, K]. */
typedef struct panel_sizes {
    size_t dim, K;
    size_t panels, ld;    /* panels of dim columns; row stride of the sums, 48 panels */
    size_t pairs, blocks; /* of K */
    size_t groups;        /* of eight rows of the middle */
    size_t splits;        /* groups of samples in stage 2 */
} panel_sizes;

static panel_sizes sizes_of(const kq_product *p)
{
    const kq_product_plan *plan = &p->plan;
    size_t dim = p->adjoint ? plan->n : plan->m, K = p->adjoint ? plan->m : plan->n,
           panels = kq_panel_count(dim);
    return (panel_sizes){.dim = dim,
                         .K = K,
                         .panels = panels,
                         .ld = panels * KQ_PANEL,
                         .pairs = (K + 1) / 2,
                         .blocks = kq_panel_blocks(K),
                         .groups = (K + 7) / 8,
                         .splits = kq_panel_splits(dim, plan->chunk)};
}

/* The packed middle, its scales and the balance. */
typedef struct panel_middle {
    int32_t *packed;
    float *rows, *balance;
} panel_middle;

static panel_middle middle_of(const kq_product *p, const panel_sizes *z)
{
    int32_t *packed = (int32_t *)p->mid16;
    float *rows = (float *)(packed + z->groups * z->pairs * 8);
    return (panel_middle){packed, rows, rows + z->groups * z->blocks * 8};
}

void kq_panels_begin(kq_product *p)
{
    const panel_sizes z = sizes_of(p);
    const panel_middle mid = middle_of(p, &z);
    memset(p->acc, 0, z.splits * z.ld * z.ld * sizeof *p->acc);
    if (p->kind != KQ_MID_TRIANGULAR)
        return;
    kq_panel_balance(p->mid, z.K, mid.balance);
#pragma omp parallel for schedule(dynamic) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t r = 0; r < z.groups; r++)
        kq_panel_pack(p->mid, z.K, r * 8, mid.balance, mid.packed + r * z.pairs * 8,
                      mid.rows + r * z.blocks * 8);
}

void kq_panels_stage1(kq_product *p, const uint16_t *g, size_t count)
{
    const panel_sizes z = sizes_of(p);
    const panel_middle mid = middle_of(p, &z);
    const bool triangular = p->kind == KQ_MID_TRIANGULAR;
    const size_t m = p->plan.m, n = p->plan.n;
    int32_t *X = (int32_t *)p->gf + p->held * z.panels * z.pairs * KQ_PANEL;
    float *scales = (float *)p->t + p->held * z.panels * z.blocks * KQ_PANEL;
#pragma omp parallel for schedule(dynamic) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t task = 0; task < count * z.panels; task++) {
        float *scratch = p->panel + (size_t)omp_get_thread_num() * KQ_PANEL_OUT,
              *scale = scales + task * z.blocks * KQ_PANEL;
        int32_t *x = X + task * z.pairs * KQ_PANEL;
        kq_panel_load_vnni(g + task / z.panels * m * n, m, n, !p->adjoint, task % z.panels,
                           triangular ? mid.balance : NULL, x, scale, scratch);
        if (triangular)
            kq_panel_middle_vnni(mid.packed, mid.rows, z.K, x, scale, scratch);
    }
}

void kq_panels_stage2(kq_product *p, size_t count)
{
    const panel_sizes z = sizes_of(p);
    const size_t strips = (z.panels + KQ_STRIP - 1) / KQ_STRIP, tiles = strips * (strips + 1) / 2;
    const int32_t *X = (const int32_t *)p->gf;
    const float *scales = p->t;
#pragma omp parallel for schedule(dynamic) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t task = 0; task < tiles * z.splits; task++) {
        const size_t split = task % z.splits;
        size_t r, c;
        kq_lower_tile(task / z.splits, strips, &r, &c);
        r *= KQ_STRIP;
        c *= KQ_STRIP;
        for (size_t s = count * split / z.splits; s < count * (split + 1) / z.splits; s++)
            kq_panel_gather_vnni(X + s * z.panels * z.pairs * KQ_PANEL,
                                 scales + s * z.panels * z.blocks * KQ_PANEL, z.K, r,
                                 kq_min_size(r + KQ_STRIP, z.panels), c, kq_min_size(c + KQ_STRIP, z.panels),
                                 p->acc + split * z.ld * z.ld, z.ld);
    }
}
