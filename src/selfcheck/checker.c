/* The results of a self-check: one entry for each kernel and instruction set, with its error and the bound.
 */
#include "selfcheck/selfcheck.h"

#include <math.h>
#include <stdio.h>

double kq_check_distance(const float *got, const float *want, size_t n)
{
    double error = 0, top = 1e-30;
    for (size_t i = 0; i < n; i++) {
        const double d = fabs((double)got[i] - want[i]);
        if (!(d <= error) && !isnan(error))
            error = d; /* a NaN stays */
        if (fabs((double)want[i]) > top)
            top = fabs((double)want[i]);
    }
    return error / top;
}

kq_status kq_checker_note(kq_checker *c, const char *room, const char *kernel, const char *isa, double error,
                          double bound, kq_error *err)
{
    const bool ok = error <= bound;
    json_t *entry = json_pack("{s:s, s:s, s:s, s:f, s:f, s:b}", "room", room, "kernel", kernel, "isa", isa,
                              "error", isfinite(error) ? error : 1e30, "bound", bound, "ok", (int)ok);
    if (!entry || json_array_append_new(c->list, entry))
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the report of the self-check");
    if (!ok && !c->failed++)
        snprintf(c->first, sizeof c->first, "%s/%s on %s is off by %.3g, at most %.3g is allowed", room,
                 kernel, isa, error, bound);
    return KQ_OK;
}

kq_status kq_checker_step(kq_checker *c, const char *what, kq_error *err)
{
    c->done++;
    if (c->common->progress &&
        c->common->progress(c->common->ctx, "self-check", (double)c->done / (double)c->total, NULL))
        return kq_fail(err, KQ_E_INTERRUPTED, "stopped after %s", what);
    return KQ_OK;
}
