#include "fisher/product.h"

#include <omp.h>
#include <string.h>

#include "base/f16.h"
#include "base/mem.h"
#include "fisher/panel.h"
#include "kern/lapack.h"

/* Tiles. A task is one panel of one sample (stage 1) or one tile of the result over a fixed group of samples (stage 2); neither depends
 * on the number of threads, so neither do the bits. */
enum {
    CHUNK_BYTES = 96 << 20, /* a chunk's scratch aims at this, whatever D is */
    PANEL = 192,            /* rows (columns) of C or Y a stage-1 task takes */
    TILE_F32 = 384,         /* largest tile of the result; bf16 has no syrk for the diagonal, so its tiles are smaller */
    TILE_BF16 = 256,
    STRIP = 6,              /* panels a tile of the result spans: 288 columns, whose blocks and sums stay in a second-level cache */
    TASKS = 24,             /* stage-2 tasks wanted a chunk: few tiles are cut further along the samples */
    MAX_SPLITS = 8
};

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t tile_count(size_t dim, kq_compute compute)
{
    size_t most = compute == KQ_F32 ? TILE_F32 : TILE_BF16;
    return (dim + most - 1) / most;
}

static size_t tile_size(size_t dim, kq_compute compute)
{
    size_t count = tile_count(dim, compute), size = (dim + count - 1) / count;
    return (size + 15) / 16 * 16;
}

static size_t split_count(size_t dim, size_t chunk, kq_compute compute)
{
    size_t count = tile_count(dim, compute), tiles = count * (count + 1) / 2;
    return min_size(min_size((TASKS + tiles - 1) / tiles, MAX_SPLITS), chunk);
}

/* The same for panels: tiles of STRIP panels. */
static size_t panel_count(size_t dim)
{
    return (dim + KQ_PANEL - 1) / KQ_PANEL;
}

static size_t panel_splits(size_t dim, size_t chunk)
{
    size_t count = (panel_count(dim) + STRIP - 1) / STRIP, tiles = count * (count + 1) / 2;
    return min_size(min_size((TASKS + tiles - 1) / tiles, MAX_SPLITS), chunk);
}

static bool round64(size_t *bytes)
{
    if (!kq_add_size(*bytes, 63, bytes))
        return false;
    *bytes &= ~(size_t)63;
    return true;
}

bool kq_product_size(kq_product_plan *plan, size_t m, size_t n, size_t D, kq_compute compute, bool exact, int threads)
{
    size_t big = m > n ? m : n, mn, big2, each, slices[5];
    if (!kq_mul_size(m, n, &mn) || !kq_mul_size(big, big, &big2) || !kq_mul_size(mn, 8, &each) || big2 > SIZE_MAX / 64)
        return false;
    *plan = (kq_product_plan){.D = D, .m = m, .n = n, .compute = compute, .threads = threads > 1 ? threads : 1};
    plan->panels = compute == KQ_F32 && !exact && kq_panel_available();
    if (compute == KQ_BF16)
        each = mn * 2;
    size_t most = CHUNK_BYTES / each;
    most = min_size(most ? most : 1, D);
    size_t chunks = (D + most - 1) / most;
    plan->chunk = (D + chunks - 1) / chunks;
    /* f32: gradients and T; bf16: T, the rounded middle, and a panel a thread. */
    if (!kq_mul_size(plan->chunk, mn * 4, &slices[0]))
        return false;
    slices[1] = compute == KQ_F32 ? slices[0] : slices[0] / 2;
    slices[2] = compute == KQ_F32 ? 0 : big2 * 2;
    slices[3] = compute == KQ_F32 ? 0 : (size_t)plan->threads * PANEL * big * 4;
    if (compute == KQ_BF16)
        slices[0] = 0;
    size_t in = split_count(n, plan->chunk, compute) * n * n, out = split_count(m, plan->chunk, compute) * m * m;
    slices[4] = (in > out ? in : out) * 4;
    if (plan->panels) {
        size_t wide = panel_count(n), tall = panel_count(m), blocks = kq_panel_blocks(big), pairs, scales;
        pairs = (m + 1) / 2 * wide > (n + 1) / 2 * tall ? (m + 1) / 2 * wide : (n + 1) / 2 * tall;
        scales = kq_panel_blocks(m) * wide > kq_panel_blocks(n) * tall ? kq_panel_blocks(m) * wide : kq_panel_blocks(n) * tall;
        if (!kq_mul_size(plan->chunk, pairs * KQ_PANEL * sizeof(int32_t), &slices[0]))
            return false;
        slices[1] = plan->chunk * scales * KQ_PANEL * sizeof(float);
        slices[2] = ((big + 7) / 8 * 8 * ((big + 1) / 2 + blocks) + big) * sizeof(int32_t);
        slices[3] = (size_t)plan->threads * KQ_PANEL_OUT * sizeof(float);
        in = panel_splits(n, plan->chunk) * wide * wide, out = panel_splits(m, plan->chunk) * tall * tall;
        slices[4] = (in > out ? in : out) * KQ_PANEL * KQ_PANEL * sizeof(float);
    }
    for (int i = 0; i < 5; i++)
        if (!round64(&slices[i]) || !kq_add_size(plan->bytes, slices[i], &plan->bytes))
            return false;
    plan->gf = slices[0];
    plan->t = slices[1];
    plan->mid16 = slices[2];
    plan->panel = slices[3];
    plan->acc = slices[4];
    return true;
}

void kq_product_init(kq_product *p, const kq_product_plan *plan, const uint16_t *g, void *block)
{
    char *slice = block;
    *p = (kq_product){.plan = *plan, .g = g};
    p->gf = (float *)slice;
    p->t = slice += plan->gf;
    p->mid16 = (uint16_t *)(slice += plan->t);
    p->panel = (float *)(slice += plan->mid16);
    p->acc = (float *)(slice + plan->panel);
}

/* A stack of count matrices [m, n]: element (s, i, j) at data[s * sample + i * row + j]. */
typedef struct stack { const void *data; size_t sample, row; } stack;

static const void *at(const kq_product *p, stack s, size_t sample, size_t i, size_t j)
{
    size_t o = sample * s.sample + i * s.row + j;
    return p->plan.compute == KQ_F32 ? (const void *)((const float *)s.data + o) : (const void *)((const uint16_t *)s.data + o);
}

static kq_status multiply(const kq_product *p, bool ta, bool tb, size_t m, size_t n, size_t k, const void *A, size_t lda, const void *B,
                          size_t ldb, bool accumulate, float *C, size_t ldc, kq_error *err)
{
    if (p->plan.compute == KQ_BF16)
        return kq_gemm_bf16(ta, tb, m, n, k, A, lda, B, ldb, accumulate, C, ldc, err);
    kq_gemm_f32(ta, tb, m, n, k, 1, A, lda, B, ldb, accumulate, C, ldc);
    return KQ_OK;
}

/* Stage 0 (f32): rows of the chunk's gradients to f32; side by side ([m, count n]) when the sums will run along n. */
static void widen(kq_product *p, bool adjoint, size_t first, size_t count)
{
    size_t m = p->plan.m, n = p->plan.n, strips = (m + 63) / 64;
    #pragma omp parallel for schedule(static) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t task = 0; task < count * strips; task++) {
        size_t s = task / strips, row = task % strips * 64, end = min_size(row + 64, m);
        const uint16_t *src = p->g + ((first + s) * m + row) * n;
        if (adjoint)
            kq_bf16_to_f32_n(src, p->gf + (s * m + row) * n, (end - row) * n);
        else
            for (; row < end; row++, src += n)
                kq_bf16_to_f32_n(src, p->gf + (row * count + s) * n, n);
    }
}

/* Stage 1: T_s = mid G_s (adjoint) or G_s mid^T. A triangular middle is cut into panels that end at its diagonal: K shrinks with them,
 * and in f32 the diagonal block itself is a triangular product. */
static kq_status middle(kq_product *p, bool adjoint, bool triangular, const void *mid, stack G, stack T, size_t count, kq_error *err)
{
    size_t m = p->plan.m, n = p->plan.n, dim = adjoint ? m : n, panels = (dim + PANEL - 1) / PANEL;
    bool f32 = p->plan.compute == KQ_F32;
    size_t each = f32 ? 4 : 2;
    kq_status status = KQ_OK;
    #pragma omp parallel for schedule(dynamic) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t task = 0; task < count * panels; task++) {
        size_t s = task % count, lo = (panels - 1 - task / count) * PANEL, hi = min_size(lo + PANEL, dim), w = hi - lo;
        size_t K = triangular ? hi : dim;
        const void *rows = (const char *)mid + lo * dim * each;
        void *dst = (void *)(uintptr_t)(adjoint ? at(p, T, s, lo, 0) : at(p, T, s, 0, lo));
        float *out = dst;
        size_t ld = T.row;
        kq_error e;
        kq_status st = KQ_OK;
        if (!f32) {
            out = p->panel + (size_t)omp_get_thread_num() * PANEL * (m > n ? m : n);
            ld = adjoint ? n : w;
        }
        if (f32 && triangular) {
            const float one = 1;
            const float *diagonal = (const float *)rows + lo;
            int W = (int)w, M = (int)m, N = (int)n, D = (int)dim, L = (int)ld;
            if (adjoint)
                for (size_t i = 0; i < w; i++)
                    memcpy(out + i * ld, at(p, G, s, lo + i, 0), n * sizeof *out);
            else
                for (size_t i = 0; i < m; i++)
                    memcpy(out + i * ld, at(p, G, s, i, lo), w * sizeof *out);
            /* The transposes, as Fortran sees them: out^T = G^T C^T, C^T upper; or out^T = C G^T, C = (C^T)^T. */
            if (adjoint)
                strmm_("R", "U", "N", "N", &N, &W, &one, diagonal, &D, out, &L, 1, 1, 1, 1);
            else
                strmm_("L", "U", "T", "N", &W, &M, &one, diagonal, &D, out, &L, 1, 1, 1, 1);
            K = lo;
        }
        bool add = f32 && triangular;
        if (K && adjoint)
            st = multiply(p, false, false, w, n, K, rows, dim, at(p, G, s, 0, 0), G.row, add, out, ld, &e);
        else if (K)
            st = multiply(p, false, true, m, w, K, at(p, G, s, 0, 0), G.row, rows, dim, add, out, ld, &e);
        if (!f32 && !st)
            for (size_t i = 0; i < (adjoint ? w : m); i++)
                kq_f32_to_bf16_n(out + i * ld, (uint16_t *)dst + i * T.row, adjoint ? n : w);
        if (st) {
            #pragma omp critical(kq_fisher_product)
            status = kq_fail(err, st, "%s", e.message);
        }
    }
    return status;
}

/* Stage 2: the lower tiles of sum_s T_s^T G_s (adjoint) or T_s G_s^T, added to the partial sums. */
static kq_status gather(kq_product *p, bool adjoint, stack T, stack G, size_t count, kq_error *err)
{
    size_t m = p->plan.m, n = p->plan.n, dim = adjoint ? n : m, inner = adjoint ? m : n;
    size_t size = tile_size(dim, p->plan.compute), tiles = (dim + size - 1) / size, off = tiles * (tiles - 1) / 2;
    size_t splits = split_count(dim, p->plan.chunk, p->plan.compute);
    bool same = T.data == G.data, f32 = p->plan.compute == KQ_F32;
    kq_status status = KQ_OK;
    #pragma omp parallel for schedule(dynamic) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t task = 0; task < (off + tiles) * splits; task++) {
        size_t tile = task / splits, split = task % splits, r, c;
        if (tile < off) { /* the full tiles first, the cheaper diagonal last */
            for (r = 1; tile >= r; r++)
                tile -= r;
            c = tile;
        } else
            r = c = tile - off;
        size_t s0 = count * split / splits, s1 = count * (split + 1) / splits;
        size_t r0 = r * size, h = min_size(size, dim - r0), c0 = c * size, w = min_size(size, dim - c0);
        float *C = p->acc + split * dim * dim + r0 * dim + c0;
        /* Samples that lie end to end along the inner dimension make one long product. */
        bool joined = T.sample == inner * (adjoint ? T.row : 1) && G.sample == inner * (adjoint ? G.row : 1);
        size_t step = joined ? s1 - s0 : 1;
        kq_error e;
        for (size_t s = s0; s < s1; s += step) {
            const void *A = adjoint ? at(p, T, s, 0, r0) : at(p, T, s, r0, 0), *B = adjoint ? at(p, G, s, 0, c0) : at(p, G, s, c0, 0);
            kq_status st = KQ_OK;
            if (f32 && same && r == c) {
                const float one = 1;
                int H = (int)h, K = (int)(step * inner), L = (int)T.row, D = (int)dim;
                ssyrk_("U", adjoint ? "N" : "T", &H, &K, &one, A, &L, &one, C, &D, 1, 1);
            } else
                st = multiply(p, adjoint, !adjoint, h, w, step * inner, A, T.row, B, G.row, true, C, dim, &e);
            if (st) {
                #pragma omp critical(kq_fisher_product)
                status = kq_fail(err, st, "%s", e.message);
            }
        }
    }
    return status;
}

/* out = (1/D) the sum of the partial sums, mirrored. */
static void finish(const kq_product *p, size_t splits, size_t ld, size_t dim, float *out)
{
    double inverse = 1.0 / (double)p->plan.D;
    #pragma omp parallel for schedule(dynamic, 16) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t i = 0; i < dim; i++)
        for (size_t j = 0; j <= i; j++) {
            double sum = 0;
            for (size_t s = 0; s < splits; s++)
                sum += p->acc[(s * ld + i) * ld + j];
            out[i * dim + j] = out[j * dim + i] = (float)(sum * inverse);
        }
}

/* All stages by panels (panel.h): the kernels cannot fail. */
static void apply_panels(kq_product *p, bool adjoint, bool triangular, const float *mid, float *out)
{
    const kq_product_plan *plan = &p->plan;
    size_t m = plan->m, n = plan->n, dim = adjoint ? n : m, K = adjoint ? m : n, panels = panel_count(dim), ld = panels * KQ_PANEL;
    size_t strips = (panels + STRIP - 1) / STRIP, tiles = strips * (strips + 1) / 2, splits = panel_splits(dim, plan->chunk);
    size_t off = tiles - strips, pairs = (K + 1) / 2, blocks = kq_panel_blocks(K), groups = (K + 7) / 8;
    int32_t *X = (int32_t *)p->gf, *packed = (int32_t *)p->mid16;
    float *scales = p->t, *rows = (float *)(packed + groups * pairs * 8), *balance = rows + groups * blocks * 8;

    memset(p->acc, 0, splits * ld * ld * sizeof *p->acc);
    if (triangular) {
        kq_panel_balance(mid, K, balance);
        #pragma omp parallel for schedule(dynamic) num_threads(plan->threads) if (plan->threads > 1)
        for (size_t r = 0; r < groups; r++)
            kq_panel_pack(mid, K, r * 8, balance, packed + r * pairs * 8, rows + r * blocks * 8);
    }
    for (size_t first = 0; first < plan->D; first += plan->chunk) {
        size_t count = min_size(plan->chunk, plan->D - first);
        #pragma omp parallel for schedule(dynamic) num_threads(plan->threads) if (plan->threads > 1)
        for (size_t task = 0; task < count * panels; task++) {
            float *scratch = p->panel + (size_t)omp_get_thread_num() * KQ_PANEL_OUT, *scale = scales + task * blocks * KQ_PANEL;
            int32_t *x = X + task * pairs * KQ_PANEL;
            kq_panel_load_vnni(p->g + (first + task / panels) * m * n, m, n, !adjoint, task % panels, triangular ? balance : NULL, x,
                               scale, scratch);
            if (triangular)
                kq_panel_middle_vnni(packed, rows, K, x, scale, scratch);
        }
        #pragma omp parallel for schedule(dynamic) num_threads(plan->threads) if (plan->threads > 1)
        for (size_t task = 0; task < tiles * splits; task++) {
            size_t tile = task / splits, split = task % splits, r, c;
            if (tile < off) { /* the full tiles first, the cheaper diagonal last */
                for (r = 1; tile >= r; r++)
                    tile -= r;
                c = tile;
            } else
                r = c = tile - off;
            r *= STRIP;
            c *= STRIP;
            for (size_t s = count * split / splits; s < count * (split + 1) / splits; s++)
                kq_panel_gather_vnni(X + s * panels * pairs * KQ_PANEL, scales + s * panels * blocks * KQ_PANEL, K, r,
                                     min_size(r + STRIP, panels), c, min_size(c + STRIP, panels), p->acc + split * ld * ld, ld);
        }
    }
    finish(p, splits, ld, dim, out);
}

kq_status kq_product_apply(kq_product *p, bool adjoint, kq_middle kind, const float *mid, float *out, kq_error *err)
{
    const kq_product_plan *plan = &p->plan;
    size_t m = plan->m, n = plan->n, D = plan->D, dim = adjoint ? n : m, other = adjoint ? m : n;
    size_t splits = split_count(dim, plan->chunk, plan->compute);
    const void *mid_any = mid;
    kq_status status = KQ_OK;

    double volume = (double)D * (double)m * (double)n;
    p->flop += volume * ((kind == KQ_MID_IDENTITY ? 0 : kind == KQ_MID_TRIANGULAR ? 1 : 2) * (double)other + (double)dim);
    if (plan->panels && kind == KQ_MID_SYMMETRIC)
        return kq_fail(err, KQ_E_ARG, "symmetric middles have no integer products");
    if (plan->panels) {
        apply_panels(p, adjoint, kind == KQ_MID_TRIANGULAR, mid, out);
        return KQ_OK;
    }
    memset(p->acc, 0, splits * dim * dim * sizeof *p->acc);
    if (plan->compute == KQ_BF16 && kind != KQ_MID_IDENTITY) {
        kq_f32_to_bf16_n(mid, p->mid16, other * other);
        mid_any = p->mid16;
    }
    for (size_t first = 0; first < D && !status; first += plan->chunk) {
        size_t count = min_size(plan->chunk, D - first);
        stack side = {p->gf, adjoint ? m * n : n, adjoint ? n : count * n}, G = side, T = side;
        if (plan->compute == KQ_F32)
            widen(p, adjoint, first, count);
        else
            G = (stack){p->g + first * m * n, m * n, n};
        T.data = p->t;
        if (kind == KQ_MID_IDENTITY)
            T = G;
        else
            status = middle(p, adjoint, kind == KQ_MID_TRIANGULAR, mid_any, G, T, count, err);
        if (!status)
            status = gather(p, adjoint, T, kind == KQ_MID_SYMMETRIC ? G : T, count, err);
    }
    if (status)
        return status;

    finish(p, splits, dim, dim, out);
    return KQ_OK;
}
