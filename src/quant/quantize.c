/* kq_quantize: calibrate, factor, round block by block, write the checkpoint. Where bits are shared out,
 * the factors of all blocks come first: from the file, or kept in the work folder by the sweep. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/locale.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/time.h"
#include "quant/check.h"
#include "factors/lacks.h"
#include "quant/plan.h"
#include "quant/rounding.h"

typedef struct quantizer {
    kq_rounding r; /* first: see there */
    kq_bits bits;
    kq_code code;
    kq_trellis *trellis[KQ_BITS_MAX + 1]; /* owned; by bits, made when the first module needs it */
    kq_factor_part *kept;                 /* owned; factors of the block at work, while they are only kept */
    kq_packed packed[KQ_N_LINEAR];        /* of the block at work */
    kq_module_report report[KQ_N_LINEAR];
    unsigned ids; /* which of them are filled */
    double share_s;
} quantizer;

static void drop_block(quantizer *q)
{
    for (int id = 0; id < KQ_N_LINEAR; id++)
        kq_packed_free(&q->packed[id]);
    memset(q->packed, 0, sizeof q->packed);
    q->ids = 0;
}

static kq_status trellis_for(quantizer *q, int bits, kq_error *err)
{
    return q->trellis[bits] ? KQ_OK : kq_trellis_new(q->code, bits, q->r.p.isa, NULL, &q->trellis[bits], err);
}

static kq_status round_one(void *ctx, size_t layer, kq_linear_id id, const float *H_in, const float *H_out,
                           const kq_factor_report *factor, kq_error *err)
{
    quantizer *q = ctx;
    kq_module_report *r = &q->report[id];
    const kq_weights *weights = kq_model_file_weights(q->r.p.model);
    const double start = kq_now_s();
    *r = (kq_module_report){.bits = (int)kq_bits_of(&q->bits, layer, id),
                            .factor_residual = NAN,
                            .sigma1 = NAN,
                            .sigma2 = NAN,
                            .products = factor->products};
    kq_linear_name(r->name, sizeof r->name, layer, id);
    kq_linear_shape(q->r.p.cfg, id, &r->m, &r->n);
    snprintf(r->identity, sizeof r->identity, "%s", kq_lack_name(factor->lack));
    if (kq_method_iterates(q->r.p.factor.method) && !factor->lack) {
        r->factor_residual = factor->residual;
        r->sigma1 = factor->sigma1;
        r->sigma2 = factor->sigma2;
    }
    float *W;
    kq_round_report round;
    const kq_round_options ro = {.sigma_reg = q->r.p.opt->sigma_reg,
                                 .seed = q->r.p.opt->common.seed,
                                 .threads = q->r.p.threads,
                                 .shrink = q->r.p.opt->shrink};
    kq_status status = kq_alloc_for((void **)&W, r->m * r->n, sizeof *W, r->name, err);
    if (!status)
        status = trellis_for(q, r->bits, err);
    if (!status)
        status = weights->linear(weights->ctx, layer, id, W, err);
    if (!status) {
        const kq_round_input in = {.name = r->name,
                                   .W = W,
                                   .m = r->m,
                                   .n = r->n,
                                   .H_in = H_in,
                                   .H_out = H_out,
                                   .predicts = q->r.predicts && !factor->lack};
        status = kq_round_linear(q->trellis[r->bits], &in, &ro, &q->packed[id], &round, err);
    }
    kq_free(W);
    if (status)
        return status;
    q->ids |= 1u << id;
    r->relative_mse = round.relative_mse;
    r->predicted_loss = q->r.predicts && factor->lack ? 0 : round.predicted_loss; /* eq. 1 with F = 0 */
    r->extra_in = round.extra_in;
    r->extra_out = round.extra_out;
    return kq_rounding_count(&q->r, r, factor, kq_now_s() - start, err);
}

static kq_status finish_block(void *ctx, size_t layer, kq_error *err)
{
    quantizer *q = ctx;
    char path[4400];
    kq_rounding_part(&q->r, layer, path);
    kq_status status = kq_part_write(path, layer, q->ids, q->packed, q->report, err);
    drop_block(q);
    if (!status)
        status = kq_job_seal(path, err);
    return status ? status : kq_block_note_give(&q->r.note, layer, &q->r.p.opt->common, err);
}

/* ---- keeping the factors of all blocks, where bits are shared out by them ---- */

static bool factors_done(void *ctx, size_t layer)
{
    return kq_job_part_done(&((quantizer *)ctx)->r.job, "factors", layer);
}

static kq_status keep_one(void *ctx, size_t layer, kq_linear_id id, const float *H_in, const float *H_out,
                          const kq_factor_report *factor, kq_error *err)
{
    quantizer *q = ctx;
    char name[128];
    size_t m, n;
    kq_linear_name(name, sizeof name, layer, id);
    kq_linear_shape(q->r.p.cfg, id, &m, &n);
    if (!q->kept && !(q->kept = kq_factor_part_new(false)))
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", name);
    return kq_factor_part_add(q->kept, name, H_in, n, H_out, m, factor, err);
}

static kq_status keep_block(void *ctx, size_t layer, kq_error *err)
{
    quantizer *q = ctx;
    char path[4400];
    kq_job_path(&q->r.job, "factors", layer, "safetensors", path);
    kq_status status = kq_factor_part_write(q->kept, path, err);
    kq_factor_part_free(q->kept);
    q->kept = NULL;
    return status ? status : kq_job_seal(path, err);
}

/* Run the sweep to its end, then open what it left. */
static kq_status keep_factors(quantizer *q, kq_sweep s, const char *settings, kq_error *err)
{
    char **parts = NULL;
    size_t n = 0;
    s.done = factors_done;
    s.linear = keep_one;
    s.block = keep_block;
    kq_status status = kq_job_check_parts(&q->r.job, "factors", q->r.p.cfg->n_layer, err);
    if (!status)
        status = kq_sweep_run(&s, &q->r.sweep, err);
    if (!status)
        status = kq_prepared_parts(&q->r.p, &q->r.job, "factors", &parts, &n, err);
    if (!status)
        status = kq_factor_file_open_parts(parts, n, settings, &q->r.file, err);
    kq_prepared_free_parts(parts, n);
    return status;
}

/* OUT may be absent, empty, or hold unfinished work of ours; anything else of the user's is left alone.
 * Changes nothing. */
static kq_status check_output(const char *out, const char *work_name, kq_error *err)
{
    struct stat st;
    if (stat(out, &st) == 0 && !S_ISDIR(st.st_mode))
        return kq_fail(err, KQ_E_IO, "%s: is a file, expected a folder to write the checkpoint into", out);
    DIR *d = opendir(out);
    bool ours = false, others = false;
    for (struct dirent *e; d && (e = readdir(d));) {
        ours = ours || !strcmp(e->d_name, work_name) || !strcmp(e->d_name, "config.json");
        others = others || (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."));
    }
    if (d)
        closedir(d);
    if (others && !ours)
        return kq_fail(err, KQ_E_ARG, "%s: is not empty and holds no work of kronq's; choose another output",
                       out);
    return KQ_OK;
}

static bool same_number(const json_t *a, const json_t *b)
{
    const double x = json_number_value(a), y = json_number_value(b);
    /* config.json keeps nine digits */
    return json_is_number(a) && json_is_number(b) && fabs(x - y) <= 1e-8 * fabs(y);
}

/* A config.json is there: it must be of a checkpoint that these settings would have made. */
static kq_status check_complete(const quantizer *q, const char *path, json_t *settings, kq_error *err)
{
    char *text;
    size_t size;
    const kq_quantize_options *o = q->r.p.opt;
    kq_status status = kq_file_read(path, 1 << 26, &text, &size, err);
    if (status)
        return status;
    json_t *config = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL),
           *qc = json_object_get(config, "quantization_config");
    const char *kind = json_string_value(json_object_get(qc, "quant_method")), *key;
    kq_free(text);
    json_t *expected =
               json_pack("{s:s, s:i, s:f, s:f, s:I}", "code", o->code, "embed_bits", o->embed_bits,
                         "sigma_reg", o->sigma_reg, "shrink", o->shrink, "seed", (json_int_t)o->common.seed),
           *value;
    if (!kind || strcmp(kind, "kronq"))
        status = kq_fail(err, KQ_E_MISMATCH, "%s: is not of a kronq checkpoint; choose another output", path);
    else if (!expected || json_object_update_missing(expected, settings))
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    if (!status && !q->r.p.cfg->tie_embeddings)
        json_object_set_new(expected, "head_bits", json_integer(o->head_bits));
    if (!status && !kq_bits_settings(o, expected))
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    if (!status) { /* "bits" tells it where all modules have the same */
        json_object_del(expected, "bits_asked");
        json_object_set_new(expected, json_object_get(qc, "bits_asked") ? "bits_asked" : "bits",
                            kq_bits_number(o->bits));
        if (json_object_get(qc, "module_bits_rules") && !json_object_get(expected, "module_bits_rules"))
            json_object_set_new(expected, "module_bits_rules", json_null());
    }
    if (!status) {
        json_object_foreach(expected, key, value)
        {
            const json_t *there = json_object_get(qc, key);
            if (json_equal(there, value) || same_number(there, value) ||
                (!there && !strcmp(key, "shrink") && o->shrink == 0)) /* older ones do not tell */
                continue;
            char *a = kq_job_shown(there), *b = kq_job_shown(value);
            status = kq_fail(err, KQ_E_MISMATCH,
                             "%s: the checkpoint there was made with %s %.200s, now it is %.200s; choose "
                             "another output or remove it",
                             path, key, a ? a : "?", b ? b : "?");
            free(a);
            free(b);
            break;
        }
    }
    if (!status && json_object_size(json_object_get(qc, "module_bits")) != q->r.p.n_wanted)
        status = kq_fail(err, KQ_E_MISMATCH,
                         "%s: the checkpoint there has %zu quantized modules, now --only picks %zu; choose "
                         "another output or remove it",
                         path, json_object_size(json_object_get(qc, "module_bits")), q->r.p.n_wanted);
    json_decref(config);
    json_decref(expected);
    return status;
}

static double real_or_nan(double x, double scale)
{
    return isfinite(x) ? x * scale : NAN;
}

/* The whole model's predicted loss (nats a token; NaN where nothing is predicted) and error, out of the
 * part files. modules: gets an entry for each; may be NULL. */
static kq_status sum_reports(const quantizer *q, json_t *modules, double *predicted_loss,
                             double *relative_mse, kq_error *err)
{
    double predicted = 0, error = 0;
    size_t weights = 0;
    kq_lacks lacks = {0};
    for (size_t l = 0; l < q->r.p.cfg->n_layer; l++) {
        char path[4400];
        kq_module_report r[KQ_N_LINEAR];
        kq_status status;
        kq_rounding_part(&q->r, l, path);
        if (!kq_path_exists(path))
            continue;
        if ((status = kq_part_read_reports(path, l, r, err)))
            return status;
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            if (!r[id].name[0])
                continue;
            const double loss = real_or_nan(r[id].predicted_loss, 1.0 / (double)q->r.seq_len);
            kq_lacks_add(&lacks, kq_lack_of(r[id].identity), r[id].name);
            predicted += loss;
            error += r[id].relative_mse * (double)(r[id].m * r[id].n);
            weights += r[id].m * r[id].n;
            if (!modules)
                continue;
            json_t *o =
                json_pack("{s:[I,I], s:i, s:f, s:f, s:o}", "shape", (json_int_t)r[id].m, (json_int_t)r[id].n,
                          "bits", r[id].bits, "bpw",
                          r[id].bits + (8.0 * (double)(r[id].m + r[id].n) + 32) / (double)(r[id].m * r[id].n),
                          "relative_mse", r[id].relative_mse, "predicted_loss", kq_json_number(loss));
            if (kq_method_iterates(q->r.p.factor.method)) {
                json_object_set_new(o, "residual", kq_json_number(r[id].factor_residual));
                json_object_set_new(o, "sigma1", kq_json_number(r[id].sigma1));
                json_object_set_new(o, "sigma2", kq_json_number(r[id].sigma2));
                json_object_set_new(o, "products", json_integer(r[id].products));
            }
            if (q->bits.forecast)
                json_object_set_new(
                    o, "forecast_loss",
                    kq_json_number(kq_bits_forecast(&q->bits, l, (kq_linear_id)id) / (double)q->r.seq_len));
            if (*r[id].identity)
                json_object_set_new(o, "identity", json_string(r[id].identity));
            json_object_set_new(modules, r[id].name, o);
        }
    }
    if (modules && !q->r.p.opt->factors) /* a factor file's were warned of when it was opened */
        kq_lacks_warn(&lacks);
    *predicted_loss = q->r.predicts ? predicted : NAN;
    *relative_mse = weights ? error / (double)weights : 0;
    return KQ_OK;
}

static char *make_report(const quantizer *q, const kq_save_report *save, double save_s, kq_error *err)
{
    json_t *modules = json_object();
    double predicted, error;
    if (sum_reports(q, modules, &predicted, &error, err)) {
        json_decref(modules);
        return NULL;
    }
    json_t *o = json_pack("{s:o, s:f, s:f, s:I, s:I, s:I, s:o, s:f}", "bits", kq_bits_number(save->bits),
                          "bpw", save->bpw_linear, "bpw_file", save->bpw_file, "file_bytes",
                          (json_int_t)save->file_bytes, "quantized_modules", (json_int_t)save->n_quantized,
                          "quantized_weights", (json_int_t)save->n_weights_quantized, "predicted_loss",
                          kq_json_number(predicted), "relative_mse", error);
    if (q->bits.forecast) {
        const kq_allocation *a = &q->bits.allocation;
        const double T = (double)q->r.seq_len;
        json_object_set_new(o, "allocation",
                            json_pack("{s:f, s:f, s:f, s:f, s:f}", "asked", q->r.p.opt->bits, "average",
                                      a->average, "forecast_loss", a->loss / T, "least_possible",
                                      a->bound / T, "seconds", q->share_s));
    }
    return kq_rounding_report(&q->r, o, modules, save_s, err);
}

/* The command line that makes this checkpoint again, file names without their folders: for the model
 * card. free() it; NULL: out of memory. */
static char *command_line(const char *model, const kq_quantize_options *o, const json_t *settings)
{
    const kq_quantize_options d = kq_quantize_defaults();
    const kq_calibration *c = &o->calibration;
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return NULL;
    fprintf(f, "kronq quantize %s -o OUT --bits %g", kq_path_name(model), o->bits);
    for (size_t i = 0; i < o->n_module_bits; i++)
        fprintf(f, " --module-bits '%s'", o->module_bits[i]);
    if (o->factors) {
        fprintf(f, " --factors %s", kq_path_name(o->factors));
    } else {
        for (size_t i = 0; i < c->n_text; i++)
            fprintf(f, " --text %s", kq_text_name(c->text[i]));
        if (c->reading.spell_special)
            fputs(" --no-parse-special", f);
        if (c->reading.format && strcmp(c->reading.format, "auto"))
            fprintf(f, " --text-format %s", c->reading.format);
        const json_t *cal = json_object_get(settings, "calibration");
        if (cal)
            fprintf(f, " --tokens %lld --seq-len %lld", json_integer_value(json_object_get(cal, "tokens")),
                    json_integer_value(json_object_get(cal, "seq_len")));
        if (c->batch != d.calibration.batch)
            fprintf(f, " --batch %zu", c->batch);
        if (strcmp(c->method, d.calibration.method))
            fprintf(f, " --method %s", c->method);
        if (c->sampled_labels)
            fputs(" --labels sampled", f);
        if (c->draws != d.calibration.draws)
            fprintf(f, " --draws %d", (int)c->draws);
        if (c->passes != d.calibration.passes)
            fprintf(f, " --passes %d", (int)c->passes);
        if (c->rho != d.calibration.rho)
            fprintf(f, " --rho %g", c->rho);
        if (c->rounds != d.calibration.rounds)
            fprintf(f, " --rounds %d", c->rounds);
        if (c->early != d.calibration.early)
            fprintf(f, " --early %zu", c->early);
        if (c->exact)
            fputs(" --exact", f);
        if (c->tol != d.calibration.tol)
            fprintf(f, " --tol %g", c->tol);
        if (c->max_iter != d.calibration.max_iter)
            fprintf(f, " --max-iter %d", c->max_iter);
        if (c->start_random)
            fputs(" --start random", f);
    }
    if (strcmp(o->code, d.code))
        fprintf(f, " --code %s", o->code);
    if (o->sigma_reg != d.sigma_reg)
        fprintf(f, " --sigma-reg %g", o->sigma_reg);
    if (o->shrink != d.shrink)
        fprintf(f, " --shrink %g", o->shrink);
    if (o->only)
        fprintf(f, " --only '%s'", o->only);
    if (o->embed_bits != d.embed_bits)
        fprintf(f, " --embed-bits %d", o->embed_bits);
    if (o->head_bits != d.head_bits)
        fprintf(f, " --head-bits %d", o->head_bits);
    fprintf(f, " --seed %llu", (unsigned long long)o->common.seed);
    return fclose(f) ? (free(text), NULL) : text;
}

kq_status kq_quantize(const char *model, const char *out, const kq_quantize_options *options,
                      char **report_json, kq_error *err)
{
    KQ_C_LOCALE;
    quantizer q = {.r = {.job.lock = -1, .start = kq_now_s()}};
    json_t *job_settings = NULL;
    char *text = NULL, *command = NULL, done[4300], work[4300], what[64];
    kq_save_report save = {0};
    kq_quantize_options guarded = *options;
    const kq_quantize_options *opt = &guarded;
    kq_progress guard;
    guarded.common = kq_progress_guard(&options->common, &guard);
    if (report_json)
        *report_json = NULL;

    kq_status status = kq_bits_check(opt, err);
    if (!status)
        status = kq_code_parse(opt->code, &q.code, err);
    if (!status && !(status = kq_path_join(done, sizeof done, out, "config.json", err)) &&
        !(status = kq_path_join(work, sizeof work, out, ".kronq-work", err)) &&
        !(status = check_output(out, ".kronq-work", err)))
        status = kq_job_look(done, work, opt->resume, err);
    if (!status)
        status = kq_prepare(model, opt, !opt->factors, &q.r.p, err);
    if (!status)
        status = kq_bits_open(&q.r.p, &q.bits, err);
    if (!status && !opt->factors)
        status = kq_bits_check_method(&q.bits, err);
    if (!status)
        status = kq_rounding_settings(&q.r, err);
    if (!status)
        status = kq_bits_check_method(&q.bits, err);
    if (status)
        goto out;
    json_t *settings = q.r.settings;
    job_settings = kq_quantize_settings(opt);
    if (job_settings && !json_object_set(job_settings, "settings", settings) &&
        !json_object_set_new(job_settings, "isa", json_string(kq_isa_name(q.r.p.isa))))
        text = json_dumps(job_settings, JSON_COMPACT);
    if (!text) {
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: settings");
        goto out;
    }
    kq_sweep s = kq_prepare_sweep(&q.r.p, &q.r.job);
    if (!kq_path_exists(done) &&
        ((status = kq_check_inputs(&q.r.p, NULL, true, &q.r.p.n_seq, 1, err)) ||
         (status = kq_plan_resources(&q.r.p, &q.bits, &s, out, &q.r.memory, &q.r.disk, err)) ||
         (!opt->resume && (status = kq_check_disk(out, q.r.disk, err)))))
        goto out;
    if ((status = kq_job_open(done, work, text, opt->resume, opt->fresh, &q.r.job, err)))
        goto out;
    if (q.r.job.complete) {
        if (!(status = check_complete(&q, done, settings, err)))
            status = kq_rounding_complete(&q.r, "checkpoint", report_json, err);
        goto out;
    }
    if ((status = kq_job_check_parts(&q.r.job, "block", q.r.p.cfg->n_layer, err)))
        goto out;
    if ((status = kq_rounding_announce(&q.r, &s, out, kq_bits_text(opt, what), err)) ||
        (status = kq_rounding_ids(&q.r, &s, err)))
        goto out;
    s.ctx = &q;
    s.done = kq_rounding_block_done;
    s.linear = round_one;
    s.block = finish_block;
    if (!q.bits.settled && !q.r.file && (status = keep_factors(&q, s, text, err)))
        goto out;
    if (!q.bits.settled) {
        const double share_start = kq_now_s();
        status = kq_bits_share(&q.bits, q.r.file, &q.r.job, err);
        q.share_s = kq_now_s() - share_start;
    }
    if (status || (status = kq_rounding_run(&q.r, &s, err)))
        goto out;
    const double save_start = kq_now_s();
    free(text);
    json_object_set_new(settings, "sigma_reg", json_real(opt->sigma_reg));
    json_object_set_new(settings, "shrink", json_real(opt->shrink));
    kq_bits_settings(opt, settings);
    json_object_set_new(settings, "seed", json_integer((json_int_t)opt->common.seed));
    text = json_dumps(settings, JSON_COMPACT);
    double predicted, error;
    if ((status = sum_reports(&q, NULL, &predicted, &error, err)))
        goto out;
    if (!(command = command_line(model, opt, settings))) {
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: the model card");
        goto out;
    }
    const kq_save_options so = {.command = command,
                                .predicted_loss = predicted,
                                .relative_mse = error,
                                .src = q.r.p.src,
                                .dir = out,
                                .part_dir = work,
                                .code = q.code,
                                .embed_bits = opt->embed_bits,
                                .head_bits = opt->head_bits,
                                .shard_size = opt->shard_size,
                                .settings_json = text};
    if ((status = kq_checkpoint_save(&so, &save, err)))
        goto out;
    char *report = make_report(&q, &save, kq_now_s() - save_start, err);
    kq_job_finish(&q.r.job);
    if (!report)
        status = KQ_E_MEMORY;
    else if (report_json)
        *report_json = report;
    else
        free(report);
out:
    drop_block(&q);
    kq_factor_part_free(q.kept);
    for (int k = 0; k <= KQ_BITS_MAX; k++)
        kq_trellis_free(q.trellis[k]);
    kq_bits_free(&q.bits);
    kq_rounding_close(&q.r);
    json_decref(job_settings);
    free(command);
    free(text);
    return status;
}
