/* JSON as Python reads it, for the files beside a model's weights, which Python wrote; and typed fields of
 * what was read, with one style of error: every reader of a JSON file uses these, so that a wrong field is
 * always reported by file, key, what was found and what is expected. */
#ifndef KQ_FORMAT_JSON_H
#define KQ_FORMAT_JSON_H

#include <jansson.h>

#include "base/error.h"

/* Read size bytes of JSON the way Python's json.loads does. *root is the caller's (json_decref); it may
 * be of any type, so ask for json_is_object. path is for messages. KQ_E_FORMAT says the line and what is
 * wrong there. Time and memory are linear in size; 2048 levels of nesting at most. More than RFC 8259 is
 * read:
 *   - The same key twice in one object: the last one counts.
 *   - Integers beyond 64 bits become reals (Python keeps all digits). 4300 digits are the most, as in Python.
 *   - NaN, Infinity, -Infinity and numbers beyond a double's range (1e999) become the strings "NaN",
 *     "Infinity" and "-Infinity", because jansson has no such numbers. A field that must be a number is thus
 *     refused, and a field that nobody reads does no harm.
 *   - Escaped surrogates without a partner become U+FFFD (Python keeps them, but no UTF-8 text can).
 *   - "\u0000" is read in values (json_string_length knows the length). In keys it is refused, because
 *     jansson cannot hold it.
 * What Python refuses is refused: text after the value, single quotes, comments, a byte order mark
 * (transformers refuses it too), control characters in strings, invalid UTF-8. */
kq_status kq_json_parse(const char *text, size_t size, const char *path, json_t **root, kq_error *err);

/* The same for a file of at most max_size bytes. */
kq_status kq_json_read(const char *path, size_t max_size, json_t **root, kq_error *err);

/* json_loadb of jansson, told apart by errno whether memory is out or the JSON broken. jansson itself often
 * says nothing, or blames the text; and where the buffer of a string cannot grow it leaves out a byte and
 * goes on, which stays unseen when a number follows (reading it clears errno). KQ_E_FORMAT or KQ_E_MEMORY:
 * *root is NULL, and why->text says what is wrong. err is not written. */
kq_status kq_json_load(const char *text, size_t size, size_t flags, json_t **root, json_error_t *why);

/* ---- typed fields ----
 *
 * A reader of a file walks from its root by key and by index, and takes each value as the type that it
 * expects:
 *
 *   const kq_json_node root = kq_json_root(json, path), rope = kq_json_field(&root, "rope_scaling");
 *   kq_json_get_size(kq_json_field(&root, "hidden_size"), KQ_JSON_REQUIRED, 1, SIZE_MAX, &cfg->d_model, err)
 *   kq_json_get_number(kq_json_field(&rope, "factor"), KQ_JSON_OPTIONAL, 1, INFINITY, &factor, err)
 *
 * The last line may fail with this message: config.json: key "rope_scaling.factor": found "two", a number of
 * at least 1 is expected. */

/* A value and the way to it. Everything is borrowed: the JSON, the strings, and the parent, which must live
 * as long as the node is used. */
typedef struct kq_json_node {
    const json_t *value;               /* NULL: there is no such key or entry */
    const char *file;                  /* begins every message; NULL: messages begin with the key */
    const struct kq_json_node *parent; /* NULL: the root of the file */
    const char *key;                   /* of the value in its parent, an object; NULL: an entry of a list */
    size_t index;                      /* of an entry of a list */
} kq_json_node;

kq_json_node kq_json_root(const json_t *value, const char *file);
/* The value of a key of an object. The parent may be anything: what is no object has no keys. */
kq_json_node kq_json_field(const kq_json_node *object, const char *key);
/* An entry of a list. The parent may be anything: what is no list has no entries. */
kq_json_node kq_json_entry(const kq_json_node *list, size_t index);

/* What the absence of a value means; a JSON null counts as absent, as in Python's configurations. */
typedef enum kq_json_presence {
    KQ_JSON_OPTIONAL, /* KQ_OK, and *out stays as it is: it holds the default */
    KQ_JSON_REQUIRED  /* KQ_E_FORMAT */
} kq_json_presence;

/* Each of these takes the node as one type. out NULL: the value is only checked. KQ_E_FORMAT on another type
 * or a value out of range: "FILE: key "a.b[2].c": found X, Y is expected", or "FILE: key "a.b" is missing: Y
 * is expected"; *out is then unchanged. */

/* A whole number from lo to hi, both included. hi = SIZE_MAX: no upper bound. */
kq_status kq_json_get_size(kq_json_node node, kq_json_presence presence, size_t lo, size_t hi, size_t *out,
                           kq_error *err);
/* The same, for numbers that may be negative. INT64_MIN and INT64_MAX: no bound. */
kq_status kq_json_get_whole(kq_json_node node, kq_json_presence presence, int64_t lo, int64_t hi,
                            int64_t *out, kq_error *err);
/* A finite number from lo to hi, both included; -INFINITY and INFINITY: no bound. */
kq_status kq_json_get_number(kq_json_node node, kq_json_presence presence, double lo, double hi, double *out,
                             kq_error *err);
kq_status kq_json_get_bool(kq_json_node node, kq_json_presence presence, bool *out, kq_error *err);
/* A string without a NUL inside; *out is borrowed from the JSON. */
kq_status kq_json_get_text(kq_json_node node, kq_json_presence presence, const char **out, kq_error *err);
/* *out: the node's own value, borrowed; kq_json_field and kq_json_entry of the node go on from there. */
kq_status kq_json_get_object(kq_json_node node, kq_json_presence presence, const json_t **out, kq_error *err);
kq_status kq_json_get_list(kq_json_node node, kq_json_presence presence, const json_t **out, kq_error *err);

/* Fail as the functions above do, where a reader has a rule of its own: expected is "a list of two numbers".
 */
kq_status kq_json_unexpected(kq_json_node node, const char *expected, kq_error *err);
/* Is the value absent or null? */
bool kq_json_absent(kq_json_node node);
/* The true or false of a key; whatever else is there: otherwise. For files whose own reader is as lenient. */
bool kq_json_flag(const json_t *object, const char *key, bool otherwise);
/* Python's "if value:": false for null, false, 0, and an empty string, list or object. */
bool kq_json_truthy(const json_t *value);

/* Text that kq_json_parse has read before (kq_source_config_json's). NULL: text is NULL, or out of memory. */
json_t *kq_json_again(const char *text);

#endif
