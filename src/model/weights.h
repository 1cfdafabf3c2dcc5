/* The interface through which all code reads a model's weights. Behind it is a plain source or a packed kronq
 * checkpoint; a caller does not know which. */
#ifndef KQ_MODEL_WEIGHTS_H
#define KQ_MODEL_WEIGHTS_H

#include "source/source.h"

typedef struct kq_weights kq_weights;
struct kq_weights {
    const kq_config *cfg; /* borrowed */
    void *ctx;            /* what the functions below get */
    /* W of one linear, f32 [m, n] row-major. Safe from several threads. */
    kq_status (*linear)(void *ctx, size_t layer, kq_linear_id id, float *W, kq_error *err);
    /* Rows of any other tensor by its Hugging Face name (norms; embedding and head are [vocab, d_model]). */
    kq_status (*rows)(void *ctx, const char *name, size_t row0, size_t n_rows, float *dst, kq_error *err);
};

/* The weights of a source that is not a kronq checkpoint. src is borrowed and must outlive the result. */
kq_weights kq_weights_from_source(const kq_source *src);

#endif
