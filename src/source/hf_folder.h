/* A Hugging Face folder: config.json, and the stored tensors that its model is made of, as transformers
 * would choose them. */
#ifndef KQ_SOURCE_HF_FOLDER_H
#define KQ_SOURCE_HF_FOLDER_H

#include "source/config_json.h"
#include "format/safetensors_write.h"

typedef struct kq_hf_folder {
    char *config_json; /* owned; the file's text */
    kq_config cfg;
    kq_storage storage;
    kq_st_file **file; /* owned [n_file] */
    size_t n_file;
    /* owned [n]; in the order of files and of their bytes. Two of one name: the folder is broken */
    kq_tensor *tensor;
    size_t n;
    kq_tensor *scale; /* owned [n_scale]; of FP8 matrices, which point to them */
    size_t n_scale;
    char (*name)[128]; /* owned; names that got a prefix */
} kq_hf_folder;

/* Open DIR. Weights are chosen as transformers 5.23 chooses them:
 *   model.safetensors when it is there (or the file that config.json's transformers_weights names), an
 *     index beside it is not looked at; else every file
 *   that model.safetensors.index.json names, in the order of their names: a tensor that several files
 *     hold is taken from the last, whatever the
 *   index says, and a tensor that the index does not list is taken all the same;
 *   names with a prefix "model." too few or too many are understood;
 *   what the architecture has no place for is left out, with a warning (none for rotary_emb.inv_freq);
 *   tie_word_embeddings with another lm_head.weight stored: they are not tied, with a warning
 *     (cfg.tie_embeddings is false then); with lm_head.weight
 *   alone it stands for the embedding.
 * Where transformers would go on with random numbers for a tensor that is missing, the caller must
 * refuse (source.c does). generation_config.json's end tokens take the place of config.json's. A kronq
 * checkpoint's tensors are all taken as they are named.
 * KQ_E_UNSUPPORTED: an adapter, other weight files, FP8 in a form that is not read. Zeroed on failure. */
kq_status kq_hf_folder_open(const char *dir, kq_hf_folder *out, kq_error *err);
void kq_hf_folder_close(kq_hf_folder *f);

#endif
