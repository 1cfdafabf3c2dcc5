/* A Hugging Face folder: config.json, and the stored tensors that its model is made of, as transformers
 * would choose them. */
#ifndef KQ_SOURCE_HF_FOLDER_H
#define KQ_SOURCE_HF_FOLDER_H

#include "source/config_json.h"
#include "source/exl3.h"
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
    kq_exl3_set exl3;  /* the linears of an EXL3 folder, to which tensors point */
    char (*name)[128]; /* owned; names that got a prefix */
} kq_hf_folder;

/* Open DIR. Weights are chosen as transformers 5.23 chooses them:
 *   - Where model.safetensors exists (or the file that config.json's transformers_weights names), it is the
 *     only file that is read; an index beside it is ignored.
 *   - Otherwise every file that model.safetensors.index.json names is read, in the order of their names. A
 *     tensor that several files hold is taken from the last of them, whatever the index says. A tensor that
 *     the index does not list is taken too.
 *   - A name may have the prefix "model." once too often, or lack it.
 *   - A tensor that the architecture has no place for is left out with a warning (without one for
 *     rotary_emb.inv_freq).
 *   - Where tie_word_embeddings is set but the folder has a different lm_head.weight, the head is not tied:
 *     there is a warning, and cfg.tie_embeddings becomes false. Where lm_head.weight is stored without an
 *     embedding, it stands for the embedding.
 * Where a tensor is missing, transformers would go on with random numbers; the caller must refuse (source.c
 * does). The linears of an EXL3 folder become tensors NAME.weight; a head among them is not tied, whatever
 * config.json says, as in exllamav3. The end tokens of generation_config.json take the place of
 * config.json's. The tensors of a kronq checkpoint are all taken as they are named.
 * KQ_E_UNSUPPORTED: an adapter, other weight files, FP8 in a form that is not read. *out is zeroed on
 * failure. */
kq_status kq_hf_folder_open(const char *dir, kq_hf_folder *out, kq_error *err);
void kq_hf_folder_close(kq_hf_folder *f);

#endif
