/* Runs the groups of checks and makes the report. */
#include "selfcheck/selfcheck.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "kern/gemm.h"

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

kq_status kq_selfcheck(const kq_common *common, char **report_json, kq_error *err)
{
    static const kq_common defaults;
    kq_isa best;
    if (report_json)
        *report_json = NULL;
    if (!common)
        common = &defaults;
    kq_status status = kq_isa_pick(common->isa, &best, err);
    if (status)
        return status;
    kq_kern_init(best);
    kq_checker c = {.common = common, .list = json_array(), .total = 4};
    if (!c.list)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the report of the self-check");
    if (!(status = kq_check_vector_kernels(&c, best, err)) &&
        !(status = kq_checker_step(&c, "the vector kernels", err)) &&
        !(status = kq_check_products(&c, err)) &&
        !(status = kq_checker_step(&c, "the matrix products", err)) &&
        !(status = kq_check_decode(&c, best, err)) && !(status = kq_checker_step(&c, "decoding", err)) &&
        !(status = kq_check_trellis(&c, best, err)))
        status = kq_checker_step(&c, "the trellis search", err);
    if (!status && report_json) {
        json_t *report =
            json_pack("{s:s, s:s, s:i, s:i, s:O}", "version", kq_version(), "isa", kq_isa_name(best),
                      "checked", (int)json_array_size(c.list), "failed", (int)c.failed, "checks", c.list);
        *report_json = report ? json_dumps(report, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) : NULL;
        json_decref(report);
        if (!*report_json)
            status = kq_fail(err, KQ_E_MEMORY, "out of memory: the report of the self-check");
    }
    if (!status && c.failed)
        status = kq_fail(err, KQ_E_NUMERIC, "%zu of %zu kernels differ from the reference; the first: %s",
                         c.failed, json_array_size(c.list), c.first);
    json_decref(c.list);
    return status;
}
