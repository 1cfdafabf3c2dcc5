/* kq_quantize, kq_plan: the receiver that rounds every linear to a trellis and writes a checkpoint.
 *
 * Where bits are shared out, and for sequential rounding, the factors of all blocks come first, from a factor
 * file or kept in the work folder by the sweep; then a forecast of every linear's loss settles the bits; then
 * the linears are rounded.
 */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/options.h"
#include "base/text.h"
#include "base/time.h"
#include "factors/part.h"
#include "prepare/check.h"
#include "prepare/measure.h"
#include "prepare/plan.h"
#include "quant/aim.h"
#include "quant/checkpoint_settings.h"
#include "quant/rounding.h"
#include "quant/rows.h"
#include "sequential/rounding.h"
#include "sweep/seal.h"
#include "tune/tune.h"

typedef struct quantizer {
    kq_bits bits;
    kq_code code;
    kq_trellis *trellis[KQ_BITS_MAX + 1]; /* owned; by bits, made when the first module needs it */
    kq_factor_part *kept;                 /* owned; factors of the block at work, while they are only kept */
    kq_packed packed[KQ_N_LINEAR];        /* of the block at work */
    kq_module_report report[KQ_N_LINEAR];
    unsigned ids;              /* bit id set: that linear's packed and report are filled in */
    kq_sequential *sequential; /* owned; NULL: every linear is rounded by itself */
    double share_s;
    kq_rounding_sums sums;
    json_t *rows; /* owned: the report of embedding and head */
    kq_save_report saved;
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
    const int least = opt->embed_bits < opt->head_bits ? opt->embed_bits : opt->head_bits;
    if (opt->frequent_rows && least >= KQ_FINE_BITS && !kq_aim_given(opt))
        return kq_fail(err, KQ_E_ARG,
                       "--frequent-rows gives rows 4 bits where --embed-bits or --head-bits is 3 or 2");
    kq_status status = kq_sequential_check(opt, err);
    if (!status)
        status = kq_bits_check(opt, err);
    return status ? status : kq_code_parse(opt->code, &code, err);
}

#define ROUNDING_WORK ".kronq-work"

kq_status kq_quantize_check_folder(const char *out, bool tune, kq_error *err)
{
    struct stat st;
    if (stat(out, &st) == 0 && !S_ISDIR(st.st_mode))
        return kq_fail(err, KQ_E_IO, "%s: is a file, expected a folder to write the checkpoint into", out);
    DIR *d = opendir(out);
    bool ours = false, others = false, tuning = false;
    for (struct dirent *e; d && (e = readdir(d));) {
        ours = ours || !strcmp(e->d_name, ROUNDING_WORK) || !strcmp(e->d_name, "config.json");
        tuning = tuning || !strcmp(e->d_name, KQ_TUNE_WORK);
        others = others || (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."));
    }
    if (d)
        closedir(d);
    if (tuning && !tune && !kq_exists_in(out, "config.json"))
        return kq_fail(err, KQ_E_MISMATCH,
                       "%s: holds unfinished work, which was started with --tune scales; give the same "
                       "settings, or choose another output",
                       out);
    if (others && !ours && !tuning)
        return kq_fail(err, KQ_E_ARG, "%s: is not empty and holds no work of kronq's; choose another output",
                       out);
    return KQ_OK;
}

static kq_status locate(kq_output *o, kq_error *err)
{
    kq_status status = kq_path_in(&o->done_path, err, o->name, "config.json");
    if (!status)
        status = kq_path_in(&o->work_dir, err, o->name, ROUNDING_WORK);
    return status ? status : kq_quantize_check_folder(o->name, false, err);
}

static kq_status prepare(kq_output *o, kq_error *err)
{
    quantizer *q = o->ctx;
    kq_status status = kq_code_parse(o->opt.code, &q->code, err);
    if (status || (status = kq_bits_open(&o->p, &q->bits, err)))
        return status;
    if (kq_aim_given(&o->opt) &&
        ((status = kq_aim_check_reach(o, err)) || (status = kq_measure_check(&o->p, kq_aim_bytes(o), err))))
        return status;
    if (!o->opt.factors)
        return kq_bits_check_method(&q->bits, err);
    if (!o->work->planning || q->bits.settled)
        return KQ_OK;
    /* a plan takes the forecasts of a factor file, so that it can tell the bits of every module */
    if (!(status = kq_work_open_source(o, err)) && !(status = kq_bits_check_method(&q->bits, err)))
        status = kq_bits_share(o, err);
    return status;
}

static kq_status identify(kq_output *o, kq_error *err)
{
    const quantizer *q = o->ctx;
    kq_status status = kq_bits_check_method(&q->bits, err);
    if (status)
        return status;
    kq_rows_warn(o);
    json_t *settings = kq_quantize_settings(&o->opt);
    if (settings && !json_object_set(settings, "settings", o->settings) &&
        !json_object_set_new(settings, "isa", json_string(kq_isa_name(o->p.isa))))
        o->identity = json_dumps(settings, JSON_COMPACT);
    json_decref(settings);
    return o->identity ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: settings");
}

static kq_status check_weights(const kq_output *o, kq_error *err)
{
    return kq_check_weights(&o->p, NULL, true, err);
}

static void plan_checkpoint(const kq_output *o, kq_save_report *save)
{
    kq_checkpoint_plan(o->p.src, o->opt.embed_bits, o->opt.head_bits, o->opt.frequent_rows, kq_bits_of,
                       o->bits, save);
}

static void bytes(const kq_work *w, kq_receiver_bytes *out)
{
    const kq_output *o = w->outputs;
    const kq_bits *bits = o->bits;
    const bool before = !bits->settled || kq_sequential_wanted(&o->opt); /* rounding begins */
    kq_save_report save;
    size_t kept = 0;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(o->p.cfg, (kq_linear_id)id, &m, &n);
        size_t one = kq_round_bytes(m, n) + 4 * m * n; /* and the weights as they come */
        if (before || bits->forecast) {                /* factors come from files, twice */
            const size_t forecast = kq_forecast_bytes(m, n, o->p.threads);
            one = (forecast > one ? forecast : one) + 4 * (m * m + n * n);
        }
        out->peak = one > out->peak ? one : out->peak;
    }
    if (kq_aim_given(&o->opt))
        out->peak += kq_aim_bytes(o);
    if (before && !o->opt.factors)
        kq_plan_kept_factors(&o->p, &out->kept, &kept);
    plan_checkpoint(o, &save);
    out->peak = kq_rows_bytes(o) > out->peak ? kq_rows_bytes(o) : out->peak;
    out->disk = kept + 2 * save.file_bytes;
    kq_sequential_plan(&o->p, &out->peak, &out->disk);
}

/* ---- open and announce ---- */

static void describe(const kq_work *w, char line[160])
{
    char bits[64];
    snprintf(line, 160, "%zu modules to %s", w->outputs->p.n_selected, kq_bits_text(&w->outputs->opt, bits));
}

/* ---- before rounding: what needs the factors of all blocks, which are bits that are shared out, and
 * rounding from the lowest block up ---- */

static kq_status keep_linear(kq_output *o, const kq_linear_factors *f, kq_error *err)
{
    quantizer *q = o->ctx;
    if (!q->kept && !(q->kept = kq_factor_part_new(false)))
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", f->name);
    return kq_factor_part_add(q->kept, f->name, f->H_in, f->n, f->H_out, f->m, f->report, err);
}

static kq_status keep_block(kq_output *o, size_t layer, const char *path, kq_error *err)
{
    quantizer *q = o->ctx;
    (void)layer;
    kq_status status = kq_factor_part_write(q->kept, path, err);
    kq_factor_part_free(q->kept);
    q->kept = NULL;
    return status;
}

/* Run the sweep to its end, then open the factors that it left. */
static kq_status keep_factors(kq_output *o, kq_error *err)
{
    static const kq_stage keeping = {
        .stem = "factors", .suffix = "safetensors", .linear = keep_linear, .block = keep_block};
    char **parts = NULL;
    size_t n = 0;
    kq_status status = kq_job_check_parts(&o->job, keeping.stem, o->p.cfg->n_layer, keeping.suffix, err);
    if (!status)
        status = kq_work_stage(o->work, &keeping, err);
    if (!status)
        status = kq_prepared_parts(&o->p, &o->job, keeping.stem, &parts, &n, err);
    if (!status)
        status = kq_factor_file_open_parts(parts, n, o->identity, &o->work->file, err);
    kq_prepared_free_parts(parts, n);
    return status;
}

static kq_status before_rounding(kq_output *o, kq_error *err)
{
    quantizer *q = o->ctx;
    if (q->bits.settled && !kq_sequential_wanted(&o->opt))
        return KQ_OK;
    kq_status status = o->work->file ? KQ_OK : keep_factors(o, err);
    if (!status)
        status = kq_sequential_begin(&o->p, &o->job, &q->sequential, err);
    if (status || q->bits.settled)
        return status;
    const double start = kq_now_s();
    status = kq_bits_share(o, err);
    q->share_s = kq_now_s() - start;
    return status;
}

/* ---- rounding ---- */

static kq_status round_to_trellis(kq_output *o, const kq_linear_factors *f, const kq_round_input *in,
                                  kq_module_report *r, kq_error *err)
{
    quantizer *q = o->ctx;
    const int bits = r->bits = (int)kq_bits_of(&q->bits, f->layer, f->id);
    kq_status status =
        q->trellis[bits] ? KQ_OK : kq_trellis_new(q->code, bits, o->p.isa, NULL, &q->trellis[bits], err);
    if (!status)
        status = kq_sequential_round(q->sequential, f->layer, f->id, q->trellis[bits], in, &q->bits.round,
                                     &q->packed[f->id], &r->round, err);
    if (!status)
        q->ids |= 1u << f->id;
    return status;
}

static kq_status round_linear(kq_output *o, const kq_linear_factors *f, kq_error *err)
{
    quantizer *q = o->ctx;
    return kq_round_module(o, f, round_to_trellis, &q->report[f->id], err);
}

static kq_status write_block(kq_output *o, size_t layer, const char *path, kq_error *err)
{
    quantizer *q = o->ctx;
    kq_status status = q->sequential ? kq_sequential_block_done(q->sequential, layer, err) : KQ_OK;
    if (!status)
        status = kq_part_write(path, layer, q->ids, q->packed, q->report, err);
    drop_block(q);
    return status;
}

/* ---- finish ---- */

static json_t *describe_module(const kq_output *o, size_t layer, kq_linear_id id, const kq_module_report *r,
                               double loss)
{
    const quantizer *q = o->ctx;
    json_t *module =
        json_pack("{s:[I,I], s:i, s:f, s:f, s:o}", "shape", (json_int_t)r->m, (json_int_t)r->n, "bits",
                  r->bits, "bpw", r->bits + (8.0 * (double)(r->m + r->n) + 32) / (double)(r->m * r->n),
                  "relative_mse", r->round.relative_mse, "predicted_loss", kq_json_number(loss));
    if (kq_method_iterates(o->p.factor.method)) {
        json_object_set_new(module, "residual", kq_json_number(r->factor_residual));
        json_object_set_new(module, "sigma1", kq_json_number(r->sigma1));
        json_object_set_new(module, "sigma2", kq_json_number(r->sigma2));
        json_object_set_new(module, "products", json_integer(r->products));
    }
    if (q->bits.forecast)
        json_object_set_new(module, "forecast_loss",
                            kq_json_number(kq_bits_forecast(&q->bits, layer, id) / (double)o->work->seq_len));
    return module;
}

static kq_status finish(kq_output *o, kq_error *err)
{
    quantizer *q = o->ctx;
    kq_status status = kq_rows_round(o, q->code, err);
    if (!status)
        status = kq_rounding_sum(o, describe_module, &q->sums, err);
    if (!status && !(q->rows = kq_rows_describe(o, err)))
        status = KQ_E_MEMORY;
    if (status)
        return status;
    char *settings = kq_checkpoint_settings(o), *command = settings ? kq_checkpoint_command(o) : NULL;
    const kq_save_options save = {.command = command,
                                  .predicted_loss = q->sums.predicted_loss,
                                  .relative_mse = q->sums.relative_mse,
                                  .src = o->p.src,
                                  .dir = o->name,
                                  .part_dir = o->work_dir,
                                  .code = q->code,
                                  .embed_bits = o->opt.embed_bits,
                                  .head_bits = o->opt.head_bits,
                                  .frequent_rows = o->opt.frequent_rows,
                                  .shard_size = o->opt.shard_size,
                                  .settings_json = settings};
    status = command ? kq_checkpoint_save(&save, &q->saved, err)
                     : kq_fail(err, KQ_E_MEMORY, "out of memory: the model card");
    free(settings);
    free(command);
    return status;
}

static kq_status report(kq_work *w, json_t **out, kq_error *err)
{
    const kq_output *o = w->outputs;
    const quantizer *q = o->ctx;
    const kq_save_report *s = &q->saved;
    json_t *own = json_pack("{s:o, s:f, s:f, s:I, s:I, s:I, s:o, s:f}", "bits", kq_bits_number(s->bits),
                            "bpw", s->bpw_linear, "bpw_file", s->bpw_file, "file_bytes",
                            (json_int_t)s->file_bytes, "quantized_modules", (json_int_t)s->n_quantized,
                            "quantized_weights", (json_int_t)s->n_weights_quantized, "predicted_loss",
                            kq_json_number(q->sums.predicted_loss), "relative_mse", q->sums.relative_mse);
    if (kq_aim_given(&o->opt)) {
        json_t *allocation = kq_aim_report(o);
        json_object_set_new(allocation, "seconds", json_real(q->share_s));
        json_object_set_new(own, "allocation", allocation);
    } else if (q->bits.forecast) {
        const kq_allocation *a = &q->bits.allocation;
        const double T = (double)w->seq_len;
        json_object_set_new(own, "allocation",
                            json_pack("{s:f, s:f, s:f, s:f, s:f}", "asked", o->opt.bits, "average",
                                      q->bits.average, "forecast_loss", a->loss / T, "least_possible",
                                      a->bound / T, "seconds", q->share_s));
    }
    if (json_object_size(q->rows))
        json_object_set(own, "rows", q->rows);
    return kq_rounding_report(w, own, &q->sums, out, err);
}

static void close_quantizer(kq_output *o)
{
    quantizer *q = o->ctx;
    drop_block(q);
    kq_factor_part_free(q->kept);
    kq_sequential_free(q->sequential);
    for (int k = 0; k <= KQ_BITS_MAX; k++)
        kq_trellis_free(q->trellis[k]);
    kq_bits_free(&q->bits);
    json_decref(q->sums.modules);
    json_decref(q->rows);
}

/* ---- the plan ---- */

static json_t *plan(const kq_work *w)
{
    const kq_output *o = w->outputs;
    kq_save_report save;
    plan_checkpoint(o, &save);
    const bool aim = kq_aim_given(&o->opt), settled = o->bits->settled;
    json_t *plan =
        json_pack("{s:o, s:b, s:s, s:s, s:I, s:I, s:f, s:f, s:I, s:I}", "bits",
                  kq_bits_number(settled || aim ? save.bits : o->opt.bits), "bits_settled", settled, "code",
                  o->opt.code, "method", kq_work_method(w), "quantized_modules", (json_int_t)save.n_quantized,
                  "quantized_weights", (json_int_t)save.n_weights_quantized, "bpw", save.bpw_linear,
                  "bpw_file", save.bpw_file, "file_bytes", (json_int_t)save.file_bytes, "parameters",
                  (json_int_t)save.n_parameters);
    if (!plan || !aim)
        return plan;
    json_object_set_new(plan, "aim", json_string(kq_aim_text(&o->opt, (char[64]){0})));
    if (!settled)
        return plan;
    json_object_set_new(plan, "file_bytes", json_integer((json_int_t)o->bits->expected.bytes));
    json_object_set_new(plan, "bpw_file", json_real(o->bits->expected.bpw_file));
    json_object_set_new(plan, "embed_bits", json_integer(o->opt.embed_bits));
    if (!o->p.cfg->tie_embeddings)
        json_object_set_new(plan, "head_bits", json_integer(o->opt.head_bits));
    json_object_set_new(plan, "allocation", kq_aim_report(o));
    return plan;
}

/* How a side of a linear is rotated: "padded" when it is no multiple of a tile. */
static const char *transform_of(size_t m, size_t n)
{
    const size_t m_pad = (m + 15) / 16 * 16, n_pad = (n + 15) / 16 * 16;
    kq_hadamard *u = NULL, *v = NULL;
    const char *name = NULL;
    if (!kq_hadamard_new(m_pad, &u, NULL) && !kq_hadamard_new(n_pad, &v, NULL))
        name = kq_hadamard_is_fallback(u) || kq_hadamard_is_fallback(v) ? "fall-back"
               : m_pad != m || n_pad != n                               ? "Hadamard, padded"
                                                                        : "Hadamard";
    kq_hadamard_free(u);
    kq_hadamard_free(v);
    return name;
}

static void plan_linear(const kq_output *o, size_t layer, int id, json_t *module)
{
    const bool selected = o->p.selected[layer] >> id & 1;
    size_t m, n;
    kq_linear_shape(o->p.cfg, (kq_linear_id)id, &m, &n);
    const char *transform = selected ? transform_of(m, n) : "-";
    json_object_set_new(module, "bits",
                        kq_bits_number(selected ? kq_bits_of(o->bits, layer, (kq_linear_id)id) : 16));
    json_object_set_new(module, "transform", transform ? json_string(transform) : NULL);
}

static const kq_receiver checkpoint_receiver = {
    .complete = "the checkpoint is complete already",
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
    .bytes = bytes,
    .wants_rows = kq_rows_wanted,
    .check_complete = kq_checkpoint_check,
    .describe = describe,
    .before = before_rounding,
    .finish = finish,
    .report = report,
    .close = close_quantizer,
    .plan = plan,
    .plan_linear = plan_linear,
};

static kq_status round_model(const char *model, const char *out, const kq_quantize_options *opt,
                             char **report_json, kq_error *err)
{
    quantizer q = {.ids = 0};
    kq_output o = {.name = out, .ctx = &q, .bits = &q.bits, .opt = *opt};
    return kq_work_run(model, &checkpoint_receiver, &o, 1, report_json, err);
}

kq_status kq_quantize(const char *model, const char *out, const kq_quantize_options *opt, char **report_json,
                      kq_error *err)
{
    kq_quantize_options whole;
    if (report_json)
        *report_json = NULL;
    kq_status status = KQ_OPTIONS_READ(kq_quantize_options, &whole, opt, err);
    if (status || (status = kq_sequential_settle(&whole, err)))
        return status;
    whole.tune = kq_tune_wanted(&whole) ? "scales" : "none";
    if (!strcmp(whole.tune, "none"))
        return round_model(model, out, &whole, report_json, err);
    /* before a text is read to tune on */
    if ((status = check(&whole, err)) || (status = kq_quantize_check_folder(out, true, err)))
        return status;
    return kq_round_and_tune(model, out, &whole, round_model, report_json, err);
}

kq_status kq_plan(const char *model, const kq_quantize_options *opt, char **plan_json, kq_error *err)
{
    quantizer q = {.ids = 0};
    kq_output o = {.name = model, .ctx = &q, .bits = &q.bits};
    return kq_work_plan(model, &checkpoint_receiver, &o, opt, plan_json, err);
}
