/* kq_calibrate: only the factors, into a file. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/time.h"
#include "quant/factors.h"
#include "quant/plan.h"
#include "quant/prepare.h"

typedef struct calibrator {
    kq_prepared p;
    kq_job job;
    kq_factor_part *part; /* of the block at work, owned */
    bool bf16;
    json_t *modules;      /* reports of this run, owned */
} calibrator;

static void part_path(const calibrator *c, size_t layer, char path[4400])
{
    kq_job_path(&c->job, "factors", layer, "safetensors", path);
}

static bool block_done(void *ctx, size_t layer)
{
    return kq_job_part_done(&((calibrator *)ctx)->job, "factors", layer);
}

static kq_status keep(void *ctx, size_t layer, kq_linear_id id, const float *H_in, const float *H_out, const kq_factor_report *r, kq_error *err)
{
    calibrator *c = ctx;
    char name[128];
    size_t m, n;
    kq_linear_name(name, sizeof name, layer, id);
    kq_linear_shape(c->p.cfg, id, &m, &n);
    if (!c->part && !(c->part = kq_factor_part_new(c->bf16)))
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", name);
    kq_status status = kq_factor_part_add(c->part, name, H_in, n, H_out, m, r, err);
    if (status)
        return status;
    json_object_set_new(c->modules, name,
                        json_pack("{s:i, s:f, s:f, s:f, s:f, s:b, s:f, s:f, s:f}", "products", r->products, "sigma1", r->sigma1, "sigma2", r->sigma2, "sigma2_residual", r->sigma2_residual,
                                  "residual", r->residual, "converged", r->converged, "trace_product", r->trace_product, "seconds", r->seconds, "flop", r->flop));
    const kq_common *common = &c->p.opt->common;
    if (common->progress) {
        char line[256];
        int len = snprintf(line, sizeof line, "%s [%zu, %zu]", name, m, n);
        if (kq_method_iterates(c->p.factor.method))
            len += snprintf(line + len, sizeof line - (size_t)len, " sigma %.4g, sigma2/sigma1 %.3f, residual %.1e%s, %d products", r->sigma1,
                            r->sigma2 / r->sigma1, r->residual, r->converged ? "" : " (NOT converged)", r->products);
        snprintf(line + len, sizeof line - (size_t)len, " [%.2f s]", r->seconds);
        if (common->progress(common->ctx, NULL, 0, line))
            return kq_fail(err, KQ_E_INTERRUPTED, "stopped after %s", name);
    }
    return KQ_OK;
}

static kq_status finish_block(void *ctx, size_t layer, kq_error *err)
{
    calibrator *c = ctx;
    char path[4400];
    part_path(c, layer, path);
    kq_status status = kq_factor_part_write(c->part, path, err);
    kq_factor_part_free(c->part);
    c->part = NULL;
    return status ? status : kq_job_seal(path, err);
}

static int sweep_progress(void *ctx, const char *stage, double fraction)
{
    const kq_common *c = &((calibrator *)ctx)->p.opt->common;
    return c->progress ? c->progress(c->ctx, stage, fraction, NULL) : 0;
}

static kq_status gather(calibrator *c, const char *out_file, const char *settings, size_t *bytes, kq_error *err)
{
    const size_t L = c->p.cfg->n_layer;
    char **parts = kq_calloc(L, sizeof *parts);
    size_t n = 0;
    kq_status status = parts ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", out_file);
    for (size_t l = 0; l < L && !status; l++) {
        char path[4400];
        part_path(c, l, path);
        if (c->p.wanted[l] && !(parts[n++] = strdup(path)))
            status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", out_file);
    }
    if (!status)
        status = kq_factors_gather(out_file, parts, n, settings, c->p.opt->shard_size, bytes, err);
    for (size_t i = 0; i < n; i++)
        free(parts[i]);
    kq_free(parts);
    return status;
}

/* A factor file is there: it must be what these settings would have made. */
static kq_status check_complete(const char *path, const json_t *settings, kq_error *err)
{
    kq_factor_file *f;
    kq_status status = kq_factor_file_open(path, &f, err);
    if (status)
        return status;
    json_t *there = json_loads(kq_factor_file_settings(f), JSON_REJECT_DUPLICATES, NULL);
    if (!json_equal(there, settings))
        status = kq_fail(err, KQ_E_MISMATCH, "%s: the factors there were made with other settings; choose another output or remove it", path);
    json_decref(there);
    kq_factor_file_close(f);
    return status;
}

kq_status kq_calibrate(const char *model, const char *out_file, const kq_quantize_options *opt, bool factor_bf16, char **report_json, kq_error *err)
{
    calibrator c = {.job.lock = -1, .bf16 = factor_bf16};
    json_t *settings = NULL, *report = NULL;
    char *text = NULL, work[4300];
    kq_sweep_report sr = {.nll = NAN};
    const double start = kq_now_s();
    size_t memory, disk, bytes = 0;
    if (report_json)
        *report_json = NULL;
    kq_status status = kq_prepare(model, opt, true, &c.p, err);
    if (!status && c.p.factor.method == KQ_NONE)
        status = kq_fail(err, KQ_E_ARG, "--method none has no factors to calibrate; quantize with it directly");
    if (!status)
        status = kq_prepare_fingerprint(&c.p, err);
    if (status)
        goto out;
    if (!(settings = kq_prepare_settings(&c.p, err)) || !(c.modules = json_object())) {
        status = KQ_E_MEMORY;
        goto out;
    }
    json_object_set_new(settings, "only", json_string(opt->only ? opt->only : ""));
    json_object_set_new(settings, "factor_dtype", json_string(factor_bf16 ? "bf16" : "f32"));
    text = json_dumps(settings, JSON_COMPACT | JSON_SORT_KEYS);
    if (!text || snprintf(work, sizeof work, "%s.work", out_file) >= (int)sizeof work) {
        status = kq_fail(err, KQ_E_ARG, "%s: the path is too long", out_file);
        goto out;
    }
    if ((status = kq_job_open(out_file, work, text, opt->resume, &c.job, err)))
        goto out;
    if (c.job.complete) {
        if ((status = check_complete(out_file, settings, err)))
            goto out;
        if (opt->common.progress)
            opt->common.progress(opt->common.ctx, NULL, 0, "the factors are complete already");
        kq_job_finish(&c.job);
        if (report_json && !(*report_json = strdup("{\"complete\": true}")))
            status = kq_fail(err, KQ_E_MEMORY, "out of memory: the report");
        goto out;
    }
    if ((status = kq_job_check_parts(&c.job, "factors", c.p.cfg->n_layer, err)) || (status = kq_prepare_ids(&c.p, &c.job, err)))
        goto out;
    kq_sweep s = kq_prepare_sweep(&c.p, &c.job);
    s.ctx = &c;
    s.done = block_done;
    s.linear = keep;
    s.block = finish_block;
    s.progress = sweep_progress;
    kq_plan_resources(&c.p, false, &memory, &disk);
    if ((status = kq_sweep_run(&s, &sr, err)) || (status = gather(&c, out_file, text, &bytes, err)))
        goto out;
    kq_job_finish(&c.job);
    report = json_pack("{s:I, s:f, s:{s:f, s:f, s:f, s:f}, s:I, s:I, s:O, s:O}", "file_bytes", (json_int_t)bytes, "calibration_nll", isfinite(sr.nll) ? sr.nll : 0.0, "seconds", "forward",
                       sr.forward_s, "backward", sr.backward_s, "factors", sr.factor_s, "total", kq_now_s() - start, "peak_rss_bytes",
                       (json_int_t)kq_peak_rss_bytes(), "planned_bytes", (json_int_t)memory, "settings", settings, "modules", c.modules);
    if (report_json && (!report || !(*report_json = json_dumps(report, JSON_INDENT(1) | JSON_REAL_PRECISION(8)))))
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: the report");
out:
    kq_factor_part_free(c.part);
    kq_job_close(&c.job);
    kq_prepared_free(&c.p);
    json_decref(settings);
    json_decref(report);
    json_decref(c.modules);
    free(text);
    return status;
}
