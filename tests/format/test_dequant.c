/* Every GGUF block type against the gguf Python package, bit for bit (tests/golden/dequant.bin). */
#include "format/dequant.h"
#include "source/gguf_model.h"

#include "check.h"

static void golden_bits(void **state)
{
    (void)state;
    FILE *f = fopen(KRONQ_GOLDEN_DIR "/dequant.bin", "rb");
    assert_non_null(f);
    uint32_t head[4];
    int types = 0;
    while (fread(head, 4, 4, f) == 4) {
        size_t n_raw = (size_t)head[1] * head[2], n = (size_t)head[1] * head[3];
        uint8_t *raw = malloc(n_raw);
        float *want = malloc(n * 4), *got = malloc(n * 4);
        assert_int_equal(fread(raw, 1, n_raw, f), n_raw);
        assert_int_equal(fread(want, 4, n, f), n);
        kq_dtype dtype = kq_gguf_dtype(head[0]);
        size_t elems, bytes;
        assert_true(kq_dtype_block(dtype, &elems, &bytes));
        assert_int_equal(elems, head[3]);
        assert_int_equal(bytes, head[2]);
        assert_true(kq_dequantize(dtype, raw, n, got));
        for (size_t i = 0; i < n; i++)
            if (memcmp(&got[i], &want[i], 4))
                fail_msg("%s: element %zu is %.9g, the reference says %.9g", kq_dtype_name(dtype), i,
                         (double)got[i], (double)want[i]);
        free(raw);
        free(want);
        free(got);
        types++;
    }
    fclose(f);
    assert_int_equal(types, 19);
}

static void integers_and_refusals(void **state)
{
    (void)state;
    const uint8_t raw[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    float y = 0;
    assert_true(kq_dequantize(KQ_T_I8, raw, 1, &y) && y == -1);
    assert_true(kq_dequantize(KQ_T_U8, raw, 1, &y) && y == 255);
    assert_true(kq_dequantize(KQ_T_I16, raw, 1, &y) && y == -1);
    assert_true(kq_dequantize(KQ_T_I32, raw, 1, &y) && y == -1);
    assert_true(kq_dequantize(KQ_T_I64, raw, 1, &y) && y == -1);
    y = 7;
    assert_false(kq_dequantize(KQ_T_Q4_0, raw, 31, &y));
    assert_false(kq_dequantize(KQ_T_OTHER, raw, 1, &y));
    assert_true(y == 7);
}

/* All bytes of the two FP8 types against their definitions, and sum(byte * value) against PyTorch 2.13's
 * float8_e4m3fn and float8_e5m2 (NaN and Inf as 0). */
static void fp8(void **state)
{
    (void)state;
    static const struct {
        kq_dtype dtype;
        int fraction_bits, bias;
        double sum;
    } types[] = {{KQ_T_F8_E4M3, 3, 7, -692208.0}, {KQ_T_F8_E5M2, 2, 15, -46137343.96875}};
    for (size_t k = 0; k < 2; k++) {
        const int bits = types[k].fraction_bits, one = 1 << bits;
        double sum = 0;
        for (int b = 0; b < 256; b++) {
            const uint8_t byte = (uint8_t)b;
            const int exponent = (b & 0x7f) >> bits, fraction = b & (one - 1);
            double want = exponent ? ldexp(one + fraction, exponent - types[k].bias - bits)
                                   : ldexp(fraction, 1 - types[k].bias - bits);
            if (k ? exponent == 31 : (b & 0x7f) == 0x7f)
                want = k && !fraction ? INFINITY : NAN;
            want = b & 0x80 ? -want : want;
            float y;
            assert_true(kq_dequantize(types[k].dtype, &byte, 1, &y));
            assert_true(isnan(want) ? isnan(y) : y == want && !signbit(y) == !signbit(want));
            sum += isfinite(y) ? b * (double)y : 0;
        }
        assert_true(sum == types[k].sum);
    }
    const double x[2] = {0.1, -1e300};
    float y[2];
    assert_true(kq_dequantize(KQ_T_F64, (const uint8_t *)x, 2, y) && y[0] == 0.1f && isinf(y[1]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden_bits), cmocka_unit_test(integers_and_refusals),
                                       cmocka_unit_test(fp8)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
