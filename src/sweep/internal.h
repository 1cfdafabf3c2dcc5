/* What the parts of the sweep share: workers, one pass over the samples, the spilled records. Internal
 * to the quant room. */
#ifndef KQ_SWEEP_INTERNAL_H
#define KQ_SWEEP_INTERNAL_H

#include "sweep/spill.h"
#include "sweep/sweep.h"

enum { KQ_N_FORMS = 2 }; /* in which a gradient is kept: sweep_store.c */

/* Scratch of one thread. */
typedef struct kq_sweep_worker {
    float *x, *dy;  /* [T, d] */
    uint16_t *half; /* [T, d], a record as stored */
    void *scratch;
    float *G[KQ_N_LINEAR];                   /* [m, n], sum over the sequences of one sample */
    uint16_t *half_x, *half_g;               /* bf16 products: operands of G */
    uint16_t *unit[KQ_N_FORMS][KQ_N_LINEAR]; /* gradients on disk: the unit at work */
} kq_sweep_worker;

typedef struct kq_sweeper {
    const kq_sweep *s;
    const kq_config *cfg;
    kq_model_ctx *mc;
    kq_head *head;
    size_t record; /* values of a [T, d] record: block inputs in bf16, gradients in f32 */
    /* gradients' records: n_seq * draws; record r belongs to sequence r % n_seq, draw r / n_seq */
    size_t n_rec;
    kq_sweep_worker *w; /* [workers] */
    int threads;        /* of products and sums */
    int workers;        /* sequences worked on at once */
    bool backward;      /* some estimate needs gradients of the loss */
    /* records summed into one stored gradient: the batch that all estimates share, else 1 */
    size_t unit;
    unsigned forms[KQ_N_LINEAR]; /* bits of kq_sweep_forms */
    bool tokens;                 /* some estimate goes over tokens */
    kq_sweep_report *report;
} kq_sweeper;

/* ---- sweep.c ---- */

/* fn for every item i < n, spread over the threads; the first error ends it. The stage's progress goes
 * from `from` to `to`. */
typedef kq_status kq_sweep_item(void *pass, kq_sweep_worker *k, size_t i, kq_error *err);
kq_status kq_sweep_each(kq_sweeper *w, size_t n, kq_sweep_item *fn, void *pass, const char *stage,
                        double from, double to, kq_error *err);

/* Records an estimate looks at, and the i-th of them: its sequences of the first draw, then of the
 * second, ... */
size_t kq_sweep_n_records(const kq_sweeper *w, const kq_sweep_estimate *e);
size_t kq_sweep_record(const kq_sweeper *w, const kq_sweep_estimate *e, size_t i);

/* The estimate's samples are just the stored gradients, in their order. */
bool kq_sweep_as_stored(const kq_sweeper *w, const kq_sweep_estimate *e);

/* A linear's factors go to the receiver; its time is kept. */
kq_status kq_sweep_hand_out(kq_sweeper *w, const kq_sweep_estimate *e, size_t layer, kq_linear_id id,
                            const float *H_in, const float *H_out, const kq_factor_report *report,
                            kq_error *err);

/* ---- sweep_records.c: block inputs and gradients on disk ---- */

/* of a layer; n_layer: the final hidden state */
typedef enum kq_record_kind { KQ_REC_INPUT, KQ_REC_GRAD } kq_record_kind;
bool kq_records_there(const kq_sweeper *w, kq_record_kind kind, size_t layer);
void kq_records_drop(const kq_sweeper *w, kq_record_kind kind, size_t layer);
kq_status kq_records_open(const kq_sweeper *w, kq_record_kind kind, size_t layer, kq_spill **out,
                          kq_error *err);
kq_status kq_records_create(const kq_sweeper *w, kq_record_kind kind, size_t layer, kq_spill **out,
                            kq_error *err);
/* Commit what was written if all went well, else remove it. Passes status on. f may be NULL. */
kq_status kq_records_finish(kq_spill *f, kq_status status, kq_error *err);
/* Block inputs are bf16 on disk, f32 in k->x. */
kq_status kq_records_read_input(const kq_sweeper *w, kq_sweep_worker *k, kq_spill *in, size_t seq,
                                kq_error *err);
kq_status kq_records_write_input(const kq_sweeper *w, kq_sweep_worker *k, kq_spill *out, size_t seq,
                                 kq_error *err);

/* Block inputs of layer 0, from the embedding. */
kq_status kq_sweep_embed(kq_sweeper *w, kq_error *err);

/* The head, from its first use on. */
kq_status kq_sweep_need_head(kq_sweeper *w, kq_error *err);

/* ---- the three ways over the blocks ---- */

/* sweep_gradients.c: forward, loss, then from the top block down to `lowest`; whole gradients or token
 * statistics of each block. */
kq_status kq_sweep_down(kq_sweeper *w, size_t lowest, kq_error *err);
/* Back through one block for sequence seq = r % n_seq of record r: reads the block's input and the
 * gradient at its output, leaves the gradient at its input in k->dy, written to `dx` unless NULL. */
kq_status kq_sweep_backward_record(kq_sweeper *w, kq_sweep_worker *k, const kq_block *block, size_t r,
                                   kq_spill *in, kq_spill *dy, kq_spill *dx, unsigned selected,
                                   kq_linear_sink *sink, void *ctx, kq_error *err);
/* One block forward, inputs to inputs of the next. */
kq_status kq_sweep_forward_block(kq_sweeper *w, size_t layer, kq_error *err);
/* k->G[id] (+)= G^T X */
kq_status kq_sweep_weight_gradient(kq_sweeper *w, kq_sweep_worker *k, kq_linear_id id, const float *X,
                                   const float *G, size_t T, bool accumulate, kq_error *err);

/* sweep_store.c: the factors of a block, of every estimate that takes gradients of whole samples, one
 * linear after the other; and, when keep_dx, the gradient at the block's input. selected 0, or no such
 * estimate: the block is only passed through. */
kq_status kq_sweep_gradient_block(kq_sweeper *w, size_t layer, unsigned selected, bool keep_dx,
                                  kq_error *err);
/* The forms in which a linear's gradients are needed, a bit each: multiplied out, factored. */
unsigned kq_sweep_forms(const kq_sweeper *w, int id);
/* Bytes held of one block beside its weights and what kq_sweep_worker has; and on disk. */
void kq_sweep_store_plan(const kq_sweeper *w, size_t *memory, size_t *disk);

/* sweep_tokens.c: statistics over tokens. Up: inputs alone, one forward pass. token_block: of a sweep
 * down; input_block: of either. keep: pass the gradient at the block's input, or its output, on to the
 * next block as well (an estimate over all sequences). */
kq_status kq_sweep_up(kq_sweeper *w, size_t highest, kq_error *err);
kq_status kq_sweep_token_block(kq_sweeper *w, const kq_sweep_estimate *e, size_t layer, unsigned selected,
                               bool keep, kq_error *err);
kq_status kq_sweep_input_block(kq_sweeper *w, const kq_sweep_estimate *e, size_t layer, unsigned selected,
                               bool keep, kq_error *err);
/* Bytes of what is held of one block. */
size_t kq_sweep_token_bytes(const kq_config *cfg, size_t T, size_t n_seq, bool backward, bool diagonal);

#endif
