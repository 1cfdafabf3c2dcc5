/* Factors against dense f64 arithmetic written out here, LAPACK's SVD and ARPACK (golden). */
#include "check.h"

#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "fisher/panel.h"
#include "fisher/product.h"
#include "kern/lapack.h"

static kq_error err;

/* Every allocation of the room goes through here (linked with --wrap): the sizes promised are compared
 * with those asked for. */
static size_t allocated;
kq_status __real_kq_alloc_for(void **out, size_t count, size_t size, const char *what, kq_error *e);
kq_status __wrap_kq_alloc_for(void **out, size_t count, size_t size, const char *what, kq_error *e);
kq_status __wrap_kq_alloc_for(void **out, size_t count, size_t size, const char *what, kq_error *e)
{
    allocated += count * size;
    return __real_kq_alloc_for(out, count, size, what, e);
}

static void *get(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);
    assert_non_null(p);
    return p;
}

typedef struct sample_set {
    kq_gradients G;
    uint16_t *bits;
    double *x;
} sample_set;

/* Heavy-ish tails and a common structure: rows and columns of unequal scale, samples too. */
static sample_set samples(size_t D, size_t m, size_t n, uint64_t seed)
{
    sample_set s = {.bits = get(D * m * n, 2), .x = get(D * m * n, sizeof(double))};
    kq_rng rng = kq_rng_stream(seed, "test gradients");
    for (size_t i = 0; i < D; i++) {
        double scale = exp(0.5 * kq_rng_normal(&rng));
        for (size_t a = 0; a < m; a++)
            for (size_t b = 0; b < n; b++) {
                size_t at = (i * m + a) * n + b;
                s.x[at] = kq_rng_normal(&rng) + (b ? 0.5 * s.x[at - 1] : 0) + (a ? 0.3 * s.x[at - n] : 0);
                s.bits[at] = kq_f32_to_bf16((float)(scale * s.x[at] / (1 + 0.2 * (double)(a % 9))));
            }
    }
    for (size_t i = 0; i < D * m * n; i++)
        s.x[i] = kq_bf16_to_f32(s.bits[i]);
    s.G = (kq_gradients){.D = D, .m = m, .n = n, .g = s.bits};
    return s;
}

static void drop(sample_set s)
{
    free(s.bits);
    free(s.x);
}

/* scale * sum_i G_i Y G_i^T (adjoint: G_i^T Y G_i), triple loops in f64. */
static double *naive(const sample_set *s, bool adjoint, const double *Y, double scale)
{
    size_t D = s->G.D, m = s->G.m, n = s->G.n, dim = adjoint ? n : m, k = adjoint ? m : n;
    double *out = get(dim * dim, sizeof *out), *T = get(dim * k, sizeof *T);
    for (size_t i = 0; i < D; i++) {
        const double *G = s->x + i * m * n;
        for (size_t a = 0; a < dim; a++)
            for (size_t b = 0; b < k; b++) {
                double sum = 0;
                for (size_t c = 0; c < k; c++)
                    sum += (adjoint ? G[c * n + a] : G[a * n + c]) * Y[c * k + b];
                T[a * k + b] = sum;
            }
        for (size_t a = 0; a < dim; a++)
            for (size_t b = 0; b < dim; b++) {
                double sum = 0;
                for (size_t c = 0; c < k; c++)
                    sum += T[a * k + c] * (adjoint ? G[c * n + b] : G[b * n + c]);
                out[a * dim + b] += scale * sum;
            }
    }
    free(T);
    return out;
}

static float *to_float(const double *x, size_t n)
{
    float *y = get(n, sizeof *y);
    for (size_t i = 0; i < n; i++)
        y[i] = (float)x[i];
    return y;
}

/* A^-1 of a positive definite matrix and log det A, by Cholesky in f64. */
static double invert(const double *A, size_t n, double *inverse)
{
    double *L = get(n * n, sizeof *L), logdet = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) {
            double sum = A[i * n + j];
            for (size_t k = 0; k < j; k++)
                sum -= L[i * n + k] * L[j * n + k];
            if (i == j) {
                assert_true(sum > 0);
                L[i * n + i] = sqrt(sum);
                logdet += log(sum);
            } else
                L[i * n + j] = sum / L[j * n + j];
        }
    for (size_t c = 0; c < n; c++) {
        double *x = inverse + c * n; /* symmetric: row c is column c */
        for (size_t i = 0; i < n; i++) {
            double sum = i == c;
            for (size_t k = 0; k < i; k++)
                sum -= L[i * n + k] * x[k];
            x[i] = sum / L[i * n + i];
        }
        for (size_t i = n; i-- > 0;) {
            double sum = x[i];
            for (size_t k = i + 1; k < n; k++)
                sum -= L[k * n + i] * x[k];
            x[i] = sum / L[i * n + i];
        }
    }
    free(L);
    return logdet;
}

static double trace_of(const float *H, size_t n)
{
    double t = 0;
    for (size_t i = 0; i < n; i++)
        t += H[i * n + i];
    return t;
}

static double mean_square(const sample_set *s)
{
    double sum = 0;
    for (size_t i = 0; i < s->G.D * s->G.m * s->G.n; i++)
        sum += s->x[i] * s->x[i];
    return sum / (double)s->G.D;
}

/* What kq_factors promises of every result. */
static void check_factors(const sample_set *s, const float *H_in, const float *H_out,
                          const kq_factor_report *report)
{
    size_t m = s->G.m, n = s->G.n;
    double want = mean_square(s), a = trace_of(H_in, n), b = trace_of(H_out, m);
    assert_true(fabs(a * b / want - 1) < 1e-5);
    assert_true(fabs(report->trace_product / want - 1) < 1e-5);
    assert_true(fabs(a / (double)n / (b / (double)m) - 1) < 1e-5);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++)
            assert_true(H_in[i * n + j] == H_in[j * n + i]);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < i; j++)
            assert_true(H_out[i * m + j] == H_out[j * m + i]);
}

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

static void apply(kq_product *p, const kq_gradients *G, bool adjoint, kq_middle kind, const float *mid,
                  float *out)
{
    check_ok(kq_product_begin(p, adjoint, kind, mid, p->plan.D, &err));
    for (size_t first = 0; first < G->D; first += p->plan.chunk) {
        size_t count = G->D - first < p->plan.chunk ? G->D - first : p->plan.chunk;
        check_ok(kq_product_add(p, G->g + first * p->plan.sample, count, &err));
    }
    check_ok(kq_product_end(p, out, &err));
}

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
            double *Y = get(other * other, sizeof *Y), *C = get(other * other, sizeof *C),
                   *CC = get(other * other, sizeof *CC);
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
            double *identity = get(other * other, sizeof *identity);
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
                    float *got = get(dim * dim, sizeof *got);
                    kq_product_init(&p, &plan, block);
                    apply(&p, &s.G, adjoint, (kq_middle)kind, mid, got);
                    /* bf16: the middle and T are rounded to 8 bits, 2^-9 each in the worst case, mostly
                     * averaged away. Integers: three roundings of
                     * 1e-4 of the root mean square, averaged likewise. */
                    check_close(got, want, dim * dim, way == 1 ? 6e-3 : way == 2 ? 2e-4 : 2e-6);
                    if (kind == KQ_MID_SYMMETRIC) {
                        float *again = get(dim * dim, sizeof *again);
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
        drop(s);
    }
}

/* More samples than a chunk holds: 71 of [480, 512] in f32 are two chunks, the second shorter. */
static void many_chunks(void **state)
{
    (void)state;
    size_t D = 71, m = 480, n = 512;
    uint16_t *bits = get(D * m * n, 2);
    kq_product_plan plan;
    assert_true(kq_product_size(&plan, &(kq_gradients){.D = D, .m = m, .n = n}, KQ_F32, true, 1, 0, false) &&
                plan.chunk < D && D % plan.chunk != 0);
    /* G_i = a_i e_{i mod m} e_{i mod n}^T: A(I) is diagonal and known exactly. */
    float *Y = get(n * n, sizeof *Y), *out = get(n * n, sizeof *out), *want = get(n * n, sizeof *want);
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

/* Eq. 3 word for word, f64; the rounds before the last over the first `early` samples. */
static void naive_flipflop(const sample_set *s, double rho, int rounds, size_t early, double **H_in,
                           double **H_out)
{
    size_t m = s->G.m, n = s->G.n;
    double *inverse = get((m > n ? m * m : n * n), sizeof *inverse), *I = get(m * m, sizeof *I), *in = NULL,
           *out = NULL;
    for (size_t i = 0; i < m; i++)
        I[i * m + i] = 1;
    for (int half = 0; half < 2 * rounds; half++) {
        bool adjoint = half % 2 == 0;
        double *from = adjoint ? out : in, **to = adjoint ? &in : &out;
        size_t dim = adjoint ? m : n;
        if (from) {
            double trace = 0;
            for (size_t i = 0; i < dim; i++)
                trace += from[i * dim + i];
            double *A = get(dim * dim, sizeof *A);
            for (size_t i = 0; i < dim * dim; i++)
                A[i] = from[i] * (double)dim / trace + (i % (dim + 1) == 0 ? rho : 0);
            invert(A, dim, inverse);
            free(A);
        }
        free(*to);
        sample_set these = *s;
        these.G.D = half < 2 * (rounds - 1) ? early : s->G.D;
        *to = naive(&these, adjoint, from ? inverse : I, 1.0 / ((double)these.G.D * (double)dim));
    }
    double ti = 0, to = 0, want = mean_square(s);
    for (size_t i = 0; i < n; i++)
        ti += in[i * n + i];
    for (size_t i = 0; i < m; i++)
        to += out[i * m + i];
    double mean = sqrt(want / (double)(m * n));
    for (size_t i = 0; i < n * n; i++)
        in[i] *= mean * (double)n / ti;
    for (size_t i = 0; i < m * m; i++)
        out[i] *= mean * (double)m / to;
    free(inverse);
    free(I);
    *H_in = in;
    *H_out = out;
}

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
        float *H_in = get(n * n, sizeof *H_in), *H_out = get(m * m, sizeof *H_out);
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
        drop(s);
    }
    assert_true(flop[1] < 0.8 * flop[0]);
}

/* Log-likelihood of G_i ~ MN(0, c Ho, Hi) at the best scale c, up to a constant. */
static double likelihood(const sample_set *s, const double *Ho, const double *Hi)
{
    size_t D = s->G.D, m = s->G.m, n = s->G.n;
    double *io = get(m * m, sizeof *io), *ii = get(n * n, sizeof *ii);
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
    double *M = get(n * n, sizeof *M), *X = get(n * n, sizeof *X), *out = get(n * n, sizeof *out);
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
    float *H_in = get(n * n, sizeof *H_in), *H_out = get(m * m, sizeof *H_out);
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
    drop(s);
}

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
    dense d = {get(rows * cols, sizeof(double)),
               get(rows, sizeof(double)),
               get(rows * rows, sizeof(double)),
               get(cols * cols, sizeof(double)),
               rows,
               cols};
    double *R = get(rows * cols, sizeof *R), *E = get(n * n, sizeof *E),
           *work = get(20 * (rows + cols), sizeof *work);
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
    float *H = get(n * n, sizeof *H);
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
        float *H_in = get(n * n, sizeof *H_in), *H_out = get(m * m, sizeof *H_out);
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
        drop(s);
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
    double *u = get(d->rows, sizeof *u), *w = get(d->cols, sizeof *w);
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
    double V[STEPS][COLS], v[COLS], w[COLS], power[STEPS], krylov[STEPS], *u = get(d.rows, sizeof *u);
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
        double *RV = get(d.rows * STEPS, sizeof *RV), sv[STEPS], vt[STEPS * STEPS], one, work[2000];
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
    drop(s);
}

static void fastkron_equals_arpack(void **state)
{
    (void)state;
    size_t D = 64, m = 48, n = 40, count = 2 + n * n + m * m;
    sample_set s = {.bits = get(D * m * n, 2), .x = get(D * m * n, sizeof(double))};
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
    double *golden = get(count, sizeof *golden);
    FILE *f = fopen(KRONQ_GOLDEN_DIR "/fisher_arpack.bin", "rb");
    assert_non_null(f);
    assert_int_equal(fread(golden, sizeof *golden, count, f), count);
    fclose(f);
    float *want_in = to_float(golden + 2, n * n), *want_out = to_float(golden + 2 + n * n, m * m);
    float *H_in = get(n * n, sizeof *H_in), *H_out = get(m * m, sizeof *H_out);
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
    drop(s);
}

/* Power iteration and Lanczos: one fixed point, from either start; diag keeps its diagonal. */
static void yaqa_b_is_fastkrons_fixed_point(void **state)
{
    (void)state;
    const size_t D = 20, m = 24, n = 17;
    sample_set s = samples(D, m, n, 77);
    float *want_in = get(n * n, sizeof *want_in), *want_out = get(m * m, sizeof *want_out);
    float *H_in = get(n * n, sizeof *H_in), *H_out = get(m * m, sizeof *H_out);
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
    drop(s);
}

static int count_calls(void *ctx, double fraction)
{
    int *calls = ctx;
    assert_true(fraction >= 0 && fraction < 1);
    return ++*calls == 3;
}

static void threads_and_memory(void **state)
{
    (void)state;
    size_t D = 3, m = 400, n = 100;
    sample_set s = samples(D, m, n, 60);
    float *H[3][2];
    for (int method = 0; method < 2; method++)
        for (int way = 0; way < 3; way++) {
            kq_factor_options opt = kq_factor_defaults();
            opt.method = method ? KQ_FASTKRON : KQ_FLIPFLOP;
            opt.compute = way == 1 ? KQ_BF16 : KQ_F32;
            opt.exact = way == 0;
            opt.max_iter = 2;
            opt.rounds = 2;
            for (int t = 0; t < 3; t++) {
                H[t][0] = get(n * n, sizeof(float));
                H[t][1] = get(m * m, sizeof(float));
                opt.threads = t + 1;
                allocated = 0;
                check_ok(kq_factors(&s.G, &opt, H[t][0], H[t][1], NULL, NULL, NULL, &err));
                assert_int_equal(allocated, kq_factors_bytes(&s.G, &opt));
                assert_memory_equal(H[t][0], H[0][0], n * n * sizeof(float));
                assert_memory_equal(H[t][1], H[0][1], m * m * sizeof(float));
            }
            for (int t = 0; t < 3; t++) {
                free(H[t][0]);
                free(H[t][1]);
            }
        }
    kq_factor_options opt = kq_factor_defaults();
    assert_true(kq_factors_bytes(&(kq_gradients){.D = 96, .m = 1536, .n = 576}, &opt) <= (size_t)300 << 20);
    assert_true(kq_factors_bytes(&(kq_gradients){.D = 10000, .m = 576, .n = 1536}, &opt) <= (size_t)300
                                                                                                << 20);
    opt.exact = true;
    assert_true(kq_factors_bytes(&(kq_gradients){.D = 96, .m = 1536, .n = 576}, &opt) <= (size_t)300 << 20);
    assert_true(kq_factors_bytes(&(kq_gradients){.D = 10000, .m = 576, .n = 1536}, &opt) <= (size_t)300
                                                                                                << 20);
    opt.compute = KQ_BF16;
    assert_true(kq_factors_bytes(&(kq_gradients){.D = 96, .m = 1536, .n = 576}, &opt) <= (size_t)300 << 20);
    drop(s);
}

/* A source that keeps nothing in memory: a file, or samples made again from their number. */
typedef struct other_source {
    const sample_set *s;
    FILE *file;
    size_t next, longest;
} other_source;

static kq_status read_samples(void *ctx, size_t first, size_t count, uint16_t *g, kq_error *e)
{
    other_source *o = ctx;
    const size_t mn = o->s->G.m * o->s->G.n;
    /* in order, all of them or as many as are asked for */
    assert_true((!first || first == o->next) && first + count <= o->s->G.D);
    o->next = (first + count) % o->s->G.D;
    o->longest = count > o->longest ? count : o->longest;
    if (!o->file) {
        memcpy(g, o->s->bits + first * mn, count * mn * 2);
        return KQ_OK;
    }
    if (fseek(o->file, (long)(first * mn * 2), SEEK_SET) || fread(g, mn * 2, count, o->file) != count)
        return kq_fail(e, KQ_E_IO, "the file ends early");
    return KQ_OK;
}

/* Samples of several sources in uneven groups, taken in turn. */
typedef struct many_sources {
    const sample_set *s;
    size_t count, group[3], passes, given[3];
} many_sources;

static kq_status pass_over(void *ctx, kq_gradient_sink *to, kq_error *e)
{
    many_sources *o = ctx;
    size_t at[3] = {0}, D = o->s[0].G.D;
    o->passes++;
    kq_status status = KQ_OK;
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < o->count && !status; i++) {
            size_t count = D - at[i] < o->group[i] ? D - at[i] : o->group[i];
            if (!(to->wanted >> i & 1) || at[i] == D)
                continue;
            status = to->add(to, i, o->s[i].bits + at[i] * o->s[i].G.m * o->s[i].G.n, count, e);
            at[i] += count;
            o->given[i] += count;
            more = more || (at[i] < D && to->wanted >> i & 1);
            if (status)
                return status;
        }
    }
    return KQ_OK;
}

/* In memory, from a file, made again, and side by side with other layers in groups of any size: the same
 * bytes, at any number of threads. */
static void sources_agree(void **state)
{
    (void)state;
    static const size_t sizes[3][2] = {{80, 200}, {130, 30}, {1, 9}};
    enum { D = 41, EARLY = 12 };
    sample_set s[3];
    float *want[4][2], *got[4][2];
    for (size_t i = 0; i < 3; i++)
        s[i] = samples(D, sizes[i][0], sizes[i][1], 300 + i);
    for (int variant = 0; variant < 4; variant++) {
        kq_factor_options opt[4];
        static const kq_method methods[4] = {KQ_FLIPFLOP, KQ_FASTKRON, KQ_YAQA_B, KQ_DIAG};
        kq_factor_report report[4];
        kq_stream_linear linears[4];
        for (size_t i = 0; i < 4; i++) { /* the fourth is another estimate of the first layer */
            opt[i] = kq_factor_defaults();
            opt[i].method = methods[(i + (size_t)variant) % 4];
            opt[i].compute = variant == 2 ? KQ_BF16 : KQ_F32;
            opt[i].exact = variant == 3;
            opt[i].max_iter = 3;
            opt[i].rounds = 2;
            opt[i].early = EARLY;
            opt[i].chunk_bytes = (size_t)300 << 10; /* several chunks, the last shorter */
            opt[i].threads = 1;
            const sample_set *mine = &s[i % 3];
            const size_t m = mine->G.m, n = mine->G.n;
            for (int k = 0; k < 2; k++) {
                want[i][k] = get(k ? m * m : n * n, sizeof(float));
                got[i][k] = get(k ? m * m : n * n, sizeof(float));
            }
            check_ok(kq_factors(&mine->G, &opt[i], want[i][0], want[i][1], &report[i], NULL, NULL, &err));
            kq_product_plan plan;
            assert_true(kq_product_size(&plan, &mine->G, opt[i].compute, true, 1, opt[i].chunk_bytes, false));
            assert_true(i % 3 != 0 || plan.chunk < D);
            for (int way = 0; way < 2; way++) {
                other_source o = {.s = mine, .file = way ? tmpfile() : NULL};
                if (o.file)
                    assert_int_equal(fwrite(mine->bits, m * n * 2, D, o.file), D);
                kq_gradients G = {.D = D, .m = m, .n = n, .read = read_samples, .ctx = &o};
                kq_factor_report r;
                opt[i].threads = 2 + way;
                allocated = 0;
                check_ok(kq_factors(&G, &opt[i], got[i][0], got[i][1], &r, NULL, NULL, &err));
                assert_int_equal(allocated, kq_factors_bytes(&G, &opt[i]));
                assert_memory_equal(got[i][0], want[i][0], n * n * sizeof(float));
                assert_memory_equal(got[i][1], want[i][1], m * m * sizeof(float));
                assert_true(r.products == report[i].products && r.residual == report[i].residual &&
                            r.flop == report[i].flop);
                assert_int_equal(o.longest, kq_product_size(&plan, &mine->G, opt[i].compute,
                                                            opt[i].exact || opt[i].method != KQ_FLIPFLOP, 1,
                                                            opt[i].chunk_bytes, false)
                                                ? plan.chunk
                                                : 0);
                if (o.file)
                    fclose(o.file);
                memset(got[i][0], 0, n * n * sizeof(float));
            }
            linears[i] = (kq_stream_linear){.source = i % 3,
                                            .D = D,
                                            .m = m,
                                            .n = n,
                                            .opt = &opt[i],
                                            .H_in = got[i][0],
                                            .H_out = got[i][1]};
        }
        for (size_t g = 0; g < 3; g++) {
            many_sources o = {.s = s, .count = 3, .group = {1 + 3 * g, g == 1 ? D : 2, 5}};
            size_t longest = 0;
            for (size_t i = 0; i < 4; i++) {
                opt[i].threads = 1 + (int)g;
                longest = (size_t)report[i].products > longest ? (size_t)report[i].products : longest;
            }
            allocated = 0;
            check_ok(kq_factors_stream(linears, 4, pass_over, &o, NULL, NULL, &err));
            assert_int_equal(allocated, kq_factors_stream_bytes(linears, 4));
            assert_int_equal(o.passes, longest);
            size_t first =
                (size_t)(report[0].products > report[3].products ? report[0].products : report[3].products);
            assert_int_equal(o.given[0], D * first); /* a finished layer is asked for no more */
            const size_t early = (EARLY + o.group[1] - 1) / o.group[1] * o.group[1];
            assert_int_equal(o.given[1], opt[1].method == KQ_FLIPFLOP ? 2 * D + 2 * (early < D ? early : D)
                                                                      : D * (size_t)report[1].products);
            for (size_t i = 0; i < 4; i++) {
                const size_t m = linears[i].m, n = linears[i].n;
                assert_memory_equal(got[i][0], want[i][0], n * n * sizeof(float));
                assert_memory_equal(got[i][1], want[i][1], m * m * sizeof(float));
                assert_int_equal(linears[i].report.products, report[i].products);
                assert_true(linears[i].report.trace_product == report[i].trace_product);
            }
        }
        for (size_t i = 0; i < 4; i++)
            for (int k = 0; k < 2; k++) {
                free(want[i][k]);
                free(got[i][k]);
            }
    }
    for (size_t i = 0; i < 3; i++)
        drop(s[i]);
}

/* Samples in both forms: g_i, x_i of T tokens in bf16; s.x their product exactly, s.bits that product
 * rounded to bf16. */
static uint16_t *factored_samples(size_t D, size_t m, size_t n, size_t T, uint64_t seed, sample_set *s)
{
    const size_t each = T * (m + n);
    uint16_t *tokens = get(D * each, 2);
    *s = (sample_set){.bits = get(D * m * n, 2), .x = get(D * m * n, sizeof(double))};
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
                double *Y = get(other * other, sizeof *Y), *C = get(other * other, sizeof *C);
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
                      *got = get(dim * dim, sizeof *got);
                float *again = get(dim * dim, sizeof *again);
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
        drop(s);
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
            H[f][0] = get(n * n, sizeof(float));
            H[f][1] = get(m * m, sizeof(float));
            again[f] = get(f ? m * m : n * n, sizeof(float));
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
        drop(s);
    }
}

static kq_status short_pass(void *ctx, kq_gradient_sink *to, kq_error *e)
{
    const sample_set *s = ctx;
    return to->add(to, 0, s->bits, s->G.D - 1, e);
}

static kq_status long_pass(void *ctx, kq_gradient_sink *to, kq_error *e)
{
    const sample_set *s = ctx;
    kq_status status = to->add(to, 0, s->bits, s->G.D, e);
    return status ? status : to->add(to, 0, s->bits, 1, e);
}

static kq_status no_samples(void *ctx, size_t first, size_t count, uint16_t *g, kq_error *e)
{
    (void)ctx, (void)first, (void)count, (void)g;
    return kq_fail(e, KQ_E_IO, "the disk is gone");
}

static void sources_fail(void **state)
{
    (void)state;
    sample_set s = samples(5, 4, 3, 310);
    float H_in[9], H_out[16];
    kq_factor_options opt = kq_factor_defaults();
    kq_stream_linear l = {.D = 5, .m = 4, .n = 3, .opt = &opt, .H_in = H_in, .H_out = H_out};
    check_fails(kq_factors_stream(&l, 1, short_pass, &s, NULL, NULL, &err), KQ_E_ARG,
                "5 samples ends after 4");
    check_fails(kq_factors_stream(&l, 1, long_pass, &s, NULL, NULL, &err), KQ_E_ARG, "is given 1 after 5");
    l.D = 4;
    check_fails(kq_factors_stream(&l, 1, long_pass, &s, NULL, NULL, &err), KQ_E_ARG, "is given 5");
    l.D = 5;
    l.source = 64;
    check_fails(kq_factors_stream(&l, 1, long_pass, &s, NULL, NULL, &err), KQ_E_ARG, "source 64");
    check_fails(kq_factors(&(kq_gradients){.D = 5, .m = 4, .n = 3, .read = no_samples}, &opt, H_in, H_out,
                           NULL, NULL, NULL, &err),
                KQ_E_IO, "disk is gone");
    check_fails(
        kq_factors(&(kq_gradients){.D = 5, .m = 4, .n = 3}, &opt, H_in, H_out, NULL, NULL, NULL, &err),
        KQ_E_ARG, "neither");
    l.source = 0;
    s.bits[4 * 12 + 5] = 0x7fc0;
    check_fails(kq_factors_stream(&l, 1, long_pass, &s, NULL, NULL, &err), KQ_E_NUMERIC, "sample 4 ");
    drop(s);
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
    drop(s);
}

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
        sample_set s = {.bits = get(D * M * N, 2), .x = get(D * M * N, sizeof(double))};
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
        float *H_in = get(N * N, sizeof *H_in), *H_out = get(M * M, sizeof *H_out);
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
        drop(s);
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
    drop(s);
}

/* The largest integers there are, all of one sign: no sum may wrap. One column, and all values, equal:
 * the exact answer is known. */
static void integers_do_not_overflow(void **state)
{
    (void)state;
    enum { K = 400, W = 50 };
    uint16_t *bits = get(K * W, 2);
    float *out = get(W * W, sizeof *out);
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
    drop(s);
}

static void triangles(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 5, 128, 129, 300};
    for (size_t k = 0; k < 5; k++) {
        size_t n = sizes[k];
        double *A = get(n * n, sizeof *A), *inverse = get(n * n, sizeof *inverse);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                A[i * n + j] = exp(-0.1 * fabs((double)i - (double)j)) + (i == j);
        float *F = to_float(A, n * n), *L = get(n * n, sizeof *L), *C = get(n * n, sizeof *C),
              *CC = get(n * n, sizeof *CC);
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
    float *H = get(N * N, sizeof *H), *want = get(N * N, sizeof *want),
          *work = get(kq_psd_work(N), sizeof *work), v[N];
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
    float *X = get(2 * T * n, sizeof *X), *H = get(n * n, sizeof *H), *want = get(n * n, sizeof *want);
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

    float *packed = get(n * (n + 1) / 2, sizeof *packed), *back = get(n * n, sizeof *back);
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
    float *X = get(T * n, sizeof *X), *w = get(T, sizeof *w), *H = get(n * n, sizeof *H),
          *again = get(n * n, sizeof *again), *W = get(n * n, sizeof *W);
    float *want = get(n * n, sizeof *want), *scratch = get(T * n, sizeof *scratch), *q = get(T, sizeof *q),
          *want_q = get(T, sizeof *want_q);
    double *A = get(n * n, sizeof *A), *inverse = get(n * n, sizeof *inverse);
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
        cmocka_unit_test(triangles),
        cmocka_unit_test(psd),
        cmocka_unit_test(products),
        cmocka_unit_test(many_chunks),
        cmocka_unit_test(flipflop_is_eq_3),
        cmocka_unit_test(flipflop_is_maximum_likelihood),
        cmocka_unit_test(fastkron_is_the_leading_triplet),
        cmocka_unit_test(traces),
        cmocka_unit_test(fastkron_equals_arpack),
        cmocka_unit_test(yaqa_b_is_fastkrons_fixed_point),
        cmocka_unit_test(token_statistics),
        cmocka_unit_test(threads_and_memory),
        cmocka_unit_test(sources_agree),
        cmocka_unit_test(factored_products),
        cmocka_unit_test(factored_equals_whole),
        cmocka_unit_test(sources_fail),
        cmocka_unit_test(errors),
        cmocka_unit_test(integers_hold),
        cmocka_unit_test(integers_need_their_isa),
        cmocka_unit_test(integers_do_not_overflow),
        cmocka_unit_test(singular),
        cmocka_unit_test(inputs_and_packing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
