/* A tensor as a file holds it: its name, type, shape and bytes. Every reader of a format (safetensors,
 * GGUF) gives tensors in this form. */
#ifndef KQ_FORMAT_TENSOR_H
#define KQ_FORMAT_TENSOR_H

#include "base/error.h"

typedef enum kq_dtype {
    KQ_T_F32,
    KQ_T_F16,
    KQ_T_BF16, /* plain */
    /* safetensors integers (kronq's own tensors) */
    KQ_T_I8,
    KQ_T_I16,
    KQ_T_I32,
    KQ_T_I64,
    KQ_T_U8,
    KQ_T_BOOL,
    /* GGUF blocks */
    KQ_T_Q8_0,
    KQ_T_Q4_0,
    KQ_T_Q4_1,
    KQ_T_Q5_0,
    KQ_T_Q5_1,
    KQ_T_Q4_K,
    KQ_T_Q5_K,
    KQ_T_Q6_K,
    KQ_T_Q2_K,
    KQ_T_Q3_K,
    KQ_T_IQ4_NL,
    KQ_T_IQ4_XS,
    KQ_T_IQ2_XXS,
    KQ_T_IQ2_XS,
    KQ_T_IQ2_S,
    KQ_T_IQ3_XXS,
    KQ_T_IQ3_S,
    /* safetensors; F8_E4M3 is PyTorch's float8_e4m3fn */
    KQ_T_F64,
    KQ_T_F8_E4M3,
    KQ_T_F8_E5M2,
    KQ_T_EXL3, /* a linear of exllamav3: kq_tensor.exl3 */
    KQ_T_OTHER /* well-formed, but not readable as numbers here */
} kq_dtype;

const char *kq_dtype_name(kq_dtype dtype); /* "BF16", "Q4_1", ... */

typedef struct kq_tensor {
    const char *name; /* borrowed; Hugging Face name ("model.layers.0.mlp.up_proj.weight") */
    const char *file; /* borrowed; path of the file that holds it */
    kq_dtype dtype;
    size_t rank, shape[4]; /* row-major, outermost first (GGUF's order reversed); rank 0 is a scalar */
    size_t n_elem;
    const uint8_t *data;
    size_t size_bytes; /* borrowed from the map, as stored */
    /* FP8: a number for each block; kq_source_read_f32 multiplies. NULL: none */
    const struct kq_tensor *scale;
    size_t block_rows, block_cols;
    /* KQ_T_EXL3: the linear's tensors, whose parts are data and size_bytes (trellis), and more; else NULL */
    const struct kq_exl3 *exl3;
    /* GGUF llama q/k: rows are interleaved per head; kq_source_read_f32 undoes it */
    bool permuted_qk;
} kq_tensor;

#endif
