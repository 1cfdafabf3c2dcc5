/* Walking bytes that may stop in the middle of a character. */
#ifndef KQ_BASE_UTF8_H
#define KQ_BASE_UTF8_H

#include <stddef.h>

typedef enum kq_utf8_kind {
    KQ_UTF8_CHAR,       /* a whole valid character */
    KQ_UTF8_INCOMPLETE, /* the bytes end inside a character that is valid so far */
    KQ_UTF8_INVALID     /* no character begins like this: the longest such start (Unicode's "maximal subpart"), to become one U+FFFD */
} kq_utf8_kind;
typedef struct kq_utf8 { kq_utf8_kind kind; size_t size; /* bytes, at least 1 */ } kq_utf8;

/* The first character of s [n], n >= 1. RFC 3629: no surrogates, nothing above U+10FFFF, no overlong form. */
kq_utf8 kq_utf8_next(const char *s, size_t n);

#endif
