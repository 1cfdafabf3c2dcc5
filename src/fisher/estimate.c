/* One estimate among those that advance together. It owns the product's workspace and the method's state; the
 * method (method.h) says which product comes next and what to do with it. Whether there is anything to
 * estimate at all is decided here, after the first whole pass, the same for every method. */
#include "fisher/estimate.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

kq_status kq_gradients_check(const kq_gradients *G, kq_error *err)
{
    const size_t D = G->D, m = G->m, n = G->n;
    size_t mn, tokens = 0, all;
    if (!D || !m || !n)
        return kq_fail(err, KQ_E_ARG, "gradients: %zu samples of [%zu, %zu]", D, m, n);
    if (!kq_mul_size(m, n, &mn) || m > 1 << 20 || n > 1 << 20 || G->T > 1 << 20 || mn > 1u << 30 ||
        (tokens = G->T * (m + n)) > 1u << 30 || !kq_mul_size(tokens > mn ? tokens : mn, D, &all) ||
        all > SIZE_MAX / 16)
        return kq_fail(err, KQ_E_ARG, "gradients of [%zu, %zu, %zu], %zu tokens, are too large", D, m, n,
                       G->T);
    return KQ_OK;
}

static void keep_diagonal(float *H, size_t n)
{
    for (size_t i = 0; i < n * n; i++)
        if (i % (n + 1))
            H[i] = 0;
}

static size_t round64(size_t bytes)
{
    return bytes + (64 - bytes % 64) % 64;
}

size_t kq_linear_estimate_bytes(kq_product_plan *plan, const kq_gradients *G, const kq_factor_options *opt,
                                bool pieces)
{
    const kq_estimator *e = kq_estimator_of(opt->method);
    size_t bytes, state;
    if (!e->machine || !G->D || !G->m || !G->n ||
        !kq_product_size(plan, G, opt->compute, opt->exact || e->exact, opt->threads, opt->chunk_bytes,
                         pieces) ||
        !(state = e->machine->bytes(G->m, G->n, opt)) ||
        !kq_add_size(plan->bytes, kq_squares_scratch_bytes(plan), &bytes) ||
        !kq_add_size(bytes, state, &bytes))
        return 0;
    return round64(bytes);
}

kq_status kq_linear_estimate_begin(kq_linear_estimate *e, bool pieces, kq_error *err)
{
    const kq_stream_linear *w = e->linear;
    const kq_factor_options *opt = w->opt;
    const kq_gradients sizes = {.D = w->D, .m = w->m, .n = w->n, .T = w->T};
    kq_status status = kq_gradients_check(&sizes, err);
    if (status)
        return status;
    if (kq_method_needs(opt->method) != KQ_NEEDS_GRADIENTS)
        return kq_fail(err, KQ_E_ARG, "method %s takes no gradients", kq_method_name(opt->method));
    if (!(opt->rho >= 0) || !isfinite(opt->rho) || opt->rounds < 1 || !(opt->tol >= 0) || opt->max_iter < 1)
        return kq_fail(err, KQ_E_ARG,
                       "rho %g, rounds %d, tol %g, max-iter %d: need rho and tol >= 0, the others >= 1",
                       opt->rho, opt->rounds, opt->tol, opt->max_iter);
    size_t bytes = kq_linear_estimate_bytes(&e->plan, &sizes, opt, pieces);
    if (!bytes)
        return kq_fail(err, KQ_E_MEMORY,
                       "factors of a [%zu, %zu] layer: the scratch does not fit the address space", w->m,
                       w->n);
    if ((status = kq_alloc_for(&e->block, bytes, 1, "the factor step", err)))
        return status;
    e->machine = kq_estimator_of(opt->method)->machine;
    kq_product_init(&e->product, &e->plan, e->block);
    e->search = (kq_search){.D = w->D,
                            .m = w->m,
                            .n = w->n,
                            .opt = opt,
                            .threads = e->plan.threads,
                            .H_in = w->H_in,
                            .H_out = w->H_out,
                            .report = &e->report,
                            .state = (char *)e->block + e->plan.bytes + kq_squares_scratch_bytes(&e->plan)};
    e->machine->start(&e->search);
    return KQ_OK;
}

void kq_linear_estimate_free(kq_linear_estimate *e)
{
    kq_free(e->block);
    e->block = NULL;
}

/* Every gradient is zero or absurdly small; or it is what rounding has left of terms that cancel (the
 * queries' over a text of one token again and again), from which no positive semidefinite factor comes:
 * f32 knows each term to 1e-7. */
static bool is_nothing(const kq_linear_estimate *e)
{
    return e->squares.total < KQ_TINY_SQUARE * (double)e->plan.D * (double)e->plan.m * (double)e->plan.n ||
           e->squares.total < 1e-5 * e->squares.terms;
}

/* The layer does not move the loss: there is nothing to estimate. */
static void finish_without(kq_linear_estimate *e, kq_lack why)
{
    const kq_stream_linear *w = e->linear;
    memset(w->H_in, 0, w->n * w->n * sizeof(float));
    memset(w->H_out, 0, w->m * w->m * sizeof(float));
    e->report = (kq_factor_report){.lack = why,
                                   .products = e->report.products,
                                   .converged = true,
                                   .seconds = e->report.seconds,
                                   .flop = e->report.flop + e->product.flop};
    kq_linear_estimate_free(e);
    e->finished = true;
}

static kq_status finish_estimate(kq_linear_estimate *e, kq_error *err)
{
    kq_stream_linear *w = e->linear;
    e->report.trace_product = e->squares.total / (double)e->plan.D;
    kq_status status = e->machine->finish(&e->search, err);
    if (!status && e->report.lack) {
        finish_without(e, e->report.lack);
        return KQ_OK;
    }
    e->report.flop += e->product.flop;
    if (!status && kq_estimator_of(w->opt->method)->diagonal) {
        keep_diagonal(w->H_in, w->n);
        keep_diagonal(w->H_out, w->m);
    }
    if (!status)
        status = kq_factors_scale(w->H_in, w->n, w->H_out, w->m, e->report.trace_product, err);
    kq_linear_estimate_free(e);
    e->finished = true;
    return status;
}

kq_status kq_linear_estimate_next(kq_linear_estimate *e, kq_error *err)
{
    bool more;
    kq_status status = e->machine->next(&e->search, &e->step, &more, err);
    if (status)
        return status;
    e->seen = 0;
    if (!more)
        return finish_estimate(e, err);
    return kq_product_begin(&e->product, e->step.adjoint, e->step.kind, e->step.mid,
                            e->step.samples ? e->step.samples : e->plan.D, err);
}

kq_status kq_linear_estimate_add(kq_linear_estimate *e, const uint16_t *g, size_t count, kq_error *err)
{
    kq_status status = KQ_OK;
    const size_t all = e->product.samples;
    if (all < e->plan.D && count > all - e->seen) /* other estimates take more samples of this pass */
        count = all - e->seen;
    if (!count)
        return KQ_OK;
    /* the samples whose squares are not counted yet */
    const size_t end = e->seen + count, from = e->counted > e->seen ? e->counted : e->seen;
    if (from < end && end <= e->plan.D) {
        status = kq_squares_add(&e->plan, g + (from - e->seen) * e->plan.sample, from, end - from,
                                (float *)((char *)e->block + e->plan.bytes), &e->squares, err);
        e->counted = end;
    }
    e->seen = end;
    return status ? status : kq_product_add(&e->product, g, count, err);
}

kq_status kq_linear_estimate_absorb(kq_linear_estimate *e, kq_error *err)
{
    kq_status status = kq_product_end(&e->product, e->step.out, err);
    if (!status)
        status = kq_squares_check(&e->squares, &e->plan, e->counted, err);
    e->report.products++;
    if (!status && e->counted == e->plan.D && is_nothing(e)) {
        finish_without(e, KQ_LACK_GRADIENT);
        return KQ_OK;
    }
    return status ? status : e->machine->absorb(&e->search, err);
}
