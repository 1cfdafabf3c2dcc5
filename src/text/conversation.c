/* A document of JSON -> its text. Data sets spell documents in a few ways (a text, a prompt and its
 * completion, messages, ShareGPT's speakers); conversations are written with the model's own chat template,
 * as transformers would. */
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

/* The role of chat templates for a speaker of ShareGPT; NULL: not known. */
static const char *role_of(const char *speaker)
{
    for (size_t i = 0; i < sizeof speakers / sizeof *speakers; i++)
        if (!strcmp(speakers[i].from, speaker))
            return speakers[i].role;
    return NULL;
}

/* A new list of messages, from whichever way they are written; the roles and contents themselves are the
 * template's to judge. system: one to go before, or NULL. */
static kq_status messages_of(kq_json_node list, const json_t *system, json_t **out, kq_error *err)
{
    const json_t *message;
    size_t i;
    if (!json_array_size(list.value))
        return kq_json_unexpected(list, "a list of messages", err);
    json_t *m = *out = json_array();
    if (json_is_string(system) && json_string_length(system) &&
        !speaks(json_array_get(list.value, 0), "system"))
        json_array_append_new(m, json_pack("{s:s, s:O}", "role", "system", "content", system));
    json_array_foreach(list.value, i, message) {
        const json_t *from = json_object_get(message, "from"), *value = json_object_get(message, "value");
        if (json_is_string(json_object_get(message, "role"))) {
            json_array_append(m, (json_t *)message);
            continue;
        }
        if (!json_is_string(from) || !json_is_string(value))
            return kq_fail(
                err, KQ_E_FORMAT,
                "%s: entry %zu of \"%s\" has neither \"role\" and \"content\" nor \"from\" and \"value\"",
                list.file, i, list.key);
        const char *role = role_of(json_string_value(from));
        if (!role)
            return kq_fail(err, KQ_E_UNSUPPORTED,
                           "%s: entry %zu of \"%s\" is from \"%.60s\"; known are human, user, gpt, "
                           "assistant, chatgpt, bot, model, system, tool, "
                           "observation and function_response",
                           list.file, i, list.key, json_string_value(from));
        json_array_append_new(m, json_pack("{s:s, s:O}", "role", role, "content", value));
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
static kq_status tools_of(const kq_json_node *document, json_t **owned, kq_error *err)
{
    kq_json_node tools = kq_json_field(document, "tools");
    *owned = NULL;
    if (kq_json_absent(tools) || (json_is_string(tools.value) && !json_string_length(tools.value)))
        return KQ_OK;
    if (json_is_string(tools.value)) {
        kq_status status = kq_json_parse(json_string_value(tools.value), json_string_length(tools.value),
                                         document->file, owned, err);
        if (status)
            return status;
        tools.value = *owned;
    } else {
        *owned = json_incref((json_t *)tools.value);
    }
    return kq_json_get_list(tools, KQ_JSON_REQUIRED, NULL, err);
}

/* messages with the tools and arguments of their document, through the template. */
static kq_status conversation(const json_t *messages, const kq_json_node *document, const kq_tokenizer *tok,
                              char **text, kq_error *err)
{
    json_t *tools;
    const json_t *arguments = NULL;
    kq_status status = tools_of(document, &tools, err);
    if (!status) /* as TRL's data sets have it */
        status = kq_json_get_object(kq_json_field(document, "chat_template_kwargs"), KQ_JSON_OPTIONAL,
                                    &arguments, err);
    if (!status && tok)
        status = render(tok, messages, tools, arguments, document->file, text, err);
    json_decref(tools);
    return status;
}

static kq_status no_document(const kq_json_node *document, kq_error *err)
{
    char fields[300] = "";
    const char *key;
    json_t *v;
    size_t n = 0;
    json_object_foreach((json_t *)document->value, key, v)
        if (n < sizeof fields - 1)
            n += (size_t)snprintf(fields + n, sizeof fields - n, "%s%.40s", n ? ", " : "", key);
    if (n > sizeof fields - 1)
        memcpy(fields + sizeof fields - 4, "...", 4);
    return kq_fail(err, KQ_E_FORMAT,
                   "%s has no \"text\" string, \"messages\" or \"conversations\"%s%s; rename the field that "
                   "holds the text to "
                   "\"text\" (or --text-format text: read the file as it is)",
                   document->file, n ? "; it has " : "", fields);
}

/* What kq_document_text gives. */
typedef struct output {
    const char **text;
    size_t *size;
    char **owned;
    bool *is_conversation;
} output;

/* Both texts, one after the other. */
static kq_status join(const json_t *a, const json_t *b, const output *out, kq_error *err)
{
    const size_t n = json_string_length(a), m = json_string_length(b);
    kq_status status = kq_alloc_for((void **)out->owned, n + m + 1, 1, "a document", err);
    if (status)
        return status;
    memcpy(*out->owned, json_string_value(a), n);
    memcpy(*out->owned + n, json_string_value(b), m);
    *out->text = *out->owned;
    *out->size = n + m;
    return KQ_OK;
}

/* Messages, which are the caller's, as a text; with tok NULL they are only checked. */
static kq_status write_messages(const json_t *messages, const kq_json_node *document, const kq_tokenizer *tok,
                                const output *out, kq_error *err)
{
    *out->is_conversation = true;
    kq_status status = conversation(messages, document, tok, out->owned, err);
    if (!status && *out->owned) {
        *out->text = *out->owned;
        *out->size = strlen(*out->owned);
    }
    return status;
}

/* {"prompt", "completion"}: both texts, or both messages. */
static kq_status completion(const kq_json_node *document, const kq_tokenizer *tok, const output *out,
                            kq_error *err)
{
    const kq_json_node a = kq_json_field(document, "prompt"), b = kq_json_field(document, "completion");
    if (json_is_string(a.value) && json_is_string(b.value))
        return join(a.value, b.value, out, err);
    if (!json_is_array(a.value) || !json_is_array(b.value))
        return no_document(document, err);
    json_t *first = NULL, *second = NULL;
    kq_status status = messages_of(a, NULL, &first, err);
    if (!status)
        status = messages_of(b, NULL, &second, err);
    if (!status)
        json_array_extend(first, second);
    if (!status)
        status = write_messages(first, document, tok, out, err);
    json_decref(first);
    json_decref(second);
    return status;
}

/* A list of messages. document: the object that it stands in, whose tools and system prompt count. */
static kq_status list_of_messages(kq_json_node list, const kq_json_node *document, const kq_tokenizer *tok,
                                  const output *out, kq_error *err)
{
    json_t *messages = NULL;
    kq_status status = messages_of(list, json_object_get(document->value, "system"), &messages, err);
    if (!status)
        status = write_messages(messages, document, tok, out, err);
    json_decref(messages);
    return status;
}

/* An object without a "text" string. */
static kq_status from_object(const kq_json_node *document, const kq_tokenizer *tok, const output *out,
                             kq_error *err)
{
    static const char *const lists[] = {"messages", "conversations"};
    const kq_json_node string = kq_json_field(document, "text");
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        const kq_json_node list = kq_json_field(document, lists[i]);
        if (list.value)
            return list_of_messages(list, document, tok, out, err);
    }
    if (!kq_json_absent(string))
        return kq_json_unexpected(string, "a string", err);
    if (json_object_get(document->value, "prompt") && json_object_get(document->value, "completion"))
        return completion(document, tok, out, err);
    if (string.value)
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: key \"text\": found null, a string is expected; take such documents out",
                       document->file);
    return no_document(document, err);
}

kq_status kq_document_text(const json_t *value, const kq_tokenizer *tok, const char *where, const char **text,
                           size_t *size, char **owned, bool *is_conversation, kq_error *err)
{
    static const char expected[] =
        "a document (a string, or an object with \"text\", \"messages\" or \"conversations\")";
    const kq_json_node document = kq_json_root(value, where);
    const json_t *string = json_is_string(value) ? value : json_object_get(value, "text");
    const output out = {text, size, owned, is_conversation};
    *text = "";
    *size = 0;
    *owned = NULL;
    *is_conversation = false;
    if (json_is_string(string)) {
        *text = json_string_value(string);
        *size = json_string_length(string);
        return KQ_OK;
    }
    if (json_is_object(value))
        return from_object(&document, tok, &out, err);
    if (!json_is_array(value))
        return kq_json_unexpected(document, expected, err);
    if (!kq_is_conversation(value))
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: found a list that is no conversation, %s is expected",
                       where, expected);
    /* a bare list of messages: nothing around it says anything about tools */
    const kq_json_node nothing = kq_json_root(NULL, where);
    kq_json_node list = document;
    list.key = "messages";
    return list_of_messages(list, &nothing, tok, &out, err);
}
