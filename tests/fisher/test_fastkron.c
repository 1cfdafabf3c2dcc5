/* fastkron's Lanczos iteration against LAPACK's SVD and ARPACK (golden); yaqa-b ends in the same point. */
#include "fisher/samples.h"

/* The operator of eq. 2 on an orthonormal basis of the symmetric matrices, dense (column-major), and its
 * SVD. */
typedef struct dense {
    double *R, *s, *u, *vt;
    size_t rows, cols;
} dense;

static void basis(size_t k, size_t n, double *E)
{
    size_t i = 0;
    memset(E, 0, n * n * sizeof *E);
    while ((i + 1) * (i + 2) / 2 <= k)
        i++;
    size_t j = k - i * (i + 1) / 2;
    E[i * n + j] = E[j * n + i] = i == j ? 1 : sqrt(0.5);
}

static dense dense_svd(const sample_set *s)
{
    size_t m = s->G.m, n = s->G.n, rows = m * (m + 1) / 2, cols = n * (n + 1) / 2;
    dense d = {zeroed(rows * cols, sizeof(double)),
               zeroed(rows, sizeof(double)),
               zeroed(rows * rows, sizeof(double)),
               zeroed(cols * cols, sizeof(double)),
               rows,
               cols};
    double *R = zeroed(rows * cols, sizeof *R), *E = zeroed(n * n, sizeof *E),
           *work = zeroed(20 * (rows + cols), sizeof *work);
    for (size_t k = 0; k < cols; k++) {
        basis(k, n, E);
        double *A = naive(s, false, E, 1.0 / (double)s->G.D);
        for (size_t i = 0, r = 0; i < m; i++)
            for (size_t j = 0; j <= i; j++, r++)
                R[k * rows + r] = A[i * m + j] * (i == j ? 1 : sqrt(2));
        free(A);
    }
    int M = (int)rows, N = (int)cols, lwork = 20 * (M + N), info;
    memcpy(d.R, R, rows * cols * sizeof *R);
    dgesvd_("A", "A", &M, &N, R, &M, d.s, d.u, &M, d.vt, &N, work, &lwork, &info, 1, 1);
    assert_int_equal(info, 0);
    free(R);
    free(E);
    free(work);
    return d;
}

static void drop_dense(dense d)
{
    free(d.R);
    free(d.s);
    free(d.u);
    free(d.vt);
}

static float *unit_matrix(const double *v, size_t stride, size_t n)
{
    float *H = zeroed(n * n, sizeof *H);
    double trace = 0;
    for (size_t i = 0; i < n; i++)
        trace += v[(i * (i + 1) / 2 + i) * stride];
    for (size_t i = 0, k = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++, k++)
            H[i * n + j] = H[j * n + i] =
                (float)((trace < 0 ? -1 : 1) * v[k * stride] * (i == j ? 1 : sqrt(0.5)));
    return H;
}

static void to_unit(float *H, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n * n; i++)
        sum += (double)H[i] * H[i];
    for (size_t i = 0; i < n * n; i++)
        H[i] = (float)(H[i] / sqrt(sum));
}

static void fastkron_is_the_leading_triplet(void **state)
{
    (void)state;
    static const size_t sizes[][3] = {{9, 7, 5}, {12, 5, 8}, {3, 6, 6}, {1, 4, 5}, {4, 1, 6}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        size_t D = sizes[k][0], m = sizes[k][1], n = sizes[k][2];
        sample_set s = samples(D, m, n, 40 + k);
        dense d = dense_svd(&s);
        float *want_in = unit_matrix(d.vt, d.cols, n), *want_out = unit_matrix(d.u, 1, m);
        float *H_in = zeroed(n * n, sizeof *H_in), *H_out = zeroed(m * m, sizeof *H_out);
        for (int random = 0; random < 2; random++) {
            kq_factor_options opt = kq_factor_defaults();
            kq_factor_report report;
            opt.method = KQ_FASTKRON;
            opt.tol = 1e-5;
            opt.start_random = random;
            opt.seed = 7;
            check_ok(kq_factors(&s.G, &opt, H_in, H_out, &report, NULL, NULL, &err));
            check_factors(&s, H_in, H_out, &report);
            to_unit(H_in, n);
            to_unit(H_out, m);
            check_close(H_in, want_in, n * n, 2e-4); /* residual 1e-5 over a gap of at least 0.1 */
            check_close(H_out, want_out, m * m, 2e-4);
            assert_true(report.converged && report.residual <= 1e-5);
            assert_true(fabs(report.sigma1 / d.s[0] - 1) < 1e-5);
            /* to the end of the Krylov space: sigma_2 is then exact, and its residual says so */
            opt.tol = 0;
            check_ok(kq_factors(&s.G, &opt, H_in, H_out, &report, NULL, NULL, &err));
            if (D > 1 && m > 1) {
                assert_true(fabs(report.sigma2 / d.s[1] - 1) < 1e-4);
                assert_true(report.sigma2_residual < 1e-3);
            }
            /* too few: a lower bound, and the residual bounds its distance to some singular value */
            opt.max_iter = 3;
            if (k == 0) {
                check_ok(kq_factors(&s.G, &opt, H_in, H_out, &report, NULL, NULL, &err));
                assert_true(report.sigma2 <= d.s[1] * (1 + 1e-5) && report.products == 8 &&
                            !report.converged);
                double nearest = 1e300;
                for (size_t i = 0; i < d.cols; i++)
                    nearest = fmin(nearest, fabs(d.s[i] - report.sigma2));
                assert_true(nearest <= report.sigma2_residual * report.sigma2 + 1e-5 * d.s[0]);
            }
        }
        free(want_in);
        free(want_out);
        free(H_in);
        free(H_out);
        drop_dense(d);
        free_samples(s);
    }
}

/* y = R x, or R^T x. */
static void times(const dense *d, bool transposed, const double *x, double *y)
{
    memset(y, 0, (transposed ? d->cols : d->rows) * sizeof *y);
    for (size_t j = 0; j < d->cols; j++)
        for (size_t i = 0; i < d->rows; i++)
            if (transposed)
                y[j] += d->R[j * d->rows + i] * x[i];
            else
                y[i] += d->R[j * d->rows + i] * x[j];
}

static double length_of(const double *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sqrt(sum);
}

/* ||R^T u - sigma v|| / sigma for u = R v / sigma, |v| = 1. */
static double residual_of(const dense *d, const double *v)
{
    double *u = zeroed(d->rows, sizeof *u), *w = zeroed(d->cols, sizeof *w);
    times(d, false, v, u);
    double sigma = length_of(u, d->rows);
    for (size_t i = 0; i < d->rows; i++)
        u[i] /= sigma;
    times(d, true, u, w);
    for (size_t i = 0; i < d->cols; i++)
        w[i] -= sigma * v[i];
    double r = length_of(w, d->cols) / sigma;
    free(u);
    free(w);
    return r;
}

/* The traces against the definition, in f64 on the dense operator. Power iteration: v <- R^T R v.
 * Lanczos: the best v of the Krylov space span{v, R^T R v, ...}, found without a recursion, by Gram and
 * Schmidt and the SVD of R on that space. */
static void traces(void **state)
{
    (void)state;
    enum { D = 9, M = 7, N = 5, COLS = N * (N + 1) / 2, STEPS = 6 };
    sample_set s = samples(D, M, N, 400);
    dense d = dense_svd(&s);
    double V[STEPS][COLS], v[COLS], w[COLS], power[STEPS], krylov[STEPS], *u = zeroed(d.rows, sizeof *u);
    for (size_t i = 0, k = 0; i < N; i++)
        for (size_t j = 0; j <= i; j++, k++)
            v[k] = i == j ? 1 / sqrt(N) : 0;
    for (int step = 0; step < STEPS; step++) {
        power[step] = residual_of(&d, v);
        memcpy(V[step], v, sizeof v);
        for (int twice = 0; twice < 2; twice++)
            for (int k = 0; k < step; k++) {
                double c = 0;
                for (int i = 0; i < COLS; i++)
                    c += V[k][i] * V[step][i];
                for (int i = 0; i < COLS; i++)
                    V[step][i] -= c * V[k][i];
            }
        double length = length_of(V[step], COLS);
        for (int i = 0; i < COLS; i++)
            V[step][i] /= length;
        double *RV = zeroed(d.rows * STEPS, sizeof *RV), sv[STEPS], vt[STEPS * STEPS], one, work[2000];
        for (int k = 0; k <= step; k++)
            times(&d, false, V[k], RV + (size_t)k * d.rows);
        int rows = (int)d.rows, cols = step + 1, lwork = 2000, info, unit = 1;
        dgesvd_("N", "A", &rows, &cols, RV, &rows, sv, &one, &unit, vt, &cols, work, &lwork, &info, 1, 1);
        assert_int_equal(info, 0);
        for (int i = 0; i < COLS; i++) {
            w[i] = 0;
            for (int k = 0; k <= step; k++)
                w[i] += vt[k * cols] * V[k][i];
        }
        krylov[step] = residual_of(&d, w);
        free(RV);
        times(&d, false, v, u);
        times(&d, true, u, w);
        length = length_of(w, COLS);
        for (int i = 0; i < COLS; i++)
            v[i] = w[i] / length;
    }
    float H_in[N * N], H_out[M * M];
    kq_factor_options opt = kq_factor_defaults();
    kq_factor_report r;
    opt.tol = 0;
    opt.max_iter = STEPS;
    for (int method = 0; method < 3; method++) {
        const double *want = method == 1 ? power : krylov;
        opt.method = method == 0 ? KQ_FASTKRON : method == 1 ? KQ_YAQA_B : KQ_DIAG;
        check_ok(kq_factors(&s.G, &opt, H_in, H_out, &r, NULL, NULL, &err));
        assert_int_equal(r.n_trace, STEPS);
        for (int k = 0; k < STEPS; k++) {
            assert_int_equal(r.trace[k].products, 2 * (k + 1));
            /* f32: 2^-24 a product, a few of them */
            assert_true(fabs(r.trace[k].residual - want[k]) <= 1e-3 * want[k] + 2e-6);
        }
    }
    assert_true(krylov[STEPS - 1] < 0.5 * power[STEPS - 1] && power[STEPS - 1] < 0.5 * power[0]);

    /* yaqa-b's sigma2: exact once one direction is left. */
    opt.method = KQ_YAQA_B;
    opt.max_iter = 400;
    opt.tol = 1e-4;
    check_ok(kq_factors(&s.G, &opt, H_in, H_out, &r, NULL, NULL, &err));
    assert_true(r.converged && fabs(r.sigma2 / d.s[1] - 1) < 0.02 && r.sigma2_residual < 0.02);
    opt.tol = 0; /* more steps than the trace holds: the first ones are kept */
    opt.max_iter = KQ_TRACE + 5;
    check_ok(kq_factors(&s.G, &opt, H_in, H_out, &r, NULL, NULL, &err));
    assert_true(r.n_trace == KQ_TRACE && r.trace[KQ_TRACE - 1].products == 2 * KQ_TRACE &&
                r.products == 2 * (KQ_TRACE + 5));
    assert_true(fabs(r.sigma2 / d.s[1] - 1) < 0.02);
    opt = kq_factor_defaults();
    check_ok(kq_factors(&s.G, &opt, H_in, H_out, &r, NULL, NULL, &err));
    assert_int_equal(r.n_trace, 0);
    free(u);
    drop_dense(d);
    free_samples(s);
}

static void fastkron_equals_arpack(void **state)
{
    (void)state;
    size_t D = 64, m = 48, n = 40, count = 2 + n * n + m * m;
    sample_set s = {.bits = zeroed(D * m * n, 2), .x = zeroed(D * m * n, sizeof(double))};
    for (size_t i = 0; i < D * m * n; i++) { /* scripts/make_golden_fisher.py */
        uint64_t z = (i + 1) * 0x9E3779B97F4A7C15u;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
        z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        z ^= z >> 31;
        double x = (double)(z >> 40) / 8388608.0 - 1;
        x *= (double)(1 + i / (m * n) % 5);
        x /= 1 + 0.1 * (double)(i / n % m);
        x /= 1 + 0.05 * (double)(i % n);
        s.bits[i] = kq_f32_to_bf16((float)x);
        s.x[i] = kq_bf16_to_f32(s.bits[i]);
    }
    s.G = (kq_gradients){.D = D, .m = m, .n = n, .g = s.bits};
    double *golden = zeroed(count, sizeof *golden);
    FILE *f = fopen(KRONQ_GOLDEN_DIR "/fisher_arpack.bin", "rb");
    assert_non_null(f);
    assert_int_equal(fread(golden, sizeof *golden, count, f), count);
    fclose(f);
    float *want_in = to_float(golden + 2, n * n), *want_out = to_float(golden + 2 + n * n, m * m);
    float *H_in = zeroed(n * n, sizeof *H_in), *H_out = zeroed(m * m, sizeof *H_out);
    for (int run = 0; run < 3; run++) {
        kq_factor_options opt = kq_factor_defaults();
        kq_factor_report report;
        opt.method = KQ_FASTKRON;
        opt.start_random = run == 1;
        opt.compute = run == 2 ? KQ_BF16 : KQ_F32;
        opt.tol = run == 2 ? 1e-3 : 1e-5;
        opt.threads = 2;
        check_ok(kq_factors(&s.G, &opt, H_in, H_out, &report, NULL, NULL, &err));
        check_factors(&s, H_in, H_out, &report);
        to_unit(H_in, n);
        to_unit(H_out, m);
        double tol = run == 2 ? 1e-2 : 5e-5;
        check_close(H_in, want_in, n * n, tol);
        check_close(H_out, want_out, m * m, tol);
        assert_true(fabs(report.sigma1 / golden[0] - 1) < tol);
        assert_true(report.sigma2 <= golden[1] * (1 + tol));
        assert_true(run == 2 || report.converged);
    }
    free(golden);
    free(want_in);
    free(want_out);
    free(H_in);
    free(H_out);
    free_samples(s);
}

/* Power iteration and Lanczos: one fixed point, from either start; diag keeps its diagonal. */
static void yaqa_b_is_fastkrons_fixed_point(void **state)
{
    (void)state;
    const size_t D = 20, m = 24, n = 17;
    sample_set s = samples(D, m, n, 77);
    float *want_in = zeroed(n * n, sizeof *want_in), *want_out = zeroed(m * m, sizeof *want_out);
    float *H_in = zeroed(n * n, sizeof *H_in), *H_out = zeroed(m * m, sizeof *H_out);
    kq_factor_options opt = kq_factor_defaults();
    kq_factor_report lanczos, power;
    opt.method = KQ_FASTKRON;
    opt.tol = 1e-6;
    check_ok(kq_factors(&s.G, &opt, want_in, want_out, &lanczos, NULL, NULL, &err));
    assert_true(lanczos.converged);
    for (int random = 0; random < 2; random++) {
        opt.method = KQ_YAQA_B;
        opt.max_iter = 200;
        opt.start_random = random;
        check_ok(kq_factors(&s.G, &opt, H_in, H_out, &power, NULL, NULL, &err));
        assert_true(power.converged && power.residual <= 1e-6 && power.products > lanczos.products / 2);
        assert_true(fabs(power.sigma1 / lanczos.sigma1 - 1) < 1e-5);
        check_close(H_in, want_in, n * n, 1e-3);
        check_close(H_out, want_out, m * m, 1e-3);
        check_factors(&s, H_in, H_out, &power);
    }
    opt.max_iter = 1;
    check_ok(kq_factors(&s.G, &opt, H_in, H_out, &power, NULL, NULL, &err));
    assert_true(!power.converged && power.residual > 1e-6 && power.products == 2);

    opt = kq_factor_defaults();
    opt.method = KQ_DIAG;
    opt.tol = 1e-6;
    check_ok(kq_factors(&s.G, &opt, H_in, H_out, &power, NULL, NULL, &err));
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            assert_true(i == j ? fabs(H_in[i * n + i] / want_in[i * n + i] - 1) < 1e-3
                               : H_in[i * n + j] == 0);
    free(want_in);
    free(want_out);
    free(H_in);
    free(H_out);
    free_samples(s);
}

int main(void)
{
    kq_kern_init(kq_isa_best());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fastkron_is_the_leading_triplet),
        cmocka_unit_test(traces),
        cmocka_unit_test(fastkron_equals_arpack),
        cmocka_unit_test(yaqa_b_is_fastkrons_fixed_point),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
