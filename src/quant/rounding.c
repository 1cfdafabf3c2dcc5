/* One linear's rounding and the sums over all of them: rounding.h. */
#include "quant/rounding.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/progress.h"
#include "base/time.h"
#include "factors/lacks.h"
#include "prepare/plan.h"
#include "prepare/sequences.h"

static kq_module_report new_report(const kq_output *o, const kq_linear_factors *f)
{
    kq_module_report r = {.m = f->m,
                          .n = f->n,
                          .round.predicted_loss = NAN,
                          .factor_residual = NAN,
                          .sigma1 = NAN,
                          .sigma2 = NAN,
                          .products = f->report->products};
    snprintf(r.name, sizeof r.name, "%s", f->name);
    snprintf(r.identity, sizeof r.identity, "%s", kq_lack_name(f->report->lack));
    if (kq_method_iterates(o->p.factor.method) && !f->report->lack) {
        r.factor_residual = f->report->residual;
        r.sigma1 = f->report->sigma1;
        r.sigma2 = f->report->sigma2;
    }
    return r;
}

kq_status kq_round_module(kq_output *o, const kq_linear_factors *f, kq_rounder *rounder,
                          kq_module_report *report, kq_error *err)
{
    kq_work *w = o->work;
    const kq_weights *weights = kq_model_file_weights(o->p.model);
    const double start = kq_now_s();
    float *W;
    *report = new_report(o, f);
    kq_status status = kq_alloc_for((void **)&W, f->m * f->n, sizeof *W, f->name, err);
    if (!status)
        status = weights->linear(weights->ctx, f->layer, f->id, W, err);
    if (!status) {
        const kq_round_input in = {.name = f->name,
                                   .W = W,
                                   .m = f->m,
                                   .n = f->n,
                                   .H_in = f->H_in,
                                   .H_out = f->H_out,
                                   .predicts = w->predicts && !f->report->lack};
        status = rounder(o, f, &in, report, err);
    }
    kq_free(W);
    if (status)
        return status;
    if (w->predicts && f->report->lack)
        report->round.predicted_loss = 0; /* eq. 1 with F = 0 */
    const double seconds = kq_now_s() - start;
    w->round_s += seconds;
    o->note.seconds += seconds;
    kq_block_note_factors(&o->note, f->report, kq_method_iterates(o->p.factor.method));
    kq_block_note_rounded(&o->note, f->m, f->n, report->round.relative_mse,
                          report->round.predicted_loss / (double)w->seq_len);
    return kq_progress_ask(&o->opt.common, f->name, err);
}

static double per_token(const kq_work *w, double loss)
{
    return isfinite(loss) ? loss * (1.0 / (double)w->seq_len) : NAN;
}

static kq_status read_reports(const kq_output *o, size_t layer, kq_module_report r[KQ_N_LINEAR],
                              kq_error *err)
{
    const kq_stage *stage = &o->work->receiver->stage;
    char *path;
    kq_status status = kq_job_path(&o->job, stage->stem, layer, stage->suffix, &path, err);
    if (!status)
        status = kq_part_read_reports(path, layer, r, err);
    kq_free(path);
    return status;
}

kq_status kq_rounding_sum(const kq_output *o, kq_describe_module *describe, kq_rounding_sums *sums,
                          kq_error *err)
{
    double predicted = 0, error = 0;
    kq_lacks lacks = {0};
    *sums = (kq_rounding_sums){.modules = json_object()};
    for (size_t l = 0; l < o->p.cfg->n_layer; l++) {
        kq_module_report r[KQ_N_LINEAR];
        kq_status status = o->p.selected[l] ? read_reports(o, l, r, err) : KQ_OK;
        if (status)
            return status;
        if (!o->p.selected[l])
            continue;
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            if (!r[id].name[0])
                continue;
            const double count = (double)r[id].m * (double)r[id].n,
                         loss = per_token(o->work, r[id].round.predicted_loss);
            predicted += loss;
            error += r[id].round.relative_mse * count;
            sums->weights += count;
            sums->n++;
            kq_lacks_add(&lacks, kq_lack_of(r[id].identity), r[id].name);
            json_t *module = describe(o, l, (kq_linear_id)id, &r[id], loss);
            if (*r[id].identity)
                json_object_set_new(module, "identity", json_string(r[id].identity));
            json_object_set_new(sums->modules, r[id].name, module);
        }
    }
    if (!o->opt.factors)
        kq_lacks_warn(&lacks);
    sums->predicted_loss = o->work->predicts ? predicted : NAN;
    sums->relative_mse = sums->weights > 0 ? error / sums->weights : 0;
    return KQ_OK;
}

kq_status kq_rounding_report(const kq_work *w, json_t *own, const kq_rounding_sums *sums, json_t **out,
                             kq_error *err)
{
    const kq_sweep_report *s = &w->swept;
    json_t *common =
        json_pack("{s:o, s:{s:f, s:f, s:f, s:f, s:f, s:f}, s:I, s:I, s:s, s:O, s:O}", "calibration_nll",
                  kq_json_number(s->nll), "seconds", "forward", s->forward_s, "backward", s->backward_s,
                  "factors", s->factor_s, "rounding", w->round_s, "saving", w->save_s, "total",
                  kq_now_s() - w->start, "peak_rss_bytes", (json_int_t)kq_peak_rss_bytes(), "planned_bytes",
                  (json_int_t)w->memory, "gradients", kq_gradient_way_name(w->sweep.way), "settings",
                  w->outputs->settings, "modules", sums->modules);
    kq_report_texts(&w->outputs->p, own);
    const bool ok = own && common && !json_object_update(own, common);
    json_decref(common);
    *out = own;
    return ok ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: the report");
}
