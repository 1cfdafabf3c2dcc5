/* Conversations: from messages to the text that the model is given. The model's own chat template does it, so
 * that the model sees what it was trained with. */
#ifndef KQ_CHAT_CHAT_H
#define KQ_CHAT_CHAT_H

#include <jansson.h>

#include "tokenizer/tokenizer.h"

typedef struct kq_chat { /* all borrowed */
    /* an array of objects as a request or a file has them: role, content (a string, null, or a list of
     * parts), name, tool_calls, reasoning_content and others */
    const json_t *messages;
    const json_t *tools; /* array, or NULL */
    /* an object of further variables for the template (enable_thinking, ...), or NULL */
    const json_t *arguments;
    bool add_generation_prompt; /* end with the beginning of an assistant's answer */
    /* prefill: the text ends within the last message, and the model continues it; not together with
     * add_generation_prompt */
    bool continue_final_message;
    /* asked about every thousandth of a second while the template runs; true ends it with KQ_E_INTERRUPTED;
     * may be NULL */
    bool (*stop)(void *ctx);
    void *stop_ctx;
} kq_chat;

/* Run the model's template. The text is what transformers' apply_chat_template gives, byte for byte, or the
 * template is refused; docs/templates.md says what a template sees and what kronq knows. With tools, the
 * template named "tool_use" is taken where there is one. strftime_now gives the local time, or that of
 * SOURCE_DATE_EPOCH.
 * *text: the prompt, the caller's (kq_free). It holds the beginning token where the template writes one, so
 * encode it with add_special false and parse_special true. A special token that is written in a message
 * becomes a special token of the prompt, as with transformers, because nothing in the prompt separates the
 * messages' texts from the template's. Warns of tools and arguments that the template does not read. Any
 * thread may call it. KQ_E_UNSUPPORTED: the model has no template, or one that kronq does not read; KQ_E_ARG:
 * the template refuses these messages (raise_exception), fails on them, or passes a bound; KQ_E_INTERRUPTED:
 * chat->stop said so. */
kq_status kq_chat_render(const kq_tokenizer *tok, const kq_chat *chat, char **text, kq_error *err);

/* Check that the model has a default chat template that kronq reads, so that a model without one is refused
 * before any work. Errors that depend on the messages come only from kq_chat_render. */
kq_status kq_chat_check(const kq_tokenizer *tok, kq_error *err);
/* Does the template that is chosen for a conversation with tools read them? */
bool kq_chat_takes_tools(const kq_tokenizer *tok);

/* Which forms the chosen template (for a conversation with tools or without) knows of two things that clients
 * write in two forms. parts: the template reads a content that is a list of parts, or a part's type. strings:
 * the template asks whether the arguments of a tool call are a string. A caller leaves what the template
 * knows in both forms as it is, and writes the rest in the form that every template reads. */
typedef struct kq_chat_ways {
    bool parts, strings;
} kq_chat_ways;
kq_chat_ways kq_chat_ways_of(const kq_tokenizer *tok, const json_t *tools);

/* Add KEY=VALUE (the option --template-arg) to *arguments, an object that is made where it is NULL; the
 * caller decrefs it. VALUE is read as JSON; where it is no JSON it is a string. KQ_E_ARG: there is no KEY,
 * KEY is the name of a variable that every template has, or VALUE is Python's True, False or None. */
kq_status kq_chat_argument(json_t **arguments, const char *text, kq_error *err);

#endif
