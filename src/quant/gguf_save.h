/* Writing the GGUF of a quantized model: rounded linears from the part files, embedding and head rounded
 * on the way, the rest as it is. */
#ifndef KQ_QUANT_GGUF_SAVE_H
#define KQ_QUANT_GGUF_SAVE_H

#include "quant/gguf_types.h"

typedef struct kq_gguf_saved {
    size_t file_bytes, n_parameters;
} kq_gguf_saved;

/* settings: JSON text, kept in the file as kronq.settings. Part files are those of quantize_gguf.c,
 * `<module>.blocks` U8 [m, bytes a row], rows in Hugging Face's order. */
kq_status kq_gguf_save(const kq_prepared *p, const kq_gguf_types *t, const kq_job *job, const char *path,
                       const char *settings, kq_gguf_saved *saved, kq_error *err);
/* Before the work: can the file's metadata be written (a tokenizer that GGUF has a name for)? In a file
 * of the work folder that does not stay. */
kq_status kq_gguf_try_metadata(const kq_prepared *p, const kq_gguf_types *t, const kq_job *job,
                               const char *settings, kq_error *err);
/* PATH was written with these settings, else KQ_E_MISMATCH. */
kq_status kq_gguf_check_saved(const char *path, const char *settings, kq_error *err);

/* Bytes of all tensors as they will be, and of the quantized linears alone. */
size_t kq_gguf_planned_bytes(const kq_source *src, const kq_gguf_types *t);
size_t kq_gguf_linear_bytes(const kq_gguf_types *t, const kq_config *cfg);

#endif
