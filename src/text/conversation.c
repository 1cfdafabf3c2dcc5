#include "text/conversation.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "chat/chat.h"
#include "format/json.h"

/* {"from": ..., "value": ...} of ShareGPT and what grew out of it -> roles as chat templates know them. */
static const struct {
    const char *from, *role;
} speakers[] = {
    {"human", "user"},
    {"user", "user"},
    {"gpt", "assistant"},
    {"assistant", "assistant"},
    {"chatgpt", "assistant"},
    {"bot", "assistant"},
    {"model", "assistant"},
    {"system", "system"},
    {"tool", "tool"},
    {"observation", "tool"},
    {"function_response", "tool"},
};

static const char *type_name(const json_t *v)
{
    return !v || json_is_null(v) ? "null"
           : json_is_object(v)   ? "an object"
           : json_is_array(v)    ? "a list"
           : json_is_string(v)   ? "a string"
           : json_is_number(v)   ? "a number"
                                 : "true or false";
}

bool kq_is_conversation(const json_t *list)
{
    const json_t *first = json_array_get(list, 0);
    return json_is_string(json_object_get(first, "role")) || json_is_string(json_object_get(first, "from"));
}

static bool speaks(const json_t *message, const char *who)
{
    const json_t *role = json_object_get(message, "role"), *from = json_object_get(message, "from");
    return (json_is_string(role) && !strcmp(json_string_value(role), who)) ||
           (json_is_string(from) && !strcmp(json_string_value(from), who));
}

/* A new list of messages, from whichever way they are written; the roles and contents themselves are the
 * template's to judge. system: one to go before, or NULL. */
static kq_status messages_of(const json_t *list, const char *field, const json_t *system, const char *where,
                             json_t **out, kq_error *err)
{
    const json_t *one;
    size_t i;
    if (!json_is_array(list) || !json_array_size(list))
        return kq_fail(err, KQ_E_FORMAT, "%s: \"%s\" is %s, a list of messages is expected", where, field,
                       json_is_array(list) ? "an empty list" : type_name(list));
    json_t *m = *out = json_array();
    if (json_is_string(system) && json_string_length(system) && !speaks(json_array_get(list, 0), "system"))
        json_array_append_new(m, json_pack("{s:s, s:O}", "role", "system", "content", system));
    json_array_foreach((json_t *)list, i, one)
    {
        const json_t *role = json_object_get(one, "role"), *from = json_object_get(one, "from"),
                     *value = json_object_get(one, "value");
        if (json_is_string(role)) {
            json_array_append(m, (json_t *)one);
            continue;
        }
        if (!json_is_string(from) || !json_is_string(value))
            return kq_fail(
                err, KQ_E_FORMAT,
                "%s: entry %zu of \"%s\" has neither \"role\" and \"content\" nor \"from\" and \"value\"",
                where, i, field);
        size_t k = 0;
        while (k < sizeof speakers / sizeof *speakers && strcmp(speakers[k].from, json_string_value(from)))
            k++;
        if (k == sizeof speakers / sizeof *speakers)
            return kq_fail(err, KQ_E_UNSUPPORTED,
                           "%s: entry %zu of \"%s\" is from \"%.60s\"; known are human, user, gpt, "
                           "assistant, chatgpt, bot, model, system, tool, "
                           "observation and function_response",
                           where, i, field, json_string_value(from));
        json_array_append_new(m, json_pack("{s:s, s:O}", "role", speakers[k].role, "content", value));
    }
    return KQ_OK;
}

/* The model's template over them. */
static kq_status render(const kq_tokenizer *tok, const json_t *messages, const json_t *tools,
                        const json_t *arguments, const char *where, char **text, kq_error *err)
{
    if (!kq_tokenizer_chat_template(tok))
        return kq_fail(err, KQ_E_UNSUPPORTED,
                       "%s: holds conversations, but the model has no chat template to write them with; give "
                       "a text, or another model",
                       where);
    const kq_chat chat = {.messages = messages, .tools = tools, .arguments = arguments};
    kq_status status = kq_chat_render(tok, &chat, text, err);
    return status ? kq_fail_within(err, status, where) : KQ_OK;
}

/* "tools": a list, or that list as text, which is how tables keep it. *owned: a new reference, NULL for
 * none. */
static kq_status tools_of(const json_t *value, const char *where, json_t **owned, kq_error *err)
{
    const json_t *tools = json_object_get(value, "tools");
    kq_status status = KQ_OK;
    *owned = NULL;
    if (!tools || json_is_null(tools) || (json_is_string(tools) && !json_string_length(tools)))
        return KQ_OK;
    if (json_is_string(tools))
        status = kq_json_parse(json_string_value(tools), json_string_length(tools), where, owned, err);
    else
        *owned = json_incref((json_t *)tools);
    if (!status && !json_is_array(*owned))
        status =
            kq_fail(err, KQ_E_FORMAT, "%s: \"tools\" is %s, a list is expected", where, type_name(*owned));
    return status;
}

static kq_status conversation(const json_t *messages, const json_t *value, const kq_tokenizer *tok,
                              const char *where, char **text, kq_error *err)
{
    json_t *tools;
    /* as TRL's data sets have it */
    const json_t *arguments = json_object_get(value, "chat_template_kwargs");
    kq_status status = tools_of(value, where, &tools, err);
    if (!status && arguments && !json_is_object(arguments) && !json_is_null(arguments))
        status = kq_fail(err, KQ_E_FORMAT, "%s: \"chat_template_kwargs\" is %s, an object is expected", where,
                         type_name(arguments));
    if (!status && tok)
        status = render(tok, messages, tools, json_is_object(arguments) ? arguments : NULL, where, text, err);
    json_decref(tools);
    return status;
}

static kq_status no_document(const json_t *value, const char *where, kq_error *err)
{
    char fields[300] = "";
    const char *key;
    json_t *v;
    size_t n = 0;
    json_object_foreach((json_t *)value, key, v) if (n < sizeof fields - 1) n +=
        (size_t)snprintf(fields + n, sizeof fields - n, "%s%.40s", n ? ", " : "", key);
    if (n > sizeof fields - 1)
        memcpy(fields + sizeof fields - 4, "...", 4);
    return kq_fail(err, KQ_E_FORMAT,
                   "%s has no \"text\" string, \"messages\" or \"conversations\"%s%s; rename the field that "
                   "holds the text to "
                   "\"text\" (or --text-format text: read the file as it is)",
                   where, n ? "; it has " : "", fields);
}

/* {"prompt", "completion"}: both texts, or both messages. */
static kq_status completion(const json_t *value, const kq_tokenizer *tok, const char *where, char **owned,
                            size_t *size, bool *is_conversation, kq_error *err)
{
    const json_t *a = json_object_get(value, "prompt"), *b = json_object_get(value, "completion");
    if (json_is_string(a) && json_is_string(b)) {
        const size_t n = json_string_length(a), m = json_string_length(b);
        kq_status status = kq_alloc_for((void **)owned, n + m + 1, 1, "a document", err);
        if (status)
            return status;
        memcpy(*owned, json_string_value(a), n);
        memcpy(*owned + n, json_string_value(b), m);
        *size = n + m;
        return KQ_OK;
    }
    if (!json_is_array(a) || !json_is_array(b))
        return no_document(value, where, err);
    json_t *first = NULL, *second = NULL;
    kq_status status = messages_of(a, "prompt", NULL, where, &first, err);
    if (!status)
        status = messages_of(b, "completion", NULL, where, &second, err);
    if (!status)
        json_array_extend(first, second);
    *is_conversation = true;
    if (!status && !(status = conversation(first, value, tok, where, owned, err)))
        *size = *owned ? strlen(*owned) : 0;
    json_decref(first);
    json_decref(second);
    return status;
}

kq_status kq_document_text(const json_t *value, const kq_tokenizer *tok, const char *where, const char **text,
                           size_t *size, char **owned, bool *is_conversation, kq_error *err)
{
    const json_t *string = json_is_string(value) ? value : json_object_get(value, "text"), *list = NULL;
    const char *field = "messages";
    kq_status status = KQ_OK;
    *text = "";
    *size = 0;
    *owned = NULL;
    *is_conversation = false;
    if (json_is_string(string)) {
        *text = json_string_value(string);
        *size = json_string_length(string);
        return KQ_OK;
    }
    if (json_is_array(value)) {
        if (!kq_is_conversation(value))
            return kq_fail(err, KQ_E_UNSUPPORTED,
                           "%s: a list where a document is expected: a string, or an object with \"text\", "
                           "\"messages\" or \"conversations\"",
                           where);
        list = value;
        value = NULL;
    } else if (!json_is_object(value)) {
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: %s where a document is expected: a string, or an object with \"text\", "
                       "\"messages\" or \"conversations\"",
                       where, type_name(value));
    } else if (json_object_get(value, "messages")) {
        list = json_object_get(value, "messages");
    } else if (json_object_get(value, "conversations")) {
        field = "conversations";
        list = json_object_get(value, field);
    } else if (string && !json_is_null(string)) {
        return kq_fail(err, KQ_E_FORMAT, "%s: \"text\" is %s, a string is expected", where,
                       type_name(string));
    } else if (json_object_get(value, "prompt") && json_object_get(value, "completion")) {
        status = completion(value, tok, where, owned, size, is_conversation, err);
        *text = *owned ? *owned : "";
        return status;
    } else if (string) {
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: \"text\" is null, a string is expected; take such documents out", where);
    } else {
        return no_document(value, where, err);
    }
    json_t *messages = NULL;
    *is_conversation = true;
    status = messages_of(list, field, json_object_get(value, "system"), where, &messages, err);
    if (!status)
        status = conversation(messages, value, tok, where, owned, err);
    json_decref(messages);
    if (!status && *owned) {
        *text = *owned;
        *size = strlen(*owned);
    }
    return status;
}
