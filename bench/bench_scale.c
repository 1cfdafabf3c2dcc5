/* At which scale a trellis code loses least: the squared error of Gaussian tiles, relative to their variance,
 * for every code, number of bits, and rms of the tiles from 0.84 to 1.02 times the code's. The table `fit` of
 * src/trellis/trellis.c comes from it, and from the predicted loss of linears with factors
 * (docs/evidence/codes.md), where the feedback widens what is searched for and the best rms is a little
 * smaller.
 *
 *     bench_scale [TILES]      (256 without an argument)
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/rng.h"
#include "trellis/trellis.h"

/* The squared error of n tiles at `rms` over `energy`; x [n, 256] has rms 1. */
static double error_at(const kq_trellis *t, double rms, const float *x, size_t n, void *scratch)
{
    enum { N = KQ_TRELLIS_BATCH * KQ_TILE_SIZE };
    float w[N], y[N];
    uint16_t packed[KQ_TRELLIS_BATCH * 64];
    double error = 0, energy = 0;
    for (size_t i = 0; i < n * KQ_TILE_SIZE; i += N) {
        for (size_t j = 0; j < N; j++)
            w[j] = (float)(x[i + j] * rms);
        kq_trellis_encode(t, w, KQ_TRELLIS_BATCH, packed, y, scratch);
        for (size_t j = 0; j < N; j++) {
            error += ((double)w[j] - y[j]) * ((double)w[j] - y[j]);
            energy += (double)w[j] * w[j];
        }
    }
    return error / energy;
}

int main(int argc, char **argv)
{
    static const double rms[] = {0.84, 0.87, 0.90, 0.93, 0.96, 0.99, 1.02};
    enum { N_RMS = sizeof rms / sizeof *rms };
    const size_t n = (argc > 1 ? strtoul(argv[1], NULL, 10) : 256) / KQ_TRELLIS_BATCH * KQ_TRELLIS_BATCH;
    float *x = kq_alloc(n * KQ_TILE_SIZE, sizeof *x);
    kq_rng rng = kq_rng_stream(1, "bench");
    if (n == 0 || !x)
        return 2;
    for (size_t i = 0; i < n * KQ_TILE_SIZE; i++)
        x[i] = (float)kq_rng_normal(&rng);
    printf("%zu tiles; rms of the weights over the code's:\ncode   k", n);
    for (int i = 0; i < N_RMS; i++)
        printf("    %.2f", rms[i]);
    printf("   chosen\n");
    for (int code = 0; code < KQ_N_CODE; code++)
        for (int k = 2; k <= 4; k++) {
            kq_trellis *t;
            kq_error err;
            if (kq_trellis_new((kq_code)code, k, kq_isa_best(), NULL, &t, &err) != KQ_OK) {
                fprintf(stderr, "%s\n", err.message);
                return 1;
            }
            void *scratch = kq_alloc(1, kq_trellis_scratch_bytes(t));
            if (!scratch)
                return 1;
            printf("%-6s %d", kq_code_name((kq_code)code), k);
            for (int i = 0; i < N_RMS; i++)
                printf(" %.5f", error_at(t, rms[i] * kq_trellis_rms(t), x, n, scratch));
            printf("   %.2f\n", kq_trellis_weight_rms(t) / kq_trellis_rms(t));
            kq_free(scratch);
            kq_trellis_free(t);
        }
    kq_free(x);
    return 0;
}
