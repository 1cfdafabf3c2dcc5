/* Rounding onto GGUF's block types: packing against the decoder (itself held to the gguf package,
 * tests/format/test_dequant.c), scales against brute force, feedback against eq. 56 written out, and
 * what must never happen. */
#include "grid/internal.h"

#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "check.h"
#include "kern/gemm.h"
#include "round/matrix.h"

static const kq_dtype types[] = {KQ_T_Q4_0, KQ_T_Q4_1, KQ_T_Q5_0, KQ_T_Q5_1, KQ_T_Q8_0, KQ_T_IQ4_NL,
                                 KQ_T_Q2_K, KQ_T_Q3_K, KQ_T_Q4_K, KQ_T_Q5_K, KQ_T_Q6_K, KQ_T_IQ4_XS};
enum { N_TYPES = sizeof types / sizeof *types };

static float *normal(size_t count, const char *label)
{
    kq_rng rng = kq_rng_stream(20261, label);
    float *x = kq_alloc(count, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)kq_rng_normal(&rng);
    return x;
}

/* Positive definite [n, n], correlated, with a diagonal that grows: the order of rounding is then that
 * of the columns. */
static float *spd(size_t n, const char *label)
{
    float *G = normal((n + 8) * n, label), *H = kq_calloc(n * n, sizeof *H);
    assert_non_null(H);
    for (size_t s = 0; s < n + 8; s++) {
        float *x = G + s * n;
        const float common = x[0] + x[1];
        for (size_t j = 1; j < n; j++)
            x[j] = 0.6f * x[j] + 0.5f * x[j - 1] + 0.3f * common;
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                H[i * n + j] += x[i] * x[j] / (float)n;
    }
    for (size_t i = 0; i < n; i++)
        G[i] = sqrtf((1 + 2 * (float)i / (float)n) / H[i * n + i]);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            H[i * n + j] *= G[i] * G[j];
    kq_free(G);
    return H;
}

/* 1/2 tr(E H_in E^T H_out) of what the bytes decode to. */
static double loss_of(kq_dtype type, const uint8_t *blocks, const float *W, size_t m, size_t n,
                      const float *H_in, const float *H_out)
{
    kq_error err;
    double x;
    float *E = kq_alloc(m * n, sizeof *E);
    assert_true(kq_dequantize(type, blocks, m * n, E));
    for (size_t i = 0; i < m * n; i++)
        E[i] = W[i] - E[i];
    check_ok(kq_predicted_loss(E, m, n, H_in, H_out, 1, &x, &err));
    kq_free(E);
    return x;
}

static uint8_t *blocks_for(kq_dtype type, size_t count, size_t *size)
{
    size_t elems, bytes;
    assert_true(kq_dtype_block(type, &elems, &bytes));
    *size = count / elems * bytes;
    return kq_calloc(*size, 1);
}

static void packing(void **state)
{
    (void)state;
    kq_rng rng = kq_rng_stream(1, "codes");
    for (size_t t = 0; t < N_TYPES; t++) {
        const kq_grid *g = kq_grid_of(types[t]);
        for (int trial = 0; trial < 50; trial++) {
            kq_grid_code c = {.d = kq_f32_to_f16((float)kq_rng_normal(&rng)),
                              .m = kq_f32_to_f16((float)kq_rng_normal(&rng))};
            for (int i = 0; i < g->elems; i++)
                c.q[i] =
                    g->nonlinear
                        ? kq_iq4nl_values[kq_rng_u64(&rng) % 16]
                        : (int8_t)(g->q_min + (int)(kq_rng_u64(&rng) % (uint64_t)(g->q_max - g->q_min + 1)));
            for (int i = 0; i < KQ_GRID_GROUPS; i++) {
                c.scale[i] = (int16_t)(g->scale_min +
                                       (int)(kq_rng_u64(&rng) % (uint64_t)(g->scale_max - g->scale_min + 1)));
                c.min[i] = (int16_t)(kq_rng_u64(&rng) % (uint64_t)(g->min_max + 1));
            }
            uint8_t bytes[512];
            float got[KQ_GRID_BLOCK];
            memset(bytes, 0xa5, sizeof bytes);
            kq_grid_pack(g, &c, bytes);
            assert_true(kq_dequantize(types[t], bytes, (size_t)g->elems, got));
            for (int i = 0; i < g->elems; i++) {
                const float d = kq_f16_to_f32(c.d), m = kq_f16_to_f32(c.m);
                const bool grouped = g->group < g->elems;
                const float scale = grouped ? d * (float)c.scale[i / g->group] : d;
                const float offset = !g->offset ? 0 : grouped ? -(m * (float)c.min[i / g->group]) : m;
                if (got[i] != scale * (float)c.q[i] + offset)
                    fail_msg("%s: weight %d packed as %.9g, read as %.9g", kq_dtype_name(types[t]), i,
                             (double)(scale * (float)c.q[i] + offset), (double)got[i]);
            }
        }
    }
}

/* Every instruction set gives the same bits, and they are those of the definition. */
static void lanes(void **state)
{
    (void)state;
    float *x = normal(32 * 36, "lanes"), *w = x, *v = x + 32, *D = x + 64, *L = x + 96;
    for (size_t i = 0; i < 32 * 32; i++)
        L[i] *= 0.15f; /* more, and rounding errors would grow from weight to weight */
    for (size_t t = 0; t < N_TYPES; t++) {
        const kq_grid *g = kq_grid_of(types[t]);
        const size_t n = (size_t)g->group;
        kq_grid_lanes want;
        memset(&want, 0, sizeof want);
        for (int l = 0; l < KQ_GRID_LANES; l++) {
            want.scale[l] = ((float)l - 3.5f) * 0.3f / (float)(g->nonlinear ? 100 : g->q_max);
            want.offset[l] = g->offset ? -0.1f * (float)l : 0;
        }
        for (size_t i = 0; i < 32; i++)
            D[i] = fabsf(D[i]) + 0.1f;
        for (int isa = KQ_ISA_REF; isa <= (int)kq_isa_best(); isa++) {
            kq_grid_lanes got = want;
            memset(got.cost, 0, sizeof got.cost);
            memset(got.q, 0, sizeof got.q);
            kq_grid_lanes_for((kq_isa)isa)(g, n, w, v, L, 32, D, &got);
            if (isa == KQ_ISA_REF)
                want = got;
            else
                assert_memory_equal(&got, &want, sizeof got);
        }
        for (int l = 0; l < KQ_GRID_LANES; l++) {
            double e[32], cost = 0;
            for (size_t j = n; j-- > 0;) {
                double target = v[j];
                for (size_t k = j + 1; k < n; k++)
                    target += e[k] * L[k * 32 + j];
                const double what = (double)want.scale[l] * want.q[j][l] + want.offset[l];
                e[j] = w[j] - what;
                cost += D[j] * (target - what) * (target - what);
                if (!g->nonlinear && want.q[j][l] > g->q_min && want.q[j][l] < g->q_max)
                    if (!(fabs(target - what) <= fabs(want.scale[l]) * 0.5 + 1e-4))
                        fail_msg("%s: lane %d, weight %zu: target %g, level %g, scale %g",
                                 kq_dtype_name(types[t]), l, j, target, what, (double)want.scale[l]);
            }
            assert_true(fabs(cost - want.cost[l]) <= 1e-3 * cost);
        }
    }
    kq_free(x);
}

/* Without factors: the nearest level of the scale that was chosen, and a scale as good as the best of a
 * fine search. */
static void nearest(void **state)
{
    (void)state;
    kq_error err;
    float *W = normal(64 * 256, "nearest"), *what = kq_alloc(64 * 256, sizeof *what);
    for (size_t t = 0; t < N_TYPES; t++) {
        const kq_grid *g = kq_grid_of(types[t]);
        size_t size;
        uint8_t *b = blocks_for(types[t], 64 * 256, &size);
        check_ok(kq_grid_nearest(types[t], "W", W, 64, 256, 1, b, &err));
        assert_true(kq_dequantize(types[t], b, 64 * 256, what));
        double error = 0, energy = 0, brute = 0;
        for (size_t i = 0; i < 64 * 256; i++) {
            error += (W[i] - what[i]) * (W[i] - what[i]);
            energy += W[i] * W[i];
        }
        /* unit Gaussian data: squared errors a little above those of an optimal scale for each block */
        static const double bound[] = {0.0068, 0.0063, 0.0017, 0.0016, 4e-5,   0.0060,
                                       0.10,   0.028,  0.0066, 0.0017, 3.5e-4, 0.0062};
        if (error > bound[t] * energy)
            fail_msg("%s: relative squared error %.5f, at most %.5f expected", kq_dtype_name(types[t]),
                     error / energy, bound[t]);
        kq_free(b);
        if (g->group < g->elems || g->offset)
            continue;
        for (size_t at = 0; at < 64 * 256; at += 32) {
            double most = 0, best = 1e30;
            for (size_t j = 0; j < 32; j++)
                most = fmax(most, fabs(W[at + j]));
            for (int k = -600; k <= 600; k++) { /* both signs: the levels are not symmetric */
                const double d = most / -g->q_min * 1.25 * k / 600;
                double sum = 0;
                for (size_t j = 0; j < 32; j++) {
                    double least = 1e30;
                    for (int q = g->q_min; q <= g->q_max; q++) {
                        if (g->nonlinear) {
                            bool level = false;
                            for (int i = 0; i < 16; i++)
                                level |= kq_iq4nl_values[i] == q;
                            if (!level)
                                continue;
                        }
                        least = fmin(least, (W[at + j] - d * q) * (W[at + j] - d * q));
                    }
                    sum += least;
                }
                best = fmin(best, sum);
            }
            brute += best;
            if (at >= 32 * 40)
                break;
        }
        error = 0;
        for (size_t i = 0; i < 32 * 42; i++)
            error += i < 32 * 41 ? (W[i] - what[i]) * (W[i] - what[i]) : 0;
        if (error > 1.02 * brute)
            fail_msg("%s: squared error %.6g, a search over 1200 scales finds %.6g", kq_dtype_name(types[t]),
                     error, brute);
    }
    kq_free(W);
    kq_free(what);
}

/* L - I and D of the conditioned factor, in f64. */
static void naive_ldl(const float *H, size_t n, double sigma, double *L)
{
    double *A = kq_calloc(n * n, sizeof *A), mean = 0;
    for (size_t i = 0; i < n; i++)
        mean += H[i * n + i] / (double)n;
    for (size_t i = 0; i < n * n; i++)
        A[i] = H[i] / mean + (i % (n + 1) == 0 ? sigma : 0);
    memset(L, 0, n * n * sizeof *L);
    for (size_t k = 0; k < n; k++) {
        for (size_t i = k + 1; i < n; i++)
            L[i * n + k] = A[i * n + k] / A[k * n + k];
        for (size_t i = k + 1; i < n; i++)
            for (size_t j = k + 1; j < n; j++)
                A[i * n + j] -= L[i * n + k] * A[k * n + k] * L[j * n + k];
    }
    kq_free(A);
}

/* Each weight is the level nearest to eq. 56's target, written out. */
static void feedback(void **state)
{
    (void)state;
    kq_error err;
    const size_t m = 21, n = 96;
    float *W = normal(m * n, "weights"), *H_in = spd(n, "in"), *H_out = spd(m, "out"),
          *what = kq_alloc(m * n, sizeof *what);
    double *L_in = kq_alloc(n * n, 8), *L_out = kq_alloc(m * m, 8), *E = kq_alloc(m * n, 8),
           *S = kq_alloc(m * n, 8);
    const kq_grid_options opt = {.sigma_in = 1e-2, .sigma_out = 2e-2, .threads = 2};
    for (int sides = 0; sides < 4; sides++) {
        uint8_t b[21 * 3 * 22];
        kq_round_report rep;
        check_ok(kq_grid_round(
            KQ_T_Q5_0,
            &(kq_round_input){"W", W, m, n, sides & 1 ? H_in : NULL, sides & 2 ? H_out : NULL, true}, &opt, b,
            &rep, &err));
        assert_true(kq_dequantize(KQ_T_Q5_0, b, m * n, what));
        memset(L_in, 0, n * n * 8);
        memset(L_out, 0, m * m * 8);
        if (sides & 1)
            naive_ldl(H_in, n, 1e-2, L_in);
        if (sides & 2)
            naive_ldl(H_out, m, 2e-2, L_out);
        size_t clipped = 0;
        for (size_t i = 0; i < m * n; i++)
            E[i] = W[i] - what[i];
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++) {
                S[i * n + j] = 0;
                for (size_t k = i + 1; k < m; k++)
                    S[i * n + j] += L_out[k * m + i] * E[k * n + j];
            }
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++) {
                double target = W[i * n + j] + S[i * n + j];
                for (size_t k = j + 1; k < n; k++)
                    target += (S[i * n + k] + E[i * n + k]) * L_in[k * n + j];
                const uint8_t *block = b + (i * 3 + j / 32) * 22;
                const double d = fabs(kq_f16_to_f32((uint16_t)(block[0] | block[1] << 8))),
                             off = fabs(target - what[i * n + j]);
                clipped += off > d * (0.5 + 1e-3);
                assert_true(off <= 6 * d);
            }
        assert_true(clipped < m * n / 20); /* only at the ends of the range */
        if (sides)
            assert_true(fabs(rep.predicted_loss - loss_of(KQ_T_Q5_0, b, W, m, n, sides & 1 ? H_in : NULL,
                                                          sides & 2 ? H_out : NULL)) <=
                        1e-4 * rep.predicted_loss);
    }
    kq_free(W), kq_free(H_in), kq_free(H_out), kq_free(what), kq_free(L_in), kq_free(L_out), kq_free(E),
        kq_free(S);
}

/* Rounding with shrink is rounding from factors that were shrunk beforehand (3/4 is exact in f32),
 * except for what it predicts. */
static void shrunk(void **state)
{
    (void)state;
    kq_error err;
    const size_t m = 21, n = 96;
    float *W = normal(m * n, "weights"), *H_in = spd(n, "in"), *H_out = spd(m, "out"), *S_in = spd(n, "in"),
          *S_out = spd(m, "out");
    for (size_t i = 0; i < n * n; i++)
        S_in[i] *= i % (n + 1) ? 0.75f : 1;
    for (size_t i = 0; i < m * m; i++)
        S_out[i] *= i % (m + 1) ? 0.75f : 1;
    uint8_t a[21 * 3 * 22], b[21 * 3 * 22], c[21 * 3 * 22];
    kq_grid_options opt = {.sigma_in = 1e-2, .sigma_out = 1e-2, .threads = 2, .sweeps = 1};
    kq_round_report ra;
    check_ok(
        kq_grid_round(KQ_T_Q5_0, &(kq_round_input){"W", W, m, n, S_in, S_out, true}, &opt, b, NULL, &err));
    check_ok(
        kq_grid_round(KQ_T_Q5_0, &(kq_round_input){"W", W, m, n, H_in, H_out, true}, &opt, c, NULL, &err));
    opt.shrink = 0.25;
    check_ok(
        kq_grid_round(KQ_T_Q5_0, &(kq_round_input){"W", W, m, n, H_in, H_out, true}, &opt, a, &ra, &err));
    assert_memory_equal(a, b, sizeof a);
    assert_memory_not_equal(a, c, sizeof a);
    assert_true(fabs(ra.predicted_loss / loss_of(KQ_T_Q5_0, a, W, m, n, H_in, H_out) - 1) <= 1e-4);
    kq_free(W), kq_free(H_in), kq_free(H_out), kq_free(S_in), kq_free(S_out);
}

/* Both sides beat one, one beats none; descent never goes up; any number of threads gives the same bytes. */
static void gains(void **state)
{
    (void)state;
    kq_error err;
    const size_t m = 40, n = 512;
    float *W = normal(m * n, "gains"), *H_in = spd(n, "gin"), *H_out = spd(m, "gout");
    for (size_t t = 0; t < N_TYPES; t++) {
        size_t size;
        uint8_t *b = blocks_for(types[t], m * n, &size), *again = blocks_for(types[t], m * n, &size);
        kq_grid_options opt = {.sigma_in = 1e-3, .sigma_out = 1e-3, .threads = 1};
        kq_grid_objective reached;
        check_ok(
            kq_grid_round(types[t], &(kq_round_input){"W", W, m, n, NULL, NULL, false}, &opt, b, NULL, &err));
        const double none = loss_of(types[t], b, W, m, n, H_in, H_out);
        check_ok(
            kq_grid_round(types[t], &(kq_round_input){"W", W, m, n, H_in, NULL, false}, &opt, b, NULL, &err));
        const double one = loss_of(types[t], b, W, m, n, H_in, H_out);
        check_ok(kq_grid_round(types[t], &(kq_round_input){"W", W, m, n, H_in, H_out, false}, &opt, b, NULL,
                               &err));
        const double two = loss_of(types[t], b, W, m, n, H_in, H_out);
        opt.sweeps = 2;
        opt.objective = &reached;
        check_ok(kq_grid_round(types[t], &(kq_round_input){"W", W, m, n, H_in, H_out, false}, &opt, b, NULL,
                               &err));
        opt.objective = NULL;
        const double descended = loss_of(types[t], b, W, m, n, H_in, H_out);
        if (!(one < 0.8 * none && two < 0.95 * one && descended < two && reached.end <= reached.first))
            fail_msg(
                "%s: loss %.4g nearest, %.4g one-sided, %.4g two-sided, %.4g after descent (%.6g from %.6g)",
                kq_dtype_name(types[t]), none, one, two, descended, reached.end, reached.first);
        opt.threads = 3;
        check_ok(kq_grid_round(types[t], &(kq_round_input){"W", W, m, n, H_in, H_out, false}, &opt, again,
                               NULL, &err));
        assert_memory_equal(b, again, size);
        kq_free(b);
        kq_free(again);
    }
    kq_free(W), kq_free(H_in), kq_free(H_out);
}

static void odd_input(void **state)
{
    (void)state;
    kq_error err;
    float *W = normal(8 * 256, "odd"), H[4] = {1, 0, 0, 1};
    uint8_t b[8 * 512];
    const kq_grid_options opt = {.threads = 1};
    check_fails(kq_grid_round(KQ_T_Q4_K, &(kq_round_input){"model.x", W, 8, 192, NULL, NULL, false}, &opt, b,
                              NULL, &err),
                KQ_E_SHAPE, "model.x: rows of 192");
    check_fails(
        kq_grid_round(KQ_T_F16, &(kq_round_input){"x", W, 8, 256, NULL, NULL, false}, &opt, b, NULL, &err),
        KQ_E_ARG, "F16");
    W[300] = NAN;
    check_fails(
        kq_grid_round(KQ_T_Q4_0, &(kq_round_input){"x", W, 8, 256, NULL, NULL, false}, &opt, b, NULL, &err),
        KQ_E_NUMERIC, "[1, 44]");
    W[300] = 0;
    H[3] = INFINITY;
    check_fails(
        kq_grid_round(KQ_T_Q4_0, &(kq_round_input){"x", W, 2, 32, NULL, H, false}, &opt, b, NULL, &err),
        KQ_E_NUMERIC, "H_out");
    for (size_t t = 0; t < N_TYPES;
         t++) { /* zeros stay zeros; a single large value and tiny ones stay finite */
        float what[256];
        memset(W, 0, 256 * sizeof *W);
        check_ok(kq_grid_nearest(types[t], "zero", W, 1, 256, 1, b, &err));
        assert_true(kq_dequantize(types[t], b, 256, what));
        for (size_t i = 0; i < 256; i++)
            assert_true(what[i] == 0);
        W[100] = 1000;
        W[7] = -1e-9f;
        check_ok(kq_grid_nearest(types[t], "spike", W, 1, 256, 1, b, &err));
        assert_true(kq_dequantize(types[t], b, 256, what));
        if (!(fabsf(what[100] - 1000) < (types[t] == KQ_T_IQ4_NL || types[t] == KQ_T_IQ4_XS
                                             ? 3
                                             : 1))) /* they have no level 0: the scale is a trade */
            fail_msg("%s: 1000 became %g", kq_dtype_name(types[t]), (double)what[100]);
    }
    for (size_t i = 0; i < 256; i++)
        W[i] = 1e30f;
    check_fails(kq_grid_nearest(KQ_T_Q4_0, "huge", W, 1, 256, 1, b, &err), KQ_E_NUMERIC, "huge");
    kq_free(W);
}

/* How far each type reaches above and below 0, with scales that end at 65504: from the block formats, by
 * hand. */
static const struct {
    kq_dtype type;
    double above, below;
} reach[N_TYPES] = {
    {KQ_T_Q4_0, 8, 8},     {KQ_T_Q4_1, 15, 1},      {KQ_T_Q5_0, 16, 16},
    {KQ_T_Q5_1, 31, 1},    {KQ_T_Q8_0, 127, 127},   {KQ_T_IQ4_NL, 127, 127},
    {KQ_T_Q2_K, 45, 15},   {KQ_T_Q3_K, 128, 128},   {KQ_T_Q4_K, 945, 63},
    {KQ_T_Q5_K, 1953, 63}, {KQ_T_Q6_K, 4096, 4096}, {KQ_T_IQ4_XS, 127 * 32, 127 * 32},
};

/* A weight just within the reach is held to within a step, and one just beyond it is refused with its
 * place. */
static void edges(void **state)
{
    (void)state;
    kq_error err;
    uint8_t b[2 * 512];
    float *W = normal(2 * 256, "edges"), what[2 * 256];
    for (int t = 0; t < N_TYPES; t++)
        for (int side = 0; side < 2; side++) {
            const double limit = (side ? -reach[t].below : reach[t].above) * 65504;
            W[256 + 37] = (float)(limit * 0.999);
            check_ok(kq_grid_nearest(reach[t].type, "edge", W, 2, 256, 1, b, &err));
            assert_true(kq_dequantize(reach[t].type, b, 512, what));
            if (!(fabs(what[256 + 37] / (limit * 0.999) - 1) < 0.01))
                fail_msg("%s: %g became %g", kq_dtype_name(reach[t].type), limit * 0.999,
                         (double)what[256 + 37]);
            W[256 + 37] = (float)(limit * 1.001);
            check_fails(kq_grid_nearest(reach[t].type, "edge", W, 2, 256, 1, b, &err), KQ_E_NUMERIC,
                        "edge: [1, 37] is ");
            W[256 + 37] = 0;
        }
    /* as two-sided rounding: feedback takes targets beyond the reach, and nothing but finite values
     * comes out */
    float *H_in = spd(256, "edges in"), *H_out = spd(2, "edges out");
    for (int t = 0; t < N_TYPES; t++) {
        for (size_t i = 0; i < 512; i++)
            W[i] = (float)((i % 3 == 0 ? reach[t].above : -reach[t].below) * 65504 * 0.3);
        kq_grid_options o = kq_grid_defaults();
        o.sweeps = 1;
        check_ok(kq_grid_round(reach[t].type, &(kq_round_input){"edge", W, 2, 256, H_in, H_out, true}, &o, b,
                               NULL, &err));
        assert_true(kq_dequantize(reach[t].type, b, 512, what));
        assert_int_equal(kq_first_nonfinite(what, 512), 512);
    }
    /* so small that the scale would round to zero: multiples of the least one, not all zeros */
    for (int t = 0; t < N_TYPES; t++) {
        double error = 0, energy = 0;
        for (size_t i = 0; i < 512; i++)
            W[i] = (float)((i % 2 ? 1 : -0.4) * 0x1p-24);
        check_ok(kq_grid_nearest(reach[t].type, "small", W, 2, 256, 1, b, &err));
        assert_true(kq_dequantize(reach[t].type, b, 512, what));
        for (size_t i = 0; i < 512; i++) {
            error += ((double)W[i] - what[i]) * ((double)W[i] - what[i]);
            energy += (double)W[i] * W[i];
        }
        /* IQ4_NL and IQ4_XS have no level 0: zeros are their best */
        const bool no_zero = reach[t].type == KQ_T_IQ4_NL || reach[t].type == KQ_T_IQ4_XS;
        if (!(error <= (no_zero ? 1.0 : 0.6) * energy))
            fail_msg("%s: relative error %g", kq_dtype_name(reach[t].type), error / energy);
    }
    kq_free(W);
    kq_free(H_in);
    kq_free(H_out);
}

int main(void)
{
    kq_kern_init(kq_isa_best());
    const struct CMUnitTest tests[] = {cmocka_unit_test(packing),   cmocka_unit_test(lanes),
                                       cmocka_unit_test(nearest),   cmocka_unit_test(feedback),
                                       cmocka_unit_test(shrunk),    cmocka_unit_test(gains),
                                       cmocka_unit_test(odd_input), cmocka_unit_test(edges)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
