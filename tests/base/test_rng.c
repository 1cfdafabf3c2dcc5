/* Random streams: golden values, and their distribution. */
#include "check.h"
#include "base/rng.h"
#include "temp_folder.h"

static void test_rng_golden(void **state)
{
    (void)state;
    /* key 0 is Vigna's SplitMix64 with seed 0, whose first outputs are published */
    kq_rng rng = {0};
    assert_int_equal(kq_rng_u64(&rng), 0xe220a8397b1dcdafu);
    assert_int_equal(kq_rng_u64(&rng), 0x6e789e6aa1b965f4u);
    assert_int_equal(kq_rng_u64(&rng), 0x06c45d188009454fu);

    /* streams: by seed and by label, both; the same again; copied, they go on alike (nothing is hidden) */
    kq_rng a = kq_rng_stream(1, "model.layers.0"), b = kq_rng_stream(1, "model.layers.0");
    kq_rng c = kq_rng_stream(2, "model.layers.0"), d = kq_rng_stream(1, "model.layers.1"),
           e = kq_rng_stream(1, "");
    uint64_t x = kq_rng_u64(&a);
    assert_int_equal(x, kq_rng_u64(&b));
    assert_true(x != kq_rng_u64(&c) && x != kq_rng_u64(&d) && x != kq_rng_u64(&e));
    kq_rng copy = a;
    assert_int_equal(kq_rng_u64(&a), kq_rng_u64(&copy));

    /* value i needs no value before it: set the counter and draw */
    kq_rng far = kq_rng_stream(7, "x"), jump = far;
    for (int i = 0; i < 1000; i++)
        kq_rng_u64(&far);
    jump.counter += 1000;
    assert_int_equal(kq_rng_u64(&far), kq_rng_u64(&jump));
}

static void test_rng_distribution(void **state)
{
    (void)state;
    enum { N = 200000, BINS = 64 };
    kq_rng rng = kq_rng_stream(5, "uniform"), other = kq_rng_stream(5, "other"),
           normal = kq_rng_stream(5, "normal");
    size_t bin[BINS] = {0};
    double cross = 0, lag = 0, before = 0, m1 = 0, m2 = 0, m4 = 0;
    for (int i = 0; i < N; i++) {
        double u = kq_rng_uniform(&rng), v = kq_rng_uniform(&other), z = kq_rng_normal(&normal);
        assert_true(u >= 0 && u < 1);
        assert_true(isfinite(z));
        bin[(size_t)(u * BINS)]++;
        cross += (u - 0.5) * (v - 0.5);
        lag += (u - 0.5) * before;
        before = u - 0.5;
        m1 += z;
        m2 += z * z;
        m4 += z * z * z * z;
    }
    double chi2 = 0, want = (double)N / BINS;
    for (int i = 0; i < BINS; i++)
        chi2 += ((double)bin[i] - want) * ((double)bin[i] - want) / want;
    /* 63 degrees of freedom: above 118 with probability 3e-5. Correlations and moments: six standard
     * deviations. Seeds are fixed. */
    if (chi2 > 118)
        fail_msg("uniform numbers: chi-square %g over 64 bins", chi2);
    double sd = sqrt(N) / 12;
    if (fabs(cross) > 6 * sd || fabs(lag) > 6 * sd)
        fail_msg("streams correlate: %g between two, %g with the value before; one standard deviation is %g",
                 cross, lag, sd);
    if (fabs(m1 / N) > 6 / sqrt(N) || fabs(m2 / N - 1) > 6 * sqrt(2.0 / N) ||
        fabs(m4 / N - 3) > 6 * sqrt(96.0 / N))
        fail_msg("normal numbers: moments %g %g %g, want 0 1 3", m1 / N, m2 / N, m4 / N);
}

static void test_rng_signs(void **state)
{
    (void)state;
    enum { N = 100000 };
    static int8_t s[N + 1];
    kq_rng rng = kq_rng_stream(3, "signs");
    s[N] = 77;
    kq_rng_signs(&rng, s, N);
    assert_int_equal(s[N], 77);
    long sum = 0, lag = 0;
    for (int i = 0; i < N; i++) {
        assert_true(s[i] == 1 || s[i] == -1);
        sum += s[i];
        lag += i ? s[i] * s[i - 1] : 0;
    }
    if (labs(sum) > 6 * 317 || labs(lag) > 6 * 317) /* sqrt(N) = 316.2 */
        fail_msg("signs: sum %ld, correlation with the neighbour %ld", sum, lag);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rng_golden),
        cmocka_unit_test(test_rng_distribution),
        cmocka_unit_test(test_rng_signs),
    };
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
