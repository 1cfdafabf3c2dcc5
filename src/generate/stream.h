/* Tokens on their way to text: whole characters, and nothing of a stop string or of what may become one. */
#ifndef KQ_GENERATE_STREAM_H
#define KQ_GENERATE_STREAM_H

#include "tokenizer/tokenizer.h"

typedef struct kq_text {
    /* owned: all whole characters so far; at the end what a stop string left of them */
    char *data;
    size_t size, cap;
    size_t safe;  /* data [0, safe) will not be taken back */
    bool stopped; /* a stop string was met: data ends before it */
    char tail[16];
    size_t n_tail;  /* bytes of an unfinished character */
    int32_t before; /* the last token with a text, -1: none */
} kq_text;

/* The last tokens of a prompt give the context in which the first new token is spelt; ids may be NULL (n
 * 0). */
kq_status kq_text_begin(kq_text *t, const kq_tokenizer *tok, const int32_t *ids, size_t n, kq_error *err);
/* Add a token. Special tokens have no text. */
kq_status kq_text_add(kq_text *t, const kq_tokenizer *tok, int32_t id, char *const *stop, size_t n_stop,
                      kq_error *err);
/* Add bytes, as if they were a token's; stop strings are not looked for. */
kq_status kq_text_bytes(kq_text *t, const char *bytes, size_t n, kq_error *err);
/* No more tokens: an unfinished character becomes U+FFFD (unless a stop string was met), and everything
 * is safe. */
kq_status kq_text_end(kq_text *t, char *const *stop, size_t n_stop, kq_error *err);
void kq_text_clear(kq_text *t);

#endif
