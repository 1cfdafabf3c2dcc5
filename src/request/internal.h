/* Private to src/request: the values of a request's fields. */
#ifndef KQ_REQUEST_INTERNAL_H
#define KQ_REQUEST_INTERNAL_H

#include "request/request.h"

/* Each function reads the value v of the field `key` into *out or into the request. False with *e, which
 * names the field: the value has another type or is out of range, or memory is short. What a request already
 * owns is released by kq_api_request_clear, after an error too. */

/* 400 "invalid_value": "'KEY': EXPECTED is expected". */
bool kq_value_bad(kq_api_error *e, const char *key, const char *expected);
bool kq_value_bool(const json_t *v, const char *key, bool *out, kq_api_error *e);
/* A whole number from min to max, both included. */
bool kq_value_int(const json_t *v, const char *key, json_int_t min, json_int_t max, json_int_t *out,
                  kq_api_error *e);
/* A number from min to max, both included. */
bool kq_value_real(const json_t *v, const char *key, double min, double max, double *out, kq_api_error *e);
/* A list of 1 to lim->context token ids below lim->vocab_size. */
bool kq_value_ids(const json_t *v, const char *key, const kq_api_limits *lim, kq_prompt *p, kq_api_error *e);
/* r->prompt: a string, a list of ids, a list of strings, or a list of lists of ids. */
bool kq_value_prompts(const json_t *v, const char *key, const kq_api_limits *lim, kq_api_request *r,
                      kq_api_error *e);
/* r->stop: a string, or a list of at most KQ_API_MAX_STOP strings of 1 to KQ_API_MAX_STOP_BYTES bytes. */
bool kq_value_stop(const json_t *v, const char *key, kq_api_request *r, kq_api_error *e);
/* r->stop_id: a list of at most KQ_API_MAX_STOP token ids. */
bool kq_value_stop_ids(const json_t *v, const char *key, const kq_api_limits *lim, kq_api_request *r,
                       kq_api_error *e);
/* r->bias: an object of at most KQ_API_MAX_BIAS entries, token id: number from -100 to 100. */
bool kq_value_bias(json_t *v, const char *key, const kq_api_limits *lim, kq_api_request *r, kq_api_error *e);

#endif
