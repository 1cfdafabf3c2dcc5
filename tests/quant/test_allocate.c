/* Sharing out bits, against all 3^n assignments. */
#include "base/rng.h"
#include "check.h"
#include "quant/allocate.h"

enum { N = 8, ALL = 6561 /* 3^N */ };

static kq_error err;

/* The least loss of any assignment whose average is at most `average`. */
static double brute(const kq_share *s, double average)
{
    double best = INFINITY, total = 0;
    for (int i = 0; i < N; i++)
        total += s[i].weights;
    for (int a = 0; a < ALL; a++) {
        double loss = 0, bits = 0;
        bool allowed = true;
        for (int i = 0, rest = a; i < N; i++, rest /= 3) {
            allowed = allowed && (!s[i].fixed || s[i].fixed == 2 + rest % 3);
            loss += s[i].loss[rest % 3];
            bits += s[i].weights * (2 + rest % 3);
        }
        if (allowed && bits <= average * total * (1 + 1e-12) && loss < best)
            best = loss;
    }
    return best;
}

static void draw(kq_share *s, kq_rng *rng, bool equal, bool convex)
{
    for (int i = 0; i < N; i++) {
        s[i] = (kq_share){.weights = equal ? 7 : 1 + floor(20 * kq_rng_uniform(rng))};
        const double size = s[i].weights * exp(3 * kq_rng_normal(rng)), a = kq_rng_uniform(rng),
                     b = kq_rng_uniform(rng);
        s[i].loss[0] = size;
        s[i].loss[1] = size * (convex ? 0.1 + 0.4 * a : 0.2 + 0.7 * a);
        s[i].loss[2] = s[i].loss[1] * (convex ? 0.1 + 0.4 * b : b);
        assert_true(!convex || s[i].loss[0] - s[i].loss[1] > s[i].loss[1] - s[i].loss[2]);
    }
}

/* Wherever the allocation says that it is best (loss equals its bound), and at every average on the
 * hull, brute force finds nothing better; elsewhere its loss lies between brute force's and its own
 * bound's distance; and the average is kept and used up. */
static void against_all_assignments(void **state)
{
    (void)state;
    kq_rng rng = kq_rng_stream(5, "allocate");
    int exact = 0, inexact = 0;
    for (int draws = 0; draws < 60; draws++) {
        kq_share s[N];
        const bool equal = draws % 3 == 0, convex = draws % 4 != 3, some_fixed = draws % 5 == 4;
        draw(s, &rng, equal, convex);
        double total = 0, smallest = INFINITY;
        if (some_fixed) {
            s[1].fixed = 3;
            s[6].fixed = 2;
        }
        for (int i = 0; i < N; i++)
            total += s[i].weights;
        for (int step = some_fixed ? 12 : 0; step <= 40; step++) {
            const double average = 2 + step / 20.0;
            kq_allocation a;
            check_ok(kq_allocate_bits(s, N, average, &a, &err));
            double loss = 0, bits = 0;
            smallest = INFINITY;
            for (int i = 0; i < N; i++) {
                assert_in_range(s[i].bits, 2, 4);
                assert_true(!s[i].fixed || s[i].bits == s[i].fixed);
                loss += s[i].loss[s[i].bits - 2];
                bits += s[i].weights * s[i].bits;
                if (s[i].bits < 4 && !s[i].fixed)
                    smallest = fmin(smallest, s[i].weights);
            }
            assert_true(fabs(loss - a.loss) <= 1e-12 * loss && fabs(bits / total - a.average) < 1e-12);
            if (!(bits <= average * total * (1 + 1e-12)) ||
                (convex && isfinite(smallest) && !(average * total - bits < smallest)))
                fail_msg("draw %d, average %g: %g of %g bits used, smallest module %g", draws, average, bits,
                         average * total, smallest);
            const double best = brute(s, average);
            if (!(best <= loss * (1 + 1e-12)) || !(a.bound <= best * (1 + 1e-12)))
                fail_msg("draw %d, average %g: loss %g, bound %g, best of all %g", draws, average, loss,
                         a.bound, best);
            const bool hull = loss <= a.bound * (1 + 1e-12);
            if (hull && !(loss <= best * (1 + 1e-12)))
                fail_msg("draw %d, average %g: loss %g is not the best, %g", draws, average, loss, best);
            exact += hull;
            inexact += loss > best * (1 + 1e-12);
            /* asked for exactly what this one uses, convex and of equal sizes it is on the hull: the
             * best there is */
            if (convex && equal)
                assert_true(loss <= brute(s, a.average) * (1 + 1e-12));
        }
    }
    print_message("%d allocations the best by their own bound, %d beaten by brute force\n", exact, inexact);
    assert_true(exact > 200 && inexact > 20);
}

/* Every average at which the greedy order is a whole prefix: each one the best assignment. */
static void hull_points(void **state)
{
    (void)state;
    kq_rng rng = kq_rng_stream(6, "hull");
    for (int draws = 0; draws < 20; draws++) {
        kq_share s[N];
        double gain[2 * N], total = 0, spent = 0;
        int of[2 * N], n = 2 * N;
        draw(s, &rng, false, true);
        for (int i = 0; i < N; i++) {
            total += s[i].weights;
            spent += 2 * s[i].weights;
            for (int b = 0; b < 2; b++) {
                gain[2 * i + b] = (s[i].loss[b] - s[i].loss[b + 1]) / s[i].weights;
                of[2 * i + b] = i;
            }
        }
        while (n) { /* the largest gain left */
            int k = 0;
            for (int j = 1; j < n; j++)
                k = gain[j] > gain[k] ? j : k;
            spent += s[of[k]].weights;
            gain[k] = gain[--n];
            of[k] = of[n];
            kq_allocation a;
            check_ok(kq_allocate_bits(s, N, spent / total, &a, &err));
            const double best = brute(s, spent / total);
            if (!(fabs(a.average - spent / total) < 1e-9) || !(a.loss <= best * (1 + 1e-9)))
                fail_msg("draw %d, %g bits: average %g, loss %g, the best is %g", draws, spent / total,
                         a.average, a.loss, best);
        }
    }
}

static void refused(void **state)
{
    (void)state;
    kq_share s[2] = {{.weights = 10, .loss = {3, 2, 1}, .fixed = 4}, {.weights = 10, .loss = {3, 2, 1}}};
    kq_allocation a;
    check_fails(kq_allocate_bits(s, 2, 2.9, &a, &err), KQ_E_ARG, "need 3 on average");
    check_ok(kq_allocate_bits(s, 2, 3.0, &a, &err));
    assert_true(s[0].bits == 4 && s[1].bits == 2 && a.loss == 4);
    s[0].loss[1] = NAN;
    check_fails(kq_allocate_bits(s, 2, 3.0, &a, &err), KQ_E_NUMERIC,
                "module 0: the forecast of its loss at 3 bits");
    /* nothing to save in the first: its bits stay unspent */
    kq_share dead[2] = {{.weights = 10}, {.weights = 10, .loss = {3, 2, 1}}};
    check_ok(kq_allocate_bits(dead, 2, 4, &a, &err));
    assert_true(dead[0].bits == 2 && dead[1].bits == 4 && a.loss == 1 && a.bound == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(against_all_assignments),
                                       cmocka_unit_test(hull_points), cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
