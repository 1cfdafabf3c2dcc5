/* Tokens on their way to text, for run and for serve: whole characters only, and stop strings are found
 * wherever tokens cut them. Bytes that are no UTF-8 become U+FFFD, because JSON and terminals take nothing
 * else. */
#include "generate/stream.h"

#include <string.h>

#include "base/buffer.h"
#include "base/mem.h"
#include "base/utf8.h"

static kq_status append(kq_text *t, const char *s, size_t n, kq_error *err)
{
    kq_status st = kq_grow((void **)&t->data, &t->cap, t->size, t->size + n, 1, "an answer's text", err);
    if (st != KQ_OK)
        return st;
    memcpy(t->data + t->size, s, n);
    t->size += n;
    return KQ_OK;
}

/* Whole characters of the tail and of s go to data, the unfinished rest to the tail; with `last` the rest
 * becomes U+FFFD. */
static kq_status characters(kq_text *t, const char *s, size_t n, bool last, kq_error *err)
{
    while (n || (last && t->n_tail)) {
        /* at most one character's bytes at a time: 3 waiting, and as many as fit */
        size_t more = sizeof t->tail - t->n_tail < n ? sizeof t->tail - t->n_tail : n;
        if (more)
            memcpy(t->tail + t->n_tail, s, more);
        s += more;
        n -= more;
        size_t have = t->n_tail + more, at = 0;
        while (at < have) {
            kq_utf8 c = kq_utf8_next(t->tail + at, have - at);
            if (c.kind == KQ_UTF8_INCOMPLETE && (n || !last))
                break;
            kq_status st = c.kind == KQ_UTF8_CHAR ? append(t, t->tail + at, c.size, err)
                                                  : append(t, "\xEF\xBF\xBD", 3, err);
            if (st)
                return st;
            at += c.size;
        }
        memmove(t->tail, t->tail + at, have - at);
        t->n_tail = have - at;
    }
    return KQ_OK;
}

/* Find stop strings that end after `from`: the one that begins first ends the text. Without one, what may
 * become one is held back. */
static void find_stop(kq_text *t, size_t from, const char *const *stop, size_t n_stop)
{
    size_t cut = SIZE_MAX, hold = 0;
    for (size_t i = 0; i < n_stop; i++) {
        const size_t n = strlen(stop[i]);
        if (n == 0)
            continue;
        const size_t back = from < n - 1 ? 0 : from - (n - 1);
        const char *hit = t->size > back ? memmem(t->data + back, t->size - back, stop[i], n) : NULL;
        if (hit && (size_t)(hit - t->data) < cut)
            cut = (size_t)(hit - t->data);
        for (size_t k = n - 1 < t->size ? n - 1 : t->size; k > hold; k--)
            if (!memcmp(t->data + t->size - k, stop[i], k))
                hold = k;
    }
    if (cut != SIZE_MAX) {
        t->size = cut;
        t->stopped = true;
        hold = 0;
    }
    t->safe = t->size - hold;
}

/* The bytes that id adds after t->before: the text of both without the text of the first, because a
 * tokenizer may treat the beginning of a text otherwise (LLaMA-2 drops a space there). */
static kq_status spell(kq_text *t, const kq_tokenizer *tok, int32_t id, bool keep, kq_error *err)
{
    int32_t pair[2] = {t->before, id};
    char *head = NULL, *both = NULL;
    size_t n_head = 0, n_both = 0;
    const bool first = t->before < 0;
    kq_status st = first ? KQ_OK : kq_tokenizer_decode(tok, pair, 1, true, &head, &n_head, err);
    if (!st)
        st = kq_tokenizer_decode(tok, first ? pair + 1 : pair, first ? 1 : 2, true, &both, &n_both, err);
    if (!st && n_both > n_head) {
        t->before = id;
        if (keep)
            st = characters(t, both + n_head, n_both - n_head, false, err);
    }
    kq_free(head);
    kq_free(both);
    return st;
}

kq_status kq_text_begin(kq_text *t, const kq_tokenizer *tok, const int32_t *ids, size_t n, kq_error *err)
{
    kq_status st = KQ_OK;
    *t = (kq_text){.before = -1};
    for (size_t i = n < 4 ? 0 : n - 4; i < n && !st; i++)
        st = spell(t, tok, ids[i], false, err);
    return st;
}

kq_status kq_text_add(kq_text *t, const kq_tokenizer *tok, int32_t id, const char *const *stop, size_t n_stop,
                      kq_error *err)
{
    const size_t from = t->size;
    kq_status st = t->stopped ? KQ_OK : spell(t, tok, id, true, err);
    if (!st && !t->stopped)
        find_stop(t, from, stop, n_stop);
    return st;
}

kq_status kq_text_bytes(kq_text *t, const char *bytes, size_t n, kq_error *err)
{
    return characters(t, bytes, n, false, err);
}

kq_status kq_text_end(kq_text *t, const char *const *stop, size_t n_stop, kq_error *err)
{
    const size_t from = t->size;
    kq_status st = t->stopped ? KQ_OK : characters(t, NULL, 0, true, err);
    if (!st && !t->stopped)
        find_stop(t, from, stop, n_stop);
    t->safe = t->size;
    return st;
}

void kq_text_clear(kq_text *t)
{
    kq_free(t->data);
    *t = (kq_text){.before = -1};
}
