/* The lazy two-sided LDLQ against eq. 12 evaluated naively: all products anew for every tile, in f64,
 * over the tiles already rounded. */
#include "common.h"
#include "kern/gemm.h"
#include "base/mem.h"

static kq_error err;

/* A rounder that is a smooth function of the target, so that float noise stays noise, and that writes
 * down its targets. */
typedef struct recorder {
    float *target; /* [tiles, 256] */
    int *calls;    /* [tiles] */
    size_t largest_batch;
} recorder;

static double coarse(double x)
{
    return x - 0.4 * sin(3 * x) - 0.05;
}

static void round_smooth(const void *ctx, const float *tiles, const size_t *index, size_t count,
                         uint16_t *packed, float *decoded, void *scratch)
{
    const recorder *rec = ctx;
    assert_true(count >= 1 && count <= 5);
    memset(scratch, 7, 100);
    for (size_t t = 0; t < count; t++) {
        memcpy(rec->target + index[t] * 256, tiles + t * 256, 256 * sizeof *tiles);
        rec->calls[index[t]]++;
        for (size_t i = 0; i < 3; i++)
            packed[t * 3 + i] = (uint16_t)(index[t] * 3 + i);
        for (size_t i = 0; i < 256; i++)
            decoded[t * 256 + i] = (float)coarse(tiles[t * 256 + i]);
    }
}

static float *lower(size_t n, const char *label)
{
    float *L = normal(n * n, label);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            L[i * n + j] = j / 16 < i / 16 ? L[i * n + j] * 0.7f / sqrtf((float)n) : 0;
    return L;
}

static void naive(size_t m, size_t n, const float *Wp, const float *L_in, const float *L_out, double scale,
                  float *targets, float *What)
{
    double *E = kq_calloc(m * n, sizeof *E), *Li = kq_calloc(n * n, sizeof *Li),
           *Lo = kq_calloc(m * m, sizeof *Lo);
    double *P = kq_alloc(m * n, sizeof *P), *Q = kq_alloc(m * n, sizeof *Q), *R = kq_alloc(m * n, sizeof *R);
    for (size_t i = 0; L_in && i < n * n; i++)
        Li[i] = L_in[i];
    for (size_t i = 0; L_out && i < m * m; i++)
        Lo[i] = L_out[i];
    for (size_t r = m / 16; r-- > 0;)
        for (size_t c = n / 16; c-- > 0;) {
            mul(true, m, n, m, Lo, E, P);  /* L_out^T E */
            mul(false, m, n, n, P, Li, Q); /* L_out^T E L_in */
            mul(false, m, n, n, E, Li, R); /* E L_in */
            for (size_t i = r * 16; i < r * 16 + 16; i++)
                for (size_t j = c * 16; j < c * 16 + 16; j++) {
                    double t = Wp[i * n + j] + Q[i * n + j] + P[i * n + j] + R[i * n + j];
                    double w = scale * coarse(t / scale);
                    targets[(r * (n / 16) + c) * 256 + i % 16 * 16 + j % 16] = (float)(t / scale);
                    What[i * n + j] = (float)w;
                    E[i * n + j] = Wp[i * n + j] - w;
                }
        }
    kq_free(R), kq_free(Q), kq_free(P), kq_free(Lo), kq_free(Li), kq_free(E);
}

static void run(size_t m, size_t n, const float *Wp, const float *L_in, const float *L_out, float scale,
                int threads, size_t batch, float *targets, float *What)
{
    size_t tiles = m * n / 256;
    recorder rec = {.target = targets, .calls = kq_calloc(tiles, sizeof(int))};
    uint16_t *packed = kq_alloc(tiles * 3, 2);
    kq_tile_rounder q = {
        .round = round_smooth, .ctx = &rec, .words = 3, .scratch_bytes = 100, .batch = batch};
    check_ok(kq_ldlq_with(&q, &(kq_ldlq_input){Wp, m, n, L_in, L_out, scale}, packed, What, threads, &err));
    for (size_t t = 0; t < tiles; t++)
        assert_int_equal(rec.calls[t], 1);
    for (size_t i = 0; i < tiles * 3; i++)
        assert_int_equal(packed[i], (uint16_t)i);
    kq_free(packed), kq_free(rec.calls);
}

static void test_naive(void **state)
{
    (void)state;
    /* One supertile; several with partial ones at both edges; a single row and a single column of tiles. */
    static const size_t sizes[][2] = {{64, 48}, {80, 96}, {16, 160}, {160, 16}, {16, 16}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (int sides = 0; sides < 4; sides++) {
            size_t m = sizes[k][0], n = sizes[k][1];
            float *Wp = normal(m * n, "W"), *Li = lower(n, "L_in"), *Lo = lower(m, "L_out"),
                  *want = kq_alloc(m * n, sizeof *want);
            float *What = kq_alloc(m * n, sizeof *What), *targets = kq_alloc(m * n, sizeof *targets);
            float *first = kq_alloc(m * n, sizeof *first);
            const float *L_in = sides & 1 ? Li : NULL, *L_out = sides & 2 ? Lo : NULL, scale = 0.8f;
            naive(m, n, Wp, L_in, L_out, scale, want, What);
            float *W2 = kq_alloc(m * n, sizeof *W2);
            run(m, n, Wp, L_in, L_out, scale, 1, 4, targets, W2);
            check_close(targets, want, m * n, 1e-5);
            check_close(W2, What, m * n, 1e-5);
            memcpy(first, targets, m * n * sizeof *first);
            for (int threads = 2; threads <= 3; threads++) { /* the same bits, whatever the batches */
                run(m, n, Wp, L_in, L_out, scale, threads, (size_t)threads + 2, targets, What);
                assert_memory_equal(targets, first, m * n * sizeof *first);
                assert_memory_equal(What, W2, m * n * sizeof *W2);
            }
            if (sides == 3) { /* the feedback is not negligible in this test */
                run(m, n, Wp, NULL, NULL, scale, 1, 1, targets, What);
                assert_true(m * n == 256 || check_rel(targets, first, m * n) > 0.05);
            }
            kq_free(W2), kq_free(first), kq_free(targets), kq_free(What), kq_free(want), kq_free(Lo),
                kq_free(Li), kq_free(Wp);
        }
}

/* Large matrices take larger supertiles. Once all is rounded, eq. 12 with the final E must give every
 * target again (L strictly lower). */
static void test_large(void **state)
{
    (void)state;
    size_t m = 2048, n = 2096;
    float *Wp = normal(m * n, "W"), *Li = lower(n, "L_in"), *Lo = lower(m, "L_out"),
          *What = kq_alloc(m * n, sizeof *What);
    float *targets = kq_alloc(m * n, sizeof *targets), *S = kq_alloc(m * n, sizeof *S),
          *E = kq_alloc(m * n, sizeof *E);
    run(m, n, Wp, Li, Lo, 1, 2, 4, targets, What);
    for (size_t i = 0; i < m * n; i++)
        S[i] = E[i] = Wp[i] - What[i];
    kq_gemm_f32(true, false, m, n, m, 1, Lo, m, E, n, 1, S, n); /* S = E + L_out^T E */
    for (size_t i = 0; i < m * n; i++)
        What[i] = Wp[i] + (S[i] - E[i]);
    kq_gemm_f32(false, false, m, n, n, 1, S, n, Li, n, 1, What, n);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            S[(i / 16 * (n / 16) + j / 16) * 256 + i % 16 * 16 + j % 16] = What[i * n + j];
    check_close(targets, S, m * n, 1e-5);
    kq_free(E), kq_free(S), kq_free(targets), kq_free(What), kq_free(Lo), kq_free(Li), kq_free(Wp);
}

/* With the trellis code: the same words for 1, 2 and 3 threads, What their decoded values, and a scale
 * of 0. */
static void test_trellis(void **state)
{
    (void)state;
    size_t m = 80, n = 112, tiles = m * n / 256;
    kq_trellis *t = NULL;
    check_ok(kq_trellis_new(KQ_HYB, 2, kq_isa_best(), NULL, &t, &err));
    size_t words = kq_trellis_words(t);
    float *Wp = normal(m * n, "W"), *Li = lower(n, "L_in"), *Lo = lower(m, "L_out"),
          *What = kq_alloc(m * n, sizeof *What);
    float *again = kq_alloc(m * n, sizeof *again), v[256];
    uint16_t *packed = kq_alloc(tiles * words, 2), *packed2 = kq_alloc(tiles * words, 2);
    float scale = (float)(1 / kq_trellis_weight_rms(t));
    check_ok(kq_ldlq(t, &(kq_ldlq_input){Wp, m, n, Li, Lo, scale}, packed, What, 1, &err));
    for (int threads = 2; threads <= 3; threads++) {
        check_ok(kq_ldlq(t, &(kq_ldlq_input){Wp, m, n, Li, Lo, scale}, packed2, again, threads, &err));
        assert_memory_equal(packed2, packed, tiles * words * 2);
        assert_memory_equal(again, What, m * n * sizeof *What);
    }
    for (size_t k = 0; k < tiles; k++) {
        kq_trellis_decode(t, packed + k * words, 1, v);
        for (size_t i = 0; i < 256; i++)
            assert_true(What[(k / (n / 16) * 16 + i / 16) * n + k % (n / 16) * 16 + i % 16] == scale * v[i]);
    }
    check_ok(kq_ldlq(t, &(kq_ldlq_input){Wp, m, n, Li, Lo, 0}, packed, What, 2, &err));
    for (size_t i = 0; i < m * n; i++)
        assert_true(What[i] == 0);
    check_fails(kq_ldlq(t, &(kq_ldlq_input){Wp, m, n, Li, Lo, NAN}, packed, What, 1, &err), KQ_E_ARG,
                "scale");
    check_fails(kq_ldlq(t, &(kq_ldlq_input){Wp, 40, n, Li, Lo, 1}, packed, What, 1, &err), KQ_E_ARG,
                "multiples");
    kq_free(packed2), kq_free(packed), kq_free(again), kq_free(What), kq_free(Lo), kq_free(Li), kq_free(Wp);
    kq_trellis_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_naive), cmocka_unit_test(test_large),
                                       cmocka_unit_test(test_trellis)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
