/* The loss and its gradient at the last block's output, record by record, so that the memory for logits does
 * not grow with the calibration text. */
#include "sweep/loss.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "sweep/rows.h"

typedef struct loss_loop {
    kq_sweeper *w;
    kq_spill *in, *out; /* final hidden states; gradients there */
    float *nll;         /* [n_rec, T] */
    float *spread;      /* [n_seq, T], eq. 140; NULL: nobody wants it */
} loss_loop;

/* The labels of record r, next [T]: the text's own next tokens (the empirical Fisher), or tokens drawn from
 * the model's distribution (the true Fisher). The last position has none, -1. A label depends on the seed,
 * the sequence's number and the draw alone, not on the other sequences nor on the threads. */
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
    const loss_loop *l = ctx;
    const kq_sweep *s = l->w->s;
    int32_t *next = kq_alloc(s->T, sizeof *next);
    kq_status status = next ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: labels");
    if (!status)
        status = kq_records_read_input(l->w, k, l->in, r % s->n_seq, err);
    if (!status)
        status = labels(l->w, k, r, next, err);
    if (!status)
        status = kq_head_loss(l->w->head, k->x, s->T, next, l->nll + r * s->T, k->dy,
                              l->spread && r < s->n_seq ? l->spread + r * s->T : NULL, k->scratch, err);
    if (!status)
        status = kq_spill_write(l->out, r, k->dy, err);
    kq_free(next);
    return status;
}

kq_status kq_sweep_loss(kq_sweeper *w, kq_error *err)
{
    const size_t L = w->cfg->n_layer, T = w->s->T;
    loss_loop l = {.w = w};
    kq_status status = kq_alloc_for((void **)&l.nll, w->n_rec * T, sizeof *l.nll, "losses", err);
    if (!status && w->s->rows)
        status = kq_alloc_for((void **)&l.spread, w->s->n_seq * T, sizeof *l.spread, "losses", err);
    if (!status)
        status = kq_records_open(w, KQ_REC_INPUT, L, &l.in, err);
    if (!status)
        status = kq_records_create(w, KQ_REC_GRAD, L, &l.out, err);
    if (!status)
        status = kq_sweep_for_each(w, w->n_rec, loss_item, &l, "loss", 0, 1, err);
    if (!status) {
        double sum = 0;
        for (size_t i = 0; i < w->n_rec * T; i++)
            sum += l.nll[i];
        w->report->nll = sum / (double)(w->n_rec * (T - 1));
        if (!isfinite(w->report->nll))
            status = kq_fail(err, KQ_E_NUMERIC, "the model's loss on the calibration text is not a number");
    }
    /* before the gradients count as complete: they are what an interrupted run goes on from */
    if (!status && l.spread)
        status = kq_sweep_head_factor(w, l.in, l.spread, err);
    kq_free(l.nll);
    kq_free(l.spread);
    kq_spill_close(l.in);
    return kq_records_finish(l.out, status, err);
}
