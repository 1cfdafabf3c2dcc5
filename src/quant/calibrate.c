/* kq_calibrate: only the factors, into a file. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/locale.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/time.h"
#include "quant/block_note.h"
#include "quant/check.h"
#include "factors/file.h"
#include "factors/lacks.h"
#include "quant/plan.h"
#include "quant/prepare.h"

/* One file of factors in the making. */
typedef struct calibrator {
    const char *out_file;
    kq_quantize_options opt; /* the call's, with this estimate's calibration */
    kq_prepared p;
    kq_job job;
    kq_factor_part *part; /* of the block at work, owned */
    kq_block_note note;   /* of the same */
    bool bf16;
    json_t *settings, *modules; /* reports of this run; owned */
    char *text;                 /* the settings as text, owned */
    char work[4300];            /* its work folder */
    uint32_t *seq;              /* which of the pass's sequences it takes, owned */
    size_t bytes;
} calibrator;

/* One pass over the text, for all of them. */
typedef struct calibration {
    calibrator *c; /* [n], owned */
    size_t n;
    kq_job job;          /* of the pass, when it is not that of a single estimate */
    size_t memory, disk; /* planned, as the way */
    kq_gradient_way way;
} calibration;

static void part_path(const calibrator *c, size_t layer, char path[4400])
{
    kq_job_path(&c->job, "factors", layer, "safetensors", path);
}

static bool block_done(void *ctx, size_t layer)
{
    const calibration *all = ctx;
    for (size_t i = 0; i < all->n; i++)
        if (!all->c[i].job.complete && !kq_job_part_done(&all->c[i].job, "factors", layer))
            return false;
    return true;
}

static kq_status keep(void *ctx, size_t layer, kq_linear_id id, const float *H_in, const float *H_out,
                      const kq_factor_report *r, kq_error *err)
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
    json_t *trace = json_array();
    for (int i = 0; i < r->n_trace; i++)
        json_array_append_new(trace, json_pack("[i,f]", r->trace[i].products, r->trace[i].residual));
    json_object_set_new(c->modules, name,
                        json_pack("{s:i, s:f, s:f, s:f, s:f, s:o, s:b, s:f, s:f, s:f}", "products",
                                  r->products, "sigma1", r->sigma1, "sigma2", r->sigma2, "sigma2_residual",
                                  r->sigma2_residual, "residual", r->residual, "trace", trace, "converged",
                                  r->converged, "trace_product", r->trace_product, "seconds", r->seconds,
                                  "flop", r->flop));
    if (r->lack)
        json_object_set_new(json_object_get(c->modules, name), "identity",
                            json_string(kq_lack_name(r->lack)));
    kq_block_note_factors(&c->note, r, kq_method_iterates(c->p.factor.method));
    c->note.seconds += r->seconds;
    return kq_progress_ask(&c->p.opt->common, name, err);
}

static kq_status finish_block(void *ctx, size_t layer, kq_error *err)
{
    calibration *all = ctx;
    kq_status status = KQ_OK;
    for (size_t i = 0; i < all->n && !status; i++) {
        calibrator *c = &all->c[i];
        char path[4400];
        if (c->job.complete)
            continue;
        part_path(c, layer, path);
        status = kq_factor_part_write(c->part, path, err);
        kq_factor_part_free(c->part);
        c->part = NULL;
        if (!status)
            status = kq_job_seal(path, err);
        if (!status)
            status = kq_block_note_give(&c->note, layer, &c->p.opt->common, err);
    }
    return status;
}

static kq_status gather(calibrator *c, kq_error *err)
{
    char **parts;
    size_t n;
    kq_status status = kq_prepared_parts(&c->p, &c->job, "factors", &parts, &n, err);
    kq_lacks lacks = {0};
    for (size_t i = 0; i < n && !status; i++)
        status = kq_factor_part_lacks(parts[i], &lacks, err);
    if (!status)
        kq_lacks_warn(&lacks);
    if (!status)
        status = kq_factors_gather(c->out_file, parts, n, c->text, c->p.opt->shard_size, &c->bytes, err);
    kq_prepared_free_parts(parts, n);
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
        status = kq_fail(
            err, KQ_E_MISMATCH,
            "%s: the factors there were made with other settings; choose another output or remove it", path);
    json_decref(there);
    kq_factor_file_close(f);
    return status;
}

/* What the estimate needs, and its settings; changes nothing on disk. first: the estimate before it,
 * whose fingerprint of the model serves again; or NULL. */
static kq_status prepare_estimate(calibrator *c, const char *model, const calibrator *first, kq_error *err)
{
    kq_status status = KQ_OK;
    if (snprintf(c->work, sizeof c->work, "%s.work", c->out_file) >= (int)sizeof c->work)
        status = kq_fail(err, KQ_E_ARG, "%s: the path is too long", c->out_file);
    else if (kq_path_is_dir(c->out_file))
        status = kq_fail(err, KQ_E_ARG, "%s: is a folder, expected the name of a file to write", c->out_file);
    if (status || (status = kq_job_look(c->out_file, c->work, c->opt.resume, err)) ||
        (status = kq_prepare(model, &c->opt, true, &c->p, err)))
        return status;
    if (c->p.factor.method == KQ_NONE)
        return kq_fail(err, KQ_E_ARG, "--method none has no factors to calibrate; quantize with it directly");
    if (first)
        memcpy(c->p.fingerprint, first->p.fingerprint, sizeof c->p.fingerprint);
    else if ((status = kq_prepare_fingerprint(&c->p, err)))
        return status;
    if (!(c->settings = kq_prepare_settings(&c->p, err)) || !(c->modules = json_object()))
        return KQ_E_MEMORY;
    json_object_set_new(c->settings, "only", json_string(c->opt.only ? c->opt.only : ""));
    json_object_set_new(c->settings, "factor_dtype", json_string(c->bf16 ? "bf16" : "f32"));
    c->text = json_dumps(c->settings, JSON_COMPACT | JSON_SORT_KEYS);
    return c->text ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: settings");
}

/* Its work folder, and whether it is done already. */
static kq_status open_estimate(calibrator *c, kq_error *err)
{
    kq_status status = kq_job_open(c->out_file, c->work, c->text, c->opt.resume, c->opt.fresh, &c->job, err);
    if (status)
        return status;
    if (!c->job.complete)
        return kq_job_check_parts(&c->job, "factors", c->p.cfg->n_layer, err);
    if ((status = check_complete(c->out_file, c->settings, err)) ||
        (status = kq_progress_note(&c->opt.common, "the factors are complete already", err)))
        return status;
    kq_job_finish(&c->job);
    return KQ_OK;
}

/* The folder of a pass that serves several files; its settings are all of theirs. Nothing left: what a
 * process that died between the last file and the clean-up may have left behind is taken over, to be
 * removed. */
static kq_status open_pass(calibration *all, bool left, kq_error *err)
{
    char work[4300], never[4400];
    json_t *list = json_array(), *settings = json_pack("{s:o}", "estimates", list);
    for (size_t i = 0; i < all->n; i++)
        json_array_append(list, all->c[i].settings);
    char *text = settings ? json_dumps(settings, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    kq_status status = KQ_OK;
    if (!text)
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", all->c->out_file);
    else if (snprintf(work, sizeof work, "%s.pass", all->c->out_file) >= (int)sizeof work)
        status = kq_fail(err, KQ_E_ARG, "%s: the path is too long", all->c->out_file);
    if (!status) {
        /* nothing of that name is ever written: the files themselves say what is done */
        snprintf(never, sizeof never, "%s/complete", work);
        status = kq_job_open(left ? never : all->c->out_file, work, text, all->c->opt.resume,
                             all->c->opt.fresh, &all->job, err);
    }
    free(text);
    json_decref(settings);
    return status;
}

/* What the pass yields for each file that is not there yet: [n] estimates, in *out. */
static kq_status make_estimates(calibration *all, const kq_windows *windows, kq_sweep_estimate *out,
                                size_t *n, kq_error *err)
{
    *n = 0;
    for (size_t i = 0; i < all->n; i++) {
        calibrator *c = &all->c[i];
        if (c->job.complete)
            continue;
        out[*n] = c->p.estimate;
        out[*n].ctx = c;
        if (c->p.n_seq < windows->n) {
            kq_status status = kq_alloc_for((void **)&c->seq, c->p.n_seq, sizeof *c->seq,
                                            "the sequences of an estimate", err);
            if (status)
                return status;
            kq_windows_pick(windows, c->p.n_seq, c->seq);
            out[*n].seq = c->seq;
        }
        ++*n;
    }
    return KQ_OK;
}

static json_t *report_of(const calibrator *c)
{
    if (c->job.complete)
        return json_pack("{s:s, s:b}", "file", c->out_file, "complete", true);
    return json_pack("{s:s, s:I, s:O, s:O}", "file", c->out_file, "file_bytes", (json_int_t)c->bytes,
                     "settings", c->settings, "modules", c->modules);
}

static kq_status write_report(const calibration *all, const kq_sweep_report *sr, double start, char **out,
                              kq_error *err)
{
    json_t *report, *list = json_array();
    if (all->n == 1 && all->c->job.complete) {
        report = json_pack("{s:b}", "complete", true);
    } else {
        report = json_pack("{s:f, s:{s:f, s:f, s:f, s:f}, s:I, s:I, s:s}", "calibration_nll",
                           isfinite(sr->nll) ? sr->nll : 0.0, "seconds", "forward", sr->forward_s, "backward",
                           sr->backward_s, "factors", sr->factor_s, "total", kq_now_s() - start,
                           "peak_rss_bytes", (json_int_t)kq_peak_rss_bytes(), "planned_bytes",
                           (json_int_t)all->memory, "gradients", kq_gradient_way_name(all->way));
        kq_prepare_report_texts(&all->c->p, report);
        if (all->n == 1) {
            json_t *one = report_of(all->c);
            json_object_del(one, "file");
            json_object_update(report, one);
            json_decref(one);
        }
    }
    for (size_t i = 0; i < all->n; i++)
        json_array_append_new(list, report_of(&all->c[i]));
    if (all->n > 1)
        json_object_set(report, "estimates", list);
    json_decref(list);
    *out = report ? json_dumps(report, JSON_INDENT(1) | JSON_REAL_PRECISION(8)) : NULL;
    json_decref(report);
    return *out ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: the report");
}

/* Where the gradients go. The factors of a block are kept, as they will be in the file, until it is
 * complete. */
static kq_status plan_sweep(calibration *all, kq_sweep *s, const char *dir, kq_error *err)
{
    const kq_prepared *p = &all->c->p;
    size_t all_bytes = 0, block_bytes = 0;
    kq_plan_kept_factors(p, &block_bytes, &all_bytes);
    const size_t halves = all->c->bf16 ? 1 : 2;
    s->receiver_kept = s->n_estimates * (block_bytes / 2 * halves);
    kq_status status =
        kq_plan_settle(p, s, dir, s->n_estimates * all_bytes * halves, &all->memory, &all->disk, err);
    if (!status && !p->opt->resume)
        status = kq_check_disk(dir, all->disk, err);
    all->way = s->way;
    return status;
}

/* The same, and a line about it. */
static kq_status plan_pass(calibration *all, kq_sweep *s, const kq_job *job, kq_error *err)
{
    const kq_prepared *p = &all->c->p;
    char line[400], words[160], memory[32], disk[32];
    kq_status status = plan_sweep(all, s, job->work_dir, err);
    if (status)
        return status;
    snprintf(line, sizeof line, "factors of %zu modules; about %s of memory and %s of disk while it runs%s",
             p->n_wanted, kq_bytes_text((double)all->memory, memory), kq_bytes_text((double)all->disk, disk),
             kq_plan_words(p, s, words));
    return kq_progress_note(&p->opt->common, line, err);
}

/* What can be refused before any folder is made: the weights, the texts, the memory. */
static kq_status check_pass(calibration *all, kq_error *err)
{
    size_t *counts = NULL, n = 0, most = 0;
    kq_sweep_estimate *estimates = NULL;
    kq_prepared *p = &all->c->p;
    bool left = false;
    for (size_t i = 0; i < all->n; i++)
        left = left || !kq_path_exists(all->c[i].out_file);
    if (!left)
        return KQ_OK;
    kq_status status = kq_alloc_for((void **)&counts, all->n, sizeof *counts, "calibration", err);
    if (!status)
        status = kq_alloc_for((void **)&estimates, all->n, sizeof *estimates, "calibration", err);
    for (size_t i = 0; i < all->n && !status; i++) {
        counts[i] = all->c[i].p.n_seq;
        most = counts[i] > most ? counts[i] : most;
        if (!kq_path_exists(all->c[i].out_file))
            estimates[n++] = all->c[i].p.estimate;
    }
    if (!status && !(status = kq_check_inputs(p, NULL, false, counts, all->n, err))) {
        kq_sweep s = kq_prepare_sweep(p, NULL);
        s.n_seq = p->windows.n ? p->windows.n : most;
        s.estimates = estimates;
        s.n_estimates = n;
        status = plan_sweep(all, &s, all->c->work, err);
    }
    kq_free(counts);
    kq_free(estimates);
    return status;
}

/* The pass itself, over every window that one of the files needs. */
static kq_status run_pass(calibration *all, kq_sweep_report *sr, kq_error *err)
{
    kq_job *job = all->n > 1 ? &all->job : &all->c->job;
    kq_prepared *p = &all->c->p;
    size_t *counts = NULL, n = 0;
    kq_sweep_estimate *estimates = NULL;
    kq_status status = kq_alloc_for((void **)&counts, all->n, sizeof *counts, "calibration", err);
    if (!status)
        status = kq_alloc_for((void **)&estimates, all->n, sizeof *estimates, "calibration", err);
    for (size_t i = 0; i < all->n && !status; i++)
        counts[i] = all->c[i].p.n_seq;
    if (!status)
        status = kq_prepare_windows(p, job, counts, all->n, err);
    if (!status)
        status = make_estimates(all, &p->windows, estimates, &n, err);
    if (!status) {
        kq_sweep s = kq_prepare_sweep(p, job);
        s.n_seq = p->windows.n;
        s.estimates = estimates;
        s.n_estimates = n;
        s.ctx = all;
        s.done = block_done;
        s.linear = keep;
        s.block = finish_block;
        status = plan_pass(all, &s, job, err);
        if (!status)
            status = kq_sweep_run(&s, sr, err);
    }
    kq_free(counts);
    kq_free(estimates);
    return status;
}

kq_status kq_calibrate_all(const char *model, const kq_estimate *estimates, size_t n,
                           const kq_quantize_options *opt, bool factor_bf16, char **report_json,
                           kq_error *err)
{
    KQ_C_LOCALE;
    calibration all = {.job.lock = -1};
    kq_sweep_report sr = {.nll = NAN};
    const double start = kq_now_s();
    bool left = false;
    kq_progress guard;
    const kq_common common = kq_progress_guard(&opt->common, &guard);
    if (report_json)
        *report_json = NULL;
    if (!n)
        return kq_fail(err, KQ_E_ARG, "calibration of nothing");
    if (!(all.c = kq_calloc(n, sizeof *all.c)))
        return kq_fail(err, KQ_E_MEMORY, "out of memory: calibration");
    kq_status status = KQ_OK;
    for (size_t i = 0; i < n && !status; i++) {
        calibrator *c = &all.c[all.n++];
        *c =
            (calibrator){.out_file = estimates[i].out_file, .opt = *opt, .bf16 = factor_bf16, .job.lock = -1};
        c->opt.common = common;
        c->opt.calibration = estimates[i].calibration;
        /* what one pass has in common */
        c->opt.calibration.text = opt->calibration.text;
        c->opt.calibration.n_text = opt->calibration.n_text;
        c->opt.calibration.reading = opt->calibration.reading;
        c->opt.calibration.seq_len = opt->calibration.seq_len;
        if (kq_method_parse(c->opt.calibration.method, &c->p.factor.method, NULL) == KQ_OK &&
            !kq_method_needs_gradients(c->p.factor.method)) {
            c->opt.calibration.sampled_labels = false;
            c->opt.calibration.draws = 1;
        } else {
            c->opt.calibration.sampled_labels = opt->calibration.sampled_labels;
            c->opt.calibration.draws = opt->calibration.draws;
        }
        status = prepare_estimate(c, model, i ? all.c : NULL, err);
    }
    if (!status)
        status = check_pass(&all, err);
    for (size_t i = 0; i < n && !status; i++) {
        status = open_estimate(&all.c[i], err);
        left = left || !all.c[i].job.complete;
    }
    if (!status && n > 1)
        status = open_pass(&all, left, err);
    if (!status && left)
        status = run_pass(&all, &sr, err);
    for (size_t i = 0; i < n && !status; i++)
        if (!all.c[i].job.complete)
            status = gather(&all.c[i], err);
    if (!status && report_json)
        status = write_report(&all, &sr, start, report_json, err);
    if (!status)
        kq_job_finish(&all.job);
    kq_job_close(&all.job);
    for (size_t i = 0; i < all.n; i++) {
        calibrator *c = &all.c[i];
        if (!status && !c->job.complete)
            kq_job_finish(&c->job);
        kq_factor_part_free(c->part);
        kq_job_close(&c->job);
        kq_prepared_free(&c->p);
        json_decref(c->settings);
        json_decref(c->modules);
        free(c->text);
        kq_free(c->seq);
    }
    kq_free(all.c);
    return status;
}

kq_status kq_calibrate(const char *model, const char *out_file, const kq_quantize_options *opt,
                       bool factor_bf16, char **report_json, kq_error *err)
{
    const kq_estimate one = {.out_file = out_file, .calibration = opt->calibration};
    return kq_calibrate_all(model, &one, 1, opt, factor_bf16, report_json, err);
}
