/* The messages of a conversation: from what clients send to what chat templates read. The check and the
 * rewriting are apart, because only the tokenizer knows which form the model's template reads; a request is
 * checked before. */
#include "request/messages.h"

#include <string.h>

#include "base/mem.h"

enum { MAX_MESSAGES = 4096, MAX_TOOLS = 256 };

static bool bad(kq_api_error *e, const char *code, const char *wanted)
{
    return kq_api_fail(e, 400, "messages", code, "messages: %s", wanted);
}

/* A list of text parts, each {"type": "text", "text"}. NULL with *e: something else is in it. */
static json_t *text_parts(const json_t *parts, kq_api_error *e)
{
    json_t *part, *out = json_array();
    size_t i;
    json_array_foreach(parts, i, part) {
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
    kq_api_no_memory(e);
    return NULL;
}

/* One text of all parts, a line for each part: vLLM and llama-server give it to templates that know no parts.
 * NULL: out of memory. */
static json_t *join_parts(const json_t *parts)
{
    json_t *part, *out;
    size_t i, size = 0, at = 0;
    json_array_foreach((json_t *)parts, i, part)
        size += json_string_length(json_object_get(part, "text")) + 1;
    char *bytes = kq_alloc(size + 1, 1);
    if (!bytes)
        return NULL;
    json_array_foreach((json_t *)parts, i, part) {
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

/* Check one tool call and append a copy of it to out. The API has a call's arguments as a string of JSON; an
 * empty string becomes an empty object. */
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
    return ok || kq_api_no_memory(e);
}

/* Does the official client send this field back with an answer, although it says nothing to the model? */
static bool says_nothing(const char *role, const char *key, const json_t *v)
{
    const bool empty =
        (json_is_array(v) && !json_array_size(v)) || (json_is_string(v) && !json_string_length(v));
    const char *text = json_string_value(v);
    if (!strcmp(role, "assistant") && !strcmp(key, "annotations"))
        return true;
    if (!strcmp(role, "assistant") && (!strcmp(key, "refusal") || !strcmp(key, "tool_calls")) && empty)
        return true;
    return !strcmp(key, "type") && text && (!strcmp(text, "text") || !strcmp(text, "message"));
}

/* The list of an assistant's tool calls. *out stays NULL for an empty list. */
static bool get_tool_calls(json_t *v, json_t **out, kq_api_error *e)
{
    size_t i;
    json_t *call;
    if (!json_array_size(v))
        return true;
    if (!(*out = json_array()))
        return kq_api_no_memory(e);
    json_array_foreach(v, i, call) {
        if (!add_call(*out, call, e))
            return false;
    }
    return true;
}

/* A field of a message other than its role and content. True and *out NULL: the field is left out. */
static bool get_message_field(const char *role, const char *key, json_t *v, json_t **out, kq_api_error *e)
{
    const bool assistant = !strcmp(role, "assistant");
    *out = NULL;
    if (json_is_null(v) || !strcmp(key, "role") || !strcmp(key, "content"))
        return true;
    if (!strcmp(key, "name") || (!strcmp(key, "tool_call_id") && !strcmp(role, "tool")) ||
        (assistant && !strcmp(key, "reasoning_content"))) {
        *out = json_incref(v);
        return json_is_string(v) || kq_api_fail(e, 400, "messages", "invalid_value",
                                                "messages: '%.50s': a string is expected", key);
    }
    if (assistant && !strcmp(key, "tool_calls") && json_is_array(v))
        return get_tool_calls(v, out, e);
    if (says_nothing(role, key, v))
        return true;
    return kq_api_fail(e, 400, "messages", "unsupported_value",
                       "messages: the field '%.50s' is not supported in a message of role %.20s", key, role);
}

/* A message's content: text, a list of text parts, or JSON null where an assistant may leave it out. A new
 * reference; NULL with *e. */
static json_t *get_content(const char *role, json_t *content, kq_api_error *e)
{
    if (json_is_string(content))
        return json_incref(content);
    if (json_is_array(content))
        return text_parts(content, e);
    if (!strcmp(role, "assistant") && (!content || json_is_null(content)))
        return json_null(); /* an answer that only called tools, or was empty */
    bad(e, "invalid_value", "a string or a list of text parts is expected as content");
    return NULL;
}

static bool check_role(const char *role, kq_api_error *e)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    if (!role)
        return bad(e, "invalid_value", "a list of objects {\"role\", \"content\"} is expected");
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (!strcmp(role, roles[i]))
            return true;
    return kq_api_fail(e, 400, "messages", "unsupported_value",
                       "messages: the role '%.50s' is not supported (system, developer, user, "
                       "assistant and tool are)",
                       role);
}

/* Role, content and fields of the message v into the object out. */
static bool fill_message(json_t *out, json_t *v, kq_api_error *e)
{
    const char *key, *role = json_string_value(json_object_get(v, "role"));
    json_t *value;
    if (!check_role(role, e))
        return false;
    json_t *content = get_content(role, json_object_get(v, "content"), e);
    if (!content)
        return false;
    if (json_object_set_new(out, "role", json_string(role)) ||
        (!json_is_null(content) && json_object_set(out, "content", content))) {
        json_decref(content);
        return kq_api_no_memory(e);
    }
    json_decref(content);
    json_object_foreach(v, key, value) {
        json_t *field = NULL;
        const bool ok = get_message_field(role, key, value, &field, e) &&
                        (!field || !json_object_set(out, key, field) || kq_api_no_memory(e));
        json_decref(field);
        if (!ok)
            return false;
    }
    return true;
}

static json_t *get_message(json_t *v, kq_api_error *e)
{
    json_t *out = json_object();
    if (!out) {
        kq_api_no_memory(e);
    } else if (!fill_message(out, v, e)) {
        json_decref(out);
        out = NULL;
    }
    return out;
}

bool kq_api_messages(const json_t *v, json_t **out, kq_api_error *e)
{
    size_t i;
    json_t *given;
    if (!json_array_size(v) || json_array_size(v) > MAX_MESSAGES)
        return bad(e, "invalid_value", "a list of 1 to 4096 messages is expected");
    if (!(*out = json_array()))
        return kq_api_no_memory(e);
    json_array_foreach(v, i, given) {
        json_t *message = get_message(given, e);
        if (!message)
            return false;
        if (json_array_append_new(*out, message))
            return kq_api_no_memory(e);
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

static bool write_message(json_t *m, const kq_message_form *form)
{
    const json_t *content = json_object_get(m, "content"), *calls = json_object_get(m, "tool_calls");
    bool ok = true;
    if (!form->parts && json_is_array(content))
        ok = !json_object_set_new(m, "content", join_parts(content));
    if (form->empty && !content)
        ok = ok && !json_object_set_new(m, "content", json_string(""));
    if (form->strings || !calls)
        return ok;
    json_t *out = json_array();
    for (size_t i = 0; ok && i < json_array_size(calls); i++)
        ok = !json_array_append_new(out, object_call(json_array_get(calls, i)));
    return !json_object_set_new(m, "tool_calls", out) && ok;
}

json_t *kq_api_template_messages(const json_t *messages, const kq_message_form *form)
{
    json_t *out = json_array();
    for (size_t i = 0; i < json_array_size(messages); i++) {
        json_t *m = json_copy(json_array_get(messages, i));
        if (!m || json_array_append(out, m) || !write_message(m, form)) {
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
    json_t *tool;
    if (!json_is_array(v) || json_array_size(v) > MAX_TOOLS)
        return kq_api_fail(e, 400, "tools", "invalid_value",
                           "'tools': a list of at most 256 tools is expected");
    json_array_foreach(v, i, tool) {
        const json_t *function = json_object_get(tool, "function"), *type = json_object_get(tool, "type");
        if (!json_is_string(type) || strcmp(json_string_value(type), "function") ||
            !json_is_object(function) || !json_is_string(json_object_get(function, "name")))
            return kq_api_fail(e, 400, "tools", "unsupported_value",
                               "'tools': {\"type\": \"function\", \"function\": {\"name\", "
                               "...}} is expected; other types of tools are not supported");
    }
    *out = json_array_size(v) ? json_incref(v) : NULL;
    return true;
}
