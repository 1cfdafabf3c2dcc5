/* Steps along each item's lower convex hull, the most useful first: this is optimal wherever the budget
 * ends between two steps, and allocate.h says how far it may be from the optimum elsewhere. Dynamic
 * programming would be exact, but needs a table as long as the model has weights. */
#include "allocate/allocate.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"

/* Item i from choice `from` to choice `to`. */
typedef struct step {
    double gain; /* loss saved for a unit of cost */
    size_t i, from, to;
} step;

static int by_gain(const void *a, const void *b)
{
    const step *x = a, *y = b;
    if (x->gain != y->gain)
        return x->gain > y->gain ? -1 : 1;
    if (x->i != y->i)
        return x->i < y->i ? -1 : 1;
    return x->from < y->from ? -1 : x->from > y->from;
}

static step make_step(const kq_item *s, size_t i, size_t from, size_t to)
{
    const kq_choice *a = &s->choice[from], *b = &s->choice[to];
    return (step){(a->loss - b->loss) / (b->cost - a->cost), i, from, to};
}

/* The steps of one item along the lower convex hull of its choices, from its cheapest one. */
static size_t steps_of(const kq_item *s, size_t i, step *out)
{
    size_t n = 0;
    for (size_t from = 0; from + 1 < s->n;) {
        step best = make_step(s, i, from, from + 1);
        for (size_t to = from + 2; to < s->n; to++) {
            const step one = make_step(s, i, from, to);
            if (one.gain > best.gain)
                best = one;
        }
        out[n++] = best;
        from = best.to;
    }
    return n;
}

static kq_status check_items(const kq_item *items, size_t n, kq_error *err)
{
    for (size_t i = 0; i < n; i++) {
        const kq_item *s = &items[i];
        for (size_t c = 0; c < s->n; c++)
            if (!(s->choice[c].loss >= 0) || !isfinite(s->choice[c].loss))
                return kq_fail(err, KQ_E_NUMERIC, "item %zu: the forecast of its loss at %g bits is %g", i,
                               s->choice[c].bits, s->choice[c].loss);
    }
    return KQ_OK;
}

static void sum_up(const kq_item *items, size_t n, kq_allocation *out)
{
    out->cost = out->loss = 0;
    for (size_t i = 0; i < n; i++) {
        out->cost += items[i].choice[items[i].chosen].cost;
        out->loss += items[i].choice[items[i].chosen].loss;
    }
}

/* The best choice of step st's item that is dearer than st.from, cheaper than st.to and fits into `room`;
 * st.from: there is none. */
static size_t shorter(const kq_item *s, step st, double room)
{
    size_t best = st.from;
    for (size_t c = st.from + 1; c < st.to; c++)
        if (s->choice[c].cost - s->choice[st.from].cost <= room && s->choice[c].loss <= s->choice[best].loss)
            best = c;
    return best;
}

/* The items have their cheapest choices; take steps [n_steps], sorted. */
static void take_steps(kq_item *items, size_t n, const step *steps, size_t n_steps, double budget,
                       kq_allocation *out)
{
    kq_allocation a;
    sum_up(items, n, &a);
    bool bounded = false;
    double bound = 0;
    for (size_t k = 0; k < n_steps && steps[k].gain > 0; k++) { /* later ones save nothing */
        const step st = steps[k];
        kq_item *s = &items[st.i];
        size_t to = st.to;
        if (s->chosen != st.from)
            continue; /* the step before it did not fit */
        if (a.cost + (s->choice[to].cost - s->choice[st.from].cost) > budget) {
            if (!bounded) /* all steps so far were taken: a part of this one ends at the least that a mixture
                             of assignments can reach */
                bound = a.loss - st.gain * (budget - a.cost);
            bounded = true;
            to = shorter(s, st, budget - a.cost);
        }
        a.loss -= s->choice[st.from].loss - s->choice[to].loss;
        a.cost += s->choice[to].cost - s->choice[st.from].cost;
        s->chosen = to;
    }
    sum_up(items, n, out);
    out->bound = bounded ? fmax(0, fmin(bound, out->loss)) : out->loss;
}

/* kq_allocate with the first n_tried items as they are. False: the budget is too small. */
static bool allocate_rest(kq_item *items, size_t n, size_t n_tried, double budget, step *steps,
                          kq_allocation *out)
{
    size_t n_steps = 0;
    for (size_t i = n_tried; i < n; i++) {
        items[i].chosen = 0;
        n_steps += steps_of(&items[i], i, steps + n_steps);
    }
    sum_up(items, n, out);
    if (out->cost > budget)
        return false;
    qsort(steps, n_steps, sizeof *steps, by_gain);
    take_steps(items, n, steps, n_steps, budget, out);
    return true;
}

/* The next combination of the first n items' choices. False: that was the last. */
static bool next_combination(kq_item *items, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (++items[i].chosen < items[i].n)
            return true;
        items[i].chosen = 0;
    }
    return false;
}

kq_status kq_allocate(kq_item *items, size_t n, size_t n_tried, double budget, kq_allocation *out,
                      kq_error *err)
{
    step *steps;
    size_t *best;
    kq_status status = check_items(items, n, err);
    if (status || (status = kq_alloc_for((void **)&steps, n + 1, KQ_MOST_CHOICES * sizeof *steps,
                                         "steps of the allocation", err)))
        return status;
    if ((status = kq_alloc_for((void **)&best, n + 1, sizeof *best, "the allocation", err))) {
        kq_free(steps);
        return status;
    }
    kq_allocation one;
    double bound = INFINITY;
    bool found = false;
    for (size_t i = 0; i < n_tried; i++)
        items[i].chosen = 0;
    do {
        if (!allocate_rest(items, n, n_tried, budget, steps, &one))
            continue;
        bound = fmin(bound, one.bound);
        if (found && !(one.loss < out->loss))
            continue;
        found = true;
        *out = one;
        for (size_t i = 0; i < n; i++)
            best[i] = items[i].chosen;
    } while (next_combination(items, n_tried));
    for (size_t i = 0; i < n; i++)
        items[i].chosen = found ? best[i] : 0;
    if (found) {
        out->bound = bound;
    } else {
        sum_up(items, n, out);
        status =
            kq_fail(err, KQ_E_ARG, "the cheapest choices need %.0f, the budget is %.0f", out->cost, budget);
    }
    kq_free(steps);
    kq_free(best);
    return status;
}

kq_status kq_allocate_for_loss(kq_item *items, size_t n, size_t n_tried, double most, kq_allocation *out,
                               kq_error *err)
{
    double low = 0, high = 0; /* budgets: the cheapest choices need `low`; `high` is enough */
    for (size_t i = 0; i < n; i++) {
        low += items[i].choice[0].cost;
        high += items[i].choice[items[i].n - 1].cost;
    }
    kq_status status = kq_allocate(items, n, n_tried, high, out, err);
    if (!status && out->loss > most)
        status = kq_fail(err, KQ_E_ARG, "the dearest choices lose %g, more than %g", out->loss, most);
    if (!status && !(status = kq_allocate(items, n, n_tried, low, out, err)) && out->loss <= most)
        return KQ_OK;
    while (!status && high - low > 1) { /* costs are whole numbers */
        const double middle = floor(low + (high - low) / 2);
        if (!(status = kq_allocate(items, n, n_tried, middle, out, err)))
            *(out->loss <= most ? &high : &low) = middle;
    }
    return status ? status : kq_allocate(items, n, n_tried, high, out, err);
}
