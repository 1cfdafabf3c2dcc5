/* From texts to ids. It runs on the threads of work.h and may take long (a template, a text of megabytes), so
 * everything in it that takes time asks whether the client is still there. */
#include "serve/prepare.h"

#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "base/time.h"
#include "chat/chat.h"
#include "base/utf8.h"
#include "request/messages.h"

/* characters that a normalizer may have written otherwise in a row, on both sides together */
enum { RESYNC = 24 };

static bool ended(void *ctx)
{
    kq_query *q = ctx;
    return atomic_load(&q->give_up) || (q->deadline_s > 0 && kq_now_s() > q->deadline_s);
}

bool kq_query_in_time(kq_query *q, kq_api_error *e)
{
    if (!ended(q))
        return true;
    return atomic_load(&q->give_up)
               ? kq_api_fail(e, 503, NULL, "cancelled", "the request was cancelled")
               : kq_api_fail(e, 503, NULL, "timeout", "the request took longer than the server's limit");
}

/* The API's error for one of the library's. */
static bool translate_error(const kq_error *err, kq_query *q, kq_api_error *e)
{
    const char *param = q->request.messages ? "messages" : "prompt";
    switch (err->status) {
    case KQ_E_INTERRUPTED: return kq_query_in_time(q, e); /* it is not */
    case KQ_E_MEMORY: return kq_api_no_memory(e);
    case KQ_E_ARG:
    case KQ_E_UNSUPPORTED:
    case KQ_E_FORMAT: return kq_api_fail(e, 400, param, "invalid_value", "%.480s", err->message);
    default: return kq_api_fail(e, 500, NULL, "server_error", "%.480s", err->message);
    }
}

static bool lacks_content(const json_t *messages)
{
    for (size_t i = 0; i < json_array_size(messages); i++)
        if (!json_object_get(json_array_get(messages, i), "content"))
            return true;
    return false;
}

static kq_status chat_ids(const kq_tokenizer *tok, const kq_api_request *r, const kq_encode_options *opt,
                          kq_prompt *out, kq_error *err)
{
    const kq_chat_ways ways = kq_chat_ways_of(tok, r->tools);
    kq_chat chat = {.tools = r->tools,
                    .arguments = r->template_arguments,
                    .add_generation_prompt = r->add_generation_prompt,
                    .continue_final_message = r->continue_final_message,
                    .stop = opt->stop,
                    .stop_ctx = opt->ctx};
    if (r->tools && kq_tokenizer_chat_template(tok) && !kq_chat_takes_tools(tok))
        return kq_fail(err, KQ_E_UNSUPPORTED, "'tools': the model's chat template has no place for tools");
    char *text = NULL;
    kq_status st = KQ_E_ARG;
    for (int empty = 0; empty < 2 && st == KQ_E_ARG;
         empty++) { /* a template that fails over a content that is not there gets an empty one */
        json_t *messages = kq_api_template_messages(
            r->messages, &(kq_message_form){.parts = ways.parts, .strings = ways.strings, .empty = empty});
        chat.messages = messages;
        st = messages ? kq_chat_render(tok, &chat, &text, err)
                      : kq_fail(err, KQ_E_MEMORY, "out of memory: the conversation");
        json_decref(messages);
        if (!lacks_content(r->messages))
            break;
    }
    if (!st) /* the template writes the beginning token */
        st = kq_tokenizer_encode_with(tok, text, strlen(text), opt, &out->ids, &out->n, err);
    kq_free(text);
    return st;
}

static bool one_prompt(const kq_tokenizer *tok, kq_query *q, const kq_prompt *given, size_t shown,
                       kq_prompt *out, kq_api_error *e)
{
    const kq_encode_options opt = {.add_special = given && q->request.add_special_tokens,
                                   .parse_special = true,
                                   .stop = ended,
                                   .ctx = q};
    kq_error err;
    kq_status st = KQ_OK;
    if (!given)
        st = chat_ids(tok, &q->request, &opt, out, &err);
    else if (given->text)
        st = kq_tokenizer_encode_with(tok, given->text, given->size, &opt, &out->ids, &out->n, &err);
    else if (!(out->ids = kq_alloc(given->n ? given->n : 1, sizeof *out->ids)))
        return kq_api_no_memory(e);
    else
        memcpy(out->ids, given->ids, (out->n = given->n) * sizeof *out->ids);
    if (st)
        return translate_error(&err, q, e);
    if (out->n > shown || !given)
        return true;
    if (given->text)
        return (out->offset =
                    kq_prompt_offsets(tok, given->text, given->size, opt.add_special, out->ids, out->n)) ||
               kq_api_no_memory(e);
    size_t size = 0;
    char *text = kq_prompt_text(tok, out->ids, out->n, &size);
    out->offset = text ? kq_prompt_offsets(tok, text, size, false, out->ids, out->n) : NULL;
    kq_free(text);
    return out->offset || kq_api_no_memory(e);
}

bool kq_query_prepare(const kq_tokenizer *tok, kq_query *q, size_t shown, kq_api_error *e)
{
    const kq_api_request *r = &q->request;
    const size_t n = r->messages ? 1 : r->n_prompt;
    if (!(q->prompt = kq_calloc(n, sizeof *q->prompt)))
        return kq_api_no_memory(e);
    q->n_prompt = n;
    for (size_t i = 0; i < n; i++)
        if (!kq_query_in_time(q, e) ||
            !one_prompt(tok, q, r->messages ? NULL : &r->prompt[i], shown, &q->prompt[i], e))
            return false;
    return true;
}

bool kq_query_fits(const kq_api_limits *limits, const kq_query *q, kq_api_error *e)
{
    const char *param = q->request.api == KQ_API_CHAT ? "messages" : "prompt";
    for (size_t i = 0; i < q->n_prompt; i++) {
        const size_t n = q->prompt[i].n;
        if (!n)
            return kq_api_fail(e, 400, param, "invalid_value", "'%s' has no tokens; at least one is needed",
                               param);
        if (n > limits->context || (n == limits->context && q->request.max_tokens))
            return kq_api_fail(e, 400, param, "context_length_exceeded",
                               "This model's maximum context length is %zu tokens; '%s' has %zu, "
                               "and one new token at least is asked for.",
                               limits->context, param, n);
        for (size_t t = 0; t < n; t++)
            if (q->prompt[i].ids[t] < 0 || (size_t)q->prompt[i].ids[t] >= limits->vocab_size)
                return kq_api_fail(e, 400, param, "invalid_value",
                                   "a token of '%s' is not in the model's vocabulary", param);
    }
    return true;
}

void kq_query_stops(const kq_tokenizer *tok, kq_api_request *r)
{
    for (size_t i = 0; i < r->n_stop && r->n_stop_id < KQ_API_MAX_STOP; i++) {
        int32_t id = kq_tokenizer_id(tok, r->stop[i]);
        char *text = NULL;
        size_t n = 1;
        if (id >= 0 && !kq_tokenizer_decode(tok, &id, 1, true, &text, &n, NULL) && n == 0)
            r->stop_id[r->n_stop_id++] = id;
        kq_free(text);
    }
}

char *kq_prompt_text(const kq_tokenizer *tok, const int32_t *ids, size_t n_ids, size_t *size)
{
    char *raw = NULL, *out = NULL;
    size_t n = 0, at = 0, to = 0;
    if (kq_tokenizer_decode(tok, ids, n_ids, false, &raw, &n, NULL) || !(out = kq_alloc(3 * n + 1, 1))) {
        kq_free(raw);
        return NULL;
    }
    while (at < n) { /* ids need not end with whole characters */
        kq_utf8 c = kq_utf8_next(raw + at, n - at);
        if (c.kind == KQ_UTF8_CHAR) {
            memcpy(out + to, raw + at, c.size);
            to += c.size;
        } else {
            memcpy(out + to, "\xEF\xBF\xBD", 3);
            to += 3;
        }
        at += c.size;
    }
    out[to] = 0;
    kq_free(raw);
    *size = to;
    return out;
}

/* ---- the places of tokens ---- */

/* A text, its characters taken apart (compatibility decomposition), so that it does not matter which
 * normal form a tokenizer made of it. */
typedef struct chars {
    int32_t *code; /* owned [n]; a byte that belongs to no character: -1 - the byte */
    /* owned [n + 1]: number of the character that each came from, and of characters */
    size_t *owner;
    size_t *byte; /* owned [n + 1]: where that character begins, and the bytes of the text */
    size_t n;
} chars;

enum { MOST_PARTS = 18 }; /* of one character: U+FDFA */

static void free_chars(chars *c)
{
    kq_free(c->code);
    kq_free(c->owner);
    kq_free(c->byte);
}

static bool cut(const char *bytes, size_t size, chars *out)
{
    const size_t most = size * MOST_PARTS + 1; /* pages that are not written take no memory */
    size_t number = 0;
    *out = (chars){.code = kq_alloc(most, sizeof *out->code),
                   .owner = kq_alloc(most, sizeof *out->owner),
                   .byte = kq_alloc(most, sizeof *out->byte)};
    if (!out->code || !out->owner || !out->byte)
        return false;
    for (size_t at = 0; at < size; number++) {
        const kq_utf8 c = kq_utf8_next(bytes + at, size - at);
        utf8proc_int32_t code, parts[MOST_PARTS];
        int bound = UTF8PROC_BOUNDCLASS_START;
        utf8proc_ssize_t n = 0;
        if (c.kind == KQ_UTF8_CHAR &&
            utf8proc_iterate((const utf8proc_uint8_t *)bytes + at, (utf8proc_ssize_t)c.size, &code) > 0)
            n = utf8proc_decompose_char(code, parts, MOST_PARTS, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
                                        &bound);
        if (n < 1 || n > MOST_PARTS) {
            parts[0] = -1 - (unsigned char)bytes[at];
            n = 1;
        }
        for (utf8proc_ssize_t k = 0; k < n; k++) {
            out->code[out->n] = parts[k];
            out->owner[out->n] = number;
            out->byte[out->n++] = at;
        }
        at += c.size;
    }
    out->owner[out->n] = number;
    out->byte[out->n] = size;
    return true;
}

/* Are part i of a and part j of b the same? Beyond both ends: yes. */
static bool same(const chars *a, size_t i, const chars *b, size_t j)
{
    return i >= a->n || j >= b->n ? i >= a->n && j >= b->n : a->code[i] == b->code[j];
}

/* The shortest way on from a place where the two differ: *i parts of a and *j of b are passed over. */
static void resync(const chars *a, size_t *i, const chars *b, size_t *j)
{
    for (size_t d = 1; d <= RESYNC; d++)
        for (size_t k = 0; k <= d; k++) {
            const size_t x = *i + d - k, y = *j + k;
            if (x <= a->n && y <= b->n && same(a, x, b, y) &&
                (x == a->n || same(a, x + 1, b, y + 1) || x + 1 == a->n || y + 1 == b->n)) {
                *i = x;
                *j = y;
                return;
            }
        }
    *i += *i < a->n;
    ++*j;
}

static size_t spaces(const chars *c, size_t at)
{
    size_t n = 0;
    while (at + n < c->n && c->code[at + n] == ' ')
        n++;
    return n;
}

/* place[j]: character of the text where part j of the tokens' bytes is, for each of them, and place[n]
 * the text's end. */
static size_t *align(const chars *text, const chars *decoded)
{
    size_t *place = kq_alloc(decoded->n + 1, sizeof *place), i = 0, j = 0;
    if (!place)
        return NULL;
    while (j < decoded->n) {
        if (decoded->code[j] == ' ' &&
            (!j || decoded->code[j - 1] !=
                       ' ')) { /* a space that was put before a word comes before the text's own */
            const size_t put = spaces(decoded, j), given = spaces(text, i);
            for (size_t k = given; k < put; k++)
                place[j++] = text->owner[i];
            if (j == decoded->n)
                break;
        }
        if (same(text, i, decoded, j)) {
            place[j++] = text->owner[i++];
            continue;
        }
        const size_t from = j, before = text->owner[i];
        resync(text, &i, decoded, &j);
        if (j > decoded->n)
            j = decoded->n;
        for (size_t k = from; k < j; k++)
            place[k] = before;
    }
    place[decoded->n] = text->owner[text->n];
    return place;
}

/* How many of ids' first and last tokens the tokenizer puts around any text. */
static void around(const kq_tokenizer *tok, const int32_t *ids, size_t n, size_t *first, size_t *last)
{
    int32_t *empty = NULL;
    size_t n_empty = 0;
    *first = *last = 0;
    if (kq_tokenizer_encode(tok, "", 0, true, true, &empty, &n_empty, NULL))
        return;
    while (*first < n_empty && *first < n && empty[*first] == ids[*first])
        ++*first;
    while (*last < n_empty - *first && *last < n - *first && empty[n_empty - 1 - *last] == ids[n - 1 - *last])
        ++*last;
    kq_free(empty);
}

size_t *kq_prompt_offsets(const kq_tokenizer *tok, const char *text, size_t size, bool added,
                          const int32_t *ids, size_t n)
{
    size_t first = 0, last = 0, bytes = 0, *from = kq_alloc(n + 1, sizeof *from), *place = NULL,
           *offset = kq_alloc(n + 1, sizeof *offset);
    chars a = {0}, b = {0};
    char *decoded = NULL;
    const char *token;
    if (added)
        around(tok, ids, n, &first, &last);
    for (int pass = 0; from && offset && pass < 2; pass++) { /* count, then copy */
        bytes = 0;
        for (size_t i = 0; i < n; i++) {
            size_t k = 0;
            from[i] = bytes;
            if (i < first || i >= n - last || kq_tokenizer_token_bytes(tok, ids[i], &token, &k, NULL))
                continue;
            if (decoded && k)
                memcpy(decoded + bytes, token, k);
            bytes += k;
        }
        from[n] = bytes;
        if (!pass && !(decoded = kq_alloc(bytes + 1, 1)))
            break;
    }
    if (decoded && cut(text, size, &a) && cut(decoded, bytes, &b) && (place = align(&a, &b))) {
        /* parts: at the token's beginning or behind; the first of the character before */
        size_t c = 0, inside = 0;
        for (size_t i = 0; i < n; i++) {
            for (; c < b.n && b.byte[c] < from[i]; c++)
                inside = c && b.byte[c] == b.byte[c - 1] ? inside : c;
            offset[i] = from[i] == bytes                  ? a.owner[a.n]
                        : c < b.n && b.byte[c] == from[i] ? place[c]
                                                          : place[inside];
        }
        offset[n] = a.owner[a.n];
    } else {
        kq_free(offset);
        offset = NULL;
    }
    kq_free(decoded);
    free_chars(&a);
    free_chars(&b);
    kq_free(place);
    kq_free(from);
    return offset;
}
