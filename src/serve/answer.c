/* Answers as JSON. Log-probabilities come in two shapes, because OpenAI's two APIs have two; vLLM's clients
 * compare numbers with ==, so a number that appears twice in an answer is one double. */
#include "serve/answer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "serve/prepare.h"

static bool whole_characters(const char *s, size_t n)
{
    for (size_t at = 0; at < n;) {
        kq_utf8 c = kq_utf8_next(s + at, n - at);
        if (c.kind != KQ_UTF8_CHAR)
            return false;
        at += c.size;
    }
    return true;
}

static size_t characters(const char *s, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        k += ((unsigned char)s[i] & 0xC0) != 0x80;
    return k;
}

char *kq_token_key(const kq_tokenizer *tok, int32_t id)
{
    const char *bytes = "";
    size_t n = 0;
    kq_error err;
    if (kq_tokenizer_token_bytes(tok, id, &bytes, &n, &err))
        n = 0;
    const bool text = whole_characters(bytes, n) && !memchr(bytes, 0, n);
    char *out = kq_alloc(text ? n + 1 : 6 + 4 * n + 1, 1);
    if (!out)
        return NULL;
    if (text) {
        memcpy(out, bytes, n);
        out[n] = 0;
    } else {
        strcpy(out, "bytes:");
        for (size_t i = 0; i < n; i++)
            snprintf(out + 6 + 4 * i, 5, "\\x%02x", (unsigned char)bytes[i]);
    }
    return out;
}

static json_t *key_json(const kq_tokenizer *tok, int32_t id)
{
    char *key = kq_token_key(tok, id);
    json_t *j = key ? json_string_nocheck(key) : NULL;
    kq_free(key);
    return j;
}

/* JSON has no infinity: a token that cannot be is given the least number. */
static json_t *number(double x)
{
    return json_real(isfinite(x) ? x : -9999.0);
}

json_t *kq_answer_error(const kq_api_error *e)
{
    return json_pack("{s:{s:s, s:s, s:s?, s:s?}}", "error", "message", e->message, "type", e->type, "param",
                     *e->param ? e->param : NULL, "code", e->code);
}

/* ---- log-probabilities of /v1/completions ---- */

typedef struct lists {
    json_t *tokens, *logprobs, *top, *offsets;
} lists;

/* Entry i of the sequence's scores. Both the token's own number and the same token's number among the
 * most likely ones are the same double, so that readers may compare them with ==. The token itself is
 * always among them, as in OpenAI's answers. */
static bool add_entry(lists *l, const kq_answer_context *a, const kq_query *query, const kq_sequence *s,
                      size_t i, size_t offset)
{
    const size_t k = (size_t)query->request.n_top;
    const kq_score *own = &s->score[i];
    bool ok = !json_array_append_new(l->tokens, key_json(a->tok, own->id)) &&
              !json_array_append_new(l->offsets, json_integer((json_int_t)offset));
    if (isnan(own->logprob))
        return ok && !json_array_append_new(l->logprobs, json_null()) &&
               (!l->top || !json_array_append_new(l->top, json_null()));
    ok = ok && !json_array_append_new(l->logprobs, number(own->logprob));
    if (!l->top)
        return ok;
    json_t *top = json_object();
    for (size_t j = 0; j <= k && ok; j++) {
        const kq_score *t = j < k ? &s->top[i * k + j] : own;
        if (t->id < 0)
            continue;
        char *key = kq_token_key(a->tok, t->id);
        /* two with one text: the likelier */
        ok = key && (json_object_get(top, key) || !json_object_set_new_nocheck(top, key, number(t->logprob)));
        kq_free(key);
    }
    return !json_array_append_new(l->top, top) && ok;
}

/* Tokens [from, to) of the answer, with the prompt's before them when asked. NULL: out of memory. */
static json_t *legacy_logprobs(const kq_answer_context *a, const kq_query *query, const kq_sequence *s,
                               bool prompt, size_t from, size_t to)
{
    const size_t n_prompt = query->score_prompt ? s->n_prompt : 0,
                 *place = query->prompt[s->index / query->request.n].offset;
    lists l = {json_array(), json_array(), query->request.n_top ? json_array() : NULL, json_array()};
    const size_t offset = place ? place[n_prompt] : 0; /* where the answer begins */
    bool ok = true;
    for (size_t i = 0; prompt && i < n_prompt; i++)
        ok = ok && add_entry(&l, a, query, s, i, place ? place[i] : 0);
    for (size_t i = from; i < to; i++)
        ok =
            ok && add_entry(&l, a, query, s, n_prompt + i,
                            offset + characters(s->text.data, s->made_from[i] < s->text.size ? s->made_from[i]
                                                                                             : s->text.size));
    json_t *j = json_pack("{s:o, s:o, s:o, s:o}", "tokens", l.tokens, "token_logprobs", l.logprobs,
                          "top_logprobs", l.top ? l.top : json_null(), "text_offset", l.offsets);
    if (j && !ok) {
        json_decref(j);
        j = NULL;
    }
    return j;
}

/* ---- and of /v1/chat/completions ---- */

static json_t *chat_token(const kq_answer_context *a, const kq_score *t)
{
    const char *bytes = NULL;
    size_t n = 0;
    json_t *list = json_array();
    if (kq_tokenizer_token_bytes(a->tok, t->id, &bytes, &n, NULL))
        n = 0;
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer((unsigned char)bytes[i]));
    return json_pack("{s:o, s:o, s:o}", "token", key_json(a->tok, t->id), "logprob", number(t->logprob),
                     "bytes", list);
}

static json_t *chat_logprobs(const kq_answer_context *a, const kq_query *query, const kq_sequence *s,
                             size_t from, size_t to)
{
    const size_t k = (size_t)query->request.n_top;
    json_t *content = json_array();
    for (size_t i = from; i < to; i++) {
        json_t *token = chat_token(a, &s->score[i]), *top = json_array();
        for (size_t j = 0; j < k; j++)
            if (s->top[i * k + j].id >= 0)
                json_array_append_new(top, chat_token(a, &s->top[i * k + j]));
        json_object_set_new(token, "top_logprobs", top);
        if (json_array_append_new(content, token)) {
            json_decref(content);
            return NULL;
        }
    }
    return json_pack("{s:o}", "content", content);
}

/* ---- choices ---- */

/* Tokens of the answer whose text begins before byte `end`; those without text count with what is before
 * them. */
static size_t tokens_until(const kq_sequence *s, size_t end)
{
    size_t n = s->n_made;
    while (n && s->made_from[n - 1] >= end && (s->finish == KQ_FINISH_NOT || s->text.stopped))
        n--;
    /* An end token has no text, but its score belongs to the list: who asked for one token gets one
     * entry (lm-evaluation-harness counts on it). */
    return n == s->n_made && s->end_scored ? n + 1 : n;
}

static json_t *finish_json(const kq_sequence *s)
{
    return s->finish == KQ_FINISH_STOP     ? json_string("stop")
           : s->finish == KQ_FINISH_LENGTH ? json_string("length")
                                           : json_null();
}

static json_t *usage(const kq_query *query)
{
    size_t prompt = 0, made = 0, reused = 0;
    for (size_t i = 0; i < query->n_prompt; i++)
        prompt += query->prompt[i].n;
    for (size_t i = 0; i < query->n_seq; i++) {
        made += query->seq[i].n_made;
        reused += query->seq[i].n_reused;
    }
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", (json_int_t)prompt, "completion_tokens",
                     (json_int_t)made, "total_tokens", (json_int_t)(prompt + made), "prompt_tokens_details",
                     "cached_tokens", (json_int_t)reused);
}

static json_t *frame(const kq_answer_context *a, const kq_query *query, json_t *choices, bool part)
{
    const char *object = query->request.api == KQ_API_COMPLETIONS ? "text_completion"
                         : part                                   ? "chat.completion.chunk"
                                                                  : "chat.completion";
    return json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", a->id, "object", object, "created",
                     (json_int_t)a->created, "model", a->model, "choices", choices);
}

/* The text of a prompt, to echo it: as it was given, or as its ids read (special tokens written out).
 * NULL: out of memory. */
static char *prompt_text(const kq_answer_context *a, const kq_query *query, const kq_sequence *s,
                         size_t *size)
{
    const kq_prompt *given = &query->request.prompt[s->index / query->request.n];
    char *out = NULL;
    if (given->text) {
        if ((out = kq_alloc(given->size + 1, 1)))
            memcpy(out, given->text, given->size + 1);
        *size = given->size;
        return out;
    }
    return kq_prompt_text(a->tok, s->prompt, s->n_prompt, size);
}

static json_t *completion_text(const kq_answer_context *a, const kq_query *query, const kq_sequence *s,
                               bool prompt, size_t from, size_t to)
{
    size_t n = 0;
    char *before = NULL, *all;
    if (prompt && !(before = prompt_text(a, query, s, &n)))
        return NULL;
    if (!(all = kq_alloc(n + (to - from) + 1, 1))) {
        kq_free(before);
        return NULL;
    }
    if (n)
        memcpy(all, before, n);
    if (to > from)
        memcpy(all + n, s->text.data + from, to - from);
    json_t *j = json_stringn_nocheck(all, n + (to - from));
    kq_free(before);
    kq_free(all);
    return j;
}

json_t *kq_answer_whole(const kq_answer_context *a, const kq_query *query)
{
    const kq_api_request *r = &query->request;
    json_t *choices = json_array();
    for (size_t i = 0; i < query->n_seq; i++) {
        const kq_sequence *s = &query->seq[i];
        const size_t tokens = tokens_until(s, s->text.size);
        json_t *choice;
        if (r->api == KQ_API_CHAT)
            choice = json_pack("{s:i, s:{s:s, s:o, s:n}, s:o, s:o}", "index", (int)s->index, "message",
                               "role", "assistant", "content",
                               completion_text(a, query, s, false, 0, s->text.size), "refusal", "logprobs",
                               r->logprobs ? chat_logprobs(a, query, s, 0, tokens) : json_null(),
                               "finish_reason", finish_json(s));
        else
            choice = json_pack("{s:i, s:o, s:o, s:o}", "index", (int)s->index, "text",
                               completion_text(a, query, s, r->echo, 0, s->text.size), "logprobs",
                               r->logprobs ? legacy_logprobs(a, query, s, r->echo, 0, tokens) : json_null(),
                               "finish_reason", finish_json(s));
        if (json_array_append_new(choices, choice)) {
            json_decref(choices);
            return NULL;
        }
    }
    json_t *j = frame(a, query, choices, false);
    if (j && json_object_set_new(j, "usage", usage(query))) {
        json_decref(j);
        return NULL;
    }
    return j;
}

json_t *kq_answer_part(const kq_answer_context *a, const kq_query *query, kq_sequence *s, bool *none)
{
    const kq_api_request *r = &query->request;
    const bool chat = r->api == KQ_API_CHAT, first = s->sent_text == SIZE_MAX;
    const size_t from = first ? 0 : s->sent_text, to = s->text.safe;
    const bool start = first && (chat || r->echo), last = s->finish && !s->sent_finish;
    size_t tokens = tokens_until(s, s->finish ? s->text.size : to);
    *none = false;
    if (s->finish == KQ_FINISH_ERROR || s->sent_finish || !(start || last || to > from)) {
        *none = true;
        return NULL;
    }
    if (start && r->echo && query->score_prompt &&
        s->n_score < s->n_prompt) { /* the prompt goes out when it has its scores */
        *none = true;
        return NULL;
    }
    if (tokens < s->sent_tokens)
        tokens = s->sent_tokens;
    json_t *choice;
    if (chat) {
        json_t *delta = json_object();
        if (start)
            json_object_set_new(delta, "role", json_string("assistant"));
        if (start || to > from)
            json_object_set_new(delta, "content", completion_text(a, query, s, false, from, to));
        choice = json_pack("{s:i, s:o, s:o, s:o}", "index", (int)s->index, "delta", delta, "logprobs",
                           r->logprobs && tokens > s->sent_tokens
                               ? chat_logprobs(a, query, s, s->sent_tokens, tokens)
                               : json_null(),
                           "finish_reason", finish_json(s));
    } else {
        choice =
            json_pack("{s:i, s:o, s:o, s:o}", "index", (int)s->index, "text",
                      completion_text(a, query, s, start, from, to), "logprobs",
                      r->logprobs ? legacy_logprobs(a, query, s, start, s->sent_tokens, tokens) : json_null(),
                      "finish_reason", finish_json(s));
    }
    s->sent_text = to;
    s->sent_tokens = tokens;
    s->sent_finish = s->finish != KQ_FINISH_NOT;
    json_t *j = choice ? frame(a, query, json_pack("[o]", choice), true) : NULL;
    if (j && r->include_usage)
        json_object_set_new(j, "usage", json_null());
    return j;
}

json_t *kq_answer_usage_part(const kq_answer_context *a, const kq_query *query)
{
    json_t *j = frame(a, query, json_array(), true);
    if (j && json_object_set_new(j, "usage", usage(query))) {
        json_decref(j);
        return NULL;
    }
    return j;
}
