/* Rows of an embedding: against a plain LDLQ written here from docs/math.md (eq. 144, 145 and 60), the way
 * back for any range of rows, bands, padding, and what the factor gains. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "check.h"
#include "round/matrix.h"
#include "round/round.h"

static kq_trellis *fine_code; /* of the fine rows, where there are any */

typedef struct matrix {
    const float *W;
    size_t n, rows, read; /* read: rows asked for so far */
} matrix;

static kq_status read_rows(void *ctx, size_t row0, size_t count, float *W, kq_error *err)
{
    matrix *m = ctx;
    (void)err;
    assert_true(row0 + count <= m->rows);
    m->read += count;
    memcpy(W, m->W + row0 * m->n, count * m->n * sizeof *W);
    return KQ_OK;
}

/* Rows of very different size, as those of an embedding are. */
static float *random_rows(size_t rows, size_t n)
{
    kq_rng rng = kq_rng_stream(5, "rows");
    float *W = kq_alloc(rows * n, sizeof *W);
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < n; j++)
            W[r * n + j] = (float)(kq_rng_normal(&rng) * pow(2, (double)(r % 7) - 3));
    return W;
}

/* A factor with few large directions. */
static float *random_factor(size_t n)
{
    kq_rng rng = kq_rng_stream(6, "factor");
    float *H = kq_calloc(n * n, sizeof *H), *x = kq_alloc(n, sizeof *x);
    for (size_t s = 0; s < 2 * n; s++) {
        for (size_t j = 0; j < n; j++)
            x[j] = (float)(kq_rng_normal(&rng) * (s < 3 ? 10 : 1));
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                H[i * n + j] += x[i] * x[j];
    }
    kq_free(x);
    return H;
}

static double loss(const float *W, const float *What, size_t rows, size_t n, const float *H)
{
    double sum = 0;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                sum += (double)(W[r * n + i] - What[r * n + i]) * H[i * n + j] *
                       (W[r * n + j] - What[r * n + j]);
    return sum;
}

static kq_packed round_bands(const kq_trellis *t, const float *W, size_t rows, size_t n, const float *H,
                             size_t band, int threads, kq_round_report *report)
{
    kq_error err;
    kq_packed p;
    matrix m = {W, n, rows, 0};
    const kq_rows_input in = {
        .name = "lm_head", .rows = rows, .n = n, .H_in = H, .band = band, .read = read_rows, .ctx = &m};
    const kq_round_options opt = {.sigma_reg = 0.01, .seed = 3, .threads = threads};
    check_ok(kq_round_rows(t, &in, &opt, &p, report, &err));
    assert_int_equal(m.read, 2 * rows);
    assert_true(p.one_sided);
    return p;
}

static kq_packed round_rows(const kq_trellis *t, const float *W, size_t rows, size_t n, const float *H,
                            int threads, kq_round_report *report)
{
    return round_bands(t, W, rows, n, H, 0, threads, report);
}

static float *dense(const kq_trellis *t, const kq_packed *p, size_t row0, size_t count)
{
    kq_error err;
    kq_hadamard *u;
    float *out = kq_alloc(count * p->n, sizeof *out);
    check_ok(kq_hadamard_new(p->n_pad, &u, &err));
    check_ok(kq_unround_rows(&(kq_row_codes){.most = t, .fine = fine_code}, p, u, row0, count, out, &err));
    check_fails(kq_unround_rows(&(kq_row_codes){.most = t, .fine = fine_code}, p, u, p->m, 1, out, &err),
                KQ_E_ARG, "rows");
    kq_hadamard_free(u);
    return out;
}

/* Eq. 144, 145 and 60 in plain loops: the dense rows. */
static float *plain_ldlq(const kq_trellis *t, const kq_packed *p, const float *W, const float *H)
{
    kq_error err;
    kq_hadamard *u;
    const size_t n = p->n, rows = p->m; /* multiples of 16 */
    int extra;
    float *L = kq_alloc(n * n, sizeof *L), *X = kq_alloc(rows * n, sizeof *X),
          *Q = kq_calloc(rows * n, sizeof *Q), *scratch = kq_alloc(2 * n, sizeof *scratch);
    void *search = kq_alloc(kq_trellis_scratch_bytes(t), 1);
    uint16_t words[64];
    double all = 0;
    check_ok(kq_hadamard_new(n, &u, &err));
    memcpy(L, H, n * n * sizeof *L);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            L[i * n + j] *= p->su[i] * p->su[j];
    check_ok(kq_factor_rotate(u, NULL, L, n, 1, &err));
    check_ok(kq_factor_condition(L, n, 0.01, &extra, &err));
    float *M = kq_alloc(n * n, sizeof *M);
    check_ok(kq_factor_block_ldl(L, n, M, &err));
    for (size_t i = 0; i < rows * n; i++)
        all += (double)W[i] * W[i];
    const double rms = sqrt(all / (double)(rows * n));
    for (size_t r = 0; r < rows; r++) {
        double own = 0;
        for (size_t j = 0; j < n; j++)
            own += (double)W[r * n + j] * W[r * n + j];
        const float sv = kq_f16_to_f32(kq_f32_to_f16((float)(sqrt(own / (double)n) / rms)));
        assert_true(sv == p->sv[r]);
        for (size_t j = 0; j < n; j++)
            X[r * n + j] = W[r * n + j] / sv * p->su[j];
    }
    kq_hadamard_rows(u, false, X, rows, n, scratch);
    const double scale = rms / kq_trellis_weight_rms(t);
    for (size_t r0 = 0; r0 < rows; r0 += 16)
        for (size_t c0 = n; c0 > 0;) {
            float tile[256], value[256];
            c0 -= 16;
            for (size_t i = 0; i < 16; i++)
                for (size_t j = 0; j < 16; j++) {
                    const size_t r = r0 + i, c = c0 + j;
                    double target = X[r * n + c];
                    for (size_t k = c0 + 16; k < n; k++)
                        target += (double)(X[r * n + k] - Q[r * n + k]) * M[k * n + c];
                    tile[i * 16 + j] = (float)(target / scale);
                }
            kq_trellis_encode(t, tile, 1, words, value, search);
            for (size_t i = 0; i < 256; i++)
                Q[(r0 + i / 16) * n + c0 + i % 16] = (float)(value[i] * scale);
        }
    kq_hadamard_rows(u, true, Q, rows, n, scratch);
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < n; j++)
            Q[r * n + j] *= p->sv[r] * p->su[j];
    kq_free(L);
    kq_free(M);
    kq_free(X);
    kq_free(scratch);
    kq_free(search);
    kq_hadamard_free(u);
    return Q;
}

static void rows_are_those_of_a_plain_ldlq(void **state)
{
    (void)state;
    enum { ROWS = 96, N = 192 };
    kq_error err;
    float *W = random_rows(ROWS, N), *H = random_factor(N);
    for (int k = 2; k <= 4; k++) {
        kq_trellis *t;
        kq_round_report report;
        check_ok(kq_trellis_new(k == 3 ? KQ_1MAD : KQ_HYB, k, kq_isa_best(), NULL, &t, &err));
        kq_packed p = round_rows(t, W, ROWS, N, H, 2, &report);
        float *got = dense(t, &p, 0, ROWS), *want = plain_ldlq(t, &p, W, H);
        size_t other = 0; /* weights of tiles for which another walk was a hair's breadth better */
        for (size_t i = 0; i < ROWS * N; i++)
            other += fabsf(got[i] - want[i]) > 1e-4f * fabsf(want[i]) + 1e-5f;
        const double a = loss(W, got, ROWS, N, H), b = loss(W, want, ROWS, N, H);
        if (other > ROWS * N / 10 || fabs(a - b) > 0.02 * b)
            fail_msg("%d bits: %zu of %d weights differ, loss %g for %g", k, other, ROWS * N, a, b);
        double error = 0, energy = 0;
        for (size_t i = 0; i < ROWS * N; i++) {
            error += pow((double)W[i] - got[i], 2);
            energy += pow(W[i], 2);
        }
        assert_true(fabs(report.relative_mse - error / energy) < 1e-5);
        /* without the factor the loss is larger */
        kq_packed q = round_rows(t, W, ROWS, N, NULL, 2, &report);
        float *blind = dense(t, &q, 0, ROWS);
        if (!(a < 0.8 * loss(W, blind, ROWS, N, H)))
            fail_msg("%d bits: the factor takes the loss from %g to %g", k, loss(W, blind, ROWS, N, H), a);
        kq_packed_free(&p);
        kq_packed_free(&q);
        kq_free(got);
        kq_free(want);
        kq_free(blind);
        kq_trellis_free(t);
    }
    kq_free(W);
    kq_free(H);
}

/* Sizes that are no multiples of 16, one band and several, and every number of threads. */
static void ranges_bands_and_threads(void **state)
{
    (void)state;
    kq_error err;
    const size_t sizes[][2] = {{1, 40}, {37, 40}, {33, 16}, {600, 64}};
    kq_trellis *t;
    check_ok(kq_trellis_new(KQ_HYB, 2, kq_isa_best(), NULL, &t, &err));
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const size_t rows = sizes[s][0], n = sizes[s][1];
        kq_round_report report;
        float *W = random_rows(rows, n), *H = random_factor(n);
        if (rows > 20) /* a row of zeros stays one */
            memset(W + 20 * n, 0, n * sizeof *W);
        kq_packed p = round_rows(t, W, rows, n, H, 1, &report),
                  q = round_bands(t, W, rows, n, H, 128, 3, &report);
        assert_memory_equal(p.trellis, q.trellis, p.m_pad / 16 * (p.n_pad / 16) * 64);
        assert_memory_equal(p.sv, q.sv, rows * sizeof *p.sv);
        float *all = dense(t, &p, 0, rows);
        for (size_t r = 0; r < rows; r = r * 3 + 1) {
            const size_t count = rows - r < 18 ? rows - r : 18;
            float *some = dense(t, &p, r, count);
            check_close(some, all + r * n, count * n, 1e-6);
            kq_free(some);
        }
        for (size_t j = 0; rows > 20 && j < n; j++)
            assert_true(all[20 * n + j] == 0);
        assert_true(report.relative_mse < 0.2);
        kq_packed_free(&p);
        kq_packed_free(&q);
        kq_free(all);
        kq_free(W);
        kq_free(H);
    }
    kq_trellis_free(t);
}

/* Rows do not depend on each other: with fine rows each is what it is where all rows have its bits, to the
 * rounding of its scale. */
static void fine_rows_are_those_of_the_finer_code(void **state)
{
    (void)state;
    enum { ROWS = 150, N = 64, FIRST = 3, LAST = 2 };
    kq_error err;
    float *W = random_rows(ROWS, N), *H = random_factor(N);
    kq_trellis *two, *four;
    kq_round_report report;
    kq_packed mixed;
    check_ok(kq_trellis_new(KQ_HYB, 2, kq_isa_best(), NULL, &two, &err));
    check_ok(kq_trellis_new(KQ_HYB, KQ_FINE_BITS, kq_isa_best(), NULL, &four, &err));
    kq_packed a = round_rows(two, W, ROWS, N, H, 2, &report), b = round_rows(four, W, ROWS, N, H, 2, &report);
    float *low = dense(two, &a, 0, ROWS), *high = dense(four, &b, 0, ROWS);
    matrix m = {W, N, ROWS, 0};
    const kq_rows_input in = {.name = "lm_head",
                              .rows = ROWS,
                              .n = N,
                              .H_in = H,
                              .fine = four,
                              .fine_first = FIRST,
                              .fine_last = LAST,
                              .read = read_rows,
                              .ctx = &m};
    const kq_round_options opt = {.sigma_reg = 0.01, .seed = 3, .threads = 2};
    check_ok(kq_round_rows(two, &in, &opt, &mixed, &report, &err));
    fine_code = four;
    float *got = dense(two, &mixed, 0, ROWS);
    double error = 0, error_high = 0; /* of the fine rows; their scales are rounded to other half floats */
    for (size_t r = 0; r < ROWS; r++)
        if (r < FIRST * 16 || r >= (ROWS + 15) / 16 * 16 - LAST * 16) {
            error += loss(W + r * N, got + r * N, 1, N, H);
            error_high += loss(W + r * N, high + r * N, 1, N, H);
        } else {
            assert_memory_equal(got + r * N, low + r * N, N * sizeof *got);
        }
    check_number(error / error_high, 1, 0.03);
    float *some = dense(two, &mixed, FIRST * 16 - 5, 20); /* over the border */
    assert_memory_equal(some, got + (FIRST * 16 - 5) * N, 20 * N * sizeof *some);
    int bits;
    assert_int_equal(kq_packed_row_at(&mixed, 2, 10, &bits), N * (5 * 4 + 5 * 2));
    fine_code = NULL;
    kq_packed_free(&a), kq_packed_free(&b), kq_packed_free(&mixed);
    kq_free(low), kq_free(high), kq_free(got), kq_free(some), kq_free(W), kq_free(H);
    kq_trellis_free(two), kq_trellis_free(four);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_are_those_of_a_plain_ldlq),
                                       cmocka_unit_test(ranges_bands_and_threads),
                                       cmocka_unit_test(fine_rows_are_those_of_the_finer_code)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
