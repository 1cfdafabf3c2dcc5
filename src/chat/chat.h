/* Conversations: from messages to the text that the model is given. */
#ifndef KQ_CHAT_CHAT_H
#define KQ_CHAT_CHAT_H

#include <jansson.h>

#include "tokenizer/tokenizer.h"

typedef struct kq_chat { /* all borrowed */
    /* array of objects as a request or a file has them: role, content (string, null, or a list of
     * parts), name, tool_calls, reasoning_content, ... */
    const json_t *messages;
    const json_t *tools; /* array, or NULL */
    /* object: further variables for the template (enable_thinking, ...), or NULL */
    const json_t *arguments;
    bool add_generation_prompt; /* end with the beginning of an assistant's answer */
    /* prefill: the text ends within the last message, which the model goes on with; excludes
     * add_generation_prompt */
    bool continue_final_message;
    /* asked every thousandth of a second or so while the template runs: true ends it with
     * KQ_E_INTERRUPTED. NULL: none */
    bool (*stop)(void *ctx);
    void *stop_ctx;
} kq_chat;

/* The model's template is run as transformers' apply_chat_template does, byte for byte, or refused:
 * docs/templates.md says what it sees and what kronq knows. With tools, the template named "tool_use"
 * where there is one. strftime_now is the local time, or SOURCE_DATE_EPOCH's.
 * *text: the prompt, owned by the caller (kq_free). It holds the beginning token where the template
 * writes it: encode it with add_special false and parse_special true. KQ_E_UNSUPPORTED: the model has no
 * template, or one that kronq does not read; KQ_E_ARG: the template itself refuses these messages
 * (raise_exception), or fails on them, or a bound is hit. KQ_E_INTERRUPTED: chat->stop said so. Message
 * texts are not told apart from the template's own: a special token that is written in a message becomes
 * one in the prompt, as with transformers. Warns of tools and arguments that the template does not read.
 * Any thread may call it. */
kq_status kq_chat_render(const kq_tokenizer *tok, const kq_chat *chat, char **text, kq_error *err);

/* Whether the model has a chat template that kronq reads (the usual one), for saying no before any work;
 * what a conversation makes it do is seen only when it is rendered. */
kq_status kq_chat_check(const kq_tokenizer *tok, kq_error *err);
/* Whether the template that is chosen when tools are given reads them. */
bool kq_chat_takes_tools(const kq_tokenizer *tok);

/* How the template that is chosen (with tools or without) reads what clients write in two ways. parts:
 * it walks through a content that is a list of parts, or asks for a part's type; strings: it asks
 * whether a tool call's arguments are a string. So a caller can leave as they are those that the
 * template tells apart, and write the others in the way that every template reads. */
typedef struct kq_chat_ways {
    bool parts, strings;
} kq_chat_ways;
kq_chat_ways kq_chat_ways_of(const kq_tokenizer *tok, const json_t *tools);

/* Add KEY=VALUE (the option --template-arg) to *arguments, an object that is made when it is NULL; the
 * caller decrefs it. VALUE is JSON, or else a string. KQ_E_ARG: no KEY, a name that a template's own
 * variables have, Python's True, False or None. */
kq_status kq_chat_argument(json_t **arguments, const char *text, kq_error *err);

#endif
