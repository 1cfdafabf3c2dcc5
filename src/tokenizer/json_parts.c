/* What the readers of a tokenizer.json's parts share: walking a Sequence of parts, copying strings, reading
 * patterns and ids, and refusing by name what is not supported. */
#include "tokenizer/json_parts.h"

#include <stdio.h>
#include <string.h>

#include "tokenizer_files/tokenizer_files.h"

enum { MAX_DEPTH = 8 }; /* Sequences within Sequences */

kq_status kq_tok_sequence(const kq_sequence_part *part, kq_tokenizer *tok, const json_t *v, void *ctx,
                          int depth, kq_error *err)
{
    const json_t *list = json_object_get(v, part->list);
    json_t *item;
    size_t i;
    if (!json_is_array(list) || depth > MAX_DEPTH)
        return kq_fail(err, KQ_E_FORMAT, "%s: a %s Sequence without its list, or nested too deeply",
                       tok->path, part->name);
    json_array_foreach(list, i, item) {
        kq_status status = part->read(tok, item, ctx, depth + 1, err);
        if (status)
            return status;
    }
    return KQ_OK;
}

const char *kq_tok_type(const json_t *obj)
{
    const char *type = json_string_value(json_object_get(obj, "type"));
    return type ? type : "(no type)";
}

kq_status kq_tok_refuse(const kq_tokenizer *tok, const char *part, const char *what, kq_error *err)
{
    return kq_fail(err, KQ_E_UNSUPPORTED, "%s: %s \"%.100s\" is not supported", tok->path, part, what);
}

kq_status kq_tok_copy_string(const json_t *v, const kq_tokenizer *tok, const char *where, char **out,
                             size_t *size, kq_error *err)
{
    kq_buffer buf = {0};
    if (!json_is_string(v))
        return kq_fail(err, KQ_E_FORMAT, "%s: %s is not a string", tok->path, where);
    kq_status status = kq_buffer_add(&buf, json_string_value(v), json_string_length(v), err);
    if (!status)
        status = kq_buffer_add(&buf, "", 1, err);
    if (status) {
        kq_free(buf.data);
        return status;
    }
    *out = buf.data;
    *size = buf.size - 1;
    return KQ_OK;
}

kq_status kq_tok_read_pattern(const kq_tokenizer *tok, const json_t *obj, const char *where, kq_pattern *out,
                              kq_error *err)
{
    const json_t *p = json_object_get(obj, "pattern"), *re = json_object_get(p, "Regex"),
                 *s = json_object_get(p, "String");
    char at[512];
    snprintf(at, sizeof at, "%.300s: %s", tok->path, where);
    if (json_is_string(re))
        return kq_pattern_regex(json_string_value(re), json_string_length(re), at, out, err);
    if (json_is_string(s))
        return kq_pattern_literal(json_string_value(s), json_string_length(s), out, err);
    return kq_fail(err, KQ_E_FORMAT, "%s has no pattern {\"Regex\": ...} or {\"String\": ...}", at);
}

kq_status kq_tok_read_id(const kq_tokenizer *tok, const json_t *v, const char *token, int32_t *id,
                         kq_error *err)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= KQ_TOK_MAX_ID)
        return kq_fail(err, KQ_E_FORMAT, "%s: the id of token \"%.60s\" is not a whole number below %d",
                       tok->path, token, KQ_TOK_MAX_ID);
    *id = (int32_t)json_integer_value(v);
    return KQ_OK;
}

kq_status kq_tok_read_scheme(const kq_tokenizer *tok, const json_t *v, kq_prepend *out, kq_error *err)
{
    const json_t *scheme = json_object_get(v, "prepend_scheme");
    const char *s = json_string_value(scheme);
    *out = kq_json_flag(v, "add_prefix_space", true) ? KQ_PREPEND_ALWAYS : KQ_PREPEND_NEVER;
    if (!scheme || json_is_null(scheme))
        return KQ_OK;
    if (s && !strcmp(s, "always"))
        *out = KQ_PREPEND_ALWAYS;
    else if (s && !strcmp(s, "first"))
        *out = KQ_PREPEND_FIRST;
    else if (s && !strcmp(s, "never"))
        *out = KQ_PREPEND_NEVER;
    else
        return kq_tok_refuse(tok, "prepend_scheme", s ? s : "(not a string)", err);
    return KQ_OK;
}
