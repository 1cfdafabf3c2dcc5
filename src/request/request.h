/* Requests of the OpenAI API and of vLLM's tokenizer endpoints, from JSON. Every field is checked, and
 * nothing that would change the answer is ignored. docs/serve.md lists the fields. No network and no model in
 * here: bytes in, a struct or an error out. */
#ifndef KQ_REQUEST_REQUEST_H
#define KQ_REQUEST_REQUEST_H

#include <jansson.h>

#include "generate/sample.h"
#include "request/error.h"

typedef enum kq_api { KQ_API_COMPLETIONS = 0, KQ_API_CHAT, KQ_API_TOKENIZE, KQ_API_DETOKENIZE } kq_api;

enum {
    KQ_API_MAX_STOP = 16,        /* stop strings, and stop tokens */
    KQ_API_MAX_STOP_BYTES = 512, /* of one */
    KQ_API_MAX_TOP = 20,         /* logprobs, top_logprobs */
    KQ_API_MAX_BIAS = 1024       /* entries of logit_bias */
};

/* A prompt. A request has the text or the ids, as the client sent it. When the server has prepared it, it has
 * the ids, and offset if the answer shows the prompt's tokens. */
typedef struct kq_prompt {
    char *text; /* owned [size], and a NUL; NULL: none */
    size_t size;
    int32_t *ids; /* owned [n]; NULL: none */
    size_t n;
    /* owned [n + 1]: characters of the text before each token, and of the whole text; NULL: not wanted */
    size_t *offset;
} kq_prompt;
/* An entry of logit_bias: added to the token's logit. */
typedef struct kq_bias {
    int32_t id;
    float value;
} kq_bias;

/* A request whose every field has been checked. */
typedef struct kq_api_request {
    kq_api api;
    /* owned [n_prompt]; a chat has none until its messages are rendered. tokenize: one text; detokenize: one
     * list of ids */
    kq_prompt *prompt;
    size_t n_prompt;
    /* of a chat (and of tokenize with "messages"), as kq_chat takes them; one reference each. NULL: none */
    json_t *messages, *tools, *template_arguments;
    bool add_generation_prompt, continue_final_message;
    size_t n; /* answers to each prompt, at least 1 */
    /* new tokens of an answer; more than the context holds (SIZE_MAX too): as many as it holds */
    size_t max_tokens;
    bool echo, stream, include_usage, ignore_eos, add_special_tokens, return_token_strs;
    bool logprobs;        /* the scores of the answer's tokens are wanted ... */
    int n_top;            /* ... and those of this many most likely tokens beside each */
    kq_sampling sampling; /* its seed: drawn by the caller when !has_seed */
    bool has_seed;
    double frequency_penalty, presence_penalty;
    kq_bias *bias; /* owned [n_bias] */
    size_t n_bias;
    char *stop[KQ_API_MAX_STOP]; /* owned [n_stop], none of them empty */
    size_t n_stop;
    int32_t stop_id[KQ_API_MAX_STOP];
    size_t n_stop_id;
} kq_api_request;

/* The model's and the server's limits and defaults, which a request is checked against. */
typedef struct kq_api_limits {
    const char *model;         /* what the model is called in answers */
    const char *other_name[2]; /* what requests may call it too; NULL: none */
    bool any_model;            /* requests may call it anything */
    size_t vocab_size;         /* ids are below */
    size_t context;            /* tokens */
    size_t max_choices;        /* prompts * n of one request */
    kq_sampling sampling;      /* what holds where a request says nothing */
} kq_api_limits;
/* May a request call the model by this name? */
bool kq_api_model_known(const kq_api_limits *limits, const char *name);

/* Parse a body of `size` bytes. True: the caller frees *out with kq_api_request_clear. False: *e says why,
 * and *out is empty. Refused are: what is no JSON object (duplicate keys, NUL characters and invalid UTF-8
 * too), unknown fields, known fields of the wrong type or out of range, and features of the API that this
 * server does not have (images, audio, structured output, ...). A field with null counts as absent. */
bool kq_api_parse(kq_api api, const char *body, size_t size, const kq_api_limits *limits, kq_api_request *out,
                  kq_api_error *e);
/* Frees what the request owns and empties it. An empty request is fine. */
void kq_api_request_clear(kq_api_request *r);

#endif
