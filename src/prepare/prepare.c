/* Checks and opens what all long work and every plan need. The order is that in which a user wants to hear of
 * mistakes: options, then the model, then the modules, then the texts. */
#include "prepare/prepare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/threads.h"
#include "kern/gemm.h"
#include "prepare/sequences.h"
#include "settings/settings.h"
#include "source/regex.h"

bool kq_selected_next(const kq_prepared *p, size_t *index, kq_model_tensor *t)
{
    for (; *index < kq_model_n_linears(p->cfg); ++*index)
        if (p->selected[*index / KQ_N_LINEAR] >> *index % KQ_N_LINEAR & 1) {
            *t = kq_model_linear_at(p->cfg, *index);
            return true;
        }
    return false;
}

/* Select the linears whose names --only matches; without --only all of them. */
static kq_status select_modules(kq_prepared *p, kq_error *err)
{
    const char *only = p->opt->only;
    kq_regex *pattern = NULL;
    kq_status status = only ? kq_regex_new("--only", only, strlen(only), &pattern, err) : KQ_OK;
    for (size_t i = 0; i < kq_model_n_linears(p->cfg) && !status; i++) {
        const kq_model_tensor t = kq_model_linear_at(p->cfg, i);
        bool selected = true;
        if (pattern)
            status = kq_regex_matches(pattern, t.module, &selected, err);
        if (status || !selected)
            continue;
        p->selected[t.layer] |= (uint8_t)(1 << t.linear);
        p->n_selected++;
    }
    kq_regex_free(pattern);
    if (!status && !p->n_selected)
        status = kq_fail(err, KQ_E_ARG,
                         "--only %s: matches no module; they are called like model.layers.0.self_attn.q_proj",
                         only);
    return status;
}

static kq_status check_calibration(const kq_prepared *p, kq_error *err)
{
    const kq_calibration *c = &p->opt->calibration;
    kq_status status = kq_settings_check(KQ_QUANTIZE_OPTIONS, KQ_FOR_CALIBRATE, p->opt, err);
    if (status)
        return status;
    if (p->cfg->max_position && c->seq_len > p->cfg->max_position)
        return kq_fail(err, KQ_E_ARG, "--seq-len %zu: the model's context is %zu", c->seq_len,
                       p->cfg->max_position);
    if (c->tokens < c->seq_len)
        return kq_fail(err, KQ_E_ARG, "--tokens %zu: less than one sequence of %zu (--seq-len)", c->tokens,
                       c->seq_len);
    if (p->n_seq % c->batch || p->n_seq < c->batch)
        return kq_fail(err, KQ_E_ARG, "--batch %zu: does not divide the %zu sequences", c->batch, p->n_seq);
    const kq_needs needs = kq_method_needs(p->factor.method);
    if (needs != KQ_NEEDS_GRADIENTS && c->batch != 1)
        return kq_fail(err, KQ_E_ARG, "--batch %zu: method %s takes every token by itself", c->batch,
                       kq_method_name(p->factor.method));
    if (needs == KQ_NEEDS_INPUTS && c->sampled_labels)
        return kq_fail(err, KQ_E_ARG, "--labels sampled: method %s looks at inputs alone",
                       kq_method_name(p->factor.method));
    if (c->draws > 1 && !c->sampled_labels)
        return kq_fail(err, KQ_E_ARG, "--draws %zu: more than 1 only with --labels sampled", c->draws);
    return KQ_OK;
}

/* Check the options that need no model: how to compute, and the method. */
static kq_status prepare_options(const kq_quantize_options *opt, kq_prepared *p, kq_error *err)
{
    *p = (kq_prepared){.opt = opt};
    kq_status status;
    if ((status = kq_isa_pick(opt->common.isa, &p->isa, err)) ||
        (status = kq_method_parse(opt->calibration.method, &p->factor.method, err)))
        return status;
    if ((status = kq_compute_pick(opt->common.compute, p->isa, &p->compute, err)))
        return status;
    if ((status = kq_threads_pick(opt->common.threads, &p->threads, err)))
        return status;
    const kq_calibration *c = &opt->calibration;
    const kq_method method = p->factor.method;
    p->factor = kq_factor_defaults();
    p->factor.method = method;
    p->factor.compute = p->compute;
    p->factor.threads = p->threads;
    p->factor.exact = c->exact;
    p->factor.rho = c->rho;
    p->factor.rounds = c->rounds;
    p->factor.early = c->early;
    p->factor.passes = c->passes;
    p->factor.tol = c->tol;
    p->factor.max_iter = c->max_iter;
    p->factor.start_random = c->start_random;
    p->factor.seed = opt->common.seed;
    p->estimate = (kq_sweep_estimate){.factor = &p->factor, .batch = c->batch};
    kq_kern_init(p->isa);
    return KQ_OK;
}

/* Find out which linears of p->cfg are selected. */
static kq_status prepare_modules(kq_prepared *p, kq_error *err)
{
    if (!(p->selected = kq_calloc(p->cfg->n_layer, 1)))
        return kq_fail(err, KQ_E_MEMORY, "out of memory: modules");
    return select_modules(p, err);
}

static kq_status count_sequences(kq_prepared *p, kq_error *err)
{
    const kq_calibration *c = &p->opt->calibration;
    p->n_seq = p->estimate.n_seq = c->seq_len ? c->tokens / c->seq_len : 0;
    return check_calibration(p, err);
}

kq_status kq_prepare_config(const kq_config *cfg, const kq_quantize_options *opt, kq_prepared *p,
                            kq_error *err)
{
    kq_status status = prepare_options(opt, p, err);
    p->cfg = cfg;
    if (!status)
        status = prepare_modules(p, err);
    return status || p->factor.method == KQ_NONE ? status : count_sequences(p, err);
}

kq_status kq_prepare(const char *model, const kq_quantize_options *opt, bool needs_factors, kq_prepared *p,
                     kq_error *err)
{
    const kq_calibration *c = &opt->calibration;
    kq_status status = prepare_options(opt, p, err);
    if (status)
        return status;
    const kq_method method = p->factor.method;
    if ((status = kq_model_file_open(model, p->isa, &p->model, err)))
        return status;
    kq_text_keep();
    p->keeps_pipes = true;
    p->src = kq_model_file_source(p->model);
    p->cfg = kq_source_config(p->src);
    if (kq_source_is_kronq(p->src))
        status = kq_fail(err, KQ_E_ARG, "%s: is quantized already; give the original model", model);
    else
        status = prepare_modules(p, err);
    if (!status && needs_factors && method != KQ_NONE) {
        if (!(status = count_sequences(p, err)))
            status = kq_tokenizer_open(p->src, &p->tok, err);
        /* before any work: a mistyped name, a file that is no text, a conversation that the model has no
         * template for */
        if (!status)
            status = kq_text_fingerprint(opt, p->tok, c->tokens, p->text_hash, err);
    }
    return status;
}

void kq_prepared_free(kq_prepared *p)
{
    if (p->tok)
        kq_tokenizer_close(p->tok);
    kq_model_file_close(p->model);
    kq_free(p->selected);
    kq_windows_free(&p->windows);
    if (p->keeps_pipes)
        kq_text_forget();
    *p = (kq_prepared){0};
}

kq_status kq_prepare_fingerprint(kq_prepared *p, kq_error *err)
{
    return p->fingerprint[0] ? KQ_OK : kq_source_fingerprint(p->src, p->fingerprint, err);
}

/* "text", "text_hash" and "tokens" of the settings. They need more than the options: the text's hash, and the
 * number of tokens that are read. */
static json_t *text_settings(const kq_prepared *p)
{
    const kq_calibration *c = &p->opt->calibration;
    if (!c->n_text)
        return json_pack("{s:s, s:s, s:I}", "text", "sampled from the model", "text_hash", p->text_hash,
                         "tokens", (json_int_t)(p->n_seq * c->seq_len));
    json_t *names = json_array();
    for (size_t i = 0; i < c->n_text; i++)
        json_array_append_new(names, json_string(kq_text_name(c->text[i])));
    return json_pack("{s:o, s:s, s:I}", "text", names, "text_hash", p->text_hash, "tokens",
                     (json_int_t)(p->n_seq * c->seq_len));
}

json_t *kq_prepare_settings(const kq_prepared *p, kq_error *err)
{
    const char *method = kq_method_name(p->factor.method);
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:I}", "kronq", kq_version(), "model", p->fingerprint,
                          "method", method, "isa", kq_isa_name(p->isa), "compute",
                          p->compute == KQ_BF16 ? "bf16" : "f32", "seed", (json_int_t)p->opt->common.seed);
    bool ok = o != NULL;
    if (ok && p->factor.method != KQ_NONE) {
        json_t *calibration = text_settings(p);
        ok = kq_settings_write(KQ_QUANTIZE_OPTIONS, p->opt, KQ_IN_CALIBRATION, method, calibration) &&
             !json_object_set_new(o, "calibration", calibration) &&
             kq_settings_write(KQ_QUANTIZE_OPTIONS, p->opt, KQ_IN_FACTORS, method, o);
    }
    if (ok)
        return o;
    json_decref(o);
    kq_fail(err, KQ_E_MEMORY, "out of memory: settings");
    return NULL;
}

kq_sweep kq_prepare_sweep(const kq_prepared *p, const kq_job *job)
{
    return (kq_sweep){.weights = p->model ? kq_model_file_weights(p->model) : NULL,
                      .ids = p->windows.ids,
                      .window = p->windows.number,
                      .n_seq = p->n_seq,
                      .T = p->opt->calibration.seq_len,
                      .estimates = &p->estimate,
                      .n_estimates = 1,
                      .sampled_labels = p->opt->calibration.sampled_labels,
                      .draws = p->opt->calibration.draws,
                      .isa = p->isa,
                      .compute = p->compute,
                      .threads = p->threads,
                      .seed = p->opt->common.seed,
                      .selected = p->selected,
                      .job = job,
                      .common = &p->opt->common};
}

kq_status kq_prepared_parts(const kq_prepared *p, const kq_job *job, const char *stem, char ***parts,
                            size_t *n, kq_error *err)
{
    kq_status status = KQ_OK;
    *n = 0;
    if (!(*parts = kq_calloc(p->cfg->n_layer, sizeof **parts)))
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", job->work_dir);
    for (size_t l = 0; l < p->cfg->n_layer && !status; l++)
        if (p->selected[l] && !(status = kq_job_path(job, stem, l, "safetensors", &(*parts)[*n], err)))
            ++*n;
    return status;
}

void kq_prepared_free_parts(char **parts, size_t n)
{
    for (size_t i = 0; parts && i < n; i++)
        kq_free(parts[i]);
    kq_free(parts);
}
