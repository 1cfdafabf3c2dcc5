/* Steps along each module's lower convex hull, the most useful first: this is optimal wherever the budget
 * ends between two steps, and allocate.h says how far it may be from the optimum elsewhere. Dynamic
 * programming would be exact, but needs a table as long as the model has weights. */
#include "quant/allocate.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"

/* Module i from `from` bits to `to`. */
typedef struct step {
    double gain; /* loss saved a bit */
    size_t i;
    int from, to;
} step;

static int by_gain(const void *a, const void *b)
{
    const step *x = a, *y = b;
    if (x->gain != y->gain)
        return x->gain > y->gain ? -1 : 1;
    if (x->i != y->i)
        return x->i < y->i ? -1 : 1;
    return x->from - y->from;
}

static double loss_at(const kq_share *s, int bits)
{
    return s->loss[bits - KQ_BITS_MIN];
}

static step make_step(const kq_share *s, size_t i, int from, int to)
{
    return (step){(loss_at(s, from) - loss_at(s, to)) / (s->weights * (to - from)), i, from, to};
}

/* The steps of one module along the lower convex hull of its losses. */
static size_t steps_of(const kq_share *s, size_t i, step out[2])
{
    out[0] = make_step(s, i, 2, 3);
    out[1] = make_step(s, i, 3, 4);
    if (out[0].gain >= out[1].gain)
        return 2;
    out[0] = make_step(s, i, 2, 4);
    return 1;
}

kq_status kq_allocate_bits(kq_share *shares, size_t n, double average, kq_allocation *out, kq_error *err)
{
    double total = 0, spent = 0, loss = 0;
    size_t n_steps = 0;
    step *steps;
    for (size_t i = 0; i < n; i++) {
        kq_share *s = &shares[i];
        for (int b = 0; b < KQ_N_BITS; b++)
            if (!(s->loss[b] >= 0) || !isfinite(s->loss[b]))
                return kq_fail(err, KQ_E_NUMERIC, "module %zu: the forecast of its loss at %d bits is %g", i,
                               KQ_BITS_MIN + b, s->loss[b]);
        s->bits = s->fixed ? s->fixed : KQ_BITS_MIN;
        total += s->weights;
        spent += s->weights * s->bits;
        loss += loss_at(s, s->bits);
    }
    const double budget = average * total * (1 + 1e-12); /* 2.3 * 10 is less than 23 */
    if (spent > budget)
        return kq_fail(err, KQ_E_ARG,
                       "--bits %g: the modules that --module-bits settles need %.4g on average with 2 for "
                       "all the others",
                       average, spent / total);
    kq_status status = kq_alloc_for((void **)&steps, 2 * n, sizeof *steps, "shares of the bits", err);
    if (status)
        return status;
    for (size_t i = 0; i < n; i++)
        if (!shares[i].fixed)
            n_steps += steps_of(&shares[i], i, steps + n_steps);
    qsort(steps, n_steps, sizeof *steps, by_gain);
    bool bounded = false;
    double bound = 0;
    for (size_t k = 0; k < n_steps; k++) {
        step st = steps[k];
        kq_share *s = &shares[st.i];
        if (!(st.gain > 0))
            break; /* nor does any later one save anything */
        if (s->bits != st.from)
            continue; /* the step before it did not fit */
        if (spent + s->weights * (st.to - st.from) > budget) {
            if (!bounded) /* all steps so far were taken: a part of this one ends at the least that a mixture
                             of assignments can reach */
                bound = loss - st.gain * (budget - spent);
            bounded = true;
            st.to = st.from + 1;
            if (st.to == steps[k].to || spent + s->weights > budget ||
                loss_at(s, st.to) > loss_at(s, st.from))
                continue;
        }
        loss -= loss_at(s, st.from) - loss_at(s, st.to);
        spent += s->weights * (st.to - st.from);
        s->bits = st.to;
    }
    kq_free(steps);
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += loss_at(&shares[i], shares[i].bits);
    *out = (kq_allocation){.average = total > 0 ? spent / total : 0,
                           .loss = sum,
                           .bound = bounded ? fmax(0, fmin(bound, sum)) : sum};
    return KQ_OK;
}
