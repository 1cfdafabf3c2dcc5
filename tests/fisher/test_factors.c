/* Methods and their names, inputs that are refused, degenerate samples, statistics over tokens, triangles and
 * the search for a positive definite matrix. */
#include "fisher/samples.h"

static void names(void **state)
{
    (void)state;
    kq_method method;
    for (int i = 0; i < KQ_N_METHOD; i++) {
        check_ok(kq_method_parse(kq_method_name((kq_method)i), &method, &err));
        assert_int_equal(method, i);
    }
    assert_string_equal(kq_method_name(KQ_FASTKRON), "fastkron");
    check_fails(kq_method_parse("Fastkron", &method, &err), KQ_E_ARG,
                "flipflop, fastkron, yaqa-a, yaqa-b, kfac, flipflop-tokens, input-only, diag or none");
    check_fails(kq_method_parse("", &method, &err), KQ_E_ARG, "unknown method");
    assert_true(kq_method_needs_gradients(KQ_FLIPFLOP) && kq_method_needs_gradients(KQ_FASTKRON) &&
                kq_method_needs_gradients(KQ_KFAC));
    assert_true(kq_method_iterates(KQ_YAQA_B) && !kq_method_iterates(KQ_FLIPFLOP) &&
                !kq_method_iterates(KQ_YAQA_A));
    assert_true(!kq_method_needs_gradients(KQ_INPUT_ONLY) &&
                kq_method_needs(KQ_INPUT_ONLY) == KQ_NEEDS_INPUTS && !kq_method_needs_gradients(KQ_NONE));
}

static int count_calls(void *ctx, double fraction)
{
    int *calls = ctx;
    assert_true(fraction >= 0 && fraction < 1);
    return ++*calls == 3;
}

/* Every method over gradients: it says that there is none, and leaves zeros. */
static void without_gradient(const kq_gradients *G, float *H_in, float *H_out)
{
    static const kq_method methods[] = {KQ_FLIPFLOP, KQ_FASTKRON, KQ_YAQA_B, KQ_DIAG};
    kq_factor_report report;
    for (size_t k = 0; k < sizeof methods / sizeof *methods; k++) {
        kq_factor_options opt = kq_factor_defaults();
        opt.method = methods[k];
        H_in[0] = H_out[0] = 7;
        check_ok(kq_factors(G, &opt, H_in, H_out, &report, NULL, NULL, &err));
        assert_int_equal(report.lack, KQ_LACK_GRADIENT);
        assert_true(H_in[0] == 0 && H_out[0] == 0 && report.sigma1 == 0 && report.residual == 0);
    }
}

static void some_gradient(const kq_gradients *G, float *H_in, float *H_out)
{
    static const kq_method methods[] = {KQ_FASTKRON, KQ_YAQA_B, KQ_DIAG, KQ_FLIPFLOP};
    kq_factor_report report;
    for (size_t k = 0; k < sizeof methods / sizeof *methods; k++) {
        kq_factor_options opt = kq_factor_defaults();
        opt.method = methods[k];
        check_ok(kq_factors(G, &opt, H_in, H_out, &report, NULL, NULL, &err));
        assert_int_equal(report.lack, KQ_LACK_NOTHING);
        double in = 0, out = 0;
        for (size_t i = 0; i < G->n; i++)
            in += H_in[i * G->n + i];
        for (size_t i = 0; i < G->m; i++)
            out += H_out[i * G->m + i];
        assert_true(in > 0 && isfinite(in) && fabs(in * out / report.trace_product - 1) < 1e-4);
    }
}

static void errors(void **state)
{
    (void)state;
    size_t D = 80, m = 6, n = 37;
    sample_set s = samples(D, m, n, 70);
    float H_in[37 * 37], H_out[36];
    kq_factor_options opt = kq_factor_defaults();
    static const uint16_t bad[] = {0x7fc0, 0x7f80, 0xff80, 0xffff};
    for (size_t k = 0; k < 4; k++)
        for (int method = 0; method < 2; method++) {
            size_t at = (71 * m + 2) * n + (k % 2 ? 36 : 3);
            uint16_t keep = s.bits[at];
            opt.method = (kq_method)method;
            s.bits[at] = bad[k];
            check_fails(kq_factors(&s.G, &opt, H_in, H_out, NULL, NULL, NULL, &err), KQ_E_NUMERIC,
                        "sample 71 ");
            s.bits[at] = keep;
        }
    int calls = 0;
    for (int method = 0; method < 2; method++, calls = 0) {
        opt.method = (kq_method)method;
        opt.tol = 0;
        check_fails(kq_factors(&s.G, &opt, H_in, H_out, NULL, count_calls, &calls, &err), KQ_E_INTERRUPTED,
                    "interrupted");
        assert_int_equal(calls, 3);
        kq_alloc_fail_after(1);
        check_fails(kq_factors(&s.G, &opt, H_in, H_out, NULL, NULL, NULL, &err), KQ_E_MEMORY, "memory");
        kq_alloc_fail_after(0);
    }
    opt.method = KQ_NONE;
    check_fails(kq_factors(&s.G, &opt, H_in, H_out, NULL, NULL, NULL, &err), KQ_E_ARG, "none");
    opt = kq_factor_defaults();
    opt.rho = -1;
    check_fails(kq_factors(&s.G, &opt, H_in, H_out, NULL, NULL, NULL, &err), KQ_E_ARG, "rho");
    opt.rho = NAN;
    check_fails(kq_factors(&s.G, &opt, H_in, H_out, NULL, NULL, NULL, &err), KQ_E_ARG, "rho");
    opt = kq_factor_defaults();
    opt.rounds = 0;
    check_fails(kq_factors(&s.G, &opt, H_in, H_out, NULL, NULL, NULL, &err), KQ_E_ARG, "rounds");
    opt = kq_factor_defaults();
    check_fails(
        kq_factors(&(kq_gradients){.m = m, .n = n, .g = s.bits}, &opt, H_in, H_out, NULL, NULL, NULL, &err),
        KQ_E_ARG, "samples");
    check_fails(kq_factors(&(kq_gradients){.D = SIZE_MAX / 4, .m = m, .n = n, .g = s.bits}, &opt, H_in, H_out,
                           NULL, NULL, NULL, &err),
                KQ_E_ARG, "too large");
    /* A gradient that is zero, among others, is fine; all of them are not. A row without any gradient is
     * fine too. */
    memset(s.bits, 0, 3 * m * n * 2);
    for (size_t i = 0; i < D; i++)
        memset(s.bits + (i * m + 4) * n, 0, n * 2);
    check_ok(kq_factors(&s.G, &opt, H_in, H_out, NULL, NULL, NULL, &err));
    assert_true(H_out[4 * m + 4] == 0);
    memset(s.bits, 0, D * m * n * 2);
    without_gradient(&s.G, H_in, H_out);
    for (size_t i = 0; i < D * m * n; i++)
        s.bits[i] = 0x0d00; /* 4e-31 */
    without_gradient(&s.G, H_in, H_out);
    /* The first sixteen samples without gradient, the others with: flipflop's early rounds find nothing.
     * Then rows and columns without any. */
    for (size_t i = 0; i < D * m * n; i++)
        s.bits[i] = i / (m * n) < 16 ? 0 : (uint16_t)(0x3e00 + i * 37 % 512 + (i * 11 % 2 << 15));
    some_gradient(&s.G, H_in, H_out);
    for (size_t i = 0; i < D * m * n; i++)
        if (i % n < n / 2 || i / n % m == 1)
            s.bits[i] = 0;
    some_gradient(&s.G, H_in, H_out);
    assert_true(H_out[m + 1] == 0 && H_in[0] == 0 && H_in[n * n - 1] > 0);
    for (size_t i = 0; i < D * m * n; i++)
        s.bits[i] = 0x7e00; /* 4e37: finite, its square is not */
    check_fails(kq_factors(&s.G, &opt, H_in, H_out, NULL, NULL, NULL, &err), KQ_E_NUMERIC, "overflow");
    free_samples(s);
}

/* One sample of many outputs: H_in has rank 1 of 30, Cholesky with rho = 0 fails and says so; with rho
 * it passes. */
static void singular(void **state)
{
    (void)state;
    sample_set s = samples(1, 1, 30, 80);
    float H_in[900], H_out[1];
    kq_factor_options opt = kq_factor_defaults();
    opt.rho = 0;
    check_fails(kq_factors(&s.G, &opt, H_in, H_out, NULL, NULL, NULL, &err), KQ_E_NUMERIC, "rho");
    opt.rho = 1e-2;
    check_ok(kq_factors(&s.G, &opt, H_in, H_out, NULL, NULL, NULL, &err));
    free_samples(s);
}

static void triangles(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 5, 128, 129, 300};
    for (size_t k = 0; k < 5; k++) {
        size_t n = sizes[k];
        double *A = zeroed(n * n, sizeof *A), *inverse = zeroed(n * n, sizeof *inverse);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                A[i * n + j] = exp(-0.1 * fabs((double)i - (double)j)) + (i == j);
        float *F = to_float(A, n * n), *L = zeroed(n * n, sizeof *L), *C = zeroed(n * n, sizeof *C),
              *CC = zeroed(n * n, sizeof *CC);
        for (size_t i = 0; i < n; i++)
            A[i * n + i] += 0.25;
        invert(A, n, inverse);
        float *want = to_float(inverse, n * n);
        assert_true(kq_cholesky(F, n, 0.25f, L, 2));
        kq_triangle_inverse(L, n, C, 2);
        for (size_t i = 0; i < n; i++)
            for (size_t j = i + 1; j < n; j++)
                assert_true(C[i * n + j] == 0);
        kq_gemm_f32(true, false, n, n, n, 1, C, n, C, n, 0, CC, n);
        check_close(CC, want, n * n, 1e-5);
        assert_false(kq_cholesky(F, n, -3, L, 2));
        free(A);
        free(inverse);
        free(F);
        free(L);
        free(C);
        free(CC);
        free(want);
    }
}

static void psd(void **state)
{
    (void)state;
    enum { N = 40 };
    float *H = zeroed(N * N, sizeof *H), *want = zeroed(N * N, sizeof *want),
          *work = zeroed(kq_psd_work(N), sizeof *work), v[N];
    /* I + b v v^T, |v| = 1: eigenvalue 1 + b along v. */
    for (int i = 0; i < N; i++)
        v[i] = (float)((i % 2 ? -1 : 1) / sqrt((double)N));
    for (int i = 0; i < N * N; i++) {
        H[i] = (i % (N + 1) == 0) - 1.01f * v[i / N] * v[i % N];
        want[i] = (i % (N + 1) == 0) - v[i / N] * v[i % N];
    }
    check_fails(kq_psd_check(H, N, 1e-3, work, 1, "H_in", &err), KQ_E_NUMERIC,
                "H_in is not positive semidefinite");
    check_ok(kq_psd_check(H, N, 2e-2, work, 1, "H_in", &err));
    check_close(H, want, N * N, 1e-5);
    check_ok(kq_psd_check(H, N, 0, work, 1, "H_in", &err));
    H[3] = NAN;
    check_fails(kq_psd_check(H, N, 1, work, 1, "H_in", &err), KQ_E_NUMERIC, "NaN");
    free(H);
    free(want);
    free(work);
}

static void inputs_and_packing(void **state)
{
    (void)state;
    size_t T = 33, n = 21;
    float *X = zeroed(2 * T * n, sizeof *X), *H = zeroed(n * n, sizeof *H),
          *want = zeroed(n * n, sizeof *want);
    kq_rng rng = kq_rng_stream(9, "x");
    for (size_t i = 0; i < 2 * T * n; i++)
        X[i] = (float)kq_rng_normal(&rng);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t t = 0; t < 2 * T; t++)
                sum += (double)X[t * n + i] * X[t * n + j];
            want[i * n + j] = (float)(sum / 2);
        }
    for (size_t i = 0; i < n; i++)
        for (size_t j = i + 1; j < n; j++)
            H[i * n + j] = NAN; /* the upper triangle is nobody's until finish */
    kq_token_gram(X, NULL, T, n, H, NULL, 1);
    kq_token_gram(X + T * n, NULL, T, n, H, NULL, 2);
    check_ok(kq_token_finish(H, n, 2, &err));
    check_close(H, want, n * n, 1e-6);

    float *packed = zeroed(n * (n + 1) / 2, sizeof *packed), *back = zeroed(n * n, sizeof *back);
    kq_factor_pack(H, n, packed);
    assert_true(packed[0] == H[0] && packed[1] == H[n] && packed[2] == H[n + 1] && packed[3] == H[2 * n]);
    kq_factor_unpack(packed, n, back);
    assert_memory_equal(back, H, n * n * sizeof *H);

    H[n] = NAN;
    check_fails(kq_token_finish(H, n, 2, &err), KQ_E_NUMERIC, "NaN");
    memset(H, 0, n * n * sizeof *H);
    check_ok(kq_token_finish(H, n, 2, &err));
    assert_true(kq_factor_is_tiny(H, n));
    free(X);
    free(H);
    free(want);
    free(packed);
    free(back);
}

/* Weighted sums and quadratic forms over tokens, against their definitions in double. */
static void token_statistics(void **state)
{
    (void)state;
    const size_t T = 401, n = 211; /* more than one tile, odd tails */
    const double rho = 0.05;
    float *X = zeroed(T * n, sizeof *X), *w = zeroed(T, sizeof *w), *H = zeroed(n * n, sizeof *H),
          *again = zeroed(n * n, sizeof *again), *W = zeroed(n * n, sizeof *W);
    float *want = zeroed(n * n, sizeof *want), *scratch = zeroed(T * n, sizeof *scratch),
          *q = zeroed(T, sizeof *q), *want_q = zeroed(T, sizeof *want_q);
    double *A = zeroed(n * n, sizeof *A), *inverse = zeroed(n * n, sizeof *inverse);
    kq_rng rng = kq_rng_stream(10, "tokens");
    for (size_t t = 0; t < T; t++) {
        w[t] = (float)(0.1 + kq_rng_uniform(&rng));
        for (size_t i = 0; i < n; i++)
            X[t * n + i] = (float)(kq_rng_normal(&rng) * (1 + (double)(i % 3)));
    }
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t t = 0; t < T; t++)
                sum += (double)w[t] * X[t * n + i] * X[t * n + j];
            want[i * n + j] = (float)(sum / 7);
        }
    kq_token_gram(X, w, T, n, H, scratch, 2);
    kq_token_gram(X, w, T, n, again, scratch, 1);
    check_ok(kq_token_finish(H, n, 7, &err));
    check_ok(kq_token_finish(again, n, 7, &err));
    assert_memory_equal(H, again, n * n * sizeof *H);
    check_close(H, want, n * n, 1e-5);

    double trace = 0, square = 0;
    for (size_t i = 0; i < n * n; i++)
        square += (double)H[i] * H[i];
    for (size_t i = 0; i < n; i++)
        trace += H[i * n + i];
    for (size_t i = 0; i < n * n; i++)
        A[i] = H[i] * (double)n / trace + (i % (n + 1) ? 0 : rho);
    invert(A, n, inverse);
    for (int kind = KQ_WEIGHT_FACTOR; kind <= KQ_WEIGHT_INVERSE; kind++) {
        int regularised = 0;
        check_ok(kq_token_weight((kq_token_weighting)kind, H, n, rho, 2, W, &regularised, &err));
        for (size_t i = 0; i < n * n; i++)
            want[i] = (float)(kind == KQ_WEIGHT_FACTOR ? H[i] / square : inverse[i]);
        check_close(W, want, n * n, 1e-4);
        kq_token_quadratic(X, T, n, W, q, scratch, 2);
        for (size_t t = 0; t < T; t++) {
            double sum = 0;
            for (size_t i = 0; i < n; i++)
                for (size_t j = 0; j < n; j++)
                    sum += (double)X[t * n + i] * want[i * n + j] * X[t * n + j];
            want_q[t] = (float)sum;
        }
        check_close(q, want_q, T, 1e-4);
        assert_int_equal(regularised, 0);
    }
    memset(H, 0, n * n * sizeof *H);
    int regularised = 0;
    check_fails(kq_token_weight(KQ_WEIGHT_FACTOR, H, n, rho, 1, W, &regularised, &err), KQ_E_NUMERIC, "zero");
    float *const all[] = {X, w, H, again, W, want, scratch, q, want_q};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    free(A);
    free(inverse);
}

int main(void)
{
    kq_kern_init(kq_isa_best());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(errors),
        cmocka_unit_test(singular),
        cmocka_unit_test(triangles),
        cmocka_unit_test(psd),
        cmocka_unit_test(inputs_and_packing),
        cmocka_unit_test(token_statistics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
