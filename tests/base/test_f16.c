/* Half floats against their definition, every value. */
#include "check.h"
#include "base/f16.h"
#include "temp_folder.h"

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

/* The value a pattern stands for, from the definition: `e` exponent bits with bias 2^(e-1) - 1, `m`
 * mantissa bits. */
static double value_of(uint16_t h, int e, int m)
{
    int exponent = (h >> m) & ((1 << e) - 1), mantissa = h & ((1 << m) - 1), bias = (1 << (e - 1)) - 1;
    double v = exponent == 0              ? ldexp(mantissa, 1 - bias - m)
               : exponent == (1 << e) - 1 ? (mantissa ? (double)NAN : (double)INFINITY)
                                          : ldexp((1 << m) + mantissa, exponent - bias - m);
    return h & 0x8000 ? -v : v;
}

static void check_half(const char *name, int e, int m, float (*to_f32)(uint16_t), uint16_t (*from_f32)(float))
{
    uint16_t inf = (uint16_t)(((1 << e) - 1) << m);
    for (uint32_t h = 0; h < 65536; h++) {
        double want = value_of((uint16_t)h, e, m);
        float got = to_f32((uint16_t)h);
        if (isnan(want)) {
            if (!isnan(got) || !isnan(to_f32(from_f32(got))))
                fail_msg("%s 0x%04x: a NaN became %g", name, h, (double)got);
            continue;
        }
        if ((double)got != want || !!signbit(got) != !!(h & 0x8000))
            fail_msg("%s 0x%04x is %.9g, want %.9g", name, h, (double)got, want);
        if (from_f32(got) != h)
            fail_msg("%s 0x%04x comes back as 0x%04x", name, h, from_f32(got));
        if ((h & 0x7fff) >= inf)
            continue;
        /* Rounding between h and its neighbour away from zero: the middle goes to the even pattern, one
         * float beside it to the nearer. Beyond the largest finite value the neighbour counts as the
         * next power of two (IEEE 754, 4.3.1). */
        double next = (h & 0x7fff) + 1 == inf ? (h & 0x8000 ? -1 : 1) * ldexp(1, 1 << (e - 1))
                                              : value_of((uint16_t)(h + 1), e, m);
        double middle = want + (next - want) / 2;
        float mid = (float)middle;
        assert_true((double)mid == middle); /* one mantissa bit more than h: exact in f32 */
        uint16_t even = (uint16_t)(h & 1 ? h + 1 : h);
        if (from_f32(mid) != even || from_f32(nextafterf(mid, (float)want)) != h ||
            from_f32(nextafterf(mid, (float)(2 * next))) != h + 1)
            fail_msg("%s: rounding around %.9g gives 0x%04x 0x%04x 0x%04x, want 0x%04x 0x%04x 0x%04x", name,
                     middle, from_f32(nextafterf(mid, (float)want)), from_f32(mid),
                     from_f32(nextafterf(mid, (float)(2 * next))), h, even, h + 1);
    }
    assert_int_equal(from_f32(INFINITY), inf);
    assert_int_equal(from_f32(-INFINITY), inf | 0x8000);
    assert_int_equal(from_f32(3.4028234664e38f), inf);
    assert_int_equal(from_f32(-0.0f), 0x8000);
    assert_int_equal(from_f32(1e-45f), 0); /* far below half the smallest */
    for (uint32_t payload = 1; payload < 0x800000;
         payload = payload * 3 + 1) { /* every NaN stays one, also with low bits only */
        uint32_t u = 0x7f800000u | payload;
        float f;
        memcpy(&f, &u, 4);
        if (!isnan(to_f32(from_f32(f))))
            fail_msg("%s: NaN 0x%08x became 0x%04x", name, u, from_f32(f));
    }
}

/* inline and out-of-line converters alike */
static float bf16_to(uint16_t h)
{
    return kq_bf16_to_f32(h);
}

static uint16_t bf16_from(float f)
{
    return kq_f32_to_bf16(f);
}

static void test_f16(void **state)
{
    (void)state;
    check_half("f16", 5, 10, kq_f16_to_f32, kq_f32_to_f16);
}

static void test_bf16(void **state)
{
    (void)state;
    check_half("bf16", 8, 7, bf16_to, bf16_from);
}

static void test_half_arrays(void **state)
{
    (void)state;
    enum { N = 1031 }; /* odd, so that vector tails are met */
    uint16_t src[N + 1], back[N + 1];
    float dst[N + 1];
    for (size_t i = 0; i <= N; i++)
        src[i] = (uint16_t)(i * 40503u);
    for (size_t n = 0; n <= N; n += n < 40 ? 1 : 191) {
        dst[n] = 123.0f;
        kq_bf16_to_f32_n(src, dst, n);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(bits_of(dst[i]), bits_of(kq_bf16_to_f32(src[i])));
        assert_true(dst[n] == 123.0f);
        back[n] = 99;
        kq_f32_to_bf16_n(dst, back, n);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(back[i], kq_f32_to_bf16(dst[i]));
        assert_int_equal(back[n], 99);
        kq_f16_to_f32_n(src, dst, n);
        for (size_t i = 0; i < n; i++)
            assert_true(bits_of(dst[i]) == bits_of(kq_f16_to_f32(src[i])) || isnan(dst[i]));
        assert_true(dst[n] == 123.0f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f16),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_half_arrays),
    };
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
