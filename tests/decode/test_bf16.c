/* Products with a bf16 matrix through AMX: against the sum in double, and the same bits however many rows and
 * vectors share a call. */
#include "check.h"

#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "decode/bf16.h"

enum { MOST = 70 /* vectors */ };

static void pack_all(const kq_bf16_kern *k, const float *x, size_t n, size_t T, uint32_t *packed)
{
    const size_t steps = kq_bf16_steps(n);
    for (size_t t = 0; t < T; t += KQ_BF16_GROUP)
        for (size_t s = 0; s < steps; s++) /* any cut into steps gives the same */
            k->pack(x + t * n, n, T - t < KQ_BF16_GROUP ? T - t : KQ_BF16_GROUP, n, s, s + 1,
                    packed + kq_bf16_packed_size(n, t));
}

static void shape(const kq_bf16_kern *k, size_t m, size_t n)
{
    kq_rng rng = kq_rng_stream(m * 1000 + n, "test");
    uint16_t *W = kq_alloc(m * n, sizeof *W);
    float *x = kq_alloc(MOST * n, 4), *all = kq_alloc(MOST * m, 4), *y = kq_alloc(MOST * m, 4);
    uint32_t *packed = kq_alloc(kq_bf16_packed_size(n, MOST), 4);
    for (size_t i = 0; i < m * n; i++)
        W[i] = kq_f32_to_bf16((float)kq_rng_normal(&rng));
    for (size_t i = 0; i < MOST * n; i++)
        x[i] = (float)kq_rng_normal(&rng);
    pack_all(k, x, n, MOST, packed);
    k->dots(W, m, n, packed, MOST, all, m);
    for (size_t t = 0; t < MOST; t++)
        for (size_t r = 0; r < m; r++) {
            double want = 0, size = 0;
            for (size_t i = 0; i < n; i++) {
                const double a = (double)kq_bf16_to_f32(W[r * n + i]) * (double)x[t * n + i];
                want += a, size += fabs(a);
            }
            /* 2^-17 of each product, and the f32 sum */
            if (!(fabs((double)all[t * m + r] - want) <= 2e-5 * size))
                fail_msg("%zu x %zu, row %zu, vector %zu: %.9g, expected %.9g", m, n, r, t,
                         (double)all[t * m + r], want);
        }
    static const size_t counts[] = {1, 2, 15, 16, 17, 31, 32, 33, 48, 64};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        const size_t T = counts[c];
        pack_all(k, x + n, n, T, packed);
        k->dots(W, m, n, packed, T, y, m);
        assert_memory_equal(y, all + m, T * m * 4);
        for (size_t r = 0; r < m; r += 5) {
            k->dots(W + r * n, m - r < 5 ? m - r : 5, n, packed, T, y, 5);
            for (size_t t = 0; t < T; t++)
                assert_memory_equal(y + t * 5, all + (t + 1) * m + r, (m - r < 5 ? m - r : 5) * 4);
        }
    }
    kq_free(W), kq_free(x), kq_free(all), kq_free(y), kq_free(packed);
}

static void test_products(void **state)
{
    (void)state;
    const kq_bf16_kern *k = kq_bf16_kern_pick(kq_isa_best());
    if (!k)
        skip();
    static const size_t shapes[][2] = {{32, 64}, {64, 576}, {33, 33}, {7, 5}, {80, 100}, {16, 32}, {47, 48}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        shape(k, shapes[s][0], shapes[s][1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_products)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
