/* The entry: checks, one allocation, the method, the scale. */
#include <math.h>

#include "base/mem.h"
#include "base/time.h"
#include "fisher/method.h"

static kq_status check(const kq_gradients *G, kq_error *err)
{
    size_t mn, all;
    if (!G->g || !G->D || !G->m || !G->n)
        return kq_fail(err, KQ_E_ARG, "gradients: %zu samples of [%zu, %zu]", G->D, G->m, G->n);
    if (!kq_mul_size(G->m, G->n, &mn) || !kq_mul_size(mn, G->D, &all) || all > SIZE_MAX / 16 || G->m > 1 << 20 || G->n > 1 << 20 ||
        mn > 1u << 30)
        return kq_fail(err, KQ_E_ARG, "gradients of [%zu, %zu, %zu] are too large", G->D, G->m, G->n);
    return KQ_OK;
}

/* (1/D) sum ||G_i||_F^2, looking at every value once. The first bad sample is named, whoever finds it. */
static kq_status mean_square(const kq_gradients *G, int threads, double *out, kq_error *err)
{
    size_t mn = G->m * G->n, bad = SIZE_MAX, rows = G->m;
    double total = 0;
    enum { GROUP = 64 }; /* samples a pass: bounded storage, sums in order */
    for (size_t first = 0; first < G->D; first += GROUP) {
        double part[GROUP];
        size_t count = G->D - first < GROUP ? G->D - first : GROUP;
        #pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1) reduction(min : bad)
        for (size_t s = 0; s < count; s++) {
            const uint16_t *g = G->g + (first + s) * mn;
            double sum = 0;
            unsigned broken = 0;
            for (size_t i = 0; i < rows; i++) {
                float lane[32] = {0};
                const uint16_t *row = g + i * G->n;
                size_t j = 0;
                for (; j + 32 <= G->n; j += 32)
                    for (int l = 0; l < 32; l++) {
                        union { uint32_t u; float f; } x = {(uint32_t)row[j + (size_t)l] << 16};
                        broken |= (row[j + (size_t)l] & 0x7f80u) == 0x7f80u;
                        lane[l] += x.f * x.f;
                    }
                for (; j < G->n; j++) {
                    union { uint32_t u; float f; } x = {(uint32_t)row[j] << 16};
                    broken |= (row[j] & 0x7f80u) == 0x7f80u;
                    lane[j % 32] += x.f * x.f;
                }
                for (int l = 0; l < 32; l++)
                    sum += lane[l];
            }
            part[s] = sum;
            if (broken && first + s < bad)
                bad = first + s;
        }
        if (bad != SIZE_MAX)
            return kq_fail(err, KQ_E_NUMERIC, "gradient of sample %zu (of %zu, [%zu, %zu]) holds a NaN or an infinity", bad, G->D, G->m, G->n);
        for (size_t s = 0; s < count; s++)
            total += part[s];
    }
    *out = total / (double)G->D;
    if (!isfinite(total))
        return kq_fail(err, KQ_E_NUMERIC, "the gradients [%zu, %zu, %zu] overflow f32 when squared", G->D, G->m, G->n);
    if (total <= 0)
        return kq_fail(err, KQ_E_NUMERIC, "all %zu gradients [%zu, %zu] are zero: this layer does not move the loss", G->D, G->m, G->n);
    return KQ_OK;
}

kq_status kq_factors_scale(float *H_in, size_t n, float *H_out, size_t m, double target, kq_error *err)
{
    double in = 0, out = 0;
    for (size_t i = 0; i < n; i++)
        in += H_in[i * n + i];
    for (size_t i = 0; i < m; i++)
        out += H_out[i * m + i];
    double mean = sqrt(target / ((double)m * (double)n)), a = mean * (double)n / in, b = mean * (double)m / out;
    if (!(in > 0) || !(out > 0) || !isfinite(a) || !isfinite(b))
        return kq_fail(err, KQ_E_NUMERIC, "the factors' traces are %g and %g", in, out);
    for (size_t i = 0; i < n * n; i++)
        H_in[i] = (float)(H_in[i] * a);
    for (size_t i = 0; i < m * m; i++)
        H_out[i] = (float)(H_out[i] * b);
    return KQ_OK;
}

static size_t scratch_bytes(kq_product_plan *plan, size_t m, size_t n, size_t D, const kq_factor_options *opt)
{
    const kq_estimator *e = kq_estimator_of(opt->method);
    if (!e->run || !D || !m || !n || !kq_product_size(plan, m, n, D, opt->compute, opt->exact || e->exact, opt->threads))
        return 0;
    return e->scratch(plan, opt);
}

static void keep_diagonal(float *H, size_t n)
{
    for (size_t i = 0; i < n * n; i++)
        if (i % (n + 1))
            H[i] = 0;
}

size_t kq_factors_bytes(size_t m, size_t n, size_t D, const kq_factor_options *opt)
{
    kq_product_plan plan;
    return scratch_bytes(&plan, m, n, D, opt);
}

kq_status kq_factors(const kq_gradients *G, const kq_factor_options *opt, float *H_in, float *H_out, kq_factor_report *report,
                     int (*progress)(void *ctx, double fraction), void *ctx, kq_error *err)
{
    kq_factor_report local = {0};
    kq_progress callback = {progress, ctx};
    kq_product_plan plan;
    double start = kq_now_s(), square = 0;
    void *block = NULL;

    kq_status status = check(G, err);
    if (status)
        return status;
    if (kq_method_needs(opt->method) != KQ_NEEDS_GRADIENTS)
        return kq_fail(err, KQ_E_ARG, "method %s takes no gradients", kq_method_name(opt->method));
    if (!(opt->rho >= 0) || !isfinite(opt->rho) || opt->rounds < 1 || !(opt->tol >= 0) || opt->max_iter < 1)
        return kq_fail(err, KQ_E_ARG, "rho %g, rounds %d, tol %g, max-iter %d: need rho and tol >= 0, the others >= 1", opt->rho, opt->rounds,
                       opt->tol, opt->max_iter);
    size_t bytes = scratch_bytes(&plan, G->m, G->n, G->D, opt);
    if (!bytes)
        return kq_fail(err, KQ_E_MEMORY, "factors of a [%zu, %zu] layer: the scratch does not fit the address space", G->m, G->n);

    int before = kq_one_thread_begin();
    status = mean_square(G, plan.threads, &square, err);
    if (!status)
        status = kq_alloc_for(&block, bytes, 1, "the factor step", err);
    if (!status)
        status = kq_estimator_of(opt->method)->run(&plan, G->g, opt, block, H_in, H_out, &local, callback, err);
    if (!status && kq_estimator_of(opt->method)->diagonal) {
        keep_diagonal(H_in, G->n);
        keep_diagonal(H_out, G->m);
    }
    if (!status)
        status = kq_factors_scale(H_in, G->n, H_out, G->m, square, err);
    kq_free(block);
    kq_one_thread_end(before);
    local.trace_product = square;
    local.seconds = kq_now_s() - start;
    if (report && !status)
        *report = local;
    return status;
}

kq_status kq_fisher_product(const kq_gradients *G, bool adjoint, const float *Y, float *out, kq_compute compute, int threads, kq_error *err)
{
    kq_product_plan plan;
    kq_product p;
    void *block = NULL;
    kq_status status = check(G, err);
    if (status)
        return status;
    if (!kq_product_size(&plan, G->m, G->n, G->D, compute, true, threads))
        return kq_fail(err, KQ_E_MEMORY, "products of a [%zu, %zu] layer: the scratch does not fit the address space", G->m, G->n);
    status = kq_alloc_for(&block, plan.bytes, 1, "a product with the gradients", err);
    if (status)
        return status;
    int before = kq_one_thread_begin();
    kq_product_init(&p, &plan, G->g, block);
    status = kq_product_apply(&p, adjoint, KQ_MID_SYMMETRIC, Y, out, err);
    kq_one_thread_end(before);
    kq_free(block);
    return status;
}
