/* Walking bytes that may stop in the middle of a character. */
#ifndef KQ_BASE_UTF8_H
#define KQ_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"

typedef enum kq_utf8_kind {
    KQ_UTF8_CHAR,       /* a whole valid character */
    KQ_UTF8_INCOMPLETE, /* the bytes end inside a character that is valid so far */
    KQ_UTF8_INVALID /* no character begins like this: the longest such start (Unicode's "maximal subpart"), to
                       become one U+FFFD */
} kq_utf8_kind;
typedef struct kq_utf8 {
    kq_utf8_kind kind;
    size_t size; /* bytes, at least 1 */
} kq_utf8;

/* The first character of s [n], n >= 1. RFC 3629: no surrogates, nothing above U+10FFFF, no overlong form. */
kq_utf8 kq_utf8_next(const char *s, size_t n);

/* Bytes of the longest valid prefix of s [size]. */
size_t kq_utf8_valid(const char *s, size_t size);
/* Append s with every maximal ill-formed part replaced by U+FFFD, as Rust's String::from_utf8_lossy does. */
kq_status kq_utf8_lossy(const char *s, size_t size, kq_buffer *out, kq_error *err);

/* The following three take text that is known to be valid. */
static inline size_t kq_utf8_size(unsigned char lead)
{
    return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}
uint32_t kq_utf8_get(const char *s);          /* the code point at s */
size_t kq_utf8_put(uint32_t cp, char out[4]); /* bytes written */

#endif
