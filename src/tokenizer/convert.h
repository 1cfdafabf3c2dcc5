/* A tokenizer out of JSON, and on its way into the files of a written model. */
#ifndef KQ_TOKENIZER_CONVERT_H
#define KQ_TOKENIZER_CONVERT_H

#include "format/gguf_write.h"
#include "tokenizer/tokenizer.h"

/* Build from parsed JSON; path names it in messages. */
kq_status kq_tokenizer_from_json(const json_t *root, const char *path, kq_tokenizer **out, kq_error *err);

/* All tokenizer.* pairs of the tokenizer in a folder. */
kq_status kq_tokenizer_write_gguf(kq_gguf_writer *w, const kq_source *src, kq_error *err);
/* Names of the files in DIR/additional_chat_templates, sorted. */
kq_status kq_chat_template_files(const char *dir, char ***names, size_t *n, kq_error *err);
void kq_chat_template_files_free(char **names, size_t n);

#endif
