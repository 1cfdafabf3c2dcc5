/* Packed products: every code, number of bits and instruction set against plain C bit for bit, against
 * kq_trellis_decode's values, and against a dense product. */
#include "check.h"

#include "base/mem.h"
#include "base/rng.h"
#include "decode/packed.h"

static const kq_packed_kern *kerns[4];
static size_t n_kerns;

static void each(kq_code code, int k)
{
    enum { T = 19 };
    static const size_t sizes[] = {1, 7, 8, 9, 36, 96};
    kq_error err;
    kq_trellis *t;
    kq_packed_code *c;
    check_ok(kq_trellis_new(code, k, KQ_ISA_REF, NULL, &t, &err));
    check_ok(kq_packed_code_new(t, &c, &err));
    kq_rng rng = kq_rng_stream((uint64_t)k, kq_code_name(code));
    double worst = 0, near = 0;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const size_t nt = sizes[s], n = 16 * nt, n_words = nt * c->words;
        /* exactly as large as they may be, at an odd 16-bit word, so that the sanitizer sees a load too
         * far */
        uint16_t *block = malloc((n_words + 1) * sizeof *block), *words = block + 1;
        int16_t *panel = kq_alloc(nt * KQ_PANEL_TILE, 2), *panel2 = kq_alloc(nt * KQ_PANEL_TILE, 2),
                *q = kq_alloc(T * n, 2), *q2 = kq_alloc(T * n, 2);
        float *value = kq_alloc(nt * 256, 4), *x = kq_alloc(T * n, 4), y[T * 16], y2[T * 16], step[T];
        assert_non_null(block);
        for (size_t i = 0; i < n_words; i++)
            words[i] = (uint16_t)kq_rng_u64(&rng);
        for (size_t i = 0; i < T * n; i++)
            x[i] = (float)kq_rng_normal(&rng);
        for (size_t i = 0; i < n; i++)
            x[n * 3 + i] = 0; /* a vector of zeros; one of extremes, that the sums must hold */
        for (size_t i = 0; i < n; i++)
            x[n * 4 + i] = i % 3 ? 1e30f : -1e30f;
        kq_packed_kern_ref.decode(c, words, nt, panel);
        kq_trellis_decode(t, words, nt, value);
        for (size_t i = 0; i < nt * 256; i++) {
            const size_t tile = i / 256, r = i % 256 / 16, col = i % 16;
            const double w = panel[tile * 256 + col % 8 * 32 + r * 2 + col / 8] * (double)c->unit;
            worst = fmax(worst, fabs(w - value[i]));
        }
        for (size_t v = 0; v < T; v++)
            step[v] = kq_packed_kern_ref.quantize(x + v * n, n, c->x_max, q + v * n);
        kq_packed_kern_ref.dots(panel, nt, q, n, T, y, 16);
        /* against the dense product in double */
        double d = 0, all = 0;
        for (size_t v = 0; v < T; v++)
            for (size_t r = 0; r < 16; r++) {
                double sum = 0;
                for (size_t i = 0; i < n; i++)
                    sum += (double)value[i / 16 * 256 + r * 16 + i % 16] *
                           (v == 4 ? (double)x[v * n + i] * 1e-30 : (double)x[v * n + i]);
                double got =
                    y[v * 16 + r] * (double)c->unit * (v == 4 ? (double)step[v] * 1e-30 : (double)step[v]);
                d += (got - sum) * (got - sum), all += sum * sum;
            }
        near = fmax(near, sqrt(d / all));
        for (size_t i = 0; i < n_kerns; i++) {
            const kq_packed_kern *p = kerns[i];
            p->decode(c, words, nt, panel2);
            assert_memory_equal(panel2, panel, nt * KQ_PANEL_TILE * 2);
            for (size_t v = 0; v < T; v++) {
                float s2 = p->quantize(x + v * n, n, c->x_max, q2 + v * n);
                assert_memory_equal(&s2, &step[v], 4);
                p->dot(c, words, nt, q + v * n, y2);
                assert_memory_equal(y2, y + v * 16, 16 * 4);
            }
            assert_memory_equal(q2, q, T * n * 2);
            p->dots(panel, nt, q, n, T, y2, 16);
            assert_memory_equal(y2, y, sizeof y);
        }
        free(block);
        kq_free(panel), kq_free(panel2), kq_free(q), kq_free(q2), kq_free(value), kq_free(x);
    }
    printf("%s, %d bits: values within %.2g, products within %.2g of their norm\n", kq_code_name(code), k,
           worst, near);
    /* mul1's integers leave out its values' rounding to half: 2^-10 at most, with units of 1.7e-3 */
    assert_true(worst <= c->unit * (code == KQ_MUL1 ? 0.66 : 0.5001) && near < 6e-4);
    kq_packed_code_free(c);
    kq_trellis_free(t);
}

static void test_codes(void **state)
{
    (void)state;
    for (int code = 0; code < KQ_N_CODE; code++)
        for (int k = 2; k <= 4; k++)
            each((kq_code)code, k);
}

int main(void)
{
    for (int isa = KQ_ISA_REF; isa <= (int)kq_isa_best() && isa <= KQ_ISA_AVX512; isa++) {
        const kq_packed_kern *p = kq_packed_kern_pick((kq_isa)isa);
        if (n_kerns == 0 || kerns[n_kerns - 1] != p)
            kerns[n_kerns++] = p;
    }
    for (size_t i = 0; i < n_kerns; i++)
        printf("kernels: %s\n", kerns[i]->name);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_codes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
