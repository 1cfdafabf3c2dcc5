/* A document's JSON -> its text. Internal to the text room. */
#ifndef KQ_TEXT_CONVERSATION_H
#define KQ_TEXT_CONVERSATION_H

#include "text/text.h"

/* Is this list a conversation, rather than a list of documents? Its first entry says: {"role": ...} or
 * {"from": ...}. */
bool kq_is_conversation(const json_t *list);

/* The text of one document: a string; an object with "text" (a string), "messages" or "conversations" (a
 * list), or "prompt" and "completion" (two strings, or two lists of messages); or a list of messages
 * itself. where: "FILE: line N". *text: borrowed from value, or *owned (kq_free). tok NULL:
 * conversations are checked and *text is empty. "tools" (a list, or one as text) and
 * "chat_template_kwargs" of the object go to the template. KQ_E_FORMAT, KQ_E_UNSUPPORTED: names the
 * fields there are. */
kq_status kq_document_text(const json_t *value, const kq_tokenizer *tok, const char *where, const char **text,
                           size_t *size, char **owned, bool *conversation, kq_error *err);

#endif
