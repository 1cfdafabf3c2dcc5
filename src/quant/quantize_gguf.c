/* kq_quantize_gguf, kq_plan_gguf: the receiver that rounds every linear to the block types of llama.cpp (a
 * grid) and writes one GGUF file. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "checkpoint/gguf_save.h"
#include "format/encode.h"
#include "grid/grid.h"
#include "prepare/check.h"
#include "quant/rounding.h"
#include "quant/rows.h"
#include "settings/settings.h"
#include "source/rope.h"

typedef struct quantizer {
    kq_gguf_types types;
    uint8_t *blocks[KQ_N_LINEAR]; /* of the model's block at work, owned */
    kq_module_report report[KQ_N_LINEAR];
    unsigned ids; /* bit id set: that linear's blocks and report are filled in */
    kq_rounding_sums sums;
    kq_gguf_saved saved;
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

/* ---- prepare ---- */

static kq_status prepare(kq_output *o, kq_error *err)
{
    quantizer *q = o->ctx;
    kq_status status = kq_settings_check(KQ_QUANTIZE_OPTIONS, KQ_FOR_QUANTIZE_GGUF, &o->opt, err);
    if (!status)
        status = kq_rope_check_gguf(o->p.cfg, err);
    return status ? status : kq_gguf_types_choose(o->p.cfg, o->p.selected, &o->opt, &q->types, err);
}

/* The file states its identity too, under the key kronq.settings. */
static kq_status identify(kq_output *output, kq_error *err)
{
    const quantizer *q = output->ctx;
    const kq_quantize_options *o = &output->opt;
    json_t *rules = json_array();
    for (size_t i = 0; i < o->n_tensor_type; i++)
        json_array_append_new(rules, json_string(o->tensor_type[i]));
    json_t *s =
        json_pack("{s:O, s:s, s:b, s:s, s:o, s:f, s:i, s:s, s:s}", "factors", output->settings, "type",
                  q->types.mix->name, "pure", o->pure, "fallback", o->fallback ? o->fallback : "",
                  "tensor_type", rules, "sigma_reg", o->sigma_reg, "sweeps", o->sweeps, "only",
                  o->only ? o->only : "", "isa", kq_isa_name(output->p.isa));
    if (s && o->shrink != 0) /* files made before there was one go on being recognised */
        json_object_set_new(s, "shrink", json_real(o->shrink));
    output->identity = s ? json_dumps(s, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    json_decref(s);
    return output->identity ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: settings");
}

static kq_status check_weights(const kq_output *o, kq_error *err)
{
    const quantizer *q = o->ctx;
    return kq_check_weights(&o->p, &q->types, false, err);
}

static bool wants_rows(const kq_output *o)
{
    const quantizer *q = o->ctx;
    return kq_grid_known(q->types.embed) || kq_grid_known(q->types.head);
}

/* Rounding the largest linear; a factor file's factors of it are in memory too. */
static void bytes(const kq_work *w, kq_receiver_bytes *out)
{
    const kq_output *o = w->outputs;
    const quantizer *q = o->ctx;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(o->p.cfg, (kq_linear_id)id, &m, &n);
        const size_t one = kq_grid_bytes(m, n) + (o->opt.factors ? 4 * (m * m + n * n) : 0);
        out->peak = one > out->peak ? one : out->peak;
    }
    const size_t d = o->p.cfg->d_model, rows = kq_grid_bytes(1024, d) + 8 * d * d;
    out->peak = wants_rows(o) && rows > out->peak ? rows : out->peak;
    out->kept = kq_gguf_linear_bytes(&q->types, o->p.cfg) / o->p.cfg->n_layer;
    out->disk = 2 * kq_gguf_planned_bytes(o->p.src, &q->types);
}

/* ---- open and announce ---- */

static kq_grid_options grid_options(const kq_output *o)
{
    kq_grid_options options = kq_grid_defaults();
    options.sigma_in = options.sigma_out = o->opt.sigma_reg;
    options.shrink = o->opt.shrink;
    options.sweeps = o->opt.sweeps;
    options.threads = o->p.threads;
    return options;
}

static kq_gguf_save_options save_options(const kq_output *o)
{
    const quantizer *q = o->ctx;
    return (kq_gguf_save_options){.src = o->p.src,
                                  .rounding = grid_options(o),
                                  .types = &q->types,
                                  .part_dir = o->work_dir,
                                  .settings = o->identity,
                                  .threads = o->p.threads,
                                  .common = &o->opt.common};
}

static kq_status try_metadata(kq_output *o, kq_error *err)
{
    const kq_gguf_save_options save = save_options(o);
    return kq_gguf_try_metadata(&save, err);
}

static kq_status check_complete(const kq_output *o, kq_error *err)
{
    return kq_gguf_check_saved(o->done_path, o->identity, err);
}

static void describe(const kq_work *w, char line[160])
{
    const quantizer *q = w->outputs->ctx;
    snprintf(line, 160, "%zu modules to %s", w->outputs->p.n_selected, q->types.mix->name);
}

/* ---- rounding ---- */

static kq_status round_to_grid(kq_output *o, const kq_linear_factors *f, const kq_round_input *in,
                               kq_module_report *r, kq_error *err)
{
    quantizer *q = o->ctx;
    const kq_dtype type = type_of(q, f->layer, f->id);
    kq_status status =
        kq_alloc_for((void **)&q->blocks[f->id], kq_gguf_row_bytes(type, f->m, f->n), 1, f->name, err);
    if (status)
        return status;
    q->ids |= 1u << f->id;
    if (!kq_grid_known(type)) { /* a plain type: its values are rounded one by one */
        r->round.predicted_loss = o->work->predicts ? 0 : NAN;
        return kq_fail_within(err, kq_encode(type, in->W, f->m * f->n, q->blocks[f->id], NULL, err), f->name);
    }
    const kq_grid_options options = grid_options(o);
    return kq_grid_round(type, in, &options, q->blocks[f->id], &r->round, err);
}

static kq_status round_linear(kq_output *o, const kq_linear_factors *f, kq_error *err)
{
    quantizer *q = o->ctx;
    return kq_round_module(o, f, round_to_grid, &q->report[f->id], err);
}

/* Bytes of a row of the block's linear. */
static size_t row_bytes(const quantizer *q, size_t layer, int id)
{
    return kq_gguf_row_bytes(type_of(q, layer, id), 1, q->report[id].n);
}

static kq_status declare_module(kq_st_writer *w, const kq_module_report *r, size_t row, const char *path,
                                kq_error *err)
{
    char name[160], *text = kq_module_report_json(r);
    snprintf(name, sizeof name, "%s.blocks", r->name);
    kq_status status = text ? kq_st_writer_meta(w, r->name, text, err)
                            : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    free(text);
    return status ? status : kq_st_writer_declare(w, name, KQ_T_U8, 2, (size_t[]){r->m, row}, err);
}

/* `<module>.blocks` U8 [m, bytes a row], and the module's report in the metadata. */
static kq_status write_block(kq_output *o, size_t layer, const char *path, kq_error *err)
{
    quantizer *q = o->ctx;
    kq_st_writer *w;
    kq_status status = kq_st_writer_new(path, &w, err);
    if (status)
        return status;
    for (int id = 0; id < KQ_N_LINEAR && !status; id++)
        if (q->ids >> id & 1)
            status = declare_module(w, &q->report[id], row_bytes(q, layer, id), path, err);
    for (int id = 0; id < KQ_N_LINEAR && !status; id++)
        if (q->ids >> id & 1)
            status = kq_st_writer_data(w, q->blocks[id], q->report[id].m * row_bytes(q, layer, id), err);
    if (status)
        kq_st_writer_abort(w);
    else
        status = kq_st_writer_finish(w, err);
    drop_block(q);
    return status;
}

/* ---- finish ---- */

static json_t *describe_module(const kq_output *o, size_t layer, kq_linear_id id, const kq_module_report *r,
                               double loss)
{
    const kq_dtype type = type_of(o->ctx, layer, id);
    return json_pack("{s:[I,I], s:s, s:f, s:f, s:o}", "shape", (json_int_t)r->m, (json_int_t)r->n, "type",
                     kq_dtype_name(type), "bpw",
                     8.0 * (double)kq_gguf_row_bytes(type, r->m, r->n) / ((double)r->m * (double)r->n),
                     "relative_mse", r->round.relative_mse, "predicted_loss", kq_json_number(loss));
}

static kq_status finish(kq_output *o, kq_error *err)
{
    quantizer *q = o->ctx;
    kq_gguf_save_options save = save_options(o);
    float *embed_H = NULL, *head_H = NULL;
    kq_status status = kq_rounding_sum(o, describe_module, &q->sums, err);
    if (!status && !(status = kq_rows_factor(o, false, &embed_H, err)) &&
        !(status = kq_rows_factor(o, true, &head_H, err))) {
        save.embed_H = embed_H;
        save.head_H = head_H;
        status = kq_gguf_save(&save, o->done_path, &q->saved, err);
    }
    kq_free(embed_H);
    kq_free(head_H);
    return status;
}

static kq_status report(kq_work *w, json_t **out, kq_error *err)
{
    const quantizer *q = w->outputs->ctx;
    json_t *own =
        json_pack("{s:s, s:f, s:f, s:I, s:I, s:f, s:o, s:f}", "type", q->types.mix->name, "bpw",
                  8.0 * (double)kq_gguf_linear_bytes(&q->types, w->outputs->p.cfg) / q->sums.weights,
                  "bpw_file", 8.0 * (double)q->saved.file_bytes / (double)q->saved.n_parameters, "file_bytes",
                  (json_int_t)q->saved.file_bytes, "quantized_modules", (json_int_t)q->sums.n,
                  "quantized_weights", q->sums.weights, "predicted_loss",
                  kq_json_number(q->sums.predicted_loss), "relative_mse", q->sums.relative_mse);
    return kq_rounding_report(w, own, &q->sums, out, err);
}

static void close_quantizer(kq_output *o)
{
    quantizer *q = o->ctx;
    drop_block(q);
    kq_gguf_types_free(&q->types);
    json_decref(q->sums.modules);
}

/* ---- the plan ---- */

static json_t *plan(const kq_work *w)
{
    const kq_prepared *p = &w->outputs->p;
    const quantizer *q = w->outputs->ctx;
    size_t weights = 0;
    for (size_t l = 0; l < p->cfg->n_layer; l++)
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            size_t m, n;
            kq_linear_shape(p->cfg, (kq_linear_id)id, &m, &n);
            weights += type_of(q, l, id) == KQ_T_OTHER ? 0 : m * n;
        }
    return json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:f, s:I}", "type", q->types.mix->name, "embedding",
                     kq_dtype_name(q->types.embed), "head",
                     q->types.head == KQ_T_OTHER ? "tied" : kq_dtype_name(q->types.head), "method",
                     kq_work_method(w), "quantized_modules", (json_int_t)p->n_selected, "quantized_weights",
                     (json_int_t)weights, "bpw",
                     weights ? 8.0 * (double)kq_gguf_linear_bytes(&q->types, p->cfg) / (double)weights : 0.0,
                     "file_bytes", (json_int_t)kq_gguf_planned_bytes(p->src, &q->types));
}

static void plan_linear(const kq_output *o, size_t layer, int id, json_t *module)
{
    const kq_dtype type = type_of(o->ctx, layer, id);
    json_object_set_new(module, "type", json_string(type == KQ_T_OTHER ? "as stored" : kq_dtype_name(type)));
}

static const kq_receiver gguf_receiver = {
    .result = "a GGUF file",
    .complete = "the file is complete already",
    .stage = {.stem = "block",
              .suffix = "safetensors",
              .doing = "rounding",
              .linear = round_linear,
              .block = write_block},
    .takes_factors = true,
    .prepare = prepare,
    .identify = identify,
    .check_weights = check_weights,
    .bytes = bytes,
    .wants_rows = wants_rows,
    .opened = try_metadata,
    .check_complete = check_complete,
    .describe = describe,
    .finish = finish,
    .report = report,
    .close = close_quantizer,
    .plan = plan,
    .plan_linear = plan_linear,
};

kq_status kq_quantize_gguf(const char *model, const char *out_file, const kq_quantize_options *opt,
                           char **report_json, kq_error *err)
{
    quantizer q = {.ids = 0};
    kq_output o = {.name = out_file, .ctx = &q};
    return kq_work_quantize(model, &gguf_receiver, &o, opt, report_json, err);
}

kq_status kq_plan_gguf(const char *model, const kq_quantize_options *opt, char **plan_json, kq_error *err)
{
    quantizer q = {.ids = 0};
    kq_output o = {.name = model, .ctx = &q};
    return kq_work_plan(model, &gguf_receiver, &o, opt, plan_json, err);
}
