/* One row: quantize, measure, write the figures down. The report of the quantization is kept beside the
 * checkpoint, so that a run that dies while it measures need not quantize again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/time.h"
#include "checkpoint/checkpoint.h"
#include "compare/compare.h"
#include "quant/bits.h"

typedef struct row {
    const kq_cmp *c;
    const kq_cmp_row *r;
    kq_common common;   /* with the row's seed */
    char *model, *made; /* owned: paths of the checkpoint, and of the report of its making */
    json_t *report, *o; /* owned: that report; the row's own */
    double evaluation_s, evaluation_peak; /* peak 0: unknown */
} row;

static json_t *or_null(json_t *v)
{
    return v ? json_incref(v) : json_null();
}

static kq_status parse(char *text, json_t **out, kq_error *err)
{
    *out = json_loads(text, 0, NULL);
    free(text);
    return *out ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: a report");
}

/* Does the checkpoint's folder hold a whole one? A config.json is written last. */
static bool is_whole(const row *w)
{
    return kq_exists_in(w->model, "config.json");
}

/* kq_quantize, with its report. What a row of the same name with other settings left behind is removed first.
 * *whole: nothing of it was done by an earlier, interrupted run. */
static kq_status quantize(row *w, const kq_quantize_options *opt, bool *whole, kq_error *err)
{
    char *text = NULL;
    *whole = !kq_path_exists(w->model);
    kq_status status = kq_quantize(w->c->model, w->model, opt, &text, err);
    if (status == KQ_E_MISMATCH && !*whole && !(status = kq_remove_tree(w->model, err))) {
        *whole = true;
        status = kq_quantize(w->c->model, w->model, opt, &text, err);
    }
    return status ? status : parse(text, &w->report, err);
}

/* The checkpoint, and the report of its making beside it; both are taken as they are when they are whole. */
static kq_status make_model(row *w, kq_error *err)
{
    kq_quantize_options opt = w->r->opt;
    kq_status status = KQ_OK;
    char *factors = NULL;
    bool whole = true;
    if (is_whole(w)) {
        if (kq_path_exists(w->made))
            return kq_cmp_load(w->made, &w->report, err);
        if ((status = kq_remove_tree(w->model, err))) /* died before its report was written */
            return status;
    }
    if (w->r->factors >= 0)
        status = kq_cmp_path(&factors, w->c->dir, "factors", w->c->factors[w->r->factors].name,
                             ".safetensors", err);
    opt.factors = factors;
    opt.common = w->common;
    opt.tune = "none"; /* rows compare roundings; what tuning adds would hide how they differ */
    opt.sequential = "none";
    const bool peak = kq_peak_rss_reset();
    if (!status)
        status = quantize(w, &opt, &whole, err);
    kq_free(factors);
    if (status)
        return status;
    if (!whole)
        json_object_set_new(json_object_get(w->report, "seconds"), "rounding", json_null());
    if (!whole || !peak)
        json_object_set_new(w->report, "peak_rss_bytes", json_null());
    return kq_cmp_store(w->made, w->report, err);
}

static kq_status measure_text(row *w, const char *text_file, kq_error *err)
{
    kq_eval_text_options opt = kq_eval_text_defaults();
    char *text, *cache;
    json_t *r;
    kq_status status = kq_cmp_path(&cache, w->c->dir, NULL, "reference", "", err);
    opt.common = w->common;
    opt.ctx = w->c->opt->ctx;
    opt.chunks = w->c->opt->chunks;
    opt.memory = w->c->opt->memory;
    opt.cache = cache;
    opt.reading = w->c->opt->reading;
    if (!status)
        status = kq_eval_text(w->model, w->c->model, text_file, &opt, &text, err);
    kq_free(cache);
    if (status || (status = parse(text, &r, err)))
        return status;
    static const char *const key[] = {"ctx",
                                      "windows",
                                      "tokens",
                                      "nll",
                                      "nll_stderr",
                                      "nll_stderr_windows",
                                      "ppl",
                                      "ppl_stderr",
                                      "kld",
                                      "kld_stderr",
                                      "kld_stderr_windows",
                                      "top1",
                                      "top1_stderr",
                                      "reference_nll",
                                      "reference_ppl"};
    json_t *o = json_pack("{s:s}", "text", kq_text_name(text_file));
    for (size_t i = 0; i < sizeof key / sizeof *key; i++)
        json_object_set_new(o, key[i], or_null(json_object_get(r, key[i])));
    json_object_set_new(o, "loss_rise", or_null(json_object_get(r, "ln_ppl_ratio")));
    json_object_set_new(o, "loss_rise_stderr", or_null(json_object_get(r, "ln_ppl_ratio_stderr")));
    json_decref(r);
    return json_array_append_new(json_object_get(w->o, "texts"), o)
               ? kq_fail(err, KQ_E_MEMORY, "out of memory: the row")
               : KQ_OK;
}

/* Accuracies of a model on all tasks: {"arc_easy": {"acc", "acc_stderr", ...}}. */
static kq_status measure_tasks(const kq_cmp *c, const char *model, const kq_common *common, json_t **out,
                               kq_error *err)
{
    static const char *const key[] = {"acc", "acc_stderr", "acc_norm", "acc_norm_stderr"};
    kq_eval_tasks_options opt = kq_eval_tasks_defaults();
    char *text;
    const char *name;
    json_t *r, *task;
    *out = NULL;
    opt.common = *common;
    opt.limit = c->opt->limit;
    opt.memory = c->opt->memory;
    kq_status status = kq_eval_tasks(model, c->opt->tasks, c->opt->n_tasks, &opt, &text, err);
    if (status || (status = parse(text, &r, err)))
        return status;
    *out = json_object();
    json_object_foreach(json_object_get(r, "results"), name, task) {
        json_t *o = json_object();
        for (size_t i = 0; i < sizeof key / sizeof *key; i++) {
            char long_key[40];
            snprintf(long_key, sizeof long_key, "%s,none", key[i]);
            if (json_is_number(json_object_get(task, long_key)))
                json_object_set(o, key[i], json_object_get(task, long_key));
        }
        json_object_set_new(*out, name, o);
    }
    json_decref(r);
    return KQ_OK;
}

/* MODEL's own accuracies, once. */
static kq_status reference_tasks(const row *w, kq_error *err)
{
    char *path;
    json_t *tasks = NULL;
    kq_status status = kq_cmp_path(&path, w->c->dir, "reference", "tasks", ".json", err);
    if (!status && !kq_path_exists(path) &&
        !(status = measure_tasks(w->c, w->c->model, &w->common, &tasks, err)))
        status = kq_cmp_store(path, tasks, err);
    json_decref(tasks);
    kq_free(path);
    return status;
}

static kq_status measure(row *w, kq_error *err)
{
    const kq_compare_options *o = w->c->opt;
    kq_status status = KQ_OK;
    if (o->n_tasks)
        status = reference_tasks(w, err);
    const bool peak = kq_peak_rss_reset();
    const double start = kq_now_s();
    for (size_t i = 0; i < o->n_text && !status; i++)
        status = measure_text(w, o->text[i], err);
    if (!status && o->n_tasks) {
        json_t *tasks;
        if (!(status = measure_tasks(w->c, w->model, &w->common, &tasks, err)))
            json_object_set_new(w->o, "tasks", tasks);
    }
    w->evaluation_s = kq_now_s() - start;
    w->evaluation_peak = peak ? (double)kq_peak_rss_bytes() : 0;
    return status;
}

/* What is known of the factors: seconds and peak of their calibration. */
static kq_status add_calibration(row *w, json_t *seconds, json_t *peak, kq_error *err)
{
    json_t *f = NULL;
    if (w->r->factors < 0) {
        json_object_set_new(seconds, "calibration", json_real(0));
        json_object_set_new(seconds, "factors", json_real(0));
        json_object_set_new(peak, "calibration", json_null());
        return KQ_OK;
    }
    const char *name = w->c->factors[w->r->factors].name;
    char *path;
    kq_status status = kq_cmp_path(&path, w->c->dir, "factors", name, ".json", err);
    if (!status)
        status = kq_cmp_load(path, &f, err);
    kq_free(path);
    if (status)
        return status;
    const json_t *s = json_object_get(f, "seconds");
    json_object_set_new(seconds, "calibration", or_null(json_object_get(s, "calibration")));
    json_object_set_new(seconds, "factors", or_null(json_object_get(s, "factors")));
    json_object_set_new(peak, "calibration", or_null(json_object_get(f, "peak_rss_bytes")));
    json_object_set_new(w->o, "factors", json_string(name));
    json_decref(f);
    return KQ_OK;
}

static kq_status write_row(row *w, kq_error *err)
{
    static const char *const key[] = {
        "file_bytes",        "bpw",          "bpw_file",       "quantized_modules",
        "quantized_weights", "relative_mse", "predicted_loss", "modules"};
    json_t *seconds = json_object(), *peak = json_object();
    for (size_t i = 0; i < sizeof key / sizeof *key; i++)
        json_object_set_new(w->o, key[i], or_null(json_object_get(w->report, key[i])));
    json_object_set_new(w->o, "seconds", seconds);
    json_object_set_new(w->o, "peak_rss_bytes", peak);
    kq_status status = add_calibration(w, seconds, peak, err);
    json_object_set_new(seconds, "rounding",
                        or_null(json_object_get(json_object_get(w->report, "seconds"), "rounding")));
    json_object_set_new(seconds, "evaluation", json_real(w->evaluation_s));
    json_object_set_new(peak, "rounding", or_null(json_object_get(w->report, "peak_rss_bytes")));
    json_object_set_new(peak, "evaluation",
                        w->evaluation_peak > 0 ? json_real(w->evaluation_peak) : json_null());
    return status ? status : kq_cmp_store_in(w->c->dir, "rows", w->r->name, w->o, err);
}

kq_status kq_cmp_row_run(const kq_cmp *c, const kq_cmp_row *r, const kq_common *common, kq_error *err)
{
    row w = {.c = c, .r = r, .common = *common};
    const kq_calibration *cal = &r->opt.calibration;
    w.common.seed = r->opt.common.seed;
    kq_status status = kq_cmp_path(&w.model, c->dir, "models", r->name, "", err);
    if (!status)
        status = kq_cmp_path(&w.made, c->dir, "models", r->name, ".json", err);
    if (!status &&
        !(w.o = json_pack("{s:i, s:s, s:s, s:s, s:s, s:o, s:I, s:o, s:O, s:[]}", "format", 1, "kronq",
                          kq_version(), "row", r->name, "spec", r->spec, "method", cal->method, "bits",
                          kq_bits_number(r->opt.bits), "seed", (json_int_t)r->opt.common.seed, "tokens",
                          r->factors < 0
                              ? json_null()
                              : json_integer((json_int_t)(cal->tokens / cal->seq_len * cal->seq_len)),
                          "settings", r->settings, "texts")))
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: the row");
    if (!status && !(status = make_model(&w, err)) && !(status = measure(&w, err)) &&
        !(status = write_row(&w, err)))
        status = kq_cmp_row_tidy(c, r, err);
    json_decref(w.report);
    json_decref(w.o);
    kq_free(w.model);
    kq_free(w.made);
    return status;
}

kq_status kq_cmp_row_tidy(const kq_cmp *c, const kq_cmp_row *r, kq_error *err)
{
    char *model, *made = NULL;
    kq_status status = kq_cmp_path(&model, c->dir, "models", r->name, "", err);
    if (!status)
        status = kq_cmp_path(&made, c->dir, "models", r->name, ".json", err);
    if (!status && kq_path_exists(made)) {
        if (!c->opt->keep_models)
            status = kq_remove_tree(model, err);
        if (!status) /* last: while the report is there, this is still to be done */
            status = kq_remove_tree(made, err);
    }
    kq_free(model);
    kq_free(made);
    return status;
}
