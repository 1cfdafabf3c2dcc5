/* kq_plan_ways: the memory, disk and time that calibrating and rounding a model would take, for each way of
 * keeping gradients. It reads the model's configuration and no weights, so that a model can be judged before
 * it is downloaded. */
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/locale.h"
#include "base/mem.h"
#include "base/options.h"
#include "base/text.h"
#include "estimate/seconds.h"
#include "generate/self_text.h"
#include "prepare/plan.h"
#include "quant/bits.h"
#include "sequential/rounding.h"
#include "source/config_json.h"

static size_t result_bytes(const kq_prepared *p)
{
    double bits = (double)(p->cfg->vocab_size * p->cfg->d_model) *
                  (p->opt->embed_bits + (p->cfg->tie_embeddings ? 0 : p->opt->head_bits));
    for (size_t l = 0; l < p->cfg->n_layer; l++)
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            size_t m, n;
            kq_linear_shape(p->cfg, (kq_linear_id)id, &m, &n);
            bits += p->selected[l] >> id & 1 ? p->opt->bits * (double)(m * n) + 16 * (double)(m + n) + 32
                                             : 16 * (double)(m * n);
        }
    return (size_t)(bits / 8);
}

static size_t parameters(const kq_config *cfg)
{
    size_t all = cfg->vocab_size * cfg->d_model * (cfg->tie_embeddings ? 1 : 2);
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        all += cfg->n_layer * m * n;
    }
    return all;
}

/* --size and --bpw: the average bits of the selected linears for which the file comes to the asked size, with
 * the embedding and the head at 8 bits, or at 4 or 2 where more leave less than 2 to the linears. The choice
 * itself needs factors. KQ_E_ARG: not even 2 bits everywhere fit. */
static kq_status take_aim(const kq_prepared *p, kq_quantize_options *opt, kq_error *err)
{
    const double asked =
        opt->most_bytes ? (double)opt->most_bytes : opt->most_bpw * (double)parameters(p->cfg) / 8;
    if (!(asked > 0))
        return KQ_OK;
    for (int rows = 8; rows >= 2; rows /= 2) {
        opt->embed_bits = opt->keep_embed_bits ? opt->embed_bits : rows;
        opt->head_bits = opt->keep_head_bits ? opt->head_bits : rows;
        opt->bits = 2;
        const double at_2 = (double)result_bytes(p);
        opt->bits = 4;
        const double at_4 = (double)result_bytes(p);
        if (asked < at_2)
            continue;
        opt->bits = at_4 > at_2 ? fmin(4, 2 + 2 * (asked - at_2) / (at_4 - at_2)) : 2;
        return KQ_OK;
    }
    opt->bits = 2;
    return kq_fail(err, KQ_E_ARG, "%s: the smallest checkpoint of this model has about %zu bytes",
                   opt->most_bytes ? "--size" : "--bpw", result_bytes(p));
}

static kq_status read_config(const char *model, kq_config *cfg, kq_error *err)
{
    char *path, *text;
    size_t size;
    kq_storage storage;
    if (!kq_path_is_dir(model)) {
        kq_source *src;
        kq_status status = kq_source_open(model, &src, err);
        if (!status)
            *cfg = *kq_source_config(src);
        kq_source_close(src);
        return status;
    }
    kq_status status = kq_path_in(&path, err, model, "config.json");
    if (!status && !(status = kq_file_read(path, 1 << 26, &text, &size, err))) {
        status = kq_config_from_json(text, size, path, cfg, &storage, err);
        kq_free(text);
    }
    kq_free(path);
    return status;
}

static json_t *describe(const kq_prepared *p, const kq_sweep *s, size_t memory, size_t disk,
                        const char *refused, const kq_stage_seconds *t)
{
    json_t *seconds =
        json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "forward", t->forward, "backward", t->backward,
                  "factors", t->factors, "targets", t->targets, "rounding", t->rounding, "tuning", t->tuning,
                  "total", t->forward + t->backward + t->factors + t->targets + t->rounding + t->tuning);
    return json_pack("{s:s, s:s*, s:I, s:I, s:i, s:f, s:o}", "gradients", kq_gradient_way_name(s->way),
                     "refused", refused, "memory_bytes", (json_int_t)memory, "disk_bytes", (json_int_t)disk,
                     "sequences_at_once", s->workers ? s->workers : s->threads, "passes_a_block",
                     kq_count_passes(p, s), "seconds", seconds);
}

/* Bytes that rounding the largest linear takes beside the sweep. */
static size_t rounding_bytes(const kq_config *cfg)
{
    size_t most = 0;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        const size_t bytes = kq_round_bytes(m, n) + 4 * m * n;
        most = bytes > most ? bytes : most;
    }
    return most;
}

/* Add the entry of one way. Too little memory is no error: the entry then says why the way is refused. */
static kq_status add_way(kq_prepared *p, const kq_rates *r, kq_gradient_way way, json_t *ways, kq_error *err)
{
    const kq_quantize_options *given = p->opt;
    kq_quantize_options opt = *given;
    kq_sweep s = kq_prepare_sweep(p, NULL);
    kq_error why = {0};
    size_t memory = 0, disk = 0, more = 2 * result_bytes(p), block, kept;
    opt.gradients = kq_gradient_way_name(way);
    s.receiver_peak = rounding_bytes(p->cfg);
    p->opt = &opt;
    kq_sequential_plan(p, &s.receiver_peak, &more);
    if (kq_sequential_wanted(&opt)) {
        kq_plan_kept_factors(p, &block, &kept);
        more += kept;
    }
    const kq_status refused = kq_plan_settle(p, &s, NULL, more, &memory, &disk, &why);
    p->opt = given;
    if (refused == KQ_E_ARG)
        return kq_fail(err, refused, "%s", why.message);
    const kq_stage_seconds t = kq_count_seconds(p, &s, r);
    json_array_append_new(ways, describe(p, &s, memory, disk, refused ? why.message : NULL, &t));
    return KQ_OK;
}

static kq_status add_ways(kq_prepared *p, const kq_rates *r, json_t *ways, kq_error *err)
{
    const char *only = p->opt->gradients;
    kq_status status = KQ_OK;
    for (kq_gradient_way way = KQ_WAY_MEMORY; way <= KQ_WAY_STREAM && !status; way++) {
        if (only && strcmp(only, kq_gradient_way_name(way)))
            continue;
        status = add_way(p, r, way, ways, err);
        if (kq_method_needs(p->factor.method) != KQ_NEEDS_GRADIENTS)
            break; /* the method keeps no gradients, so that there is only one way */
    }
    if (!status && !json_array_size(ways))
        return kq_fail(err, KQ_E_ARG, "--gradients %s is unknown; use memory, disk or stream", only);
    return status;
}

static json_t *describe_all(const char *model, const kq_prepared *p, const kq_rates *r, json_t *ways)
{
    const size_t seq_len = p->opt->calibration.seq_len;
    json_t *measured =
        json_pack("{s:f, s:f, s:f, s:f}", "gemm_gflops", 1e-9 * r->gemm, "factor_gflops", 1e-9 * r->factor,
                  "ldl_gflops", 1e-9 * r->ldl, "tiles_per_second", r->tile_s > 0 ? 1 / r->tile_s : 0.0);
    return json_pack("{s:s, s:I, s:s, s:I, s:I, s:o, s:I, s:I, s:s, s:s, s:i, s:o, s:O}", "model", model,
                     "parameters", (json_int_t)parameters(p->cfg), "method", kq_method_name(p->factor.method),
                     "calibration_tokens", (json_int_t)(p->n_seq * seq_len), "seq_len", (json_int_t)seq_len,
                     "bits", kq_bits_number(p->opt->bits), "result_bytes", (json_int_t)result_bytes(p),
                     "self_text_bytes",
                     (json_int_t)kq_self_text_bytes(p->cfg, p->n_seq, seq_len, p->opt->memory), "isa",
                     kq_isa_name(p->isa), "compute", p->compute == KQ_BF16 ? "bf16" : "f32", "threads",
                     p->threads, "measured", measured, "ways", ways);
}

kq_status kq_plan_ways(const char *model, const kq_quantize_options *given, char **plan_json, kq_error *err)
{
    KQ_C_LOCALE;
    static const char *const some_text[] = {"TEXT"};
    kq_quantize_options opt;
    kq_prepared p = {0};
    kq_config cfg;
    kq_rates rates;
    *plan_json = NULL;
    kq_status status = KQ_OPTIONS_READ(kq_quantize_options, &opt, given, err);
    if (status)
        return status;
    /* the memory for writing a text is a figure of its own, self_text_bytes */
    opt.calibration.text = some_text;
    opt.calibration.n_text = 1;
    status = read_config(model, &cfg, err);
    if (!status)
        status = kq_prepare_config(&cfg, &opt, &p, err);
    if (!status)
        status = take_aim(&p, &opt, err);
    if (!status)
        status = kq_rates_measure(&p, &rates, err);
    json_t *ways = json_array(), *o = NULL;
    if (!status)
        status = add_ways(&p, &rates, ways, err);
    if (!status && (!(o = describe_all(model, &p, &rates, ways)) ||
                    !(*plan_json = json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(6)))))
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: the plan");
    json_decref(o);
    json_decref(ways);
    kq_prepared_free(&p);
    return status;
}
