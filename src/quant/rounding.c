#include "quant/rounding.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/progress.h"
#include "base/time.h"
#include "quant/plan.h"

kq_status kq_rounding_settings(kq_rounding *r, kq_error *err)
{
    kq_status status = kq_prepare_fingerprint(&r->p, err);
    r->sweep.nll = NAN;
    if (!status && r->p.opt->factors)
        status = kq_from_factors_open(&r->p, &r->file, &r->settings, err);
    else if (!status && !(r->settings = kq_prepare_settings(&r->p, err)))
        status = KQ_E_MEMORY;
    if (status)
        return status;
    r->predicts = kq_method_needs_gradients(r->p.factor.method);
    const json_int_t seq_len =
        json_integer_value(json_object_get(json_object_get(r->settings, "calibration"), "seq_len"));
    r->seq_len = seq_len > 0 ? (size_t)seq_len : 1;
    return KQ_OK;
}

void kq_rounding_close(kq_rounding *r)
{
    kq_job_close(&r->job);
    kq_prepared_free(&r->p);
    kq_factor_file_close(r->file);
    json_decref(r->settings);
}

void kq_rounding_part(const kq_rounding *r, size_t layer, char path[4400])
{
    kq_job_path(&r->job, "block", layer, "safetensors", path);
}

kq_status kq_rounding_count(kq_rounding *r, const kq_module_report *module, const kq_factor_report *factor,
                            double seconds, kq_error *err)
{
    r->round_s += seconds;
    r->note.seconds += seconds;
    kq_block_note_factors(&r->note, factor, kq_method_iterates(r->p.factor.method));
    kq_block_note_rounded(&r->note, module->m, module->n, module->relative_mse,
                          module->predicted_loss / (double)r->seq_len);
    return kq_progress_ask(&r->p.opt->common, module->name, err);
}

bool kq_rounding_block_done(void *ctx, size_t layer)
{
    return kq_job_part_done(&((kq_rounding *)ctx)->job, "block", layer);
}

kq_status kq_rounding_complete(kq_rounding *r, const char *what, char **report_json, kq_error *err)
{
    char line[100];
    snprintf(line, sizeof line, "the %s is complete already", what);
    kq_status status = kq_progress_note(&r->p.opt->common, line, err);
    if (status)
        return status;
    kq_job_finish(&r->job); /* killed between the last rename and the clean-up */
    if (report_json && !(*report_json = strdup("{\"complete\": true}")))
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the report");
    return KQ_OK;
}

kq_status kq_rounding_announce(kq_rounding *r, const kq_sweep *s, const char *dir, const char *what,
                               kq_error *err)
{
    char line[400], words[160], memory[32], disk[32];
    r->way = s->way;
    kq_status status = r->p.opt->resume ? KQ_OK : kq_check_disk(dir, r->disk, err);
    if (status)
        return status;
    snprintf(line, sizeof line, "%zu modules to %s; about %s of memory and %s of disk while it runs%s",
             r->p.n_wanted, what, kq_bytes_text((double)r->memory, memory),
             kq_bytes_text((double)r->disk, disk), kq_plan_words(&r->p, s, words));
    return kq_progress_note(&r->p.opt->common, line, err);
}

kq_status kq_rounding_ids(kq_rounding *r, kq_sweep *s, kq_error *err)
{
    kq_status status = r->file ? KQ_OK : kq_prepare_ids(&r->p, &r->job, err);
    s->ids = r->p.windows.ids;
    s->window = r->p.windows.number;
    return status;
}

kq_status kq_rounding_run(kq_rounding *r, const kq_sweep *s, kq_error *err)
{
    return r->file ? kq_from_factors_run(&r->p, r->file, s, "rounding", err)
                   : kq_sweep_run(s, &r->sweep, err);
}

char *kq_rounding_report(const kq_rounding *r, json_t *o, json_t *modules, double save_s, kq_error *err)
{
    json_t *common =
        json_pack("{s:o, s:{s:f, s:f, s:f, s:f, s:f, s:f}, s:I, s:I, s:s, s:O, s:o}", "calibration_nll",
                  kq_json_number(r->sweep.nll), "seconds", "forward", r->sweep.forward_s, "backward",
                  r->sweep.backward_s, "factors", r->sweep.factor_s, "rounding", r->round_s, "saving", save_s,
                  "total", kq_now_s() - r->start, "peak_rss_bytes", (json_int_t)kq_peak_rss_bytes(),
                  "planned_bytes", (json_int_t)r->memory, "gradients", kq_gradient_way_name(r->way),
                  "settings", r->settings, "modules", modules);
    kq_prepare_report_texts(&r->p, o);
    char *text = o && common && !json_object_update(o, common)
                     ? json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(8))
                     : NULL;
    json_decref(common);
    json_decref(o);
    if (!text)
        kq_fail(err, KQ_E_MEMORY, "out of memory: the report");
    return text;
}
