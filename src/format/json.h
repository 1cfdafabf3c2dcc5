/* JSON as Python reads it: for the files beside a model's weights, which Python wrote. */
#ifndef KQ_FORMAT_JSON_H
#define KQ_FORMAT_JSON_H

#include <jansson.h>

#include "base/error.h"

/* Read size bytes of JSON the way Python's json.loads does. *root is the caller's (json_decref); it may
 * be of any type, so ask for json_is_object. path is for messages. KQ_E_FORMAT says the line and what is
 * wrong there. Time and memory are linear in size; 2048 levels of nesting at most. More than RFC 8259 is
 * read:
 *   a key twice in one object: the last one counts;
 *   integers beyond 64 bits: reals (Python keeps all digits; like Python, 4300 digits are the most);
 *   NaN, Infinity, -Infinity, and numbers beyond a double's range (1e999): jansson has no such number,
 *     so they become the strings "NaN", "Infinity" and
 *   "-Infinity". A field that must be a number is thus refused, and a field that nobody looks at harms
 *     nothing;
 *   escaped surrogates without a partner: U+FFFD (Python keeps them, but no UTF-8 text can);
 *   "\u0000" in values (json_string_length knows the length). In keys it is refused, because jansson
 *     cannot hold it.
 * What Python refuses is refused: text after the value, single quotes, comments, a byte order mark
 * (transformers refuses it too), control characters in strings, invalid UTF-8. */
kq_status kq_json_parse(const char *text, size_t size, const char *path, json_t **root, kq_error *err);

/* The same for a file of at most max_size bytes. */
kq_status kq_json_read(const char *path, size_t max_size, json_t **root, kq_error *err);

/* Text that kq_json_parse has read before (kq_source_config_json's). NULL: text is NULL, or out of memory. */
json_t *kq_json_again(const char *text);

#endif
