/* Rotation against the dense product, conditioning on indefinite matrices, and block LDL by multiplying
 * it out. */
#include "common.h"
#include "base/mem.h"

static kq_error err;

static void test_rotate(void **state)
{
    (void)state;
    static const size_t sizes[] = {16, 48, 192, 112, 354};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        size_t n = sizes[k];
        kq_hadamard *u = NULL;
        check_ok(kq_hadamard_new(n, &u, &err));
        float *H = spd(n, "rotate"), *R = kq_alloc(n * n, sizeof *R), *want = kq_alloc(n * n, sizeof *want);
        int8_t *s = kq_alloc(n, 1);
        kq_rng rng = kq_rng_stream(1, "signs");
        kq_rng_signs(&rng, s, n);
        memcpy(R, H, n * n * sizeof *R);
        check_ok(kq_factor_rotate(u, s, R, n, 1, &err));
        double *U = dense_u(u), *D = widened(H, n * n), *P = kq_alloc(n * n, sizeof *P);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                D[i * n + j] *= s[i] * s[j];
        mul(true, n, n, n, U, D, P);
        mul(false, n, n, n, P, U, D);
        for (size_t i = 0; i < n * n; i++)
            want[i] = (float)D[i];
        check_close(R, want, n * n, 2e-6);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                assert_true(R[i * n + j] == R[j * n + i]);
        for (int threads = 2; threads <= 3; threads++) {
            memcpy(want, H, n * n * sizeof *R);
            check_ok(kq_factor_rotate(u, s, want, n, threads, &err));
            assert_memory_equal(want, R, n * n * sizeof *R);
        }
        kq_free(P), kq_free(D), kq_free(U), kq_free(s), kq_free(want), kq_free(R), kq_free(H);
        kq_hadamard_free(u);
    }
}

/* Shrinking, signs and rotation against U^T diag(s) [(1 - S) H + S diag(H)] diag(s) U in f64. */
static void test_shrink(void **state)
{
    (void)state;
    enum { N = 112 };
    kq_hadamard *u = NULL;
    check_ok(kq_hadamard_new(N, &u, &err));
    int8_t s[N];
    kq_rng rng = kq_rng_stream(2, "signs");
    kq_rng_signs(&rng, s, N);
    static const double shrinks[] = {0, 0.1, 0.9};
    for (size_t k = 0; k < 3; k++) {
        float *H = spd(N, "shrink"), *want = kq_alloc(N * N, sizeof *want);
        double *U = dense_u(u), *D = widened(H, N * N), *P = kq_alloc(N * N, sizeof *P);
        for (size_t i = 0; i < N; i++)
            for (size_t j = 0; j < N; j++)
                D[i * N + j] *= s[i] * s[j] * (i == j ? 1 : 1 - shrinks[k]);
        mul(true, N, N, N, U, D, P);
        mul(false, N, N, N, P, U, D);
        for (size_t i = 0; i < N * N; i++)
            want[i] = (float)D[i];
        kq_factor_shrink(H, N, shrinks[k]);
        check_ok(kq_factor_rotate(u, s, H, N, 2, &err));
        check_close(H, want, N * N, 2e-6);
        kq_free(P), kq_free(D), kq_free(U), kq_free(want), kq_free(H);
    }
    kq_hadamard_free(u);
}

static void test_condition(void **state)
{
    (void)state;
    enum { N = 48 };
    int extra = -1;
    float *H = spd(N, "condition"), *A = kq_alloc(N * N, sizeof *A);
    memcpy(A, H, N * N * sizeof *A);
    double mean = 0;
    for (size_t i = 0; i < N; i++)
        mean += H[i * N + i] / (double)N;
    check_ok(kq_factor_condition(A, N, 1e-2, &extra, &err));
    assert_int_equal(extra, 0);
    for (size_t i = 0; i < N * N; i++)
        assert_true(fabs(A[i] - (H[i] / mean + (i % (N + 1) == 0 ? 1e-2 : 0))) <
                    1e-5 * (1 + fabs(H[i] / mean)));

    /* Diagonal 1 except one entry -0.055 (its mean diagonal is then near 1): -0.056 + 1e-2 (1 + extra) >
     * 0 from extra = 5 on. */
    memset(A, 0, N * N * sizeof *A);
    for (size_t i = 0; i < N; i++)
        A[i * N + i] = i == 20 ? -0.055f : 1;
    check_ok(kq_factor_condition(A, N, 1e-2, &extra, &err));
    mean = (N - 1 - 0.055) / N;
    assert_int_equal(extra, (int)floor(0.055 / mean / 1e-2));
    assert_true(fabs(A[20 * N + 20] - (-0.055 / mean + 1e-2 * (extra + 1))) < 1e-6);
    /* Too far below zero: 21 additions of 1e-2 do not reach 0.5. */
    for (size_t i = 0; i < N; i++)
        A[i * N + i] = i == 20 ? -0.5f : 1;
    check_fails(kq_factor_condition(A, N, 1e-2, &extra, &err), KQ_E_NUMERIC, "not positive definite");
    assert_int_equal(extra, 20);
    for (size_t i = 0; i < N; i++)
        A[i * N + i] = -1;
    check_fails(kq_factor_condition(A, N, 1e-2, &extra, &err), KQ_E_NUMERIC, "indefinite");
    memcpy(A, H, N * N * sizeof *A);
    A[5 * N + 7] = NAN;
    check_fails(kq_factor_condition(A, N, 1e-2, &extra, &err), KQ_E_NUMERIC, "[5, 7]");
    check_fails(kq_factor_condition(A, N, NAN, &extra, &err), KQ_E_ARG, "sigma_reg");
    memset(A, 0, N * N * sizeof *A); /* no gradient reached the layer */
    check_ok(kq_factor_condition(A, N, 1e-2, &extra, &err));
    assert_true(A[0] == 1 + 1e-2f && A[1] == 0); /* the identity, conditioned */
    kq_free(A), kq_free(H);
}

/* L^-1 H L^-T must be block-diagonal with positive definite blocks: by forward substitution in f64,
 * nothing shared with the code. */
static void test_ldl(void **state)
{
    (void)state;
    /* 272: three panels of the Cholesky factorisation, the last one partial */
    static const size_t sizes[] = {16, 48, 272};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        size_t n = sizes[k];
        int extra;
        float *H = spd(n, "ldl"), *L = kq_alloc(n * n, sizeof *L), *L2 = kq_alloc(n * n, sizeof *L2),
              *D = kq_alloc(n * n, sizeof *D);
        memcpy(L2, H, n * n * sizeof *H);
        check_ok(kq_factor_condition(H, n, 1e-2, &extra, &err));
        check_ok(kq_factor_block_ldl(H, n, L, &err));
        for (int threads = 1; threads <= 3;
             threads++) { /* conditioning and LDL in one, in place, on several threads: the same bits */
            memcpy(D, L2, n * n * sizeof *H);
            check_ok(kq_factor_condition_ldl(D, n, 1e-2, &extra, D, threads, &err));
            assert_memory_equal(D, L, n * n * sizeof *L);
        }
        double *X = widened(H, n * n), scale = 0, off = 0;
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++) {
                if (j / 16 >= i / 16)
                    assert_true(L[i * n + j] == 0); /* L - I: nothing on or above the diagonal blocks */
                scale += X[i * n + j] * X[i * n + j];
            }
        for (int pass = 0; pass < 2; pass++) { /* X <- L^-1 X, then transposed: L^-1 (L^-1 H)^T */
            for (size_t i = 0; i < n; i++)
                for (size_t p = 0; p < i; p++)
                    for (size_t j = 0; j < n; j++)
                        X[i * n + j] -= L[i * n + p] * X[p * n + j];
            for (size_t i = 0; i < n; i++)
                for (size_t j = 0; j < i; j++) {
                    double t = X[i * n + j];
                    X[i * n + j] = X[j * n + i];
                    X[j * n + i] = t;
                }
        }
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                if (i / 16 != j / 16)
                    off += X[i * n + j] * X[i * n + j];
        if (!(sqrt(off / scale) < 1e-6)) /* L is rounded to f32 */
            fail_msg("order %zu: off-diagonal blocks of D %.3g of H", n, sqrt(off / scale));
        for (size_t i = 0; i < n; i++)
            assert_true(X[i * n + i] > 0);
        kq_free(X), kq_free(D), kq_free(L2), kq_free(L), kq_free(H);
    }
    float *H = spd(32, "ldl"), *L = kq_alloc(32 * 32, sizeof *L);
    check_fails(kq_factor_block_ldl(H, 24, L, &err), KQ_E_ARG, "multiple");
    H[0] = -1;
    check_fails(kq_factor_block_ldl(H, 32, L, &err), KQ_E_NUMERIC, "positive definite");
    kq_free(L), kq_free(H);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rotate), cmocka_unit_test(test_shrink),
                                       cmocka_unit_test(test_condition), cmocka_unit_test(test_ldl)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
