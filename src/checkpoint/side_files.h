/* The small files beside the weights: config.json, the tokenizer's files, the chat template,
 * generation_config.json. With them, other programs can load what kronq writes. */
#ifndef KQ_CHECKPOINT_SIDE_FILES_H
#define KQ_CHECKPOINT_SIDE_FILES_H

#include "source/source.h"

/* Write the Hugging Face side files of a source into folder `dir` (which exists). From a folder they are
 * copied byte for byte: tokenizer.json, tokenizer_config.json, special_tokens_map.json,
 * generation_config.json, chat_template.jinja, merges.txt, vocab.json, tokenizer.model,
 * added_tokens.json, each if it is there. From a GGUF the first four are made, and the stock `tokenizers`
 * and AutoTokenizer give the same ids from them; the chat template is in tokenizer_config.json.
 * KQ_E_UNSUPPORTED: a tokenizer that cannot be expressed so. */
kq_status kq_write_hf_side_files(const kq_source *src, const char *dir, kq_error *err);
/* *json = the text of config.json for a source (a folder's own, or made from GGUF metadata), without
 * quantization_config; the caller's (kq_free). */
kq_status kq_config_json(const kq_source *src, char **json, kq_error *err);

/* Write modeling_kronq.py, the code that transformers runs to load a kronq checkpoint with
 * trust_remote_code=True; auto_map in config.json names a class of it. */
kq_status kq_write_modeling(const char *dir, kq_error *err);
struct json_t; /* jansson's json_t */
/* Write config.json of a kronq checkpoint, the last of its files: a folder that has it is complete. */
kq_status kq_write_config(const char *dir, const struct json_t *config, kq_error *err);

#endif
