/* The report of kq_quantize as a struct. It is read from the JSON, so that a report that was saved gives the
 * same struct as one that has just been made. */
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "base/locale.h"
#include "base/mem.h"
#include "host/report.h"

/* A kq_quantize_result together with its modules and the JSON that their texts belong to. */
typedef struct result {
    /* the first member, because the caller frees the struct through a pointer to it */
    kq_quantize_result public;
    json_t *json;
    kq_module_result *module;      /* owned [n_modules] */
    const kq_module_result **list; /* owned: a pointer to each */
} result;

static kq_module_result read_module(const char *name, const json_t *o)
{
    const json_t *shape = json_object_get(o, "shape");
    const double bpw = kq_report_number(o, "bpw");
    return (kq_module_result){.name = name,
                              .rows = kq_report_size(json_array_get(shape, 0)),
                              .columns = kq_report_size(json_array_get(shape, 1)),
                              .bits = json_object_get(o, "bits") ? kq_report_number(o, "bits") : bpw,
                              .bpw = bpw,
                              .relative_mse = kq_report_number(o, "relative_mse"),
                              .predicted_loss = kq_report_number(o, "predicted_loss"),
                              .type = json_string_value(json_object_get(o, "type")),
                              .identity = json_string_value(json_object_get(o, "identity"))};
}

static kq_status read_modules(result *r, const json_t *modules, kq_error *err)
{
    const size_t n = json_object_size(modules);
    kq_status status = kq_alloc_for((void **)&r->module, n, sizeof *r->module, "the report", err);
    if (!status)
        status = kq_alloc_for((void **)&r->list, n, sizeof *r->list, "the report", err);
    if (status)
        return status;
    size_t i = 0;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)modules, name, value) {
        r->module[i] = read_module(name, value);
        r->list[i] = &r->module[i];
        i++;
    }
    r->public.n_modules = n;
    r->public.module = r->list;
    return KQ_OK;
}

kq_status kq_quantize_result_read(const char *report_json, kq_quantize_result **out, kq_error *err)
{
    KQ_C_LOCALE;
    *out = NULL;
    result *r = kq_calloc(1, sizeof *r);
    if (!r)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the report");
    kq_status status = kq_report_load(report_json, "report of kq_quantize", &r->json, err);
    const json_t *o = r->json;
    const bool complete = json_is_true(json_object_get(o, "complete"));
    if (!status && !complete &&
        !(json_is_number(json_object_get(o, "bpw")) && json_is_object(json_object_get(o, "modules"))))
        status = kq_fail(err, KQ_E_FORMAT,
                         "this is no report of kq_quantize: it has no \"bpw\" or no \"modules\"");
    r->public = (kq_quantize_result){.complete = complete,
                                     .bits = json_object_get(o, "bits") ? kq_report_number(o, "bits")
                                                                        : kq_report_number(o, "bpw"),
                                     .bpw = kq_report_number(o, "bpw"),
                                     .bpw_file = kq_report_number(o, "bpw_file"),
                                     .file_bytes = kq_report_whole(o, "file_bytes"),
                                     .n_weights = kq_report_whole(o, "quantized_weights"),
                                     .predicted_loss = kq_report_number(o, "predicted_loss"),
                                     .relative_mse = kq_report_number(o, "relative_mse"),
                                     .calibration_nll = kq_report_number(o, "calibration_nll"),
                                     .seconds = kq_report_number(json_object_get(o, "seconds"), "total"),
                                     .peak_rss_bytes = kq_report_whole(o, "peak_rss_bytes")};
    if (!status)
        status = read_modules(r, json_object_get(o, "modules"), err);
    if (status)
        kq_quantize_result_free(&r->public);
    else
        *out = &r->public;
    return status;
}

void kq_quantize_result_free(kq_quantize_result *of)
{
    result *r = (result *)of;
    if (!r)
        return;
    json_decref(r->json);
    kq_free(r->module);
    kq_free(r->list);
    kq_free(r);
}
