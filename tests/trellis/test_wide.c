/* Numbers of bits beside 2, 3 and 4: the same walk on every instruction set, the error that such a code has,
 * and on a short problem no walk that is better. */
#include "check.h"

#include "base/mem.h"
#include "base/rng.h"
#include "trellis/internal.h"

static const kq_isa isas[] = {KQ_ISA_REF, KQ_ISA_AVX2, KQ_ISA_AVX512};
static kq_error err;

enum { TILES = 3, N = TILES * KQ_TILE_SIZE };

static void encode(kq_code code, int k, kq_isa isa, const float *w, uint16_t *packed, float *decoded)
{
    kq_trellis *t;
    check_ok(kq_trellis_new(code, k, isa, NULL, &t, &err));
    void *scratch = kq_alloc(1, kq_trellis_scratch_bytes(t));
    float again[N];
    kq_trellis_encode(t, w, TILES, packed, decoded, scratch);
    kq_trellis_decode(t, packed, TILES, again);
    assert_memory_equal(decoded, again, sizeof again);
    kq_free(scratch);
    kq_trellis_free(t);
}

static void errors(void **s)
{
    (void)s;
    /* the squared error is about 1.2 times 4^-k, the limit, a little more at 8 bits (Gaussian tiles) */
    static const int bits[] = {1, 5, 6, 7, 8};
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
        const int k = bits[i];
        kq_trellis *t;
        float w[N], decoded[N], first[N];
        uint16_t packed[TILES * 16 * 8], first_packed[TILES * 16 * 8];
        double error = 0, size = 0;
        check_ok(kq_trellis_new(KQ_MUL1, k, KQ_ISA_REF, NULL, &t, &err));
        kq_rng rng = kq_rng_stream(1, "wide");
        for (size_t j = 0; j < N; j++)
            w[j] = (float)(kq_trellis_weight_rms(t) * kq_rng_normal(&rng));
        kq_trellis_free(t);
        for (size_t j = 0; j < sizeof isas / sizeof *isas && isas[j] <= kq_isa_best(); j++) {
            encode(KQ_MUL1, k, isas[j], w, packed, decoded);
            if (!j) {
                memcpy(first, decoded, sizeof first);
                memcpy(first_packed, packed, sizeof packed);
            }
            assert_memory_equal(first, decoded, sizeof first);
            assert_memory_equal(first_packed, packed, TILES * 32 * (size_t)k);
        }
        for (size_t j = 0; j < N; j++) {
            error += ((double)w[j] - first[j]) * ((double)w[j] - first[j]);
            size += (double)w[j] * w[j];
        }
        if (!(error / size * pow(4, k) < 1.4))
            fail_msg("%d bits: squared error %g times 4^-%d", k, error / size * pow(4, k), k);
    }
}

/* A walk's own values as targets are met without any error. */
static void exact(void **s)
{
    (void)s;
    for (int k = 5; k <= 8; k++) {
        kq_trellis *t;
        uint16_t words[TILES * 16 * 8], packed[TILES * 16 * 8];
        float w[N], decoded[N];
        check_ok(kq_trellis_new(KQ_MCG, k, kq_isa_best(), NULL, &t, &err));
        kq_rng rng = kq_rng_stream(2, "walks");
        for (size_t j = 0; j < sizeof words / sizeof *words; j++)
            words[j] = (uint16_t)kq_rng_u64(&rng);
        kq_trellis_decode(t, words, TILES, w);
        kq_trellis_free(t);
        encode(KQ_MCG, k, kq_isa_best(), w, packed, decoded);
        assert_memory_equal(w, decoded, sizeof w);
    }
}

/* NaN counts as 0, and what is far away as the largest value. */
static void odd_targets(void **s)
{
    (void)s;
    float w[N], decoded[N];
    uint16_t packed[TILES * 16 * 8];
    for (size_t j = 0; j < N; j++)
        w[j] = j % 5 == 0 ? NAN : j % 5 == 1 ? INFINITY : j % 5 == 2 ? -1e30f : 0.5f;
    encode(KQ_MUL1, 6, kq_isa_best(), w, packed, decoded);
    for (size_t j = 0; j < N; j++)
        assert_true(j % 5 != 1 || decoded[j] > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(errors), cmocka_unit_test(exact),
                                       cmocka_unit_test(odd_targets)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
