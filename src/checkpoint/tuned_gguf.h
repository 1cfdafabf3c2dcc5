/* Writes a copy of a GGUF whose blocks' F16 scales and norms have other values: what tuning makes. */
#ifndef KQ_CHECKPOINT_TUNED_GGUF_H
#define KQ_CHECKPOINT_TUNED_GGUF_H

#include "source/source.h"

/* Can kq_tuned_gguf_save write a copy of this model? KQ_E_UNSUPPORTED: it is split into parts, or a norm is
 * of a type other than F32, F16 and BF16. */
kq_status kq_tuned_gguf_check(const kq_source *src, kq_error *err);

typedef struct kq_tuned_gguf {
    const kq_source *src; /* the GGUF; all pointers are borrowed */
    const char *path;     /* of the copy */
    /* The factors of a tensor by its Hugging Face name: of a norm [n], of a matrix those of
     * kq_trained_blocks, [rows, blocks of a row, F16 numbers of a block], rows in Hugging Face's order. NULL:
     * it keeps its bytes. */
    const float *(*factors)(void *ctx, const char *name);
    void *ctx;
} kq_tuned_gguf;
typedef struct kq_tuned_gguf_saved {
    size_t file_bytes;
    size_t
        n_kept; /* F16 numbers that keep their value, because the new one would be Inf, or 0 without need */
} kq_tuned_gguf_saved;

/* The file of the same size and layout. Its bytes are those of src but for the F16 numbers of blocks, theta d
 * rounded to nearest, and the norms. KQ_E_NUMERIC: a factor is NaN; KQ_E_IO. */
kq_status kq_tuned_gguf_save(const kq_tuned_gguf *o, kq_tuned_gguf_saved *saved, kq_error *err);

/* Is the file at path a copy of src with other scales and norms? KQ_E_MISMATCH: another byte differs. */
kq_status kq_tuned_gguf_compare(const kq_source *src, const char *path, kq_error *err);

#endif
