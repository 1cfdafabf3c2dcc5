/* Perplexity of a kq_model on ids that the caller has, and the results of measurements as structs. */
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "base/locale.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/time.h"
#include "eval/eval.h"
#include "host/model.h"
#include "host/report.h"

/* tokens of a window where the caller gives none; less where the model's context is smaller */
enum { WINDOW = 2048 };

/* ---- a model in memory --------------------------------------------------------------------------------- */

/* A kq_eval_result together with the JSON that its text belongs to. */
typedef struct result {
    kq_eval_result public; /* the first member, because the caller frees the struct through a pointer to it */
    json_t *json;          /* owned; NULL: none */
} result;

static kq_eval_result *result_of(const kq_eval_figures *f, size_t window, double seconds)
{
    result *r = kq_calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->public = (kq_eval_result){.windows = f->windows,
                                 .ctx = window,
                                 .tokens = f->tokens,
                                 .nll = f->nll,
                                 .nll_stderr = f->nll_stderr,
                                 .nll_stderr_windows = f->nll_stderr_windows,
                                 .ppl = f->ppl,
                                 .ppl_stderr = f->ppl_stderr,
                                 .ppl_stderr_windows = f->ppl_stderr_windows,
                                 .seconds = seconds};
    double *const of_a_reference[] = {
        &r->public.kld,           &r->public.kld_stderr,   &r->public.kld_stderr_windows,
        &r->public.kld_median,    &r->public.kld_90,       &r->public.kld_95,
        &r->public.kld_99,        &r->public.kld_999,      &r->public.kld_max,
        &r->public.top1,          &r->public.top1_stderr,  &r->public.top1_stderr_windows,
        &r->public.reference_ppl, &r->public.ln_ppl_ratio, &r->public.ln_ppl_ratio_stderr,
        &r->public.dp_mean,       &r->public.dp_rms};
    for (size_t i = 0; i < sizeof of_a_reference / sizeof *of_a_reference; i++)
        *of_a_reference[i] = NAN;
    return &r->public;
}

kq_status kq_model_perplexity(kq_model *m, const int32_t *ids, size_t n_ids, size_t window,
                              kq_eval_result **out, kq_error *err)
{
    KQ_C_LOCALE;
    const double start = kq_now_s();
    kq_eval_options opt;
    kq_eval_figures figures;
    kq_progress guard;
    kq_common common = kq_progress_guard(&m->common, &guard);
    *out = NULL;
    common.isa = kq_isa_name(m->isa);
    common.compute = m->asked;
    common.threads = m->threads;
    kq_status status = kq_eval_options_of(&common, &opt, err);
    if (status)
        return status;
    const size_t most = m->cfg->max_position;
    opt.ctx = window ? window : most && most < WINDOW ? most : WINDOW;
    if (most && opt.ctx > most)
        return kq_fail(err, KQ_E_ARG, "windows of %zu tokens: the model's context is %zu", opt.ctx, most);
    for (size_t i = 0; i < n_ids; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= m->cfg->vocab_size)
            return kq_fail(err, KQ_E_ARG, "token %zu is %d, but the vocabulary has %zu", i, (int)ids[i],
                           m->cfg->vocab_size);
    if ((status = kq_evaluate(kq_model_file_weights(m->file), NULL, ids, n_ids, &opt, &figures, err)))
        return status;
    *out = result_of(&figures, opt.ctx, kq_now_s() - start);
    return *out ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: the result");
}

/* ---- the JSON of kq_eval_text -------------------------------------------------------------------------- */

kq_status kq_eval_result_read(const char *result_json, kq_eval_result **out, kq_error *err)
{
    KQ_C_LOCALE;
    *out = NULL;
    result *r = kq_calloc(1, sizeof *r);
    if (!r)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the result");
    kq_status status = kq_report_load(result_json, "result of kq_eval_text", &r->json, err);
    const json_t *o = r->json, *q = json_object_get(o, "kld_percentiles"),
                 *text = json_array_get(json_object_get(o, "texts"), 0);
    const char *convention = json_string_value(json_object_get(o, "convention"));
    if (!status &&
        (!json_is_number(json_object_get(o, "ppl")) || !json_is_number(json_object_get(o, "windows"))))
        status = kq_fail(err, KQ_E_FORMAT, "this is no result of kq_eval_text: it has no perplexity");
    if (status) {
        kq_eval_result_free(&r->public);
        return status;
    }
    r->public = (kq_eval_result){.text = json_string_value(json_object_get(text, "file")),
                                 .windows = kq_report_whole(o, "windows"),
                                 .ctx = kq_report_whole(o, "ctx"),
                                 .tokens = kq_report_whole(o, "tokens"),
                                 .llama_cpp = convention && !strcmp(convention, "llama.cpp"),
                                 .nll = kq_report_number(o, "nll"),
                                 .nll_stderr = kq_report_number(o, "nll_stderr"),
                                 .nll_stderr_windows = kq_report_number(o, "nll_stderr_windows"),
                                 .ppl = kq_report_number(o, "ppl"),
                                 .ppl_stderr = kq_report_number(o, "ppl_stderr"),
                                 .ppl_stderr_windows = kq_report_number(o, "ppl_stderr_windows"),
                                 .has_reference = json_object_get(o, "kld") != NULL,
                                 .kld = kq_report_number(o, "kld"),
                                 .kld_stderr = kq_report_number(o, "kld_stderr"),
                                 .kld_stderr_windows = kq_report_number(o, "kld_stderr_windows"),
                                 .kld_median = kq_report_number(q, "median"),
                                 .kld_90 = kq_report_number(q, "90"),
                                 .kld_95 = kq_report_number(q, "95"),
                                 .kld_99 = kq_report_number(q, "99"),
                                 .kld_999 = kq_report_number(q, "99.9"),
                                 .kld_max = kq_report_number(q, "max"),
                                 .top1 = kq_report_number(o, "top1"),
                                 .top1_stderr = kq_report_number(o, "top1_stderr"),
                                 .top1_stderr_windows = kq_report_number(o, "top1_stderr_windows"),
                                 .reference_ppl = kq_report_number(o, "reference_ppl"),
                                 .ln_ppl_ratio = kq_report_number(o, "ln_ppl_ratio"),
                                 .ln_ppl_ratio_stderr = kq_report_number(o, "ln_ppl_ratio_stderr"),
                                 .dp_mean = kq_report_number(o, "dp_mean"),
                                 .dp_rms = kq_report_number(o, "dp_rms"),
                                 .seconds = kq_report_number(o, "seconds")};
    *out = &r->public;
    return KQ_OK;
}

void kq_eval_result_free(kq_eval_result *of)
{
    result *r = (result *)of;
    if (!r)
        return;
    json_decref(r->json);
    kq_free(r);
}
