/* The driver: estimates of one or several linears side by side, one product of each for every pass over the
 * samples. Gradients that are kept nowhere are made again for each pass, so that a pass serves all estimates
 * at once. */
#include <math.h>

#include "base/mem.h"
#include "base/time.h"
#include "fisher/estimate.h"

/* ---- several estimates over a source of samples -------------------------------------------------------- */

typedef struct driver {
    kq_gradient_sink sink; /* first: the pass knows only this */
    kq_linear_estimate *e;
    size_t count;
} driver;

/* One step of every estimate that is not finished and takes its samples from `source` (SIZE_MAX: from any).
 * Its time goes to the estimate's report. */
static kq_status step_estimates(driver *d, size_t source,
                                kq_status (*step)(kq_linear_estimate *, const uint16_t *, size_t, kq_error *),
                                const uint16_t *g, size_t count, kq_error *err)
{
    for (size_t i = 0; i < d->count; i++) {
        kq_linear_estimate *e = &d->e[i];
        if (e->finished || (source != SIZE_MAX && e->linear->source != source))
            continue;
        double start = kq_now_s();
        kq_status status = step(e, g, count, err);
        e->report.seconds += kq_now_s() - start;
        if (status)
            return status;
    }
    return KQ_OK;
}

static kq_status next_step(kq_linear_estimate *e, const uint16_t *g, size_t count, kq_error *err)
{
    (void)g, (void)count;
    return kq_linear_estimate_next(e, err);
}

static kq_status end_step(kq_linear_estimate *e, const uint16_t *g, size_t count, kq_error *err)
{
    (void)g, (void)count;
    return kq_linear_estimate_absorb(e, err);
}

static kq_status sink_add(kq_gradient_sink *to, size_t source, const uint16_t *g, size_t count, kq_error *err)
{
    driver *d = (driver *)to;
    kq_status status = step_estimates(d, source, kq_linear_estimate_add, g, count, err);
    bool enough = true;
    for (size_t i = 0; i < d->count; i++) {
        const kq_linear_estimate *e = &d->e[i];
        enough = enough && (e->finished || e->linear->source != source || e->seen >= e->product.samples);
    }
    if (enough)
        to->wanted &= ~((uint64_t)1 << source);
    return status;
}

static kq_status drive(driver *d, bool pieces, kq_gradient_pass *pass, void *pass_ctx,
                       int (*progress)(void *ctx, double fraction), void *ctx, kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t i = 0; i < d->count && !status; i++) {
        double start = kq_now_s();
        status = kq_linear_estimate_begin(&d->e[i], pieces, err);
        d->e[i].report.seconds = kq_now_s() - start;
    }
    for (int passes = 0; !status; passes++) {
        double done = 1;
        d->sink.wanted = 0;
        if ((status = step_estimates(d, SIZE_MAX, next_step, NULL, 0, err)))
            break;
        for (size_t i = 0; i < d->count; i++) {
            kq_linear_estimate *e = &d->e[i];
            if (e->finished)
                continue;
            d->sink.wanted |= (uint64_t)1 << e->linear->source;
            done = fmin(done, e->machine->fraction(&e->search));
        }
        if (!d->sink.wanted)
            break;
        if (progress && progress(ctx, done))
            status = kq_fail(err, KQ_E_INTERRUPTED, "interrupted after %d passes over the gradients", passes);
        if (!status)
            status = pass(pass_ctx, &d->sink, err);
        if (!status)
            status = step_estimates(d, SIZE_MAX, end_step, NULL, 0, err);
    }
    for (size_t i = 0; i < d->count; i++) {
        kq_linear_estimate_free(&d->e[i]);
        if (!status)
            d->e[i].linear->report = d->e[i].report;
    }
    return status;
}

kq_status kq_factors_stream(kq_stream_linear *linears, size_t count, kq_gradient_pass *pass, void *pass_ctx,
                            int (*progress)(void *ctx, double fraction), void *ctx, kq_error *err)
{
    driver d = {.sink.add = sink_add, .count = count};
    for (size_t i = 0; i < count; i++)
        if (linears[i].source >= 64)
            return kq_fail(err, KQ_E_ARG, "gradients of source %zu: from 0 to 63 are possible",
                           linears[i].source);
    if (!(d.e = kq_calloc(count, sizeof *d.e)))
        return kq_fail(err, KQ_E_MEMORY, "out of memory: %zu estimates", count);
    for (size_t i = 0; i < count; i++)
        d.e[i].linear = &linears[i];
    int before = kq_one_thread_begin();
    kq_status status = drive(&d, true, pass, pass_ctx, progress, ctx, err);
    kq_one_thread_end(before);
    kq_free(d.e);
    return status;
}

size_t kq_factors_stream_bytes(const kq_stream_linear *linears, size_t count)
{
    size_t all = 0;
    kq_product_plan plan;
    for (size_t i = 0; i < count; i++) {
        const kq_stream_linear *w = &linears[i];
        const kq_gradients sizes = {.D = w->D, .m = w->m, .n = w->n, .T = w->T};
        size_t bytes = kq_linear_estimate_bytes(&plan, &sizes, w->opt, true);
        if (!bytes || !kq_add_size(all, bytes, &all))
            return 0;
    }
    return all;
}

/* ---- one estimate over gradients in memory, or read piece by piece ------------------------------------- */

typedef struct stored {
    const kq_gradients *G;
    size_t chunk;
    uint16_t *buffer;
} stored;

/* Samples a chunk at a time: where they lie, or read into the buffer. */
static kq_status over_gradients(void *ctx, kq_gradient_sink *to, kq_error *err)
{
    const stored *a = ctx;
    const kq_gradients *G = a->G;
    kq_status status = KQ_OK;
    for (size_t first = 0; first < G->D && to->wanted && !status; first += a->chunk) {
        size_t count = G->D - first < a->chunk ? G->D - first : a->chunk;
        const uint16_t *g = G->g ? G->g + first * kq_sample_size(G->m, G->n, G->T) : a->buffer;
        if (!G->g)
            status = G->read(G->ctx, first, count, a->buffer, err);
        if (!status)
            status = to->add(to, 0, g, count, err);
    }
    return status;
}

static kq_status check_source(const kq_gradients *G, kq_error *err)
{
    return G->g || G->read ? kq_gradients_check(G, err)
                           : kq_fail(err, KQ_E_ARG, "gradients: neither in memory nor read");
}

static size_t buffer_bytes(const kq_gradients *G, const kq_product_plan *plan)
{
    return G->g || !G->read ? 0 : plan->chunk * plan->sample * sizeof(uint16_t);
}

size_t kq_factors_bytes(const kq_gradients *G, const kq_factor_options *opt)
{
    kq_product_plan plan;
    size_t bytes = kq_linear_estimate_bytes(&plan, G, opt, false);
    return bytes ? bytes + buffer_bytes(G, &plan) : 0;
}

kq_status kq_factors(const kq_gradients *G, const kq_factor_options *opt, float *H_in, float *H_out,
                     kq_factor_report *report, int (*progress)(void *ctx, double fraction), void *ctx,
                     kq_error *err)
{
    kq_stream_linear linear = {
        .D = G->D, .m = G->m, .n = G->n, .T = G->T, .opt = opt, .H_in = H_in, .H_out = H_out};
    kq_linear_estimate e = {.linear = &linear};
    driver d = {.sink.add = sink_add, .e = &e, .count = 1};
    stored source = {.G = G};
    double start = kq_now_s();
    kq_status status = check_source(G, err);
    kq_product_plan plan;
    if (!status && !kq_linear_estimate_bytes(&plan, G, opt, false))
        plan.chunk = 1; /* drive refuses it and says why */
    if (!status && !G->g)
        status =
            kq_alloc_for((void **)&source.buffer, buffer_bytes(G, &plan), 1, "a chunk of gradients", err);
    source.chunk = plan.chunk;
    int before = kq_one_thread_begin();
    if (!status)
        status = drive(&d, false, over_gradients, &source, progress, ctx, err);
    kq_one_thread_end(before);
    kq_free(source.buffer);
    linear.report.seconds = kq_now_s() - start;
    if (report && !status)
        *report = linear.report;
    return status;
}

/* ---- one product --------------------------------------------------------------------------------------- */

typedef struct one_product {
    kq_gradient_sink sink;
    kq_product p;
} one_product;

static kq_status product_add(kq_gradient_sink *to, size_t source, const uint16_t *g, size_t count,
                             kq_error *err)
{
    (void)source;
    return kq_product_add(&((one_product *)to)->p, g, count, err);
}

kq_status kq_fisher_product(const kq_gradients *G, bool adjoint, const float *Y, float *out,
                            kq_compute compute, int threads, kq_error *err)
{
    kq_product_plan plan;
    one_product one = {.sink = {.add = product_add, .wanted = 1}};
    stored source = {.G = G};
    void *block = NULL;
    kq_status status = check_source(G, err);
    if (status)
        return status;
    if (!kq_product_size(&plan, G, compute, true, threads, 0, false))
        return kq_fail(err, KQ_E_MEMORY,
                       "products of a [%zu, %zu] layer: the scratch does not fit the address space", G->m,
                       G->n);
    status = kq_alloc_for(&block, plan.bytes, 1, "a product with the gradients", err);
    if (!status && !G->g)
        status =
            kq_alloc_for((void **)&source.buffer, buffer_bytes(G, &plan), 1, "a chunk of gradients", err);
    source.chunk = plan.chunk;
    int before = kq_one_thread_begin();
    if (!status) {
        kq_product_init(&one.p, &plan, block);
        status = kq_product_begin(&one.p, adjoint, KQ_MID_SYMMETRIC, Y, G->D, err);
    }
    if (!status)
        status = over_gradients(&source, &one.sink, err);
    if (!status)
        status = kq_product_end(&one.p, out, err);
    kq_one_thread_end(before);
    kq_free(source.buffer);
    kq_free(block);
    return status;
}
