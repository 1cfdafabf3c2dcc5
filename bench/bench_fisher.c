/* Time the factor step of one block of SmolLM2-135M (seven linears, D samples of random bf16 gradients) against the sgemm rate that the
 * same threads reach in the same run.
 *     bench_fisher [--threads N] [--samples D] [--rounds N] [--method flipflop|fastkron] [--compute f32|bf16] [--tries N]
 * flipflop in f32 runs both ways (kq_factor_options.exact); where block integers do not exist both are exact.
 * GFLOP/s counts useful arithmetic: a triangular middle and a symmetric result at half price. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/time.h"
#include "fisher/fisher.h"

/* Each thread multiplies its own 1152 x 1152 x 1152 matrices; the best of several tries. */
static double sgemm_peak(int threads)
{
    const size_t N = 1152;
    double best = 0;
    float *M = kq_calloc((size_t)threads * 3 * N * N, sizeof *M);
    if (!M)
        return 0;
    for (int try = 0; try < 5; try++) {
        double t = kq_now_s();
        #pragma omp parallel num_threads(threads)
        {
            float *A = M + (size_t)omp_get_thread_num() * 3 * N * N;
            for (int i = 0; i < 2; i++)
                kq_gemm_f32(false, false, N, N, N, 1, A, N, A + N * N, N, 0, A + 2 * N * N, N);
        }
        double rate = 4e-9 * threads * (double)N * N * N / (kq_now_s() - t);
        best = rate > best ? rate : best;
    }
    kq_free(M);
    return best;
}

int main(int argc, char **argv)
{
    static const struct { size_t m, n; int count; } shapes[] = {{1536, 576, 2}, {576, 1536, 1}, {576, 576, 2}, {192, 576, 2}};
    kq_factor_options opt = kq_factor_defaults();
    size_t D = 96;
    int tries = 3;
    opt.threads = omp_get_max_threads();
    kq_error err = {0};
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--threads"))
            opt.threads = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--samples"))
            D = (size_t)atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--tries"))
            tries = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--rounds"))
            opt.rounds = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--method") && !kq_method_parse(argv[i + 1], &opt.method, &err))
            ;
        else if (!strcmp(argv[i], "--compute"))
            opt.compute = strcmp(argv[i + 1], "bf16") ? KQ_F32 : KQ_BF16;
        else {
            fprintf(stderr, "unknown option %s %s\n", argv[i], argv[i + 1]);
            return 2;
        }
    }
    kq_isa isa = KQ_ISA_REF;
    if (kq_isa_pick(NULL, &isa, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    kq_kern_init(isa);

    const size_t most = 1536 * 576, square = 1536 * 1536;
    uint16_t *g = kq_alloc(D * most, sizeof *g);
    float *H_in = kq_calloc(square, sizeof *H_in), *H_out = kq_calloc(square, sizeof *H_out);
    if (!g || !H_in || !H_out)
        return 1;
    kq_rng rng = kq_rng_stream(1, "bench");
    for (size_t i = 0; i < D * most; i++) { /* four uniforms of 16 bits: near normal, fast */
        uint64_t u = kq_rng_u64(&rng);
        float x = (float)((int)(u & 65535) + (int)(u >> 16 & 65535) + (int)(u >> 32 & 65535) + (int)(u >> 48) - 131072);
        g[i] = kq_f32_to_bf16(x * 2.6e-5f);
    }

    /* Two ways in alternation: the machine's load is then the same for both. */
    const bool both = opt.method == KQ_FLIPFLOP && opt.compute == KQ_F32;
    double seconds[2] = {0}, flop = 0, peak_all = 0;
    printf("%s, %s, %d threads, isa %s, D = %zu, rounds %d\n", kq_method_name(opt.method), opt.compute == KQ_BF16 ? "bf16" : "f32", opt.threads,
           kq_isa_name(isa), D, opt.rounds);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        kq_gradients G = {.D = D, .m = shapes[i].m, .n = shapes[i].n, .g = g};
        kq_factor_report report = {0}, best[2] = {{0}};
        double peak = sgemm_peak(opt.threads);
        for (int try = 0; try < tries; try++)
            for (int way = 0; way <= both; way++) {
                opt.exact = way == both;
                if (kq_factors(&G, &opt, H_in, H_out, &report, NULL, NULL, &err)) {
                    fprintf(stderr, "%s\n", err.message);
                    return 1;
                }
                if (!try || report.seconds < best[way].seconds)
                    best[way] = report;
                double again = sgemm_peak(opt.threads);
                peak = again > peak ? again : peak;
            }
        for (int way = 0; way <= both; way++) {
            double rate = 1e-9 * best[way].flop / best[way].seconds;
            opt.exact = way == both;
            printf("%4zu x %4zu (x%d) %s: %7.3f s, %6.1f GFLOP/s, sgemm peak %6.1f: %3.0f%%, scratch %4.0f MB\n", G.m, G.n, shapes[i].count,
                   opt.exact ? "exact  " : "integer", best[way].seconds, rate, peak, 100 * rate / peak,
                   1e-6 * (double)kq_factors_bytes(&G, &opt));
            seconds[way] += shapes[i].count * best[way].seconds;
        }
        fflush(stdout);
        flop += shapes[i].count * best[0].flop;
        peak_all = peak > peak_all ? peak : peak_all;
    }
    for (int way = 0; way <= both; way++)
        printf("one block, %s: %.2f s, %.1f GFLOP/s, %.0f%% of sgemm's %.1f; 30 blocks: %.0f s\n", way == both ? "exact" : "integer",
               seconds[way], 1e-9 * flop / seconds[way], 100e-9 * flop / seconds[way] / peak_all, peak_all, 30 * seconds[way]);
    kq_free(g);
    kq_free(H_in);
    kq_free(H_out);
    return 0;
}
