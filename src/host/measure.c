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

enum { WINDOW = 2048 /* tokens, where the caller does not say and the model's context allows it */ };

/* ---- a model in memory --------------------------------------------------------------------------------- */

static kq_eval_result *result_of(const kq_eval_figures *f, double seconds)
{
    kq_eval_result *r = kq_calloc(1, sizeof *r);
    if (r)
        *r = (kq_eval_result){.windows = f->windows,
                              .tokens = f->tokens,
                              .nll = f->nll,
                              .nll_stderr = f->nll_stderr,
                              .nll_stderr_windows = f->nll_stderr_windows,
                              .ppl = f->ppl,
                              .ppl_stderr = f->ppl_stderr,
                              .ppl_stderr_windows = f->ppl_stderr_windows,
                              .kld = NAN,
                              .kld_stderr = NAN,
                              .kld_stderr_windows = NAN,
                              .kld_median = NAN,
                              .kld_90 = NAN,
                              .kld_99 = NAN,
                              .kld_max = NAN,
                              .top1 = NAN,
                              .top1_stderr = NAN,
                              .top1_stderr_windows = NAN,
                              .reference_ppl = NAN,
                              .ln_ppl_ratio = NAN,
                              .ln_ppl_ratio_stderr = NAN,
                              .seconds = seconds};
    return r;
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
    *out = result_of(&figures, kq_now_s() - start);
    return *out ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: the result");
}

/* ---- the JSON of kq_eval_text -------------------------------------------------------------------------- */

kq_status kq_eval_result_read(const char *result_json, kq_eval_result **out, kq_error *err)
{
    KQ_C_LOCALE;
    json_error_t wrong;
    json_t *o = json_loads(result_json, 0, &wrong);
    const json_t *q = json_object_get(o, "kld_percentiles");
    kq_status status = KQ_OK;
    *out = NULL;
    if (!json_is_number(json_object_get(o, "ppl")) || !json_is_number(json_object_get(o, "windows")))
        status = kq_fail(err, KQ_E_FORMAT, "this is no result of kq_eval_text: %s",
                         o ? "it has no perplexity" : wrong.text);
    kq_eval_result *r = status ? NULL : kq_calloc(1, sizeof *r);
    if (!status && !r)
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: the result");
    if (!status)
        *r = (kq_eval_result){.windows = kq_report_whole(o, "windows"),
                              .tokens = kq_report_whole(o, "tokens"),
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
                              .kld_99 = kq_report_number(q, "99"),
                              .kld_max = kq_report_number(q, "max"),
                              .top1 = kq_report_number(o, "top1"),
                              .top1_stderr = kq_report_number(o, "top1_stderr"),
                              .top1_stderr_windows = kq_report_number(o, "top1_stderr_windows"),
                              .reference_ppl = kq_report_number(o, "reference_ppl"),
                              .ln_ppl_ratio = kq_report_number(o, "ln_ppl_ratio"),
                              .ln_ppl_ratio_stderr = kq_report_number(o, "ln_ppl_ratio_stderr"),
                              .seconds = kq_report_number(o, "seconds")};
    *out = r;
    json_decref(o);
    return status;
}

void kq_eval_result_free(kq_eval_result *result)
{
    kq_free(result);
}
