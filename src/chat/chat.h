/* Conversations: from messages to the text that the model is given. */
#ifndef KQ_CHAT_CHAT_H
#define KQ_CHAT_CHAT_H

#include <jansson.h>

#include "io/tokenizer.h"

typedef struct kq_chat {                 /* all borrowed */
    const json_t *messages;              /* array of objects as a request or a file has them: role, content (string, null, or a list of parts), name, tool_calls,
                                          * reasoning_content, ... */
    const json_t *tools;                 /* array, or NULL */
    const json_t *arguments;             /* object: further variables for the template (enable_thinking, ...), or NULL */
    bool add_generation_prompt;          /* end with the beginning of an assistant's answer */
    bool continue_final_message;         /* prefill: the text ends within the last message, which the model goes on with; excludes add_generation_prompt */
} kq_chat;

/* *text: the prompt, owned by the caller (kq_free). It holds the beginning token where the template writes it: encode it with add_special false and
 * parse_special true. KQ_E_UNSUPPORTED: the model has no template, or one that kronq does not read; KQ_E_ARG: the template itself refuses these messages
 * (raise_exception). */
kq_status kq_chat_render(const kq_tokenizer *tok, const kq_chat *chat, char **text, kq_error *err);

#endif
