/* config.json of a Hugging Face folder -> kq_config. */
#ifndef KQ_SOURCE_CONFIG_JSON_H
#define KQ_SOURCE_CONFIG_JSON_H

#include "source/config.h"

/* How the weights are stored: quantization_config, and what names their file. */
typedef struct kq_storage {
    bool kronq; /* quant_method "kronq" */
    bool exl3;  /* quant_method "exl3": linears as exllamav3 packs them (source/exl3.h) */
    /* quant_method "fp8": F8_E4M3 with a scale (tensor NAME_scale_inv) for each block of a matrix */
    bool fp8;
    size_t block_rows, block_cols; /* fp8: weight_block_size; 0: one scale for a matrix */
    char weights_file[256];        /* transformers_weights; "": none */
} kq_storage;

/* Parse and check the text of a config.json (model_type llama or qwen3; transformers 4 and 5 forms of
 * the rope parameters). Missing keys take the defaults of transformers' LlamaConfig and Qwen3Config, but
 * the sizes of the model must be there. What transformers ignores is ignored, with a warning where the
 * key asks for something. KQ_E_UNSUPPORTED names the key that asks for what kronq does not do; path is
 * for messages. */
kq_status kq_config_from_json(const char *text, size_t size, const char *path, kq_config *cfg,
                              kq_storage *storage, kq_error *err);

#endif
