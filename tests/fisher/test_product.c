/* The products of eq. 2 (whole gradients, factored samples, block integers) against triple loops in f64. */
#include "fisher/samples.h"

/* All three kinds of middle, both ways, in f32, bf16 and block integers; several sizes: one panel, odd
 * tails, more than one tile (384), more than one block of integers (192). */
static void products(void **state)
{
    (void)state;
    static const size_t sizes[][3] = {{9, 7, 5},    {1, 1, 1},    {3, 33, 70}, {2, 1, 40},
                                      {2, 410, 24}, {2, 20, 395}, {4, 210, 17}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        size_t D = sizes[k][0], m = sizes[k][1], n = sizes[k][2];
        sample_set s = samples(D, m, n, 1 + k);
        for (int adjoint = 0; adjoint < 2; adjoint++) {
            size_t dim = adjoint ? n : m, other = adjoint ? m : n;
            double *Y = zeroed(other * other, sizeof *Y), *C = zeroed(other * other, sizeof *C),
                   *CC = zeroed(other * other, sizeof *CC);
            kq_rng rng = kq_rng_stream(5, "middle");
            for (size_t i = 0; i < other; i++)
                for (size_t j = 0; j <= i; j++) {
                    Y[i * other + j] = Y[j * other + i] = (float)kq_rng_normal(&rng); /* indefinite */
                    C[i * other + j] = (float)(kq_rng_normal(&rng) + (i == j ? 3 : 0));
                }
            for (size_t i = 0; i < other; i++)
                for (size_t j = 0; j < other; j++)
                    for (size_t l = i > j ? i : j; l < other; l++)
                        CC[i * other + j] += C[l * other + i] * C[l * other + j];
            double *identity = zeroed(other * other, sizeof *identity);
            for (size_t i = 0; i < other; i++)
                identity[i * other + i] = 1;
            const double *middles[] = {identity, CC, Y}, *given[] = {identity, C, Y};
            for (int kind = 0; kind < 3; kind++) {
                double *want_d = naive(&s, adjoint, middles[kind], 1.0 / (double)D);
                float *want = to_float(want_d, dim * dim), *mid = to_float(given[kind], other * other);
                for (int way = 0; way < (kind == KQ_MID_SYMMETRIC ? 2 : 3); way++) {
                    kq_compute compute = way == 1 ? KQ_BF16 : KQ_F32;
                    kq_product_plan plan;
                    kq_product p;
                    assert_true(kq_product_size(&plan, &s.G, compute, way != 2, 2, 0, false));
                    if (way == 2 && D > 3)
                        plan.chunk = (D + 1) / 2; /* two chunks */
                    void *block = kq_alloc(plan.bytes, 1);
                    float *got = zeroed(dim * dim, sizeof *got);
                    kq_product_init(&p, &plan, block);
                    apply(&p, &s.G, adjoint, (kq_middle)kind, mid, got);
                    /* bf16: the middle and T are rounded to 8 bits, 2^-9 each in the worst case, mostly
                     * averaged away. Integers: three roundings of 1e-4 of the root mean square, mostly
                     * averaged away, too. */
                    check_close(got, want, dim * dim, way == 1 ? 6e-3 : way == 2 ? 2e-4 : 2e-6);
                    if (kind == KQ_MID_SYMMETRIC) {
                        float *again = zeroed(dim * dim, sizeof *again);
                        check_ok(kq_fisher_product(&s.G, adjoint, mid, again, compute, 3, &err));
                        assert_memory_equal(again, got, dim * dim * sizeof *got);
                        free(again);
                    }
                    free(got);
                    kq_free(block);
                }
                free(want);
                free(want_d);
                free(mid);
            }
            free(Y);
            free(C);
            free(CC);
            free(identity);
        }
        free_samples(s);
    }
}

/* More samples than a chunk holds: 71 of [480, 512] in f32 are two chunks, the second shorter. */
static void many_chunks(void **state)
{
    (void)state;
    size_t D = 71, m = 480, n = 512;
    uint16_t *bits = zeroed(D * m * n, 2);
    kq_product_plan plan;
    assert_true(kq_product_size(&plan, &(kq_gradients){.D = D, .m = m, .n = n}, KQ_F32, true, 1, 0, false) &&
                plan.chunk < D && D % plan.chunk != 0);
    /* G_i = a_i e_{i mod m} e_{i mod n}^T: A(I) is diagonal and known exactly. */
    float *Y = zeroed(n * n, sizeof *Y), *out = zeroed(n * n, sizeof *out),
          *want = zeroed(n * n, sizeof *want);
    for (size_t i = 0; i < D; i++)
        bits[(i * m + (3 * i) % m) * n + (5 * i) % n] = kq_f32_to_bf16((float)(1 + i % 7));
    for (int way = 0; way < 2; way++) {
        size_t dim = way ? n : m, other = way ? m : n;
        memset(Y, 0, n * n * sizeof *Y);
        memset(want, 0, n * n * sizeof *want);
        for (size_t i = 0; i < other; i++)
            Y[i * other + i] = (float)(i + 1);
        for (size_t i = 0; i < D; i++) {
            size_t a = way ? (5 * i) % n : (3 * i) % m, b = way ? (3 * i) % m : (5 * i) % n;
            want[a * dim + a] += (float)((1 + i % 7) * (1 + i % 7) * (b + 1)) / (float)D;
        }
        check_ok(kq_fisher_product(&(kq_gradients){.D = D, .m = m, .n = n, .g = bits}, way, Y, out, KQ_F32, 2,
                                   &err));
        check_close(out, want, dim * dim, 1e-6);
    }
    free(bits);
    free(Y);
    free(out);
    free(want);
}

/* Samples in both forms: g_i, x_i of T tokens in bf16; s.x their product exactly, s.bits that product
 * rounded to bf16. */
static uint16_t *factored_samples(size_t D, size_t m, size_t n, size_t T, uint64_t seed, sample_set *s)
{
    const size_t each = T * (m + n);
    uint16_t *tokens = zeroed(D * each, 2);
    *s = (sample_set){.bits = zeroed(D * m * n, 2), .x = zeroed(D * m * n, sizeof(double))};
    kq_rng rng = kq_rng_stream(seed, "factored");
    for (size_t i = 0; i < D; i++) {
        uint16_t *g = tokens + i * each, *x = g + T * m;
        const double scale = exp(0.5 * kq_rng_normal(&rng));
        for (size_t t = 0; t < T; t++) {
            const double token = exp(0.5 * kq_rng_normal(&rng));
            for (size_t a = 0; a < m; a++)
                g[t * m + a] = kq_f32_to_bf16(
                    (float)(scale * token * kq_rng_normal(&rng) / (1 + 0.2 * (double)(a % 9))));
            for (size_t b = 0; b < n; b++)
                x[t * n + b] = kq_f32_to_bf16((float)(kq_rng_normal(&rng) + (b % 5 == 0 ? 1 : 0)));
        }
        for (size_t a = 0; a < m; a++)
            for (size_t b = 0; b < n; b++) {
                double sum = 0;
                for (size_t t = 0; t < T; t++)
                    sum += (double)kq_bf16_to_f32(g[t * m + a]) * kq_bf16_to_f32(x[t * n + b]);
                s->x[(i * m + a) * n + b] = sum;
                s->bits[(i * m + a) * n + b] = kq_f32_to_bf16((float)sum);
            }
    }
    s->G = (kq_gradients){.D = D, .m = m, .n = n, .g = s->bits};
    return tokens;
}

/* Every product of factored samples, by the definition; one tile of tokens and more (192), one token,
 * chunks of two. */
static void factored_products(void **state)
{
    (void)state;
    static const size_t sizes[][4] = {{5, 7, 9, 3},    {3, 33, 70, 5},  {2, 40, 30, 200},
                                      {3, 210, 17, 1}, {2, 20, 395, 8}, {1, 1, 1, 1}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        const size_t D = sizes[k][0], m = sizes[k][1], n = sizes[k][2], T = sizes[k][3];
        sample_set s;
        uint16_t *tokens = factored_samples(D, m, n, T, 500 + k, &s);
        const kq_gradients F = {.D = D, .m = m, .n = n, .T = T, .g = tokens};
        for (int adjoint = 0; adjoint < 2; adjoint++)
            for (int kind = 0; kind < 3; kind++) {
                const size_t dim = adjoint ? n : m, other = adjoint ? m : n;
                double *Y = zeroed(other * other, sizeof *Y), *C = zeroed(other * other, sizeof *C);
                kq_rng rng = kq_rng_stream(6, "middle");
                for (size_t i = 0; i < other; i++)
                    for (size_t j = 0; j <= i; j++) {
                        C[i * other + j] =
                            (float)(kind == KQ_MID_IDENTITY ? i == j
                                                            : kq_rng_normal(&rng) + (i == j ? 3 : 0));
                        if (kind == KQ_MID_SYMMETRIC)
                            Y[i * other + j] = Y[j * other + i] = C[j * other + i] =
                                C[i * other + j]; /* indefinite, given as it is */
                    }
                for (size_t i = 0; i < other && kind != KQ_MID_SYMMETRIC; i++)
                    for (size_t j = 0; j < other; j++)
                        for (size_t l = i > j ? i : j; l < other; l++)
                            Y[i * other + j] += C[l * other + i] * C[l * other + j];
                double *want_d = naive(&s, adjoint, Y, 1.0 / (double)D);
                float *want = to_float(want_d, dim * dim), *mid = to_float(C, other * other),
                      *got = zeroed(dim * dim, sizeof *got);
                float *again = zeroed(dim * dim, sizeof *again);
                for (int way = 0; way < 2; way++) {
                    kq_product_plan plan;
                    kq_product p;
                    assert_true(kq_product_size(&plan, &F, way ? KQ_BF16 : KQ_F32, true, 2, 0, true));
                    plan.chunk = (D + 1) / 2;
                    void *block = kq_alloc(plan.bytes, 1);
                    kq_product_init(&p, &plan, block);
                    apply(&p, &F, adjoint, (kq_middle)kind, mid, got);
                    /* as in products; bf16 rounds S and S a too */
                    check_close(got, want, dim * dim, way ? 1e-2 : 2e-6);
                    check_ok(kq_product_begin(&p, adjoint, (kq_middle)kind, mid, p.plan.D, &err));
                    for (size_t i = 0; i < D; i++) /* one by one: the same bytes */
                        check_ok(kq_product_add(&p, tokens + i * plan.sample, 1, &err));
                    check_ok(kq_product_end(&p, again, &err));
                    assert_memory_equal(again, got, dim * dim * sizeof *got);
                    kq_free(block);
                }
                free(again);
                free(got);
                free(mid);
                free(want);
                free(want_d);
                free(Y);
                free(C);
            }
        free(tokens);
        free_samples(s);
    }
}

/* Both forms of the same samples: the same factors up to the rounding of G_i to bf16 (2^-9 a value at
 * most, mostly averaged away: 1e-3 to 4e-3 after flipflop's inverses), the same squares; the cost rule
 * is what the reports count. */
static void factored_equals_whole(void **state)
{
    (void)state;
    static const size_t sizes[][4] = {{20, 40, 60, 8},  {20, 60, 40, 23},   {20, 60, 40, 24},
                                      {4, 30, 30, 200}, {20, 200, 100, 60}, {20, 30, 90, 30}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        const size_t D = sizes[k][0], m = sizes[k][1], n = sizes[k][2], T = sizes[k][3];
        sample_set s;
        uint16_t *tokens = factored_samples(D, m, n, T, 600 + k, &s);
        const kq_gradients F = {.D = D, .m = m, .n = n, .T = T, .g = tokens};
        float *H[2][2], *again[2];
        for (int f = 0; f < 2; f++) {
            H[f][0] = zeroed(n * n, sizeof(float));
            H[f][1] = zeroed(m * m, sizeof(float));
            again[f] = zeroed(f ? m * m : n * n, sizeof(float));
        }
        for (int method = 0; method < 3; method++) {
            kq_factor_options opt = kq_factor_defaults();
            kq_factor_report r[2];
            opt.method = method == 0 ? KQ_FLIPFLOP : method == 1 ? KQ_FASTKRON : KQ_YAQA_B;
            opt.exact = true;
            opt.max_iter = method ? 6 : 32;
            opt.tol = 0;
            opt.rounds = 6;
            for (int f = 0; f < 2; f++) {
                opt.threads = 1 + f;
                check_ok(kq_factors(f ? &F : &s.G, &opt, H[f][0], H[f][1], &r[f], NULL, NULL, &err));
            }
            for (int f = 0; f < 2; f++) { /* what a plan counts beforehand */
                assert_true(fabs(kq_factors_flop(f ? &F : &s.G, &opt, r[f].products) / r[f].flop - 1) < 1e-9);
                assert_true(method != 0 || kq_factors_products(&opt) == r[f].products);
            }
            check_close(H[1][0], H[0][0], n * n, 8e-3);
            check_close(H[1][1], H[0][1], m * m, 8e-3);
            check_factors(&s, H[1][0], H[1][1], &r[1]); /* against the exact G_i */
            assert_true(fabs(r[1].trace_product / r[0].trace_product - 1) < 1e-3);
            if (k != 2) /* within a tenth of the same cost the first product, with nothing in the middle,
                           would decide */
                assert_int_equal(kq_factored_pays(m, n, T, &opt),
                                 T * (m + n) <= m * n && r[1].flop < r[0].flop);
            opt.threads = 3;
            opt.chunk_bytes = 1; /* a sample at a time: other sums, the same to rounding */
            allocated = 0;
            check_ok(kq_factors(&F, &opt, again[0], again[1], NULL, NULL, NULL, &err));
            assert_int_equal(allocated, kq_factors_bytes(&F, &opt));
            check_close(again[0], H[1][0], n * n, 1e-4);
            opt.chunk_bytes = 0;
            check_ok(kq_factors(&F, &opt, again[0], again[1], NULL, NULL, NULL, &err));
            assert_memory_equal(again[0], H[1][0], n * n * sizeof(float));
            assert_memory_equal(again[1], H[1][1], m * m * sizeof(float));
        }
        if (k == 0) { /* what is wrong in a factored sample is found, too */
            kq_factor_options opt = kq_factor_defaults();
            tokens[7 * T * (m + n) + T * m + 3] = 0x7f80;
            check_fails(kq_factors(&F, &opt, H[0][0], H[0][1], NULL, NULL, NULL, &err), KQ_E_NUMERIC,
                        "sample 7 ");
            memset(tokens, 0, D * T * (m + n) * 2);
            kq_factor_report none;
            check_ok(kq_factors(&F, &opt, H[0][0], H[0][1], &none, NULL, NULL, &err));
            assert_int_equal(none.lack, KQ_LACK_GRADIENT);
            kq_gradients big = F;
            big.T = (size_t)1 << 40;
            check_fails(kq_factors(&big, &opt, H[0][0], H[0][1], NULL, NULL, NULL, &err), KQ_E_ARG,
                        "too large");
        }
        for (int f = 0; f < 2; f++) {
            free(H[f][0]);
            free(H[f][1]);
            free(again[f]);
        }
        free(tokens);
        free_samples(s);
    }
}

int main(void)
{
    kq_kern_init(kq_isa_best());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products),
        cmocka_unit_test(many_chunks),
        cmocka_unit_test(factored_products),
        cmocka_unit_test(factored_equals_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
