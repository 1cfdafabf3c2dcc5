/* Power iteration on the operator of eq. 2 (YAQA's method B; Tseng et al. 2025b), from the identity or a random positive semidefinite start. */
#include <math.h>

#include "base/mem.h"
#include "base/rng.h"
#include "fisher/product.h"

/* Scratch after the products': the next iterate; the PSD check reuses it. */
size_t kq_power_bytes(const kq_product_plan *plan, const kq_factor_options *opt)
{
    (void)opt;
    const size_t big = plan->m > plan->n ? plan->m : plan->n, psd = kq_psd_work(big), next = plan->n * plan->n;
    size_t bytes;
    return kq_add_size(plan->bytes, (next > psd ? next : psd) * sizeof(float), &bytes) ? bytes : 0;
}

static double norm(const float *H, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double row = 0;
        for (size_t j = 0; j < n; j++)
            row += (double)H[i * n + j] * H[i * n + j];
        sum += row;
    }
    return sqrt(sum);
}

static void scale(float *H, size_t n, double by)
{
    for (size_t i = 0; i < n * n; i++)
        H[i] = (float)(H[i] * by);
}

static void start(float *v, size_t n, const kq_factor_options *opt)
{
    kq_rng rng = kq_rng_stream(opt->seed, "power");
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            v[i * n + j] = i != j ? 0 : opt->start_random ? (float)(0.1 + kq_rng_uniform(&rng)) : 1;
}

kq_status kq_power_run(const kq_product_plan *plan, const uint16_t *g, const kq_factor_options *opt, void *block, float *H_in, float *H_out,
                       kq_factor_report *report, kq_progress progress, kq_error *err)
{
    const size_t m = plan->m, n = plan->n;
    float *v = H_in, *u = H_out, *next = (float *)((char *)block + plan->bytes);
    kq_product p;
    kq_product_init(&p, plan, g, block);
    start(v, n, opt);
    scale(v, n, 1 / norm(v, n));
    for (int step = 0; step < opt->max_iter && !report->converged; step++) {
        if (progress.fn && progress.fn(progress.ctx, (double)step / opt->max_iter))
            return kq_fail(err, KQ_E_INTERRUPTED, "interrupted in step %d", step + 1);
        kq_status status = kq_product_apply(&p, false, KQ_MID_SYMMETRIC, v, u, err);
        if (status)
            return status;
        const double sigma = norm(u, m);
        if (!(sigma > 0) || !isfinite(sigma))
            return kq_fail(err, KQ_E_NUMERIC, "power iteration: the operator's norm is %g", sigma);
        scale(u, m, 1 / sigma);
        if ((status = kq_product_apply(&p, true, KQ_MID_SYMMETRIC, u, next, err)))
            return status;
        report->products += 2;
        /* ||A*(u) - sigma v|| / sigma; A(v) = sigma u holds by construction */
        double gap = 0;
        for (size_t i = 0; i < n * n; i++) {
            const double e = next[i] - sigma * v[i];
            gap += e * e;
        }
        report->sigma1 = sigma;
        report->residual = sqrt(gap) / sigma;
        report->converged = report->residual <= opt->tol;
        if (!report->converged) { /* else v stays the one that the residual was measured with */
            const double length = norm(next, n);
            for (size_t i = 0; i < n * n; i++)
                v[i] = (float)(next[i] / length);
        }
    }
    report->flop = p.flop;
    kq_status status = kq_psd_check(H_in, n, 1e-3, next, opt->threads, "H_in", err);
    return status ? status : kq_psd_check(H_out, m, 1e-3, next, opt->threads, "H_out", err);
}
