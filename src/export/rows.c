/* Gives a tensor's rows to an export, some at a time, so that at most one linear is in memory in f32. */
#include "export/rows.h"

#include <string.h>

#include "base/mem.h"

enum { ROWS = 256 }; /* most rows that are given at a time */

kq_status kq_export_progress(const kq_export_job *x, size_t i, size_t n, kq_error *err)
{
    const kq_common *c = &x->opt->common;
    return c->progress && c->progress(c->ctx, "exporting", (double)(i + 1) / (double)n, NULL)
               ? kq_fail(err, KQ_E_INTERRUPTED, "stopped while exporting")
               : KQ_OK;
}

kq_status kq_export_rows(const kq_export_job *x, const kq_gguf_slot *s, size_t head_dim, kq_export_sink *sink,
                         void *ctx, kq_error *err)
{
    const kq_weights *weights = x->weights;
    const char *hf_name = s->hf_name;
    const int linear = s->linear;
    const size_t rows = s->ne[1], cols = s->ne[0];
    /* for kq_weights a vector is a column of rows with one value each */
    const bool vector = rows == 1 && linear < 0;
    const size_t step = vector ? 1 : rows < ROWS ? rows : ROWS;
    float *W = NULL, *some = NULL;
    kq_status status = kq_alloc_for((void **)&some, step * cols, sizeof *some, hf_name, err);
    if (!status && linear >= 0 && !(status = kq_alloc_for((void **)&W, rows * cols, sizeof *W, hf_name, err)))
        status = weights->linear(weights->ctx, s->layer, (kq_linear_id)linear, W, err);
    for (size_t r = 0; r < rows && !status; r += step) {
        const size_t n = rows - r < step ? rows - r : step;
        const float *from = W ? W + r * cols : some;
        if (!W) {
            status = vector ? weights->rows(weights->ctx, hf_name, 0, cols, some, err)
                            : weights->rows(weights->ctx, hf_name, r, n, some, err);
        } else if (head_dim) {
            for (size_t i = 0; i < n; i++)
                memcpy(some + i * cols, W + kq_gguf_hf_row(r + i, head_dim) * cols, cols * sizeof *some);
            from = some;
        }
        if (!status)
            status = sink(ctx, from, n, err);
    }
    kq_free(W);
    kq_free(some);
    return status;
}
