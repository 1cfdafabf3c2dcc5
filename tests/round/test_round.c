/* Whole linears: what rounding gains on synthetic factors, the way back against dense matrices, padding,
 * inputs to refuse. */
#include "hyb.h"
#include "base/mem.h"

static const kq_round_options options = {.sigma_reg = 1e-2, .seed = 7, .threads = 2};

/* True loss 1/2 tr(E H_in E^T H_out) of a packed linear, in f64 from its dense weights. */
static double loss_of(const kq_packed *p, const float *W, const float *H_in, const float *H_out, double *mse)
{
    size_t count = p->m * p->n;
    float *E = kq_alloc(count, sizeof *E);
    check_ok(kq_unround_linear(hyb, p, E, 2, &err));
    double e = 0, w = 0;
    for (size_t i = 0; i < count; i++) {
        E[i] = W[i] - E[i];
        e += (double)E[i] * E[i];
        w += (double)W[i] * W[i];
    }
    if (mse)
        *mse = e / w;
    double loss = 0.5 * quadratic(E, p->m, p->n, H_in, H_out);
    kq_free(E);
    return loss;
}

/* Two-sided rounding against one side and none, judged by the curvature of both sides. The reported loss
 * is the true one. Sizes: Hadamard on both sides; padded on both (50 x 70); the Hartley fall-back is too
 * large to be here (test_hadamard). */
static const double MARGIN = 0.85;
static void test_gain(void **state)
{
    (void)state;
    static const size_t sizes[][2] = {{96, 144}, {50, 70}, {128, 48}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        size_t m = sizes[k][0], n = sizes[k][1];
        float *W = normal(m * n, "gain"), *H_in = spd(n, "gain in"), *H_out = spd(m, "gain out");
        double loss[4] = {0}, mse = 0, mse_none = 0;
        for (int sides = 0; sides < 4; sides++)
            for (uint64_t seed = 0; seed < 3;
                 seed++) { /* three draws of the signs: a few directions carry most of the loss */
                kq_packed p;
                kq_round_report rep;
                kq_round_options opt = options;
                opt.seed = seed;
                const float *in = sides & 1 ? H_in : NULL, *out = sides & 2 ? H_out : NULL;
                check_ok(kq_round_linear(hyb, &(kq_round_input){"gain", W, m, n, in, out, true}, &opt, &p,
                                         &rep, &err));
                loss[sides] += loss_of(&p, W, H_in, H_out, &mse) / 3;
                mse_none += sides == 0 ? mse / 3 : 0;
                double own = loss_of(&p, W, in, out, NULL);
                if (!(fabs(rep.predicted_loss / own - 1) < 1e-4))
                    fail_msg("%zu x %zu, sides %d: predicted %g, true %g", m, n, sides, rep.predicted_loss,
                             own);
                if (m % 16 == 0 &&
                    n % 16 == 0) /* with padding the error has rows and columns that are cropped */
                    assert_true(fabs(rep.relative_mse / mse - 1) < 1e-4);
                assert_int_equal(rep.extra_in + rep.extra_out, 0);
                kq_packed_free(&p);
            }
        print_message(
            "%zu x %zu: loss by none %.4g, input %.4g, output %.4g, both %.4g; relative mse by none %.4f\n",
            m, n, loss[0], loss[1], loss[2], loss[3], mse_none);
        /* 2 bits without factors: 0.071 on Gaussian data (docs/math.md, "The trellis code") */
        assert_true(mse_none < 0.08);
        assert_true(loss[1] < MARGIN * loss[0] && loss[2] < MARGIN * loss[0]);
        assert_true(loss[3] < MARGIN * loss[1] && loss[3] < MARGIN * loss[2]);
        kq_free(H_out), kq_free(H_in), kq_free(W);
    }
}

/* tr(L^-1 M L^-T) and ||L^-1||_F^2 of a factor, all dense in f64 from the definitions: M = U^T diag(s)
 * P(H) diag(s) U, its shrunk and conditioned version H = L D L^T by block elimination. */
static void naive_through(const float *H, size_t n, uint64_t seed, const char *stream, double sigma,
                          double shrink, double *measured, double *plain)
{
    const size_t np = (n + 15) / 16 * 16;
    int8_t s[200];
    kq_rng rng = kq_rng_stream(seed, stream);
    kq_rng_signs(&rng, s, n);
    kq_hadamard *u;
    check_ok(kq_hadamard_new(np, &u, &err));
    double *U = dense_u(u), *M[2], *P = kq_alloc(np * np, sizeof *P), *R = kq_calloc(np * np, sizeof *R),
           mean = 0;
    kq_hadamard_free(u);
    for (int k = 0; k < 2; k++) { /* as measured, and shrunk */
        M[k] = kq_calloc(np * np, sizeof *M[k]);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                M[k][i * np + j] = H[i * n + j] * s[i] * s[j] * (k && i != j ? 1 - shrink : 1);
        mul(true, np, np, np, U, M[k], P);
        mul(false, np, np, np, P, U, M[k]);
    }
    for (size_t i = 0; i < np; i++)
        mean += M[1][i * np + i] / (double)np;
    for (size_t i = 0; i < np * np; i++)
        M[1][i] = M[1][i] / mean + (i % (np + 1) ? 0 : sigma);
    /* R = L^-1: eliminate below each block of 16 with the inverse of its diagonal block (Gauss-Jordan),
     * the same row operations on the identity */
    for (size_t i = 0; i < np; i++)
        R[i * np + i] = 1;
    for (size_t b = 0; b < np; b += 16) {
        double A[16][32];
        for (size_t i = 0; i < 16; i++)
            for (size_t j = 0; j < 32; j++)
                A[i][j] = j < 16 ? M[1][(b + i) * np + b + j] : j - 16 == i;
        for (size_t c = 0; c < 16; c++)
            for (size_t i = 0; i < 16; i++) {
                const double f = i == c ? 0 : A[i][c] / A[c][c];
                for (size_t j = 0; j < 32; j++)
                    A[i][j] -= f * A[c][j];
            }
        for (size_t i = b + 16; i < np; i++) {
            double l[16] = {0};
            for (size_t k = 0; k < 16; k++)
                for (size_t c = 0; c < 16; c++)
                    l[k] += M[1][i * np + b + c] * A[c][16 + k] / A[c][c];
            for (size_t k = 0; k < 16; k++)
                for (size_t j = 0; j < np; j++) {
                    M[1][i * np + j] -= l[k] * M[1][(b + k) * np + j];
                    R[i * np + j] -= l[k] * R[(b + k) * np + j];
                }
        }
    }
    mul(false, np, np, np, R, M[0], P);
    *measured = *plain = 0;
    for (size_t i = 0; i < np * np; i++) {
        *measured += P[i] * R[i];
        *plain += R[i] * R[i];
    }
    kq_free(R), kq_free(P), kq_free(M[0]), kq_free(M[1]), kq_free(U);
}

/* The forecast: its two numbers against dense f64; what it says of the loss against rounding, at 2, 3
 * and 4 bits, for factors with half their mean diagonal added (every second case), as benign as a real
 * model's; without that the targets of some tiles are several times as large as the weights, which the
 * forecast does not know. */
static void test_forecast(void **state)
{
    (void)state;
    static const size_t sizes[][2] = {{96, 144}, {50, 70}, {176, 48}};
    kq_trellis *t[5] = {NULL};
    double e[5];
    for (int k = 2; k <= 4; k++) {
        check_ok(kq_trellis_new(KQ_HYB, k, kq_isa_best(), NULL, &t[k], &err));
        check_ok(kq_trellis_error(t[k], &e[k], &err));
    }
    for (size_t i = 0; i < 6; i++) {
        const size_t m = sizes[i / 2][0], n = sizes[i / 2][1];
        float *W = normal(m * n, "forecast"), *H_in = spd(n, "forecast in"), *H_out = spd(m, "forecast out");
        for (int side = 0; side < 2 && i % 2 == 0; side++) {
            const size_t order = side ? m : n;
            float *H = side ? H_out : H_in, mean = 0;
            for (size_t j = 0; j < order; j++)
                mean += H[j * (order + 1)] / (float)order;
            for (size_t j = 0; j < order; j++)
                H[j * (order + 1)] += mean / 2;
        }
        double said[5] = {0}, is[5] = {0}, square = 0;
        for (size_t j = 0; j < m * n; j++)
            square += (double)W[j] * W[j];
        for (uint64_t seed = 0; seed < 2; seed++) {
            kq_forecast f, g;
            double in, out, plain_in, plain_out;
            kq_round_options opt = {.sigma_reg = 1e-2, .seed = seed, .threads = 2, .shrink = i % 2 ? 0.2 : 0};
            const size_t padded = (m + 15) / 16 * ((n + 15) / 16) * 256;
            check_ok(kq_forecast_linear(&(kq_round_input){"x", W, m, n, H_in, H_out, false}, &opt, &f, &err));
            naive_through(H_in, n, seed, "x.su", opt.sigma_reg, opt.shrink, &in, &plain_in);
            naive_through(H_out, m, seed, "x.sv", opt.sigma_reg, opt.shrink, &out, &plain_out);
            const double loss = 0.5 * square / (double)padded * in * out,
                         spread = plain_in * plain_out / (double)padded;
            if (!(fabs(f.loss / loss - 1) < 1e-5) || !(fabs(f.spread / spread - 1) < 1e-5))
                fail_msg("%zu x %zu: forecast %g, %g; dense %g, %g", m, n, f.loss, f.spread, loss, spread);
            opt.threads = 1;
            check_ok(kq_forecast_linear(&(kq_round_input){"x", W, m, n, H_in, H_out, false}, &opt, &g, &err));
            assert_true(f.loss == g.loss && f.spread == g.spread);
            for (int k = 2; k <= 4; k++) {
                kq_packed p;
                kq_round_report rep;
                check_ok(kq_round_linear(t[k], &(kq_round_input){"x", W, m, n, H_in, H_out, true}, &opt, &p,
                                         &rep, &err));
                said[k] += kq_forecast_loss(&f, e[k]);
                is[k] += rep.predicted_loss;
                kq_packed_free(&p);
            }
        }
        print_message("%zu x %zu: rounded / forecast %.3f, %.3f, %.3f at 2, 3, 4 bits\n", m, n,
                      is[2] / said[2], is[3] / said[3], is[4] / said[4]);
        for (int k = 2; k <= 4 && i % 2 == 0; k++)
            assert_true(is[k] / said[k] > 0.85 && is[k] / said[k] < 1.2);
        kq_free(H_out), kq_free(H_in), kq_free(W);
    }
    /* no factors: the squared error itself */
    float *W = normal(96 * 144, "forecast");
    kq_forecast f;
    double square = 0;
    for (size_t j = 0; j < 96 * 144; j++)
        square += (double)W[j] * W[j];
    check_ok(kq_forecast_linear(&(kq_round_input){"x", W, 96, 144, NULL, NULL, false}, &options, &f, &err));
    assert_true(fabs(f.loss / (0.5 * square) - 1) < 1e-12 && f.spread == 1);
    W[7] = NAN;
    check_fails(kq_forecast_linear(&(kq_round_input){"layers.3.q", W, 96, 144, NULL, NULL, false}, &options,
                                   &f, &err),
                KQ_E_NUMERIC, "layers.3.q: the weight");
    kq_free(W);
    for (int k = 2; k <= 4; k++)
        kq_trellis_free(t[k]);
}

/* Rounding with shrink is rounding from factors that were shrunk beforehand; what it predicts is by the
 * factors as given. 3/4 is exact in f32. */
static void test_shrunk(void **state)
{
    (void)state;
    static const size_t sizes[][2] = {{96, 144}, {50, 70}};
    for (size_t k = 0; k < 2; k++) {
        size_t m = sizes[k][0], n = sizes[k][1],
               words = (m + 15) / 16 * ((n + 15) / 16) * kq_trellis_words(hyb);
        float *W = normal(m * n, "shrunk"), *H[2] = {spd(n, "shrunk in"), spd(m, "shrunk out")},
              *S[2] = {spd(n, "shrunk in"), spd(m, "shrunk out")};
        for (int side = 0; side < 2; side++)
            for (size_t i = 0; i < (side ? m : n); i++)
                for (size_t j = 0; j < (side ? m : n); j++)
                    if (i != j)
                        S[side][i * (side ? m : n) + j] *= 0.75f;
        kq_packed a, b, c;
        kq_round_report ra, rb;
        kq_round_options opt = options;
        check_ok(kq_round_linear(hyb, &(kq_round_input){"shrunk", W, m, n, S[0], S[1], true}, &opt, &b, &rb,
                                 &err));
        check_ok(kq_round_linear(hyb, &(kq_round_input){"shrunk", W, m, n, H[0], H[1], true}, &opt, &c, NULL,
                                 &err));
        opt.shrink = 0.25;
        check_ok(kq_round_linear(hyb, &(kq_round_input){"shrunk", W, m, n, H[0], H[1], true}, &opt, &a, &ra,
                                 &err));
        assert_memory_equal(a.trellis, b.trellis, words * 2);
        assert_memory_not_equal(a.trellis, c.trellis, words * 2);
        assert_true(fabs(ra.predicted_loss / loss_of(&a, W, H[0], H[1], NULL) - 1) < 1e-4);
        assert_true(fabs(rb.predicted_loss / loss_of(&b, W, S[0], S[1], NULL) - 1) < 1e-4);
        kq_packed_free(&a), kq_packed_free(&b), kq_packed_free(&c);
        kq_free(S[1]), kq_free(S[0]), kq_free(H[1]), kq_free(H[0]), kq_free(W);
    }
}

/* What = diag(sv) U_m What' U_n^T diag(su), dense in f64. */
static void test_unround(void **state)
{
    (void)state;
    static const size_t sizes[][2] = {{32, 48}, {50, 70}, {1, 48}, {20, 1}, {1, 1}, {56, 176}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        size_t m = sizes[k][0], n = sizes[k][1], mp = (m + 15) / 16 * 16, np = (n + 15) / 16 * 16,
               words = kq_trellis_words(hyb);
        float *W = normal(m * n, "unround"), *got = kq_alloc(m * n, sizeof *got),
              *want = kq_alloc(m * n, sizeof *want), v[256];
        kq_packed p;
        check_ok(kq_round_linear(hyb, &(kq_round_input){"unround", W, m, n, NULL, NULL, false}, &options, &p,
                                 NULL, &err));
        assert_true(p.m == m && p.n == n && p.m_pad == mp && p.n_pad == np && p.scale > 0);
        check_ok(kq_unround_linear(hyb, &p, got, 1, &err));
        kq_hadamard *um, *un;
        check_ok(kq_hadamard_new(mp, &um, &err));
        check_ok(kq_hadamard_new(np, &un, &err));
        double *Um = dense_u(um), *Un = dense_u(un), *X = kq_alloc(mp * np, sizeof *X),
               *P = kq_alloc(mp * np, sizeof *P);
        for (size_t t = 0; t < mp * np / 256; t++) {
            kq_trellis_decode(hyb, p.trellis + t * words, 1, v);
            for (size_t i = 0; i < 256; i++)
                X[(t / (np / 16) * 16 + i / 16) * np + t % (np / 16) * 16 + i % 16] = (double)p.scale * v[i];
        }
        mul(false, mp, np, mp, Um, X, P);
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++) {
                double s = 0;
                for (size_t q = 0; q < np; q++)
                    s += P[i * np + q] * Un[j * np + q];
                want[i * n + j] = (float)(s * p.sv[i] * p.su[j]);
            }
        check_close(got, want, m * n, 1e-5);
        if (m * n >= 1024)
            assert_true(check_rel(got, W, m * n) < 0.3); /* and it is W, to 2 bits: sqrt(0.071) = 0.27 */
        p.n_pad += 16;
        check_fails(kq_unround_linear(hyb, &p, got, 1, &err), KQ_E_SHAPE, "padded");
        kq_packed_free(&p);
        kq_free(P), kq_free(X), kq_free(Un), kq_free(Um), kq_free(want), kq_free(got), kq_free(W);
        kq_hadamard_free(um), kq_hadamard_free(un);
    }
}

static void test_repeatable(void **state)
{
    (void)state;
    size_t m = 100, n = 150, words = 7 * 10 * kq_trellis_words(hyb);
    float *W = normal(m * n, "repeat"), *H_in = spd(n, "repeat in"), *H_out = spd(m, "repeat out");
    kq_packed p[4];
    kq_round_report rep[4];
    for (int i = 0; i < 4; i++) {
        kq_round_options opt = options;
        opt.threads = i < 3 ? i + 1 : 2;
        check_ok(kq_round_linear(hyb,
                                 &(kq_round_input){i < 3 ? "model.a" : "model.b", W, m, n, H_in, H_out, true},
                                 &opt, &p[i], &rep[i], &err));
    }
    for (int i = 1; i < 3; i++) {
        assert_memory_equal(p[i].trellis, p[0].trellis, words * 2);
        assert_memory_equal(p[i].su, p[0].su, n * sizeof *p[i].su);
        assert_memory_equal(p[i].sv, p[0].sv, m * sizeof *p[i].sv);
        assert_true(p[i].scale == p[0].scale && rep[i].predicted_loss == rep[0].predicted_loss);
        assert_true(rep[i].relative_mse == rep[0].relative_mse);
    }
    assert_memory_not_equal(p[3].su, p[0].su, n * sizeof *p[3].su);
    /* the streams are (seed, name + ".su") and (seed, name + ".sv") */
    int8_t s[150];
    kq_rng rng = kq_rng_stream(7, "model.b.su");
    kq_rng_signs(&rng, s, n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(s[i], p[3].su[i] < 0 ? -1 : 1);
    rng = kq_rng_stream(7, "model.b.sv");
    kq_rng_signs(&rng, s, m);
    for (size_t i = 0; i < m; i++)
        assert_int_equal(s[i], p[3].sv[i] < 0 ? -1 : 1);
    for (int i = 0; i < 4; i++)
        kq_packed_free(&p[i]);
    kq_free(H_out), kq_free(H_in), kq_free(W);
}

static void test_refused(void **state)
{
    (void)state;
    enum { M = 32, N = 48 };
    float *W = normal(M * N, "refused"), *H_in = spd(N, "refused in"), *H_out = spd(M, "refused out");
    float *What = kq_alloc(M * N, sizeof *What);
    kq_packed p;
    kq_round_report rep;
    float keep = W[5 * N + 6];
    W[5 * N + 6] = NAN;
    check_fails(kq_round_linear(hyb, &(kq_round_input){"layers.3.q", W, M, N, H_in, H_out, true}, &options,
                                &p, &rep, &err),
                KQ_E_NUMERIC, "layers.3.q: the weight");
    assert_null(p.trellis);
    W[5 * N + 6] = keep;
    keep = H_in[3];
    H_in[3] = INFINITY;
    check_fails(kq_round_linear(hyb, &(kq_round_input){"layers.3.q", W, M, N, H_in, H_out, true}, &options,
                                &p, &rep, &err),
                KQ_E_NUMERIC, "layers.3.q: H_in");
    H_in[3] = keep;
    float *neg = kq_alloc(M * M, sizeof *neg);
    for (size_t i = 0; i < M * M; i++)
        neg[i] = -H_out[i];
    check_fails(kq_round_linear(hyb, &(kq_round_input){"layers.3.q", W, M, N, H_in, neg, true}, &options, &p,
                                &rep, &err),
                KQ_E_NUMERIC, "layers.3.q: H_out");
    check_fails(kq_round_linear(hyb, &(kq_round_input){"layers.3.q", W, 0, N, H_in, neg, true}, &options, &p,
                                &rep, &err),
                KQ_E_ARG, "layers.3.q");

    /* A slightly indefinite factor is repaired and counted: one eigenvalue -0.015 of a mean diagonal
     * near 1 takes one repeat. */
    memset(neg, 0, M * M * sizeof *neg);
    for (size_t i = 0; i < M; i++)
        neg[i * M + i] = i == 3 ? -0.015f : 1;
    check_ok(
        kq_round_linear(hyb, &(kq_round_input){"x", W, M, N, H_in, neg, false}, &options, &p, &rep, &err));
    assert_int_equal(rep.extra_in, 0);
    assert_int_equal(rep.extra_out, 1);
    assert_true(isnan(rep.predicted_loss));
    kq_packed_free(&p);

    /* Zero weights, zero factors, the smallest normal numbers. */
    memset(neg, 0, M * M * sizeof *neg);
    memset(What, 1, M * N * sizeof *What);
    float *zero = kq_calloc(M * N, sizeof *zero);
    check_ok(
        kq_round_linear(hyb, &(kq_round_input){"x", zero, M, N, H_in, neg, true}, &options, &p, &rep, &err));
    assert_true(p.scale == 0 && rep.relative_mse == 0 && rep.predicted_loss == 0);
    check_ok(kq_unround_linear(hyb, &p, What, 1, &err));
    for (size_t i = 0; i < M * N; i++)
        assert_true(What[i] == 0);
    kq_packed_free(&p);
    for (size_t i = 0; i < M * N; i++)
        zero[i] = W[i] * 1e-30f;
    check_ok(kq_round_linear(hyb, &(kq_round_input){"x", zero, M, N, H_in, H_out, true}, &options, &p, &rep,
                             &err));
    assert_true(rep.relative_mse < 0.5 && isfinite(rep.predicted_loss));
    kq_packed_free(&p);

    /* Out of memory at every allocation in turn: an error, nothing leaked (LeakSanitizer), nothing half
     * made. */
    kq_round_options one = options;
    one.threads = 1;
    int failures = 0;
    for (size_t k = 1; k < 200; k++) {
        kq_alloc_fail_after(k);
        kq_status st =
            kq_round_linear(hyb, &(kq_round_input){"x", W, M, N, H_in, H_out, true}, &one, &p, &rep, &err);
        kq_alloc_fail_after(0);
        if (st == KQ_OK) {
            kq_packed_free(&p);
            break;
        }
        assert_int_equal(st, KQ_E_MEMORY);
        assert_null(p.trellis);
        failures++;
    }
    assert_true(failures > 15 && failures < 199);
    kq_free(zero), kq_free(neg), kq_free(What), kq_free(H_out), kq_free(H_in), kq_free(W);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gain),       cmocka_unit_test(test_shrunk),
                                       cmocka_unit_test(test_forecast),   cmocka_unit_test(test_unround),
                                       cmocka_unit_test(test_repeatable), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
