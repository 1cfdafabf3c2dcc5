/* A forecast needs one conditioning of each module's factors; rounding it at every number of bits would need
 * three searches. So bits are chosen by forecasts, and each module is rounded once. bits.h. */
#include "quant/bits.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "quant/aim.h"
#include "settings/settings.h"
#include "source/regex.h"
#include "sweep/seal.h"

static bool is_whole(double bits)
{
    return bits == floor(bits);
}

static bool is_mixed(const kq_quantize_options *opt)
{
    return !is_whole(opt->bits) || opt->n_module_bits || kq_aim_given(opt);
}

/* Of a linear in bits, forecasts and everything else that has one entry a linear. */
static size_t linear_index(size_t layer, int id)
{
    return layer * KQ_N_LINEAR + (size_t)id;
}

kq_status kq_bits_check(const kq_quantize_options *opt, kq_error *err)
{
    const kq_status status = kq_aim_check(opt, err);
    return status ? status : kq_settings_check(KQ_QUANTIZE_OPTIONS, KQ_FOR_QUANTIZE, opt, err);
}

kq_status kq_bits_apply_rule(const kq_prepared *p, const char *text, const kq_bits_range *range, uint8_t *k,
                             kq_error *err)
{
    const char *equals = strrchr(text, '=');
    if (!equals || equals == text || equals[1] < '0' + range->least || equals[1] > '0' + range->most ||
        equals[2])
        return kq_fail(err, KQ_E_ARG, "--module-bits %s: expected REGEX=BITS, e.g. %s", text, range->example);
    kq_regex *pattern;
    kq_status status = kq_regex_new("--module-bits", text, (size_t)(equals - text), &pattern, err);
    if (status)
        return status;
    size_t matched = 0;
    kq_model_tensor t;
    for (size_t i = 0; kq_selected_next(p, &i, &t) && !status; i++) {
        bool yes = false;
        if ((status = kq_regex_matches(pattern, t.module, &yes, err)) || !yes)
            continue;
        matched++;
        k[i] = k[i] ? k[i] : (uint8_t)(equals[1] - '0');
    }
    kq_regex_free(pattern);
    if (!status && !matched)
        status = kq_fail(err, KQ_E_ARG,
                         "--module-bits %s: matches no module that is quantized; they are called like "
                         "model.layers.0.self_attn.q_proj",
                         text);
    return status;
}

kq_status kq_bits_open(const kq_prepared *p, kq_bits *b, kq_error *err)
{
    const bool aim = kq_aim_given(p->opt);
    *b = (kq_bits){.p = p,
                   .round = {.sigma_reg = p->opt->sigma_reg,
                             .seed = p->opt->common.seed,
                             .threads = p->threads,
                             .shrink = p->opt->shrink},
                   .settled = !aim,
                   .shared = aim || !is_whole(p->opt->bits)};
    kq_status status = kq_channel_scales_parse(p->opt->channel_scales, &b->round.channel_scales, err);
    if (status)
        return status;
    if (!(b->k = kq_calloc(p->cfg->n_layer * KQ_N_LINEAR, 1)))
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the modules' bits");
    static const kq_bits_range range = {KQ_BITS_MIN, KQ_BITS_MAX, "'down_proj=3'; 2, 3 or 4 are possible"};
    for (size_t i = 0; i < p->opt->n_module_bits; i++) {
        if ((status = kq_bits_apply_rule(p, p->opt->module_bits[i], &range, b->k, err)))
            return status;
    }
    double total = 0, least = 0;
    kq_model_tensor t;
    for (size_t i = 0; kq_selected_next(p, &i, &t); i++) {
        const double weights = (double)t.rows * (double)t.cols;
        if (!b->k[i]) {
            b->settled = b->settled && !b->shared;
            b->k[i] = b->shared ? 0 : (uint8_t)p->opt->bits;
        }
        total += weights;
        least += weights * (b->k[i] ? b->k[i] : KQ_BITS_MIN);
    }
    if (b->shared && !aim && least > p->opt->bits * total) /* refuse it before hours of work, not after */
        return kq_fail(err, KQ_E_ARG, "--bits %g: with --module-bits the average is at least %.4g",
                       p->opt->bits, least / total);
    return KQ_OK;
}

void kq_bits_free(kq_bits *b)
{
    kq_free(b->k);
    kq_free(b->forecast);
    *b = (kq_bits){0};
}

kq_status kq_bits_check_method(const kq_bits *b, kq_error *err)
{
    if (b->settled || kq_method_needs_gradients(b->p->factor.method))
        return KQ_OK;
    const char *file = b->p->opt->factors;
    char aim[64];
    if (kq_aim_given(b->p->opt))
        return kq_fail(err, KQ_E_ARG,
                       "%s%sthe method %s predicts no loss by which the bits for %s could be chosen; take "
                       "factors of flipflop or another method with gradients, or --bits",
                       file ? file : "", file ? ": " : "", kq_method_name(b->p->factor.method),
                       kq_aim_text(b->p->opt, aim));
    return kq_fail(err, KQ_E_ARG,
                   "--bits %g: %s%sthe method %s predicts no loss by which bits could be shared out; take "
                   "factors of flipflop or "
                   "another method with gradients, or 2, 3 or 4 bits with --module-bits for the exceptions",
                   b->p->opt->bits, file ? file : "", file ? ": " : "", kq_method_name(b->p->factor.method));
}

double kq_bits_of(void *ctx, size_t layer, kq_linear_id id)
{
    const kq_bits *b = ctx;
    if (!(b->p->selected[layer] >> id & 1))
        return 0;
    const int k = b->k[linear_index(layer, id)];
    return k ? k : kq_aim_given(b->p->opt) ? KQ_BITS_MAX : b->p->opt->bits;
}

double kq_bits_forecast(const kq_bits *b, size_t layer, kq_linear_id id)
{
    const int k = b->k[linear_index(layer, id)];
    return b->forecast && k
               ? kq_forecast_loss(&b->forecast[linear_index(layer, id)], b->error[k - KQ_BITS_MIN])
               : NAN;
}

bool kq_bits_settings(const kq_quantize_options *opt, json_t *settings)
{
    if (!is_mixed(opt))
        return true;
    bool ok = kq_aim_given(opt) ? kq_aim_settings(opt, settings)
                                : !json_object_set_new(settings, "bits_asked", kq_bits_number(opt->bits));
    json_t *rules = json_array();
    for (size_t i = 0; i < opt->n_module_bits; i++)
        ok = !json_array_append_new(rules, json_string(opt->module_bits[i])) && ok;
    if (opt->n_module_bits)
        ok = !json_object_set(settings, "module_bits_rules", rules) && ok;
    json_decref(rules);
    return ok;
}

json_t *kq_quantize_settings(const kq_quantize_options *opt)
{
    json_t *o = json_pack("{s:o}", "bits", kq_bits_number(opt->bits));
    if (o && kq_settings_write(KQ_QUANTIZE_OPTIONS, opt, KQ_IN_CHECKPOINT, NULL, o) &&
        kq_bits_settings(opt, o)) {
        kq_bits_forget_chosen(opt, o);
        return o;
    }
    json_decref(o);
    return NULL;
}

void kq_bits_forget_chosen(const kq_quantize_options *opt, json_t *settings)
{
    if (!kq_aim_given(opt))
        return;
    json_object_del(settings, "bits");
    if (!opt->keep_embed_bits)
        json_object_del(settings, "embed_bits");
    if (!opt->keep_head_bits)
        json_object_del(settings, "head_bits");
}

json_t *kq_bits_number(double bits)
{
    return is_whole(bits) ? json_integer((json_int_t)bits) : json_real(bits);
}

const char *kq_bits_text(const kq_quantize_options *opt, char buf[64])
{
    char aim[64];
    if (kq_aim_given(opt))
        snprintf(buf, 64, "%s", kq_aim_text(opt, aim));
    else
        snprintf(buf, 64, "%g bits%s%s", opt->bits, is_whole(opt->bits) ? "" : " on average",
                 opt->n_module_bits ? ", some by --module-bits" : "");
    return buf;
}

/* ---- sharing out ---- */

static kq_status forecast_linear(kq_output *o, const kq_linear_factors *f, kq_error *err)
{
    kq_forecast *forecast = &o->bits->forecast[linear_index(f->layer, (int)f->id)];
    const kq_weights *weights = kq_model_file_weights(o->p.model);
    float *W;
    if (f->report->lack) { /* nothing is lost there, at any number of bits */
        *forecast = (kq_forecast){.loss = 0, .spread = 1};
        return KQ_OK;
    }
    kq_status status = kq_alloc_for((void **)&W, f->m * f->n, sizeof *W, f->name, err);
    if (!status)
        status = weights->linear(weights->ctx, f->layer, f->id, W, err);
    if (!status) {
        const kq_round_input in = {
            .name = f->name, .W = W, .m = f->m, .n = f->n, .H_in = f->H_in, .H_out = f->H_out};
        status = kq_forecast_linear(&in, &o->bits->round, forecast, err);
    }
    kq_free(W);
    return status;
}

/* A block's file of forecasts: a JSON array with an entry for each linear, [loss, spread], or null where it
 * is not selected. */
static kq_status write_forecasts(kq_output *o, size_t layer, const char *path, kq_error *err)
{
    json_t *list = json_array();
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        const kq_forecast *f = &o->bits->forecast[linear_index(layer, id)];
        json_array_append_new(list, o->p.selected[layer] >> id & 1 ? json_pack("[f, f]", f->loss, f->spread)
                                                                   : json_null());
    }
    char *text = list ? json_dumps(list, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    kq_status status = text ? kq_file_write(path, text, strlen(text), err)
                            : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    free(text);
    json_decref(list);
    return status;
}

static const kq_stage forecasting = {.stem = "forecast",
                                     .suffix = "json",
                                     .doing = "forecasting",
                                     .linear = forecast_linear,
                                     .block = write_forecasts};

/* A block's forecasts out of the job's file. */
static kq_status parse_forecasts(kq_output *o, size_t layer, const char *path, const json_t *list,
                                 kq_error *err)
{
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        const json_t *pair = json_array_get(list, (size_t)id), *loss = json_array_get(pair, 0),
                     *spread = json_array_get(pair, 1);
        if (!(o->p.selected[layer] >> id & 1))
            continue;
        if (!json_is_number(loss) || !json_is_number(spread))
            return kq_fail(
                err, KQ_E_FORMAT,
                "%s: holds no forecast of linear %d; --fresh discards the unfinished work and starts anew",
                path, id);
        o->bits->forecast[linear_index(layer, id)] =
            (kq_forecast){json_number_value(loss), json_number_value(spread)};
    }
    return KQ_OK;
}

/* The forecasts that an interrupted run has made already. */
static kq_status read_forecasts(kq_output *o, size_t layer, kq_error *err)
{
    char *path, *text = NULL;
    size_t size;
    if (!kq_job_part_done(&o->job, forecasting.stem, layer, forecasting.suffix))
        return KQ_OK;
    kq_status status = kq_job_path(&o->job, forecasting.stem, layer, forecasting.suffix, &path, err);
    if (!status)
        status = kq_seal_check(path, err);
    if (!status)
        status = kq_file_read(path, 1 << 16, &text, &size, err);
    if (!status) {
        json_t *list = json_loadb(text, size, 0, NULL);
        status = parse_forecasts(o, layer, path, list, err);
        json_decref(list);
    }
    kq_free(text);
    kq_free(path);
    return status;
}

static kq_status code_errors(kq_bits *b, kq_error *err)
{
    kq_code code;
    kq_status status = kq_code_parse(b->p->opt->code, &code, err);
    for (int i = 0; i < KQ_N_BITS && !status; i++) {
        kq_trellis *t = NULL;
        if (!(status = kq_trellis_new(code, KQ_BITS_MIN + i, b->p->isa, NULL, &t, err)))
            status = kq_trellis_error(t, &b->error[i], err);
        kq_trellis_free(t);
    }
    return status;
}

/* The choices of every selected linear: all numbers of bits, or the one that is settled. The cost is bits. */
static void fill_items(const kq_bits *b, kq_item *items)
{
    kq_model_tensor t;
    size_t n = 0;
    for (size_t i = 0; kq_selected_next(b->p, &i, &t); i++) {
        kq_item *s = &items[n++];
        *s = (kq_item){.n = 0};
        for (int k = KQ_BITS_MIN; k <= KQ_BITS_MAX; k++)
            if (!b->k[i] || b->k[i] == k)
                s->choice[s->n++] =
                    (kq_choice){.bits = k,
                                .cost = (double)t.rows * (double)t.cols * k,
                                .loss = kq_forecast_loss(&b->forecast[i], b->error[k - KQ_BITS_MIN])};
    }
}

/* Choose by the forecasts, and say how many modules got how many bits. */
static kq_status allocate(kq_bits *b, kq_error *err)
{
    kq_item *items;
    kq_model_tensor t;
    double total = 0;
    size_t n = 0, count[KQ_N_BITS] = {0};
    kq_status status =
        kq_alloc_for((void **)&items, b->p->n_selected, sizeof *items, "shares of the bits", err);
    if (status)
        return status;
    fill_items(b, items);
    for (size_t i = 0; kq_selected_next(b->p, &i, &t); i++)
        total += (double)t.rows * (double)t.cols;
    /* 2.3 * 10 is less than 23 */
    status =
        kq_allocate(items, b->p->n_selected, 0, b->p->opt->bits * total * (1 + 1e-12), &b->allocation, err);
    b->average = b->allocation.cost / total;
    for (size_t i = 0; kq_selected_next(b->p, &i, &t) && !status; i++) {
        b->k[i] = (uint8_t)items[n].choice[items[n].chosen].bits;
        count[b->k[i] - KQ_BITS_MIN]++;
        n++;
    }
    kq_free(items);
    char line[200];
    snprintf(line, sizeof line,
             "%.4f bits a weight on average: %zu modules with 2 bits, %zu with 3, %zu with 4", b->average,
             count[0], count[1], count[2]);
    const kq_common *c = &b->p->opt->common;
    if (!status && c->progress && c->progress(c->ctx, NULL, 0, line))
        status = kq_fail(err, KQ_E_INTERRUPTED, "stopped after the bits were shared out");
    b->settled = !status;
    return status;
}

kq_status kq_bits_share(kq_output *o, kq_error *err)
{
    kq_bits *b = o->bits;
    const size_t n_layer = o->p.cfg->n_layer;
    kq_status status = KQ_OK;
    if (!(b->forecast = kq_calloc(n_layer * KQ_N_LINEAR, sizeof *b->forecast)))
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: forecasts");
    for (size_t l = 0; l < n_layer && !o->work->planning && !status; l++)
        status = read_forecasts(o, l, err);
    if (!status)
        status = kq_work_stage(o->work, &forecasting, err);
    if (!status && !(status = code_errors(b, err)))
        status = kq_aim_given(&o->opt) ? kq_aim_choose(o, err) : allocate(b, err);
    return status;
}
