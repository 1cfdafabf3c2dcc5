/* The driver: estimates of one or several linears side by side, one product of each for every pass over
 * the samples. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/f16.h"
#include "base/mem.h"
#include "base/time.h"
#include "fisher/method.h"

static kq_status check(const kq_gradients *G, kq_error *err)
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

bool kq_factored_pays(size_t m, size_t n, size_t T, const kq_factor_options *opt)
{
    const double M = (double)m, N = (double)n, t = (double)T, c = opt->method == KQ_FLIPFLOP ? 0.5 : 1;
    kq_product_plan plan;
    const bool integers = kq_product_size(&plan, &(kq_gradients){.D = 1, .m = m, .n = n}, opt->compute,
                                          opt->exact || kq_estimator_of(opt->method)->exact, 1, 0, false) &&
                          plan.panels;
    const double whole = M * N * (M + N) * (c + 0.5) / 2 * (integers ? 0.5 : 1);
    const double factored = t * (M * M + N * N) * (c + 0.5) / 2 + t * t * (M + N) * 0.75;
    return T && t * (M + N) <= M * N && factored < whole;
}

static unsigned broken_values(const uint16_t *g, size_t n)
{
    unsigned broken = 0;
    for (size_t i = 0; i < n; i++)
        broken |= (g[i] & 0x7f80u) == 0x7f80u;
    return broken;
}

enum { TOKENS = 64 }; /* of a factored sample, at a time */

static size_t square_floats(size_t m, size_t n)
{
    return (2 * TOKENS * (m + n + TOKENS) + 15) / 16 * 16;
}

/* ||g^T x||_F^2 = sum_{s,t} (g_s . g_t)(x_s . x_t), lower tiles; *terms: the sum of the terms'
 * magnitudes. scratch: square_floats. */
static double factored_square(const uint16_t *sample, size_t T, size_t m, size_t n, float *scratch,
                              double *terms)
{
    const size_t width[2] = {m, n};
    const uint16_t *from[2] = {sample, sample + T * m};
    float *K[2] = {scratch, scratch + TOKENS * TOKENS}, *rows = K[1] + TOKENS * TOKENS,
          *columns = rows + TOKENS * (m > n ? m : n);
    double sum = 0;
    *terms = 0;
    for (size_t r = 0; r < T; r += TOKENS)
        for (size_t c = 0; c <= r; c += TOKENS) {
            const size_t h = T - r < TOKENS ? T - r : TOKENS, w = T - c < TOKENS ? T - c : TOKENS;
            for (int k = 0; k < 2; k++) {
                kq_bf16_to_f32_n(from[k] + r * width[k], rows, h * width[k]);
                kq_bf16_to_f32_n(from[k] + c * width[k], columns, w * width[k]);
                kq_gemm_f32(false, true, h, w, width[k], 1, rows, width[k], columns, width[k], 0, K[k], w);
            }
            double part = 0, size = 0;
            for (size_t i = 0; i < h * w; i++) {
                part += (double)K[0][i] * K[1][i];
                size += fabs((double)K[0][i] * K[1][i]);
            }
            sum += r == c ? part : 2 * part;
            *terms += r == c ? size : 2 * size;
        }
    return sum > 0 || !isfinite(sum) ? sum : 0;
}

static double whole_square(const uint16_t *g, size_t m, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < m; i++) {
        float lane[32] = {0};
        const uint16_t *row = g + i * n;
        size_t j = 0;
        for (; j + 32 <= n; j += 32)
            for (int l = 0; l < 32; l++) {
                union {
                    uint32_t u;
                    float f;
                } x = {(uint32_t)row[j + (size_t)l] << 16};
                lane[l] += x.f * x.f;
            }
        for (; j < n; j++) {
            union {
                uint32_t u;
                float f;
            } x = {(uint32_t)row[j] << 16};
            lane[j % 32] += x.f * x.f;
        }
        for (int l = 0; l < 32; l++)
            sum += lane[l];
    }
    return sum;
}

typedef struct squares {
    double total, terms; /* sum ||G_i||_F^2, and of the magnitudes of what it was added up from */
} squares;

/* sum ||G_i||_F^2 of samples first.., added to *sum in order, looking at every value once. The first bad
 * sample is named, whoever finds it. scratch: square_floats for each thread, for factored samples. */
static kq_status add_squares(const kq_product_plan *plan, const uint16_t *g, size_t first, size_t all,
                             float *scratch, squares *sum, kq_error *err)
{
    const size_t m = plan->m, n = plan->n;
    size_t bad = SIZE_MAX;
    enum { GROUP = 64 }; /* samples at a time: bounded storage, sums in order */
    for (size_t done = 0; done < all; done += GROUP) {
        double part[GROUP], terms[GROUP];
        size_t count = all - done < GROUP ? all - done : GROUP;
#pragma omp parallel for schedule(dynamic) num_threads(plan->threads) if (plan->threads > 1) \
    reduction(min                                                                            \
              : bad)
        for (size_t s = 0; s < count; s++) {
            const uint16_t *sample = g + (done + s) * plan->sample;
            part[s] = terms[s] = 0;
            if (broken_values(sample, plan->sample))
                bad = first + done + s < bad ? first + done + s : bad;
            else if (plan->T)
                part[s] =
                    factored_square(sample, plan->T, m, n,
                                    scratch + (size_t)omp_get_thread_num() * square_floats(m, n), &terms[s]);
            else
                part[s] = terms[s] = whole_square(sample, m, n);
        }
        if (bad != SIZE_MAX)
            return kq_fail(err, KQ_E_NUMERIC,
                           "gradient of sample %zu (of %zu, [%zu, %zu]) holds a NaN or an infinity", bad,
                           plan->D, m, n);
        for (size_t s = 0; s < count; s++) {
            sum->total += part[s];
            sum->terms += terms[s];
        }
    }
    return KQ_OK;
}

static kq_status check_squares(double total, size_t D, size_t m, size_t n, kq_error *err)
{
    return isfinite(total) ? KQ_OK
                           : kq_fail(err, KQ_E_NUMERIC,
                                     "the gradients [%zu, %zu, %zu] overflow f32 when squared", D, m, n);
}

kq_status kq_factors_scale(float *H_in, size_t n, float *H_out, size_t m, double target, kq_error *err)
{
    double in = 0, out = 0;
    for (size_t i = 0; i < n; i++)
        in += H_in[i * n + i];
    for (size_t i = 0; i < m; i++)
        out += H_out[i * m + i];
    double mean = sqrt(target / ((double)m * (double)n)), a = mean * (double)n / in,
           b = mean * (double)m / out;
    if (!(in > 0) || !(out > 0) || !isfinite(a) || !isfinite(b))
        return kq_fail(err, KQ_E_NUMERIC, "the factors' traces are %g and %g", in, out);
    for (size_t i = 0; i < n * n; i++)
        H_in[i] = (float)(H_in[i] * a);
    for (size_t i = 0; i < m * m; i++)
        H_out[i] = (float)(H_out[i] * b);
    return KQ_OK;
}

static void keep_diagonal(float *H, size_t n)
{
    for (size_t i = 0; i < n * n; i++)
        if (i % (n + 1))
            H[i] = 0;
}

kq_status kq_search_psd(kq_search *s, double allowed, float *work, kq_error *err)
{
    kq_status status = kq_psd_check(s->H_in, s->n, allowed, work, s->threads, "H_in", err);
    return status ? status : kq_psd_check(s->H_out, s->m, allowed, work, s->threads, "H_out", err);
}

void kq_search_trace(kq_search *s, double residual)
{
    kq_factor_report *r = s->report;
    if (r->n_trace == KQ_TRACE)
        return;
    r->trace[r->n_trace].products = r->products;
    r->trace[r->n_trace++].residual = residual;
}

/* ---- one estimate among those that advance together ---- */

typedef struct estimate {
    kq_stream_linear *what; /* borrowed */
    const kq_machine *machine;
    kq_product_plan plan;
    kq_product product;
    kq_search search;
    kq_step step;
    kq_factor_report report;
    size_t seen; /* samples of this pass */
    /* of the first `counted` samples: of those that were looked at so far */
    squares squares;
    size_t counted;
    bool finished;
    void *block; /* owned: the products' scratch, then the machine's state */
} estimate;

static size_t round64(size_t bytes)
{
    return bytes + (64 - bytes % 64) % 64;
}

static size_t square_bytes(const kq_product_plan *plan)
{
    return plan->T ? (size_t)plan->threads * square_floats(plan->m, plan->n) * sizeof(float) : 0;
}

/* Bytes of the scratch: the products', the squares' (factored samples), the machine's state; 0: too many. */
static size_t scratch_bytes(kq_product_plan *plan, const kq_gradients *G, const kq_factor_options *opt,
                            bool pieces)
{
    const kq_estimator *e = kq_estimator_of(opt->method);
    size_t bytes, state;
    if (!e->machine || !G->D || !G->m || !G->n ||
        !kq_product_size(plan, G, opt->compute, opt->exact || e->exact, opt->threads, opt->chunk_bytes,
                         pieces) ||
        !(state = e->machine->bytes(G->m, G->n, opt)) ||
        !kq_add_size(plan->bytes, square_bytes(plan), &bytes) || !kq_add_size(bytes, state, &bytes))
        return 0;
    return round64(bytes);
}

static kq_gradients sizes_of(const kq_stream_linear *w)
{
    return (kq_gradients){.D = w->D, .m = w->m, .n = w->n, .T = w->T};
}

static kq_status begin_estimate(estimate *e, bool pieces, kq_error *err)
{
    const kq_stream_linear *w = e->what;
    const kq_factor_options *opt = w->opt;
    const kq_gradients sizes = sizes_of(w);
    kq_status status = check(&sizes, err);
    if (status)
        return status;
    if (kq_method_needs(opt->method) != KQ_NEEDS_GRADIENTS)
        return kq_fail(err, KQ_E_ARG, "method %s takes no gradients", kq_method_name(opt->method));
    if (!(opt->rho >= 0) || !isfinite(opt->rho) || opt->rounds < 1 || !(opt->tol >= 0) || opt->max_iter < 1)
        return kq_fail(err, KQ_E_ARG,
                       "rho %g, rounds %d, tol %g, max-iter %d: need rho and tol >= 0, the others >= 1",
                       opt->rho, opt->rounds, opt->tol, opt->max_iter);
    size_t bytes = scratch_bytes(&e->plan, &sizes, opt, pieces);
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
                            .state = (char *)e->block + e->plan.bytes + square_bytes(&e->plan)};
    e->machine->start(&e->search);
    return KQ_OK;
}

static void end_estimate(estimate *e)
{
    kq_free(e->block);
    e->block = NULL;
    e->finished = true;
}

/* Every gradient is zero or absurdly small; or it is what rounding has left of terms that cancel (the
 * queries' over a text of one token again and again), from which no positive semidefinite factor comes:
 * f32 knows each term to 1e-7. */
static bool is_nothing(const estimate *e)
{
    return e->squares.total < KQ_TINY_SQUARE * (double)e->plan.D * (double)e->plan.m * (double)e->plan.n ||
           e->squares.total < 1e-5 * e->squares.terms;
}

/* The layer does not move the loss: there is nothing to estimate. */
static void finish_without(estimate *e, kq_lack why)
{
    const kq_stream_linear *w = e->what;
    memset(w->H_in, 0, w->n * w->n * sizeof(float));
    memset(w->H_out, 0, w->m * w->m * sizeof(float));
    e->report = (kq_factor_report){.lack = why,
                                   .products = e->report.products,
                                   .converged = true,
                                   .seconds = e->report.seconds,
                                   .flop = e->report.flop + e->product.flop};
    end_estimate(e);
}

static kq_status finish_estimate(estimate *e, kq_error *err)
{
    kq_stream_linear *w = e->what;
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
    end_estimate(e);
    return status;
}

/* Up to the next pass: the product that this estimate wants is begun; or it is finished. */
static kq_status next_product(estimate *e, kq_error *err)
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

static kq_status add_samples(estimate *e, const uint16_t *g, size_t count, kq_error *err)
{
    kq_status status = KQ_OK;
    const size_t wanted = e->product.samples;
    if (wanted < e->plan.D &&
        count > wanted - e->seen) /* what is left over of a pass that others want more of */
        count = wanted - e->seen;
    if (!count)
        return KQ_OK;
    /* samples not looked at before */
    const size_t end = e->seen + count, from = e->counted > e->seen ? e->counted : e->seen;
    if (from < end && end <= e->plan.D) {
        status = add_squares(&e->plan, g + (from - e->seen) * e->plan.sample, from, end - from,
                             (float *)((char *)e->block + e->plan.bytes), &e->squares, err);
        e->counted = end;
    }
    e->seen = end;
    return status ? status : kq_product_add(&e->product, g, count, err);
}

static kq_status end_product(estimate *e, kq_error *err)
{
    kq_status status = kq_product_end(&e->product, e->step.out, err);
    if (!status)
        status = check_squares(e->squares.total, e->counted, e->plan.m, e->plan.n, err);
    e->report.products++;
    if (!status && e->counted == e->plan.D && is_nothing(e)) {
        finish_without(e, KQ_LACK_GRADIENT);
        return KQ_OK;
    }
    return status ? status : e->machine->absorb(&e->search, err);
}

/* ---- several, over a source of samples ---- */

typedef struct driver {
    kq_gradient_sink sink; /* first: the pass knows only this */
    estimate *e;
    size_t count;
} driver;

/* A step of every estimate that is not finished. */
static kq_status each(driver *d, size_t source,
                      kq_status (*step)(estimate *, const uint16_t *, size_t, kq_error *), const uint16_t *g,
                      size_t count, kq_error *err)
{
    for (size_t i = 0; i < d->count; i++) {
        estimate *e = &d->e[i];
        if (e->finished || (source != SIZE_MAX && e->what->source != source))
            continue;
        double start = kq_now_s();
        kq_status status = step(e, g, count, err);
        e->report.seconds += kq_now_s() - start;
        if (status)
            return status;
    }
    return KQ_OK;
}

static kq_status next_step(estimate *e, const uint16_t *g, size_t count, kq_error *err)
{
    (void)g, (void)count;
    return next_product(e, err);
}

static kq_status end_step(estimate *e, const uint16_t *g, size_t count, kq_error *err)
{
    (void)g, (void)count;
    return end_product(e, err);
}

static kq_status sink_add(kq_gradient_sink *to, size_t source, const uint16_t *g, size_t count, kq_error *err)
{
    driver *d = (driver *)to;
    kq_status status = each(d, source, add_samples, g, count, err);
    bool enough = true;
    for (size_t i = 0; i < d->count; i++) {
        const estimate *e = &d->e[i];
        enough = enough && (e->finished || e->what->source != source || e->seen >= e->product.samples);
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
        status = begin_estimate(&d->e[i], pieces, err);
        d->e[i].report.seconds = kq_now_s() - start;
    }
    for (int passes = 0; !status; passes++) {
        double done = 1;
        d->sink.wanted = 0;
        if ((status = each(d, SIZE_MAX, next_step, NULL, 0, err)))
            break;
        for (size_t i = 0; i < d->count; i++) {
            estimate *e = &d->e[i];
            if (e->finished)
                continue;
            d->sink.wanted |= (uint64_t)1 << e->what->source;
            done = fmin(done, e->machine->fraction(&e->search));
        }
        if (!d->sink.wanted)
            break;
        if (progress && progress(ctx, done))
            status = kq_fail(err, KQ_E_INTERRUPTED, "interrupted after %d passes over the gradients", passes);
        if (!status)
            status = pass(pass_ctx, &d->sink, err);
        if (!status)
            status = each(d, SIZE_MAX, end_step, NULL, 0, err);
    }
    for (size_t i = 0; i < d->count; i++) {
        kq_free(d->e[i].block);
        if (!status)
            d->e[i].what->report = d->e[i].report;
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
        d.e[i].what = &linears[i];
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
        const kq_gradients sizes = sizes_of(&linears[i]);
        size_t bytes = scratch_bytes(&plan, &sizes, linears[i].opt, true);
        if (!bytes || !kq_add_size(all, bytes, &all))
            return 0;
    }
    return all;
}

/* ---- one, over gradients that are at hand ---- */

typedef struct at_hand {
    const kq_gradients *G;
    size_t chunk;
    uint16_t *buffer;
} at_hand;

/* Samples a chunk at a time: where they lie, or read into the buffer. */
static kq_status over_gradients(void *ctx, kq_gradient_sink *to, kq_error *err)
{
    const at_hand *a = ctx;
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
    return G->g || G->read ? check(G, err) : kq_fail(err, KQ_E_ARG, "gradients: neither in memory nor read");
}

static size_t buffer_bytes(const kq_gradients *G, const kq_product_plan *plan)
{
    return G->g || !G->read ? 0 : plan->chunk * plan->sample * sizeof(uint16_t);
}

size_t kq_factors_bytes(const kq_gradients *G, const kq_factor_options *opt)
{
    kq_product_plan plan;
    size_t bytes = scratch_bytes(&plan, G, opt, false);
    return bytes ? bytes + buffer_bytes(G, &plan) : 0;
}

kq_status kq_factors(const kq_gradients *G, const kq_factor_options *opt, float *H_in, float *H_out,
                     kq_factor_report *report, int (*progress)(void *ctx, double fraction), void *ctx,
                     kq_error *err)
{
    kq_stream_linear what = {
        .D = G->D, .m = G->m, .n = G->n, .T = G->T, .opt = opt, .H_in = H_in, .H_out = H_out};
    estimate e = {.what = &what};
    driver d = {.sink.add = sink_add, .e = &e, .count = 1};
    at_hand source = {.G = G};
    double start = kq_now_s();
    kq_status status = check_source(G, err);
    kq_product_plan plan;
    if (!status && !scratch_bytes(&plan, G, opt, false))
        plan.chunk = 1; /* drive refuses it, and says why */
    if (!status && !G->g)
        status =
            kq_alloc_for((void **)&source.buffer, buffer_bytes(G, &plan), 1, "a chunk of gradients", err);
    source.chunk = plan.chunk;
    int before = kq_one_thread_begin();
    if (!status)
        status = drive(&d, false, over_gradients, &source, progress, ctx, err);
    kq_one_thread_end(before);
    kq_free(source.buffer);
    what.report.seconds = kq_now_s() - start;
    if (report && !status)
        *report = what.report;
    return status;
}

int kq_factors_products(const kq_factor_options *opt)
{
    enum { TYPICAL = 18 };
    if (opt->method == KQ_FLIPFLOP)
        return 2 * opt->rounds;
    const int most = 2 * opt->max_iter + (opt->method == KQ_YAQA_B ? 0 : 2);
    return most < TYPICAL ? most : TYPICAL;
}

double kq_factors_passes(const kq_factor_options *opt, size_t D)
{
    if (opt->method != KQ_FLIPFLOP)
        return kq_factors_products(opt);
    return kq_flipflop_passes(opt, D, 2 * opt->rounds);
}

double kq_factors_flop(const kq_gradients *G, const kq_factor_options *opt, int products)
{
    kq_product_plan plan;
    double flop = 0;
    if (!scratch_bytes(&plan, G, opt, false))
        return 0;
    for (int i = 0; i < products; i++) {
        const bool flipflop = opt->method == KQ_FLIPFLOP, adjoint = (i % 2 == 0) == flipflop;
        const bool identity = i == 0 && (flipflop || (opt->method != KQ_YAQA_B && !opt->start_random));
        const double d = (double)(adjoint ? G->m : G->n);
        const size_t samples = flipflop ? kq_flipflop_samples(opt, G->D, i) : G->D;
        flop += kq_product_flop(&plan, adjoint,
                                identity   ? KQ_MID_IDENTITY
                                : flipflop ? KQ_MID_TRIANGULAR
                                           : KQ_MID_SYMMETRIC,
                                samples);
        if (flipflop && !identity)
            flop += 2.0 / 3.0 * d * d * d;
    }
    return flop;
}

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
    at_hand source = {.G = G};
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
