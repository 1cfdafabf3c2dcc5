/* kq_selfcheck: runs the groups of checks and makes the report. The groups note their results through
 * checker.c. */
#include "selfcheck/selfcheck.h"

#include <stdlib.h>

#include "base/error.h"
#include "kern/gemm.h"

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
    kq_checker c = {.common = common, .list = json_array(), .total = 5};
    if (!c.list)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the report of the self-check");
    if (!(status = kq_check_vector_kernels(&c, best, err)) &&
        !(status = kq_checker_step(&c, "the vector kernels", err)) &&
        !(status = kq_check_products(&c, err)) &&
        !(status = kq_checker_step(&c, "the matrix products", err)) &&
        !(status = kq_check_decode(&c, best, err)) && !(status = kq_checker_step(&c, "decoding", err)) &&
        !(status = kq_check_trellis(&c, best, err)) &&
        !(status = kq_checker_step(&c, "the trellis search", err)) &&
        !(status = kq_check_grid(&c, best, err)))
        status = kq_checker_step(&c, "the search of scales", err);
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
