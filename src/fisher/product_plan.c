/* The workspace of one layer's products: how many samples are multiplied at a time, and the bytes of each
 * slice. The chunk depends on the shape and on the type alone, because its size sets the order of the sums.
 */
#include "fisher/tiling.h"

#include "base/mem.h"

enum {
    CHUNK_BYTES = 96 << 20, /* a chunk's scratch aims at this, whatever D is */
    /* largest tile of the result; bf16 has no syrk for the diagonal, so its tiles are smaller */
    TILE_F32 = 384,
    TILE_BF16 = 256,
    TASKS = 24, /* stage-2 tasks that a chunk should give */
    MAX_SPLITS = 8
};

static size_t tile_count(size_t dim, kq_compute compute)
{
    size_t most = compute == KQ_F32 ? TILE_F32 : TILE_BF16;
    return (dim + most - 1) / most;
}

size_t kq_tile_edge(size_t dim, kq_compute compute)
{
    size_t count = tile_count(dim, compute), size = (dim + count - 1) / count;
    return (size + 15) / 16 * 16;
}

static size_t splits(size_t tiles_a_side, size_t chunk)
{
    const size_t tiles = tiles_a_side * (tiles_a_side + 1) / 2;
    return kq_min_size(kq_min_size((TASKS + tiles - 1) / tiles, MAX_SPLITS), chunk);
}

size_t kq_split_count(size_t dim, size_t chunk, kq_compute compute)
{
    return splits(tile_count(dim, compute), chunk);
}

size_t kq_panel_count(size_t dim)
{
    return (dim + KQ_PANEL - 1) / KQ_PANEL;
}

size_t kq_panel_splits(size_t dim, size_t chunk)
{
    return splits((kq_panel_count(dim) + KQ_STRIP - 1) / KQ_STRIP, chunk);
}

static bool round64(size_t *bytes)
{
    if (!kq_add_size(*bytes, 63, bytes))
        return false;
    *bytes &= ~(size_t)63;
    return true;
}

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Samples a chunk: as many as the scratch holds at scratch_each bytes a sample, in chunks of equal size. */
static size_t chunk_of(size_t D, size_t chunk_bytes, size_t scratch_each)
{
    size_t most = (chunk_bytes ? chunk_bytes : CHUNK_BYTES) / scratch_each;
    most = kq_min_size(most ? most : 1, D);
    size_t chunks = (D + most - 1) / most;
    return (D + chunks - 1) / chunks;
}

/* Slices of products through BLAS and oneDNN, in f32 or bf16; gram: values of a factored sample's S_i. */
static bool size_blas(kq_product_plan *p, size_t gram)
{
    const size_t m = p->m, n = p->n, big = max_size(m, n), width = p->compute == KQ_F32 ? 4 : 2;
    if (!kq_mul_size(p->chunk, p->sample * width, &p->gf) ||
        !kq_mul_size(p->chunk, (p->T ? p->T * big : m * n) * width, &p->t) ||
        !kq_mul_size(p->chunk, gram * width, &p->gram))
        return false;
    if (p->compute == KQ_BF16) {
        if (!p->pieces)
            p->gf = 0;
        p->mid16 = big * big * 2;
        p->panel = (size_t)p->threads * KQ_STAGE_PANEL * max_size(p->T, big) * 4;
    }
    p->acc = 4 * max_size(kq_split_count(n, p->chunk, p->compute) * n * n,
                          kq_split_count(m, p->chunk, p->compute) * m * m);
    return true;
}

/* Slices of products in block integers (panel.h). */
static bool size_panels(kq_product_plan *p)
{
    const size_t m = p->m, n = p->n, big = max_size(m, n), wide = kq_panel_count(n), tall = kq_panel_count(m),
                 pairs = max_size((m + 1) / 2 * wide, (n + 1) / 2 * tall),
                 scales = max_size(kq_panel_blocks(m) * wide, kq_panel_blocks(n) * tall);
    if (!kq_mul_size(p->chunk, pairs * KQ_PANEL * sizeof(int32_t), &p->gf))
        return false;
    p->t = p->chunk * scales * KQ_PANEL * sizeof(float);
    p->mid16 = ((big + 7) / 8 * 8 * ((big + 1) / 2 + kq_panel_blocks(big)) + big) * sizeof(int32_t);
    p->panel = (size_t)p->threads * KQ_PANEL_OUT * sizeof(float);
    p->acc = KQ_PANEL * KQ_PANEL * sizeof(float) *
             max_size(kq_panel_splits(n, p->chunk) * wide * wide, kq_panel_splits(m, p->chunk) * tall * tall);
    return true;
}

bool kq_product_size(kq_product_plan *plan, const kq_gradients *G, kq_compute compute, bool exact,
                     int threads, size_t chunk_bytes, bool pieces)
{
    const size_t m = G->m, n = G->n, D = G->D, T = G->T, width = compute == KQ_F32 ? 4 : 2,
                 big = max_size(m, n);
    size_t mn, big2, tokens = 0, gram = 0, scratch_each;
    if (!kq_mul_size(m, n, &mn) || !kq_mul_size(big, big, &big2) || !kq_mul_size(mn, 8, &scratch_each) ||
        big2 > SIZE_MAX / 64)
        return false;
    if (T && (!kq_mul_size(T, m + n, &tokens) || !kq_mul_size(T, T, &gram) || tokens > SIZE_MAX / 64 ||
              gram > SIZE_MAX / 64))
        return false;
    *plan = (kq_product_plan){.D = D,
                              .m = m,
                              .n = n,
                              .T = T,
                              .sample = T ? tokens : mn,
                              .compute = compute,
                              .panels = compute == KQ_F32 && !exact && !T && kq_panel_available(),
                              .pieces = pieces,
                              .threads = threads > 1 ? threads : 1};
    /* What a sample needs beside the middle: f32 gradients and T_i; bf16 T_i alone. */
    if (compute == KQ_BF16)
        scratch_each = mn * 2;
    if (T)
        scratch_each = ((compute == KQ_F32 || pieces ? tokens : 0) + T * big + gram) * width;
    plan->chunk = chunk_of(D, chunk_bytes, scratch_each);
    if (!(plan->panels ? size_panels(plan) : size_blas(plan, gram)))
        return false;
    size_t *const slices[] = {&plan->gf, &plan->t, &plan->mid16, &plan->panel, &plan->acc, &plan->gram};
    for (size_t i = 0; i < sizeof slices / sizeof *slices; i++)
        if (!round64(slices[i]) || !kq_add_size(plan->bytes, *slices[i], &plan->bytes))
            return false;
    return true;
}

void kq_product_init(kq_product *p, const kq_product_plan *plan, void *block)
{
    char *slice = block;
    *p = (kq_product){.plan = *plan};
    p->gf = (float *)slice;
    p->t = slice += plan->gf;
    p->mid16 = (uint16_t *)(slice += plan->t);
    p->panel = (float *)(slice += plan->mid16);
    p->acc = (float *)(slice += plan->panel);
    p->gram = slice + plan->acc;
}

double kq_product_flop(const kq_product_plan *plan, bool adjoint, kq_middle kind, size_t samples)
{
    const double dim = (double)(adjoint ? plan->n : plan->m), other = (double)(adjoint ? plan->m : plan->n);
    const double D = (double)samples, T = (double)plan->T;
    const double work = (kind == KQ_MID_IDENTITY ? 0 : kind == KQ_MID_TRIANGULAR ? 1 : 2) * other;
    return plan->T ? D * T * (work * other + T * (other + 2 * dim) + dim * dim)
                   : D * dim * other * (work + dim);
}
