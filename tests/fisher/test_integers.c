/* Products in 16-bit block integers: their error, their overflow, and the processors that have them. */
#include "fisher/samples.h"

/* Block integers where they are hardest: rows and columns whose sizes span nine decades, single values
 * that dominate a block, zero columns, and
 * gradients as small and as large as f32 can square. Every diagonal entry must be right by itself, not
 * only in the norm. */
static void integers_hold(void **state)
{
    (void)state;
    enum { D = 3, M = 97, N = 201 };
    static const float sizes[] = {1, 1e-17f, 1e15f};
    for (int k = 0; k < 3; k++) {
        sample_set s = {.bits = zeroed(D * M * N, 2), .x = zeroed(D * M * N, sizeof(double))};
        kq_rng rng = kq_rng_stream(90, "hard");
        double row[M], column[N];
        for (int i = 0; i < M; i++)
            row[i] = exp(1.5 * kq_rng_normal(&rng));
        for (int i = 0; i < N; i++)
            column[i] = i % 50 == 7 ? 0 : exp(1.5 * kq_rng_normal(&rng));
        for (size_t i = 0; i < (size_t)D * M * N; i++) {
            /* Cauchy's tails, cut at 10 or so */
            double x = kq_rng_normal(&rng) / (0.1 + fabs(kq_rng_normal(&rng)));
            s.bits[i] = kq_f32_to_bf16((float)(x * row[i / N % M] * column[i % N]) * sizes[k]);
            s.x[i] = kq_bf16_to_f32(s.bits[i]);
        }
        s.G = (kq_gradients){.D = D, .m = M, .n = N, .g = s.bits};
        double *in_d, *out_d;
        naive_flipflop(&s, 1e-2, 2, s.G.D, &in_d, &out_d);
        float *H_in = zeroed(N * N, sizeof *H_in), *H_out = zeroed(M * M, sizeof *H_out);
        float *want_in = to_float(in_d, N * N), *want_out = to_float(out_d, M * M);
        kq_factor_options opt = kq_factor_defaults();
        opt.rounds = 2;
        check_ok(kq_factors(&s.G, &opt, H_in, H_out, NULL, NULL, NULL, &err));
        check_close(H_in, want_in, N * N, 1e-3); /* ten times one rounding */
        check_close(H_out, want_out, M * M, 1e-3);
        for (size_t i = 0; i < N; i++)
            assert_true(fabsf(H_in[i * (N + 1)] - want_in[i * (N + 1)]) <= 2e-3f * want_in[i * (N + 1)]);
        for (size_t i = 0; i < M; i++)
            assert_true(fabsf(H_out[i * (M + 1)] - want_out[i * (M + 1)]) <= 2e-3f * want_out[i * (M + 1)]);
        assert_true(H_in[7 * (N + 1)] == 0 && H_in[8 * (N + 1)] > 0);
        free(in_d);
        free(out_d);
        free(want_in);
        free(want_out);
        free(H_in);
        free(H_out);
        free_samples(s);
    }
}

/* An instruction set below AVX-512 has no block integers: the same bits as exact ones. With it they
 * differ, where the processor has VNNI. */
static void integers_need_their_isa(void **state)
{
    (void)state;
    sample_set s = samples(3, 20, 30, 91);
    float H_in[3][900], H_out[400];
    kq_factor_options opt = kq_factor_defaults();
    bool have = kq_panel_available(), lower = !getenv("KRONQ_ISA") && kq_isa_best() >= KQ_ISA_AVX2;
    for (int k = 0; k < 3; k++) {
        opt.exact = k == 0;
        if (k == 1 && lower)
            setenv("KRONQ_ISA", "avx2", 1);
        check_ok(kq_factors(&s.G, &opt, H_in[k], H_out, NULL, NULL, NULL, &err));
        if (k == 1 && lower)
            unsetenv("KRONQ_ISA");
    }
    if (lower)
        assert_memory_equal(H_in[1], H_in[0], sizeof H_in[0]);
    assert_int_equal(memcmp(H_in[2], H_in[0], sizeof H_in[0]) != 0, have);
    free_samples(s);
}

/* The largest integers there are, all of one sign: no sum may wrap. One column, and all values, equal:
 * the exact answer is known. */
static void integers_do_not_overflow(void **state)
{
    (void)state;
    enum { K = 400, W = 50 };
    uint16_t *bits = zeroed(K * W, 2);
    float *out = zeroed(W * W, sizeof *out);
    for (int one = 0; one < 2; one++) { /* spread evenly; or a single value a block */
        for (size_t i = 0; i < K * W; i++)
            bits[i] = one && i / W % 192 ? 0 : kq_f32_to_bf16(-1.5f);
        kq_product_plan plan;
        kq_product p;
        assert_true(
            kq_product_size(&plan, &(kq_gradients){.D = 1, .m = K, .n = W}, KQ_F32, false, 1, 0, false));
        void *block = kq_alloc(plan.bytes, 1);
        kq_product_init(&p, &plan, block);
        apply(&p, &(kq_gradients){.D = 1, .m = K, .n = W, .g = bits}, true, KQ_MID_IDENTITY, NULL, out);
        for (size_t i = 0; i < W * W; i++)
            assert_true(fabsf(out[i] / (2.25f * (one ? 3 : K)) - 1) <
                        3.1e-4f); /* two roundings of half a step in 3341, all alike */
        kq_free(block);
    }
    free(bits);
    free(out);
}

int main(void)
{
    kq_kern_init(kq_isa_best());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_hold),
        cmocka_unit_test(integers_need_their_isa),
        cmocka_unit_test(integers_do_not_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
