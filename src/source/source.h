/* A model on disk: a Hugging Face folder (safetensors; EXL3 too) or a .gguf file. Both give the same view:
 * the names of Hugging Face, its order of the rows of q and k, row-major shapes. The files are mapped; a
 * tensor is converted when it is read, and its pages are given back then. */
#ifndef KQ_SOURCE_SOURCE_H
#define KQ_SOURCE_SOURCE_H

#include "format/tensor.h"
#include "source/tensors.h"

typedef struct kq_source kq_source;

typedef enum kq_source_kind { KQ_SOURCE_HF, KQ_SOURCE_GGUF } kq_source_kind;

/* Open PATH (a folder with config.json, or a .gguf file). Checks everything that can be checked without
 * reading the weights: formats, sizes, the architecture, and that every tensor the architecture needs is
 * there with its shape. A folder may also be a kronq
 * checkpoint (config.json has quantization_config.quant_method "kronq"): then a linear may come as
 * `<module>.trellis` and other tensors of the module instead of `<module>.weight`, and their shapes are
 * checked by the checkpoint room. Or it may be an EXL3 folder (quant_method "exl3"): its linears are then
 * tensors `<module>.weight` of type KQ_T_EXL3, which kq_source_read_f32 decodes. source/hf_folder.h says
 * which of a folder's files and tensors count. KQ_E_UNSUPPORTED names what is not supported (model_type,
 * attention_bias, sliding_window in use, experts, rope type,
 * ...). */
kq_status kq_source_open(const char *path, kq_source **out, kq_error *err);
void kq_source_close(kq_source *src);

const char *kq_source_path(const kq_source *src);
kq_source_kind kq_source_kind_of(const kq_source *src);
const kq_config *kq_source_config(const kq_source *src);
bool kq_source_is_kronq(const kq_source *src);
bool kq_source_is_exl3(const kq_source *src); /* config.json has quant_method "exl3" */

size_t kq_source_n_tensors(const kq_source *src);
const kq_tensor *kq_source_tensor(const kq_source *src, size_t i);       /* in file order */
const kq_tensor *kq_source_find(const kq_source *src, const char *name); /* NULL: not there */

/* Rows [row0, row0 + n_rows) of a rank-1 or rank-2 tensor as f32 (rank 1 counts as rows of one element),
 * Hugging Face row order. dst [n_rows, row length]. KQ_E_NUMERIC names tensor and index of the first NaN
 * or Inf; KQ_E_UNSUPPORTED a type that is no number. */
kq_status kq_source_read_f32(const kq_source *src, const kq_tensor *t, size_t row0, size_t n_rows, float *dst,
                             kq_error *err);

/* The row of a tensor's bytes that is row r of Hugging Face's order. The two differ in the q and k of a llama
 * GGUF alone (kq_tensor.permuted_qk). */
size_t kq_tensor_stored_row(const kq_tensor *t, size_t r, size_t head_dim);

/* config.json of a folder as text (owned by src), NULL for GGUF. */
const char *kq_source_config_json(const kq_source *src);

/* 32 hex digits over every tensor's name, type, shape and bytes (in sorted order of names) and the
 * configuration, without the tokens that begin a text or end an answer: they change no weight's
 * curvature. */
kq_status kq_source_fingerprint(const kq_source *src, char hex[33], kq_error *err);

/* The GGUF behind the source (metadata for the tokenizer: format/gguf.h), borrowed; NULL for a folder. */
struct kq_gguf;
const struct kq_gguf *kq_source_gguf(const kq_source *src);

#endif
