/* From a request's texts to the ids the model is given: what takes time before the model does. */
#ifndef KQ_SERVE_PREPARE_H
#define KQ_SERVE_PREPARE_H

#include "serve/query.h"

/* False with *e, 503: query->give_up is set or query->deadline_s is over. */
bool kq_query_in_time(kq_query *query, kq_api_error *e);

/* Fill query->prompt from query->request: render messages, encode texts, copy ids; with the places (offset)
 * of the tokens of prompts of at most `shown` tokens. Ends early as
 * kq_query_in_time says. False with *e; query->prompt is then for kq_query_release to free. */
bool kq_query_prepare(const kq_tokenizer *tok, kq_query *query, size_t shown, kq_api_error *e);

/* Is there room for what is asked, and is every id the model's? More new tokens than the context has
 * room for is no error; no room for one is. */
bool kq_query_fits(const kq_api_limits *limits, const kq_query *query, kq_api_error *e);

/* Stop strings that are one special token have no text to be found in: they become stop tokens. */
void kq_query_stops(const kq_tokenizer *tok, kq_api_request *r);

/* The text of ids as it is echoed: special tokens written out, bytes that are no characters replaced by
 * U+FFFD. kq_free. NULL: out of memory. */
char *kq_prompt_text(const kq_tokenizer *tok, const int32_t *ids, size_t n, size_t *size);

/* Where each of ids [n] begins in the text [size] (UTF-8) they came from: offset [n + 1], in characters,
 * the last one the whole text's length. What the tokenizer put before or behind the text (`added`:
 * whether it was asked to) takes no place; a space that it put before a word is passed over, and so are
 * characters that its normalizer wrote otherwise. Owned by the caller (kq_free); NULL: out of memory. */
size_t *kq_prompt_offsets(const kq_tokenizer *tok, const char *text, size_t size, bool added,
                          const int32_t *ids, size_t n);

#endif
