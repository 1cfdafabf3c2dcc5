/* Checks the kernels of decoding against plain C and times them, on one thread. Two peaks of the machine are
 * measured beside them: reading memory in order, and multiply-adds from registers.
 *
 *     bench_decode [runs]      (200 without an argument)
 *
 * Each line has: the shortest of the runs and their median; weights a nanosecond; bytes a second, and their
 * share of the rate of reading memory; and, where integers or bf16 stand for the numbers, the error of the
 * product against exact weights and inputs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/time.h"
#include "decode/engine.h"
#include "decode/matrix.h"
#include "kern/kern.h"

static size_t runs = 200;
static double memory_rate; /* bytes/s */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double line(const char *what, double *s, double weights, double bytes, double error)
{
    qsort(s, runs, sizeof *s, by_value);
    printf("%-34s %9.2f us (median %9.2f)", what, s[0] * 1e6, s[runs / 2] * 1e6);
    if (weights > 0)
        printf(" %7.2f weights/ns", weights / s[0] * 1e-9);
    if (bytes > 0)
        printf(" %6.1f GB/s", bytes / s[0] * 1e-9);
    if (bytes > 0 && memory_rate > 0)
        printf(" (%3.0f%%)", 100 * bytes / s[0] / memory_rate);
    if (error >= 0)
        printf("  error %.1e", error);
    printf("\n");
    return s[0];
}

#define TIME(s, call)                            \
    for (size_t run_ = 0; run_ < runs; run_++) { \
        double t_ = kq_now_s();                  \
        call;                                    \
        (s)[run_] = kq_now_s() - t_;             \
    }

static volatile float sink;

int main(int argc, char **argv)
{
    enum { M = 1536, N = 576, NT = N / 16, VOCAB = 49152, BATCH = 64, KEYS = 1024, HD = 64 };
    kq_isa isa;
    kq_error err;
    if (argc > 1)
        runs = (size_t)atol(argv[1]);
    if (runs < 1 || kq_isa_pick(NULL, &isa, &err)) {
        fprintf(stderr, "usage: bench_decode [runs]\n");
        return 2;
    }
    kq_kern_init(isa);
    const kq_decode_kern *k = kq_decode_kern_pick(isa);
    const kq_packed_kern *p = kq_packed_kern_pick(isa);
    const kq_kern *kern = kq_kern_pick(isa);
    printf("isa %s, dense kernels %s, packed kernels %s, one thread, %zu runs\n", kq_isa_name(isa), k->name,
           p->name, runs);
    double *s = kq_alloc(runs, sizeof *s);
    kq_rng rng = kq_rng_stream(1, "bench");

    /* the rate of reading memory: a dot product of bf16 rows that are far larger than any cache, whose
     * arithmetic takes less time than the reading */
    const size_t big = (size_t)256 << 20;
    uint16_t *bf16 = kq_alloc(big, 2);
    float *x = kq_alloc((size_t)BATCH * 16 * N, 4), *y = kq_alloc((size_t)BATCH * VOCAB, 4),
          *W = kq_alloc((size_t)M * N, 4);
    for (size_t i = 0; i < big; i++)
        bf16[i] = (uint16_t)(0x3f00 + i % 200);
    for (size_t i = 0; i < (size_t)BATCH * 16 * N; i++)
        x[i] = (float)kq_rng_normal(&rng);
    const size_t all_runs = runs;
    runs = runs < 5 ? runs : 5;
    TIME(s, k->dots_bf16(bf16, 16384, big / 16384, 16384, x, 0, 1, y, 0));
    memory_rate = 2 * (double)big / line("read 512 MB in order", s, 0, 2 * (double)big, -1);
    runs = all_runs;

    /* dense linears, and rows of the embedding */
    TIME(s, k->dots_bf16(bf16, N, M, N, x, N, 1, y, M));
    line("bf16 1536 x 576, in cache", s, M * N, 2.0 * M * N, -1);
    TIME(s, k->dots_bf16(bf16, N, M, N, x, N, BATCH, y, M));
    line("bf16 1536 x 576, 64 vectors", s, (double)M * N * BATCH, 0, -1);
    int8_t *q = kq_alloc((size_t)VOCAB * N, 1);
    float *scales = kq_alloc((size_t)VOCAB * N / 64, 4);
    for (size_t i = 0; i < (size_t)VOCAB * N; i++)
        q[i] = (int8_t)(i * 7 % 255 - 127);
    for (size_t i = 0; i < (size_t)VOCAB * N / 64; i++)
        scales[i] = 0.01f;
    TIME(s, k->dots_q8(q, scales, VOCAB, N, 64, x, N, 1, y, VOCAB));
    line("head of 8 bits, 49152 x 576", s, (double)VOCAB * N, (double)VOCAB * N * (1 + 4.0 / 64), -1);
    TIME(s, k->dots_q4((uint8_t *)q, scales, VOCAB, N, 64, x, N, 1, y, VOCAB));
    line("head of 4 bits, 49152 x 576", s, (double)VOCAB * N, (double)VOCAB * N * (0.5 + 4.0 / 64), -1);

    /* packed linears */
    uint16_t *words = kq_alloc((size_t)M * NT * 64 / 16, 2);
    int16_t *panel = kq_alloc(NT * KQ_PANEL_TILE, 2), *z = kq_alloc((size_t)BATCH * N, 2);
    for (size_t i = 0; i < (size_t)M * NT * 64 / 16; i++)
        words[i] = (uint16_t)kq_rng_u64(&rng);
    for (int code = 0; code < KQ_N_CODE; code++)
        for (int bits = 2; bits <= 4; bits++) {
            kq_trellis *t;
            kq_packed_code *c;
            char what[64];
            if (kq_trellis_new((kq_code)code, bits, KQ_ISA_REF, NULL, &t, &err) ||
                kq_packed_code_new(t, &c, &err)) {
                fprintf(stderr, "%s\n", err.message);
                return 1;
            }
            const size_t row = NT * c->words;
            float step[BATCH], want[16], value[256];
            for (size_t b = 0; b < BATCH; b++)
                step[b] = p->quantize(x + b * N, N, c->x_max, z + b * N);
            /* the error of the product, and that of a bf16 product beside it */
            double d = 0, d16 = 0, sum2 = 0;
            double exact[16] = {0}, half[16] = {0};
            for (size_t tile = 0; tile < NT; tile++) {
                kq_trellis_decode(t, words + tile * c->words, 1, value);
                for (size_t i = 0; i < 256; i++) {
                    exact[i / 16] += (double)value[i] * x[tile * 16 + i % 16];
                    half[i / 16] += (double)kq_bf16_to_f32(kq_f32_to_bf16(value[i])) *
                                    kq_bf16_to_f32(kq_f32_to_bf16(x[tile * 16 + i % 16]));
                }
            }
            kq_packed_kern_ref.dot(c, words, NT, z, want);
            p->dot(c, words, NT, z, y);
            if (memcmp(y, want, sizeof want)) {
                fprintf(stderr, "%s: wrong answer\n", kq_code_name((kq_code)code));
                return 1;
            }
            for (size_t r = 0; r < 16; r++) {
                d += pow(y[r] * (double)(step[0] * c->unit) - exact[r], 2);
                d16 += pow(half[r] - exact[r], 2);
                sum2 += exact[r] * exact[r];
            }
            snprintf(what, sizeof what, "%s %d bits, 1 vector", kq_code_name((kq_code)code), bits);
            TIME(s, for (size_t r = 0; r < M / 16; r++) p->dot(c, words + r * row, NT, z, y + r * 16));
            line(what, s, M * N, M * N * bits / 8.0, sqrt(d / sum2));
            snprintf(what, sizeof what, "%s %d bits, 64 vectors", kq_code_name((kq_code)code), bits);
            TIME(
                s, for (size_t r = 0; r < M / 16; r++) {
                    p->decode(c, words + r * row, NT, panel);
                    p->dots(panel, NT, z, N, BATCH, y + r * 16, M);
                });
            line(what, s, (double)M * N * BATCH, 0, sqrt(d16 / sum2));
            kq_packed_code_free(c);
            kq_trellis_free(t);
        }
    printf("(the error beside 64 vectors is that of bf16 weights and inputs)\n");

    /* the work around the products */
    static const size_t orders[] = {192, 576, 1536, 4096};
    for (size_t i = 0; i < 4; i++) {
        kq_rotation *r;
        char what[64];
        if (kq_rotation_new(orders[i], &r, &err))
            return 1;
        snprintf(what, sizeof what, "rotation of %zu", orders[i]);
        TIME(s, kq_rotate(r, k, false, x, y));
        line(what, s, 0, 0, -1);
        kq_rotation_free(r);
    }
    TIME(s, p->quantize(x, M, 4095, z));
    line("1536 floats to integers", s, 0, 0, -1);
    TIME(s, (k->dots_bf16(bf16, HD, KEYS, HD, x, HD, 3, y, KEYS),
             k->mix_bf16(bf16, HD, KEYS, HD, y, KEYS, 3, y + 3 * KEYS, HD)));
    line("attention, 3 heads, 1024 keys", s, 0, 4.0 * KEYS * HD, -1);
    TIME(s, kern->swiglu(x, x + M, y, M));
    line("swiglu of 1536", s, 0, 0, -1);
    TIME(s, sink = kern->rms_norm(x, W, y, N, 1e-5f));
    line("rms norm of 576", s, 0, 0, -1);
    kq_free(s), kq_free(bf16), kq_free(x), kq_free(y), kq_free(W), kq_free(q), kq_free(scales),
        kq_free(words), kq_free(panel), kq_free(z);
    return 0;
}
