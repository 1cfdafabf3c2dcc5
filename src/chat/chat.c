/* The chat formats of the supported families, written out. The model's template is only searched for markers, never executed. */
#include <string.h>

#include "chat/chat.h"
#include "io/tokenizer_internal.h"

static const char smollm_system[] = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
static const char qwen_system[] = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";

typedef struct kq_message { const char *role, *content; } kq_message;
typedef struct span { const char *s; size_t n; } span;

/* Append strings up to a NULL. */
static kq_status add(kq_tok_buf *out, kq_error *err, const char *s, ...) __attribute__((sentinel));
static kq_status add(kq_tok_buf *out, kq_error *err, const char *s, ...)
{
    va_list list;
    kq_status status = KQ_OK;
    va_start(list, s);
    for (; s && !status; s = va_arg(list, const char *))
        status = kq_tok_buf_add(out, s, strlen(s), err);
    va_end(list);
    return status;
}

static bool is(const kq_message *m, const char *role) { return !strcmp(m->role, role); }

/* Python's str.strip(): Unicode white space at both ends (and U+001C..1F, which Python counts too). */
static bool python_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

static span strip(const char *s)
{
    size_t n = strlen(s), valid = kq_utf8_valid(s, n), lo = 0, hi = n;
    if (valid < n)
        return (span){ s, n };
    while (lo < n && python_space(kq_utf8_get(s + lo)))
        lo += kq_utf8_size((unsigned char)s[lo]);
    while (hi > lo) {
        size_t at = hi - 1;
        while (at > lo && ((unsigned char)s[at] & 0xc0) == 0x80)
            at--;
        if (!python_space(kq_utf8_get(s + at)))
            break;
        hi = at;
    }
    return (span){ s + lo, hi - lo };
}

static span trim_newlines(span x, bool left, bool right)
{
    while (left && x.n && x.s[0] == '\n') {
        x.s++;
        x.n--;
    }
    while (right && x.n && x.s[x.n - 1] == '\n')
        x.n--;
    return x;
}

static kq_status roles_known(const kq_message *m, size_t n, kq_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (!is(&m[i], "system") && !is(&m[i], "user") && !is(&m[i], "assistant"))
            return kq_fail(err, KQ_E_UNSUPPORTED, "message %zu has role \"%.40s\" (system, user and assistant are supported)", i, m[i].role);
    return KQ_OK;
}

static kq_status chatml(const kq_message *m, size_t n, const char *system, kq_tok_buf *out, kq_error *err)
{
    kq_status status = KQ_OK;
    if (n && system && !is(&m[0], "system"))
        status = add(out, err, "<|im_start|>system\n", system, "<|im_end|>\n", NULL);
    for (size_t i = 0; i < n && !status; i++)
        status = add(out, err, "<|im_start|>", m[i].role, "\n", m[i].content, "<|im_end|>\n", NULL);
    return status ? status : add(out, err, "<|im_start|>assistant\n", NULL);
}

/* Qwen3: thinking is dropped from answers before the last question, and written out in answers after it. */
static kq_status qwen3(const kq_message *m, size_t n, kq_tok_buf *out, kq_error *err)
{
    static const char open[] = "<think>", close[] = "</think>", tool[] = "<tool_response>", tool_end[] = "</tool_response>";
    kq_status status = KQ_OK;
    size_t last = n ? n - 1 : 0;
    for (size_t i = n; i-- > 0;) {
        size_t size = strlen(m[i].content), te = sizeof tool_end - 1;
        bool response = !strncmp(m[i].content, tool, sizeof tool - 1) && size >= te && !strcmp(m[i].content + size - te, tool_end);
        if (is(&m[i], "user") && !response) {
            last = i;
            break;
        }
    }
    for (size_t i = 0; i < n && !status; i++) {
        span content = { m[i].content, strlen(m[i].content) }, thought = { "", 0 };
        if ((status = add(out, err, "<|im_start|>", m[i].role, "\n", NULL)))
            break;
        if (is(&m[i], "assistant")) {
            const char *first = strstr(m[i].content, close);
            if (first) {
                const char *final = first;
                for (const char *p; (p = strstr(final + 1, close));)
                    final = p;
                thought = trim_newlines((span){ m[i].content, (size_t)(first - m[i].content) }, false, true);
                for (const char *p; (p = memmem(thought.s, thought.n, open, sizeof open - 1));)
                    thought = (span){ p + sizeof open - 1, thought.n - (size_t)(p - thought.s) - (sizeof open - 1) };
                thought = trim_newlines(thought, true, true);
                final += sizeof close - 1;
                content = trim_newlines((span){ final, strlen(final) }, true, false);
            }
            if (i > last && (i + 1 == n || thought.n)) {
                content = trim_newlines(content, true, false);
                if ((status = add(out, err, "<think>\n", NULL)) || (status = kq_tok_buf_add(out, thought.s, thought.n, err)) ||
                    (status = add(out, err, "\n</think>\n\n", NULL)))
                    break;
            }
        }
        if (!(status = kq_tok_buf_add(out, content.s, content.n, err)))
            status = add(out, err, "<|im_end|>\n", NULL);
    }
    return status ? status : add(out, err, "<|im_start|>assistant\n", NULL);
}

static const char *token_text(const kq_tokenizer *tok, int32_t id, const char *otherwise)
{
    return id >= 0 && (size_t)id < tok->n_id && tok->token[id].off != UINT32_MAX ? tok->text.data + tok->token[id].off : otherwise;
}

static kq_status llama2(const kq_tokenizer *tok, const kq_message *m, size_t n, kq_tok_buf *out, kq_error *err)
{
    const char *bos = token_text(tok, tok->bos, "<s>"), *eos = token_text(tok, tok->eos, "</s>"), *system = NULL;
    kq_status status = KQ_OK;
    if (n && is(&m[0], "system")) {
        system = m[0].content;
        m++;
        n--;
    }
    for (size_t i = 0; i < n && !status; i++) {
        if (is(&m[i], "user") != (i % 2 == 0) || is(&m[i], "system"))
            return kq_fail(err, KQ_E_ARG, "this chat format wants user and assistant by turns after an optional system message; message %zu is \"%.40s\"",
                           i + (system != NULL), m[i].role);
        kq_tok_buf whole = { 0 };
        bool user = is(&m[i], "user");
        status = i == 0 && system ? add(&whole, err, "<<SYS>>\n", system, "\n<</SYS>>\n\n", m[i].content, NULL) : add(&whole, err, m[i].content, NULL);
        if (!status)
            status = kq_tok_buf_add(&whole, "", 1, err);
        if (!status)
            status = user ? add(out, err, bos, "[INST] ", NULL) : add(out, err, " ", NULL);
        if (!status) {
            span x = strip(whole.data);
            status = kq_tok_buf_add(out, x.s, x.n, err);
        }
        if (!status)
            status = user ? add(out, err, " [/INST]", NULL) : add(out, err, " ", eos, NULL);
        kq_free(whole.data);
    }
    return status;
}

static kq_status llama3(const kq_tokenizer *tok, const kq_message *m, size_t n, bool dated, kq_tok_buf *out, kq_error *err)
{
    kq_status status = add(out, err, n || dated ? token_text(tok, tok->bos, "<|begin_of_text|>") : "", NULL);
    if (!status && dated) {
        status = add(out, err, "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n", NULL);
        if (!status && n && is(&m[0], "system")) {
            span x = strip(m[0].content);
            status = kq_tok_buf_add(out, x.s, x.n, err);
            m++;
            n--;
        }
        if (!status)
            status = add(out, err, "<|eot_id|>", NULL);
    }
    for (size_t i = 0; i < n && !status; i++) {
        span x = strip(m[i].content);
        if (!(status = add(out, err, "<|start_header_id|>", m[i].role, "<|end_header_id|>\n\n", NULL)) && !(status = kq_tok_buf_add(out, x.s, x.n, err)))
            status = add(out, err, "<|eot_id|>", NULL);
    }
    return status ? status : add(out, err, "<|start_header_id|>assistant<|end_header_id|>\n\n", NULL);
}

static kq_status render(const kq_tokenizer *tok, const kq_message *messages, size_t n, char **text, kq_error *err)
{
    const char *t = tok->chat_template;
    kq_tok_buf out = { 0 };
    *text = NULL;
    if (!t)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: the model has no chat template (is it a base model?)", tok->path);
    kq_status status = roles_known(messages, n, err);
    if (status)
        return status;
    if (strstr(t, "<|start_header_id|>"))
        status = llama3(tok, messages, n, strstr(t, "Cutting Knowledge Date") != NULL, &out, err);
    else if (strstr(t, "<|im_start|>") && strstr(t, "</think>"))
        status = qwen3(messages, n, &out, err);
    else if (strstr(t, "<|im_start|>"))
        status = chatml(messages, n, strstr(t, smollm_system) ? smollm_system : strstr(t, qwen_system) ? qwen_system : NULL, &out, err);
    else if (strstr(t, "[INST]"))
        status = llama2(tok, messages, n, &out, err);
    else
        status = kq_fail(err, KQ_E_UNSUPPORTED, "%s: the chat template is none of ChatML (SmolLM2, Qwen), LLaMA-2 and LLaMA-3", tok->path);
    if (!status)
        status = kq_tok_buf_add(&out, "", 1, err);
    if (status)
        kq_free(out.data);
    else
        *text = out.data;
    return status;
}

kq_status kq_chat_render(const kq_tokenizer *tok, const kq_chat *chat, char **text, kq_error *err)
{
    const size_t n = json_array_size(chat->messages);
    kq_message *m = kq_calloc(n, sizeof *m);
    kq_status status = KQ_OK;
    *text = NULL;
    if (!m)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the conversation");
    if (json_array_size(chat->tools) || json_object_size(chat->arguments) || !chat->add_generation_prompt || chat->continue_final_message)
        status = kq_fail(err, KQ_E_UNSUPPORTED, "tools, template arguments and prefilled answers are not supported yet");
    for (size_t i = 0; i < n && !status; i++) {
        const json_t *message = json_array_get(chat->messages, i);
        m[i] = (kq_message){json_string_value(json_object_get(message, "role")), json_string_value(json_object_get(message, "content"))};
        if (!m[i].role || !m[i].content)
            status = kq_fail(err, KQ_E_ARG, "message %zu: role and content are wanted, both text", i);
    }
    if (!status)
        status = render(tok, m, n, text, err);
    kq_free(m);
    return status;
}
