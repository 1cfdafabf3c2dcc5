/* Runs a conversation through the model's own template, as transformers' apply_chat_template does
 * (tokenization_utils_base.py and utils/chat_template_utils.py of 5.23): it chooses the template, gives it
 * the messages in the form that it expects, and finds where a prefilled answer ends. */
#include "chat/chat.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "base/warn.h"
#include "format/json.h"
#include "jinja/jinja.h"
#include "pyvalue/unicode.h"

/* put behind a prefilled answer; the rendered text is cut where it is found */
static const char tag[] = "CONTINUE_FINAL_MESSAGE_TAG ";
/* templates read the same value under one of these names */
static const char *const reasoning[] = {"reasoning_content", "thinking", "reasoning"};

static kq_status no_memory(kq_error *err)
{
    return kq_fail(err, KQ_E_MEMORY, "out of memory: the conversation");
}

/* ---- which template ---- */

static kq_status choose(const kq_tokenizer *tok, const kq_chat *chat, const char **name,
                        const json_t **source, kq_error *err)
{
    const json_t *all = kq_tokenizer_chat_templates(tok);
    if (!json_object_size(all))
        return kq_fail(err, KQ_E_UNSUPPORTED, "the model has no chat template (is it a base model?)");
    *name = "tool_use";
    if (!chat->tools || !(*source = json_object_get(all, *name)))
        *source = json_object_get(all, *name = "default");
    if (*source)
        return KQ_OK;
    return kq_fail(err, KQ_E_UNSUPPORTED,
                   "the model has %zu chat templates, and none is named \"default\" (one is \"%.60s\")",
                   json_object_size(all), json_object_iter_key(json_object_iter((json_t *)all)));
}

/* ---- what it sees ---- */

/* A copy of a message without the fields that are null, and with its reasoning under all three names. */
static json_t *plain_message(const json_t *m)
{
    const json_t *thought = NULL;
    json_t *out = json_object(), *v;
    const char *key;
    bool ok = out != NULL;
    for (size_t i = 0; i < 3 && !thought; i++) {
        const json_t *found = json_object_get(m, reasoning[i]);
        thought = json_is_null(found) ? NULL : found;
    }
    if (thought)
        ok = ok && !json_object_set(out, "thinking", (json_t *)thought);
    json_object_foreach((json_t *)m, key, v)
        if (!json_is_null(v))
            ok = ok && !json_object_set(out, key, v);
    if (thought)
        ok = ok && !json_object_set(out, "reasoning_content", (json_t *)thought);
    if (ok)
        return out;
    json_decref(out);
    return NULL;
}

static kq_status plain_messages(const json_t *messages, json_t **out, kq_error *err)
{
    const json_t *m;
    size_t i;
    if (!json_array_size(messages))
        return kq_fail(err, KQ_E_ARG, "a conversation without messages");
    if (!(*out = json_array()))
        return no_memory(err);
    json_array_foreach((json_t *)messages, i, m) {
        if (!json_is_object(m))
            return kq_fail(err, KQ_E_ARG, "message %zu is not an object with role and content", i);
        if (json_array_append_new(*out, plain_message(m)))
            return no_memory(err);
    }
    return KQ_OK;
}

static json_t *tagged(const json_t *text)
{
    const size_t n = json_string_length(text);
    char *copy = kq_alloc(n + sizeof tag, 1);
    if (!copy)
        return NULL;
    memcpy(copy, json_string_value(text), n);
    memcpy(copy + n, tag, sizeof tag);
    json_t *out = json_stringn_nocheck(copy, n + sizeof tag - 1);
    kq_free(copy);
    return out;
}

/* Put the tag behind the text of the last message, or behind its last part that has a text. *text: the text
 * without the tag, borrowed from the caller's messages. */
static kq_status mark_final(json_t *messages, const char *source, const json_t **text, kq_error *err)
{
    json_t *last = json_array_get(messages, json_array_size(messages) - 1),
           *content = json_object_get(last, "content");
    if (!content)
        return kq_fail(err, KQ_E_ARG, "the last message has no content that could be continued");
    if (!strstr(source, "content"))
        return kq_fail(err, KQ_E_ARG,
                       "the chat template does not read a message's content; it cannot be continued");
    if (json_is_string(content)) {
        *text = content;
        return json_object_set_new(last, "content", tagged(content)) ? no_memory(err) : KQ_OK;
    }
    for (size_t i = json_array_size(content); i-- > 0;) {
        const json_t *part = json_array_get(content, i), *found = json_object_get(part, "text");
        if (!found)
            continue;
        if (!json_is_string(found))
            return kq_fail(err, KQ_E_ARG, "the last message's text is not a string; it cannot be continued");
        json_t *parts = json_copy(content), *copy = json_copy((json_t *)part);
        *text = found;
        if (!parts || !copy || json_object_set_new(copy, "text", tagged(found)) ||
            json_array_set(parts, i, copy) || json_object_set(last, "content", parts)) {
            json_decref(parts);
            json_decref(copy);
            return no_memory(err);
        }
        json_decref(parts);
        json_decref(copy);
        return KQ_OK;
    }
    return kq_fail(err, KQ_E_ARG, "the last message has no text that could be continued");
}

static kq_status check_tools(const json_t *tools, kq_error *err)
{
    for (size_t i = 0; i < json_array_size(tools); i++)
        if (!json_is_object(json_array_get(tools, i)))
            return kq_fail(err, KQ_E_ARG, "tool %zu is not an object (a JSON schema)", i);
    return !tools || json_is_array(tools) ? KQ_OK : kq_fail(err, KQ_E_ARG, "tools are not a list");
}

/* Refuse arguments with names that apply_chat_template uses itself. */
static kq_status check_arguments(const json_t *arguments, kq_error *err)
{
    static const char *const taken[] = {"messages",
                                        "conversation",
                                        "tools",
                                        "chat_template",
                                        "add_generation_prompt",
                                        "continue_final_message",
                                        "tokenize",
                                        "sanitize_control_tokens",
                                        "padding",
                                        "truncation",
                                        "max_length",
                                        "return_tensors",
                                        "return_dict",
                                        "return_assistant_tokens_mask",
                                        "tokenizer_kwargs"};
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
        if (json_object_get(arguments, taken[i]))
            return kq_fail(err, KQ_E_ARG, "template argument %s: this name is not free", taken[i]);
    const json_t *documents = json_object_get(arguments, "documents");
    for (size_t i = 0; i < json_array_size(documents); i++)
        if (!json_is_object(json_array_get(documents, i)))
            return kq_fail(err, KQ_E_ARG, "template argument documents: entry %zu is not an object", i);
    return !documents || json_is_null(documents) || json_is_array(documents)
               ? KQ_OK
               : kq_fail(err, KQ_E_ARG, "template argument documents: not a list");
}

static kq_status variables(const kq_tokenizer *tok, const kq_chat *chat, json_t *messages, json_t **out,
                           kq_error *err)
{
    const json_t *special = kq_tokenizer_special_tokens(tok);
    json_t *v = *out = json_object();
    if (!v || (special && json_object_update(v, (json_t *)special)) ||
        json_object_set_new(v, "documents", json_null()) ||
        (chat->arguments && json_object_update(v, (json_t *)chat->arguments)) ||
        json_object_set(v, "messages", messages) ||
        json_object_set(v, "tools", chat->tools ? (json_t *)chat->tools : json_null()) ||
        json_object_set_new(v, "add_generation_prompt", json_boolean(chat->add_generation_prompt)))
        return no_memory(err);
    return KQ_OK;
}

/* Warn of tools and arguments that the template does not read. They change nothing; transformers ignores them
 * too, but without a word. */
static void warn_unread(const kq_jinja *t, const char *name, const kq_chat *chat)
{
    const char *key;
    json_t *v;
    if (json_array_size(chat->tools) && !kq_jinja_names(t, "tools"))
        kq_warn("%s reads no tools: they are left out of the prompt", name);
    json_object_foreach((json_t *)chat->arguments, key, v)
        if (!kq_jinja_names(t, key))
            kq_warn("%s reads no variable \"%.60s\": the argument changes nothing", name, key);
}

/* ---- where a prefilled answer ends ---- */

typedef struct span {
    const char *p;
    size_t n;
} span;

/* How many bytes the white space character at s [n] has (Python's str.isspace); 0: there is none. */
static size_t space_at(const char *s, size_t n)
{
    size_t size = 0;
    return n && kq_utf8_next(s, n).kind == KQ_UTF8_CHAR && kq_py_is_space(kq_py_code_point(s, &size)) ? size
                                                                                                      : 0;
}

static span strip(span x, bool left)
{
    for (size_t size; left && (size = space_at(x.p, x.n));) {
        x.p += size;
        x.n -= size;
    }
    while (x.n) {
        size_t at = x.n - 1;
        while (at && ((unsigned char)x.p[at] & 0xc0) == 0x80)
            at--;
        if (space_at(x.p + at, x.n - at) != x.n - at)
            break;
        x.n = at;
    }
    return x;
}

static kq_status cut_at_tag(char *text, size_t *size, const json_t *final, kq_error *err)
{
    const size_t bare = sizeof tag - 2; /* the tag without the space at its end */
    const span wanted = strip((span){json_string_value(final), json_string_length(final)}, true);
    size_t at = *size >= bare ? *size - bare + 1 : 0;
    while (at-- > 0)
        if (!memcmp(text + at, tag, bare))
            break;
    if (at == SIZE_MAX || (wanted.n && !memmem(text, *size, wanted.p, wanted.n)))
        return kq_fail(err, KQ_E_ARG,
                       "the chat template leaves out or changes the last message; it cannot be continued");
    const bool spaced = at + bare < *size && text[at + bare] == ' ';
    *size = spaced ? at : strip((span){text, at}, false).n;
    text[*size] = 0;
    return KQ_OK;
}

/* ---- the whole ---- */

/* The local time; or that of SOURCE_DATE_EPOCH (seconds since 1970) where it is set, so that runs can be
 * repeated. */
static struct tm local_time(void)
{
    const char *fixed = getenv("SOURCE_DATE_EPOCH");
    time_t now = time(NULL);
    struct tm tm = {0};
    char *end;
    if (fixed && *fixed) {
        const long long seconds = strtoll(fixed, &end, 10);
        if (!*end && seconds >= 0 && seconds < 1LL << 36)
            now = (time_t)seconds;
    }
    localtime_r(&now, &tm);
    return tm;
}

static kq_status run(const kq_tokenizer *tok, const kq_chat *chat, const char *name, const json_t *source,
                     char **text, size_t *size, kq_error *err)
{
    json_t *messages = NULL, *vars = NULL;
    const json_t *final = NULL;
    json_t *kept = NULL;
    kq_jinja *t = NULL;
    const struct tm now = local_time();
    kq_status status;
    if ((status = kq_jinja_parse(json_string_value(source), json_string_length(source), name, &t, err)) ||
        (status = plain_messages(chat->messages, &messages, err)))
        goto out;
    if (chat->continue_final_message) {
        /* `final` points into it */
        kept =
            json_incref(json_object_get(json_array_get(messages, json_array_size(messages) - 1), "content"));
        if ((status = mark_final(messages, json_string_value(source), &final, err)))
            goto out;
    }
    if ((status = variables(tok, chat, messages, &vars, err)) ||
        (status = kq_jinja_render(t, vars, &now, chat->stop, chat->stop_ctx, text, size, err)))
        goto out;
    if (final)
        status = cut_at_tag(*text, size, final, err);
    if (!status && memchr(*text, 0, *size))
        status = kq_fail(err, KQ_E_ARG, "the conversation has a NUL character");
    if (!status)
        warn_unread(t, name, chat);
out:
    kq_jinja_free(t);
    json_decref(messages);
    json_decref(vars);
    json_decref(kept);
    return status;
}

kq_status kq_chat_render(const kq_tokenizer *tok, const kq_chat *chat, char **text, kq_error *err)
{
    const json_t *source = NULL;
    const char *which = NULL;
    char name[120];
    size_t size;
    kq_status status;
    *text = NULL;
    if (chat->continue_final_message && chat->add_generation_prompt)
        return kq_fail(err, KQ_E_ARG, "an answer is either continued or begun, not both");
    if ((status = choose(tok, chat, &which, &source, err)) || (status = check_tools(chat->tools, err)) ||
        (status = check_arguments(chat->arguments, err)))
        return status;
    snprintf(name, sizeof name,
             strcmp(which, "default") ? "the chat template \"%.60s\"" : "the chat template", which);
    if ((status = run(tok, chat, name, source, text, &size, err))) {
        kq_free(*text);
        *text = NULL;
    }
    return status;
}

kq_status kq_chat_check(const kq_tokenizer *tok, kq_error *err)
{
    const kq_chat plain = {0};
    const json_t *source;
    const char *which;
    kq_jinja *t = NULL;
    kq_status status = choose(tok, &plain, &which, &source, err);
    if (!status)
        status = kq_jinja_parse(json_string_value(source), json_string_length(source), "the chat template",
                                &t, err);
    kq_jinja_free(t);
    return status;
}

bool kq_chat_takes_tools(const kq_tokenizer *tok)
{
    const json_t *none = json_array(), *source = NULL; /* any list of tools gives the same choice */
    const kq_chat with_tools = {.tools = none};
    const char *which;
    kq_jinja *t = NULL;
    const bool takes = !choose(tok, &with_tools, &which, &source, NULL) &&
                       !kq_jinja_parse(json_string_value(source), json_string_length(source), "", &t, NULL) &&
                       kq_jinja_names(t, "tools");
    kq_jinja_free(t);
    json_decref((json_t *)none);
    return takes;
}

static size_t back_over(const char *s, size_t at, const char *letters)
{
    while (at && (isalnum((unsigned char)s[at - 1]) || (s[at - 1] && strchr(letters, s[at - 1]))))
        at--;
    return at;
}

static size_t back_over_word(const char *s, size_t at, const char *word)
{
    const size_t n = strlen(word);
    while (at && strchr(" \t\r\n", s[at - 1]))
        at--;
    return at >= n && !memcmp(s + at - n, word, n) ? at - n : SIZE_MAX;
}

/* Does a loop walk through what the name that ends at s[at] stands for, as in: for ITEM
 * in message['NAME']? */
static bool walked(const char *s, size_t at)
{
    at = back_over(s, at, "_.'\"[]-");
    if ((at = back_over_word(s, at, "in")) == SIZE_MAX || !at || !strchr(" \t\r\n", s[at - 1]) ||
        back_over_word(s, at, "") == at)
        return false;
    at = back_over(s, back_over_word(s, at, ""), "_");
    return back_over_word(s, at, "for") != SIZE_MAX;
}

static bool starts(const char *s, const char *with)
{
    return !strncmp(s, with, strlen(with));
}

kq_chat_ways kq_chat_ways_of(const kq_tokenizer *tok, const json_t *tools)
{
    const kq_chat chat = {.tools = tools};
    const json_t *source = NULL;
    const char *which;
    kq_chat_ways ways = {false, false};
    if (choose(tok, &chat, &which, &source, NULL))
        return ways;
    const char *s = json_string_value(source);
    for (const char *p = s; (p = strpbrk(p, "cat")); p++) {
        const size_t n = starts(p, "content") ? 7 : starts(p, "arguments") ? 9 : starts(p, "type") ? 4 : 0;
        if (!n)
            continue;
        const char *end = p + n;
        end += starts(end, "']") || starts(end, "\"]") ? 2 : 0;
        if (n == 7 && !strchr(".([_", *end) && !isalnum((unsigned char)*end))
            ways.parts = ways.parts || walked(s, (size_t)(p - s));
        end += strspn(end, " ");
        if (n == 4 && starts(end, "==")) { /* a comparison as in part.type == 'text' */
            end += 2 + strspn(end + 2, " ");
            ways.parts = ways.parts || ((*end == '\'' || *end == '"') &&
                                        (starts(end + 1, "text") || starts(end + 1, "image")));
        }
        if (n == 9 && starts(end, "is ")) {
            end += starts(end, "is not ") ? 7 : 3;
            ways.strings = ways.strings || starts(end, "string") || starts(end, "mapping");
        }
    }
    return ways;
}

kq_status kq_chat_argument(json_t **arguments, const char *text, kq_error *err)
{
    const char *eq = strchr(text, '=');
    json_t *v = NULL;
    char key[100];
    if (!eq || eq == text || (size_t)(eq - text) >= sizeof key)
        return kq_fail(err, KQ_E_ARG,
                       "template argument \"%.60s\": KEY=VALUE is wanted, for example enable_thinking=false",
                       text);
    memcpy(key, text, (size_t)(eq - text));
    key[eq - text] = 0;
    if (!strcmp(eq + 1, "True") || !strcmp(eq + 1, "False") || !strcmp(eq + 1, "None"))
        return kq_fail(
            err, KQ_E_ARG,
            "template argument %s: the value is JSON: true, false or null (\"\\\"%s\\\"\" for the text)", key,
            eq + 1);
    const kq_status json = kq_json_parse(eq + 1, strlen(eq + 1), key, &v, NULL);
    errno = 0;
    if (json == KQ_E_FORMAT && !(v = json_string(eq + 1)) && errno != ENOMEM)
        return kq_fail(err, KQ_E_ARG, "template argument %s: the value is not UTF-8", key);
    if (!v || (!*arguments && !(*arguments = json_object())))
        return kq_fail(err, KQ_E_MEMORY, "out of memory: template argument %s", key);
    if (json_object_set_new(*arguments, key, v))
        return kq_fail(err, errno == ENOMEM ? KQ_E_MEMORY : KQ_E_ARG,
                       "template argument %s: the name is not UTF-8, or out of memory", key);
    return check_arguments(*arguments, err);
}
