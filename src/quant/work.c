/* The frame of long work: the steps that every receiver goes through, in their one order (work.h).
 *
 * The order is part of what users rely on: everything that can be refused is refused before a folder is made,
 * and a refusal leaves nothing behind. */
#include "quant/work.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/locale.h"
#include "base/mem.h"
#include "base/options.h"
#include "base/progress.h"
#include "base/text.h"
#include "base/time.h"
#include "prepare/check.h"
#include "prepare/plan.h"
#include "prepare/sequences.h"
#include "quant/rows.h"
#include "sweep/seal.h"

/* ---- prepare ---- */

static kq_status locate_file(kq_output *o, kq_error *err)
{
    if (kq_path_is_dir(o->name))
        return kq_fail(err, KQ_E_ARG, "%s: is a folder, expected the name of %s to write", o->name,
                       o->work->receiver->result);
    kq_status status = kq_format(&o->done_path, err, "%s", o->name);
    return status ? status : kq_format(&o->work_dir, err, "%s.work", o->name);
}

kq_status kq_work_open_source(kq_output *o, kq_error *err)
{
    kq_work *w = o->work;
    if (o > w->outputs) /* the same model: its tensors are read once */
        memcpy(o->p.fingerprint, w->outputs->p.fingerprint, sizeof o->p.fingerprint);
    kq_status status = kq_prepare_fingerprint(&o->p, err);
    if (status)
        return status;
    if (o->opt.factors)
        status = kq_from_factors_open(&o->p, &w->file, &o->settings, err);
    else if (!(o->settings = kq_prepare_settings(&o->p, err)))
        status = KQ_E_MEMORY;
    if (status)
        return status;
    w->predicts = kq_method_needs_gradients(o->p.factor.method);
    const json_int_t seq_len =
        json_integer_value(json_object_get(json_object_get(o->settings, "calibration"), "seq_len"));
    w->seq_len = seq_len > 0 ? (size_t)seq_len : 1;
    return KQ_OK;
}

kq_status kq_identify_by_settings(kq_output *o, kq_error *err)
{
    json_object_set_new(o->settings, "only", json_string(o->opt.only ? o->opt.only : ""));
    o->identity = json_dumps(o->settings, JSON_COMPACT | JSON_SORT_KEYS);
    return o->identity ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: settings");
}

static kq_status prepare_output(kq_output *o, kq_error *err)
{
    const kq_receiver *r = o->work->receiver;
    kq_status status;
    if (!o->work->planning) {
        if ((status = r->locate ? r->locate(o, err) : locate_file(o, err)) ||
            (status = kq_job_check_free(o->done_path, o->work_dir, o->opt.resume, err)))
            return status;
    }
    if ((status = kq_prepare(o->work->model, &o->opt, !o->opt.factors, &o->p, err)) ||
        (r->prepare && (status = r->prepare(o, err))) || o->work->planning)
        return status;
    status = kq_work_open_source(o, err);
    return status ? status : r->identify(o, err);
}

static kq_status prepare(kq_work *w, kq_error *err)
{
    kq_status status = w->receiver->check ? w->receiver->check(&w->outputs->opt, err) : KQ_OK;
    for (size_t i = 0; i < w->n && !status; i++) {
        status = prepare_output(&w->outputs[i], err);
        w->counts[i] = w->outputs[i].p.n_seq;
    }
    return status;
}

/* ---- check ---- */

/* Is the output there? Before its folder is opened the file says so, afterwards the job. */
static bool is_there(const kq_output *o)
{
    return o->job.complete || (o->job.lock < 0 && o->done_path && kq_path_exists(o->done_path));
}

static bool anything_left(const kq_work *w)
{
    for (size_t i = 0; i < w->n; i++)
        if (!is_there(&w->outputs[i]))
            return true;
    return false;
}

static bool wants_rows(const kq_output *o)
{
    return o->work->receiver->wants_rows && o->work->receiver->wants_rows(o) &&
           kq_method_needs_gradients(o->p.factor.method);
}

/* What the sweep calls with a factor of the vocabulary's rows. */
static kq_status take_rows(void *ctx, bool head, const float *H_in, kq_error *err)
{
    kq_output *o = ctx;
    return o->job.complete || !wants_rows(o) ? KQ_OK : kq_rows_keep_factor(o, head, H_in, err);
}

/* The sequences that an output looks at, when others look at more. */
static kq_status pick_sequences(kq_output *o, size_t n_seq, kq_error *err)
{
    const kq_windows *windows = &o->work->outputs->p.windows;
    if (o->seq || o->p.n_seq == n_seq)
        return KQ_OK;
    kq_status status =
        kq_alloc_for((void **)&o->seq, o->p.n_seq, sizeof *o->seq, "the sequences of an estimate", err);
    if (status)
        return status;
    if (windows->n)
        kq_windows_pick(windows, o->p.n_seq, o->seq);
    else /* the model writes the text, later: the first of its sequences */
        for (size_t i = 0; i < o->p.n_seq; i++)
            o->seq[i] = (uint32_t)i;
    return KQ_OK;
}

/* The sweep that makes what is not there yet, and what it takes on the disk of `dir` (NULL: any disk). */
static kq_status plan(kq_work *w, const char *dir, kq_error *err)
{
    const kq_prepared *p = &w->outputs->p;
    size_t n_seq = p->windows.n, n = 0;
    bool rows = false;
    for (size_t i = 0; i < w->n && !p->windows.n; i++)
        n_seq = w->counts[i] > n_seq ? w->counts[i] : n_seq;
    for (size_t i = 0; i < w->n; i++) {
        kq_output *o = &w->outputs[i];
        if (is_there(o))
            continue;
        kq_status status = pick_sequences(o, n_seq, err);
        if (status)
            return status;
        w->estimates[n] = o->p.estimate;
        w->estimates[n].seq = o->seq;
        w->estimates[n++].ctx = o;
        rows = rows || wants_rows(o);
    }
    w->sweep = kq_prepare_sweep(p, w->n > 1 ? &w->pass : &w->outputs->job);
    w->sweep.rows = rows ? take_rows : NULL;
    w->sweep.n_seq = n_seq;
    w->sweep.estimates = w->estimates;
    w->sweep.n_estimates = n;
    w->sweep.diagonal = w->receiver->stage.diagonal;
    kq_receiver_bytes bytes = {0};
    if (w->receiver->bytes)
        w->receiver->bytes(w, &bytes);
    w->sweep.receiver_peak = bytes.peak;
    w->sweep.receiver_kept = bytes.kept;
    kq_status status = kq_plan_settle(p, &w->sweep, dir, bytes.disk, &w->memory, &w->disk, err);
    return status || w->planning || p->opt->resume ? status : kq_check_disk(dir, w->disk, err);
}

/* What can be refused before any folder is made: the weights, the texts, the memory, the disk. */
static kq_status check(kq_work *w, kq_error *err)
{
    const kq_output *o = w->outputs;
    if (!anything_left(w))
        return KQ_OK;
    kq_status status = w->receiver->check_weights ? w->receiver->check_weights(o, err)
                                                  : kq_check_weights(&o->p, NULL, false, err);
    if (!status)
        status = kq_check_texts(&w->outputs->p, w->counts, w->n, err);
    return status ? status : plan(w, o->name, err);
}

/* ---- open and announce ---- */

static kq_status open_output(kq_output *o, kq_error *err)
{
    const kq_receiver *r = o->work->receiver;
    kq_status status =
        kq_job_open(o->done_path, o->work_dir, o->identity, o->opt.resume, o->opt.fresh, &o->job, err);
    if (status)
        return status;
    if (!o->job.complete) {
        status = r->opened ? r->opened(o, err) : KQ_OK;
        if (!status)
            status = kq_rows_check_parts(o, err);
        return status ? status
                      : kq_job_check_parts(&o->job, r->stage.stem, o->p.cfg->n_layer, r->stage.suffix, err);
    }
    if ((status = r->check_complete(o, err)) || (status = kq_progress_note(&o->opt.common, r->complete, err)))
        return status;
    kq_job_finish(&o->job); /* a process may have died between the last rename and the clean-up */
    return KQ_OK;
}

/* The folder of a sweep that serves several outputs; its settings are all of theirs. When nothing is left to
 * do, a folder that a process left behind when it died before the clean-up is taken over, to be removed. */
static kq_status open_pass(kq_work *w, bool left, kq_error *err)
{
    const kq_output *first = w->outputs;
    char *work_dir = NULL, *done_path = NULL, *text = NULL;
    json_t *list = json_array(), *settings = json_pack("{s:o}", "estimates", list);
    for (size_t i = 0; i < w->n; i++)
        json_array_append(list, w->outputs[i].settings);
    if (settings)
        text = json_dumps(settings, JSON_COMPACT | JSON_SORT_KEYS);
    kq_status status = text ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", first->name);
    if (!status)
        status = kq_format(&work_dir, err, "%s.pass", first->name);
    if (!status) /* no file of that name is ever written: the outputs themselves say what is done */
        status = left ? kq_path_in(&done_path, err, work_dir, "complete")
                      : kq_format(&done_path, err, "%s", first->name);
    if (!status)
        status = kq_job_open(done_path, work_dir, text, first->opt.resume, first->opt.fresh, &w->pass, err);
    kq_free(work_dir);
    kq_free(done_path);
    free(text);
    json_decref(settings);
    return status;
}

static kq_status open_folders(kq_work *w, kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t i = 0; i < w->n && !status; i++)
        status = open_output(&w->outputs[i], err);
    if (!status && w->n > 1)
        status = open_pass(w, anything_left(w), err);
    return status;
}

static kq_status announce(kq_work *w, kq_error *err)
{
    char line[480], what[160], words[160], memory[32], disk[32];
    if (!w->receiver->describe)
        return KQ_OK;
    w->receiver->describe(w, what);
    snprintf(line, sizeof line, "%s; about %s of memory and %s of disk while it runs%s", what,
             kq_bytes_text((double)w->memory, memory), kq_bytes_text((double)w->disk, disk),
             kq_plan_words(&w->outputs->p, &w->sweep, words));
    return kq_progress_note(&w->outputs->opt.common, line, err);
}

/* Token ids of the calibration into the sweep, when a sweep will run. */
static kq_status make_sequences(kq_work *w, kq_error *err)
{
    kq_output *first = w->outputs;
    if (w->file || !first->p.n_seq)
        return KQ_OK;
    kq_status status = kq_prepare_sequences(&first->p, w->sweep.job, w->counts, w->n, err);
    if (!status && w->receiver->sequences)
        status = w->receiver->sequences(first, err);
    w->sweep.ids = first->p.windows.ids;
    w->sweep.window = first->p.windows.number;
    return status;
}

/* ---- stage: what kq_sweep calls; its ctx is the kq_work, an estimate's is the kq_output ---- */

static bool block_done(void *ctx, size_t layer)
{
    const kq_work *w = ctx;
    for (size_t i = 0; i < w->n; i++) {
        const kq_output *o = &w->outputs[i];
        if (!o->job.complete &&
            (w->planning || !kq_job_part_done(&o->job, w->stage->stem, layer, w->stage->suffix)))
            return false;
    }
    return true;
}

static kq_status take_linear(void *ctx, size_t layer, kq_linear_id id, const float *H_in, const float *H_out,
                             const kq_factor_report *report, kq_error *err)
{
    kq_output *o = ctx;
    kq_linear_factors f = {.layer = layer, .id = id, .H_in = H_in, .H_out = H_out, .report = report};
    if (o->job.complete) /* another process finished it since the sweep was planned */
        return KQ_OK;
    kq_linear_name(f.name, sizeof f.name, layer, id);
    kq_linear_shape(o->p.cfg, id, &f.m, &f.n);
    return o->work->stage->linear(o, &f, err);
}

static kq_status write_block(kq_output *o, size_t layer, kq_error *err)
{
    const kq_stage *stage = o->work->stage;
    char *path;
    kq_status status = kq_job_path(&o->job, stage->stem, layer, stage->suffix, &path, err);
    if (!status)
        status = stage->block(o, layer, path, err);
    if (!status)
        status = kq_seal_write(path, err);
    kq_free(path);
    return status ? status : kq_block_note_give(&o->note, layer, &o->opt.common, err);
}

static kq_status finish_block(void *ctx, size_t layer, kq_error *err)
{
    kq_work *w = ctx;
    kq_status status = KQ_OK;
    for (size_t i = 0; i < w->n && !status && !w->planning; i++)
        if (!w->outputs[i].job.complete)
            status = write_block(&w->outputs[i], layer, err);
    return status;
}

kq_status kq_work_stage(kq_work *w, const kq_stage *stage, kq_error *err)
{
    const kq_prepared *p = &w->outputs->p;
    kq_sweep s = w->sweep;
    s.ctx = w;
    s.done = block_done;
    s.linear = take_linear;
    s.block = finish_block;
    w->stage = stage;
    if (!w->file)
        return kq_sweep_run(&s, &w->swept, err);
    const kq_sweep_estimate only = {.ctx = w->outputs}; /* a factor file serves one output */
    s.estimates = &only;
    s.n_estimates = 1;
    s.common = &p->opt->common;
    return kq_from_factors_run(p, w->file, &s, stage->doing, err);
}

/* ---- finish ---- */

static kq_status make_outputs(kq_work *w, kq_error *err)
{
    const kq_receiver *r = w->receiver;
    kq_status status = plan(w, w->outputs->name, err);
    if (status || (status = announce(w, err)) || (status = make_sequences(w, err)) ||
        (r->before && (status = r->before(w->outputs, err))) || (status = kq_work_stage(w, &r->stage, err)))
        return status;
    const double start = kq_now_s();
    for (size_t i = 0; i < w->n && !status; i++)
        if (!w->outputs[i].job.complete)
            status = r->finish(&w->outputs[i], err);
    w->save_s = kq_now_s() - start;
    return status;
}

static kq_status make_report(kq_work *w, char **out, kq_error *err)
{
    const bool complete = w->n == 1 && w->outputs->job.complete;
    json_t *report = complete ? json_pack("{s:b}", "complete", true) : NULL;
    kq_status status = complete ? KQ_OK : w->receiver->report(w, &report, err);
    char *text = NULL;
    if (!status && report) /* the short one on one line: {"complete": true} */
        text = json_dumps(report, complete ? 0 : JSON_INDENT(1) | JSON_REAL_PRECISION(8));
    if (!status && !text)
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: the report");
    json_decref(report);
    if (out)
        *out = text;
    else
        free(text);
    return status;
}

static void close_output(kq_output *o)
{
    if (o->work->receiver->close)
        o->work->receiver->close(o);
    kq_job_close(&o->job);
    kq_prepared_free(&o->p);
    json_decref(o->settings);
    free(o->identity);
    kq_free(o->done_path);
    kq_free(o->work_dir);
    kq_free(o->seq);
}

static void close_work(kq_work *w)
{
    kq_job_close(&w->pass);
    for (size_t i = 0; i < w->n; i++)
        close_output(&w->outputs[i]);
    kq_factor_file_close(w->file);
    kq_free(w->estimates);
    kq_free(w->counts);
}

/* One guard stands before the caller's progress function, for all outputs. */
static kq_status begin(kq_work *w, kq_error *err)
{
    w->common = w->outputs->opt.common;
    const kq_common common = kq_progress_guard(&w->common, &w->guard);
    w->start = kq_now_s();
    w->swept.nll = NAN;
    w->pass.lock = -1;
    for (size_t i = 0; i < w->n; i++) {
        kq_output *o = &w->outputs[i];
        o->work = w;
        o->job.lock = -1;
        o->opt.common = common;
        if (!w->receiver->takes_factors)
            o->opt.factors = NULL;
    }
    kq_status status = kq_alloc_for((void **)&w->counts, w->n, sizeof *w->counts, "the outputs", err);
    return status ? status
                  : kq_alloc_for((void **)&w->estimates, w->n, sizeof *w->estimates, "the outputs", err);
}

kq_status kq_work_run(const char *model, const kq_receiver *r, kq_output *outputs, size_t n,
                      char **report_json, kq_error *err)
{
    KQ_C_LOCALE;
    kq_work w = {.receiver = r, .model = model, .outputs = outputs, .n = n};
    if (report_json)
        *report_json = NULL;
    kq_status status = begin(&w, err);
    if (!status)
        status = prepare(&w, err);
    if (!status)
        status = check(&w, err);
    if (!status)
        status = open_folders(&w, err);
    if (!status && anything_left(&w))
        status = make_outputs(&w, err);
    if (!status) {
        status = make_report(&w, report_json, err);
        kq_job_finish(&w.pass);
        for (size_t i = 0; i < n; i++)
            kq_job_finish(&outputs[i].job);
    }
    close_work(&w);
    return status;
}

/* ---- plan ---- */

/* Name, shape, stored type, and what the receiver says, of every linear. */
static json_t *plan_linears(const kq_output *o)
{
    json_t *modules = json_array();
    for (size_t i = 0; i < kq_model_n_linears(o->p.cfg); i++) {
        const kq_model_tensor t = kq_model_linear_at(o->p.cfg, i);
        const kq_tensor *stored = kq_source_find(o->p.src, t.name);
        json_t *module = json_pack("{s:s, s:[I,I], s:s}", "name", t.module, "shape", (json_int_t)t.rows,
                                   (json_int_t)t.cols, "source", stored ? kq_dtype_name(stored->dtype) : "?");
        o->work->receiver->plan_linear(o, t.layer, (int)t.linear, module);
        json_array_append_new(modules, module);
    }
    return modules;
}

const char *kq_work_method(const kq_work *w)
{
    const kq_prepared *p = &w->outputs->p;
    return p->opt->factors ? p->opt->factors : kq_method_name(p->factor.method);
}

static kq_status describe_plan(const kq_work *w, char **plan_json, kq_error *err)
{
    const kq_prepared *p = &w->outputs->p;
    json_t *own = w->receiver->plan(w), *o = json_pack("{s:s}", "model", w->model);
    json_t *common = json_pack("{s:I, s:I, s:I, s:s, s:s, s:s, s:i}", "planned_memory_bytes",
                               (json_int_t)w->memory, "planned_disk_bytes", (json_int_t)w->disk,
                               "calibration_tokens", (json_int_t)(p->n_seq * p->opt->calibration.seq_len),
                               "gradients", kq_gradient_way_name(w->sweep.way), "isa", kq_isa_name(p->isa),
                               "compute", p->compute == KQ_BF16 ? "bf16" : "f32", "threads", p->threads);
    if (o && own && common && !json_object_update(o, own) && !json_object_update(o, common) &&
        !json_object_set_new(o, "modules", plan_linears(w->outputs)))
        *plan_json = json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    json_decref(own);
    json_decref(common);
    json_decref(o);
    return *plan_json ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: the plan");
}

kq_status kq_work_quantize(const char *model, const kq_receiver *r, kq_output *output,
                           const kq_quantize_options *opt, char **report_json, kq_error *err)
{
    if (report_json)
        *report_json = NULL;
    const kq_status status = KQ_OPTIONS_READ(kq_quantize_options, &output->opt, opt, err);
    return status ? status : kq_work_run(model, r, output, 1, report_json, err);
}

kq_status kq_work_plan(const char *model, const kq_receiver *r, kq_output *output,
                       const kq_quantize_options *opt, char **plan_json, kq_error *err)
{
    KQ_C_LOCALE;
    kq_work w = {.receiver = r, .model = model, .outputs = output, .n = 1, .planning = true};
    *plan_json = NULL;
    kq_status status = KQ_OPTIONS_READ(kq_quantize_options, &output->opt, opt, err);
    if (status)
        return status;
    status = begin(&w, err);
    if (!status)
        status = prepare(&w, err);
    if (!status)
        status = plan(&w, NULL, err);
    if (!status)
        status = describe_plan(&w, plan_json, err);
    close_work(&w);
    return status;
}
