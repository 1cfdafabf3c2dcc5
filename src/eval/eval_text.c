/* kq_eval_text, the library's evaluation of any MODEL on any text file, with or without a reference model or
 * a file of saved logits. The result is JSON, and the files that were asked for. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/locale.h"
#include "base/mem.h"
#include "base/options.h"
#include "base/threads.h"
#include "base/time.h"
#include "checkpoint/checkpoint.h"
#include "eval/eval.h"
#include "format/json.h"
#include "settings/settings.h"
#include "text/text.h"

static int forward_progress(void *ctx, const char *stage, double fraction)
{
    const kq_common *c = ctx;
    return c->progress ? c->progress(c->ctx, stage, fraction, NULL) : 0;
}

kq_status kq_eval_options_of(const kq_common *common, kq_eval_options *out, kq_error *err)
{
    kq_eval_options o = kq_eval_defaults();
    kq_status status = kq_isa_pick(common->isa, &o.isa, err);
    if (!status)
        status = kq_compute_pick(common->compute, o.isa, &o.compute, err);
    if (!status)
        status = kq_threads_pick(common->threads, &o.threads, err);
    if (status)
        return status;
    o.progress = forward_progress;
    o.progress_ctx = (void *)common;
    kq_kern_init(o.isa);
    *out = o;
    return KQ_OK;
}

/* Read as many ids of the text as opt asks for. *first: the token that the tokenizer puts before every text;
 * -1: none. */
static kq_status text_ids(const kq_source *src, const char *path, size_t ctx, const kq_eval_text_options *opt,
                          kq_text_ids *out, int32_t *first, kq_error *err)
{
    kq_tokenizer *tok;
    int32_t *nothing = NULL;
    size_t n_nothing = 0;
    kq_status status = kq_tokenizer_open(src, &tok, err);
    if (status)
        return status;
    if (!(status = kq_tokenizer_encode(tok, "", 0, true, false, &nothing, &n_nothing, err)))
        *first = n_nothing ? nothing[0] : -1;
    kq_free(nothing);
    size_t want = SIZE_MAX;
    if (opt->chunks)
        kq_mul_size(opt->chunks, ctx, &want);
    const kq_text_how how = {.options = opt->reading,
                             .tok = tok,
                             .reach = want == SIZE_MAX ? SIZE_MAX : kq_text_reach(want),
                             .common = &opt->common};
    if (!status && path)
        status = kq_text_encode(&path, 1, &how, want, true, true, out, err);
    kq_tokenizer_close(tok);
    return status;
}

/* Write the ids [ctx] and the logits [ctx, vocab] of the first window to a file. */
static kq_status write_logits(const char *path, const int32_t *ids, const float *logits, size_t ctx,
                              size_t vocab, kq_error *err)
{
    kq_st_writer *w;
    kq_status status = kq_st_writer_new(path, &w, err);
    if (status)
        return status;
    if ((status = kq_st_writer_declare(w, "ids", KQ_T_I32, 1, &ctx, err)) ||
        (status = kq_st_writer_declare(w, "logits", KQ_T_F32, 2, (size_t[]){ctx, vocab}, err)) ||
        (status = kq_st_writer_data(w, ids, ctx * sizeof *ids, err)) ||
        (status = kq_st_writer_data(w, logits, ctx * vocab * sizeof *logits, err))) {
        kq_st_writer_abort(w);
        return status;
    }
    return kq_st_writer_finish(w, err);
}

/* Set a value and its two standard errors: "..._stderr" takes tokens as independent, "..._stderr_windows"
 * takes windows (null with one window). */
static void set_measure(json_t *o, const char *name, double value, double error, double error_windows)
{
    char key[64];
    json_object_set_new(o, name, json_real(value));
    snprintf(key, sizeof key, "%s_stderr", name);
    json_object_set_new(o, key, json_real(error));
    snprintf(key, sizeof key, "%s_stderr_windows", name);
    json_object_set_new(o, key, isfinite(error_windows) ? json_real(error_windows) : json_null());
}

/* Everything kq_eval_text opens. */
typedef struct job {
    kq_model_file *m, *r; /* the model; a reference model, or NULL */
    kq_kld_base base;     /* saved logits; zeroed: there are none */
    kq_text_ids read;     /* the text; `ids` are its ids, unless the saved logits bring theirs */
    int32_t *ids;         /* as they are fed to the model */
    /* the ids as they are in the text, where the first token of each window was replaced in `ids`; NULL: none
     * was replaced */
    int32_t *text;
    size_t n_ids;
    kq_eval_options o;
} job;

static void job_close(job *j)
{
    kq_free(j->ids);
    kq_free(j->text);
    kq_text_ids_free(&j->read);
    kq_free(j->o.logits);
    kq_free(j->o.per_window);
    kq_out_abort(j->o.save);
    kq_hidden_close(j->o.hidden);
    kq_kld_base_close(&j->base);
    kq_model_file_close(j->m);
    kq_model_file_close(j->r);
}

/* Choose the tokens of a window: what was asked for, what the saved logits have, or the default; never more
 * than the models were made for. */
static kq_status choose_ctx(job *j, const char *model, const char *reference, const kq_eval_text_options *opt,
                            kq_error *err)
{
    const kq_model_file *file[] = {j->m, j->r};
    const char *const name[] = {model, reference};
    j->o.ctx = opt->ctx ? opt->ctx : j->base.ctx ? j->base.ctx : 2048;
    if (j->base.ctx && j->o.ctx != j->base.ctx)
        return kq_fail(err, KQ_E_ARG, "--ctx %zu: %s holds windows of %zu tokens; leave --ctx out", opt->ctx,
                       reference, j->base.ctx);
    for (int i = 0; i < 2; i++) {
        const size_t most =
            file[i] ? kq_source_config(kq_model_file_source(file[i]))->max_position : SIZE_MAX;
        if (j->o.ctx > most && (opt->ctx || j->base.ctx))
            return kq_fail(
                err, KQ_E_ARG,
                "--ctx %zu: %s was made for at most %zu tokens, beyond which its predictions mean nothing",
                j->o.ctx, name[i], most);
        if (j->o.ctx > most)
            j->o.ctx = most;
    }
    return j->o.ctx < 2 ? kq_fail(err, KQ_E_ARG, "--ctx %zu: at least 2 tokens are needed", j->o.ctx) : KQ_OK;
}

/* Choose the ids: those of the text or those of the saved logits. When both are given they must be
 * the same. */
static kq_status choose_ids(job *j, const char *text_file, const kq_eval_text_options *opt, kq_error *err)
{
    int32_t first = -1;
    kq_status st = text_ids(kq_model_file_source(j->m), text_file, j->o.ctx, opt, &j->read, &first, err);
    j->ids = j->read.ids;
    j->n_ids = j->read.n;
    j->read.ids = NULL;
    const size_t n_base = j->base.ctx * j->base.windows;
    if (!st && n_base && text_file &&
        (j->n_ids < n_base || memcmp(j->ids, j->base.ids, n_base * sizeof *j->ids)))
        st = kq_fail(err, KQ_E_MISMATCH,
                     "%s: its tokens are not those that %s was made of (another text, tokenizer or special "
                     "tokens); leave --ppl out to use "
                     "those of the file",
                     text_file, j->base.map.path);
    if (!st && n_base && !text_file &&
        !(st = kq_alloc_for((void **)&j->ids, n_base, sizeof *j->ids, "token ids", err)))
        memcpy(j->ids, j->base.ids, n_base * sizeof *j->ids);
    if (!st && n_base)
        j->n_ids = n_base;
    if (st || !j->o.half || first < 0)
        return st;
    /* llama.cpp replaces the first token of each window by the beginning token */
    if ((st = kq_alloc_for((void **)&j->text, j->n_ids, sizeof *j->text, "token ids", err)))
        return st;
    memcpy(j->text, j->ids, j->n_ids * sizeof *j->ids);
    for (size_t i = 0; i < j->n_ids; i += j->o.ctx)
        j->ids[i] = first;
    return KQ_OK;
}

/* Open the outputs beside the figures: logits of the first window, figures of each window, saved logits. */
static kq_status open_outputs(job *j, const kq_eval_text_options *opt, kq_error *err)
{
    const size_t vocab = kq_source_config(kq_model_file_source(j->m))->vocab_size, all = j->n_ids / j->o.ctx;
    const size_t windows = opt->chunks && opt->chunks < all ? opt->chunks : all;
    kq_status st = KQ_OK;
    size_t n;
    if (opt->logits && j->o.half)
        return kq_fail(err, KQ_E_ARG,
                       "--logits wants whole windows, saved logits halves: run kronq eval twice");
    if (opt->logits)
        st = kq_mul_size(j->o.ctx, vocab, &n) ? kq_alloc_for((void **)&j->o.logits, n, sizeof *j->o.logits,
                                                             "the first window's logits", err)
                                              : kq_fail(err, KQ_E_ARG, "--ctx %zu is too large", j->o.ctx);
    if (!st)
        st = kq_alloc_for((void **)&j->o.per_window, windows, sizeof *j->o.per_window, "windows", err);
    if (!st && opt->save_logits && windows)
        st = kq_kld_writer_open(opt->save_logits, j->o.ctx, vocab, windows, j->text ? j->text : j->ids,
                                &j->o.save, err);
    return st;
}

/* Open the file of the reference's hidden states on these windows in the folder `cache`. Its name is a hash
 * of everything that the states depend on. */
static kq_status open_cache(job *j, const char *cache, size_t chunks, kq_error *err)
{
    const kq_source *src = kq_model_file_source(j->r);
    const size_t all = j->n_ids / j->o.ctx, windows = chunks && chunks < all ? chunks : all;
    char model[33], ids[33], key[300];
    kq_status st = windows ? kq_source_fingerprint(src, model, err) : KQ_OK;
    if (st || !windows) /* no whole window: kq_evaluate reports it */
        return st;
    kq_hash *h = kq_hash_new();
    if (!h)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: hidden states");
    kq_hash_add(h, j->ids, windows * j->o.ctx * sizeof *j->ids);
    kq_hash_finish(h, ids);
    snprintf(key, sizeof key, "kronq %s, model %s, tokens %s, %zu windows of %zu, %s, %s", kq_version(),
             model, ids, windows, j->o.ctx, kq_isa_name(j->o.isa), j->o.compute == KQ_BF16 ? "bf16" : "f32");
    return kq_hidden_open(cache, key, windows, j->o.ctx, kq_source_config(src)->d_model, &j->o.hidden, err);
}

static kq_status write_windows(const char *path, const job *j, const kq_eval_figures *res, kq_error *err)
{
    kq_out *out;
    kq_status st = kq_out_open(path, &out, err);
    if (st)
        return st;
    const char *head = res->has_kld ? "window,tokens,nll,ppl,kld,top1\n" : "window,tokens,nll,ppl\n";
    st = kq_out_write(out, head, strlen(head), err);
    for (size_t w = 0; w < res->windows && !st; w++) {
        const kq_eval_window *p = &j->o.per_window[w];
        char line[256];
        int n = snprintf(line, sizeof line, "%zu,%zu,%.9g,%.9g", w, res->tokens / res->windows, p->nll,
                         exp(p->nll));
        if (res->has_kld)
            n += snprintf(line + n, sizeof line - (size_t)n, ",%.9g,%.9g", p->kld, p->top1);
        line[n++] = '\n';
        st = kq_out_write(out, line, (size_t)n, err);
    }
    if (st)
        kq_out_abort(out);
    return st ? st : kq_out_commit(out, err);
}

static void set_comparison(json_t *o, const char *reference, const kq_eval_figures *res)
{
    static const char *const name[KQ_N_QUANTILE] = {"min", "0.1", "1",  "5",    "10", "median",
                                                    "90",  "95",  "99", "99.9", "max"};
    json_t *q = json_object();
    json_object_set_new(o, "reference", json_string(reference));
    set_measure(o, "kld", res->kld, res->kld_stderr, res->kld_stderr_windows);
    for (int i = 0; i < KQ_N_QUANTILE; i++)
        json_object_set_new(q, name[i], json_real(res->kld_quantile[i]));
    json_object_set_new(o, "kld_percentiles", q);
    set_measure(o, "top1", res->top1, res->top1_stderr, res->top1_stderr_windows);
    json_object_set_new(o, "reference_nll", json_real(res->reference_nll));
    json_object_set_new(o, "reference_ppl", json_real(exp(res->reference_nll)));
    json_object_set_new(o, "ln_ppl_ratio", json_real(res->ratio));
    json_object_set_new(o, "ln_ppl_ratio_stderr", json_real(res->ratio_stderr));
    json_object_set_new(o, "dp_mean", json_real(res->dp_mean));
    json_object_set_new(o, "dp_rms", json_real(res->dp_rms));
}

/* The forecast that a checkpoint made for a size carries in its config.json, and what was measured over it.
 */
static void set_forecast(json_t *o, const kq_source *src, double kld)
{
    json_t *config = kq_source_is_kronq(src) ? kq_json_again(kq_source_config_json(src)) : NULL;
    const double forecast =
        json_number_value(json_object_get(json_object_get(config, "quantization_config"), "forecast_kld"));
    if (forecast > 0) {
        json_object_set_new(o, "forecast_kld", json_real(forecast));
        json_object_set_new(o, "kld_over_forecast", json_real(kld / forecast));
    }
    json_decref(config);
}

static json_t *report(const job *j, const char *model, const char *reference, const char *text_file,
                      bool spell_special, const kq_eval_figures *res, double seconds)
{
    json_t *o = json_pack("{s:s, s:s?, s:s, s:I, s:I, s:I}", "model", model, "text",
                          text_file ? kq_text_shown(text_file) : NULL, "convention",
                          j->o.half ? "llama.cpp" : "kronq", "ctx", (json_int_t)j->o.ctx, "windows",
                          (json_int_t)res->windows, "tokens", (json_int_t)res->tokens);
    json_t *windows = json_array();
    if (j->read.report && !json_object_set(o, "texts", j->read.report))
        json_object_set_new(o, "parse_special", json_boolean(!spell_special));
    set_measure(o, "ppl", res->ppl, res->ppl_stderr, res->ppl_stderr_windows);
    set_measure(o, "nll", res->nll, res->nll_stderr, res->nll_stderr_windows);
    if (res->has_kld)
        set_comparison(o, reference, res);
    if (res->has_kld)
        set_forecast(o, kq_model_file_source(j->m), res->kld);
    for (size_t w = 0; w < res->windows; w++) {
        const kq_eval_window *p = &j->o.per_window[w];
        json_t *one = json_pack("{s:f, s:f}", "nll", p->nll, "ppl", exp(p->nll));
        if (res->has_kld) {
            json_object_set_new(one, "kld", json_real(p->kld));
            json_object_set_new(one, "top1", json_real(p->top1));
        }
        json_array_append_new(windows, one);
    }
    json_object_set_new(o, "per_window", windows);
    json_object_set_new(o, "compute", json_string(j->o.compute == KQ_BF16 ? "bf16" : "f32"));
    json_object_set_new(o, "isa", json_string(kq_isa_name(j->o.isa)));
    json_object_set_new(o, "seconds", json_real(seconds));
    json_object_set_new(o, "peak_rss_bytes", json_integer((json_int_t)kq_peak_rss_bytes()));
    return o;
}

kq_status kq_eval_text(const char *model, const char *reference, const char *text_file,
                       const kq_eval_text_options *given, char **result_json, kq_error *err)
{
    KQ_C_LOCALE;
    kq_eval_text_options whole;
    const kq_eval_text_options *opt = &whole;
    const double start = kq_now_s();
    const bool saved = reference && kq_kld_base_is(reference);
    job j = {0};
    kq_eval_figures res;
    if (result_json)
        *result_json = NULL;
    kq_status st = KQ_OPTIONS_READ(kq_eval_text_options, &whole, given, err);
    if (!st)
        st = kq_settings_check(KQ_EVAL_TEXT_OPTIONS, KQ_FOR_EVAL_TEXT, &whole, err);
    if (st)
        return st;
    if (!text_file && !saved)
        return kq_fail(err, KQ_E_ARG,
                       "a text is missing (--ppl FILE): only a file of saved logits brings its own");
    if (opt->cache && (!reference || saved))
        return kq_fail(err, KQ_E_ARG,
                       "--cache keeps a reference model's hidden states: --kld MODEL is missing");
    if ((st = kq_eval_options_of(&opt->common, &j.o, err)))
        return st;
    j.o.chunks = opt->chunks;
    j.o.memory = opt->memory;
    j.o.half = saved || opt->save_logits;
    j.o.base = saved ? &j.base : NULL;
    if ((st = kq_model_file_open(model, j.o.isa, &j.m, err)) ||
        (saved && (st = kq_kld_base_open(reference, &j.base, err))) ||
        (reference && !saved && (st = kq_model_file_open(reference, j.o.isa, &j.r, err))) ||
        (st = choose_ctx(&j, model, reference, opt, err)) || (st = choose_ids(&j, text_file, opt, err)) ||
        (st = open_outputs(&j, opt, err)) ||
        (opt->cache && (st = open_cache(&j, opt->cache, opt->chunks, err))) ||
        (st = kq_evaluate(kq_model_file_weights(j.m), j.r ? kq_model_file_weights(j.r) : NULL, j.ids, j.n_ids,
                          &j.o, &res, err)))
        goto out;
    if (j.o.hidden && !kq_hidden_whole(j.o.hidden) && (st = kq_hidden_finish(j.o.hidden, err)))
        goto out;
    if (j.o.save) {
        st = kq_out_commit(j.o.save, err);
        j.o.save = NULL;
    }
    if (!st && opt->logits)
        st = write_logits(opt->logits, j.ids, j.o.logits, j.o.ctx,
                          kq_source_config(kq_model_file_source(j.m))->vocab_size, err);
    if (!st && opt->per_window)
        st = write_windows(opt->per_window, &j, &res, err);
    if (st)
        goto out;
    if (!result_json)
        goto out;
    json_t *o = report(&j, model, reference, text_file, opt->reading.spell_special, &res, kq_now_s() - start);
    if (!o || !(*result_json = json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(9))))
        st = kq_fail(err, KQ_E_MEMORY, "out of memory: the result");
    json_decref(o);
out:
    job_close(&j);
    return st;
}
