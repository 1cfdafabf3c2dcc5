/* Transforms against their dense definition, and the definition against orthogonality in exact integer
 * arithmetic. */
#include "common.h"
#include "base/mem.h"

static kq_error err;

static kq_hadamard *make(size_t n)
{
    kq_hadamard *h = NULL;
    check_ok(kq_hadamard_new(n, &h, &err));
    assert_int_equal(kq_hadamard_order(h), n);
    return h;
}

/* Every order of the supported models, its base as docs/format.md has it, and what a longer list of
 * widths gives. */
static const struct listed {
    size_t n, b;
} listed[] = {{192, 12},   {576, 36},   {1536, 12},  {1024, 1},    {2048, 1},   {2560, 20},
              {3072, 12},  {4096, 1},   {6144, 12},  {9728, 76},   {12288, 12}, {11008, 172},
              {14336, 28}, {16, 1},     {48, 12},    {4864, 76},   {5120, 20},  {13824, 108},
              {960, 60},   {1088, 68},  {8960, 140}, {18944, 148}, {704, 44},   {1664, 104},
              {172, 172},  {1232, 308}, {1, 1},      {2, 1},       {8, 1}};

/* B B^T = b I with entries +-1, in integers: then U U^T = I by the mixed-product rule. */
static void test_bases(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof listed / sizeof *listed; k++) {
        kq_hadamard *h = make(listed[k].n);
        size_t b = kq_hadamard_base(h);
        assert_false(kq_hadamard_is_fallback(h));
        assert_int_equal(b, listed[k].b);
        const float *B = kq_hadamard_base_matrix(h);
        for (size_t i = 0; i < b * b; i++)
            assert_true(B[i] == 1 || B[i] == -1);
        for (size_t i = 0; i < b; i++)
            for (size_t j = 0; j <= i; j++) {
                int dot = 0;
                for (size_t p = 0; p < b; p++)
                    dot += (int)B[i * b + p] * (int)B[j * b + p];
                if (dot != (i == j ? (int)b : 0))
                    fail_msg("order %zu, base %zu: rows %zu and %zu give %d", listed[k].n, b, i, j, dot);
            }
        kq_hadamard_free(h);
    }
}

/* First entries of some bases, written out by hand from the definitions: what a checkpoint depends on. */
static void test_pinned(void **state)
{
    (void)state;
    /* Paley I of 11: residues 1 3 4 5 9. Row 1: -1, 1, chi(-1) = -1, chi(-2) = chi(9) = 1, chi(8) = -1,
     * chi(7), .. */
    static const int row1[12] = {-1, 1, -1, 1, -1, -1, -1, 1, 1, 1, -1, 1};
    kq_hadamard *h = make(12);
    for (size_t j = 0; j < 12; j++)
        assert_int_equal((int)kq_hadamard_base_matrix(h)[12 + j], row1[j]);
    kq_hadamard_free(h);
    /* Paley II of 13, order 28: the corner blocks and the block (1, 2): chi(1 - 2) = chi(12) = 1, so [1
     * 1; 1 -1]; (1, 3): chi(11) = -1. */
    h = make(28);
    const float *B = kq_hadamard_base_matrix(h);
    assert_true(B[0] == 1 && B[1] == -1 && B[28] == -1 && B[29] == -1);
    assert_true(B[2 * 28 + 4] == 1 && B[2 * 28 + 5] == 1 && B[3 * 28 + 4] == 1 && B[3 * 28 + 5] == -1);
    assert_true(B[2 * 28 + 6] == -1 && B[2 * 28 + 7] == -1 && B[3 * 28 + 6] == -1 && B[3 * 28 + 7] == 1);
    kq_hadamard_free(h);
}

/* The four sequences inside the order-172 base: symmetric circulants with A^2 + B^2 + C^2 + D^2 = 172 I. */
static void test_williamson(void **state)
{
    (void)state;
    enum { N = 43 };
    kq_hadamard *h = make(172);
    const float *B = kq_hadamard_base_matrix(h);
    for (int s = 0; s < N; s++) {
        int sum = 0;
        for (int x = 0; x < 4; x++) {
            const float *a = B + x * N; /* first row of the block row A B C D */
            assert_true(a[s] == a[(N - s) % N]);
            for (int i = 0; i < N; i++)
                sum += (int)a[i] * (int)a[(i + s) % N];
        }
        assert_int_equal(sum, s == 0 ? 172 : 0);
    }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            assert_true(B[i * 172 + j] == B[(j - i + N) % N]);
    kq_hadamard_free(h);
}

/* Sizes with no Hadamard matrix in our list: the Hartley base, orthogonal to f32. */
static void test_fallback(void **state)
{
    (void)state;
    static const struct listed sizes[] = {{944, 59}, {1712, 107}, {3, 3}, {6, 3}, {13696, 107}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        kq_hadamard *h = make(sizes[k].n);
        assert_true(kq_hadamard_is_fallback(h));
        size_t q = kq_hadamard_base(h);
        assert_int_equal(q, sizes[k].b);
        const float *B = kq_hadamard_base_matrix(h);
        for (size_t i = 0; i < q; i++)
            for (size_t j = 0; j <= i; j++) {
                double dot = 0;
                for (size_t p = 0; p < q; p++)
                    dot += (double)B[i * q + p] * B[j * q + p];
                assert_true(fabs(dot - (i == j ? (double)q : 0)) < 1e-5 * (double)q);
            }
        kq_hadamard_free(h);
    }
    kq_hadamard *h = NULL;
    check_fails(kq_hadamard_new(0, &h, &err), KQ_E_ARG, "order 0");
    kq_alloc_fail_after(2);
    check_fails(kq_hadamard_new(576, &h, &err), KQ_E_MEMORY, "memory");
    kq_alloc_fail_after(0);
    assert_null(h);
}

/* The fast application against the dense matrix, both directions, with a row stride; then forward and
 * back at the large orders. */
static void test_apply(void **state)
{
    (void)state;
    static const size_t sizes[] = {1,   2,  8,   16,  32,  64,  128, 12, 48,
                                   192, 56, 152, 172, 344, 576, 112, 6,  354};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        size_t n = sizes[k], ld = n + 5;
        enum { ROWS = 3 };
        kq_hadamard *h = make(n);
        double *U = dense_u(h);
        float *x = normal(ROWS * ld, "apply"), *y = kq_alloc(ROWS * ld, sizeof *y),
              *scratch = kq_alloc(2 * n, sizeof *scratch);
        float *want = kq_alloc(n, sizeof *want);
        for (int transpose = 0; transpose < 2; transpose++) {
            memcpy(y, x, ROWS * ld * sizeof *x);
            kq_hadamard_rows(h, transpose, y, ROWS, ld, scratch);
            for (size_t r = 0; r < ROWS; r++) {
                for (size_t j = 0; j < n; j++) {
                    double s = 0;
                    for (size_t i = 0; i < n; i++)
                        s += x[r * ld + i] * (transpose ? U[j * n + i] : U[i * n + j]);
                    want[j] = (float)s;
                }
                check_close(y + r * ld, want, n, 1e-6);
                /* nothing beyond the row */
                assert_memory_equal(y + r * ld + n, x + r * ld + n, 5 * sizeof *x);
            }
        }
        kq_free(want), kq_free(scratch), kq_free(y), kq_free(x), kq_free(U);
        kq_hadamard_free(h);
    }
    static const size_t large[] = {1536, 9728, 11008, 12288, 14336, 1712, 13696};
    for (size_t k = 0; k < sizeof large / sizeof *large; k++) {
        size_t n = large[k];
        kq_hadamard *h = make(n);
        float *x = normal(n, "large"), *y = kq_alloc(n, sizeof *y),
              *scratch = kq_alloc(2 * n, sizeof *scratch);
        memcpy(y, x, n * sizeof *x);
        kq_hadamard_rows(h, false, y, 1, n, scratch);
        double norm = 0, norm_x = 0, differ = check_rel(y, x, n);
        for (size_t i = 0; i < n; i++)
            norm += (double)y[i] * y[i], norm_x += (double)x[i] * x[i];
        assert_true(fabs(norm / norm_x - 1) < 1e-6 && differ > 0.5);
        kq_hadamard_rows(h, true, y, 1, n, scratch);
        check_close(y, x, n, 2e-6);
        /* one row of U from a unit vector, against the definition */
        size_t at = n / 3, b = kq_hadamard_base(h);
        memset(y, 0, n * sizeof *y);
        y[at] = 1;
        kq_hadamard_rows(h, false, y, 1, n, scratch);
        for (size_t j = 0; j < n; j++) {
            double u = kq_hadamard_base_matrix(h)[at % b * b + j % b] / sqrt((double)n);
            if (__builtin_popcountll((at / b) & (j / b)) & 1)
                u = -u;
            if (fabs(y[j] - u) > 1e-6 * sqrt(2 / (double)n))
                fail_msg("order %zu: U[%zu, %zu] = %g, want %g", n, at, j, (double)y[j], u);
        }
        kq_free(scratch), kq_free(y), kq_free(x);
        kq_hadamard_free(h);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bases), cmocka_unit_test(test_pinned),
                                       cmocka_unit_test(test_williamson), cmocka_unit_test(test_fallback),
                                       cmocka_unit_test(test_apply)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
