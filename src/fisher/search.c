/* What the methods over whole gradients share: the trace of their residuals, and the last check of their
 * result. */
#include "fisher/method.h"

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
