/* Time the estimation of the factors: of one block of SmolLM2-135M (seven linears, D samples of random bf16
 * gradients), or of one shape. The rate is printed beside that of plain matrix products, which the same
 * threads compute in the same run.
 *     bench_fisher [--threads N] [--samples D] [--rounds N] [--max-iter N]
 *                  [--method flipflop|fastkron|yaqa-b] [--compute f32|bf16] [--tries N]
 *                  [--shape MxN [--tokens T]]
 * flipflop in f32 runs twice, with block integers and exactly (kq_factor_options.exact). On a machine without
 * kernels for block integers both runs are exact. With --tokens the samples are g_i^T x_i of T tokens; they
 * run whole and factored, and the two results are compared. GFLOP counts useful arithmetic: a triangular
 * matrix in the middle and a symmetric result count half. Rates are of one core and by processor time, so
 * that they hold on a machine that others use too. */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/time.h"
#include "fisher/fisher.h"

/* Each thread multiplies its own 1152 x 1152 x 1152 matrices; the best of several tries, GFLOP/s a core. */
static double peak(kq_compute compute, int threads)
{
    const size_t N = 1152;
    double best = 0;
    float *M = kq_calloc((size_t)threads * 3 * N * N, sizeof *M);
    if (!M)
        return 0;
    for (int try = 0; try < 5; try++) {
        double t = kq_cpu_s();
#pragma omp parallel num_threads(threads)
        {
            float *A = M + (size_t)omp_get_thread_num() * 3 * N * N;
            for (int i = 0; i < 2; i++)
                if (compute == KQ_F32)
                    kq_gemm_f32(false, false, N, N, N, 1, A, N, A + N * N, N, 0, A + 2 * N * N, N);
                else
                    kq_gemm_bf16(false, false, N, N, N, (uint16_t *)A, N, (uint16_t *)(A + N * N), N, false,
                                 A + 2 * N * N, N, NULL);
        }
        double rate = 4e-9 * threads * (double)N * N * N / (kq_cpu_s() - t);
        best = rate > best ? rate : best;
    }
    kq_free(M);
    return best;
}

/* Fill g with nearly normal numbers. Each is the sum of four uniform ones of 16 bits, which is fast. */
static void fill(uint16_t *g, size_t n, float scale)
{
    kq_rng rng = kq_rng_stream(n, "bench");
    for (size_t i = 0; i < n; i++) {
        uint64_t u = kq_rng_u64(&rng);
        float x = (float)((int)(u & 65535) + (int)(u >> 16 & 65535) + (int)(u >> 32 & 65535) +
                          (int)(u >> 48) - 131072);
        g[i] = kq_f32_to_bf16(x * 2.6e-5f * scale);
    }
}

/* Multiply the factored samples out: G_i = g_i^T x_i, rounded to bf16. */
static bool multiply_out(const uint16_t *tokens, size_t D, size_t m, size_t n, size_t T, uint16_t *g)
{
    float *f = kq_alloc(T * (m + n) + m * n, sizeof *f), *G = f + T * (m + n);
    for (size_t i = 0; i < D && f; i++) {
        kq_bf16_to_f32_n(tokens + i * T * (m + n), f, T * (m + n));
        kq_gemm_f32(true, false, m, n, T, 1, f, m, f + T * m, n, 0, G, n);
        kq_f32_to_bf16_n(G, g + i * m * n, m * n);
    }
    kq_free(f);
    return f != NULL;
}

static double apart(const float *a, const float *b, size_t n)
{
    double d = 0, s = 0;
    for (size_t i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        s += (double)b[i] * b[i];
    }
    return sqrt(d / s);
}

int main(int argc, char **argv)
{
    typedef struct shape {
        size_t m, n;
        int count;
    } shape;
    static const shape block[] = {{1536, 576, 2}, {576, 1536, 1}, {576, 576, 2}, {192, 576, 2}};
    shape one = {.count = 1};
    kq_factor_options opt = kq_factor_defaults();
    size_t D = 96, T = 0;
    int tries = 3;
    opt.threads = omp_get_max_threads();
    kq_error err = {0};
    for (int i = 1; i < argc; i += 2) {
        const char *v = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--threads"))
            opt.threads = atoi(v);
        else if (!strcmp(argv[i], "--samples"))
            D = (size_t)atoi(v);
        else if (!strcmp(argv[i], "--tokens"))
            T = (size_t)atoi(v);
        else if (!strcmp(argv[i], "--tries"))
            tries = atoi(v);
        else if (!strcmp(argv[i], "--rounds"))
            opt.rounds = atoi(v);
        else if (!strcmp(argv[i], "--max-iter"))
            opt.max_iter = atoi(v);
        else if (!strcmp(argv[i], "--method") && !kq_method_parse(v, &opt.method, &err))
            ;
        else if (!strcmp(argv[i], "--compute"))
            opt.compute = strcmp(v, "bf16") ? KQ_F32 : KQ_BF16;
        else if (strcmp(argv[i], "--shape") || sscanf(v, "%zux%zu", &one.m, &one.n) != 2) {
            fprintf(stderr, "unknown option %s %s\n", argv[i], v);
            return 2;
        }
    }
    kq_isa isa = KQ_ISA_REF;
    if (kq_isa_pick(NULL, &isa, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    kq_kern_init(isa);

    const shape *shapes = one.m ? &one : block;
    const size_t n_shapes = one.m ? 1 : sizeof block / sizeof *block;
    size_t most = 0, widest = 0, tokens = 0;
    for (size_t i = 0; i < n_shapes; i++) {
        const size_t m = shapes[i].m, n = shapes[i].n;
        most = m * n > most ? m * n : most;
        widest = m > widest ? m : widest;
        widest = n > widest ? n : widest;
        tokens = T * (m + n) > tokens ? T * (m + n) : tokens;
    }
    uint16_t *g = kq_alloc(D * most, sizeof *g), *gx = T ? kq_alloc(D * tokens, sizeof *gx) : NULL;
    float *H[2][2];
    for (int i = 0; i < 4; i++)
        if (!(H[i / 2][i % 2] = kq_calloc(widest * widest, sizeof(float))))
            return 1;
    if (!g || (T && !gx))
        return 1;
    fill(g, D * most, 1);
    if (T)
        fill(gx, D * tokens, 1);

    /* The ways take turns, so that the machine's load is the same for all of them. */
    enum { INTEGER, EXACT, FACTORED, WAYS };
    static const char *const names[] = {"whole, integer", "whole", "factored"};
    const bool both = opt.method == KQ_FLIPFLOP && opt.compute == KQ_F32, run[WAYS] = {both, true, T > 0};
    double seconds[WAYS] = {0}, cpu[WAYS] = {0}, flop[WAYS] = {0}, peak_all = 0;
    const char *type = opt.compute == KQ_BF16 ? "bf16" : "f32";
    printf("%s, %s, %d threads, isa %s, D = %zu, rounds %d, at most %d steps\n", kq_method_name(opt.method),
           type, opt.threads, kq_isa_name(isa), D, opt.rounds, opt.max_iter);
    for (size_t i = 0; i < n_shapes; i++) {
        const size_t m = shapes[i].m, n = shapes[i].n;
        kq_factor_report report = {0}, best[WAYS] = {{0}};
        double used[WAYS] = {0};
        double rate_peak = peak(opt.compute, opt.threads);
        if (T && !multiply_out(gx, D, m, n, T, g))
            return 1;
        for (int try = 0; try < tries; try++)
            for (int way = 0; way < WAYS; way++) {
                if (!run[way])
                    continue;
                const kq_gradients G = {
                    .D = D, .m = m, .n = n, .T = way == FACTORED ? T : 0, .g = way == FACTORED ? gx : g};
                opt.exact = way == EXACT;
                double start = kq_cpu_s();
                if (kq_factors(&G, &opt, H[way == FACTORED][0], H[way == FACTORED][1], &report, NULL, NULL,
                               &err)) {
                    fprintf(stderr, "%s\n", err.message);
                    return 1;
                }
                start = kq_cpu_s() - start;
                if (!try || report.seconds < best[way].seconds)
                    best[way] = report;
                used[way] = !try || start < used[way] ? start : used[way];
                double again = peak(opt.compute, opt.threads);
                rate_peak = again > rate_peak ? again : rate_peak;
            }
        for (int way = 0; way < WAYS; way++) {
            if (!run[way])
                continue;
            const kq_gradients G = {.D = D, .m = m, .n = n, .T = way == FACTORED ? T : 0, .g = g};
            double rate = 1e-9 * best[way].flop / used[way];
            opt.exact = way == EXACT;
            printf("%4zu x %4zu (x%d) %-14s: %7.3f s, %2d products, %7.1f GFLOP, %6.1f GFLOP/s, %s gemm "
                   "%6.1f: %3.0f%%, scratch %4.0f MB, samples %5.0f MB",
                   m, n, shapes[i].count, names[way], best[way].seconds, best[way].products,
                   1e-9 * best[way].flop, rate, type, rate_peak, 100 * rate / rate_peak,
                   1e-6 * (double)kq_factors_bytes(&G, &opt), 2e-6 * (double)(D * kq_sample_size(m, n, G.T)));
            printf(opt.method == KQ_FLIPFLOP ? "\n" : ", residual %.1e\n", best[way].residual);
            seconds[way] += shapes[i].count * best[way].seconds;
            cpu[way] += shapes[i].count * used[way];
            flop[way] += shapes[i].count * best[way].flop;
        }
        if (T)
            printf("    factored pays by the rule: %s; H_in apart by %.1e, H_out by %.1e\n",
                   kq_factored_pays(m, n, T, &opt) ? "yes" : "no", apart(H[1][0], H[0][0], n * n),
                   apart(H[1][1], H[0][1], m * m));
        fflush(stdout);
        peak_all = rate_peak > peak_all ? rate_peak : peak_all;
    }
    for (int way = 0; way < WAYS && n_shapes > 1; way++)
        if (run[way])
            printf("one block, %s: %.2f s, %.1f GFLOP/s, %.0f%% of %s gemm's %.1f; 30 blocks: %.0f s\n",
                   names[way], seconds[way], 1e-9 * flop[way] / cpu[way],
                   100e-9 * flop[way] / cpu[way] / peak_all, type, peak_all, 30 * seconds[way]);
    kq_free(g);
    kq_free(gx);
    for (int i = 0; i < 4; i++)
        kq_free(H[i / 2][i % 2]);
    return 0;
}
