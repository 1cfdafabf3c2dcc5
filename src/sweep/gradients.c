/* The sweep of methods that need gradients: forward once, the loss, then block by block from the top. */
#include "sweep/internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/time.h"

/* What one pass over the samples reads and writes. */
typedef struct pass {
    kq_sweeper *w;
    kq_block block;
    kq_spill *in, *dy, *out;
    float *nll; /* [n_rec, T] */
} pass;

/* ---- up: every block's input ---- */

static kq_status forward_item(void *ctx, kq_sweep_worker *k, size_t seq, kq_error *err)
{
    const pass *p = ctx;
    kq_status status = kq_records_read_input(p->w, k, p->in, seq, err);
    if (!status)
        status = kq_block_forward(p->w->mc, &p->block, k->x, p->w->s->T, k->x, k->scratch, 1, err);
    return status ? status : kq_records_write_input(p->w, k, p->out, seq, err);
}

kq_status kq_sweep_forward_block(kq_sweeper *w, size_t layer, kq_error *err)
{
    pass p = {.w = w};
    const double L = (double)w->cfg->n_layer;
    kq_status status = kq_records_open(w, KQ_REC_INPUT, layer, &p.in, err);
    if (!status)
        status = kq_records_create(w, KQ_REC_INPUT, layer + 1, &p.out, err);
    if (!status)
        status = kq_block_load(w->mc, w->s->weights, layer, &p.block, err);
    if (!status)
        status = kq_sweep_each(w, w->s->n_seq, forward_item, &p, "forward", (double)layer / L,
                               (double)(layer + 1) / L, err);
    kq_block_free(&p.block);
    kq_spill_close(p.in);
    return kq_records_finish(p.out, status, err);
}

/* ---- the loss and its gradient at the last block's output ---- */

/* The text's own next tokens (the empirical Fisher), or drawn from the model's distribution (the true
 * one). The last position has none. */
static kq_status labels(const kq_sweeper *w, kq_sweep_worker *k, size_t r, int32_t *next, kq_error *err)
{
    const kq_sweep *s = w->s;
    const size_t seq = r % s->n_seq;
    kq_status status = KQ_OK;
    if (s->sampled_labels) {
        char label[64];
        snprintf(label, sizeof label, "labels.%zu.%zu", s->window ? s->window[seq] : seq, r / s->n_seq);
        kq_rng rng = kq_rng_stream(s->seed, label);
        float *u = k->dy; /* [T], free until the gradient is written there */
        for (size_t t = 0; t < s->T; t++)
            u[t] = (float)kq_rng_uniform(&rng);
        status = kq_head_sample(w->head, k->x, s->T, u, next, k->scratch, err);
    } else {
        memcpy(next, s->ids + seq * s->T + 1, (s->T - 1) * sizeof *next);
    }
    next[s->T - 1] = -1;
    return status;
}

static kq_status loss_item(void *ctx, kq_sweep_worker *k, size_t r, kq_error *err)
{
    const pass *p = ctx;
    const kq_sweep *s = p->w->s;
    int32_t *next = kq_alloc(s->T, sizeof *next);
    kq_status status = next ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: labels");
    if (!status)
        status = kq_records_read_input(p->w, k, p->in, r % s->n_seq, err);
    if (!status)
        status = labels(p->w, k, r, next, err);
    if (!status)
        status = kq_head_loss(p->w->head, k->x, s->T, next, p->nll + r * s->T, k->dy, k->scratch, err);
    if (!status)
        status = kq_spill_write(p->out, r, k->dy, err);
    kq_free(next);
    return status;
}

static kq_status loss_gradients(kq_sweeper *w, kq_error *err)
{
    const size_t L = w->cfg->n_layer, T = w->s->T;
    pass p = {.w = w};
    kq_status status = kq_alloc_for((void **)&p.nll, w->n_rec * T, sizeof *p.nll, "losses", err);
    if (!status)
        status = kq_records_open(w, KQ_REC_INPUT, L, &p.in, err);
    if (!status)
        status = kq_records_create(w, KQ_REC_GRAD, L, &p.out, err);
    if (!status)
        status = kq_sweep_each(w, w->n_rec, loss_item, &p, "loss", 0, 1, err);
    if (!status) {
        double sum = 0;
        for (size_t i = 0; i < w->n_rec * T; i++)
            sum += p.nll[i];
        w->report->nll = sum / (double)(w->n_rec * (T - 1));
        if (!isfinite(w->report->nll))
            status = kq_fail(err, KQ_E_NUMERIC, "the model's loss on the calibration text is not a number");
    }
    kq_free(p.nll);
    kq_spill_close(p.in);
    return kq_records_finish(p.out, status, err);
}

/* ---- down ---- */

kq_status kq_sweep_weight_gradient(kq_sweeper *w, kq_sweep_worker *k, kq_linear_id id, const float *X,
                                   const float *G, size_t T, bool accumulate, kq_error *err)
{
    size_t m, n;
    kq_linear_shape(w->cfg, id, &m, &n);
    if (w->s->compute == KQ_F32) {
        kq_gemm_f32(true, false, m, n, T, 1, G, m, X, n, accumulate ? 1 : 0, k->G[id], n);
        return KQ_OK;
    }
    kq_f32_to_bf16_n(X, k->half_x, T * n);
    kq_f32_to_bf16_n(G, k->half_g, T * m);
    return kq_gemm_bf16(true, false, m, n, T, k->half_g, m, k->half_x, n, accumulate, k->G[id], n, err);
}

kq_status kq_sweep_backward_record(kq_sweeper *w, kq_sweep_worker *k, const kq_block *block, size_t r,
                                   kq_spill *in, kq_spill *dy, kq_spill *dx, unsigned selected,
                                   kq_linear_sink *sink, void *ctx, kq_error *err)
{
    kq_status status = kq_records_read_input(w, k, in, r % w->s->n_seq, err);
    if (!status)
        status = kq_spill_read(dy, r, k->dy, err);
    if (!status)
        status = kq_block_backward(w->mc, block, k->x, k->dy, w->s->T, dx ? k->dy : NULL, selected, sink, ctx,
                                   k->scratch, err);
    return status || !dx ? status : kq_spill_write(dx, r, k->dy, err);
}

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

kq_status kq_sweep_down(kq_sweeper *w, size_t lowest, kq_error *err)
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
        status = kq_sweep_need_head(w, err);
        if (!status)
            status = kq_sweep_embed(w, err);
        for (size_t l = 0; l < L && !status; l++)
            if (!kq_records_there(w, KQ_REC_INPUT, l + 1))
                status = kq_sweep_forward_block(w, l, err);
        if (!status)
            status = loss_gradients(w, err);
        if (!status)
            kq_records_drop(w, KQ_REC_INPUT, L);
        kq_head_free(w->head); /* the gradients will want its room */
        w->head = NULL;
    }
    w->report->forward_s = kq_now_s() - start;

    for (size_t l = from; l-- > lowest && !status;) {
        const unsigned selected = s->done(s->ctx, l) ? 0 : s->selected[l];
        if (selected || l > lowest)
            status = down_block(w, l, selected, l > lowest, err);
        if (!status && selected)
            status = s->block(s->ctx, l, err);
        if (!status) { /* only now: until here an interrupted run needs them again */
            kq_records_drop(w, KQ_REC_GRAD, l + 1);
            kq_records_drop(w, KQ_REC_INPUT, l);
        }
    }
    return status;
}
