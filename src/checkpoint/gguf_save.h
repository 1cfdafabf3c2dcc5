/* Writing the GGUF of a quantized model: rounded linears from the part files, embedding and head rounded
 * on the way, the rest as it is. */
#ifndef KQ_CHECKPOINT_GGUF_SAVE_H
#define KQ_CHECKPOINT_GGUF_SAVE_H

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
    const char *settings;    /* JSON text, kept in the file as kronq.settings */
    int threads;             /* the file does not depend on it */
    const kq_common *common; /* whose progress function hears of the embedding */
} kq_gguf_save_options;

kq_status kq_gguf_save(const kq_gguf_save_options *o, const char *path, kq_gguf_saved *saved, kq_error *err);
/* Before the work: can the file's metadata be written (a tokenizer that GGUF has a name for)? Writes a file
 * job.json.try into part_dir and removes it. */
kq_status kq_gguf_try_metadata(const kq_gguf_save_options *o, kq_error *err);
/* PATH was written with these settings, else KQ_E_MISMATCH. */
kq_status kq_gguf_check_saved(const char *path, const char *settings, kq_error *err);

/* Bytes of all tensors as they will be, and of the quantized linears alone. */
size_t kq_gguf_planned_bytes(const kq_source *src, const kq_gguf_types *t);
size_t kq_gguf_linear_bytes(const kq_gguf_types *t, const kq_config *cfg);

#endif
