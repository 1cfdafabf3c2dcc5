/* kq_tune: what is checked before any work, the loop over the steps with its saved state, and what is
 * written at its end. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/locale.h"
#include "base/mem.h"
#include "base/options.h"
#include "base/progress.h"
#include "base/rng.h"
#include "base/text.h"
#include "base/threads.h"
#include "base/time.h"
#include "base/warn.h"
#include "format/json.h"
#include "prepare/check.h"
#include "prepare/plan.h"
#include "prepare/sequences.h"
#include "settings/settings.h"
#include "tune/internal.h"
#include "tune/tune.h"

/* ---- before any work ---- */

/* The wishes for the text in the struct that kq_prepare takes. The method looks at inputs alone, so that
 * nothing of a calibration is asked for. */
static void quantize_options(kq_tune_run *r)
{
    r->q = kq_quantize_defaults();
    r->q.common = r->common;
    kq_calibration *c = &r->q.calibration;
    c->text = r->opt.text;
    c->n_text = r->opt.n_text;
    c->reading = r->opt.reading;
    c->tokens = r->opt.tokens;
    c->seq_len = r->opt.seq_len;
    c->method = "input-only";
    r->q.resume = r->opt.resume;
    r->q.memory = r->opt.memory;
}

static kq_status check_shapes(const kq_tune_run *r, kq_error *err)
{
    const kq_config *a = kq_source_config(kq_model_file_source(r->file)), *b = r->p.cfg;
    const struct {
        const char *name;
        size_t a, b;
    } sizes[] = {{"architecture", (size_t)a->arch, (size_t)b->arch},
                 {"num_hidden_layers", a->n_layer, b->n_layer},
                 {"hidden_size", a->d_model, b->d_model},
                 {"intermediate_size", a->d_ff, b->d_ff},
                 {"num_attention_heads", a->n_head, b->n_head},
                 {"num_key_value_heads", a->n_kv_head, b->n_kv_head},
                 {"head_dim", a->head_dim, b->head_dim},
                 {"vocab_size", a->vocab_size, b->vocab_size}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].a != sizes[i].b)
            return kq_fail(err, KQ_E_MISMATCH,
                           "--reference %s: its %s is %zu, that of %s is %zu; give the model that this one "
                           "was made from",
                           r->opt.reference, sizes[i].name, sizes[i].b, r->checkpoint, sizes[i].a);
    return KQ_OK;
}

/* The file may say which model it was made from. */
static kq_status check_origin(kq_tune_run *r, kq_error *err)
{
    char *made_from = r->kind->made_from(r);
    kq_status st = kq_prepare_fingerprint(&r->p, err);
    if (!st && made_from && strcmp(made_from, r->p.fingerprint))
        st = kq_fail(err, KQ_E_MISMATCH,
                     "--reference %s: its fingerprint is %s, but %s was made from a model with %s",
                     r->opt.reference, r->p.fingerprint, r->checkpoint, made_from);
    free(made_from);
    return st;
}

static kq_status find_trained(kq_tune_run *r, kq_error *err)
{
    size_t n = 0;
    if (!(r->packed = kq_calloc(r->p.cfg->n_layer, 1)))
        return kq_fail(err, KQ_E_MEMORY, "out of memory: modules");
    for (size_t i = 0; i < kq_model_n_linears(r->p.cfg); i++)
        if (r->kind->is_trained(r, i / KQ_N_LINEAR, (kq_linear_id)(i % KQ_N_LINEAR))) {
            r->packed[i / KQ_N_LINEAR] |= (uint8_t)(1u << i % KQ_N_LINEAR);
            n++;
        }
    return n ? KQ_OK : kq_fail(err, KQ_E_ARG, "%s: has no quantized linear", r->checkpoint);
}

/* Which sequences are held out, and the order of the others, both from the seed alone. */
static kq_status share_out(kq_tune_run *r, kq_error *err)
{
    const size_t n = r->p.n_seq, epochs = r->opt.epochs;
    size_t n_held = (n + 15) / 16;
    if (n_held < 4 && n >= 16)
        n_held = 4;
    if (n < 2)
        return kq_fail(err, KQ_E_ARG,
                       "--tokens %zu: one sequence of %zu (--seq-len); at least two are needed, of which one "
                       "is held out",
                       r->opt.tokens, r->opt.seq_len);
    r->n_held = n_held;
    r->n_trained = n - n_held;
    r->n_order = r->n_trained * epochs;
    kq_status st = kq_alloc_for((void **)&r->held, n, sizeof *r->held, "sequences", err);
    if (!st)
        st = kq_alloc_for((void **)&r->order, r->n_order, sizeof *r->order, "sequences", err);
    if (st)
        return st;
    r->trained = r->held + n_held;
    for (size_t i = 0; i < n; i++)
        r->held[i] = (uint32_t)i;
    kq_rng rng = kq_rng_stream(r->opt.common.seed, "tune");
    for (size_t e = 0; e <= epochs; e++) {
        /* first of all sequences, then, for every pass, of those that are trained on (Fisher and Yates) */
        uint32_t *list = e ? r->trained : r->held;
        const size_t k = e ? r->n_trained : n;
        for (size_t i = k; i > 1; i--) {
            const size_t j = (size_t)(kq_rng_uniform(&rng) * (double)i);
            const uint32_t other = list[i - 1];
            list[i - 1] = list[j];
            list[j] = other;
        }
        if (e)
            memcpy(r->order + (e - 1) * r->n_trained, list, k * sizeof *list);
    }
    return KQ_OK;
}

/* Everything that the result depends on; without "checkpoint" where none is open. */
static kq_status make_settings(kq_tune_run *r, kq_error *err)
{
    char own[33];
    const kq_tune_options *o = &r->opt;
    kq_status st = r->file ? kq_source_fingerprint(kq_model_file_source(r->file), own, err) : KQ_OK;
    if (st)
        return st;
    json_t *all = kq_prepare_settings(&r->p, err);
    if (!all)
        return KQ_E_MEMORY;
    json_t *text = json_object_get(all, "calibration");
    r->settings =
        json_pack("{s:s, s:s*, s:s, s:s, s:s, s:I, s:O, s:O, s:O, s:I, s:I, s:I, s:f, s:I, s:I}", "kronq",
                  kq_version(), "checkpoint", r->file ? own : NULL, "reference", r->p.fingerprint, "isa",
                  kq_isa_name(r->p.isa), "compute", r->p.compute == KQ_BF16 ? "bf16" : "f32", "seed",
                  (json_int_t)o->common.seed, "text", json_object_get(text, "text"), "text_hash",
                  json_object_get(text, "text_hash"), "tokens", json_object_get(text, "tokens"), "seq_len",
                  (json_int_t)o->seq_len, "batch", (json_int_t)o->batch, "epochs", (json_int_t)o->epochs,
                  "lr", o->lr, "warmup", (json_int_t)o->warmup, "watch", (json_int_t)o->watch);
    static const char *const readings[] = {"parse_special", "text_format"};
    for (size_t i = 0; i < 2 && r->settings; i++)
        if (json_object_get(text, readings[i]))
            json_object_set(r->settings, readings[i], json_object_get(text, readings[i]));
    json_decref(all);
    return r->settings ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: settings");
}

static size_t steps_of(const kq_tune_run *r)
{
    return (r->n_order + r->opt.batch - 1) / r->opt.batch;
}

/* No more of a mapped file is resident at a time. */
static size_t largest_tensor(const kq_source *src)
{
    size_t most = 0;
    for (size_t i = 0; i < kq_source_n_tensors(src); i++) {
        const size_t n = kq_source_tensor(src, i)->size_bytes;
        most = n > most ? n : most;
    }
    return most;
}

/* What it takes, and whether decoded weights are kept. */
static kq_status plan(kq_tune_run *r, kq_error *err)
{
    const kq_config *cfg = r->p.cfg;
    char a[32], b[32];
    r->teacher_options = (kq_teacher_options){.weights = kq_model_file_weights(r->p.model),
                                              .n = r->p.n_seq,
                                              .T = r->opt.seq_len,
                                              .isa = r->p.isa,
                                              .compute = r->p.compute,
                                              .threads = r->p.threads,
                                              .common = &r->common,
                                              .job = &r->job};
    kq_tuner_options *t = &r->tuner_options;
    *t = (kq_tuner_options){.student = kq_model_file_weights(r->file),
                            .teacher = kq_model_file_weights(r->p.model),
                            .trained = r->kind->trained,
                            .packed = r->packed,
                            .head = r->kind->trains_rows && r->kind->trains_rows(r, false),
                            .embedding = r->kind->trains_rows && r->kind->trains_rows(r, true),
                            .isa = r->p.isa,
                            .compute = r->p.compute,
                            .threads = r->p.threads,
                            .T = r->opt.seq_len,
                            .at_once = r->opt.batch,
                            .keep = true,
                            .hidden = kq_teacher_read,
                            .common = &r->common};
    const size_t fixed = KQ_PROGRAM_BYTES + r->p.n_seq * r->opt.seq_len * sizeof(int32_t) +
                         largest_tensor(r->p.src) + largest_tensor(kq_model_file_source(r->file));
    size_t tuner = kq_tuner_bytes(cfg, t);
    if (r->opt.memory && fixed + tuner > r->opt.memory) {
        t->keep = false;
        tuner = kq_tuner_bytes(cfg, t);
    }
    /* the reference's pass takes what is free under --memory, or what tuning takes anyway */
    const size_t room = r->opt.memory > fixed ? r->opt.memory - fixed : r->opt.memory ? 0 : tuner;
    r->teacher_options.at_once = kq_teacher_at_once(cfg, &r->teacher_options, room);
    const size_t teacher = kq_teacher_memory(cfg, &r->teacher_options);
    r->memory = fixed + (tuner > teacher ? tuner : teacher);
    if (r->opt.memory && r->memory > r->opt.memory)
        return kq_fail(err, KQ_E_MEMORY,
                       "--memory %s: at least %s are needed; a smaller --batch or --seq-len "
                       "needs less",
                       kq_bytes_text((double)r->opt.memory, a), kq_bytes_text((double)r->memory, b));
    size_t all = 0;
    for (size_t i = 0; i < kq_source_n_tensors(kq_model_file_source(r->file)); i++)
        all += kq_source_tensor(kq_model_file_source(r->file), i)->size_bytes;
    r->disk = all + kq_teacher_disk(cfg, r->p.n_seq, r->opt.seq_len) +
              2 * kq_tune_state_bytes(kq_tuner_numbers(cfg, t)) + ((size_t)16 << 20);
    return KQ_OK;
}

/* A text may be shorter than what is asked for: tuning takes what there is, and says so. */
static kq_status fit_text(kq_tune_run *r, kq_error *err)
{
    const kq_tune_options *o = &r->opt;
    const kq_common silent = {.threads =
                                  r->common.threads}; /* what the text is will be said when it is read */
    const kq_text_how how = {.options = o->reading, .tok = r->p.tok, .common = &silent};
    size_t n;
    if (!o->n_text || !r->p.tok)
        return KQ_OK;
    kq_status st = kq_text_count_windows(&how, o->text, o->n_text, r->p.n_seq, o->seq_len, &n, err);
    if (st || n == r->p.n_seq)
        return st;
    if (n < 2)
        return kq_fail(
            err, KQ_E_ARG,
            "%s: has %zu whole sequences of %zu tokens; at least two are needed to tune, of which one "
            "is held out",
            o->text[0], n, o->seq_len);
    if (r->out) /* else it is said when tuning begins */
        kq_warn(
            "the text has %zu sequences of %zu tokens to tune on, %zu were asked for: all of them are used",
            n, o->seq_len, r->p.n_seq);
    r->p.n_seq = n;
    r->opt.tokens = n * o->seq_len;
    return KQ_OK;
}

/* All that can be refused before a folder is made. */
static kq_status check(kq_tune_run *r, kq_error *err)
{
    kq_isa isa;
    kq_status st = kq_settings_check(KQ_TUNE_OPTIONS, KQ_FOR_TUNE, &r->opt, err);
    if (!st && !r->opt.reference)
        st = kq_fail(err, KQ_E_ARG, "--reference is missing: the model that the checkpoint was made from");
    if (st || (st = r->kind->locate(r, err)) ||
        (st = kq_job_check_free(r->done_path, r->work_dir, r->opt.resume, err)) ||
        (st = kq_isa_pick(r->opt.common.isa, &isa, err)) ||
        (st = kq_model_file_open(r->checkpoint, isa, &r->file, err)) || (st = r->kind->accept(r, err)))
        return st;
    if ((st = kq_prepare(r->opt.reference, &r->q, true, &r->p, err)) || (st = check_shapes(r, err)) ||
        (st = check_origin(r, err)) || (st = find_trained(r, err)) || (st = fit_text(r, err)) ||
        (st = share_out(r, err)) || (st = make_settings(r, err)) || (st = plan(r, err)))
        return st;
    if (kq_path_exists(r->done_path))
        return KQ_OK;
    if ((st = kq_check_weights(&r->p, NULL, false, err)) || (st = kq_check_texts(&r->p, &r->p.n_seq, 1, err)))
        return st;
    return r->opt.resume ? KQ_OK : kq_check_disk(r->out, r->disk, err);
}

/* ---- the loop ---- */

static kq_status new_state(kq_tune_run *r, kq_error *err)
{
    kq_tune_state *s = &r->state;
    const kq_tuner_arrays a = kq_tuner_state(r->tuner);
    s->theta = a.theta;
    s->m = a.m;
    s->v = a.v;
    s->n_params = kq_tuner_params(r->tuner)->n;
    s->steps = steps_of(r);
    s->watches = r->opt.watch + 1;
    s->best_kl = s->untuned_kl = NAN;
    kq_status st = kq_alloc_for((void **)&s->best, s->n_params, sizeof *s->best, "trained numbers", err);
    if (!st)
        st = kq_alloc_for((void **)&s->loss, s->steps, sizeof *s->loss, "losses", err);
    if (!st)
        st = kq_alloc_for((void **)&s->watched_kl, s->watches, sizeof(double), "losses", err);
    if (!st)
        st = kq_alloc_for((void **)&s->watched_step, s->watches, sizeof(double), "losses", err);
    if (st)
        return st;
    memcpy(s->best, s->theta, s->n_params * sizeof *s->best);
    memset(s->loss, 0, s->steps * sizeof *s->loss);
    memset(s->watched_kl, 0, s->watches * sizeof(double));
    memset(s->watched_step, 0, s->watches * sizeof(double));
    return KQ_OK;
}

/* Is the held-out text measured after so many steps? `watch` times, evenly, the last time at the end. */
static bool watches_at(const kq_tune_run *r, size_t step)
{
    const size_t steps = r->state.steps, w = r->opt.watch;
    return step == 0 || step * w / steps > (step - 1) * w / steps;
}

static kq_status watch(kq_tune_run *r, kq_error *err)
{
    kq_tune_state *s = &r->state;
    double kl;
    char line[200];
    kq_status st = kq_tuner_loss(r->tuner, r->held, r->n_held, &kl, err);
    if (st)
        return st;
    if (s->n_watched == 0)
        s->untuned_kl = s->best_kl = kl;
    s->watched_step[s->n_watched] = (double)s->step;
    s->watched_kl[s->n_watched++] = kl;
    if (kl < s->best_kl) {
        s->best_kl = kl;
        s->best_step = s->step;
        memcpy(s->best, s->theta, s->n_params * sizeof *s->best);
    }
    if (s->step)
        snprintf(
            line, sizeof line,
            "step %llu of %zu: KL divergence %.4f on held-out text (%.4f untuned), %.4f in the last step",
            (unsigned long long)s->step, s->steps, kl, s->untuned_kl, s->loss[s->step - 1]);
    else
        snprintf(line, sizeof line, "untuned: KL divergence %.4f on held-out text", kl);
    return kq_progress_note(&r->common, line, err);
}

/* The learning rate at its peak: the caller's, or what the first measurement says. */
static double peak_rate(const kq_tune_run *r)
{
    return r->opt.lr > 0 ? r->opt.lr : kq_tune_peak_rate(r->state.untuned_kl);
}

static kq_status one_step(kq_tune_run *r, kq_error *err)
{
    kq_tune_state *s = &r->state;
    const size_t at = s->step * r->opt.batch,
                 n = r->n_order - at < r->opt.batch ? r->n_order - at : r->opt.batch;
    kq_status st = kq_tuner_gradient(r->tuner, r->order + at, n, &s->loss[s->step], err);
    if (st)
        return st;
    kq_tuner_update(r->tuner, kq_tune_rate(peak_rate(r), r->opt.warmup, s->step, s->steps), s->step);
    s->step++;
    return KQ_OK;
}

/* The share of the loop that is done; measurements of the held-out text count as much as their tokens. */
static kq_status show_progress(const kq_tune_run *r, kq_error *err)
{
    const kq_tune_state *s = &r->state;
    const double measure = (double)r->n_held / (3.0 * (double)r->opt.batch); /* in steps: forward alone */
    const size_t watches = 1 + (r->opt.watch < s->steps ? r->opt.watch : s->steps); /* see watches_at */
    const double done = (double)s->step + (double)s->n_watched * measure,
                 all = (double)s->steps + (double)watches * measure;
    if (r->common.progress && r->common.progress(r->common.ctx, "tuning", done / all, NULL))
        return kq_fail(err, KQ_E_INTERRUPTED, "stopped after step %llu of %zu", (unsigned long long)s->step,
                       s->steps);
    return KQ_OK;
}

/* Save what a step, or a measurement, has changed, at most once a minute. */
static kq_status save_now_and_then(kq_tune_run *r, double *saved, bool now, kq_error *err)
{
    enum { EVERY_S = 60 };
    if (!now && kq_now_s() - *saved < EVERY_S)
        return KQ_OK;
    *saved = kq_now_s();
    return kq_tune_state_save(&r->job, &r->state, err);
}

static kq_status loop(kq_tune_run *r, kq_error *err)
{
    kq_tune_state *s = &r->state;
    double saved = kq_now_s();
    kq_status st = show_progress(r, err);
    while (!st) {
        /* has the measurement of this step been made? */
        const bool due = watches_at(r, s->step) &&
                         (s->n_watched == 0 || s->watched_step[s->n_watched - 1] < (double)s->step);
        if (due)
            st = watch(r, err);
        else if (s->step == s->steps)
            return KQ_OK;
        else
            st = one_step(r, err);
        if (st)
            break;
        if (!(st = save_now_and_then(r, &saved, due, err)))
            st = show_progress(r, err);
    }
    if (st == KQ_E_INTERRUPTED) /* what is finished is kept; a step that was begun is done again */
        kq_tune_state_save(&r->job, s, NULL);
    return st;
}

/* ---- what is written ---- */

size_t kq_params_of_tensor(const kq_params *p, const kq_model_tensor *t)
{
    switch (t->role) {
    case KQ_ROLE_FINAL_NORM: return p->final_at;
    case KQ_ROLE_NORM: return p->norm_at[t->layer * KQ_N_NORM + t->norm];
    case KQ_ROLE_LINEAR: return p->linear_at[t->layer * KQ_N_LINEAR + t->linear];
    case KQ_ROLE_HEAD: return p->head_at;
    case KQ_ROLE_EMBED: return p->embed_at;
    }
    return SIZE_MAX;
}

/* The member "tuned" of quantization_config. */
json_t *kq_tune_facts(const kq_tune_run *r)
{
    const kq_tune_state *s = &r->state;
    json_t *o = json_deep_copy(r->settings);
    json_t *more = json_pack("{s:f, s:I, s:I, s:I, s:f, s:f, s:I}", "peak_lr", peak_rate(r),
                             "held_out_tokens", (json_int_t)(r->n_held * r->opt.seq_len), "steps",
                             (json_int_t)s->steps, "best_step", (json_int_t)s->best_step, "kld_before",
                             s->untuned_kl, "kld_after", s->best_kl, "trained", (json_int_t)s->n_params);
    if (!o || !more || json_object_update(o, more)) {
        json_decref(o);
        o = NULL;
    }
    json_decref(more);
    return o;
}

static json_t *numbers(const double *x, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, kq_json_number(x[i]));
    return list;
}

static kq_status make_report(const kq_tune_run *r, char **out, kq_error *err)
{
    const kq_tune_state *s = &r->state;
    json_t *o = r->job.complete ? json_pack("{s:b}", "complete", true) : kq_tune_facts(r);
    if (!r->job.complete && o) {
        json_object_set_new(o, "loss", numbers(s->loss, s->steps));
        json_object_set_new(o, "watched",
                            json_pack("{s:o, s:o}", "step", numbers(s->watched_step, s->n_watched), "kld",
                                      numbers(s->watched_kl, s->n_watched)));
        json_object_set_new(o, "file_bytes", json_integer((json_int_t)r->file_bytes));
        json_object_set_new(o, "seconds",
                            json_pack("{s:f, s:f, s:f, s:f}", "reference", r->reference_s, "tuning",
                                      r->tuning_s, "save", r->save_s, "total", kq_now_s() - r->start));
        json_object_set_new(o, "weights_kept", json_boolean(r->tuner_options.keep));
        json_object_set_new(o, "planned_bytes", json_integer((json_int_t)r->memory));
        json_object_set_new(o, "peak_rss_bytes", json_integer((json_int_t)kq_peak_rss_bytes()));
        kq_report_texts(&r->p, o);
        if (r->kind->report)
            r->kind->report(r, o);
    }
    *out = o ? json_dumps(o, r->job.complete ? 0 : JSON_INDENT(1) | JSON_REAL_PRECISION(8)) : NULL;
    json_decref(o);
    return *out ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: the report");
}

/* ---- the whole ---- */

static kq_status open_job(kq_tune_run *r, kq_error *err)
{
    char *text = json_dumps(r->settings, JSON_COMPACT | JSON_SORT_KEYS);
    kq_status st = text ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: settings");
    if (!st)
        st = kq_job_open(r->done_path, r->work_dir, text, r->opt.resume, r->opt.fresh, &r->job, err);
    free(text);
    return st;
}

static kq_status announce(const kq_tune_run *r, kq_error *err)
{
    char line[400], a[32], b[32];
    snprintf(line, sizeof line,
             "%zu steps of %zu sequences of %zu tokens, %zu sequences held out; about %s of memory and %s of "
             "disk while it runs; decoded weights %s",
             steps_of(r), r->opt.batch, r->opt.seq_len, r->n_held, kq_bytes_text((double)r->memory, a),
             kq_bytes_text((double)r->disk, b), r->tuner_options.keep ? "kept" : "made again at every use");
    return kq_progress_note(&r->common, line, err);
}

static kq_status work(kq_tune_run *r, kq_error *err)
{
    bool found;
    kq_mem_give_back();
    kq_status st = announce(r, err);
    if (st || (st = kq_prepare_sequences(&r->p, &r->job, &r->p.n_seq, 1, err)))
        return st;
    r->teacher_options.ids = r->tuner_options.ids = r->p.windows.ids;
    double start = kq_now_s();
    if ((st = kq_teacher_new(&r->teacher_options, &r->teacher, err)))
        return st;
    r->reference_s = kq_now_s() - start;
    r->tuner_options.ctx = r->teacher;
    start = kq_now_s();
    if ((st = kq_tuner_new(&r->tuner_options, &r->tuner, err)) || (st = new_state(r, err)) ||
        (st = kq_tune_state_load(&r->job, &r->state, &found, err)) || (st = loop(r, err)))
        return st;
    r->tuning_s = kq_now_s() - start;
    if (!r->state.best_step)
        return kq_fail(err, KQ_E_NO_GAIN,
                       "%s: no step of tuning was better on held-out text than the %.4f nats of %s, which is "
                       "therefore best left as it is; %s was not written",
                       r->checkpoint, r->state.untuned_kl, r->checkpoint, r->out);
    start = kq_now_s();
    st = r->kind->save(r, err);
    r->save_s = kq_now_s() - start;
    return st;
}

static void close_run(kq_tune_run *r)
{
    kq_tuner_free(r->tuner);
    kq_teacher_free(r->teacher);
    kq_job_close(&r->job);
    kq_prepared_free(&r->p);
    kq_model_file_close(r->file);
    json_decref(r->settings);
    void *const parts[] = {
        r->done_path,        r->work_dir,          r->packed, r->held, r->order, r->state.best, r->state.loss,
        r->state.watched_kl, r->state.watched_step};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        kq_free(parts[i]);
}

/* What needs the reference and the text alone, without a checkpoint. */
static kq_status prepare_reference(kq_tune_run *r, kq_error *err)
{
    r->common = r->opt.common = (kq_common){.threads = r->opt.common.threads,
                                            .isa = r->opt.common.isa,
                                            .compute = r->opt.common.compute,
                                            .seed = r->opt.common.seed};
    quantize_options(r);
    kq_status st = kq_settings_check(KQ_TUNE_OPTIONS, KQ_FOR_TUNE, &r->opt, err);
    if (!st && !(st = kq_prepare(r->opt.reference, &r->q, true, &r->p, err)))
        st = fit_text(r, err);
    return st ? st : share_out(r, err);
}

kq_status kq_tune_check_text(const kq_tune_options *opt, kq_error *err)
{
    kq_tune_run r = {.opt = *opt, .job = {.lock = -1}};
    kq_status st = prepare_reference(&r, err);
    if (!st)
        st = kq_check_texts(&r.p, &r.p.n_seq, 1, err);
    close_run(&r);
    return st;
}

kq_status kq_tune_check_complete(const char *config_path, const kq_tune_options *opt, kq_error *err)
{
    kq_tune_run r = {.opt = *opt, .job = {.lock = -1}};
    kq_status st = prepare_reference(&r, err);
    if (!st && !(st = kq_prepare_fingerprint(&r.p, err)) && !(st = make_settings(&r, err)))
        st = kq_tuned_config_check(&r, config_path, err);
    close_run(&r);
    return st;
}

kq_status kq_tune_rounded(const char *checkpoint, const char *out, const kq_tune_options *opt,
                          char **report_json, json_t **no_gain, kq_error *err)
{
    kq_tune_run r = {
        .checkpoint = checkpoint, .out = out, .opt = *opt, .job = {.lock = -1}, .start = kq_now_s()};
    char *report = NULL;
    r.kind = kq_path_is_dir(checkpoint) ? &kq_tune_of_checkpoint : &kq_tune_of_gguf;
    const kq_common given = r.opt.common;
    r.common = kq_progress_guard(&given, &r.guard);
    quantize_options(&r);
    kq_status st = check(&r, err);
    if (!st)
        st = open_job(&r, err);
    if (!st && r.job.complete)
        st = r.kind->check_complete(&r, err);
    else if (!st)
        st = work(&r, err);
    if (!st && !(st = make_report(&r, &report, err)))
        kq_job_finish(&r.job);
    if (st == KQ_E_NO_GAIN) { /* there is nothing to resume */
        if (no_gain && !(*no_gain = kq_tune_facts(&r)))
            st = kq_fail(err, KQ_E_MEMORY, "out of memory: the report");
        kq_job_finish(&r.job);
    }
    close_run(&r);
    if (report_json)
        *report_json = report;
    else
        free(report);
    return st;
}

kq_status kq_tune(const char *checkpoint, const char *out, const kq_tune_options *opt, char **report_json,
                  kq_error *err)
{
    KQ_C_LOCALE;
    kq_tune_options whole;
    if (report_json)
        *report_json = NULL;
    const kq_status st = KQ_OPTIONS_READ(kq_tune_options, &whole, opt, err);
    return st ? st : kq_tune_rounded(checkpoint, out, &whole, report_json, NULL, err);
}
