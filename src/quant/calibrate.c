/* kq_calibrate, kq_calibrate_all: the receiver that keeps factors and gathers them into factor files.
 *
 * Several files can come from one sweep, each with an estimate of its own; they share the forward pass, the
 * loss and every block's gradients. Each file has its own work folder, and is what it would be alone. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/options.h"
#include "base/progress.h"
#include "base/time.h"
#include "factors/file.h"
#include "factors/lacks.h"
#include "factors/part.h"
#include "prepare/plan.h"
#include "prepare/sequences.h"
#include "quant/rows.h"
#include "quant/work.h"
#include "settings/settings.h"

/* One file of factors in the making. */
typedef struct calibrator {
    bool bf16;
    kq_factor_part *part; /* of the block at work, owned */
    json_t *modules;      /* reports of this run's linears, owned */
    size_t bytes;         /* of the file */
} calibrator;

static kq_status prepare(kq_output *o, kq_error *err)
{
    calibrator *c = o->ctx;
    if (o->p.factor.method == KQ_NONE)
        return kq_fail(err, KQ_E_ARG, "--method none has no factors to calibrate; quantize with it directly");
    return (c->modules = json_object()) ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", o->name);
}

static kq_status identify(kq_output *o, kq_error *err)
{
    const calibrator *c = o->ctx;
    json_object_set_new(o->settings, "factor_dtype", json_string(c->bf16 ? "bf16" : "f32"));
    return kq_identify_by_settings(o, err);
}

static kq_status check_complete(const kq_output *o, kq_error *err)
{
    kq_factor_file *f;
    kq_status status = kq_factor_file_open(o->done_path, &f, err);
    if (status)
        return status;
    json_t *there = json_loads(kq_factor_file_settings(f), JSON_REJECT_DUPLICATES, NULL);
    if (!json_equal(there, o->settings))
        status =
            kq_fail(err, KQ_E_MISMATCH,
                    "%s: the factors there were made with other settings; choose another output or remove it",
                    o->done_path);
    json_decref(there);
    kq_factor_file_close(f);
    return status;
}

/* The factors of a block are kept, as they will be in the file, until it is complete. */
static void bytes(const kq_work *w, kq_receiver_bytes *out)
{
    const calibrator *c = w->outputs->ctx;
    size_t all = 0, block = 0;
    kq_plan_kept_factors(&w->outputs->p, &block, &all);
    const size_t halves = c->bf16 ? 1 : 2;
    out->kept = w->sweep.n_estimates * (block / 2 * halves);
    out->disk = w->sweep.n_estimates * all * halves;
}

static bool wants_rows(const kq_output *o)
{
    (void)o;
    return true;
}

static void describe(const kq_work *w, char line[160])
{
    snprintf(line, 160, "factors of %zu modules", w->outputs->p.n_selected);
}

/* What the report says of one linear. */
static json_t *describe_factors(const kq_factor_report *r)
{
    json_t *trace = json_array();
    for (int i = 0; i < r->n_trace; i++)
        json_array_append_new(trace, json_pack("[i,f]", r->trace[i].products, r->trace[i].residual));
    json_t *o = json_pack("{s:i, s:f, s:f, s:f, s:f, s:o, s:b, s:f, s:f, s:f}", "products", r->products,
                          "sigma1", r->sigma1, "sigma2", r->sigma2, "sigma2_residual", r->sigma2_residual,
                          "residual", r->residual, "trace", trace, "converged", r->converged, "trace_product",
                          r->trace_product, "seconds", r->seconds, "flop", r->flop);
    if (r->lack)
        json_object_set_new(o, "identity", json_string(kq_lack_name(r->lack)));
    return o;
}

static kq_status keep_factors(kq_output *o, const kq_linear_factors *f, kq_error *err)
{
    calibrator *c = o->ctx;
    if (!c->part && !(c->part = kq_factor_part_new(c->bf16)))
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", f->name);
    kq_status status = kq_factor_part_add(c->part, f->name, f->H_in, f->n, f->H_out, f->m, f->report, err);
    if (status)
        return status;
    json_object_set_new(c->modules, f->name, describe_factors(f->report));
    kq_block_note_factors(&o->note, f->report, kq_method_iterates(o->p.factor.method));
    o->note.seconds += f->report->seconds;
    return kq_progress_ask(&o->opt.common, f->name, err);
}

static kq_status write_block(kq_output *o, size_t layer, const char *path, kq_error *err)
{
    calibrator *c = o->ctx;
    (void)layer;
    kq_status status = kq_factor_part_write(c->part, path, err);
    kq_factor_part_free(c->part);
    c->part = NULL;
    return status;
}

static kq_status gather(kq_output *o, kq_error *err)
{
    calibrator *c = o->ctx;
    char **parts;
    size_t n;
    kq_lacks lacks = {0};
    kq_status status = kq_prepared_parts(&o->p, &o->job, "factors", &parts, &n, err);
    if (!status)
        status = kq_rows_factor_parts(o, &parts, &n, err);
    for (size_t i = 0; i < n && !status; i++)
        status = kq_factor_part_lacks(parts[i], &lacks, err);
    if (!status)
        kq_lacks_warn(&lacks);
    if (!status)
        status = kq_factors_gather(o->done_path, parts, n, o->identity, o->opt.shard_size, &c->bytes, err);
    kq_prepared_free_parts(parts, n);
    return status;
}

static json_t *describe_file(const kq_output *o)
{
    const calibrator *c = o->ctx;
    if (o->job.complete)
        return json_pack("{s:s, s:b}", "file", o->name, "complete", true);
    return json_pack("{s:s, s:I, s:O, s:O}", "file", o->name, "file_bytes", (json_int_t)c->bytes, "settings",
                     o->settings, "modules", c->modules);
}

static kq_status report(kq_work *w, json_t **out, kq_error *err)
{
    (void)err;
    *out = json_pack("{s:f, s:{s:f, s:f, s:f, s:f}, s:I, s:I, s:s}", "calibration_nll",
                     isfinite(w->swept.nll) ? w->swept.nll : 0.0, "seconds", "forward", w->swept.forward_s,
                     "backward", w->swept.backward_s, "factors", w->swept.factor_s, "total",
                     kq_now_s() - w->start, "peak_rss_bytes", (json_int_t)kq_peak_rss_bytes(),
                     "planned_bytes", (json_int_t)w->memory, "gradients", kq_gradient_way_name(w->sweep.way));
    kq_report_texts(&w->outputs->p, *out);
    if (w->n == 1) {
        json_t *file = describe_file(w->outputs);
        json_object_del(file, "file");
        json_object_update(*out, file);
        json_decref(file);
        return KQ_OK;
    }
    json_t *list = json_array();
    for (size_t i = 0; i < w->n; i++)
        json_array_append_new(list, describe_file(&w->outputs[i]));
    json_object_set_new(*out, "estimates", list);
    return KQ_OK;
}

static void close_calibrator(kq_output *o)
{
    calibrator *c = o->ctx;
    kq_factor_part_free(c->part);
    json_decref(c->modules);
}

static const kq_receiver factors_receiver = {
    .result = "a file",
    .complete = "the factors are complete already",
    .stage = {.stem = "factors", .suffix = "safetensors", .linear = keep_factors, .block = write_block},
    .prepare = prepare,
    .identify = identify,
    .bytes = bytes,
    .wants_rows = wants_rows,
    .check_complete = check_complete,
    .describe = describe,
    .finish = gather,
    .report = report,
    .close = close_calibrator,
};

/* The options of one estimate: its own calibration, but for what one sweep has in common. */
static kq_quantize_options options_of(const kq_quantize_options *opt, const kq_estimate *estimate)
{
    kq_quantize_options own = *opt;
    kq_calibration *c = &own.calibration;
    kq_method method;
    *c = estimate->calibration;
    kq_settings_copy(KQ_QUANTIZE_OPTIONS, opt, &own, KQ_OF_THE_PASS);
    if (kq_method_parse(c->method, &method, NULL) == KQ_OK && !kq_method_needs_gradients(method)) {
        c->sampled_labels = false; /* it looks at inputs alone */
        c->draws = 1;
    }
    return own;
}

kq_status kq_calibrate_all(const char *model, const kq_estimate *estimates, size_t n,
                           const kq_quantize_options *given, bool factor_bf16, char **report_json,
                           kq_error *err)
{
    kq_quantize_options opt;
    if (report_json)
        *report_json = NULL;
    kq_status status = KQ_OPTIONS_READ(kq_quantize_options, &opt, given, err);
    if (status)
        return status;
    if (!n)
        return kq_fail(err, KQ_E_ARG, "calibration of nothing");
    kq_output *outputs = kq_calloc(n, sizeof *outputs);
    calibrator *c = kq_calloc(n, sizeof *c);
    for (size_t i = 0; outputs && c && i < n; i++) {
        c[i].bf16 = factor_bf16;
        outputs[i] =
            (kq_output){.name = estimates[i].out_file, .opt = options_of(&opt, &estimates[i]), .ctx = &c[i]};
    }
    status = outputs && c ? kq_work_run(model, &factors_receiver, outputs, n, report_json, err)
                          : kq_fail(err, KQ_E_MEMORY, "out of memory: calibration");
    kq_free(outputs);
    kq_free(c);
    return status;
}

kq_status kq_calibrate(const char *model, const char *out_file, const kq_quantize_options *opt,
                       bool factor_bf16, char **report_json, kq_error *err)
{
    kq_quantize_options whole;
    if (report_json)
        *report_json = NULL;
    const kq_status status = KQ_OPTIONS_READ(kq_quantize_options, &whole, opt, err);
    const kq_estimate one = {.out_file = out_file, .calibration = whole.calibration};
    return status ? status : kq_calibrate_all(model, &one, 1, &whole, factor_bf16, report_json, err);
}
