/* Times the Viterbi search for every code, number of bits and instruction set.
 *
 *     bench_trellis [TILES [RUNS]]
 *
 * First it checks two tiles against the search in plain C. Then it prints ms a tile (median, least and most
 * of the runs), us a weight, and ns a step beside the least time that the processor's vector ports allow.
 *
 * That bound is computed as follows. A processor with AVX-512 has two 512-bit vector ports, of which only one
 * does vpminuw and vpmulhrsw. hyb takes 13 operations for 128 states (6.5 cycles); the other codes take 4
 * operations for 32 states (2 cycles). With AVX2 there are three ports, two of which do these instructions:
 * 13/3 cycles for 64 states, and 4/3 cycles for 16. The clock is measured with a chain of additions that
 * depend on each other. */
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/time.h"
#include "trellis/internal.h"

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double clock_ghz(void)
{
    double best = 0;
    for (int rep = 0; rep < 50; rep++) {
        uint64_t x = (uint64_t)rep;
        double t = kq_now_s();
        for (int i = 0; i < 100000; i++) {
            x += 3;
            __asm__ volatile("" : "+r"(x));
            x ^= 5;
            __asm__ volatile("" : "+r"(x));
        }
        t = kq_now_s() - t;
        best = 200000 / t * 1e-9 > best ? 200000 / t * 1e-9 : best;
    }
    return best;
}

int main(int argc, char **argv)
{
    const size_t n = argc > 1 ? strtoul(argv[1], NULL, 10) : 32;
    const int n_runs = argc > 2 ? atoi(argv[2]) : 9;
    const double ghz = clock_ghz();
    if (n < 2 || n_runs < 1)
        return 2;
    float *x = kq_alloc(n * 256, 4), *w = kq_alloc(n * 256, 4);
    uint16_t *packed = kq_alloc(n * 64, 2), *want = kq_alloc(128, 2);
    double *times = kq_alloc((size_t)n_runs, sizeof *times);
    if (!x || !w || !packed || !want || !times)
        return 1;
    kq_rng rng = kq_rng_stream(1, "bench");
    for (size_t i = 0; i < n * 256; i++)
        x[i] = (float)kq_rng_normal(&rng);
    printf("%zu tiles, %d runs, one thread, %.2f GHz\n", n, n_runs, ghz);
    printf("code   k isa     ms/tile (least..most)      us/weight  ns/step  bound  share\n");
    for (int code = 0; code < KQ_N_CODE; code++)
        for (int k = 2; k <= 4; k++)
            for (int isa = KQ_ISA_REF; isa <= KQ_ISA_AVX512 && isa <= (int)kq_isa_best(); isa++) {
                kq_trellis *t;
                kq_error err;
                if (kq_trellis_new((kq_code)code, k, (kq_isa)isa, NULL, &t, &err) != KQ_OK) {
                    fprintf(stderr, "%s\n", err.message);
                    return 1;
                }
                void *scratch = kq_alloc(1, kq_trellis_scratch_bytes(t));
                if (!scratch)
                    return 1;
                const size_t m = isa == KQ_ISA_REF ? 2 : n, words = kq_trellis_words(t);
                const int runs = isa == KQ_ISA_REF ? 1 : n_runs;
                for (size_t i = 0; i < n * 256; i++)
                    w[i] = (float)(x[i] * kq_trellis_weight_rms(t));
                for (int r = 0; r < runs; r++) {
                    double start = kq_now_s();
                    kq_trellis_encode(t, w, m, packed, NULL, scratch);
                    times[r] = (kq_now_s() - start) / (double)m;
                }
                if (isa == KQ_ISA_REF)
                    memcpy(want, packed, 2 * words * 2);
                else if (memcmp(want, packed, 2 * words * 2)) {
                    fprintf(stderr, "%s %d bits %s: other bits than ref\n", kq_code_name((kq_code)code), k,
                            kq_isa_name((kq_isa)isa));
                    return 1;
                }
                qsort(times, (size_t)runs, sizeof *times, by_value);
                const double ms = times[runs / 2] * 1e3;
                const double ns = times[runs / 2] * 1e9 / (t->n_steps + 2 * t->half_window);
                const double cycles = isa == KQ_ISA_AVX512 ? (t->V == 2 ? 512 * 6.5 : 2048 * 2.0)
                                                           : (t->V == 2 ? 1024 * 13 / 3.0 : 4096 * 4 / 3.0);
                printf("%-6s %d %-7s %7.4f (%.4f..%.4f) %9.3f %9.0f", kq_code_name((kq_code)code), k,
                       kq_isa_name((kq_isa)isa), ms, times[0] * 1e3, times[runs - 1] * 1e3, ms / 0.256, ns);
                if (isa == KQ_ISA_REF)
                    printf("\n");
                else
                    printf(" %6.0f  %4.0f%%\n", cycles / ghz, 100 * cycles / ghz / ns);
                kq_free(scratch);
                kq_trellis_free(t);
            }
    kq_free(x);
    kq_free(w);
    kq_free(packed);
    kq_free(want);
    kq_free(times);
    return 0;
}
