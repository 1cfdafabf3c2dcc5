/* kq_quantize_gguf: calibrate, factor, round block by block onto llama.cpp's block types, write one GGUF
 * file. The same sweep, jobs and part files as kq_quantize; only the rounding and the result differ. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/locale.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/time.h"
#include "format/encode.h"
#include "source/rope.h"
#include "quant/gguf_save.h"
#include "quant/gguf_types.h"
#include "quant/check.h"
#include "factors/lacks.h"
#include "quant/plan.h"
#include "quant/rounding.h"
#include "settings/settings.h"

typedef struct quantizer {
    kq_rounding r; /* first: see there */
    kq_gguf_types types;
    uint8_t *blocks[KQ_N_LINEAR]; /* of the model's block at work, owned */
    kq_module_report report[KQ_N_LINEAR];
    unsigned ids; /* which of them are filled */
} quantizer;

static void drop_block(quantizer *q)
{
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        kq_free(q->blocks[id]);
        q->blocks[id] = NULL;
    }
    q->ids = 0;
}

static kq_dtype type_of(const quantizer *q, size_t layer, int id)
{
    return q->types.linear[layer * KQ_N_LINEAR + (size_t)id];
}

static kq_status round_one(void *ctx, size_t layer, kq_linear_id id, const float *H_in, const float *H_out,
                           const kq_factor_report *factor, kq_error *err)
{
    quantizer *q = ctx;
    kq_module_report *r = &q->report[id];
    const kq_weights *weights = kq_model_file_weights(q->r.p.model);
    const kq_dtype type = type_of(q, layer, id);
    const double start = kq_now_s();
    *r = (kq_module_report){.factor_residual = NAN,
                            .sigma1 = NAN,
                            .sigma2 = NAN,
                            .products = factor->products,
                            .predicted_loss = NAN};
    snprintf(r->identity, sizeof r->identity, "%s", kq_lack_name(factor->lack));
    kq_linear_name(r->name, sizeof r->name, layer, id);
    kq_linear_shape(q->r.p.cfg, id, &r->m, &r->n);
    float *W;
    kq_status status = kq_alloc_for((void **)&W, r->m * r->n, sizeof *W, r->name, err);
    if (!status)
        status = kq_alloc_for((void **)&q->blocks[id], kq_gguf_row_bytes(type, r->m, r->n), 1, r->name, err);
    if (!status)
        status = weights->linear(weights->ctx, layer, id, W, err);
    if (!status && kq_grid_known(type)) {
        kq_grid_options o = kq_grid_defaults();
        kq_grid_report round;
        o.sigma_in = o.sigma_out = q->r.p.opt->sigma_reg;
        o.shrink = q->r.p.opt->shrink;
        o.sweeps = q->r.p.opt->sweeps;
        o.threads = q->r.p.threads;
        const kq_round_input in = {.name = r->name,
                                   .W = W,
                                   .m = r->m,
                                   .n = r->n,
                                   .H_in = H_in,
                                   .H_out = H_out,
                                   .predicts = q->r.predicts && !factor->lack};
        if (!(status = kq_grid_round(type, &in, &o, q->blocks[id], &round, err))) {
            r->relative_mse = round.relative_mse;
            /* eq. 1 with F = 0 */
            r->predicted_loss = q->r.predicts && factor->lack ? 0 : round.predicted_loss;
            r->extra_in = round.extra_in;
            r->extra_out = round.extra_out;
        }
    } else if (!status) {
        status = kq_fail_within(err, kq_encode(type, W, r->m * r->n, q->blocks[id], NULL, err), r->name);
        r->predicted_loss = q->r.predicts ? 0 : NAN;
    }
    kq_free(W);
    if (status)
        return status;
    q->ids |= 1u << id;
    return kq_rounding_count(&q->r, r, factor, kq_now_s() - start, err);
}

static kq_status finish_block(void *ctx, size_t layer, kq_error *err)
{
    quantizer *q = ctx;
    char path[4400], name[160];
    kq_st_writer *w;
    kq_rounding_part(&q->r, layer, path);
    kq_status status = kq_st_writer_new(path, &w, err);
    if (status)
        return status;
    for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
        const kq_module_report *r = &q->report[id];
        if (!(q->ids >> id & 1))
            continue;
        char *text = kq_module_report_json(r);
        status = text ? kq_st_writer_meta(w, r->name, text, err)
                      : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
        free(text);
        snprintf(name, sizeof name, "%s.blocks", r->name);
        if (!status)
            status = kq_st_writer_declare(w, name, KQ_T_U8, 2,
                                          (size_t[]){r->m, kq_gguf_row_bytes(type_of(q, layer, id), 1, r->n)},
                                          err);
    }
    for (int id = 0; id < KQ_N_LINEAR && !status; id++)
        if (q->ids >> id & 1)
            status = kq_st_writer_data(
                w, q->blocks[id], kq_gguf_row_bytes(type_of(q, layer, id), q->report[id].m, q->report[id].n),
                err);
    if (status)
        kq_st_writer_abort(w);
    else
        status = kq_st_writer_finish(w, err);
    drop_block(q);
    if (!status)
        status = kq_job_seal(path, err);
    return status ? status : kq_block_note_give(&q->r.note, layer, &q->r.p.opt->common, err);
}

/* What the result depends on, as the job keeps it and the file states it (key kronq.settings). */
static char *settings_text(const quantizer *q, json_t *factors, kq_error *err)
{
    const kq_quantize_options *o = q->r.p.opt;
    json_t *rules = json_array();
    for (size_t i = 0; i < o->n_tensor_type; i++)
        json_array_append_new(rules, json_string(o->tensor_type[i]));
    json_t *s = json_pack("{s:O, s:s, s:b, s:s, s:o, s:f, s:i, s:s, s:s}", "factors", factors, "type",
                          q->types.mix->name, "pure", o->pure, "fallback", o->fallback ? o->fallback : "",
                          "tensor_type", rules, "sigma_reg", o->sigma_reg, "sweeps", o->sweeps, "only",
                          o->only ? o->only : "", "isa", kq_isa_name(q->r.p.isa));
    if (s && o->shrink != 0) /* files made before there was one go on being recognised */
        json_object_set_new(s, "shrink", json_real(o->shrink));
    char *text = s ? json_dumps(s, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    json_decref(s);
    if (!text)
        kq_fail(err, KQ_E_MEMORY, "out of memory: settings");
    return text;
}

static char *make_report(const quantizer *q, const kq_gguf_saved *saved, double save_s, kq_error *err)
{
    const kq_config *cfg = q->r.p.cfg;
    json_t *modules = json_object();
    double predicted = 0, error = 0, weights = 0, bits = 0;
    size_t n_modules = 0;
    kq_lacks lacks = {0};
    for (size_t l = 0; l < cfg->n_layer; l++) {
        char path[4400];
        kq_module_report r[KQ_N_LINEAR];
        kq_rounding_part(&q->r, l, path);
        if (!q->r.p.wanted[l])
            continue;
        if (kq_part_read_reports(path, l, r, err)) {
            json_decref(modules);
            return NULL;
        }
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            if (!r[id].name[0])
                continue;
            const kq_dtype type = type_of(q, l, id);
            const double count = (double)r[id].m * (double)r[id].n,
                         loss = r[id].predicted_loss / (double)q->r.seq_len;
            const double these = 8.0 * (double)kq_gguf_row_bytes(type, r[id].m, r[id].n);
            predicted += loss;
            error += r[id].relative_mse * count;
            weights += count;
            bits += these;
            n_modules++;
            json_object_set_new(modules, r[id].name,
                                json_pack("{s:[I,I], s:s, s:f, s:f, s:o}", "shape", (json_int_t)r[id].m,
                                          (json_int_t)r[id].n, "type", kq_dtype_name(type), "bpw",
                                          these / count, "relative_mse", r[id].relative_mse, "predicted_loss",
                                          kq_json_number(loss)));
            if (*r[id].identity)
                json_object_set_new(json_object_get(modules, r[id].name), "identity",
                                    json_string(r[id].identity));
            kq_lacks_add(&lacks, kq_lack_of(r[id].identity), r[id].name);
        }
    }
    if (!q->r.p.opt->factors)
        kq_lacks_warn(&lacks);
    json_t *o =
        json_pack("{s:s, s:f, s:f, s:I, s:I, s:f, s:o, s:f}", "type", q->types.mix->name, "bpw",
                  bits / weights, "bpw_file", 8.0 * (double)saved->file_bytes / (double)saved->n_parameters,
                  "file_bytes", (json_int_t)saved->file_bytes, "quantized_modules", (json_int_t)n_modules,
                  "quantized_weights", weights, "predicted_loss",
                  kq_json_number(q->r.predicts ? predicted : NAN), "relative_mse", error / weights);
    return kq_rounding_report(&q->r, o, modules, save_s, err);
}

/* Peak memory and disk: the sweep's, or the rounding of the largest linear with its two factors,
 * whichever comes last on top. */
static kq_status resources(quantizer *q, kq_sweep *s, const char *dir, kq_error *err)
{
    size_t scratch = 0;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(q->r.p.cfg, (kq_linear_id)id, &m, &n);
        const size_t bytes = kq_grid_bytes(m, n) + (q->r.p.opt->factors ? 4 * (m * m + n * n) : 0);
        scratch = bytes > scratch ? bytes : scratch;
    }
    s->receiver_peak = scratch;
    s->receiver_kept = kq_gguf_linear_bytes(&q->types, q->r.p.cfg) / q->r.p.cfg->n_layer;
    return kq_plan_settle(&q->r.p, s, dir, 2 * kq_gguf_planned_bytes(q->r.p.src, &q->types), &q->r.memory,
                          &q->r.disk, err);
}

static kq_status prepare(quantizer *q, const char *model, const kq_quantize_options *opt, kq_error *err)
{
    kq_status status = kq_prepare(model, opt, !opt->factors, &q->r.p, err);
    if (!status)
        status = kq_settings_check(KQ_QUANTIZE_OPTIONS, KQ_FOR_QUANTIZE_GGUF, opt, err);
    if (status || (status = kq_rope_check_gguf(q->r.p.cfg, err)))
        return status;
    return kq_gguf_types_choose(&q->r.p, &q->types, err);
}

kq_status kq_quantize_gguf(const char *model, const char *out_file, const kq_quantize_options *options,
                           char **report_json, kq_error *err)
{
    KQ_C_LOCALE;
    quantizer q = {.r = {.job.lock = -1, .start = kq_now_s()}};
    char *text = NULL, work[4300];
    kq_gguf_saved saved = {0};
    kq_quantize_options guarded = *options;
    const kq_quantize_options *opt = &guarded;
    kq_progress guard;
    guarded.common = kq_progress_guard(&options->common, &guard);
    if (report_json)
        *report_json = NULL;
    kq_status status = KQ_OK;
    if (kq_path_is_dir(out_file))
        status =
            kq_fail(err, KQ_E_ARG, "%s: is a folder, expected the name of a GGUF file to write", out_file);
    else if (snprintf(work, sizeof work, "%s.work", out_file) >= (int)sizeof work)
        status = kq_fail(err, KQ_E_ARG, "%s: the path is too long", out_file);
    if (!status && !(status = kq_job_look(out_file, work, opt->resume, err)))
        status = prepare(&q, model, opt, err);
    if (!status)
        status = kq_rounding_settings(&q.r, err);
    if (status)
        goto out;
    if (!(text = settings_text(&q, q.r.settings, err))) {
        status = KQ_E_MEMORY;
        goto out;
    }
    kq_sweep s = kq_prepare_sweep(&q.r.p, &q.r.job);
    if (!kq_path_exists(out_file) &&
        ((status = kq_check_inputs(&q.r.p, &q.types, false, &q.r.p.n_seq, 1, err)) ||
         (status = resources(&q, &s, work, err)) ||
         (!opt->resume && (status = kq_check_disk(work, q.r.disk, err)))))
        goto out;
    if ((status = kq_job_open(out_file, work, text, opt->resume, opt->fresh, &q.r.job, err)) ||
        (!q.r.job.complete && (status = kq_gguf_try_metadata(&q.r.p, &q.types, &q.r.job, text, err))))
        goto out;
    if (q.r.job.complete) {
        if (!(status = kq_gguf_check_saved(out_file, text, err)))
            status = kq_rounding_complete(&q.r, "file", report_json, err);
        goto out;
    }
    if ((status = kq_job_check_parts(&q.r.job, "block", q.r.p.cfg->n_layer, err)))
        goto out;
    if ((status = kq_rounding_announce(&q.r, &s, work, q.types.mix->name, err)) ||
        (status = kq_rounding_ids(&q.r, &s, err)))
        goto out;
    s.ctx = &q;
    s.done = kq_rounding_block_done;
    s.linear = round_one;
    s.block = finish_block;
    if ((status = kq_rounding_run(&q.r, &s, err)))
        goto out;
    const double save_start = kq_now_s();
    if ((status = kq_gguf_save(&q.r.p, &q.types, &q.r.job, out_file, text, &saved, err)))
        goto out;
    char *report = make_report(&q, &saved, kq_now_s() - save_start, err);
    kq_job_finish(&q.r.job);
    if (!report)
        status = KQ_E_MEMORY;
    else if (report_json)
        *report_json = report;
    else
        free(report);
out:
    drop_block(&q);
    kq_gguf_types_free(&q.types);
    kq_rounding_close(&q.r);
    free(text);
    return status;
}

kq_status kq_plan_gguf(const char *model, const kq_quantize_options *opt, char **plan_json, kq_error *err)
{
    KQ_C_LOCALE;
    quantizer q = {.r.job.lock = -1};
    *plan_json = NULL;
    size_t weights = 0;
    kq_status status = prepare(&q, model, opt, err);
    if (status) {
        kq_prepared_free(&q.r.p);
        return status;
    }
    const kq_config *cfg = q.r.p.cfg;
    json_t *modules = json_array();
    for (size_t l = 0; l < cfg->n_layer; l++)
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            char name[160], weight[176];
            size_t m, n;
            const kq_dtype type = type_of(&q, l, id);
            kq_linear_name(name, sizeof name, l, (kq_linear_id)id);
            kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
            snprintf(weight, sizeof weight, "%s.weight", name);
            const kq_tensor *t = kq_source_find(q.r.p.src, weight);
            const char *source = t ? kq_dtype_name(t->dtype) : "?";
            weights += type == KQ_T_OTHER ? 0 : m * n;
            json_array_append_new(modules, json_pack("{s:s, s:[I,I], s:s, s:s}", "name", name, "shape",
                                                     (json_int_t)m, (json_int_t)n, "source", source, "type",
                                                     type == KQ_T_OTHER ? "as stored" : kq_dtype_name(type)));
        }
    kq_sweep s = kq_prepare_sweep(&q.r.p, NULL);
    status = resources(&q, &s, NULL, err);
    const size_t file = kq_gguf_planned_bytes(q.r.p.src, &q.types);
    json_t *o = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:s, s:s, s:i, s:O}", "model", model,
        "type", q.types.mix->name, "embedding", kq_dtype_name(q.types.embed), "head",
        q.types.head == KQ_T_OTHER ? "tied" : kq_dtype_name(q.types.head), "method",
        opt->factors ? opt->factors : kq_method_name(q.r.p.factor.method), "quantized_modules",
        (json_int_t)q.r.p.n_wanted, "quantized_weights", (json_int_t)weights, "bpw",
        weights ? 8.0 * (double)kq_gguf_linear_bytes(&q.types, cfg) / (double)weights : 0.0, "file_bytes",
        (json_int_t)file, "planned_memory_bytes", (json_int_t)q.r.memory, "planned_disk_bytes",
        (json_int_t)q.r.disk, "calibration_tokens", (json_int_t)(q.r.p.n_seq * opt->calibration.seq_len),
        "isa", kq_isa_name(q.r.p.isa), "compute", q.r.p.compute == KQ_BF16 ? "bf16" : "f32", "threads",
        q.r.p.threads, "modules", modules);
    if (!status && (!o || !(*plan_json = json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(6)))))
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: the plan");
    json_decref(o);
    json_decref(modules);
    kq_gguf_types_free(&q.types);
    kq_prepared_free(&q.r.p);
    return status;
}
