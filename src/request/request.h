/* Requests of the OpenAI API (and of vLLM's tokenizer endpoints), from JSON: every field checked,
 * nothing that would change the answer ignored. docs/serve.md lists the fields. No network and no model
 * in here: bytes in, a struct or an error out. */
#ifndef KQ_REQUEST_REQUEST_H
#define KQ_REQUEST_REQUEST_H

#include <jansson.h>

#include "generate/sample.h"

typedef enum kq_api { KQ_API_COMPLETIONS = 0, KQ_API_CHAT, KQ_API_TOKENIZE, KQ_API_DETOKENIZE } kq_api;

enum {
    KQ_API_MAX_STOP = 16,        /* stop strings, and stop tokens */
    KQ_API_MAX_STOP_BYTES = 512, /* of one */
    KQ_API_MAX_TOP = 20,         /* logprobs, top_logprobs */
    KQ_API_MAX_BIAS = 1024       /* entries of logit_bias */
};

/* An answer of the form {"error": {"message", "type", "param", "code"}}. */
typedef struct kq_api_error {
    int http;          /* status: 400, 401, 404, 405, 413, 415, 429, 500, 503 */
    const char *type;  /* "invalid_request_error", ...; static */
    const char *code;  /* static; NULL: null */
    char param[64];    /* ""; null */
    char message[512]; /* UTF-8 */
} kq_api_error;
/* Fill *e (type by status) and return false. param and code may be NULL. */
bool kq_api_fail(kq_api_error *e, int http, const char *param, const char *code, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* of a request: text or ids; of a job: ids, and offset when its tokens are shown */
typedef struct kq_prompt {
    char *text;
    size_t size; /* owned */
    int32_t *ids;
    size_t n; /* owned */
    /* owned [n + 1]: characters of the text before each token, and of the whole text; NULL: not wanted */
    size_t *offset;
} kq_prompt;
typedef struct kq_bias {
    int32_t id;
    float value;
} kq_bias;

typedef struct kq_api_request {
    kq_api api;
    /* owned; chat has none until its messages are rendered. tokenize: one text; detokenize: one list of
     * ids */
    kq_prompt *prompt;
    size_t n_prompt;
    /* chat (and tokenize with "messages"), as kq_chat has them; one reference each. NULL: none */
    json_t *messages, *tools, *template_arguments;
    bool add_generation_prompt, continue_final_message;
    size_t n; /* answers a prompt, at least 1 */
    /* more than the context holds (SIZE_MAX too): as many as it holds */
    size_t max_tokens;
    bool echo, stream, include_usage, ignore_eos, add_special_tokens, return_token_strs;
    /* scores of the tokens wanted; and of the n_top most likely beside each */
    bool logprobs;
    int n_top;
    kq_sampling sampling; /* its seed: drawn by the caller when !has_seed */
    bool has_seed;
    double frequency_penalty, presence_penalty;
    kq_bias *bias;
    size_t n_bias; /* owned */
    char *stop[KQ_API_MAX_STOP];
    size_t n_stop; /* owned, not empty */
    int32_t stop_id[KQ_API_MAX_STOP];
    size_t n_stop_id;
} kq_api_request;

/* What a request is held against. */
typedef struct kq_api_limits {
    const char *model;         /* what the model is called in answers */
    const char *other_name[2]; /* what requests may call it too; NULL: none */
    bool any_model;            /* requests may call it anything */
    size_t vocab_size;         /* ids are below */
    size_t context;            /* tokens */
    size_t max_choices;        /* prompts * n of one request */
    kq_sampling sampling;      /* what holds where a request says nothing */
} kq_api_limits;
bool kq_api_model_known(const kq_api_limits *limits, const char *name);

/* Parse a body of `size` bytes. On false *e says why and *out is empty; on true free *out with
 * kq_api_request_clear. Refused are: what is no JSON object (duplicate keys, NUL characters and invalid
 * UTF-8 too), unknown fields, known ones of the wrong type or out of range, and features of the API that
 * are not there (tools, images, ...). A field with null counts as absent. */
bool kq_api_parse(kq_api api, const char *body, size_t size, const kq_api_limits *limits, kq_api_request *out,
                  kq_api_error *e);
void kq_api_request_clear(kq_api_request *r);

/* "messages" as the API has them: an array of objects with a role; contents are strings or lists of
 * {"type": "text", "text"}, or not there (an answer that only calls tools); arguments of tool calls are
 * objects, or strings that hold one; fields that say nothing are left out. One reference in *out. False
 * with *e: a field or a role that is not known, or a content that is no text. */
bool kq_api_messages(const json_t *v, json_t **out, kq_api_error *e);
/* These messages as a chat template reads them: lists of parts stay where the template walks through
 * them (parts), else they are joined; strings of arguments stay where it knows them (strings), else they
 * are objects; empty: a content that is not there becomes "". A new reference; NULL: out of memory. */
json_t *kq_api_written(const json_t *messages, bool parts, bool strings, bool empty);
/* "tools": an array of {"type": "function", "function": {"name", "description", "parameters",
 * "strict"}}, taken as it is. */
bool kq_api_tools(json_t *v, json_t **out, kq_api_error *e);

#endif
