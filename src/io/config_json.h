/* config.json of a Hugging Face folder -> kq_config. */
#ifndef KQ_IO_CONFIG_JSON_H
#define KQ_IO_CONFIG_JSON_H

#include "io/config.h"

/* Parse and check the text of a config.json (model_type llama or qwen3; transformers 4 and 5 forms of the rope parameters). Missing keys
 * take the defaults of transformers' LlamaConfig and Qwen3Config, but the sizes of the model must be there. *is_kronq: quantization_config
 * has quant_method "kronq". KQ_E_UNSUPPORTED names the key that asks for what kronq does not do; path is for messages. */
kq_status kq_config_from_json(const char *text, size_t size, const char *path, kq_config *cfg, bool *is_kronq, kq_error *err);

#endif
