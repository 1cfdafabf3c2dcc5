/* Tokens and chat of a kq_model: text into ids and back, and messages into a prompt. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/locale.h"
#include "base/mem.h"
#include "base/options.h"
#include "chat/chat.h"
#include "format/json.h"
#include "generate/generate.h"
#include "host/model.h"

kq_status kq_model_open_tokenizer(kq_model *m, kq_error *err)
{
    return m->tok ? KQ_OK : kq_tokenizer_open(kq_model_file_source(m->file), &m->tok, err);
}

kq_status kq_model_tokenize(kq_model *m, const char *text, size_t size, bool add_special, bool parse_special,
                            int32_t **ids, size_t *n_ids, kq_error *err)
{
    KQ_C_LOCALE;
    *ids = NULL;
    *n_ids = 0;
    const kq_status status = kq_model_open_tokenizer(m, err);
    return status ? status
                  : kq_tokenizer_encode(m->tok, text, size, add_special, parse_special, ids, n_ids, err);
}

kq_status kq_model_detokenize(kq_model *m, const int32_t *ids, size_t n_ids, bool skip_special, char **text,
                              size_t *size, kq_error *err)
{
    KQ_C_LOCALE;
    *text = NULL;
    *size = 0;
    const kq_status status = kq_model_open_tokenizer(m, err);
    return status ? status : kq_tokenizer_decode(m->tok, ids, n_ids, skip_special, text, size, err);
}

kq_status kq_model_token_bytes(kq_model *m, int32_t id, const char **bytes, size_t *size, kq_error *err)
{
    KQ_C_LOCALE;
    *bytes = NULL;
    *size = 0;
    const kq_status status = kq_model_open_tokenizer(m, err);
    return status ? status : kq_tokenizer_token_bytes(m->tok, id, bytes, size, err);
}

int32_t kq_model_token(kq_model *m, kq_token_role role)
{
    KQ_C_LOCALE;
    if (kq_model_open_tokenizer(m, NULL))
        return -1;
    switch (role) {
    case KQ_TOKEN_BEGIN: return kq_tokenizer_bos(m->tok);
    case KQ_TOKEN_END: return kq_tokenizer_eos(m->tok);
    case KQ_TOKEN_DOCUMENT_END: return kq_tokenizer_document_end(m->tok);
    }
    return -1;
}

int32_t kq_model_token_id(kq_model *m, const char *token)
{
    KQ_C_LOCALE;
    return kq_model_open_tokenizer(m, NULL) ? -1 : kq_tokenizer_id(m->tok, token);
}

bool kq_model_is_special(kq_model *m, int32_t id)
{
    KQ_C_LOCALE;
    return !kq_model_open_tokenizer(m, NULL) && kq_tokenizer_is_special(m->tok, id);
}

bool kq_model_ends(kq_model *m, int32_t id)
{
    KQ_C_LOCALE;
    return !kq_model_open_tokenizer(m, NULL) && kq_is_end(m->cfg, m->tok, id);
}

/* ---- chat ---------------------------------------------------------------------------------------------- */

void kq_chat_options_init(kq_chat_options *opt, size_t size)
{
    const kq_chat_options defaults = {0};
    kq_options_fill(opt, size, &defaults, sizeof defaults);
}

/* The options as the chat room has them; the JSON values are the caller's. */
static kq_status read_chat(const kq_chat_options *given, kq_chat_options *opt, json_t **arguments,
                           json_t **tools, kq_error *err)
{
    kq_status status = KQ_OPTIONS_READ(kq_chat_options, opt, given, err);
    for (size_t i = 0; i < opt->n_argument && !status; i++)
        status = kq_chat_argument(arguments, opt->argument[i], err);
    if (!status && opt->tools_json) {
        json_error_t wrong;
        status =
            kq_json_load(opt->tools_json, strlen(opt->tools_json), JSON_REJECT_DUPLICATES, tools, &wrong);
        if (status || !json_is_array(*tools))
            status = kq_fail(err, status == KQ_E_MEMORY ? status : KQ_E_ARG, "the tools of a chat: %s",
                             status ? wrong.text : "an array is expected");
    }
    return status;
}

/* Messages [n] as a list of the chat room; *list is the caller's also after an error. */
static kq_status list_messages(const kq_message *messages, size_t n, json_t **list, kq_error *err)
{
    *list = json_array();
    if (!*list)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the messages");
    for (size_t i = 0; i < n; i++) {
        const kq_message *m = &messages[i];
        if (!m->role || !m->content)
            return kq_fail(err, KQ_E_ARG, "message %zu: its %s is NULL", i, m->role ? "content" : "role");
        errno = 0;
        if (json_array_append_new(*list, json_pack("{s:s, s:s}", "role", m->role, "content", m->content)))
            return errno == ENOMEM
                       ? kq_fail(err, KQ_E_MEMORY, "out of memory: the messages")
                       : kq_fail(err, KQ_E_ARG, "message %zu, of %s: it is not UTF-8", i, m->role);
    }
    return KQ_OK;
}

kq_status kq_model_check_chat(kq_model *m, const kq_chat_options *given, kq_error *err)
{
    KQ_C_LOCALE;
    kq_chat_options opt;
    json_t *arguments = NULL, *tools = NULL;
    kq_status status = read_chat(given, &opt, &arguments, &tools, err);
    if (!status && !(status = kq_model_open_tokenizer(m, err)))
        status = kq_chat_check(m->tok, err);
    json_decref(arguments);
    json_decref(tools);
    return status;
}

kq_status kq_model_chat_prompt(kq_model *m, const kq_message *messages, size_t n,
                               const kq_chat_options *given, char **prompt, kq_error *err)
{
    KQ_C_LOCALE;
    kq_chat_options opt;
    json_t *arguments = NULL, *tools = NULL, *list = NULL;
    *prompt = NULL;
    kq_status status = read_chat(given, &opt, &arguments, &tools, err);
    if (!status)
        status = list_messages(messages, n, &list, err);
    const kq_chat chat = {.messages = list,
                          .tools = tools,
                          .arguments = arguments,
                          .add_generation_prompt = !opt.continue_last,
                          .continue_final_message = opt.continue_last};
    if (!status && !(status = kq_model_open_tokenizer(m, err)))
        status = kq_chat_render(m->tok, &chat, prompt, err);
    json_decref(list);
    json_decref(arguments);
    json_decref(tools);
    return status;
}
