/* EXL3's layout of a tile (tests/source/test_exl3.c compares whole folders with numpy). */
#include "format/exl3.h"

#include "base/rng.h"
#include "check.h"

static void order(void **s)
{
    (void)s;
    uint8_t at[KQ_TILE_SIZE];
    bool seen[KQ_TILE_SIZE] = {false};
    kq_exl3_order(at);
    for (int t = 0; t < KQ_TILE_SIZE; t++) {
        assert_false(seen[at[t]]);
        seen[at[t]] = true;
    }
    /* lane 5: r = 2, c = 1 */
    const uint8_t lane[8] = {2 * 16 + 1, 3 * 16 + 1, 10 * 16 + 1, 11 * 16 + 1,
                             2 * 16 + 9, 3 * 16 + 9, 10 * 16 + 9, 11 * 16 + 9};
    assert_memory_equal(at + 8 * 5, lane, 8);
}

/* State of step t of EXL3's words, one bit at a time. */
static unsigned state_of(const uint16_t *words, int k, int t)
{
    unsigned s = 0;
    for (int b = 0; b < 16; b++) {
        const int pos = (t * k + k - 16 + b + 256 * k) % (256 * k), word = pos / 16 ^ 1;
        s = 2 * s + (words[word] >> (15 - pos % 16) & 1);
    }
    return s;
}

static void circles(void **s)
{
    (void)s;
    kq_rng rng = kq_rng_stream(1, "exl3 words");
    for (int k = 1; k <= KQ_EXL3_BITS_MAX; k++) {
        uint16_t words[16 * KQ_EXL3_BITS_MAX], circle[16 * KQ_EXL3_BITS_MAX], again[16 * KQ_EXL3_BITS_MAX];
        kq_trellis *t;
        kq_error err;
        float v[KQ_TILE_SIZE];
        for (int i = 0; i < 16 * k; i++)
            words[i] = (uint16_t)kq_rng_u64(&rng);
        kq_exl3_to_circle(words, k, circle);
        kq_exl3_from_circle(circle, k, again);
        assert_memory_equal(words, again, 32 * (size_t)k);
        check_ok(kq_trellis_new(KQ_MUL1, k, KQ_ISA_REF, NULL, &t, &err));
        kq_trellis_decode(t, circle, 1, v);
        for (int i = 0; i < KQ_TILE_SIZE; i++)
            assert_true(v[i] == kq_trellis_values(t)[state_of(words, k, i)]);
        kq_trellis_free(t);
    }
}

static void rows_that_are_not_there(void **s)
{
    (void)s;
    kq_error err;
    float x[1];
    const kq_exl3 linear = {.bits = 2, .n_in = 128, .n_out = 256};
    check_fails(kq_exl3_read_rows(&linear, 128, 255, 2, x, &err), KQ_E_ARG, "rows 255 to 257");
    check_fails(kq_exl3_read_rows(&linear, 129, 0, 1, x, &err), KQ_E_ARG, "129 weights");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(order), cmocka_unit_test(circles),
                                       cmocka_unit_test(rows_that_are_not_there)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
