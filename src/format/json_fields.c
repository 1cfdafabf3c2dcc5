/* Typed fields of JSON files. A node knows its parents, so a message can name the whole way to a value
 * without any string having been made on the way there: a reader of a good file pays nothing for the
 * messages. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "format/json.h"

enum {
    MAX_WAY = 200,  /* bytes of a key in a message, with its parents; a longer one loses its end */
    MAX_FOUND = 60, /* bytes of a string that is quoted in a message */
    MAX_EXPECTED = 96
};

kq_json_node kq_json_root(const json_t *value, const char *file)
{
    return (kq_json_node){.value = value, .file = file};
}

kq_json_node kq_json_field(const kq_json_node *object, const char *key)
{
    return (kq_json_node){
        .value = json_object_get(object->value, key), .file = object->file, .parent = object, .key = key};
}

kq_json_node kq_json_entry(const kq_json_node *list, size_t index)
{
    return (kq_json_node){
        .value = json_array_get(list->value, index), .file = list->file, .parent = list, .index = index};
}

bool kq_json_absent(kq_json_node node)
{
    return !node.value || json_is_null(node.value);
}

bool kq_json_flag(const json_t *object, const char *key, bool otherwise)
{
    const json_t *value = json_object_get(object, key);
    return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

bool kq_json_truthy(const json_t *value)
{
    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_NULL:
    case JSON_FALSE: return false;
    case JSON_TRUE: return true;
    case JSON_STRING: return json_string_length(value) > 0;
    case JSON_INTEGER:
    case JSON_REAL: return json_number_value(value) != 0;
    case JSON_ARRAY: return json_array_size(value) > 0;
    case JSON_OBJECT: return json_object_size(value) > 0;
    }
    return false;
}

/* ---- messages ---- */

/* "a.b[2].c" into way [MAX_WAY]; returns its bytes. */
static size_t write_way(const kq_json_node *node, char *way)
{
    if (!node->parent) {
        *way = 0;
        return 0;
    }
    const size_t n = write_way(node->parent, way);
    const int more = node->key ? snprintf(way + n, MAX_WAY - n, "%s%s", n ? "." : "", node->key)
                               : snprintf(way + n, MAX_WAY - n, "[%zu]", node->index);
    return more < 0 ? n : n + (size_t)more < MAX_WAY ? n + (size_t)more : MAX_WAY - 1;
}

/* What stands there, in a few words. */
static void write_found(const json_t *value, char found[MAX_FOUND + 8])
{
    const char *words = "null";
    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_NULL: break;
    case JSON_TRUE: words = "true"; break;
    case JSON_FALSE: words = "false"; break;
    case JSON_ARRAY: words = json_array_size(value) ? "a list" : "an empty list"; break;
    case JSON_OBJECT: words = "an object"; break;
    case JSON_INTEGER: snprintf(found, MAX_FOUND, "%lld", (long long)json_integer_value(value)); return;
    case JSON_REAL: snprintf(found, MAX_FOUND, "%.9g", json_real_value(value)); return;
    case JSON_STRING: {
        const size_t size = json_string_length(value), shown = size < MAX_FOUND ? size : MAX_FOUND;
        snprintf(found, MAX_FOUND + 8, "\"%.*s%s\"", (int)kq_utf8_valid(json_string_value(value), shown),
                 json_string_value(value), shown < size ? "..." : "");
        return;
    }
    }
    snprintf(found, MAX_FOUND, "%s", words);
}

kq_status kq_json_unexpected(kq_json_node node, const char *expected, kq_error *err)
{
    char way[MAX_WAY], found[MAX_FOUND + 8];
    const char *file = node.file ? node.file : "", *colon = node.file ? ": " : "";
    write_way(&node, way);
    write_found(node.value, found);
    if (!*way)
        return kq_fail(err, KQ_E_FORMAT, "%s%sfound %s, %s is expected", file, colon, found, expected);
    if (!node.value)
        return kq_fail(err, KQ_E_FORMAT, "%s%skey \"%s\" is missing: %s is expected", file, colon, way,
                       expected);
    return kq_fail(err, KQ_E_FORMAT, "%s%skey \"%s\": found %s, %s is expected", file, colon, way, found,
                   expected);
}

/* Check a value that has the right type or has not. *there: it is there, and right. */
static kq_status check(kq_json_node node, kq_json_presence presence, bool right, const char *expected,
                       bool *there, kq_error *err)
{
    *there = !kq_json_absent(node) && right;
    return *there || (kq_json_absent(node) && presence == KQ_JSON_OPTIONAL)
               ? KQ_OK
               : kq_json_unexpected(node, expected, err);
}

/* ---- the types ---- */

kq_status kq_json_get_whole(kq_json_node node, kq_json_presence presence, int64_t lo, int64_t hi,
                            int64_t *out, kq_error *err)
{
    char expected[MAX_EXPECTED];
    bool there;
    const json_int_t x = json_integer_value(node.value);
    if (lo == INT64_MIN && hi == INT64_MAX)
        snprintf(expected, sizeof expected, "a whole number");
    else if (hi == INT64_MAX)
        snprintf(expected, sizeof expected, "a whole number of at least %lld", (long long)lo);
    else
        snprintf(expected, sizeof expected, "a whole number from %lld to %lld", (long long)lo, (long long)hi);
    const kq_status status =
        check(node, presence, json_is_integer(node.value) && x >= lo && x <= hi, expected, &there, err);
    if (there && out)
        *out = x;
    return status;
}

kq_status kq_json_get_size(kq_json_node node, kq_json_presence presence, size_t lo, size_t hi, size_t *out,
                           kq_error *err)
{
    int64_t x = -1;
    const kq_status status =
        kq_json_get_whole(node, presence, (int64_t)lo, hi > INT64_MAX ? INT64_MAX : (int64_t)hi, &x, err);
    if (!status && x >= 0 && out)
        *out = (size_t)x;
    return status;
}

kq_status kq_json_get_number(kq_json_node node, kq_json_presence presence, double lo, double hi, double *out,
                             kq_error *err)
{
    char expected[MAX_EXPECTED];
    bool there;
    const double x = json_number_value(node.value);
    if (isinf(lo) && isinf(hi))
        snprintf(expected, sizeof expected, "a finite number");
    else if (isinf(hi))
        snprintf(expected, sizeof expected, "a number of at least %g", lo);
    else
        snprintf(expected, sizeof expected, "a number from %g to %g", lo, hi);
    const kq_status status =
        check(node, presence, json_is_number(node.value) && isfinite(x) && x >= lo && x <= hi, expected,
              &there, err);
    if (there && out)
        *out = x;
    return status;
}

kq_status kq_json_get_bool(kq_json_node node, kq_json_presence presence, bool *out, kq_error *err)
{
    bool there;
    const kq_status status = check(node, presence, json_is_boolean(node.value), "true or false", &there, err);
    if (there && out)
        *out = json_is_true(node.value);
    return status;
}

kq_status kq_json_get_text(kq_json_node node, kq_json_presence presence, const char **out, kq_error *err)
{
    bool there;
    const char *text = json_string_value(node.value);
    const kq_status status = check(node, presence, text != NULL, "a string", &there, err);
    if (there && strlen(text) != json_string_length(node.value))
        return kq_json_unexpected(node, "a string without a NUL character", err);
    if (there && out)
        *out = text;
    return status;
}

kq_status kq_json_get_object(kq_json_node node, kq_json_presence presence, const json_t **out, kq_error *err)
{
    bool there;
    const kq_status status = check(node, presence, json_is_object(node.value), "an object", &there, err);
    if (there && out)
        *out = node.value;
    return status;
}

kq_status kq_json_get_list(kq_json_node node, kq_json_presence presence, const json_t **out, kq_error *err)
{
    bool there;
    const kq_status status = check(node, presence, json_is_array(node.value), "a list", &there, err);
    if (there && out)
        *out = node.value;
    return status;
}
