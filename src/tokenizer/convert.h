/* Making a tokenizer from JSON, and writing one into the files of a model. For rooms that convert models;
 * everybody else opens a tokenizer with tokenizer.h. */
#ifndef KQ_TOKENIZER_CONVERT_H
#define KQ_TOKENIZER_CONVERT_H

#include "format/gguf_write.h"
#include "tokenizer/tokenizer.h"

/* Make a tokenizer from a parsed tokenizer.json; path names it in messages. The caller frees *out
 * (kq_tokenizer_free). */
kq_status kq_tokenizer_from_json(const json_t *root, const char *path, kq_tokenizer **out, kq_error *err);

/* Write all tokenizer.* pairs for the tokenizer of src, which is a folder. */
kq_status kq_tokenizer_write_gguf(kq_gguf_writer *w, const kq_source *src, kq_error *err);
/* Names of the files in DIR/additional_chat_templates, sorted. */
kq_status kq_chat_template_files(const char *dir, char ***names, size_t *n, kq_error *err);
void kq_chat_template_files_free(char **names, size_t n);

#endif
