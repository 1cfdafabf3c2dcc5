/* What a method is to the rest of the room. Internal to fisher. */
#ifndef KQ_FISHER_METHOD_H
#define KQ_FISHER_METHOD_H

#include "fisher/product.h"

typedef struct kq_estimator {
    const char *name;
    kq_needs needs;
    bool exact;    /* f32 products even where block integers are faster: its middle matrices are indefinite, or its residual asks for it */
    bool diagonal; /* only the factors' diagonals are kept */
    /* KQ_NEEDS_GRADIENTS: bytes of scratch, the products' own included (0: overflow), and the work, on checked arguments. */
    size_t (*scratch)(const kq_product_plan *plan, const kq_factor_options *opt);
    kq_status (*run)(const kq_product_plan *plan, const uint16_t *g, const kq_factor_options *opt, void *block, float *H_in, float *H_out,
                     kq_factor_report *report, kq_progress progress, kq_error *err);
} kq_estimator;

const kq_estimator *kq_estimator_of(kq_method method);

#endif
