/* The pre-tokenizers that a GGUF can name, and how they are written in a tokenizer.json. */
#ifndef KQ_TOKENIZER_FILES_GGUF_PRE_H
#define KQ_TOKENIZER_FILES_GGUF_PRE_H

#include <jansson.h>
#include <stdbool.h>

/* What a tokenizer.ggml.pre stands for: a pre_tokenizer, and what the rest of the tokenizer.json is like. */
typedef struct kq_gguf_pre {
    const char *name, *json; /* json: "pre_tokenizer" */
    bool nfc, ignore_merges;
    bool add_bos; /* where the file does not say */
} kq_gguf_pre;

const kq_gguf_pre *kq_gguf_pre_find(const char *name, size_t size); /* NULL: no such name */
extern const char kq_gguf_pre_names[];                              /* all of them, for messages */

/* The pre_tokenizer that a tokenizer.ggml.pre stands for, with ByteLevel's add_prefix_space. New reference;
 * NULL: no such name, or out of memory. */
json_t *kq_gguf_pre_json(const char *name, bool add_prefix_space);
/* The tokenizer.ggml.pre that stands for a tokenizer.json's normalizer and pre_tokenizer (byte-level models);
 * NULL: none does. */
const char *kq_gguf_pre_name(const json_t *tokenizer);

#endif
