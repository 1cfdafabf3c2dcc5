/* The order of a sweep: forward through all blocks, the loss, and down again; or forward only, for methods
 * that need no gradient. The order lets one block's weights and statistics be in memory at a time. */
#include <math.h>

#include "base/time.h"
#include "sweep/block_pass.h"
#include "sweep/loss.h"
#include "sweep/rows.h"
#include "sweep/store.h"
#include "sweep/tokens.h"

/* What the estimates have in common. */
static void find_common(kq_sweeper *w)
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
        if (!status && kq_sweep_progress(s, "rounding", (double)(l + 1) / (double)w->cfg->n_layer))
            status = kq_fail(err, KQ_E_INTERRUPTED, "stopped while rounding");
    }
    return status;
}

/* ---- without gradients: up ---- */

static kq_status sweep_up(kq_sweeper *w, size_t highest, kq_error *err)
{
    const kq_sweep *s = w->s;
    double start = kq_now_s();
    size_t from = 0;
    while (from < highest && (s->done(s->ctx, from) || !s->selected[from]) &&
           kq_records_there(w, KQ_REC_INPUT, from + 1))
        from++;
    kq_status status = KQ_OK;
    if (!from && !(status = kq_sweep_load_head(w, err))) {
        status = kq_sweep_embed(w, err);
        kq_head_free(w->head);
        w->head = NULL;
    }
    for (size_t l = from; l <= highest && !status; l++) {
        const unsigned selected = s->done(s->ctx, l) ? 0 : s->selected[l];
        const bool alone = s->n_estimates == 1; /* then it passes the outputs on as well */
        if (alone && (selected || l < highest))
            status = kq_sweep_input_block(w, s->estimates, l, selected, l < highest, err);
        for (size_t i = 0; i < s->n_estimates && !alone && selected && !status; i++)
            status = kq_sweep_input_block(w, &s->estimates[i], l, selected, false, err);
        if (!alone && l < highest && !status)
            status = kq_sweep_forward_block(w, l, err);
        if (!status && selected)
            status = s->block(s->ctx, l, err);
        if (!status)
            kq_records_drop(w, KQ_REC_INPUT, l);
    }
    w->report->forward_s = kq_now_s() - start - w->report->callback_s;
    w->report->backward_s = w->report->factor_s = 0; /* all of it one pass forward */
    return status;
}

/* ---- with gradients: up, the loss, and down ---- */

/* A block of the way down, for all estimates. A single one over tokens passes the gradient on in its own
 * first pass. */
static kq_status down_block(kq_sweeper *w, size_t layer, unsigned selected, bool keep_dx, kq_error *err)
{
    const kq_sweep *s = w->s;
    if (selected && s->n_estimates == 1 && kq_method_needs(s->estimates->factor->method) == KQ_NEEDS_TOKENS)
        return kq_sweep_token_block(w, s->estimates, layer, selected, keep_dx, err);
    kq_status status = kq_sweep_gradient_block(w, layer, selected, keep_dx, err);
    for (size_t i = 0; i < s->n_estimates && selected && !status; i++) {
        const kq_needs needs = kq_method_needs(s->estimates[i].factor->method);
        if (needs == KQ_NEEDS_TOKENS)
            status = kq_sweep_token_block(w, &s->estimates[i], layer, selected, false, err);
        else if (needs == KQ_NEEDS_INPUTS)
            status = kq_sweep_input_block(w, &s->estimates[i], layer, selected, false, err);
    }
    return status;
}

static kq_status sweep_down(kq_sweeper *w, size_t lowest, kq_error *err)
{
    const kq_sweep *s = w->s;
    const size_t L = w->cfg->n_layer;
    kq_status status = KQ_OK;
    double start = kq_now_s();

    /* Where an interrupted run stopped: the lowest gradient that was passed on, with every block above
     * it done. Those above are gone by then. */
    size_t from = L + 1;
    for (size_t l = L;; l--) {
        if (kq_records_there(w, KQ_REC_GRAD, l))
            from = l;
        if (l == lowest || (s->selected[l - 1] && !s->done(s->ctx, l - 1)))
            break;
    }
    if (from > L) {
        from = L;
        status = kq_sweep_load_head(w, err);
        if (!status)
            status = kq_sweep_embed(w, err);
        for (size_t l = 0; l < L && !status; l++)
            if (!kq_records_there(w, KQ_REC_INPUT, l + 1))
                status = kq_sweep_forward_block(w, l, err);
        if (!status)
            status = kq_sweep_loss(w, err);
        if (!status)
            kq_records_drop(w, KQ_REC_INPUT, L);
        kq_head_free(w->head); /* the gradients will want its room */
        w->head = NULL;
    }
    w->report->forward_s = kq_now_s() - start;

    for (size_t l = from; l-- > lowest && !status;) {
        const unsigned selected = s->done(s->ctx, l) ? 0 : s->selected[l];
        if (selected || l > lowest)
            status = down_block(w, l, selected, l > lowest || (l == 0 && s->rows), err);
        if (!status && selected && l == 0 && s->rows) {
            status = kq_sweep_embedding_factor(w, err);
            kq_records_drop(w, KQ_REC_GRAD, 0);
        }
        if (!status && selected)
            status = s->block(s->ctx, l, err);
        if (!status) { /* only now: until here an interrupted run needs them again */
            kq_records_drop(w, KQ_REC_GRAD, l + 1);
            kq_records_drop(w, KQ_REC_INPUT, l);
        }
    }
    return status;
}

kq_status kq_sweep_run(const kq_sweep *s, kq_sweep_report *report, kq_error *err)
{
    *report = (kq_sweep_report){.nll = NAN};
    kq_sweeper w = kq_sweeper_new(s, s->weights->cfg, report);
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
    find_common(&w);
    kq_status status = kq_model_ctx_new(w.cfg, s->isa, s->compute, s->T, &w.mc, err);
    if (!status)
        status = kq_sweep_workers_new(&w, err);
    if (!status)
        status = w.backward ? sweep_down(&w, lowest, err) : sweep_up(&w, highest, err);
    kq_head_free(w.head);
    kq_sweep_workers_free(&w);
    kq_model_ctx_free(w.mc);
    return status;
}

/* ---- the plan ---- */

/* Bytes of the statistics of one block at most: of all stored gradients, or of one estimate over tokens. */
static size_t statistics_bytes(const kq_sweeper *w, size_t *disk_bytes)
{
    const kq_sweep *s = w->s;
    size_t most;
    kq_sweep_store_plan(w, &most, disk_bytes);
    for (size_t i = 0; i < s->n_estimates; i++) {
        const kq_sweep_estimate *e = &s->estimates[i];
        if (kq_method_needs(e->factor->method) == KQ_NEEDS_GRADIENTS)
            continue;
        const bool backward = kq_method_needs_gradients(e->factor->method);
        const size_t bytes = s->receiver_peak + kq_sweep_token_bytes(w->cfg, s->T, kq_sweep_n_records(w, e),
                                                                     backward, s->diagonal);
        most = bytes > most ? bytes : most;
    }
    return most;
}

void kq_sweep_plan(const kq_config *cfg, const kq_sweep *s, size_t *memory_bytes, size_t *disk_bytes)
{
    *memory_bytes = *disk_bytes = 0;
    if (s->estimates->factor->method == KQ_NONE)
        return;
    kq_sweeper w = kq_sweeper_new(s, cfg, NULL);
    find_common(&w);
    const size_t record = w.record, n_rec = w.n_rec, workers = (size_t)w.workers;
    size_t disk, worker, gradients;
    const size_t statistics = statistics_bytes(&w, &disk);
    kq_sweep_worker_plan(&w, &worker, &gradients);
    /* The head is there until the loss is known; a block's statistics come after it. */
    const size_t rows = w.backward && s->rows ? kq_sweep_rows_bytes(&w) : 0,
                 loss = kq_head_bytes(cfg, s->compute) + (w.backward ? 4 * n_rec * s->T : 0) + rows,
                 block = workers * gradients + statistics + s->receiver_kept;
    *memory_bytes = kq_block_bytes(cfg, s->compute) + workers * worker + (loss > block ? loss : block);
    *disk_bytes = disk + (w.backward ? (cfg->n_layer + 1) * s->n_seq * record * 2 + 2 * n_rec * record * 4
                                     : 2 * s->n_seq * record * 2);
}
