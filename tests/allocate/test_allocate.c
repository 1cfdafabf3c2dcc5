/* Sharing out bits and bytes, against all assignments. */
#include "base/rng.h"
#include "check.h"
#include "allocate/allocate.h"

enum { N = 8, ALL = 6561 /* 3^N */ };

static kq_error err;

/* A module: its weights, its loss at 2, 3, 4 bits, its bits if they are fixed (else 0), and what it gets. */
typedef struct share {
    double weights, loss[3];
    int fixed, bits;
} share;

/* Share out an average number of bits. *average_out: the average that it came to. */
static kq_status share_out(share *s, size_t n, double average, kq_allocation *a, double *average_out)
{
    kq_item items[N];
    double total = 0;
    for (size_t i = 0; i < n; i++) {
        items[i] = (kq_item){.n = 0};
        for (int k = 2; k <= 4; k++)
            if (!s[i].fixed || s[i].fixed == k)
                items[i].choice[items[i].n++] = (kq_choice){k, s[i].weights * k, s[i].loss[k - 2]};
        total += s[i].weights;
    }
    const kq_status status = kq_allocate(items, n, 0, average * total * (1 + 1e-12), a, &err);
    for (size_t i = 0; i < n; i++)
        s[i].bits = (int)items[i].choice[items[i].chosen].bits;
    *average_out = a->cost / total;
    return status;
}

/* The least loss of any assignment whose average is at most `average`. */
static double brute(const share *s, double average)
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

static void draw(share *s, kq_rng *rng, bool equal, bool convex)
{
    for (int i = 0; i < N; i++) {
        s[i] = (share){.weights = equal ? 7 : 1 + floor(20 * kq_rng_uniform(rng))};
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
        share s[N];
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
            double got;
            check_ok(share_out(s, N, average, &a, &got));
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
            assert_true(fabs(loss - a.loss) <= 1e-12 * loss && fabs(bits / total - got) < 1e-12);
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
                assert_true(loss <= brute(s, got) * (1 + 1e-12));
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
        share s[N];
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
            double got;
            check_ok(share_out(s, N, spent / total, &a, &got));
            const double best = brute(s, spent / total);
            if (!(fabs(got - spent / total) < 1e-9) || !(a.loss <= best * (1 + 1e-9)))
                fail_msg("draw %d, %g bits: average %g, loss %g, the best is %g", draws, spent / total, got,
                         a.loss, best);
        }
    }
}

enum { ROWS = 2, M = 7, MOST = 5 };

/* Two large items with up to five choices, of which some are bad bargains, and five small ones with three. */
static void draw_items(kq_item *items, kq_rng *rng)
{
    for (int i = 0; i < M; i++) {
        kq_item *s = &items[i];
        *s = (kq_item){.n = i < ROWS ? 2 + (size_t)(4 * kq_rng_uniform(rng)) : 3};
        double cost = (i < ROWS ? 40 : 4) * (1 + floor(5 * kq_rng_uniform(rng))),
               loss = exp(2 * kq_rng_normal(rng));
        for (size_t c = 0; c < s->n; c++) {
            s->choice[c] = (kq_choice){(double)c, cost, loss};
            cost += (i < ROWS ? 20 : 1) * (1 + floor(6 * kq_rng_uniform(rng)));
            loss *= 1.1 * kq_rng_uniform(rng);
        }
    }
}

/* Of all assignments: the least loss within the budget, and the least cost of a loss of at most `most`. */
static void brute_items(const kq_item *items, double budget, double most, double *loss_out, double *cost_out)
{
    size_t c[M] = {0};
    *loss_out = *cost_out = INFINITY;
    for (;;) {
        double loss = 0, cost = 0;
        size_t i = 0;
        for (size_t j = 0; j < M; j++) {
            loss += items[j].choice[c[j]].loss;
            cost += items[j].choice[c[j]].cost;
        }
        if (cost <= budget)
            *loss_out = fmin(*loss_out, loss);
        if (loss <= most * (1 + 1e-12))
            *cost_out = fmin(*cost_out, cost);
        while (i < M && ++c[i] == items[i].n)
            c[i++] = 0;
        if (i == M)
            return;
    }
}

/* Items with choices of any costs, the first two tried in every combination: within the budget, never above
 * the bound's distance from brute force, and never worse than when the two are items like any others. */
static void items_of_any_cost(void **state)
{
    (void)state;
    kq_rng rng = kq_rng_stream(7, "items");
    int best_of_all = 0, asked = 0;
    for (int draws = 0; draws < 40; draws++) {
        kq_item items[M];
        double low = 0, high = 0, ignored, best, cheapest;
        draw_items(items, &rng);
        for (int i = 0; i < M; i++) {
            low += items[i].choice[0].cost;
            high += items[i].choice[items[i].n - 1].cost;
        }
        for (int step = 0; step <= 20; step++) {
            const double budget = low + floor((high - low) * step / 20);
            kq_allocation a, plain;
            check_ok(kq_allocate(items, M, ROWS, budget, &a, &err));
            double cost = 0, loss = 0;
            for (int i = 0; i < M; i++) {
                cost += items[i].choice[items[i].chosen].cost;
                loss += items[i].choice[items[i].chosen].loss;
            }
            assert_true(cost == a.cost && fabs(loss - a.loss) <= 1e-12 * loss && cost <= budget);
            brute_items(items, budget, INFINITY, &best, &ignored);
            if (!(a.bound <= best * (1 + 1e-12)) || !(best <= a.loss * (1 + 1e-12)))
                fail_msg("draw %d, budget %g: loss %g, bound %g, best %g", draws, budget, a.loss, a.bound,
                         best);
            best_of_all += a.loss <= best * (1 + 1e-12);
            asked++;
            check_ok(kq_allocate(items, M, 0, budget, &plain, &err));
            assert_true(a.loss <= plain.loss * (1 + 1e-12));
            /* the same loss, as cheap as the greedy order makes it; brute force may be cheaper */
            check_ok(kq_allocate_for_loss(items, M, ROWS, a.loss, &plain, &err));
            brute_items(items, budget, a.loss, &ignored, &cheapest);
            if (!(plain.loss <= a.loss) || !(plain.cost <= a.cost) || !(plain.cost >= cheapest))
                fail_msg("draw %d, loss %g for %g: found %g for %g, the cheapest is %g", draws, a.loss,
                         a.cost, plain.loss, plain.cost, cheapest);
        }
        kq_allocation a;
        check_fails(kq_allocate(items, M, ROWS, low - 1, &a, &err), KQ_E_ARG, "cheapest choices need");
        check_ok(kq_allocate(items, M, ROWS, high, &a, &err));
        check_fails(kq_allocate_for_loss(items, M, ROWS, 0.99 * a.loss, &a, &err), KQ_E_ARG,
                    "dearest choices lose");
    }
    print_message("%d of %d the best of all assignments\n", best_of_all, asked);
    assert_true(best_of_all > asked / 2);
}

static void refused(void **state)
{
    (void)state;
    share s[2] = {{.weights = 10, .loss = {3, 2, 1}, .fixed = 4}, {.weights = 10, .loss = {3, 2, 1}}};
    kq_allocation a;
    double got;
    check_fails(share_out(s, 2, 2.9, &a, &got), KQ_E_ARG, "need 60, the budget is 58");
    check_ok(share_out(s, 2, 3.0, &a, &got));
    assert_true(s[0].bits == 4 && s[1].bits == 2 && a.loss == 4);
    s[1].loss[1] = NAN;
    check_fails(share_out(s, 2, 3.0, &a, &got), KQ_E_NUMERIC, "item 1: the forecast of its loss at 3 bits");
    /* nothing to save in the first: its bits stay unspent */
    share dead[2] = {{.weights = 10}, {.weights = 10, .loss = {3, 2, 1}}};
    check_ok(share_out(dead, 2, 4, &a, &got));
    assert_true(dead[0].bits == 2 && dead[1].bits == 4 && a.loss == 1 && a.bound == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(against_all_assignments),
                                       cmocka_unit_test(hull_points), cmocka_unit_test(items_of_any_cost),
                                       cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
