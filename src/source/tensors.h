/* The tensors that a model of the two architectures consists of: their names, shapes and roles, in Hugging
 * Face's words and in GGUF's. Every list of a model's tensors comes from here. */
#ifndef KQ_SOURCE_TENSORS_H
#define KQ_SOURCE_TENSORS_H

#include "source/config.h"

/* The seven linears of a layer, in the order of the forward pass. All are W [m outputs, n inputs], row-major.
 */
typedef enum kq_linear_id { KQ_Q = 0, KQ_K, KQ_V, KQ_O, KQ_GATE, KQ_UP, KQ_DOWN, KQ_N_LINEAR } kq_linear_id;

/* The RMS norms of a layer: before the attention and before the MLP, [d_model]; of every head's query and
 * key, [head_dim], in Qwen3 only. */
typedef enum kq_norm_id { KQ_NORM_ATTN = 0, KQ_NORM_MLP, KQ_NORM_Q, KQ_NORM_K, KQ_N_NORM } kq_norm_id;

typedef enum kq_tensor_role {
    KQ_ROLE_EMBED,      /* model.embed_tokens.weight [vocab_size, d_model] */
    KQ_ROLE_HEAD,       /* lm_head.weight [vocab_size, d_model]; none where it is tied to the embedding */
    KQ_ROLE_FINAL_NORM, /* model.norm.weight [d_model] */
    KQ_ROLE_NORM,       /* of a layer */
    KQ_ROLE_LINEAR      /* of a layer */
} kq_tensor_role;

enum { KQ_TENSOR_NAME = 80 }; /* bytes of the longest name, with its NUL */

typedef struct kq_model_tensor {
    kq_tensor_role role;
    size_t layer;                /* roles NORM and LINEAR; else 0 */
    kq_linear_id linear;         /* role LINEAR; else KQ_N_LINEAR */
    kq_norm_id norm;             /* role NORM; else KQ_N_NORM */
    size_t rank, rows, cols;     /* rank 2: [rows, cols]; rank 1: [rows], and cols is 1 */
    char name[KQ_TENSOR_NAME];   /* "model.layers.3.self_attn.q_proj.weight" */
    char module[KQ_TENSOR_NAME]; /* the name without ".weight" */
} kq_model_tensor;

/* All tensors of a model: for (size_t i = 0; i < kq_model_n_tensors(cfg); i++) { ... kq_model_tensor_at(cfg,
 * i) }. The embedding, the head unless it is tied, and the last norm come first; then the layers, each with
 * its norms and then its linears, in the order of the enums. */
size_t kq_model_n_tensors(const kq_config *cfg);
kq_model_tensor kq_model_tensor_at(const kq_config *cfg, size_t index);

/* All linears of a model, layer by layer: index = layer * KQ_N_LINEAR + id. */
size_t kq_model_n_linears(const kq_config *cfg);
kq_model_tensor kq_model_linear_at(const kq_config *cfg, size_t index);

/* One tensor. */
kq_model_tensor kq_model_linear(const kq_config *cfg, size_t layer, kq_linear_id id);
kq_model_tensor kq_model_norm(const kq_config *cfg, size_t layer, kq_norm_id id);
/* The norms that a layer of this architecture has: the ids from 0 up to it. */
kq_norm_id kq_model_n_norms(const kq_config *cfg);
/* The tensor of this name; false: the model has no place for it, and *out is not set. out may be NULL. */
bool kq_model_tensor_find(const kq_config *cfg, const char *name, kq_model_tensor *out);

/* Outputs m and inputs n of a linear. */
void kq_linear_shape(const kq_config *cfg, kq_linear_id id, size_t *m, size_t *n);
/* Its Hugging Face module name, "model.layers.3.self_attn.q_proj", into buf. */
void kq_linear_name(char *buf, size_t cap, size_t layer, kq_linear_id id);

/* The Hugging Face name of a GGUF tensor into buf ("blk.3.attn_q.weight" ->
 * "model.layers.3.self_attn.q_proj.weight"); names that have no counterpart are copied. */
void kq_gguf_hf_name(const char *name, char *buf, size_t cap);
/* And back: "model.layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight". */
void kq_gguf_name(const char *hf_name, char *buf, size_t cap);

#endif
