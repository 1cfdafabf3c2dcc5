/* Times each stage of rounding one block of SmolLM2-135M (hidden 576, intermediate 1536, kv 192), and prints
 * 30 times that for the whole model.
 *
 *     bench_round [threads]
 *
 * Weights and factors are random, because the time does not depend on them. "ldlq" is measured twice: with
 * the trellis code, and with a rounder that takes no time, so that only the products of the feedback and the
 * waiting of threads for each other remain. */
#include <stdio.h>
#include <stdlib.h>

#include "base/isa.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/time.h"
#include "kern/gemm.h"
#include "round/matrix.h"
#include "round/round.h"

static void free_rounding(const void *ctx, const float *tiles, const size_t *index, size_t count,
                          uint16_t *packed, float *decoded, void *scratch)
{
    (void)ctx, (void)index, (void)packed, (void)scratch;
    for (size_t i = 0; i < count * 256; i++)
        decoded[i] = tiles[i] > 0 ? 0.8f : -0.8f;
}

static float *random_matrix(size_t count, uint64_t seed)
{
    kq_rng rng = kq_rng_stream(seed, "bench");
    float *x = kq_alloc(count, sizeof *x);
    for (size_t i = 0; x && i < count; i++)
        x[i] = (float)(kq_rng_uniform(&rng) - 0.5);
    return x;
}

static float *random_factor(size_t n, uint64_t seed)
{
    float *G = random_matrix(n * n, seed), *H = kq_alloc(n * n, sizeof *H);
    if (G && H)
        kq_gemm_f32(true, false, n, n, n, 1, G, n, G, n, 0, H, n);
    kq_free(G);
    return H;
}

int main(int argc, char **argv)
{
    static const struct linear {
        const char *name;
        size_t m, n;
    } block[] = {{"q", 576, 576},     {"k", 192, 576},   {"v", 192, 576},    {"o", 576, 576},
                 {"gate", 1536, 576}, {"up", 1536, 576}, {"down", 576, 1536}};
    int threads = argc > 1 ? atoi(argv[1]) : 2;
    kq_error err = {0};
    kq_trellis *t = NULL;
    kq_isa isa;
    if (kq_isa_pick(NULL, &isa, &err) != KQ_OK || kq_trellis_new(KQ_HYB, 2, isa, NULL, &t, &err) != KQ_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    kq_kern_init(isa);
    double rotate = 0, factors = 0, ldl = 0, feedback = 0, ldlq = 0, whole = 0;
    printf("isa %s, %d threads; seconds\n%-5s %5s %5s  rotateW rotateH condLDL feedback  ldlq  whole (with "
           "predicted loss)\n",
           kq_isa_name(isa), threads, "", "m", "n");
    for (size_t i = 0; i < sizeof block / sizeof *block; i++) {
        size_t m = block[i].m, n = block[i].n;
        float *W = random_matrix(m * n, i), *Y = kq_alloc(m * n, sizeof *Y),
              *H_in = random_factor(n, 100 + i);
        float *H_out = random_factor(m, 200 + i), *L_in = kq_alloc(n * n, sizeof *L_in),
              *L_out = kq_alloc(m * m, sizeof *L_out);
        float *What = kq_alloc(m * n, sizeof *What);
        uint16_t *packed = kq_alloc(m * n / 256 * kq_trellis_words(t), sizeof *packed);
        kq_hadamard *u_m = NULL, *u_n = NULL;
        kq_packed p = {0};
        int extra, bad = !W || !Y || !H_in || !H_out || !L_in || !L_out || !What || !packed;
        bad = bad || kq_hadamard_new(m, &u_m, &err) != KQ_OK || kq_hadamard_new(n, &u_n, &err) != KQ_OK;
        if (bad)
            return 1;
        kq_round_options opt = {.sigma_reg = 1e-2, .seed = 1, .threads = threads};
        kq_round_report rep;
        double t0 = kq_now_s();
        bad |= kq_round_linear(t, &(kq_round_input){block[i].name, W, m, n, H_in, H_out, true}, &opt, &p,
                               &rep, &err) != KQ_OK;
        double t1 = kq_now_s();
        bad |= kq_hadamard_rows_mt(u_n, false, W, m, n, threads, &err) != KQ_OK;
        kq_transpose(W, m, n, Y, threads);
        bad |= kq_hadamard_rows_mt(u_m, false, Y, n, m, threads, &err) != KQ_OK;
        kq_transpose(Y, n, m, W, threads);
        double t2 = kq_now_s();
        bad |= kq_factor_rotate(u_n, NULL, H_in, n, threads, &err) != KQ_OK ||
               kq_factor_rotate(u_m, NULL, H_out, m, threads, &err) != KQ_OK;
        double t3 = kq_now_s();
        bad |= kq_factor_condition_ldl(H_in, n, 1e-2, &extra, L_in, threads, &err) != KQ_OK ||
               kq_factor_condition_ldl(H_out, m, 1e-2, &extra, L_out, threads, &err) != KQ_OK;
        double t4 = kq_now_s();
        kq_tile_rounder nothing = {
            .round = free_rounding, .words = kq_trellis_words(t), .batch = KQ_TRELLIS_BATCH};
        bad |= kq_ldlq_with(&nothing, &(kq_ldlq_input){W, m, n, L_in, L_out, 0.3f}, packed, What, threads,
                            &err) != KQ_OK;
        double t5 = kq_now_s();
        bad |= kq_ldlq(t, &(kq_ldlq_input){W, m, n, L_in, L_out, 0.3f}, packed, What, threads, &err) != KQ_OK;
        double t6 = kq_now_s();
        if (bad) {
            fprintf(stderr, "%s: %s\n", block[i].name, err.message);
            return 1;
        }
        printf("%-5s %5zu %5zu  %7.4f %7.4f %7.4f %7.4f %7.3f %7.3f\n", block[i].name, m, n, t2 - t1, t3 - t2,
               t4 - t3, t5 - t4, t6 - t5, t1 - t0);
        rotate += t2 - t1, factors += t3 - t2, ldl += t4 - t3, feedback += t5 - t4, ldlq += t6 - t5,
            whole += t1 - t0;
        kq_packed_free(&p);
        kq_hadamard_free(u_m), kq_hadamard_free(u_n);
        kq_free(packed), kq_free(What), kq_free(L_out), kq_free(L_in), kq_free(H_out), kq_free(H_in),
            kq_free(Y), kq_free(W);
    }
    printf("%-17s  %7.4f %7.4f %7.4f %7.4f %7.3f %7.3f\n", "block", rotate, factors, ldl, feedback, ldlq,
           whole);
    printf("%-17s  %7.2f %7.2f %7.2f %7.2f %7.1f %7.1f\n", "30 blocks", 30 * rotate, 30 * factors, 30 * ldl,
           30 * feedback, 30 * ldlq, 30 * whole);
    printf("all but the trellis search, 30 blocks: %.1f s (feedback %.1f%% of ldlq)\n",
           30 * (whole - ldlq + feedback), 100 * feedback / ldlq);
    kq_trellis_free(t);
    return 0;
}
