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
    /* A tensor by its Hugging Face name as the file holds it, borrowed, for those who can use it as it lies.
     * NULL: the file has no such tensor (it may be packed). The member itself is NULL where weights come from
     * no file. */
    const kq_tensor *(*stored)(void *ctx, const char *name);
};

/* The weights of a source that is not a kronq checkpoint. src is borrowed and must outlive the result. */
kq_weights kq_weights_from_source(const kq_source *src);

#endif
