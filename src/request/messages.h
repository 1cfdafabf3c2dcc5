/* The messages and the tools of a conversation: what clients send, and what a chat template reads. */
#ifndef KQ_REQUEST_MESSAGES_H
#define KQ_REQUEST_MESSAGES_H

#include <jansson.h>

#include "request/error.h"

/* Check "messages" as the API has them: an array of objects with a role. A content is a string, a list of
 * {"type": "text", "text"}, or absent (an answer that only calls tools). The arguments of a tool call are an
 * object, or a string that holds one. *out gets a new array without the fields that tell the model nothing;
 * the caller owns one reference. False with *e: an unknown field, an unknown role, or a content that is no
 * text; *out may then hold a part of the messages, and is the caller's as well. */
bool kq_api_messages(const json_t *v, json_t **out, kq_api_error *e);

/* What a chat template can read (kq_chat finds it out). */
typedef struct kq_message_form {
    bool parts;   /* it walks through lists of parts; else they are joined to one text */
    bool strings; /* it knows arguments of tool calls as strings; else they become objects */
    bool empty;   /* it needs a content in every message: an absent one becomes "" */
} kq_message_form;
/* A copy of kq_api_messages's result in the form that a template reads. A new reference; NULL: out of memory.
 */
json_t *kq_api_template_messages(const json_t *messages, const kq_message_form *form);

/* Check "tools": an array of at most 256 {"type": "function", "function": {"name", "description",
 * "parameters", "strict"}}. *out is v itself with one more reference, or NULL for an empty array. */
bool kq_api_tools(json_t *v, json_t **out, kq_api_error *e);

#endif
