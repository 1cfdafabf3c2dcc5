/* Turns a tokenizer's files, whatever their form, into the two that Hugging Face has: tokenizer.json and
 * tokenizer_config.json. One loader (src/tokenizer/) then serves every kind of model, and what is exported is
 * what is run. */
#ifndef KQ_TOKENIZER_FILES_H
#define KQ_TOKENIZER_FILES_H

#include <jansson.h>

#include "format/gguf.h"

enum {
    KQ_TOK_MAX_FILE = 1 << 28, /* bytes: a larger tokenizer.json, or file beside it, is refused */
    /* ids from here on are refused: tables are sized by the highest id, and no real vocabulary comes near */
    KQ_TOK_MAX_ID = 1 << 22,
    KQ_MAX_CHAT_TEMPLATES = 64
};

/* The tokenizer of a folder as AutoTokenizer of transformers 5 makes it. *tokenizer is the tokenizer.json at
 * path with the normalizer, pre-tokenizer and decoder that are really run, and with all added tokens under
 * the ids that they get, also those that only files beside it name. *config is tokenizer_config.json with
 * what special_tokens_map.json and the tokenizer's class add. The caller decrefs both. Warns of added tokens
 * that get another id than the file says. */
kq_status kq_tokenizer_folder_json(const char *path, json_t **tokenizer, json_t **config, kq_error *err);

/* The tokenizer of a GGUF as Hugging Face would write it; *config has max_position as model_max_length, and
 * the file's chat templates. The caller decrefs both. */
kq_status kq_tokenizer_gguf_json(const kq_gguf *g, size_t max_position, json_t **tokenizer, json_t **config,
                                 kq_error *err);

/* The text of a token in these files, which is a string or an object with "content"; NULL: neither. */
const json_t *kq_token_text(const json_t *token);

#endif
