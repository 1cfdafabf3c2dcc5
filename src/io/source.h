/* A model on disk: a Hugging Face folder (safetensors) or a .gguf file, seen alike: Hugging Face tensor names, Hugging Face
 * row order of q and k, row-major shapes. Everything is mapped; a tensor is converted only when it is read, and its pages are let go then. */
#ifndef KQ_IO_SOURCE_H
#define KQ_IO_SOURCE_H

#include "io/config.h"

typedef enum kq_dtype {
    KQ_T_F32, KQ_T_F16, KQ_T_BF16,                                     /* plain */
    KQ_T_I8, KQ_T_I16, KQ_T_I32, KQ_T_I64, KQ_T_U8, KQ_T_BOOL,          /* safetensors integers (kronq's own tensors) */
    KQ_T_Q8_0, KQ_T_Q4_0, KQ_T_Q4_1, KQ_T_Q5_0, KQ_T_Q5_1, KQ_T_Q4_K, KQ_T_Q5_K, KQ_T_Q6_K, /* GGUF blocks */
    KQ_T_Q2_K, KQ_T_Q3_K, KQ_T_IQ4_NL,
    KQ_T_F64, KQ_T_F8_E4M3, KQ_T_F8_E5M2,                              /* safetensors; F8_E4M3 is PyTorch's float8_e4m3fn */
    KQ_T_OTHER                                                        /* well-formed, but not readable as numbers here */
} kq_dtype;

const char *kq_dtype_name(kq_dtype dtype); /* "BF16", "Q4_1", ... */

typedef struct kq_tensor {
    const char *name;      /* borrowed; Hugging Face name ("model.layers.0.mlp.up_proj.weight") */
    const char *file;      /* borrowed; path of the file that holds it */
    kq_dtype dtype;
    size_t rank, shape[4]; /* row-major, outermost first (GGUF's order reversed); rank 0 is a scalar */
    size_t n_elem;
    const uint8_t *data; size_t size_bytes; /* borrowed from the map, as stored */
    const struct kq_tensor *scale; size_t block_rows, block_cols; /* FP8: a number for each block; kq_source_read_f32 multiplies. NULL: none */
    bool permuted_qk;      /* GGUF llama q/k: rows are interleaved per head; kq_source_read_f32 undoes it */
} kq_tensor;

typedef struct kq_source kq_source;

typedef enum kq_source_kind { KQ_SOURCE_HF, KQ_SOURCE_GGUF } kq_source_kind;

/* Open PATH (a folder with config.json, or a .gguf file). Checks everything that can be checked without reading the weights: formats,
 * sizes, the architecture, and that every tensor the architecture needs is there with its shape. A folder may also be a kronq
 * checkpoint (config.json has quantization_config.quant_method "kronq"): then a linear may come as `<module>.trellis` and friends
 * instead of `<module>.weight`, and their shapes are checked by the checkpoint room. io/hf_folder.h says which of a folder's files and tensors count.
 * KQ_E_UNSUPPORTED names what is not supported (model_type, attention_bias, sliding_window in use, experts, rope type, ...). */
kq_status kq_source_open(const char *path, kq_source **out, kq_error *err);
void kq_source_close(kq_source *src);

const char *kq_source_path(const kq_source *src);
kq_source_kind kq_source_kind_of(const kq_source *src);
const kq_config *kq_source_config(const kq_source *src);
bool kq_source_is_kronq(const kq_source *src);

size_t kq_source_n_tensors(const kq_source *src);
const kq_tensor *kq_source_tensor(const kq_source *src, size_t i); /* in file order */
const kq_tensor *kq_source_find(const kq_source *src, const char *name); /* NULL: not there */

/* Rows [row0, row0 + n_rows) of a rank-1 or rank-2 tensor as f32 (rank 1 counts as rows of one element), Hugging Face row order.
 * dst [n_rows, row length]. KQ_E_NUMERIC names tensor and index of the first NaN or Inf; KQ_E_UNSUPPORTED a type that is no number. */
kq_status kq_source_read_f32(const kq_source *src, const kq_tensor *t, size_t row0, size_t n_rows, float *dst, kq_error *err);

/* config.json of a folder as text (owned by src), NULL for GGUF. */
const char *kq_source_config_json(const kq_source *src);

/* 32 hex digits over every tensor's name, type, shape and bytes (in sorted order of names) and the configuration, without the tokens that begin a text or end
 * an answer: they change no weight's curvature. */
kq_status kq_source_fingerprint(const kq_source *src, char hex[33], kq_error *err);

/* The GGUF behind the source (metadata for the tokenizer: io/gguf.h), borrowed; NULL for a folder. */
struct kq_gguf;
const struct kq_gguf *kq_source_gguf(const kq_source *src);

#endif
