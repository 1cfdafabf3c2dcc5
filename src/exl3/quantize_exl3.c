/* kq_quantize_exl3, kq_plan_exl3: the receiver that rounds every linear and the head straight onto EXL3's
 * grid, and writes a folder that exllamav3 loads. Its basis and its tiles are the round room's with blocks
 * (kq_round_options.block) and kq_exl3_rounder; factors, resuming and reports are those of every quantizing
 * (quant/work.h). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/text.h"
#include "base/time.h"
#include "exl3/bits.h"
#include "exl3/save.h"
#include "exl3/tiles.h"
#include "format/exl3.h"
#include "prepare/check.h"
#include "quant/bits.h"
#include "quant/checkpoint_settings.h"
#include "quant/rounding.h"
#include "quant/rows.h"
#include "settings/settings.h"
#include "sweep/seal.h"

typedef struct quantizer {
    kq_code code;
    kq_exl3_bits bits;
    kq_trellis *trellis[KQ_EXL3_BITS_MAX + 1]; /* owned; by bits, made when the first matrix needs it */
    kq_exl3_tiles tiles[KQ_EXL3_BITS_MAX + 1];
    kq_packed packed[KQ_N_LINEAR]; /* of the block at work, owned */
    kq_module_report report[KQ_N_LINEAR];
    unsigned ids; /* bit id set: that linear's packed and report are filled in */
    kq_rounding_sums sums;
    kq_exl3_saved saved;
} quantizer;

static void drop_block(quantizer *q)
{
    for (int id = 0; id < KQ_N_LINEAR; id++)
        kq_packed_free(&q->packed[id]);
    memset(q->packed, 0, sizeof q->packed);
    q->ids = 0;
}

/* ---- prepare ---- */

static kq_status check(const kq_quantize_options *opt, kq_error *err)
{
    kq_code code;
    kq_quantize_options common = *opt;
    if (!(opt->bits >= 1 && opt->bits <= KQ_EXL3_BITS_MAX))
        return kq_fail(err, KQ_E_ARG, "--bits %.10g: with --to exl3 1 to %d are possible", opt->bits,
                       KQ_EXL3_BITS_MAX);
    if (opt->bits != floor(opt->bits) && !opt->factors)
        return kq_fail(
            err, KQ_E_ARG,
            "--bits %.10g: with --to exl3 an average needs --factors, by which bits are shared out "
            "(kronq calibrate makes them)",
            opt->bits);
    if (opt->head_bits != 16 && (opt->head_bits < 1 || opt->head_bits > KQ_EXL3_BITS_MAX))
        return kq_fail(err, KQ_E_ARG, "--head-bits %d: with --to exl3 1 to %d are possible, and 16",
                       opt->head_bits, KQ_EXL3_BITS_MAX);
    const kq_status status = kq_code_parse(opt->code, &code, err);
    if (status)
        return status;
    if (!kq_exl3_has_code(code))
        return kq_fail(err, KQ_E_ARG, "--code %s: EXL3 has mul1, mcg and 3inst", opt->code);
    const kq_quantize_options defaults =
        kq_quantize_defaults(); /* the ranges of a checkpoint's bits differ */
    common.bits = defaults.bits;
    common.head_bits = defaults.head_bits;
    return kq_settings_check(KQ_QUANTIZE_OPTIONS, KQ_FOR_QUANTIZE_EXL3, &common, err);
}

/* OUT may be absent, empty, or hold work of ours. Changes nothing. */
static kq_status locate(kq_output *o, kq_error *err)
{
    kq_status status = kq_path_in(&o->done_path, err, o->name, "config.json");
    if (!status)
        status = kq_path_in(&o->work_dir, err, o->name, ".kronq-work");
    return status ? status : kq_quantize_check_folder(o->name, false, err);
}

static kq_status prepare(kq_output *o, kq_error *err)
{
    quantizer *q = o->ctx;
    kq_status status = kq_code_parse(o->opt.code, &q->code, err);
    if (status || (status = kq_exl3_bits_open(&o->p, &q->bits, err)) || !o->work->planning || q->bits.settled)
        return status;
    status = kq_work_open_source(o, err); /* a plan tells the bits of every module */
    return status ? status : kq_exl3_bits_share(o, &q->bits, q->code, err);
}

/* What the folder depends on; config.json keeps it too. */
static kq_status identify(kq_output *output, kq_error *err)
{
    const quantizer *q = output->ctx;
    const kq_quantize_options *o = &output->opt;
    json_t *rules = json_array();
    for (size_t i = 0; i < o->n_module_bits; i++)
        json_array_append_new(rules, json_string(o->module_bits[i]));
    json_t *s = json_pack("{s:O, s:o, s:f, s:i, s:s, s:f, s:f, s:s, s:s, s:I, s:s}", "factors",
                          output->settings, "module_bits", rules, "bits", o->bits, "head_bits", o->head_bits,
                          "code", kq_code_name(q->code), "sigma_reg", o->sigma_reg, "shrink", o->shrink,
                          "channel_scales", o->channel_scales, "only", o->only ? o->only : "", "seed",
                          (json_int_t)o->common.seed, "isa", kq_isa_name(output->p.isa));
    output->identity = s ? json_dumps(s, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(s);
    return output->identity ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: settings");
}

static kq_status check_weights(const kq_output *o, kq_error *err)
{
    return kq_check_weights(&o->p, NULL, true, err);
}

static bool wants_rows(const kq_output *o)
{
    return o->opt.head_bits < 16;
}

/* Bits of a linear; 0: it is not quantized. */
static double bits_of(void *ctx, size_t layer, kq_linear_id id)
{
    const kq_output *o = ctx;
    const quantizer *q = o->ctx;
    return kq_exl3_bits_of(o, &q->bits, layer, id);
}

static size_t planned_bytes(const kq_output *o)
{
    const quantizer *q = o->ctx;
    return kq_exl3_planned_bytes(o->p.src, q->code, o->opt.head_bits, bits_of, (void *)(uintptr_t)o);
}

static void bytes(const kq_work *w, kq_receiver_bytes *out)
{
    const kq_output *o = w->outputs;
    const kq_config *cfg = o->p.cfg;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        const size_t one = kq_round_bytes(kq_exl3_padded(m), kq_exl3_padded(n)) + 4 * m * n +
                           (o->opt.factors ? 4 * (m * m + n * n) : 0);
        out->peak = one > out->peak ? one : out->peak;
        out->kept += (size_t)kq_exl3_linear_bits(m, n, KQ_EXL3_BITS_MAX, KQ_MUL1) / 8;
    }
    if (wants_rows(o)) {
        const size_t d = kq_exl3_padded(cfg->d_model),
                     rows = kq_round_rows_bytes(kq_exl3_padded(cfg->vocab_size), d, o->opt.head_bits) +
                            8 * d * d;
        out->peak = rows > out->peak ? rows : out->peak;
    }
    out->disk = 2 * planned_bytes(o);
}

static kq_status check_complete(const kq_output *o, kq_error *err)
{
    return kq_exl3_check_saved(o->done_path, o->identity, err);
}

static void describe(const kq_work *w, char line[160])
{
    const kq_quantize_options *o = &w->outputs->opt;
    char bits[64];
    snprintf(line, 160, "%zu modules to EXL3 of %s", w->outputs->p.n_selected, kq_bits_text(o, bits));
    if (o->head_bits < 16)
        snprintf(line + strlen(line), 160 - strlen(line), ", the head to %d", o->head_bits);
}

/* ---- rounding ---- */

static kq_status round_options(kq_output *o, int bits, kq_tile_rounder *rounder, kq_round_options *out,
                               kq_error *err)
{
    quantizer *q = o->ctx;
    if (!q->trellis[bits]) {
        const kq_status status = kq_trellis_new(q->code, bits, o->p.isa, NULL, &q->trellis[bits], err);
        if (status)
            return status;
        kq_exl3_tiles_init(&q->tiles[bits], q->trellis[bits]);
    }
    *rounder = kq_exl3_rounder(&q->tiles[bits]);
    *out = (kq_round_options){.sigma_reg = o->opt.sigma_reg,
                              .seed = o->opt.common.seed,
                              .threads = o->p.threads,
                              .shrink = o->opt.shrink,
                              .block = KQ_EXL3_BLOCK,
                              .tiles = rounder};
    return kq_channel_scales_parse(o->opt.channel_scales, &out->channel_scales, err);
}

static kq_status round_to_exl3(kq_output *o, const kq_linear_factors *f, const kq_round_input *in,
                               kq_module_report *r, kq_error *err)
{
    quantizer *q = o->ctx;
    kq_tile_rounder rounder;
    kq_round_options options;
    r->bits = (int)kq_exl3_bits_of(o, &q->bits, f->layer, f->id);
    kq_status status = round_options(o, r->bits, &rounder, &options, err);
    if (!status)
        status = kq_round_linear(q->trellis[r->bits], in, &options, &q->packed[f->id], &r->round, err);
    if (!status)
        q->ids |= 1u << f->id;
    return status;
}

static kq_status round_linear(kq_output *o, const kq_linear_factors *f, kq_error *err)
{
    quantizer *q = o->ctx;
    return kq_round_module(o, f, round_to_exl3, &q->report[f->id], err);
}

static kq_status write_block(kq_output *o, size_t layer, const char *path, kq_error *err)
{
    quantizer *q = o->ctx;
    const kq_packed *packed[KQ_N_LINEAR];
    const kq_module_report *report[KQ_N_LINEAR];
    size_t n = 0;
    (void)layer;
    for (int id = 0; id < KQ_N_LINEAR; id++)
        if (q->ids >> id & 1) {
            packed[n] = &q->packed[id];
            report[n++] = &q->report[id];
        }
    const kq_status status = kq_exl3_part_write(path, q->code, n, packed, report, err);
    drop_block(q);
    return status;
}

/* ---- the head ---- */

/* A tied head is the embedding's numbers. */
static const char *head_rows(const kq_output *o)
{
    return o->p.cfg->tie_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
}

static kq_status read_head(void *ctx, size_t row0, size_t count, float *W, kq_error *err)
{
    const kq_output *o = ctx;
    const kq_weights *w = kq_model_file_weights(o->p.model);
    return w->rows(w->ctx, head_rows(o), row0, count, W, err);
}

static kq_status progress(void *ctx, kq_error *err)
{
    const kq_output *o = ctx;
    return kq_progress_ask(&o->opt.common, "lm_head", err);
}

/* Round the head to its part file, unless it is there. */
static kq_status round_head(kq_output *o, const char *path, kq_error *err)
{
    quantizer *q = o->ctx;
    const double start = kq_now_s();
    kq_module_report r = {.name = "lm_head",
                          .m = o->p.cfg->vocab_size,
                          .n = o->p.cfg->d_model,
                          .bits = o->opt.head_bits,
                          .factor_residual = NAN,
                          .sigma1 = NAN,
                          .sigma2 = NAN};
    kq_rows_input in = {
        .name = "lm_head", .rows = r.m, .n = r.n, .read = read_head, .progress = progress, .ctx = o};
    kq_tile_rounder rounder;
    kq_round_options options;
    kq_packed packed = {0};
    float *H = NULL;
    kq_status status = round_options(o, r.bits, &rounder, &options, err);
    if (!status)
        status = kq_rows_factor(o, true, &H, err);
    in.H_in = H;
    if (!status)
        status = kq_round_rows(q->trellis[r.bits], &in, &options, &packed, &r.round, err);
    if (!status)
        status = kq_exl3_part_write(path, q->code, 1, (const kq_packed *[]){&packed},
                                    (const kq_module_report *[]){&r}, err);
    if (!status)
        status = kq_seal_write(path, err);
    kq_free(H);
    kq_packed_free(&packed);
    o->work->round_s += kq_now_s() - start;
    return status;
}

/* ---- finish ---- */

static json_t *describe_module(const kq_output *o, size_t layer, kq_linear_id id, const kq_module_report *r,
                               double loss)
{
    const quantizer *q = o->ctx;
    (void)layer;
    (void)id;
    return json_pack("{s:[I,I], s:i, s:f, s:f, s:o}", "shape", (json_int_t)r->m, (json_int_t)r->n, "bits",
                     r->bits, "bpw",
                     kq_exl3_linear_bits(r->m, r->n, r->bits, q->code) / ((double)r->m * (double)r->n),
                     "relative_mse", r->round.relative_mse, "predicted_loss", kq_json_number(loss));
}

/* What all quantized linears take. */
typedef struct totals {
    double weights, bits; /* scales and padding counted */
    double average;       /* bits of a weight, without them */
} totals;

static totals linear_totals(const kq_output *o)
{
    const quantizer *q = o->ctx;
    totals sum = {0};
    double trellis = 0;
    for (size_t l = 0; l < o->p.cfg->n_layer; l++)
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            size_t m, n;
            kq_linear_shape(o->p.cfg, (kq_linear_id)id, &m, &n);
            if (!(o->p.selected[l] >> id & 1))
                continue;
            const double k = kq_exl3_bits_of(o, &q->bits, l, (kq_linear_id)id);
            sum.bits += kq_exl3_linear_bits(m, n, k, q->code);
            sum.weights += (double)m * (double)n;
            trellis += (double)m * (double)n * k;
        }
    sum.average = sum.weights > 0 ? trellis / sum.weights : 0;
    return sum;
}

/* The line that makes the folder again: the checkpoint's, with --to exl3. *out is the caller's (kq_free). */
static kq_status command_line(const kq_output *o, char **out, kq_error *err)
{
    char *text = kq_checkpoint_command(o), *at = text ? strstr(text, " -o OUT") : NULL;
    const kq_status status = at ? kq_format(out, err, "%.*s --to exl3%s", (int)(at - text), text, at)
                                : kq_fail(err, KQ_E_MEMORY, "out of memory: the model card");
    free(text);
    return status;
}

static kq_status gather(kq_output *o, const char *const *parts, size_t n_parts, kq_error *err)
{
    quantizer *q = o->ctx;
    const json_t *calibration = json_object_get(o->settings, "calibration");
    const json_int_t tokens = json_integer_value(json_object_get(calibration, "tokens")),
                     seq_len = json_integer_value(json_object_get(calibration, "seq_len"));
    char *command = NULL;
    kq_status status = command_line(o, &command, err);
    const kq_exl3_save_options save = {.src = o->p.src,
                                       .dir = o->name,
                                       .parts = parts,
                                       .n_parts = n_parts,
                                       .code = q->code,
                                       .head_bits = o->opt.head_bits,
                                       .bits = linear_totals(o).average,
                                       .shard_size = o->opt.shard_size,
                                       .rows = seq_len > 0 ? (size_t)(tokens / seq_len) : 0,
                                       .cols = seq_len > 0 ? (size_t)seq_len : 0,
                                       .settings_json = o->identity,
                                       .command = command,
                                       .predicted_loss = q->sums.predicted_loss,
                                       .relative_mse = q->sums.relative_mse};
    if (!status)
        status = kq_exl3_save(&save, &q->saved, err);
    kq_free(command);
    return status;
}

static kq_status finish(kq_output *o, kq_error *err)
{
    quantizer *q = o->ctx;
    const size_t n_layer = o->p.cfg->n_layer;
    const bool head = wants_rows(o);
    char **parts = kq_calloc(n_layer + 1, sizeof *parts);
    size_t n = 0;
    kq_status status = parts ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: the part files");
    if (!status && head &&
        !(status = kq_job_path(&o->job, "packed", KQ_ROWS_HEAD, "safetensors", &parts[n], err)) &&
        !kq_job_part_done(&o->job, "packed", KQ_ROWS_HEAD, "safetensors"))
        status = round_head(o, parts[n], err);
    n += head;
    for (size_t l = 0; l < n_layer && !status; l++)
        if (o->p.selected[l])
            status = kq_job_path(&o->job, "block", l, "safetensors", &parts[n++], err);
    if (!status)
        status = kq_rounding_sum(o, describe_module, &q->sums, err);
    if (!status)
        status = gather(o, (const char *const *)parts, n, err);
    for (size_t i = 0; parts && i <= n_layer; i++)
        kq_free(parts[i]);
    kq_free(parts);
    return status;
}

static kq_status report(kq_work *w, json_t **out, kq_error *err)
{
    const quantizer *q = w->outputs->ctx;
    const totals sum = linear_totals(w->outputs);
    json_t *own = json_pack("{s:o, s:i, s:f, s:f, s:I, s:I, s:f, s:o, s:f}", "bits",
                            kq_bits_number(sum.average), "head_bits", w->outputs->opt.head_bits, "bpw",
                            sum.weights > 0 ? sum.bits / sum.weights : 0.0, "bpw_file",
                            8.0 * (double)q->saved.file_bytes / (double)q->saved.n_parameters, "file_bytes",
                            (json_int_t)q->saved.file_bytes, "quantized_modules", (json_int_t)q->sums.n,
                            "quantized_weights", q->sums.weights, "predicted_loss",
                            kq_json_number(q->sums.predicted_loss), "relative_mse", q->sums.relative_mse);
    return kq_rounding_report(w, own, &q->sums, out, err);
}

static void close_quantizer(kq_output *o)
{
    quantizer *q = o->ctx;
    drop_block(q);
    for (int k = 0; k <= KQ_EXL3_BITS_MAX; k++)
        kq_trellis_free(q->trellis[k]);
    kq_exl3_bits_free(&q->bits);
    json_decref(q->sums.modules);
}

/* ---- the plan ---- */

static json_t *plan(const kq_work *w)
{
    const kq_output *o = w->outputs;
    const quantizer *q = o->ctx;
    const totals sum = linear_totals(o);
    const size_t file = planned_bytes(o);
    return json_pack(
        "{s:o, s:b, s:i, s:s, s:s, s:I, s:f, s:f, s:f, s:I}", "bits", kq_bits_number(sum.average),
        "bits_settled", q->bits.settled, "head_bits", o->opt.head_bits, "code", o->opt.code, "method",
        kq_work_method(w), "quantized_modules", (json_int_t)o->p.n_selected, "quantized_weights", sum.weights,
        "bpw", sum.weights > 0 ? sum.bits / sum.weights : 0.0, "bpw_file",
        8.0 * (double)file / (double)kq_count_parameters(o->p.cfg), "file_bytes", (json_int_t)file);
}

static void plan_linear(const kq_output *o, size_t layer, int id, json_t *module)
{
    size_t m, n;
    kq_linear_shape(o->p.cfg, (kq_linear_id)id, &m, &n);
    const bool selected = o->p.selected[layer] >> id & 1, padded = m % KQ_EXL3_BLOCK || n % KQ_EXL3_BLOCK;
    json_object_set_new(
        module, "bits",
        kq_bits_number(selected ? bits_of((void *)(uintptr_t)o, layer, (kq_linear_id)id) : 16));
    json_object_set_new(module, "transform",
                        json_string(!selected ? "-"
                                    : padded  ? "blocks of 128, padded"
                                              : "blocks of 128"));
}

/* Where bits are shared out, they are before the first linear is rounded. */
static kq_status settle_bits(kq_output *o, kq_error *err)
{
    quantizer *q = o->ctx;
    return q->bits.settled ? KQ_OK : kq_exl3_bits_share(o, &q->bits, q->code, err);
}

static const kq_receiver exl3_receiver = {
    .complete = "the folder is complete already",
    .stage = {.stem = "block",
              .suffix = "safetensors",
              .doing = "rounding",
              .linear = round_linear,
              .block = write_block},
    .takes_factors = true,
    .check = check,
    .locate = locate,
    .prepare = prepare,
    .identify = identify,
    .check_weights = check_weights,
    .wants_rows = wants_rows,
    .bytes = bytes,
    .check_complete = check_complete,
    .describe = describe,
    .before = settle_bits,
    .finish = finish,
    .report = report,
    .close = close_quantizer,
    .plan = plan,
    .plan_linear = plan_linear,
};

kq_status kq_quantize_exl3(const char *model, const char *out, const kq_quantize_options *opt,
                           char **report_json, kq_error *err)
{
    quantizer q = {.ids = 0};
    kq_output o = {.name = out, .ctx = &q};
    return kq_work_quantize(model, &exl3_receiver, &o, opt, report_json, err);
}

kq_status kq_plan_exl3(const char *model, const kq_quantize_options *opt, char **plan_json, kq_error *err)
{
    quantizer q = {.ids = 0};
    kq_output o = {.name = model, .ctx = &q};
    return kq_work_plan(model, &exl3_receiver, &o, opt, plan_json, err);
}
