/* Inside the room: what its files share. */
#ifndef KQ_TOKENIZER_FILES_INTERNAL_H
#define KQ_TOKENIZER_FILES_INTERNAL_H

#include "tokenizer_files/tokenizer_files.h"

/* *out = the "chat_template" of a tokenizer_config.json, made from a GGUF's tokenizer.chat_template and
 * tokenizer.chat_template.NAME; NULL: there is none. It is the caller's (json_decref), on an error too. */
kq_status kq_chat_templates_of_gguf(const kq_gguf *g, const char *path, json_t **out, kq_error *err);

#endif
