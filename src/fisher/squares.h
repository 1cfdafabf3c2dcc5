/* Inside the room: sum_i ||G_i||_F^2, which sets the factors' scale (eq. 6), and the only look that every
 * value of the gradients gets: the sample with a NaN or an infinity is named here. */
#ifndef KQ_FISHER_SQUARES_H
#define KQ_FISHER_SQUARES_H

#include "fisher/product.h"

typedef struct kq_squares {
    double total; /* sum ||G_i||_F^2 */
    double terms; /* sum of the magnitudes of what total was added up from: total, but for factored samples,
                     whose terms may cancel */
} kq_squares;

/* Bytes of scratch that kq_squares_add takes: 0 for whole samples. 64-byte aligned. */
size_t kq_squares_scratch_bytes(const kq_product_plan *plan);
/* Add samples first .. first + count - 1, g [count, plan->sample], to *sum, in order whatever the threads.
 * KQ_E_NUMERIC: NaN or Inf; the lowest such sample is named. */
kq_status kq_squares_add(const kq_product_plan *plan, const uint16_t *g, size_t first, size_t count,
                         float *scratch, kq_squares *sum, kq_error *err);
/* KQ_E_NUMERIC: the sum over D samples has left f32's range. */
kq_status kq_squares_check(const kq_squares *sum, const kq_product_plan *plan, size_t D, kq_error *err);

#endif
