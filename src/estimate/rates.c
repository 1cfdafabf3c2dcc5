/* Measures how fast this machine is. Every rate comes from a short run of the same function whose time is
 * estimated, because figures that are looked up by the processor's name would be wrong on the
 * next machine. */
#include "estimate/rates.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/time.h"
#include "kern/gemm.h"

static void fill(uint16_t *g, size_t n)
{
    kq_rng rng = kq_rng_stream(1, "rates");
    for (size_t i = 0; i < n; i++)
        g[i] = kq_f32_to_bf16((float)kq_rng_normal(&rng));
}

/* The rate of products as the forward pass makes them, each thread its own, measured for a quarter of a
 * second. */
static kq_status gemm_rate(const kq_prepared *p, double *out, kq_error *err)
{
    const size_t N = 512;
    float *M;
    kq_status status =
        kq_alloc_for((void **)&M, (size_t)p->threads * 3 * N * N, sizeof *M, "a measurement", err);
    if (status)
        return status;
    memset(M, 0, (size_t)p->threads * 3 * N * N * sizeof *M);
    size_t count = 0;
    const double start = kq_cpu_s();
    double seconds = 0;
    for (int round = 0; seconds < 0.25 || round < 2; round++) {
#pragma omp parallel for num_threads(p->threads)
        for (int t = 0; t < p->threads; t++) {
            float *A = M + (size_t)t * 3 * N * N;
            for (int i = 0; i < 4; i++)
                if (p->compute == KQ_BF16)
                    kq_gemm_bf16(false, true, N, N, N, (uint16_t *)A, N, (uint16_t *)(A + N * N), N, false,
                                 A + 2 * N * N, N, NULL);
                else
                    kq_gemm_f32(false, true, N, N, N, 1, A, N, A + N * N, N, 0, A + 2 * N * N, N);
        }
        count += (size_t)p->threads * 4;
        seconds = (kq_cpu_s() - start) / p->threads;
    }
    *out = 2.0 * (double)count * (double)N * (double)N * (double)N / seconds;
    kq_free(M);
    return KQ_OK;
}

/* The rate of the method, measured on a small layer whose gradients have the form (whole or factored) that
 * most linears will have. */
static kq_status factor_rate(const kq_prepared *p, double *out, kq_error *err)
{
    enum { D = 24, N = 768, TOKENS = 256 };
    size_t m, n;
    kq_linear_shape(p->cfg, KQ_GATE, &m, &n);
    const bool factored =
        kq_factored_pays(m, n, p->opt->calibration.batch * p->opt->calibration.seq_len, &p->factor);
    kq_gradients G = {.D = D, .m = N, .n = N, .T = factored ? TOKENS : 0};
    kq_factor_options opt = p->factor;
    opt.max_iter = 2;
    opt.rounds = 2;
    uint16_t *g;
    float *H = kq_alloc(2 * N * N, sizeof *H);
    kq_factor_report report;
    double start = 0;
    kq_status status =
        kq_alloc_for((void **)&g, D * kq_sample_size(N, N, G.T), sizeof *g, "a measurement", err);
    if (!status && !H)
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: a measurement");
    if (!status) {
        fill(g, D * kq_sample_size(N, N, G.T));
        G.g = g;
        start = kq_cpu_s();
        status = kq_factors(&G, &opt, H, H + N * N, &report, NULL, NULL, err);
    }
    if (!status)
        *out = report.flop / (kq_cpu_s() - start) * p->threads;
    kq_free(g);
    kq_free(H);
    return status;
}

static kq_status ldl_rate(double *out, kq_error *err)
{
    enum { N = 512 };
    float *H = kq_calloc(2 * N * N, sizeof *H);
    if (!H)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: a measurement");
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++)
            H[i * N + j] = (float)exp(-0.1 * fabs((double)i - (double)j));
    int extra = 0;
    const double start = kq_cpu_s();
    kq_status status = kq_factor_condition(H, N, 1e-2, &extra, err);
    if (!status)
        status = kq_factor_block_ldl(H, N, H + N * N, err);
    *out = (double)N * N * N / (kq_cpu_s() - start);
    kq_free(H);
    return status;
}

static kq_status tile_rate(const kq_prepared *p, double *out, kq_error *err)
{
    kq_code code;
    kq_trellis *t = NULL;
    kq_status status = kq_code_parse(p->opt->code, &code, err);
    if (!status)
        status = kq_trellis_new(code, (int)ceil(p->opt->bits), p->isa, NULL, &t, err);
    if (status)
        return status;
    enum { CALLS = 32 };
    const size_t words = kq_trellis_words(t);
    bool memory = true;
    const double start = kq_cpu_s();
#pragma omp parallel for num_threads(p->threads)
    for (int k = 0; k < p->threads; k++) {
        float *tiles = kq_alloc(KQ_TRELLIS_BATCH * KQ_TILE_SIZE, sizeof *tiles);
        uint16_t *packed = kq_alloc(KQ_TRELLIS_BATCH * words, sizeof *packed);
        void *scratch = kq_alloc(kq_trellis_scratch_bytes(t), 1);
        kq_rng rng = kq_rng_stream((uint64_t)k, "tiles");
        for (size_t i = 0; tiles && i < KQ_TRELLIS_BATCH * KQ_TILE_SIZE; i++)
            tiles[i] = (float)kq_rng_normal(&rng);
        for (int i = 0; tiles && packed && scratch && i < CALLS; i++)
            kq_trellis_encode(t, tiles, KQ_TRELLIS_BATCH, packed, NULL, scratch);
        if (!tiles || !packed || !scratch) {
#pragma omp atomic write
            memory = false;
        }
        kq_free(tiles);
        kq_free(packed);
        kq_free(scratch);
    }
    *out = (kq_cpu_s() - start) / p->threads / (CALLS * KQ_TRELLIS_BATCH * p->threads);
    kq_trellis_free(t);
    return memory ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: a measurement");
}

kq_status kq_rates_measure(const kq_prepared *p, kq_rates *out, kq_error *err)
{
    *out = (kq_rates){0};
    kq_status status = gemm_rate(p, &out->gemm, err);
    if (!status && kq_method_needs(p->factor.method) == KQ_NEEDS_GRADIENTS)
        status = factor_rate(p, &out->factor, err);
    if (!status)
        status = ldl_rate(&out->ldl, err);
    return status ? status : tile_rate(p, &out->tile_s, err);
}
