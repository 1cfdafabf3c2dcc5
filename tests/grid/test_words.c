/* Rounding onto the types whose weights are chosen eight or four at a time: packing against the reader
 * (itself held to the gguf package, tests/format/test_dequant.c), the nearest codeword against all of them,
 * and what rounding must gain. */
#include "grid/internal.h"

#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "check.h"
#include "kern/gemm.h"
#include "round/matrix.h"

static const kq_dtype types[] = {KQ_T_IQ2_XXS, KQ_T_IQ2_XS, KQ_T_IQ2_S, KQ_T_IQ3_XXS, KQ_T_IQ3_S};
enum { N_TYPES = sizeof types / sizeof *types, BLOCK = KQ_CODEBOOK_BLOCK };

static float *normal(size_t count, const char *label)
{
    kq_rng rng = kq_rng_stream(20262, label);
    float *x = kq_alloc(count, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)kq_rng_normal(&rng);
    return x;
}

/* Positive definite [n, n]: neighbours are correlated, and all share a little. */
static float *spd(size_t n, const char *label)
{
    float *x = normal(n * (n + 8), label), *H = kq_calloc(n * n, sizeof *H);
    assert_non_null(H);
    for (size_t s = 0; s < n + 8; s++) {
        float *row = x + s * n;
        for (size_t j = 1; j < n; j++)
            row[j] = 0.7f * row[j] + 0.5f * row[j - 1] + 0.3f * row[0];
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                H[i * n + j] += row[i] * row[j] / (float)n;
    }
    kq_free(x);
    return H;
}

/* Any bytes are a block of these types: unpacked and packed again they are the same. */
static void packing(void **state)
{
    (void)state;
    kq_rng rng = kq_rng_stream(1, "blocks");
    for (size_t t = 0; t < N_TYPES; t++) {
        const kq_codebook *c = kq_codebook_of(types[t]);
        size_t elems, size;
        assert_true(kq_dtype_block(types[t], &elems, &size));
        for (int trial = 0; trial < 100; trial++) {
            uint8_t bytes[128], again[128];
            kq_codebook_block b;
            for (size_t i = 0; i < size; i++)
                bytes[i] = (uint8_t)kq_rng_u64(&rng);
            memset(again, 0xa5, sizeof again);
            kq_codebook_unpack(c, bytes, &b);
            kq_codebook_pack(c, &b, again);
            assert_memory_equal(bytes, again, size);
            assert_int_equal(again[size], 0xa5);
        }
    }
    assert_null(kq_codebook_of(KQ_T_IQ4_XS));
}

/* The codewords ascend (the search needs it), no level is out of range, and they are ggml's: sums over all.
 */
static void codewords(void **state)
{
    (void)state;
    static const uint32_t sum[N_TYPES] = {711230818u, 3063311876u, 3685433257u, 71784388u, 282122336u};
    for (size_t t = 0; t < N_TYPES; t++) {
        const kq_codebook *c = kq_codebook_of(types[t]);
        uint32_t s = 0;
        for (size_t k = 0; k < c->n; k++) {
            assert_true(!k || c->word[k] > c->word[k - 1]);
            for (size_t j = 0; j < c->dim; j++)
                assert_true((c->word[k] >> (j * c->bits) & ((1u << c->bits) - 1)) < c->n_level);
            s += (uint32_t)(k + 1) * c->word[k];
        }
        assert_int_equal(s, sum[t]);
    }
}

/* The cost of eight weights with the best signs that the type allows, codeword by codeword. */
static double brute_word(const kq_codebook *c, const float *x, const float *q, double scale, bool flip)
{
    double best = 1e30;
    for (size_t k = 0; k < c->n; k++) {
        double cost = 0, least = 1e30;
        for (size_t j = 0; j < c->dim; j++) {
            const double level = c->level[c->word[k] >> (j * c->bits) & ((1u << c->bits) - 1)],
                         e = fabs(x[j]) - scale * level;
            cost += q[j] * e * e;
            least = fmin(least, 4 * q[j] * fabs(x[j]) * scale * level);
        }
        best = fmin(best, cost + (flip ? least : 0));
    }
    return best;
}

static void nearest_codeword(void **state)
{
    (void)state;
    kq_rng rng = kq_rng_stream(7, "octets");
    for (size_t t = 0; t < N_TYPES; t++) {
        const kq_codebook *c = kq_codebook_of(types[t]);
        kq_words words;
        kq_words_begin(&words, c);
        for (int trial = 0; trial < 300; trial++) {
            float x[8], q[8];
            size_t minus = 0, got_minus = 0;
            for (size_t j = 0; j < 8; j++) {
                x[j] = (float)kq_rng_normal(&rng);
                q[j] = (float)(0.05 + kq_rng_uniform(&rng));
                minus += x[j] < 0;
            }
            const float scale = (float)((0.3 + 1.5 * kq_rng_uniform(&rng)) / words.rms);
            kq_octet o;
            double got = 0, want;
            kq_words_nearest(&words, x, q, scale, &o);
            for (size_t j = 0; j < 8; j++) {
                const double e = x[j] - (double)scale * o.value[j];
                got += q[j] * e * e;
                got_minus += o.value[j] < 0;
                assert_true((o.value[j] < 0) == (o.signs >> j & 1));
            }
            assert_true(!c->even || got_minus % 2 == 0);
            const bool flip = c->even && minus % 2;
            if (c->dim == 8)
                want = brute_word(c, x, q, scale, flip);
            else
                want = fmin(brute_word(c, x, q, scale, flip) + brute_word(c, x + 4, q + 4, scale, false),
                            brute_word(c, x, q, scale, false) + brute_word(c, x + 4, q + 4, scale, flip));
            if (!(fabs(got - want) <= 1e-5 * want))
                fail_msg("%s: cost %.7g, the best codeword has %.7g", kq_dtype_name(types[t]), got, want);
        }
    }
}

/* 1/2 tr(E H_in E^T H_out) of what the bytes decode to; without factors half the squared error. */
static double loss_of(kq_dtype type, const uint8_t *blocks, const kq_round_input *in, const float *H_in,
                      const float *H_out)
{
    kq_error err;
    double x;
    const size_t n = in->m * in->n;
    float *E = kq_alloc(n, sizeof *E);
    assert_true(kq_dequantize(type, blocks, n, E));
    for (size_t i = 0; i < n; i++)
        E[i] = in->W[i] - E[i];
    check_ok(kq_predicted_loss(E, in->m, in->n, H_in, H_out, 1, &x, &err));
    kq_free(E);
    return x;
}

/* Unit Gaussian data without factors: squared errors a little above what the search reaches today. */
static void nearest(void **state)
{
    (void)state;
    static const double bound[N_TYPES] = {0.108, 0.082, 0.058, 0.0316, 0.0170};
    kq_error err;
    kq_round_input in = {.name = "W", .W = normal(64 * 512, "nearest"), .m = 64, .n = 512};
    double energy = 0;
    for (size_t i = 0; i < in.m * in.n; i++)
        energy += (double)in.W[i] * in.W[i];
    for (size_t t = 0; t < N_TYPES; t++) {
        uint8_t *b = kq_alloc(in.m * in.n, 1);
        check_ok(kq_grid_nearest(types[t], "W", in.W, in.m, in.n, 2, b, &err));
        const double error = 2 * loss_of(types[t], b, &in, NULL, NULL);
        if (!(error < bound[t] * energy))
            fail_msg("%s: relative squared error %.5f", kq_dtype_name(types[t]), error / energy);
        kq_free(b);
    }
    kq_free((float *)in.W);
}

/* Both sides beat one, one beats none; descent never goes up; any number of threads gives the same bytes. */
static void gains(void **state)
{
    (void)state;
    kq_error err;
    kq_round_input in = {.name = "W", .W = normal(24 * 512, "gains"), .m = 24, .n = 512};
    float *H_in = spd(512, "in"), *H_out = spd(24, "out");
    for (size_t t = 0; t < N_TYPES; t++) {
        uint8_t *b = kq_calloc(in.m * in.n, 1), *again = kq_calloc(in.m * in.n, 1);
        kq_grid_options opt = {.sigma_in = 1e-3, .sigma_out = 1e-3, .threads = 1};
        kq_grid_objective reached;
        double loss[4];
        for (int step = 0; step < 4; step++) {
            in.H_in = step > 0 ? H_in : NULL;
            in.H_out = step > 1 ? H_out : NULL;
            opt.sweeps = step > 2 ? 2 : 0;
            opt.objective = step > 2 ? &reached : NULL;
            check_ok(kq_grid_round(types[t], &in, &opt, b, NULL, &err));
            loss[step] = loss_of(types[t], b, &in, H_in, H_out);
        }
        if (!(loss[1] < 0.8 * loss[0] && loss[2] < 0.95 * loss[1] && loss[3] < loss[2] &&
              reached.end <= reached.first))
            fail_msg("%s: loss %.4g nearest, %.4g one-sided, %.4g two-sided, %.4g after descent",
                     kq_dtype_name(types[t]), loss[0], loss[1], loss[2], loss[3]);
        opt.threads = 3;
        check_ok(kq_grid_round(types[t], &in, &opt, again, NULL, &err));
        assert_memory_equal(b, again, in.m * in.n);
        kq_free(b);
        kq_free(again);
    }
    kq_free((float *)in.W);
    kq_free(H_in);
    kq_free(H_out);
}

/* Zeros stay zeros; what lies within the reach of the scales stays finite, and what lies beyond is refused.
 */
static void edges(void **state)
{
    (void)state;
    static const double above[N_TYPES] = {43 * 31 / 8.0, 43 * 31 / 8.0, 43 * 31 / 8.0, 62 * 31 / 4.0,
                                          15 * 31};
    kq_error err;
    float *W = kq_alloc(2 * BLOCK, sizeof *W), *H_in = spd(BLOCK, "edges in"), *H_out = spd(2, "edges out"),
          what[2 * BLOCK];
    uint8_t b[2 * BLOCK];
    kq_grid_options o = kq_grid_defaults();
    o.sweeps = 1;
    for (size_t t = 0; t < N_TYPES; t++) {
        memset(W, 0, 2 * BLOCK * sizeof *W);
        check_ok(kq_grid_nearest(types[t], "zero", W, 2, BLOCK, 1, b, &err));
        assert_true(kq_dequantize(types[t], b, 2 * BLOCK, what));
        for (size_t i = 0; i < 2 * BLOCK; i++)
            assert_true(what[i] == 0);
        W[BLOCK + 37] = (float)(above[t] * 65504 * 0.999);
        check_ok(kq_grid_nearest(types[t], "edge", W, 2, BLOCK, 1, b, &err));
        assert_true(kq_dequantize(types[t], b, 2 * BLOCK, what));
        /* there is no level 0, so that the others pull: half of it at least */
        assert_true(what[BLOCK + 37] > 0.45f * W[BLOCK + 37] && what[BLOCK + 37] <= 1.1f * W[BLOCK + 37]);
        W[BLOCK + 37] = (float)(above[t] * 65504 * 1.001);
        check_fails(kq_grid_nearest(types[t], "edge", W, 2, BLOCK, 1, b, &err), KQ_E_NUMERIC,
                    "edge: [1, 37] is ");
        for (int small = 0; small < 2; small++) { /* feedback beyond the reach, and below F16's least scale */
            for (size_t i = 0; i < 2 * BLOCK; i++)
                W[i] = (float)((i % 3 == 0 ? 1 : -1) * (small ? 0x1p-24 : above[t] * 65504 * 0.3));
            check_ok(kq_grid_round(types[t], &(kq_round_input){"edge", W, 2, BLOCK, H_in, H_out, true}, &o, b,
                                   NULL, &err));
            assert_true(kq_dequantize(types[t], b, 2 * BLOCK, what));
            assert_int_equal(kq_first_nonfinite(what, 2 * BLOCK), 2 * BLOCK);
        }
    }
    check_fails(kq_grid_nearest(KQ_T_IQ3_S, "short", W, 1, BLOCK / 2, 1, b, &err), KQ_E_SHAPE, "rows of 128");
    kq_free(W);
    kq_free(H_in);
    kq_free(H_out);
}

int main(void)
{
    kq_kern_init(kq_isa_best());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packing), cmocka_unit_test(codewords), cmocka_unit_test(nearest_codeword),
        cmocka_unit_test(nearest), cmocka_unit_test(gains),     cmocka_unit_test(edges)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
