/* Inside the room: what both kinds of output (folder and GGUF) share: the job, and reading a
 * tensor's rows. */
#ifndef KQ_EXPORT_ROWS_H
#define KQ_EXPORT_ROWS_H

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_model_write.h"

typedef struct kq_export_job {
    const kq_export_options *opt; /* borrowed, as all below */
    const kq_source *src;
    const kq_weights *weights;
    const char *out;
    size_t file_bytes;            /* result: of the weight files */
    size_t n_tensors, n_fallback; /* result; tensors in another type than asked for, because of their rows */
    /* result of rounding onto smaller types: squared error over the weights' squares; NaN: nothing was
     * rounded */
    double relative_mse;
} kq_export_job;

/* A function that takes the next n rows of a tensor, f32 [n, cols], in the order in which they are stored. */
typedef kq_status kq_export_sink(void *ctx, const float *rows, size_t n, kq_error *err);

/* Give the slot's tensor to the sink, some rows at a time. head_dim 0: in Hugging Face's row order; otherwise
 * in the order of llama.cpp's rotary embedding (kq_gguf_hf_row). The peak is one linear in f32. */
kq_status kq_export_rows(const kq_export_job *x, const kq_gguf_slot *s, size_t head_dim, kq_export_sink *sink,
                         void *ctx, kq_error *err);
/* Report tensor i of n to the caller's progress; KQ_E_INTERRUPTED when it asks to stop. */
kq_status kq_export_progress(const kq_export_job *x, size_t i, size_t n, kq_error *err);

/* Write the folder x->out, which exists; config.json last. */
kq_status kq_export_hf(kq_export_job *x, kq_error *err);
/* Write the file x->out. */
kq_status kq_export_gguf(kq_export_job *x, kq_error *err);

#endif
