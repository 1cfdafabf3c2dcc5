/* What the files of this room share. */
#ifndef KQ_TOKENIZER_FILES_INTERNAL_H
#define KQ_TOKENIZER_FILES_INTERNAL_H

#include "tokenizer_files/tokenizer_files.h"

/* tokenizer_config.json's "chat_template" out of a GGUF's tokenizer.chat_template (and .NAME); *out NULL:
 * none; the caller's (json_decref), also on an error. */
kq_status kq_chat_templates_of_gguf(const kq_gguf *g, const char *path, json_t **out, kq_error *err);

#endif
