/* Inside the export room: what the two kinds of output share. */
#ifndef KQ_EXPORT_INTERNAL_H
#define KQ_EXPORT_INTERNAL_H

#include "checkpoint/checkpoint.h"

typedef struct kq_export_job {
    const kq_export_options *opt; /* borrowed, as all below */
    const kq_source *src;
    const kq_weights *weights;
    const char *out;
    size_t file_bytes;            /* result: of the weight files */
    size_t n_tensors, n_fallback; /* result; tensors stored in --fallback's type */
} kq_export_job;

/* Rows [row0, row0 + n) of a tensor as they are to be stored: f32 [n, cols]. */
typedef kq_status kq_export_sink(void *ctx, const float *rows, size_t n, kq_error *err);

/* Give the tensor `hf_name` [rows, cols] to the sink in Hugging Face's row order, some rows at a time.
 * linear: its kq_linear_id and layer; -1 for the others. The peak is one linear in f32. */
kq_status kq_export_rows(const kq_export_job *x, const char *hf_name, size_t layer, int linear, size_t rows,
                         size_t cols, size_t head_dim, kq_export_sink *sink, void *ctx, kq_error *err);
/* Tell of tensor i of n; KQ_E_INTERRUPTED when the caller asks to stop. */
kq_status kq_export_progress(const kq_export_job *x, size_t i, size_t n, kq_error *err);

/* folder x->out, which exists: everything in it, config.json last */
kq_status kq_export_hf(kq_export_job *x, kq_error *err);
kq_status kq_export_gguf(kq_export_job *x, kq_error *err); /* file x->out */

#endif
