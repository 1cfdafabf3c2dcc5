/* Times the forward and backward pass of one block, beside the machine's rate of plain f32 matrix products.
 *
 *     bench_model [threads] [tokens]      (2 and 1024 without arguments)
 *
 * The block has the shape of SmolLM2-135M's and random weights; each thread works on its own sequence. Before
 * timing it checks that the threads agree. It prints the median of several runs and their spread. */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/time.h"
#include "model/model.h"

enum { RUNS = 7, MAX_THREADS = 64 };

static const kq_config cfg = {.arch = KQ_ARCH_LLAMA,
                              .n_layer = 1,
                              .d_model = 576,
                              .n_head = 9,
                              .n_kv_head = 3,
                              .head_dim = 64,
                              .d_ff = 1536,
                              .vocab_size = 49152,
                              .max_position = 8192,
                              .rope_theta = 100000,
                              .rms_eps = 1e-5f,
                              .tie_embeddings = true,
                              .bos_id = -1};

static kq_status random_linear(void *ctx, size_t layer, kq_linear_id id, float *W, kq_error *err)
{
    size_t m, n;
    kq_rng rng = kq_rng_stream(1 + layer, "linear");
    (void)ctx, (void)err;
    kq_linear_shape(&cfg, id, &m, &n);
    for (size_t i = 0; i < m * n; i++)
        W[i] = (float)(kq_rng_uniform(&rng) - 0.5) * 3 / sqrtf((float)n);
    return KQ_OK;
}

static kq_status random_rows(void *ctx, const char *name, size_t row0, size_t n_rows, float *dst,
                             kq_error *err)
{
    const bool matrix = !strcmp(name, "model.embed_tokens.weight");
    kq_rng rng = kq_rng_stream(row0, name);
    (void)ctx, (void)err;
    for (size_t i = 0; i < n_rows * (matrix ? cfg.d_model : 1); i++)
        dst[i] = matrix ? (float)(kq_rng_uniform(&rng) - 0.5) : 1.0f;
    return KQ_OK;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(const char *what, double *seconds, double flop, double tokens, double peak)
{
    qsort(seconds, RUNS, sizeof *seconds, by_value);
    double t = seconds[RUNS / 2];
    printf("%-34s %8.2f ms (%.2f-%.2f) %8.1f GFLOP/s", what, t * 1e3, seconds[0] * 1e3,
           seconds[RUNS - 1] * 1e3, flop / t * 1e-9);
    if (tokens > 0)
        printf(" %9.0f tokens/s", tokens / t);
    if (peak > 0)
        printf("  %.0f%% of peak", 100 * flop / t * 1e-9 / peak);
    printf("\n");
}

static double gemm(bool ta, bool tb, size_t m, size_t n, size_t k, int threads)
{
    float *A[MAX_THREADS], *B[MAX_THREADS], *C[MAX_THREADS];
    double s[RUNS];
    char what[64];
    for (int i = 0; i < threads; i++) {
        A[i] = kq_alloc(m * k, 4), B[i] = kq_alloc(n * k, 4), C[i] = kq_calloc(m * n, 4);
        for (size_t j = 0; j < m * k; j++)
            A[i][j] = (float)(j % 7) - 3;
        for (size_t j = 0; j < n * k; j++)
            B[i][j] = (float)(j % 5) - 2;
    }
    for (int r = -1; r < RUNS; r++) {
        double t = kq_now_s();
#pragma omp parallel for num_threads(threads)
        for (int i = 0; i < threads; i++)
            for (int again = 0; again < 4; again++)
                kq_gemm_f32(ta, tb, m, n, k, 1, A[i], ta ? m : k, B[i], tb ? k : n, 0, C[i], n);
        if (r >= 0)
            s[r] = kq_now_s() - t;
    }
    double flop = 8.0 * (double)(m * n * k) * threads;
    snprintf(what, sizeof what, "gemm %c%c %zu x %zu x %zu", ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k);
    report(what, s, flop, 0, 0);
    for (int i = 0; i < threads; i++)
        kq_free(A[i]), kq_free(B[i]), kq_free(C[i]);
    return flop / s[RUNS / 2] * 1e-9;
}

int main(int argc, char **argv)
{
    const int threads = argc > 1 ? atoi(argv[1]) : 2;
    const size_t T = argc > 2 ? (size_t)atol(argv[2]) : 1024, d = cfg.d_model;
    kq_error err;
    kq_isa isa;
    if (threads < 1 || threads > MAX_THREADS || T < 1 || kq_isa_pick(NULL, &isa, &err) != KQ_OK) {
        fprintf(stderr, "usage: bench_model [threads] [tokens]\n");
        return 2;
    }
    kq_kern_init(isa);
    printf("isa %s, %d threads, %zu tokens each\n", kq_isa_name(isa), threads, T);
    double peak = 0;
    const size_t shapes[][3] = {{T, 576, 576}, {T, 1536, 576}, {T, 576, 1536}, {T, 192, 576}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int tb = 0; tb < 2; tb++)
            peak = fmax(peak, gemm(false, tb, shapes[i][0], shapes[i][1], shapes[i][2], threads));
    peak = fmax(peak, gemm(false, false, 1536, 1536, 1536, threads));
    gemm(false, true, 126, T, 64, threads);
    gemm(false, false, 126, 64, T, threads);
    gemm(true, false, T, 64, 126, threads);
    printf("peak: %.1f GFLOP/s\n", peak);

    kq_weights w = {.cfg = &cfg, .linear = random_linear, .rows = random_rows};
    kq_model_ctx *mc = NULL;
    kq_block b = {0};
    kq_head *head = NULL;
    if (kq_model_ctx_new(&cfg, isa, KQ_F32, T, &mc, &err) != KQ_OK ||
        kq_block_load(mc, &w, 0, &b, &err) != KQ_OK || kq_head_load(mc, &w, &head, &err) != KQ_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    float *x[MAX_THREADS], *y[MAX_THREADS], *dx[MAX_THREADS];
    void *fwd[MAX_THREADS], *bwd[MAX_THREADS], *hs[MAX_THREADS];
    int32_t *target = kq_alloc(T, sizeof *target);
    for (size_t t = 0; t < T; t++)
        target[t] = (int32_t)(t * 37 % cfg.vocab_size);
    for (int i = 0; i < threads; i++) {
        kq_rng rng = kq_rng_stream(3, "x");
        x[i] = kq_alloc(T * d, 4), y[i] = kq_alloc(T * d, 4), dx[i] = kq_alloc(T * d, 4);
        fwd[i] = kq_alloc(kq_block_scratch_bytes(mc, T), 1),
        bwd[i] = kq_alloc(kq_block_backward_bytes(mc, (kq_rows){1, T, 1}), 1);
        hs[i] = kq_alloc(kq_head_scratch_bytes(mc), 1);
        for (size_t j = 0; j < T * d; j++)
            x[i][j] = (float)kq_rng_normal(&rng);
    }
    /* Multiply-adds that the block needs. Of causal attention only the half that is not masked counts. */
    double linears = 0, keys = (double)T * (double)(T + 1) / 2, tokens = (double)T * threads;
    for (int id = 0; id < KQ_N_LINEAR; id++)
        linears += 2.0 * (double)(b.lin[id].m * b.lin[id].n) * (double)T;
    double attn = 4.0 * keys * (double)(cfg.n_head * cfg.head_dim),
           down = 2.0 * (double)(cfg.d_ff * d) * (double)T;
    const struct {
        const char *name;
        double flop;
    } what[] = {
        {"block forward", linears + attn},
        {"block backward (with recompute)", 2 * linears - down + attn + 2.5 * attn},
        {"head loss and its gradient", 4.0 * (double)(cfg.vocab_size * d) * (double)T},
        {"block forward, threads inside", linears + attn},
    };
    for (int k = 0; k < 4; k++) {
        double s[RUNS];
        int bad = 0, inner = k == 3;
        for (int r = -1; r < RUNS; r++) {
            double t = kq_now_s();
            if (inner) {
                bad += kq_block_forward(mc, &b, x[0], T, y[0], fwd[0], threads, NULL) != KQ_OK;
            } else {
#pragma omp parallel for num_threads(threads) reduction(+ : bad)
                for (int i = 0; i < threads; i++) {
                    kq_status st = k == 0 ? kq_block_forward(mc, &b, x[i], T, y[i], fwd[i], 1, NULL)
                                   : k == 1
                                       ? kq_block_backward(mc, &b, x[i], y[i], (kq_rows){1, T, 1}, dx[i],
                                                           NULL, bwd[i], NULL)
                                       : kq_head_loss(head, x[i], T, target, NULL, dx[i], NULL, hs[i], NULL);
                    bad += st != KQ_OK;
                }
            }
            if (r >= 0)
                s[r] = kq_now_s() - t;
        }
        for (int i = 1; i < threads; i++)
            bad += memcmp(k == 0 ? y[i] : dx[i], k == 0 ? y[0] : dx[0], T * d * 4) != 0;
        if (bad) {
            fprintf(stderr, "%s: wrong result\n", what[k].name);
            return 1;
        }
        report(what[k].name, s, what[k].flop * (inner ? 1 : threads), inner ? (double)T : tokens, peak);
    }
    return 0;
}
