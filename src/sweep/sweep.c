#include "sweep/internal.h"

#include <math.h>
#include <omp.h>

#include "base/first_error.h"
#include "base/mem.h"
#include "base/time.h"

int kq_sweep_tell(const kq_sweep *s, const char *stage, double fraction)
{
    const kq_common *c = s->common;
    return c && c->progress ? c->progress(c->ctx, stage, fraction, NULL) : 0;
}

/* A request to stop counts before every item's own error. */
static void tick(const kq_sweep *s, kq_first_error *f, const char *stage, double fraction)
{
    if (!s->common || !s->common->progress)
        return;
#pragma omp critical(kq_sweep_progress)
    if (kq_sweep_tell(s, stage, fraction)) {
        kq_error e;
        kq_first_error_note(f, 0, kq_fail(&e, KQ_E_INTERRUPTED, "stopped while %s", stage), &e);
    }
}

kq_status kq_sweep_each(kq_sweeper *w, size_t n, kq_sweep_item *fn, void *pass, const char *stage,
                        double from, double to, kq_error *err)
{
    kq_first_error f = KQ_FIRST_ERROR;
    size_t finished = 0;
#pragma omp parallel for schedule(dynamic) num_threads(w->workers)
    for (size_t i = 0; i < n; i++) {
        if (kq_first_error_skip(&f, i + 1)) /* 0: the request to stop */
            continue;
        kq_error e;
        kq_first_error_note(&f, i + 1, fn(pass, &w->w[omp_get_thread_num()], i, &e), &e);
        size_t done;
#pragma omp atomic capture
        done = ++finished;
        tick(w->s, &f, stage, from + (to - from) * (double)done / (double)n);
    }
    return kq_first_error_get(&f, err);
}

size_t kq_sweep_n_records(const kq_sweeper *w, const kq_sweep_estimate *e)
{
    return e->n_seq * (w->backward ? w->s->draws : 1);
}

size_t kq_sweep_record(const kq_sweeper *w, const kq_sweep_estimate *e, size_t i)
{
    const size_t j = i % e->n_seq;
    return i / e->n_seq * w->s->n_seq + (e->seq ? e->seq[j] : j);
}

bool kq_sweep_as_stored(const kq_sweeper *w, const kq_sweep_estimate *e)
{
    return !e->seq && e->batch == w->unit;
}

kq_status kq_sweep_hand_out(kq_sweeper *w, const kq_sweep_estimate *e, size_t layer, kq_linear_id id,
                            const float *H_in, const float *H_out, const kq_factor_report *report,
                            kq_error *err)
{
    double start = kq_now_s();
    kq_status status = w->s->linear(e->ctx ? e->ctx : w->s->ctx, layer, id, H_in, H_out, report, err);
    w->report->callback_s += kq_now_s() - start;
    return status;
}

static size_t largest_linear(const kq_config *cfg, bool outputs)
{
    size_t best = 0;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        best = (outputs ? m : n) > best ? (outputs ? m : n) : best;
    }
    return best;
}

static void free_workers(kq_sweeper *w)
{
    for (int t = 0; w->w && t < w->workers; t++) {
        kq_sweep_worker *k = &w->w[t];
        kq_free(k->x);
        kq_free(k->dy);
        kq_free(k->half);
        kq_free(k->scratch);
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            kq_free(k->G[id]);
            for (int form = 0; form < KQ_N_FORMS; form++)
                kq_free(k->unit[form][id]);
        }
        kq_free(k->half_x);
        kq_free(k->half_g);
    }
    kq_free(w->w);
    w->w = NULL;
}

/* Does a worker multiply this linear's gradient out? */
static bool sums_gradient(const kq_sweeper *w, int id)
{
    return w->backward && (w->tokens || w->forms[id] & 1);
}

/* bf16 values of a unit that is on its way to disk. */
static size_t unit_size(const kq_sweeper *w, int form, int id)
{
    size_t m, n;
    kq_linear_shape(w->cfg, (kq_linear_id)id, &m, &n);
    return w->s->way == KQ_WAY_DISK && w->forms[id] >> form & 1
               ? kq_sample_size(m, n, form ? w->unit * w->s->T : 0)
               : 0;
}

static kq_status new_workers(kq_sweeper *w, bool backward, kq_error *err)
{
    const kq_config *cfg = w->cfg;
    if (!(w->w = kq_calloc((size_t)w->workers, sizeof *w->w)))
        return kq_fail(err, KQ_E_MEMORY, "out of memory: calibration");
    size_t scratch = kq_block_scratch_bytes(w->mc, w->s->T, backward);
    if (kq_head_scratch_bytes(w->mc) > scratch)
        scratch = kq_head_scratch_bytes(w->mc);
    for (int t = 0; t < w->workers; t++) {
        kq_sweep_worker *k = &w->w[t];
        k->x = kq_alloc(w->record, sizeof *k->x);
        k->dy = kq_alloc(w->record, sizeof *k->dy);
        k->half = kq_alloc(w->record, sizeof *k->half);
        k->scratch = kq_alloc(scratch, 1);
        bool ok = k->x && k->dy && k->half && k->scratch;
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            size_t m, n;
            kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
            if (sums_gradient(w, id))
                ok = (k->G[id] = kq_alloc(m * n, sizeof(float))) && ok;
            for (int form = 0; form < KQ_N_FORMS; form++)
                if (unit_size(w, form, id))
                    ok = (k->unit[form][id] = kq_alloc(unit_size(w, form, id), sizeof(uint16_t))) && ok;
        }
        if (backward && w->s->compute == KQ_BF16) {
            k->half_x = kq_alloc(w->s->T * largest_linear(cfg, false), 2);
            k->half_g = kq_alloc(w->s->T * largest_linear(cfg, true), 2);
            ok = ok && k->half_x && k->half_g;
        }
        if (!ok)
            return kq_fail(err, KQ_E_MEMORY, "out of memory: calibration with %d sequences at once",
                           w->workers);
    }
    return KQ_OK;
}

/* What the estimates have in common. */
static void survey(kq_sweeper *w)
{
    const kq_sweep *s = w->s;
    w->unit = s->estimates->batch;
    for (size_t i = 0; i < s->n_estimates; i++) {
        const kq_sweep_estimate *e = &s->estimates[i];
        w->backward = w->backward || kq_method_needs_gradients(e->factor->method);
        if (e->seq || e->batch != w->unit)
            w->unit = 1;
    }
    w->n_rec = s->n_seq * (w->backward ? s->draws : 1);
    for (size_t i = 0; i < s->n_estimates; i++)
        w->tokens = w->tokens || kq_method_needs(s->estimates[i].factor->method) == KQ_NEEDS_TOKENS;
    for (int id = 0; id < KQ_N_LINEAR; id++)
        w->forms[id] = kq_sweep_forms(w, id);
}

kq_status kq_sweep_need_head(kq_sweeper *w, kq_error *err)
{
    return w->head ? KQ_OK : kq_head_load(w->mc, w->s->weights, &w->head, err);
}

static kq_sweeper new_sweeper(const kq_sweep *s, const kq_config *cfg, kq_sweep_report *report)
{
    kq_sweeper w = {.s = s,
                    .cfg = cfg,
                    .threads = s->threads > 0 ? s->threads : 1,
                    .record = s->T * cfg->d_model,
                    .report = report};
    w.workers = s->workers > 0 && s->workers < w.threads ? s->workers : w.threads;
    return w;
}

/* The method that needs no text. */
static kq_status identity_sweep(kq_sweeper *w, kq_error *err)
{
    const kq_sweep *s = w->s;
    const kq_factor_report none = {.converged = true};
    kq_status status = KQ_OK;
    for (size_t l = 0; l < w->cfg->n_layer && !status; l++) {
        if (!s->selected[l] || s->done(s->ctx, l))
            continue;
        for (int id = 0; id < KQ_N_LINEAR && !status; id++)
            if (s->selected[l] >> id & 1)
                status = kq_sweep_hand_out(w, s->estimates, l, (kq_linear_id)id, NULL, NULL, &none, err);
        if (!status)
            status = s->block(s->ctx, l, err);
        if (!status && kq_sweep_tell(s, "rounding", (double)(l + 1) / (double)w->cfg->n_layer))
            status = kq_fail(err, KQ_E_INTERRUPTED, "stopped while rounding");
    }
    return status;
}

kq_status kq_sweep_run(const kq_sweep *s, kq_sweep_report *report, kq_error *err)
{
    *report = (kq_sweep_report){.nll = NAN};
    kq_sweeper w = new_sweeper(s, s->weights->cfg, report);
    if (s->estimates->factor->method == KQ_NONE)
        return identity_sweep(&w, err);

    size_t lowest = w.cfg->n_layer, highest = 0;
    bool left = false;
    for (size_t l = 0; l < w.cfg->n_layer; l++) {
        if (!s->selected[l])
            continue;
        lowest = l < lowest ? l : lowest;
        highest = l;
        left = left || !s->done(s->ctx, l);
    }
    if (!left)
        return KQ_OK;
    survey(&w);
    kq_status status = kq_model_ctx_new(w.cfg, s->isa, s->compute, s->T, &w.mc, err);
    if (!status)
        status = new_workers(&w, w.backward, err);
    if (!status)
        status = w.backward ? kq_sweep_down(&w, lowest, err) : kq_sweep_up(&w, highest, err);
    kq_head_free(w.head);
    free_workers(&w);
    kq_model_ctx_free(w.mc);
    return status;
}

void kq_sweep_plan(const kq_config *cfg, const kq_sweep *s, size_t *memory_bytes, size_t *disk_bytes)
{
    *memory_bytes = *disk_bytes = 0;
    if (s->estimates->factor->method == KQ_NONE)
        return;
    kq_sweeper w = new_sweeper(s, cfg, NULL);
    survey(&w);
    const size_t record = w.record, n_rec = w.n_rec, workers = (size_t)w.workers;
    size_t worker = 10 * record, sums = 0, scratch = 0, statistics, disk;
    kq_sweep_store_plan(&w, &statistics, &disk);
    for (size_t i = 0; i < s->n_estimates; i++) {
        const kq_sweep_estimate *e = &s->estimates[i];
        if (kq_method_needs(e->factor->method) == KQ_NEEDS_GRADIENTS)
            continue;
        const bool down = kq_method_needs_gradients(e->factor->method);
        const size_t bytes =
            s->receiver_peak + kq_sweep_token_bytes(cfg, s->T, kq_sweep_n_records(&w, e), down, s->diagonal);
        statistics = bytes > statistics ? bytes : statistics;
    }
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        sums += sums_gradient(&w, id) ? 4 * m * n : 0;
    }
    if (s->compute == KQ_BF16 && w.backward)
        sums += 2 * s->T * (largest_linear(cfg, false) + largest_linear(cfg, true));
    kq_model_ctx *mc;
    if (!kq_model_ctx_new(cfg, s->isa, s->compute, s->T, &mc, NULL)) {
        scratch = kq_block_scratch_bytes(mc, s->T, w.backward);
        scratch = kq_head_scratch_bytes(mc) > scratch ? kq_head_scratch_bytes(mc) : scratch;
        kq_model_ctx_free(mc);
    }
    worker += scratch;
    /* The head is there until the loss is known, a block's statistics come after it. */
    const size_t head = kq_head_bytes(cfg, s->compute), nll = w.backward ? 4 * n_rec * s->T : 0;
    const size_t block = workers * sums + statistics + s->receiver_kept;
    *memory_bytes =
        kq_block_bytes(cfg, s->compute) + workers * worker + (head + nll > block ? head + nll : block);
    *disk_bytes = disk + (w.backward ? (cfg->n_layer + 1) * s->n_seq * record * 2 + 2 * n_rec * record * 4
                                     : 2 * s->n_seq * record * 2);
}
