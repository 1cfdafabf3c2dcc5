/* flipflop against eq. 3 in f64, and against the likelihood that it maximises. */
#include "fisher/samples.h"

static void flipflop_is_eq_3(void **state)
{
    (void)state;
    static const size_t sizes[][4] = {{9, 7, 5, 9},    {4, 40, 210, 0}, {6, 140, 30, 100},
                                      {1, 12, 12, 16}, {5, 1, 9, 5},    {5, 9, 1, 5},
                                      {9, 7, 5, 4},    {6, 140, 30, 1}, {23, 40, 60, 11}};
    double flop[2] = {0};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        const size_t D = sizes[k][0], m = sizes[k][1], n = sizes[k][2],
                     early = sizes[k][3] && sizes[k][3] < D ? sizes[k][3] : D;
        sample_set s = samples(D, m, n, 20 + k);
        double *in_d, *out_d;
        naive_flipflop(&s, 1e-2, 3, early, &in_d, &out_d);
        float *want_in = to_float(in_d, n * n), *want_out = to_float(out_d, m * m);
        float *H_in = zeroed(n * n, sizeof *H_in), *H_out = zeroed(m * m, sizeof *H_out);
        kq_factor_options opt = kq_factor_defaults();
        kq_factor_report report;
        assert_int_equal(opt.early, 16);
        opt.early = sizes[k][3];
        assert_true(fabs(kq_factors_passes(&opt, D) - (2 + 4.0 * (double)early / (double)D)) < 1e-12);
        for (int way = 0; way < 3; way++) {
            /* the middle amplifies what the gradients' and its own rounding did */
            double tol = way == 1 ? 2e-2 : way == 2 ? 1e-3 : 1e-4;
            opt.compute = way == 1 ? KQ_BF16 : KQ_F32;
            opt.exact = way == 0;
            check_ok(kq_factors(&s.G, &opt, H_in, H_out, &report, NULL, NULL, &err));
            check_close(H_in, want_in, n * n, tol);
            check_close(H_out, want_out, m * m, tol);
            check_factors(&s, H_in, H_out, &report);
            assert_int_equal(report.products, 6);
            assert_true(report.converged && report.regularised == 0);
            assert_true(fabs(kq_factors_flop(&s.G, &opt, 6) / report.flop - 1) < 1e-9);
        }
        flop[0] = k == 0 ? report.flop : flop[0];
        flop[1] = early == 4 && D == 9 ? report.flop : flop[1];
        free(in_d);
        free(out_d);
        free(want_in);
        free(want_out);
        free(H_in);
        free(H_out);
        free_samples(s);
    }
    assert_true(flop[1] < 0.8 * flop[0]);
}

/* Log-likelihood of G_i ~ MN(0, c Ho, Hi) at the best scale c, up to a constant. */
static double likelihood(const sample_set *s, const double *Ho, const double *Hi)
{
    size_t D = s->G.D, m = s->G.m, n = s->G.n;
    double *io = zeroed(m * m, sizeof *io), *ii = zeroed(n * n, sizeof *ii);
    double lo = invert(Ho, m, io), li = invert(Hi, n, ii), q = 0;
    double *S = naive(s, false, ii, 1);
    for (size_t i = 0; i < m * m; i++)
        q += S[i] * io[i];
    free(S);
    free(io);
    free(ii);
    double d = (double)D;
    return -0.5 * d * (double)n * lo - 0.5 * d * (double)m * li -
           0.5 * d * (double)(m * n) * log(q / (d * (double)(m * n)));
}

/* H (1 + eps S) made symmetric through the square: M H M^T with M = I + eps S. */
static double *moved(const float *H, size_t n, double eps, kq_rng *rng)
{
    double *M = zeroed(n * n, sizeof *M), *X = zeroed(n * n, sizeof *X), *out = zeroed(n * n, sizeof *out);
    for (size_t i = 0; i < n * n; i++)
        M[i] = eps * kq_rng_normal(rng) + (i % (n + 1) == 0);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            for (size_t k = 0; k < n; k++)
                X[i * n + j] += M[i * n + k] * H[k * n + j];
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            for (size_t k = 0; k < n; k++)
                out[i * n + j] += X[i * n + k] * M[j * n + k];
    free(M);
    free(X);
    return out;
}

static void flipflop_is_maximum_likelihood(void **state)
{
    (void)state;
    size_t D = 9, m = 7, n = 5;
    sample_set s = samples(D, m, n, 31);
    float *H_in = zeroed(n * n, sizeof *H_in), *H_out = zeroed(m * m, sizeof *H_out);
    kq_factor_options opt = kq_factor_defaults();
    opt.rho = 1e-7;
    opt.exact = true;
    double best[2];
    for (int run = 0; run < 2; run++) { /* 1 round is not the maximum, and these perturbations must notice */
        opt.rounds = run ? 60 : 1;
        check_ok(kq_factors(&s.G, &opt, H_in, H_out, NULL, NULL, NULL, &err));
        kq_rng rng = kq_rng_stream(3, "perturb");
        double *a = moved(H_out, m, 0, &rng), *b = moved(H_in, n, 0, &rng), here = likelihood(&s, a, b),
               highest = -1e300;
        free(a);
        free(b);
        for (int k = 0; k < 400; k++) {
            double eps = k % 2 ? 3e-3 : 1e-2;
            a = moved(H_out, m, k % 3 == 0 ? 0 : eps, &rng);
            b = moved(H_in, n, k % 3 == 1 ? 0 : eps, &rng);
            double there = likelihood(&s, a, b);
            highest = there > highest ? there : highest;
            free(a);
            free(b);
        }
        best[run] = here;
        if (run)
            assert_true(highest < here);
        else
            assert_true(highest > here);
    }
    assert_true(best[1] > best[0] + 0.01);
    free(H_in);
    free(H_out);
    free_samples(s);
}

int main(void)
{
    kq_kern_init(kq_isa_best());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flipflop_is_eq_3),
        cmocka_unit_test(flipflop_is_maximum_likelihood),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
