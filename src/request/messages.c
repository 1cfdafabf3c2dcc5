/* The messages of a conversation: from what clients send to what chat templates read. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "request/request.h"

enum { MAX_MESSAGES = 4096, MAX_TOOLS = 256 };

static bool bad(kq_api_error *e, const char *code, const char *wanted)
{
    return kq_api_fail(e, 400, "messages", code, "messages: %s", wanted);
}

static bool no_memory(kq_api_error *e)
{
    return kq_api_fail(e, 503, NULL, "out_of_memory", "out of memory; try again later");
}

/* A list of text parts, each {"type": "text", "text"}. NULL with *e: something else is in it. */
static json_t *text_parts(const json_t *parts, kq_api_error *e)
{
    json_t *part, *out = json_array();
    size_t i;
    json_array_foreach(parts, i, part)
    {
        const char *type = json_string_value(json_object_get(part, "type"));
        json_t *text = json_object_get(part, "text");
        const bool known =
            type && (!strcmp(type, "text") || !strcmp(type, "input_text") || !strcmp(type, "output_text"));
        if (!known || !json_is_string(text)) {
            bad(e, "unsupported_value",
                "a part of a content is not {\"type\": \"text\", \"text\": ...}; only text is supported");
            json_decref(out);
            return NULL;
        }
        if (json_array_append_new(out, json_pack("{s:s, s:O}", "type", "text", "text", text)))
            break;
    }
    if (json_array_size(out) == json_array_size(parts) && out)
        return out;
    json_decref(out);
    no_memory(e);
    return NULL;
}

/* One text of all parts, a line for each, as vLLM and llama-server do it for templates that know no
 * parts. NULL: out of memory. */
static json_t *joined(const json_t *parts)
{
    json_t *part, *out;
    size_t i, size = 0, at = 0;
    json_array_foreach((json_t *)parts, i, part) size +=
        json_string_length(json_object_get(part, "text")) + 1;
    char *bytes = kq_alloc(size + 1, 1);
    if (!bytes)
        return NULL;
    json_array_foreach((json_t *)parts, i, part)
    {
        const json_t *text = json_object_get(part, "text");
        if (i)
            bytes[at++] = '\n';
        memcpy(bytes + at, json_string_value(text), json_string_length(text));
        at += json_string_length(text);
    }
    out = json_stringn(bytes, at);
    kq_free(bytes);
    return out;
}

/* The object that a call's arguments are, or that they are the text of; a new reference, NULL: neither. */
static json_t *argument_object(const json_t *arguments)
{
    if (!arguments || json_is_null(arguments) ||
        (json_is_string(arguments) && !json_string_length(arguments)))
        return json_object();
    return json_is_object(arguments) ? json_incref((json_t *)arguments)
           : json_is_string(arguments)
               ? json_loadb(json_string_value(arguments), json_string_length(arguments), 0, NULL)
               : NULL;
}

/* The API has a call's arguments as a string of JSON. */
static bool add_call(json_t *out, const json_t *call, kq_api_error *e)
{
    const json_t *function = json_object_get(call, "function"), *name = json_object_get(function, "name"),
                 *arguments = json_object_get(function, "arguments");
    const char *type = json_string_value(json_object_get(call, "type"));
    if (!json_is_object(function) || !json_is_string(name) || (type && strcmp(type, "function")))
        return bad(
            e, "invalid_value",
            "a tool call is not {\"id\", \"type\": \"function\", \"function\": {\"name\", \"arguments\"}}");
    json_t *object = argument_object(arguments);
    const bool is_object = json_is_object(object),
               empty = !arguments || !json_is_string(arguments) || !json_string_length(arguments);
    if (!is_object) {
        json_decref(object);
        return bad(e, "invalid_value", "the arguments of a tool call are not a JSON object");
    }
    json_t *copy = json_copy((json_t *)call), *inner = json_copy((json_t *)function);
    const bool ok = inner && copy &&
                    !json_object_set(inner, "arguments", empty ? object : (json_t *)arguments) &&
                    !json_object_set(copy, "function", inner) && !json_array_append(out, copy);
    json_decref(object);
    json_decref(copy);
    json_decref(inner);
    return ok || no_memory(e);
}

/* A field of a message. True and *out NULL: it says nothing, and is left out. */
static bool get_field(const char *role, const char *key, json_t *v, json_t **out, kq_api_error *e)
{
    const bool assistant = !strcmp(role, "assistant");
    size_t i;
    json_t *one;
    *out = NULL;
    if (json_is_null(v) || !strcmp(key, "role") || !strcmp(key, "content"))
        return true;
    if (!strcmp(key, "name") || (!strcmp(key, "tool_call_id") && !strcmp(role, "tool")) ||
        (assistant && !strcmp(key, "reasoning_content"))) {
        *out = json_incref(v);
        return json_is_string(v) || kq_api_fail(e, 400, "messages", "invalid_value",
                                                "messages: '%.50s': a string is expected", key);
    }
    if (assistant && !strcmp(key, "tool_calls") && json_is_array(v)) {
        if (!json_array_size(v))
            return true;
        if (!(*out = json_array()))
            return no_memory(e);
        json_array_foreach(v, i, one) if (!add_call(*out, one, e)) return false;
        return true;
    }
    /* what the official client sends back of an answer, and says nothing to the model */
    const bool empty =
        (json_is_array(v) && !json_array_size(v)) || (json_is_string(v) && !json_string_length(v));
    if ((assistant && (!strcmp(key, "annotations") ||
                       ((!strcmp(key, "refusal") || !strcmp(key, "tool_calls")) && empty))) ||
        (!strcmp(key, "type") && json_is_string(v) &&
         (!strcmp(json_string_value(v), "text") || !strcmp(json_string_value(v), "message"))))
        return true;
    return kq_api_fail(e, 400, "messages", "unsupported_value",
                       "messages: the field '%.50s' is not supported in a message of role %.20s", key, role);
}

static json_t *get_message(json_t *v, kq_api_error *e)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    const char *key, *role = json_string_value(json_object_get(v, "role"));
    json_t *value, *content = json_object_get(v, "content"), *text = NULL, *out = json_object();
    bool known = false;
    if (!out) {
        no_memory(e);
        return NULL;
    }
    if (!role) {
        bad(e, "invalid_value", "a list of objects {\"role\", \"content\"} is expected");
        goto fail;
    }
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        known = known || !strcmp(role, roles[i]);
    if (!known) {
        kq_api_fail(
            e, 400, "messages", "unsupported_value",
            "messages: the role '%.50s' is not supported (system, developer, user, assistant and tool are)",
            role);
        goto fail;
    }
    if (json_is_string(content))
        text = json_incref(content);
    else if (json_is_array(content))
        text = text_parts(content, e);
    else if (!strcmp(role, "assistant") &&
             (!content || json_is_null(content))) /* an answer that only called tools, or was empty */
        text = json_null();
    else
        bad(e, "invalid_value", "a string or a list of text parts is expected as content");
    if (!text)
        goto fail;
    const bool has_text = !json_is_null(text);
    if (json_object_set_new(out, "role", json_string(role)) ||
        (has_text && json_object_set_new(out, "content", text))) {
        no_memory(e);
        goto fail;
    }
    json_object_foreach(v, key, value)
    {
        json_t *field = NULL;
        if (!get_field(role, key, value, &field, e) ||
            (field && json_object_set(out, key, field) && !no_memory(e))) {
            json_decref(field);
            goto fail;
        }
        json_decref(field);
    }
    return out;
fail:
    json_decref(out);
    return NULL;
}

bool kq_api_messages(const json_t *v, json_t **out, kq_api_error *e)
{
    size_t i;
    json_t *one;
    if (!json_array_size(v) || json_array_size(v) > MAX_MESSAGES)
        return bad(e, "invalid_value", "a list of 1 to 4096 messages is expected");
    if (!(*out = json_array()))
        return no_memory(e);
    json_array_foreach(v, i, one)
    {
        json_t *message = get_message(one, e);
        if (!message)
            return false;
        if (json_array_append_new(*out, message))
            return no_memory(e);
    }
    return true;
}

/* A call with its arguments as an object. */
static json_t *object_call(const json_t *call)
{
    json_t *copy = json_copy((json_t *)call), *inner = json_copy(json_object_get(call, "function"));
    if (copy && inner &&
        !json_object_set_new(inner, "arguments", argument_object(json_object_get(inner, "arguments"))) &&
        !json_object_set(copy, "function", inner)) {
        json_decref(inner);
        return copy;
    }
    json_decref(copy);
    json_decref(inner);
    return NULL;
}

static bool write_message(json_t *m, bool parts, bool strings, bool empty)
{
    const json_t *content = json_object_get(m, "content"), *calls = json_object_get(m, "tool_calls");
    bool ok = true;
    if (!parts && json_is_array(content))
        ok = !json_object_set_new(m, "content", joined(content));
    if (empty && !content)
        ok = ok && !json_object_set_new(m, "content", json_string(""));
    if (strings || !calls)
        return ok;
    json_t *out = json_array();
    for (size_t i = 0; ok && i < json_array_size(calls); i++)
        ok = !json_array_append_new(out, object_call(json_array_get(calls, i)));
    return !json_object_set_new(m, "tool_calls", out) && ok;
}

json_t *kq_api_written(const json_t *messages, bool parts, bool strings, bool empty)
{
    json_t *out = json_array();
    for (size_t i = 0; i < json_array_size(messages); i++) {
        json_t *m = json_copy(json_array_get(messages, i));
        if (!m || json_array_append(out, m) || !write_message(m, parts, strings, empty)) {
            json_decref(m);
            json_decref(out);
            return NULL;
        }
        json_decref(m);
    }
    return out;
}

bool kq_api_tools(json_t *v, json_t **out, kq_api_error *e)
{
    size_t i;
    json_t *one;
    if (!json_is_array(v) || json_array_size(v) > MAX_TOOLS)
        return kq_api_fail(e, 400, "tools", "invalid_value",
                           "'tools': a list of at most 256 tools is expected");
    json_array_foreach(v, i, one)
    {
        const json_t *function = json_object_get(one, "function"), *type = json_object_get(one, "type");
        if (!json_is_string(type) || strcmp(json_string_value(type), "function") ||
            !json_is_object(function) || !json_is_string(json_object_get(function, "name")))
            return kq_api_fail(e, 400, "tools", "unsupported_value",
                               "'tools': {\"type\": \"function\", \"function\": {\"name\", ...}} is "
                               "expected; other types of tools are not supported");
    }
    *out = json_array_size(v) ? json_incref(v) : NULL;
    return true;
}
