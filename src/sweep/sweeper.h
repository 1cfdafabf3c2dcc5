/* What the parts of a sweep share: its threads' scratch, what the estimates have in common, and the loop over
 * records. Private to src/sweep. */
#ifndef KQ_SWEEP_SWEEPER_H
#define KQ_SWEEP_SWEEPER_H

#include "sweep/spill.h"
#include "sweep/sweep.h"

enum { KQ_N_FORMS = 2 }; /* in which a gradient is stored: store.h */

/* The scratch of one thread. Every array is owned; NULL where the sweep does not need it. */
typedef struct kq_sweep_worker {
    float *x, *dy;             /* [T, d] a block's input, and the gradient at its output or input */
    uint16_t *half;            /* [T, d] a record as it is stored, bf16 */
    void *scratch;             /* of the model's functions */
    float *G[KQ_N_LINEAR];     /* [m, n], sum over the sequences of one unit */
    uint16_t *half_x, *half_g; /* bf16 products: the operands of G */
    uint16_t *unit[KQ_N_FORMS][KQ_N_LINEAR]; /* gradients on disk: the unit at work */
} kq_sweep_worker;

typedef struct kq_sweeper {
    const kq_sweep *s; /* borrowed */
    const kq_config *cfg;
    kq_model_ctx *mc; /* owned by kq_sweep_run */
    kq_head *head;    /* owned by kq_sweep_run; NULL: not loaded */
    size_t record;    /* values of a [T, d] record: block inputs in bf16, gradients in f32 */
    /* records of gradients: n_seq * draws; record r belongs to sequence r % n_seq, draw r / n_seq */
    size_t n_rec;
    kq_sweep_worker *w; /* [workers], owned */
    int threads;        /* of products and sums */
    int workers;        /* sequences worked on at once */
    bool backward;      /* some estimate needs gradients of the loss */
    bool tokens;        /* some estimate goes over tokens */
    /* records summed into one stored gradient: the batch that all estimates share, else 1 */
    size_t unit;
    unsigned forms[KQ_N_LINEAR]; /* bits of kq_sweep_forms */
    kq_sweep_report *report;     /* the caller's */
} kq_sweeper;

/* A sweeper without workers; threads and workers are settled. */
kq_sweeper kq_sweeper_new(const kq_sweep *s, const kq_config *cfg, kq_sweep_report *report);
/* Allocate w->workers workers. On KQ_E_MEMORY some may be there: kq_sweep_workers_free in any case. */
kq_status kq_sweep_workers_new(kq_sweeper *w, kq_error *err);
void kq_sweep_workers_free(kq_sweeper *w);
/* Bytes of one worker: what it holds during the whole sweep, and its gradients G of the block at work. */
void kq_sweep_worker_plan(const kq_sweeper *w, size_t *always, size_t *gradients);

/* Load the head unless it is there. */
kq_status kq_sweep_load_head(kq_sweeper *w, kq_error *err);

/* Call fn(ctx, worker, i) for every i < n, spread over the workers. The error of the lowest failing index is
 * returned; a request to stop counts before it (KQ_E_INTERRUPTED). The stage's progress goes from `from` to
 * `to`. */
typedef kq_status kq_sweep_item(void *ctx, kq_sweep_worker *k, size_t i, kq_error *err);
kq_status kq_sweep_for_each(kq_sweeper *w, size_t n, kq_sweep_item *fn, void *ctx, const char *stage,
                            double from, double to, kq_error *err);

/* Records that an estimate uses; and the i-th of them: its sequences of the first draw come first, then those
 * of the second, and so on. */
size_t kq_sweep_n_records(const kq_sweeper *w, const kq_sweep_estimate *e);
size_t kq_sweep_record(const kq_sweeper *w, const kq_sweep_estimate *e, size_t i);

/* Are the estimate's samples just the stored gradients, in their order? */
bool kq_sweep_as_stored(const kq_sweeper *w, const kq_sweep_estimate *e);

/* Give a linear's factors to the receiver, and add the time that it takes to the report. H_in and H_out NULL:
 * the identity. */
kq_status kq_sweep_hand_out(kq_sweeper *w, const kq_sweep_estimate *e, size_t layer, kq_linear_id id,
                            const float *H_in, const float *H_out, const kq_factor_report *report,
                            kq_error *err);

#endif
