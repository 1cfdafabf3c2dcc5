/* Sampling against frequencies and against a sorted reference; UTF-8 against the Unicode standard's
 * table; scores of one row against plain double arithmetic. */
#include "check.h"

#include "base/rng.h"
#include "eval/score.h"
#include "base/utf8.h"
#include "generate/sample.h"

static const kq_sampling plain = {.temperature = 1, .top_p = 1};

static int32_t draw(const float *logits, size_t n, kq_sampling s, double u)
{
    float copy[4096];
    memcpy(copy, logits, n * sizeof *copy);
    return kq_sample(copy, n, &s, u);
}

static void test_most_likely(void **state)
{
    (void)state;
    const float a[] = {0.5f, 2, -1, 2, 1.999f};
    for (double u = 0; u < 1; u += 0.124) {
        /* tie: lowest id */
        assert_int_equal(draw(a, 5, (kq_sampling){.temperature = 0, .top_p = 1}, u), 1);
        assert_int_equal(draw(a, 5, (kq_sampling){.temperature = 1, .top_k = 1, .top_p = 1}, u), 1);
        assert_int_equal(draw(a, 5, (kq_sampling){.temperature = 1, .top_p = 0}, u), 1);
        assert_int_equal(draw(a, 5, (kq_sampling){.temperature = 1, .top_p = 1e-9}, u), 1);
    }
    const float cold[] = {1, 3, 2};
    assert_int_equal(draw(cold, 3, (kq_sampling){.temperature = 1e-6, .top_p = 1}, 0.999), 1);
    assert_int_equal(draw(cold, 3, (kq_sampling){.temperature = 1e-300, .top_p = 1}, 0.999), 1);
    assert_int_equal(draw(cold, 1, plain, 0.7), 0);
}

static void test_no_distribution(void **state)
{
    (void)state;
    const float nan[] = {1, NAN, 2}, inf[] = {1, INFINITY, 2}, none[] = {-INFINITY, -INFINITY},
                some[] = {-INFINITY, 3, -INFINITY};
    for (int t = 0; t < 2; t++) {
        kq_sampling s = {.temperature = t, .top_p = 1};
        assert_int_equal(draw(nan, 3, s, 0.5), -1);
        assert_int_equal(draw(inf, 3, s, 0.5), -1);
        assert_int_equal(draw(none, 2, s, 0.5), -1);
        assert_int_equal(draw(none, 0, s, 0.5), -1);
        /* never a token of probability 0, not even for u = 0 */
        assert_int_equal(draw(some, 3, s, 0.0), 1);
        assert_int_equal(draw(some, 3, s, 0.999999), 1);
    }
}

/* Which ids can come at all: u swept finely over [0, 1). Returns a bit mask. */
static unsigned possible(const float *a, size_t n, kq_sampling s)
{
    unsigned mask = 0;
    for (int i = 0; i < 2000; i++)
        mask |= 1u << draw(a, n, s, i / 2000.0);
    return mask;
}

static void test_top_k_top_p(void **state)
{
    (void)state;
    /* probabilities 0.1 0.4 0.2 0.3 */
    const float a[] = {logf(0.1f), logf(0.4f), logf(0.2f), logf(0.3f)};
    kq_sampling s = plain;
    assert_int_equal(possible(a, 4, s), 15);
    for (s.top_k = 1; s.top_k <= 6; s.top_k++) {
        static const unsigned want[] = {0, 2, 10, 14, 15, 15, 15};
        assert_int_equal(possible(a, 4, s), want[s.top_k]);
    }
    s.top_k = -1; /* off, as 0 */
    assert_int_equal(possible(a, 4, s), 15);
    s.top_k = 0;
    static const struct {
        double p;
        unsigned want;
    } cut[] = {{0.0, 2},   {0.39, 2},  {0.41, 10}, {0.69, 10}, {0.71, 14},
               {0.89, 14}, {0.91, 15}, {1.0, 15},  {2.0, 15},  {-1.0, 2}};
    for (size_t i = 0; i < sizeof cut / sizeof *cut; i++) {
        s.top_p = cut[i].p;
        if (possible(a, 4, s) != cut[i].want)
            fail_msg("top_p %g allows 0x%x, want 0x%x", cut[i].p, possible(a, 4, s), cut[i].want);
    }
    /* top_p counts in what top_k left: 0.4 and 0.3 become 0.571 and 0.429 */
    s = (kq_sampling){.temperature = 1, .top_k = 2, .top_p = 0.5};
    assert_int_equal(possible(a, 4, s), 2);
    s.top_p = 0.6;
    assert_int_equal(possible(a, 4, s), 10);
    /* equals: lowest ids first */
    const float flat[] = {1, 1, 1, 1, 1, 1};
    assert_int_equal(possible(flat, 6, (kq_sampling){.temperature = 1, .top_k = 2, .top_p = 1}), 3);
    assert_int_equal(possible(flat, 6, (kq_sampling){.temperature = 1, .top_p = 0.4}), 7);
    const float step[] = {0, 1, 0, 1, 0};
    assert_int_equal(possible(step, 5, (kq_sampling){.temperature = 1, .top_k = 3, .top_p = 1}), 11);
}

/* Chi-square of draws against the probabilities that a sort gives, written without kq_sample's threshold
 * search. */
static void check_frequencies(const char *what, kq_sampling s)
{
    enum { N = 300, DRAWS = 20000 };
    float a[N];
    double p[N], total = 0;
    int order[N];
    kq_rng rng = kq_rng_stream(11, "test frequencies");
    for (int i = 0; i < N; i++) {
        a[i] = (float)(2.0 * kq_rng_normal(&rng));
        order[i] = i;
        p[i] = exp((double)a[i] / s.temperature);
    }
    for (int i = 1; i < N; i++) /* descending, stable */
        for (int j = i; j > 0 && p[order[j]] > p[order[j - 1]]; j--) {
            int t = order[j];
            order[j] = order[j - 1];
            order[j - 1] = t;
        }
    int kept = s.top_k > 0 && s.top_k < N ? s.top_k : N;
    for (int i = 0; i < kept; i++)
        total += p[order[i]];
    double sum = 0;
    for (int i = 0; i < kept && s.top_p < 1; i++) {
        sum += p[order[i]];
        if (sum >= s.top_p * total)
            kept = i + 1;
    }
    total = 0;
    for (int i = 0; i < kept; i++)
        total += p[order[i]];
    for (int i = kept; i < N; i++)
        p[order[i]] = 0;

    static size_t count[N];
    memset(count, 0, sizeof count);
    for (int i = 0; i < DRAWS; i++) {
        int32_t id = draw(a, N, s, kq_rng_uniform(&rng));
        assert_true(id >= 0 && id < N);
        count[id]++;
    }
    /* cells with fewer than 10 expected are joined */
    double chi2 = 0, rest_want = 0, rest = 0;
    int cells = 0;
    for (int i = 0; i < N; i++) {
        double want = p[i] / total * DRAWS;
        if (want == 0 && count[i])
            fail_msg("%s: token %d was cut off, but came %zu times", what, i, count[i]);
        if (want < 10) {
            rest_want += want;
            rest += (double)count[i];
            continue;
        }
        chi2 += ((double)count[i] - want) * ((double)count[i] - want) / want;
        cells++;
    }
    if (rest_want >= 10) {
        chi2 += (rest - rest_want) * (rest - rest_want) / rest_want;
        cells++;
    }
    /* mean cells - 1, variance 2 (cells - 1): five standard deviations; the seed is fixed */
    if (chi2 > cells - 1 + 5 * sqrt(2.0 * (cells - 1)))
        fail_msg("%s: chi-square %.1f over %d cells", what, chi2, cells);
}

static void test_frequencies(void **state)
{
    (void)state;
    check_frequencies("plain", plain);
    check_frequencies("hot", (kq_sampling){.temperature = 1.7, .top_p = 1});
    check_frequencies("top_k 20", (kq_sampling){.temperature = 0.8, .top_k = 20, .top_p = 1});
    check_frequencies("top_p 0.8", (kq_sampling){.temperature = 1, .top_p = 0.8});
    check_frequencies("top_k 40, top_p 0.7", (kq_sampling){.temperature = 1.2, .top_k = 40, .top_p = 0.7});
}

static void test_min_p(void **state)
{
    (void)state;
    /* probabilities 0.1 0.4 0.2 0.3: shares of the largest 0.25 1 0.5 0.75 */
    const float a[] = {logf(0.1f), logf(0.4f), logf(0.2f), logf(0.3f)};
    static const struct {
        double p;
        unsigned want;
    } cut[] = {{-1, 15},   {0, 15},    {0.24, 15}, {0.26, 14}, {0.49, 14},
               {0.51, 10}, {0.74, 10}, {0.76, 2},  {1, 2},     {7, 2}};
    for (size_t i = 0; i < sizeof cut / sizeof *cut; i++)
        if (possible(a, 4, (kq_sampling){.temperature = 1, .top_p = 1, .min_p = cut[i].p}) != cut[i].want)
            fail_msg("min_p %g does not allow 0x%x", cut[i].p, cut[i].want);
    /* after the temperature: at 0.5 the shares are squared */
    assert_int_equal(possible(a, 4, (kq_sampling){.temperature = 0.5, .top_p = 1, .min_p = 0.3}), 10);
}

static void test_penalty(void **state)
{
    (void)state;
    kq_error err;
    float a[] = {3, -3, 0, 5, 6};
    const int32_t ids[] = {0, 1, 0, 2, -1, 5, 3, 3, 1};
    check_ok(kq_penalize(a, 5, ids, 9, 1, &err));
    check_ok(kq_penalize(a, 5, ids, 9, 0, &err));
    assert_true(a[0] == 3 && a[3] == 5);
    check_ok(kq_penalize(a, 5, ids, 9, 2, &err));
    assert_true(a[0] == 1.5f && a[1] == -6 && a[2] == 0 && a[3] == 2.5f && a[4] == 6);
}

/* ---- UTF-8 ---- */

/* Decode by arithmetic and check the ranges, instead of by table. */
static bool valid_by_value(const unsigned char *b, size_t n)
{
    uint32_t cp;
    if (n == 1)
        return b[0] < 0x80;
    for (size_t i = 1; i < n; i++)
        if ((b[i] & 0xc0) != 0x80)
            return false;
    if (n == 2 && (b[0] & 0xe0) == 0xc0)
        return (cp = (b[0] & 0x1fu) << 6 | (b[1] & 0x3fu)) >= 0x80;
    if (n == 3 && (b[0] & 0xf0) == 0xe0) {
        cp = (b[0] & 0xfu) << 12 | (b[1] & 0x3fu) << 6 | (b[2] & 0x3fu);
        return cp >= 0x800 && !(cp >= 0xd800 && cp < 0xe000);
    }
    if (n == 4 && (b[0] & 0xf8) == 0xf0) {
        cp = (b[0] & 7u) << 18 | (b[1] & 0x3fu) << 12 | (b[2] & 0x3fu) << 6 | (b[3] & 0x3fu);
        return cp >= 0x10000 && cp <= 0x10ffff;
    }
    return false;
}

static void test_utf8(void **state)
{
    (void)state;
    /* every pair of first bytes with a few continuations: the function must say CHAR exactly where a
     * valid character begins */
    static const unsigned char tail[] = {0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff};
    enum { TAILS = sizeof tail };
    for (unsigned a = 0; a < 256; a++)
        for (unsigned b = 0; b < 256; b++)
            for (unsigned c = 0; c < TAILS * TAILS; c++) {
                unsigned char s[4] = {(unsigned char)a, (unsigned char)b, tail[c / TAILS], tail[c % TAILS]};
                size_t want = 0;
                for (size_t n = 1; n <= 4; n++)
                    if (valid_by_value(s, n))
                        want = n;
                kq_utf8 got = kq_utf8_next((const char *)s, 4);
                if (want ? got.kind != KQ_UTF8_CHAR || got.size != want : got.kind == KQ_UTF8_CHAR)
                    fail_msg("%02x %02x %02x %02x: kind %d, size %zu, want %zu", a, b, s[2], s[3], got.kind,
                             got.size, want);
                if (!want && got.kind != KQ_UTF8_INVALID) /* four bytes always decide */
                    fail_msg("%02x %02x %02x %02x: undecided", a, b, s[2], s[3]);
                for (size_t n = 1; n < want; n++) { /* its beginnings are incomplete, no more and no less */
                    kq_utf8 part = kq_utf8_next((const char *)s, n);
                    if (part.kind != KQ_UTF8_INCOMPLETE || part.size != n)
                        fail_msg("%02x %02x %02x %02x: its first %zu bytes have kind %d, size %zu", a, b,
                                 s[2], s[3], n, part.kind, part.size);
                }
            }
    /* maximal subparts: the Unicode standard's example, table 3-8, in lengths of what becomes one U+FFFD */
    static const unsigned char bad[] = {0xc0, 0xaf, 0xe0, 0x80, 0xbf, 0xf0, 0x81, 0x82, 0x41,
                                        0xe1, 0x80, 0xe2, 0xf0, 0x91, 0x92, 0xf1, 0xbf, 0x41};
    static const size_t lengths[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 3, 2, 1};
    size_t at = 0;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        kq_utf8 got = kq_utf8_next((const char *)bad + at, sizeof bad - at);
        assert_int_equal(got.size, lengths[i]);
        assert_int_equal(got.kind, bad[at] == 0x41 ? KQ_UTF8_CHAR : KQ_UTF8_INVALID);
        at += got.size;
    }
    assert_int_equal(at, sizeof bad);
}

/* ---- scores of a row ---- */

static void test_row(void **state)
{
    (void)state;
    enum { N = 1003 };
    float p[N], q[N], scratch[N];
    kq_rng rng = kq_rng_stream(12, "rows");
    for (int isa = KQ_ISA_REF; isa <= (int)kq_isa_best(); isa++) {
        const kq_kern *kern = kq_kern_pick((kq_isa)isa);
        for (size_t n = 1; n <= N; n += n < 40 ? 1 : 321)
            for (int kind = 0; kind < 4; kind++) {
                double zp = 0, zq = 0, kl = 0;
                size_t top = 0;
                for (size_t i = 0; i < n; i++) {
                    p[i] = (float)(5 * kq_rng_normal(&rng));
                    /* near; the same; shifted by a constant; unrelated and far down */
                    q[i] = kind == 0   ? p[i] + (float)(0.01 * kq_rng_normal(&rng))
                           : kind == 1 ? p[i]
                           : kind == 2 ? p[i] + 50
                                       : (float)(20 * kq_rng_normal(&rng) - 200);
                    zp += exp((double)p[i]);
                    zq += exp((double)q[i]);
                    if (p[i] > p[top])
                        top = i;
                }
                for (size_t i = 0; i < n; i++)
                    kl += exp((double)p[i]) / zp * ((double)p[i] - log(zp) - ((double)q[i] - log(zq)));
                kq_row_stats sp = kq_row_score(kern, p, n), sq = kq_row_score(kern, q, n);
                double got = kq_row_kl(kern, p, &sp, q, &sq, n, scratch);
                assert_int_equal(sp.top, top);
                /* f32 exponentials: 2e-7 relative, times the spread of lp - lq (up to 100 in the last
                 * kind) */
                if (fabs(sp.lse - log(zp)) > 1e-6 || fabs(sq.lse - log(zq)) > 1e-6 ||
                    fabs(got - kl) > (kind == 3 ? 3e-5 : 1e-6))
                    fail_msg("%s, %zu logits, kind %d: lse %g and %g, kl %g against %g", kern->name, n, kind,
                             sp.lse - log(zp), sq.lse - log(zq), got, kl);
                if (kind == 1 && got != 0)
                    fail_msg("a row against itself: %g", got);
                if (got < -1e-6)
                    fail_msg("negative divergence %g", got);
            }
        p[0] = NAN;
        assert_true(isnan(kq_row_score(kern, p, N).lse));
        p[0] = 1;
        p[700] = NAN;
        assert_true(isnan(kq_row_score(kern, p, N).lse));
        p[700] = INFINITY;
        assert_false(isfinite(kq_row_score(kern, p, N).lse));
    }
}

static void test_mean_stderr(void **state)
{
    (void)state;
    /* clusters (1 2) (3 6) (5 7): mean 4, squares 9+4+1+4+1+9 = 28 over 5*6; means 1.5 4.5 6:
     * (6.25+.25+4)/(2*3) */
    const double x[] = {1, 2, 3, 6, 5, 7};
    double mean, se, sc;
    kq_mean_stderr(x, 6, 2, &mean, &se, &sc);
    assert_true(fabs(mean - 4) < 1e-15 && fabs(se - sqrt(28.0 / 30)) < 1e-15 &&
                fabs(sc - sqrt(10.5 / 6)) < 1e-15);
    kq_mean_stderr(x, 6, 6, &mean, &se, &sc);
    assert_true(isnan(sc) && fabs(se - sqrt(28.0 / 30)) < 1e-15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_most_likely), cmocka_unit_test(test_no_distribution),
        cmocka_unit_test(test_top_k_top_p), cmocka_unit_test(test_frequencies),
        cmocka_unit_test(test_min_p),       cmocka_unit_test(test_penalty),
        cmocka_unit_test(test_utf8),        cmocka_unit_test(test_row),
        cmocka_unit_test(test_mean_stderr),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
