/* Requests of the OpenAI API (and of vLLM's tokenizer endpoints), from JSON: every field checked, nothing that would change the answer ignored.
 * docs/serve.md lists the fields. No network and no model in here: bytes in, a struct or an error out. */
#ifndef KQ_SERVE_REQUEST_H
#define KQ_SERVE_REQUEST_H

#include "eval/eval.h"

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
bool kq_api_fail(kq_api_error *e, int http, const char *param, const char *code, const char *format, ...) __attribute__((format(printf, 5, 6)));

typedef struct kq_prompt { /* one of the two */
    char *text; size_t size;  /* owned */
    int32_t *ids; size_t n;   /* owned */
} kq_prompt;
typedef struct kq_message { const char *role, *content; } kq_message;
typedef struct kq_bias { int32_t id; float value; } kq_bias;

typedef struct kq_api_request {
    kq_api api;
    kq_prompt *prompt; size_t n_prompt;      /* owned; chat has none until its messages are rendered. tokenize: one text; detokenize: one list of ids */
    kq_message *message; size_t n_message;   /* owned, and their strings: chat (and tokenize with "messages") */
    size_t n;                                /* answers a prompt, at least 1 */
    size_t max_tokens;                       /* SIZE_MAX: as many as the context holds */
    bool echo, stream, include_usage, ignore_eos, add_special_tokens, return_token_strs;
    bool logprobs; int n_top;                /* scores of the tokens wanted; and of the n_top most likely beside each */
    kq_sampling sampling;                    /* its seed: drawn by the caller when !has_seed */
    bool has_seed;
    double frequency_penalty, presence_penalty;
    kq_bias *bias; size_t n_bias;            /* owned */
    char *stop[KQ_API_MAX_STOP]; size_t n_stop; /* owned, not empty */
    int32_t stop_id[KQ_API_MAX_STOP]; size_t n_stop_id;
} kq_api_request;

/* What a request is held against. */
typedef struct kq_api_limits {
    const char *model, *model_path; /* names the model answers to */
    size_t vocab_size;              /* ids are below */
    size_t context;                 /* tokens */
    size_t max_choices;             /* prompts * n of one request */
} kq_api_limits;

/* Parse a body of `size` bytes. On false *e says why and *out is empty; on true free *out with kq_api_request_clear. Refused are: what is no JSON object
 * (duplicate keys, NUL characters and invalid UTF-8 too), unknown fields, known ones of the wrong type or out of range, and features of the API that are not
 * there (tools, images, ...). A field with null counts as absent. */
bool kq_api_parse(kq_api api, const char *body, size_t size, const kq_api_limits *limits, kq_api_request *out, kq_api_error *e);
void kq_api_request_clear(kq_api_request *r);

#endif
