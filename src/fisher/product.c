#include "fisher/product.h"

#include <omp.h>
#include <string.h>

#include "base/f16.h"
#include "base/first_error.h"
#include "base/mem.h"
#include "fisher/panel.h"
#include "kern/lapack.h"

/* Tiles. A task is one panel of one sample (stage 1) or one tile of the result over a fixed group of
 * samples (stage 2); neither depends on the number of threads, so neither do the bits. */
enum {
    CHUNK_BYTES = 96 << 20, /* a chunk's scratch aims at this, whatever D is */
    PANEL = 192,            /* rows (columns) of C or Y a stage-1 task takes */
    /* largest tile of the result; bf16 has no syrk for the diagonal, so its tiles are smaller */
    TILE_F32 = 384,
    TILE_BF16 = 256,
    /* panels a tile of the result spans: 288 columns, whose blocks and sums stay in a second-level cache */
    STRIP = 6,
    /* stage-2 tasks wanted a chunk: few tiles are cut further along the samples */
    TASKS = 24,
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

bool kq_product_size(kq_product_plan *plan, const kq_gradients *G, kq_compute compute, bool exact,
                     int threads, size_t chunk_bytes, bool pieces)
{
    const size_t m = G->m, n = G->n, D = G->D, T = G->T, width = compute == KQ_F32 ? 4 : 2;
    size_t big = m > n ? m : n, mn, big2, tokens = 0, gram = 0, each, slices[6] = {0};
    if (!kq_mul_size(m, n, &mn) || !kq_mul_size(big, big, &big2) || !kq_mul_size(mn, 8, &each) ||
        big2 > SIZE_MAX / 64)
        return false;
    if (T && (!kq_mul_size(T, m + n, &tokens) || !kq_mul_size(T, T, &gram) || tokens > SIZE_MAX / 64 ||
              gram > SIZE_MAX / 64))
        return false;
    *plan = (kq_product_plan){.D = D,
                              .m = m,
                              .n = n,
                              .T = T,
                              .compute = compute,
                              .pieces = pieces,
                              .threads = threads > 1 ? threads : 1};
    plan->panels = compute == KQ_F32 && !exact && !T && kq_panel_available();
    plan->sample = T ? tokens : mn;
    /* f32: gradients and T_i; bf16: T_i, the rounded middle, and a panel a thread. */
    if (compute == KQ_BF16)
        each = mn * 2;
    if (T)
        each = ((compute == KQ_F32 || pieces ? tokens : 0) + T * big + gram) * width;
    size_t most = (chunk_bytes ? chunk_bytes : CHUNK_BYTES) / each;
    most = min_size(most ? most : 1, D);
    size_t chunks = (D + most - 1) / most;
    plan->chunk = (D + chunks - 1) / chunks;
    if (!kq_mul_size(plan->chunk, plan->sample * width, &slices[0]) ||
        !kq_mul_size(plan->chunk, (T ? T * big : mn) * width, &slices[1]) ||
        !kq_mul_size(plan->chunk, gram * width, &slices[5]))
        return false;
    if (compute == KQ_BF16) {
        if (!pieces)
            slices[0] = 0;
        slices[2] = big2 * 2;
        slices[3] = (size_t)plan->threads * PANEL * (T > big ? T : big) * 4;
    }
    size_t in = split_count(n, plan->chunk, compute) * n * n,
           out = split_count(m, plan->chunk, compute) * m * m;
    slices[4] = (in > out ? in : out) * 4;
    if (plan->panels) {
        size_t wide = panel_count(n), tall = panel_count(m), blocks = kq_panel_blocks(big), pairs, scales;
        pairs = (m + 1) / 2 * wide > (n + 1) / 2 * tall ? (m + 1) / 2 * wide : (n + 1) / 2 * tall;
        scales = kq_panel_blocks(m) * wide > kq_panel_blocks(n) * tall ? kq_panel_blocks(m) * wide
                                                                       : kq_panel_blocks(n) * tall;
        if (!kq_mul_size(plan->chunk, pairs * KQ_PANEL * sizeof(int32_t), &slices[0]))
            return false;
        slices[1] = plan->chunk * scales * KQ_PANEL * sizeof(float);
        slices[2] = ((big + 7) / 8 * 8 * ((big + 1) / 2 + blocks) + big) * sizeof(int32_t);
        slices[3] = (size_t)plan->threads * KQ_PANEL_OUT * sizeof(float);
        in = panel_splits(n, plan->chunk) * wide * wide, out = panel_splits(m, plan->chunk) * tall * tall;
        slices[4] = (in > out ? in : out) * KQ_PANEL * KQ_PANEL * sizeof(float);
    }
    for (int i = 0; i < 6; i++)
        if (!round64(&slices[i]) || !kq_add_size(plan->bytes, slices[i], &plan->bytes))
            return false;
    plan->gf = slices[0];
    plan->t = slices[1];
    plan->mid16 = slices[2];
    plan->panel = slices[3];
    plan->acc = slices[4];
    plan->gram = slices[5];
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

/* A stack of count matrices [m, n]: element (s, i, j) at data[s * sample + i * row + j]. */
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

static kq_status multiply(const kq_product *p, bool ta, bool tb, size_t m, size_t n, size_t k, const void *A,
                          size_t lda, const void *B, size_t ldb, bool accumulate, float *C, size_t ldc,
                          kq_error *err)
{
    if (p->plan.compute == KQ_BF16)
        return kq_gemm_bf16(ta, tb, m, n, k, A, lda, B, ldb, accumulate, C, ldc, err);
    kq_gemm_f32(ta, tb, m, n, k, 1, A, lda, B, ldb, accumulate, C, ldc);
    return KQ_OK;
}

/* Samples of the chunk that the next one belongs to. */
static size_t chunk_count(const kq_product *p)
{
    return min_size(p->plan.chunk, p->samples - p->done);
}

/* Stage 0 (f32), factored: every g_i of the chunk on top of the other, then every x_i. */
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

/* Stage 0 (f32): rows of the chunk's next `count` gradients to f32; side by side ([m, all n]) when the
 * sums will run along n. */
static void widen(kq_product *p, const uint16_t *g, size_t count)
{
    size_t m = p->plan.m, n = p->plan.n, strips = (m + 63) / 64, all = chunk_count(p);
#pragma omp parallel for schedule(static) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t task = 0; task < count * strips; task++) {
        size_t s = task / strips, row = task % strips * 64, end = min_size(row + 64, m);
        const uint16_t *src = g + (s * m + row) * n;
        s += p->held;
        if (p->adjoint)
            kq_bf16_to_f32_n(src, p->gf + (s * m + row) * n, (end - row) * n);
        else
            for (; row < end; row++, src += n)
                kq_bf16_to_f32_n(src, p->gf + (row * all + s) * n, n);
    }
}

/* bf16: this thread's f32 result before it is rounded. */
static float *panel_scratch(const kq_product *p)
{
    return p->panel +
           (size_t)omp_get_thread_num() * (p->plan.panel / sizeof(float) / (size_t)p->plan.threads / 16 * 16);
}

/* Stage 1: T_s = mid G_s (left) or G_s mid^T, for G_s [m, n]. A triangular middle is cut into panels
 * that end at its diagonal: K shrinks with them, and in f32 the diagonal block itself is a triangular
 * product. */
static kq_status middle(kq_product *p, bool left, size_t m, size_t n, stack G, stack T, size_t count,
                        kq_error *err)
{
    size_t dim = left ? m : n, panels = (dim + PANEL - 1) / PANEL;
    bool f32 = p->plan.compute == KQ_F32, triangular = p->kind == KQ_MID_TRIANGULAR;
    const void *mid = f32 ? (const void *)p->mid : p->mid16;
    size_t each = f32 ? 4 : 2;
    kq_first_error first = KQ_FIRST_ERROR;
#pragma omp parallel for schedule(dynamic) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t task = 0; task < count * panels; task++) {
        size_t s = task % count, lo = (panels - 1 - task / count) * PANEL, hi = min_size(lo + PANEL, dim),
               w = hi - lo;
        size_t K = triangular ? hi : dim;
        const void *rows = (const char *)mid + lo * dim * each;
        void *dst = (void *)(uintptr_t)(left ? at(p, T, s, lo, 0) : at(p, T, s, 0, lo));
        float *out = dst;
        size_t ld = T.row;
        kq_error e;
        kq_status st = KQ_OK;
        if (!f32) {
            out = panel_scratch(p);
            ld = left ? n : w;
        }
        if (f32 && triangular) {
            const float one = 1;
            const float *diagonal = (const float *)rows + lo;
            int W = (int)w, M = (int)m, N = (int)n, D = (int)dim, L = (int)ld;
            if (left)
                for (size_t i = 0; i < w; i++)
                    memcpy(out + i * ld, at(p, G, s, lo + i, 0), n * sizeof *out);
            else
                for (size_t i = 0; i < m; i++)
                    memcpy(out + i * ld, at(p, G, s, i, lo), w * sizeof *out);
            /* The transposes, as Fortran sees them: out^T = G^T C^T, C^T upper; or out^T = C G^T, C =
             * (C^T)^T. */
            if (left)
                strmm_("R", "U", "N", "N", &N, &W, &one, diagonal, &D, out, &L, 1, 1, 1, 1);
            else
                strmm_("L", "U", "T", "N", &W, &M, &one, diagonal, &D, out, &L, 1, 1, 1, 1);
            K = lo;
        }
        bool add = f32 && triangular;
        if (K && left)
            st = multiply(p, false, false, w, n, K, rows, dim, at(p, G, s, 0, 0), G.row, add, out, ld, &e);
        else if (K)
            st = multiply(p, false, true, m, w, K, at(p, G, s, 0, 0), G.row, rows, dim, add, out, ld, &e);
        if (!f32 && !st)
            for (size_t i = 0; i < (left ? w : m); i++)
                kq_f32_to_bf16_n(out + i * ld, (uint16_t *)dst + i * T.row, left ? n : w);
        kq_first_error_note(&first, task, st, &e);
    }
    return kq_first_error_get(&first, err);
}

/* Stage 2: the lower tiles of sum_s T_s^T G_s (adjoint) or T_s G_s^T, for G_s [m, n], added to the
 * partial sums. */
static kq_status gather(kq_product *p, bool adjoint, size_t m, size_t n, stack T, stack G, size_t count,
                        kq_error *err)
{
    size_t dim = adjoint ? n : m, inner = adjoint ? m : n;
    size_t size = tile_size(dim, p->plan.compute), tiles = (dim + size - 1) / size,
           off = tiles * (tiles - 1) / 2;
    size_t splits = split_count(dim, p->plan.chunk, p->plan.compute);
    bool same = T.data == G.data, f32 = p->plan.compute == KQ_F32;
    kq_first_error first = KQ_FIRST_ERROR;
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
            const void *A = adjoint ? at(p, T, s, 0, r0) : at(p, T, s, r0, 0),
                       *B = adjoint ? at(p, G, s, 0, c0) : at(p, G, s, c0, 0);
            kq_status st = KQ_OK;
            if (f32 && same && r == c) {
                const float one = 1;
                int H = (int)h, K = (int)(step * inner), L = (int)T.row, D = (int)dim;
                ssyrk_("U", adjoint ? "N" : "T", &H, &K, &one, A, &L, &one, C, &D, 1, 1);
            } else
                st = multiply(p, adjoint, !adjoint, h, w, step * inner, A, T.row, B, G.row, true, C, dim, &e);
            kq_first_error_note(&first, task, st, &e);
        }
    }
    return kq_first_error_get(&first, err);
}

/* Factored: S_s = Q_s P_s^T [T, T] for Q_s, P_s [T, K], symmetric: lower tiles, mirrored. */
static kq_status grams(kq_product *p, stack Q, stack P, size_t K, size_t count, kq_error *err)
{
    const size_t T = p->plan.T, tiles = (T + PANEL - 1) / PANEL, each = tiles * (tiles + 1) / 2;
    const bool f32 = p->plan.compute == KQ_F32;
    kq_first_error first = KQ_FIRST_ERROR;
#pragma omp parallel for schedule(dynamic) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t task = 0; task < count * each; task++) {
        size_t s = task / each, c = task % each, r;
        for (r = 0; c > r; c -= ++r)
            ;
        r *= PANEL, c *= PANEL;
        const size_t h = min_size(PANEL, T - r), w = min_size(PANEL, T - c), o = s * T * T;
        float *S = f32 ? (float *)p->gram + o + r * T + c : panel_scratch(p);
        const size_t ld = f32 ? T : w;
        kq_error e;
        kq_status st = multiply(p, false, true, h, w, K, at(p, Q, s, r, 0), Q.row, at(p, P, s, c, 0), P.row,
                                false, S, ld, &e);
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

/* Factored: B_s = S_s A_s [T, dim]. */
static kq_status spread(kq_product *p, stack A, stack B, size_t dim, size_t count, kq_error *err)
{
    const size_t T = p->plan.T, panels = (T + PANEL - 1) / PANEL;
    const bool f32 = p->plan.compute == KQ_F32;
    const stack S = {p->gram, T * T, T};
    kq_first_error first = KQ_FIRST_ERROR;
#pragma omp parallel for schedule(dynamic) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t task = 0; task < count * panels; task++) {
        const size_t s = task / panels, r = task % panels * PANEL, h = min_size(PANEL, T - r);
        void *dst = (void *)(uintptr_t)at(p, B, s, r, 0);
        float *out = f32 ? dst : panel_scratch(p);
        kq_error e;
        kq_status st = multiply(p, false, false, h, dim, T, at(p, S, s, r, 0), T, at(p, A, s, 0, 0), A.row,
                                false, out, dim, &e);
        if (!f32 && !st)
            kq_f32_to_bf16_n(out, dst, h * dim);
        kq_first_error_note(&first, task, st, &e);
    }
    return kq_first_error_get(&first, err);
}

/* A whole chunk of factored samples, at g (bf16) or in p->gf. */
static kq_status finish_factored(kq_product *p, const uint16_t *g, size_t count, kq_error *err)
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
        status = middle(p, false, T, K, P, Q, count, err);
    if (!status)
        status =
            grams(p, p->kind == KQ_MID_IDENTITY ? P : Q, p->kind == KQ_MID_TRIANGULAR ? Q : P, K, count, err);
    if (!status)
        status = spread(p, A, B, dim, count, err);
    return status ? status : gather(p, true, T, dim, B, A, count, err);
}

/* out = (1/D) the sum of the partial sums, mirrored. */
static void finish(const kq_product *p, size_t splits, size_t ld, size_t dim, float *out)
{
    double inverse = 1.0 / (double)p->samples;
#pragma omp parallel for schedule(dynamic, 16) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t i = 0; i < dim; i++)
        for (size_t j = 0; j <= i; j++) {
            double sum = 0;
            for (size_t s = 0; s < splits; s++)
                sum += p->acc[(s * ld + i) * ld + j];
            out[i * dim + j] = out[j * dim + i] = (float)(sum * inverse);
        }
}

/* By panels (panel.h; the kernels cannot fail). Sizes of one product. */
typedef struct panel_sizes {
    size_t dim, K, panels, ld, pairs, blocks, groups, splits;
} panel_sizes;

static panel_sizes sizes_of(const kq_product *p)
{
    const kq_product_plan *plan = &p->plan;
    size_t dim = p->adjoint ? plan->n : plan->m, K = p->adjoint ? plan->m : plan->n,
           panels = panel_count(dim);
    return (panel_sizes){dim,         K,
                         panels,      panels * KQ_PANEL,
                         (K + 1) / 2, kq_panel_blocks(K),
                         (K + 7) / 8, panel_splits(dim, plan->chunk)};
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

static void begin_panels(kq_product *p)
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

static void take_panels(kq_product *p, const uint16_t *g, size_t count)
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

static void gather_panels(kq_product *p, size_t count)
{
    const panel_sizes z = sizes_of(p);
    const size_t strips = (z.panels + STRIP - 1) / STRIP, tiles = strips * (strips + 1) / 2,
                 off = tiles - strips;
    const int32_t *X = (const int32_t *)p->gf;
    const float *scales = p->t;
#pragma omp parallel for schedule(dynamic) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t task = 0; task < tiles * z.splits; task++) {
        size_t tile = task / z.splits, split = task % z.splits, r, c;
        if (tile < off) { /* the full tiles first, the cheaper diagonal last */
            for (r = 1; tile >= r; r++)
                tile -= r;
            c = tile;
        } else
            r = c = tile - off;
        r *= STRIP;
        c *= STRIP;
        for (size_t s = count * split / z.splits; s < count * (split + 1) / z.splits; s++)
            kq_panel_gather_vnni(X + s * z.panels * z.pairs * KQ_PANEL,
                                 scales + s * z.panels * z.blocks * KQ_PANEL, z.K, r,
                                 min_size(r + STRIP, z.panels), c, min_size(c + STRIP, z.panels),
                                 p->acc + split * z.ld * z.ld, z.ld);
    }
}

/* A whole chunk, at g (bf16) or in p->gf. */
static kq_status finish_chunk(kq_product *p, const uint16_t *g, size_t count, kq_error *err)
{
    if (p->plan.panels) {
        gather_panels(p, count);
        return KQ_OK;
    }
    if (p->plan.T)
        return finish_factored(p, g, count, err);
    size_t m = p->plan.m, n = p->plan.n;
    stack side = {p->gf, p->adjoint ? m * n : n, p->adjoint ? n : count * n}, G = side, T = side;
    if (p->plan.compute == KQ_BF16)
        G = (stack){g, m * n, n};
    T.data = p->t;
    kq_status status = KQ_OK;
    if (p->kind == KQ_MID_IDENTITY)
        T = G;
    else
        status = middle(p, p->adjoint, m, n, G, T, count, err);
    return status ? status : gather(p, p->adjoint, m, n, T, p->kind == KQ_MID_SYMMETRIC ? G : T, count, err);
}

double kq_product_flop(const kq_product_plan *plan, bool adjoint, kq_middle kind, size_t samples)
{
    const double dim = (double)(adjoint ? plan->n : plan->m), other = (double)(adjoint ? plan->m : plan->n);
    const double D = (double)samples, T = (double)plan->T;
    const double work = (kind == KQ_MID_IDENTITY ? 0 : kind == KQ_MID_TRIANGULAR ? 1 : 2) * other;
    return plan->T ? D * T * (work * other + T * (other + 2 * dim) + dim * dim)
                   : D * dim * other * (work + dim);
}

kq_status kq_product_begin(kq_product *p, bool adjoint, kq_middle kind, const float *mid, size_t samples,
                           kq_error *err)
{
    const kq_product_plan *plan = &p->plan;
    const size_t dim = adjoint ? plan->n : plan->m, other = adjoint ? plan->m : plan->n;
    if (plan->panels && kind == KQ_MID_SYMMETRIC)
        return kq_fail(err, KQ_E_ARG, "symmetric middles have no integer products");
    p->adjoint = adjoint;
    p->kind = kind;
    p->mid = mid;
    p->done = p->held = 0;
    p->samples = samples;
    p->flop += kq_product_flop(plan, adjoint, kind, samples);
    if (plan->panels) {
        begin_panels(p);
        return KQ_OK;
    }
    memset(p->acc, 0, split_count(dim, plan->chunk, plan->compute) * dim * dim * sizeof *p->acc);
    if (plan->compute == KQ_BF16 && kind != KQ_MID_IDENTITY)
        kq_f32_to_bf16_n(mid, p->mid16, other * other);
    return KQ_OK;
}

kq_status kq_product_add(kq_product *p, const uint16_t *g, size_t count, kq_error *err)
{
    const size_t each = p->plan.sample;
    if (count > p->samples - p->done - p->held)
        return kq_fail(err, KQ_E_ARG, "a product of %zu samples is given %zu after %zu", p->samples, count,
                       p->done + p->held);
    while (count) {
        const size_t all = chunk_count(p), take = min_size(count, all - p->held);
        const uint16_t *whole = g;
        if (p->plan.panels)
            take_panels(p, g, take);
        else if (p->plan.compute == KQ_F32)
            (p->plan.T ? widen_factored : widen)(p, g, take);
        else if (take < all) {
            if (!p->plan.pieces)
                return kq_fail(err, KQ_E_ARG, "a product that takes chunks of %zu samples is given %zu", all,
                               take);
            memcpy((uint16_t *)p->gf + p->held * each, g, take * each * sizeof *g);
            whole = (const uint16_t *)p->gf;
        }
        p->held += take;
        g += take * each;
        count -= take;
        if (p->held < all)
            continue;
        kq_status status = finish_chunk(p, whole, all, err);
        if (status)
            return status;
        p->done += all;
        p->held = 0;
    }
    return KQ_OK;
}

kq_status kq_product_end(kq_product *p, float *out, kq_error *err)
{
    const size_t dim = p->adjoint ? p->plan.n : p->plan.m;
    if (p->done != p->samples)
        return kq_fail(err, KQ_E_ARG, "a product of %zu samples ends after %zu", p->samples,
                       p->done + p->held);
    if (p->plan.panels)
        finish(p, panel_splits(dim, p->plan.chunk), panel_count(dim) * KQ_PANEL, dim, out);
    else
        finish(p, split_count(dim, p->plan.chunk, p->plan.compute), dim, dim, out);
    return KQ_OK;
}
