/* The state of a sweep and its loop over records. Whole sequences run in parallel, each with the scratch of
 * one worker and one thread: no product of a block is shared among threads, so results do not depend on their
 * number. */
#include "sweep/sweeper.h"

#include <omp.h>

#include "base/first_error.h"
#include "base/mem.h"
#include "base/time.h"

int kq_sweep_progress(const kq_sweep *s, const char *stage, double fraction)
{
    const kq_common *c = s->common;
    return c && c->progress ? c->progress(c->ctx, stage, fraction, NULL) : 0;
}

/* Tell the caller how far the loop is. A request to stop counts before every item's own error: it has index
 * 0. */
static void announce(const kq_sweep *s, kq_first_error *f, const char *stage, double fraction)
{
    if (!s->common || !s->common->progress)
        return;
#pragma omp critical(kq_sweep_progress)
    if (kq_sweep_progress(s, stage, fraction)) {
        kq_error e;
        kq_first_error_note(f, 0, kq_fail(&e, KQ_E_INTERRUPTED, "stopped while %s", stage), &e);
    }
}

kq_status kq_sweep_for_each(kq_sweeper *w, size_t n, kq_sweep_item *fn, void *ctx, const char *stage,
                            double from, double to, kq_error *err)
{
    kq_first_error f = KQ_FIRST_ERROR;
    size_t finished = 0;
#pragma omp parallel for schedule(dynamic) num_threads(w->workers)
    for (size_t i = 0; i < n; i++) {
        if (kq_first_error_skip(&f, i + 1)) /* 0: the request to stop */
            continue;
        kq_error e;
        kq_first_error_note(&f, i + 1, fn(ctx, &w->w[omp_get_thread_num()], i, &e), &e);
        size_t done;
#pragma omp atomic capture
        done = ++finished;
        announce(w->s, &f, stage, from + (to - from) * (double)done / (double)n);
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
    size_t largest = 0;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        const size_t size = outputs ? m : n;
        largest = size > largest ? size : largest;
    }
    return largest;
}

void kq_sweep_workers_free(kq_sweeper *w)
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

/* The scratch that the model's functions want from a worker. */
static size_t scratch_bytes(const kq_sweeper *w, const kq_model_ctx *mc)
{
    const size_t T = w->s->T, head = kq_head_scratch_bytes(mc),
                 block = w->backward ? kq_block_backward_bytes(mc, (kq_rows){1, T, 1})
                                     : kq_block_scratch_bytes(mc, T);
    return head > block ? head : block;
}

static kq_status new_worker(kq_sweeper *w, kq_sweep_worker *k, kq_error *err)
{
    k->x = kq_alloc(w->record, sizeof *k->x);
    k->dy = kq_alloc(w->record, sizeof *k->dy);
    k->half = kq_alloc(w->record, sizeof *k->half);
    k->scratch = kq_alloc(scratch_bytes(w, w->mc), 1);
    bool ok = k->x && k->dy && k->half && k->scratch;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(w->cfg, (kq_linear_id)id, &m, &n);
        if (sums_gradient(w, id))
            ok = (k->G[id] = kq_alloc(m * n, sizeof(float))) && ok;
        for (int form = 0; form < KQ_N_FORMS; form++)
            if (unit_size(w, form, id))
                ok = (k->unit[form][id] = kq_alloc(unit_size(w, form, id), sizeof(uint16_t))) && ok;
    }
    if (w->backward && w->s->compute == KQ_BF16) {
        k->half_x = kq_alloc(w->s->T * largest_linear(w->cfg, false), 2);
        k->half_g = kq_alloc(w->s->T * largest_linear(w->cfg, true), 2);
        ok = ok && k->half_x && k->half_g;
    }
    return ok ? KQ_OK
              : kq_fail(err, KQ_E_MEMORY, "out of memory: calibration with %d sequences at once", w->workers);
}

kq_status kq_sweep_workers_new(kq_sweeper *w, kq_error *err)
{
    if (!(w->w = kq_calloc((size_t)w->workers, sizeof *w->w)))
        return kq_fail(err, KQ_E_MEMORY, "out of memory: calibration");
    kq_status status = KQ_OK;
    for (int t = 0; t < w->workers && !status; t++)
        status = new_worker(w, &w->w[t], err);
    return status;
}

void kq_sweep_worker_plan(const kq_sweeper *w, size_t *always, size_t *gradients)
{
    *gradients = 0;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(w->cfg, (kq_linear_id)id, &m, &n);
        *gradients += sums_gradient(w, id) ? 4 * m * n : 0;
    }
    if (w->s->compute == KQ_BF16 && w->backward)
        *gradients += 2 * w->s->T * (largest_linear(w->cfg, false) + largest_linear(w->cfg, true));
    *always = 10 * w->record;
    kq_model_ctx *mc;
    if (!kq_model_ctx_new(w->cfg, w->s->isa, w->s->compute, w->s->T, &mc, NULL)) {
        *always += scratch_bytes(w, mc);
        kq_model_ctx_free(mc);
    }
}

kq_sweeper kq_sweeper_new(const kq_sweep *s, const kq_config *cfg, kq_sweep_report *report)
{
    kq_sweeper w = {.s = s,
                    .cfg = cfg,
                    .threads = s->threads > 0 ? s->threads : 1,
                    .record = s->T * cfg->d_model,
                    .report = report};
    w.workers = s->workers > 0 && s->workers < w.threads ? s->workers : w.threads;
    return w;
}

kq_status kq_sweep_load_head(kq_sweeper *w, kq_error *err)
{
    return w->head ? KQ_OK : kq_head_load(w->mc, w->s->weights, &w->head, err);
}
