/* Matrix-normal maximum likelihood by alternation (Dutilleul 1999): docs/math.md eq. 3. */
#include <math.h>

#include "base/mem.h"
#include "fisher/product.h"

/* Scratch after the products': the normalised factor, whose Cholesky factor replaces it, and that one's inverse. */
size_t kq_flipflop_bytes(const kq_product_plan *plan, const kq_factor_options *opt)
{
    (void)opt;
    size_t big = plan->m > plan->n ? plan->m : plan->n, two, psd = kq_psd_work(big), bytes;
    two = 2 * big * big;
    if (!kq_add_size(plan->bytes, (two > psd ? two : psd) * sizeof(float), &bytes))
        return 0;
    return bytes;
}

kq_status kq_regularised_inverse(const float *H, size_t n, double rho, float *L, float *C, int threads, int *regularised, kq_error *err)
{
    double trace = 0;
    for (size_t i = 0; i < n; i++)
        trace += H[i * n + i];
    if (!isfinite(trace) || trace <= 0)
        return kq_fail(err, KQ_E_NUMERIC, "flipflop: a factor's trace is %g: the gradients over- or underflow f32 when squared", trace);
    double scale = (double)n / trace;
    for (int tries = 1; tries <= 64; tries++) {
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j <= i; j++)
                L[i * n + j] = (float)(H[i * n + j] * scale);
        if (kq_cholesky(L, n, (float)(rho * tries), L, threads)) {
            kq_triangle_inverse(L, n, C, threads);
            return KQ_OK;
        }
        ++*regularised;
        if (rho <= 0)
            break;
    }
    return kq_fail(err, KQ_E_NUMERIC, "flipflop: a factor is singular even with rho = %g: raise --rho", rho);
}

kq_status kq_flipflop_run(const kq_product_plan *plan, const uint16_t *g, const kq_factor_options *opt, void *block, float *H_in,
                          float *H_out, kq_factor_report *report, kq_progress progress, kq_error *err)
{
    size_t m = plan->m, n = plan->n, big = m > n ? m : n;
    float *L = (float *)((char *)block + plan->bytes), *C = L + big * big;
    kq_product p;
    kq_status status = KQ_OK;

    kq_product_init(&p, plan, g, block);
    for (int half = 0; half < 2 * opt->rounds; half++) {
        bool in = half % 2 == 0;
        if (progress.fn && progress.fn(progress.ctx, half / (2.0 * opt->rounds)))
            return kq_fail(err, KQ_E_INTERRUPTED, "interrupted in round %d of %d", half / 2 + 1, opt->rounds);
        if (half)
            status = kq_regularised_inverse(in ? H_out : H_in, in ? m : n, opt->rho, L, C, opt->threads, &report->regularised, err);
        if (!status)
            status = kq_product_apply(&p, in, half ? KQ_MID_TRIANGULAR : KQ_MID_IDENTITY, C, in ? H_in : H_out, err);
        if (status)
            return status;
        if (half) { /* Cholesky and inverse: n^3/3 multiply-adds each */
            double d = (double)(in ? m : n);
            p.flop += 2.0 / 3.0 * d * d * d;
        }
        report->products++;
    }
    report->flop = p.flop;
    report->converged = true;
    status = kq_psd_check(H_in, n, 1e-3, L, opt->threads, "H_in", err);
    if (!status)
        status = kq_psd_check(H_out, m, 1e-3, L, opt->threads, "H_out", err);
    return status;
}
