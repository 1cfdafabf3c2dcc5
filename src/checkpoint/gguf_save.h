/* Writes the GGUF of a quantized model: the linears come from part files, the embedding and the head are
 * rounded on the way, and everything else keeps its values. */
#ifndef KQ_CHECKPOINT_GGUF_SAVE_H
#define KQ_CHECKPOINT_GGUF_SAVE_H

#include "grid/grid.h"
#include "grid/types.h"
#include "source/source.h"

typedef struct kq_gguf_saved {
    size_t file_bytes, n_parameters;
} kq_gguf_saved;

typedef struct kq_gguf_save_options {
    const kq_source *src; /* the original model */
    const kq_gguf_types *types;
    /* where the part files of rounded linears are: block-00012.safetensors holds `<module>.blocks`, U8 [m,
     * bytes a row], with the rows in Hugging Face's order */
    const char *part_dir;
    /* the factors of the columns of embedding and head [d, d], by which their rows are rounded; NULL: to the
     * nearest values. Everything else that kq_grid_round takes is in `rounding`. */
    const float *embed_H, *head_H;
    kq_grid_options rounding;
    const char *settings;    /* JSON text, kept in the file as kronq.settings */
    int threads;             /* the file does not depend on it */
    const kq_common *common; /* its progress function is called while the embedding is rounded */
} kq_gguf_save_options;

/* Write the file, under its name only when it is whole. KQ_E_FORMAT: a part file is not what this work wrote;
 * KQ_E_INTERRUPTED: the progress function asks to stop. */
kq_status kq_gguf_save(const kq_gguf_save_options *o, const char *path, kq_gguf_saved *saved, kq_error *err);
/* Check before hours of work that the file's metadata can be written: GGUF must have a name for the
 * tokenizer. A file job.json.try is written into part_dir and removed again. */
kq_status kq_gguf_try_metadata(const kq_gguf_save_options *o, kq_error *err);
/* KQ_E_MISMATCH: the file at path was not written with these settings. */
kq_status kq_gguf_check_saved(const char *path, const char *settings, kq_error *err);

/* Bytes of all tensors of the file; and of its quantized linears alone. */
size_t kq_gguf_planned_bytes(const kq_source *src, const kq_gguf_types *t);
size_t kq_gguf_linear_bytes(const kq_gguf_types *t, const kq_config *cfg);

#endif
