/* Answers of the API as JSON: whole, and as the events of a stream. All read a query: hold the batch's lock.
 */
#ifndef KQ_SERVE_ANSWER_H
#define KQ_SERVE_ANSWER_H

#include <jansson.h>

#include "serve/query.h"

typedef struct kq_answer_context {
    const kq_tokenizer *tok;
    const char *model; /* its name */
    char id[48];       /* "cmpl-..." */
    int64_t created;   /* Unix time */
} kq_answer_context;

/* {"error": {...}}; NULL: out of memory. */
json_t *kq_answer_error(const kq_api_error *e);
/* The whole answer of a query that is done; NULL: out of memory. */
json_t *kq_answer_whole(const kq_answer_context *a, const kq_query *query);
/* What is new of one sequence since the last call, as an event's object; *none when there is nothing.
 * NULL and !*none: out of memory. */
json_t *kq_answer_part(const kq_answer_context *a, const kq_query *query, kq_sequence *s, bool *none);
/* The last event, when the request asked for stream_options.include_usage. */
json_t *kq_answer_usage_part(const kq_answer_context *a, const kq_query *query);

/* The text of a token as the API's keys have it: its bytes when they are whole characters, else
 * "bytes:\xe2\x80". kq_free. NULL: out of memory. */
char *kq_token_key(const kq_tokenizer *tok, int32_t id);

#endif
