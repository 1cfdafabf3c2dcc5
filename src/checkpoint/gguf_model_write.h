/* Writing a model as a GGUF file: everything but the weights themselves. Names, keys and the order of rows
 * are those of llama.cpp's convert_hf_to_gguf.py. */
#ifndef KQ_CHECKPOINT_GGUF_MODEL_WRITE_H
#define KQ_CHECKPOINT_GGUF_MODEL_WRITE_H

#include "format/gguf_write.h"
#include "source/source.h"

/* One tensor of the file: its name and shape, and the tensor of the model that it comes from. */
typedef struct kq_gguf_slot {
    char name[64]; /* "blk.3.attn_q.weight" */
    /* "model.layers.3.self_attn.q_proj.weight"; "" for rope_freqs.weight: kq_rope_divisors gives its
     * values */
    char hf_name[160];
    uint32_t rank;  /* 1: norms and rope_freqs, always F32; 2: matrices */
    uint64_t ne[2]; /* fastest first: a row's length, then the rows; ne[1] is 1 for rank 1 */
    size_t layer;
    int linear; /* kq_linear_id of a linear; -1 for the others */
    /* not 0: the rows are reordered within each attention head of this size, so that row r of the file is
     * Hugging Face's row kq_gguf_hf_row(r, head_dim) */
    size_t head_dim;
} kq_gguf_slot;

/* All tensors of a model of this architecture in the order of the file: embedding, output (when the head is
 * not tied), output_norm, rope_freqs (where kq_rope_gguf_form says so), then block by block. *slots [*n] is
 * the caller's (kq_free). */
kq_status kq_gguf_layout(const kq_config *cfg, kq_gguf_slot **slots, size_t *n, kq_error *err);
/* The row of Hugging Face's order that is row r of the file. llama.cpp's rotary embedding turns neighbours
 * (2j, 2j + 1) of an attention head, and Hugging Face's turns (j, j + head_dim/2). */
size_t kq_gguf_hf_row(size_t r, size_t head_dim);
/* Write every metadata pair of the model: architecture, tokenizer, general.*. From a GGUF source all pairs
 * are carried over except those that describe the old file (file type, split, imatrix). From a folder they
 * are made from config.json, tokenizer.json, tokenizer_config.json and README.md's front matter. A key that
 * was written before this call is left alone, so that the caller's value counts. file_type is llama.cpp's
 * number (1 F16, 7 Q8_0, 32 BF16, ...). KQ_E_UNSUPPORTED: a tokenizer that GGUF has no name for. */
kq_status kq_gguf_write_model(kq_gguf_writer *w, const kq_source *src, uint32_t file_type, kq_error *err);

/* ---- what is known of a model besides its weights ---- */
typedef struct kq_about {
    char name[128];       /* "SmolLM2 135M Instruct"; never empty (the path's last part) */
    char license[64];     /* "apache-2.0"; "" unknown */
    char repository[256]; /* "owner/name" of this model on the hub; "" unknown */
    /* a repository, an address or a name: what the model was made from; "" unknown */
    char base_model[256];
} kq_about;
/* Fill in *about from a GGUF's general.*; for a folder from config.json's _name_or_path and the front matter
 * of README.md. */
void kq_source_about(const kq_source *src, kq_about *about);
/* Does the name have the form of a repository on the hub, "owner/name"? */
bool kq_is_repository(const char *name);

#endif
