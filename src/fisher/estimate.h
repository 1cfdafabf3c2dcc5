/* Inside the room: one estimate of one linear's factors, which advances product by product. Between two
 * products it waits for a pass over the samples; factors.c makes the passes. */
#ifndef KQ_FISHER_ESTIMATE_H
#define KQ_FISHER_ESTIMATE_H

#include "fisher/method.h"
#include "fisher/squares.h"

typedef struct kq_linear_estimate {
    kq_stream_linear *linear; /* borrowed: shape, options, H_in, H_out */
    const kq_machine *machine;
    kq_product_plan plan;
    kq_product product;
    kq_search search;
    kq_step step;
    kq_factor_report report;
    size_t seen;        /* samples of this pass */
    size_t counted;     /* samples whose squares are in `squares`: the first ones */
    kq_squares squares; /* of these */
    bool finished;
    void *block; /* owned: scratch of the product, then of the squares, then the machine's state */
} kq_linear_estimate;

/* Bytes of a kq_linear_estimate's block, and the product's plan; 0: too many for the address space, or the
 * method takes no gradients. pieces: samples may arrive in pieces smaller than a chunk. */
size_t kq_linear_estimate_bytes(kq_product_plan *plan, const kq_gradients *G, const kq_factor_options *opt,
                                bool pieces);
/* KQ_E_ARG: a shape of gradients that is empty or too large. */
kq_status kq_gradients_check(const kq_gradients *G, kq_error *err);

/* Check e->linear and its options, allocate, and set the method's first state. */
kq_status kq_linear_estimate_begin(kq_linear_estimate *e, bool pieces, kq_error *err);
/* Before a pass: begin the product that the method asks for, or finish the estimate (e->finished). */
kq_status kq_linear_estimate_next(kq_linear_estimate *e, kq_error *err);
/* During a pass: the next `count` samples g. Those beyond what the product takes are ignored. */
kq_status kq_linear_estimate_add(kq_linear_estimate *e, const uint16_t *g, size_t count, kq_error *err);
/* After a pass: hand the finished product to the method. */
kq_status kq_linear_estimate_absorb(kq_linear_estimate *e, kq_error *err);
void kq_linear_estimate_free(kq_linear_estimate *e);

#endif
