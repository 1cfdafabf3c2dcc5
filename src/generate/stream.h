/* Tokens on their way to text: whole characters, and nothing of a stop string or of what may become one. One
 * stream for run and serve. */
#ifndef KQ_GENERATE_STREAM_H
#define KQ_GENERATE_STREAM_H

#include "tokenizer/tokenizer.h"

/* The text of one answer so far. Begin with kq_text_begin; kq_text_clear frees it. */
typedef struct kq_text {
    char *data; /* owned [size]: all whole characters; after a stop string, those before it */
    size_t size, cap;
    size_t safe;   /* data [0, safe) is final: it will not be taken back */
    bool stopped;  /* a stop string has come */
    char tail[16]; /* the bytes of an unfinished character */
    size_t n_tail;
    int32_t before; /* the last token with a text, -1: none */
} kq_text;

/* An empty text after the prompt ids [n], whose last tokens give the context in which the first new token is
 * spelt; ids may be NULL with n 0. */
kq_status kq_text_begin(kq_text *t, const kq_tokenizer *tok, const int32_t *ids, size_t n, kq_error *err);
/* Add a token, then look for the stop strings. Special tokens have no text; empty stop strings are passed
 * over. Nothing happens once t->stopped is set. */
kq_status kq_text_add(kq_text *t, const kq_tokenizer *tok, int32_t id, const char *const *stop, size_t n_stop,
                      kq_error *err);
/* Add bytes as if they were a token's, without looking for stop strings. */
kq_status kq_text_bytes(kq_text *t, const char *bytes, size_t n, kq_error *err);
/* No more tokens: an unfinished character becomes U+FFFD (unless a stop string has come), and everything is
 * safe. */
kq_status kq_text_end(kq_text *t, const char *const *stop, size_t n_stop, kq_error *err);
void kq_text_clear(kq_text *t);

#endif
