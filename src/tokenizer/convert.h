/* A tokenizer on its way from one file form to another: out of a GGUF into Hugging Face's files, and back. */
#ifndef KQ_TOKENIZER_CONVERT_H
#define KQ_TOKENIZER_CONVERT_H

#include "format/gguf_write.h"
#include "tokenizer/tokenizer.h"

/* bytes of a tokenizer.json, or of a file beside it, that are still read */
enum { KQ_TOK_MAX_FILE = 1 << 28 };

/* Build from parsed JSON; path names it in messages. */
kq_status kq_tokenizer_from_json(const json_t *root, const char *path, kq_tokenizer **out, kq_error *err);

/* The tokenizer of a GGUF as Hugging Face would write it: *tokenizer (tokenizer.json), *config
 * (tokenizer_config.json, with max_position as model_max_length). The caller decrefs both. */
kq_status kq_tokenizer_gguf_json(const kq_gguf *g, size_t max_position, json_t **tokenizer, json_t **config,
                                 kq_error *err);

/* All tokenizer.* pairs of the tokenizer in a folder. */
kq_status kq_tokenizer_write_gguf(kq_gguf_writer *w, const kq_source *src, kq_error *err);
/* Names of the files in DIR/additional_chat_templates, sorted. */
kq_status kq_chat_template_files(const char *dir, char ***names, size_t *n, kq_error *err);
void kq_chat_template_files_free(char **names, size_t n);

#endif
