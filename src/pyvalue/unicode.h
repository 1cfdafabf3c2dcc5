/* Characters as Python's str sees them. */
#ifndef KQ_PYVALUE_UNICODE_H
#define KQ_PYVALUE_UNICODE_H

#include "base/utf8.h"

/* The code point at p, and its bytes; p is valid UTF-8. */
static inline uint32_t kq_py_code_point(const char *p, size_t *size)
{
    *size = kq_utf8_size((unsigned char)*p);
    return kq_utf8_get(p);
}

bool kq_py_is_space(uint32_t cp);     /* str.isspace */
bool kq_py_is_printable(uint32_t cp); /* str.isprintable */
bool kq_py_is_alpha(uint32_t cp);     /* str.isalpha */

/* A character whose upper or title case is several characters (Unicode's SpecialCasing.txt). */
typedef struct kq_py_special_case {
    uint32_t cp;
    const char *upper, *title; /* UTF-8; title NULL: one character */
} kq_py_special_case;
/* NULL: the character has no entry. */
const kq_py_special_case *kq_py_special_case_of(uint32_t cp);

#endif
