/* Unicode normal forms in linear time. utf8proc decomposes and composes the characters. Its own ordering of
 * combining marks takes time that grows with the square of a run of marks (17 s for 80,000 marks), so the
 * ordering is done here. Only one run of marks is held at a time, not the whole text. */
#include <string.h>

#include <utf8proc.h>

#include "tokenizer/internal.h"

enum {
    SHORT_RUN = 16,   /* up to so many marks insertion sort is faster than counting sort */
    MOST_CHARS = 32,  /* one character decomposes into 18 at most (U+FDFA in NFKC) */
    FLUSH_FROM = 4096 /* characters held before those that are done are written */
};

/* Decomposed characters that are not written yet: a starter (a character of combining class 0) and what
 * follows it. */
typedef struct held {
    utf8proc_int32_t *cp, *sorted;
    size_t n, cap, cap_sorted;
} held;

static unsigned combining_class(utf8proc_int32_t cp)
{
    const utf8proc_propval_t c = utf8proc_get_property(cp)->combining_class;
    return c > 0 && c < 256 ? (unsigned)c : 0;
}

/* Sort a run of n marks by their combining class, stably. It is a counting sort, which takes n steps. */
static kq_status sort_run(held *h, utf8proc_int32_t *run, size_t n, kq_error *err)
{
    if (n <= SHORT_RUN) {
        for (size_t i = 1; i < n; i++) {
            const utf8proc_int32_t x = run[i];
            const unsigned class = combining_class(x);
            size_t j = i;
            for (; j && combining_class(run[j - 1]) > class; j--)
                run[j] = run[j - 1];
            run[j] = x;
        }
        return KQ_OK;
    }
    size_t at[257] = {0};
    void *block = h->sorted;
    kq_status status = kq_grow(&block, &h->cap_sorted, 0, n, sizeof *h->sorted, "the tokenizer", err);
    if (status)
        return status;
    h->sorted = block;
    for (size_t i = 0; i < n; i++)
        at[combining_class(run[i]) + 1]++;
    for (size_t c = 1; c < 257; c++)
        at[c] += at[c - 1];
    for (size_t i = 0; i < n; i++)
        h->sorted[at[combining_class(run[i])]++] = run[i];
    memcpy(run, h->sorted, n * sizeof *run);
    return KQ_OK;
}

static kq_status order_marks(held *h, kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t i = 0; i < h->n && !status;) {
        size_t end = i;
        while (end < h->n && combining_class(h->cp[end]))
            end++;
        if (end > i + 1)
            status = sort_run(h, h->cp + i, end - i, err);
        i = end + 1;
    }
    return status;
}

/* Order, compose and write the characters that are held. last: no text follows. Otherwise the last starter
 * and its marks stay, because what follows may compose with them. */
static kq_status flush(held *h, int form, bool last, kq_buffer *out, kq_error *err)
{
    kq_status status = order_marks(h, err);
    if (status || !h->n)
        return status;
    if (form & UTF8PROC_COMPOSE) {
        const utf8proc_ssize_t n =
            utf8proc_normalize_utf32(h->cp, (utf8proc_ssize_t)h->n, (utf8proc_option_t)form);
        if (n < 0)
            return kq_fail(err, KQ_E_FORMAT, "Unicode normalisation: %s", utf8proc_errmsg(n));
        h->n = (size_t)n;
    }
    size_t done = h->n;
    if (!last) {
        while (done && combining_class(h->cp[done - 1]))
            done--;
        done -= done > 0;
    }
    for (size_t i = 0; i < done && !status; i++) {
        char s[4];
        status = kq_buffer_add(out, s, kq_utf8_put((uint32_t)h->cp[i], s), err);
    }
    h->n -= done;
    memmove(h->cp, h->cp + done, h->n * sizeof *h->cp);
    return status;
}

static kq_status decompose(held *h, uint32_t cp, int form, kq_error *err)
{
    int bound = 0; /* not used without UTF8PROC_CHARBOUND */
    void *block = h->cp;
    kq_status status = kq_grow(&block, &h->cap, h->n, h->n + MOST_CHARS, sizeof *h->cp, "the tokenizer", err);
    if (status)
        return status;
    h->cp = block;
    const utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, h->cp + h->n, MOST_CHARS,
                                                       (utf8proc_option_t)form, &bound);
    if (n < 0 || n > MOST_CHARS)
        return kq_fail(err, KQ_E_FORMAT, "Unicode normalisation of U+%04X: %s", cp,
                       n < 0 ? utf8proc_errmsg(n) : "too long");
    h->n += (size_t)n;
    return KQ_OK;
}

kq_status kq_normal_form(int form, const char *text, size_t size, kq_tok_scratch *s, kq_buffer *out,
                         kq_error *err)
{
    held h = {0};
    kq_status status = KQ_OK;
    for (size_t i = 0; i < size && !status;) {
        size_t ascii = i;
        while (ascii < size && (unsigned char)text[ascii] < 0x80)
            ascii++;
        if (ascii > i + 1) { /* ASCII stays as it is; only its last character may compose with what follows */
            if (!(status = flush(&h, form, true, out, err)))
                status = kq_buffer_add(out, text + i, ascii - 1 - i, err);
            h.n = 0;
            i = ascii - 1;
            continue;
        }
        const size_t n = kq_utf8_size((unsigned char)text[i]), held_before = h.n;
        if (!(status = decompose(&h, kq_utf8_get(text + i), form, err)))
            status = kq_tok_steps(s, n, err);
        i += n;
        /* without this a run of marks would be sorted again and again */
        if (!status && h.n >= FLUSH_FROM && h.n > held_before && !combining_class(h.cp[held_before]))
            status = flush(&h, form, false, out, err);
    }
    if (!status)
        status = flush(&h, form, true, out, err);
    kq_free(h.cp);
    kq_free(h.sorted);
    return status;
}
