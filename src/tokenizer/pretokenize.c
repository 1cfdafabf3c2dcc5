/* Runs normalizers and pre-tokenizers as Hugging Face's `tokenizers` does: a normalizer rewrites a text, a
 * pre-tokenizer cuts it into pieces, of which byte pair encoding then takes one at a time. */
#include <stdio.h>
#include <string.h>

#include <utf8proc.h>

#include "tokenizer/internal.h"

uint32_t kq_byte_char(unsigned byte)
{
    if ((byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae)
        return byte;
    if (byte <= 0x20)
        return 0x100 + byte;
    if (byte <= 0xa0)
        return 0x121 + (byte - 0x7f);
    return 0x143; /* 0xad */
}

int kq_char_byte(uint32_t cp)
{
    if (cp >= 0x100 && cp <= 0x120)
        return (int)(cp - 0x100);
    if (cp >= 0x121 && cp <= 0x142)
        return (int)(cp - 0x121 + 0x7f);
    if (cp == 0x143)
        return 0xad;
    return cp < 0x100 && kq_byte_char(cp) == cp ? (int)cp : -1;
}

/* ---- spans of a pattern -------------------------------------------------------------------------------- */

static kq_status add_span(kq_tok_scratch *s, size_t off, size_t size, bool match, kq_error *err)
{
    if (s->n_span >= s->cap_span) {
        void *block = s->span;
        kq_status status =
            kq_grow(&block, &s->cap_span, s->n_span, s->n_span + 1, sizeof *s->span, "the tokenizer", err);
        if (status)
            return status;
        s->span = block;
    }
    s->span[s->n_span++] = (kq_span){off, size, match};
    return KQ_OK;
}

static kq_status run_regex(const pcre2_code *code, const char *text, size_t size, size_t from,
                           kq_tok_scratch *s, size_t *start, size_t *end, bool *found, kq_error *err)
{
    if (!s->match) {
        s->match = pcre2_match_data_create(1, NULL);
        s->match_context = pcre2_match_context_create(NULL);
        if (!s->match || !s->match_context)
            return kq_fail(err, KQ_E_MEMORY, "out of memory: a regex match");
        /* the patterns come from patterns.c and take linear time; PCRE2's default limit would refuse a text
         * of 10 million spaces */
        pcre2_set_match_limit(s->match_context, UINT32_MAX);
    }
    int rc = pcre2_match(code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK, s->match, s->match_context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && !s->jit_stack) {
        s->jit_stack = pcre2_jit_stack_create(64 << 10, 16 << 20, NULL);
        if (!s->jit_stack)
            return kq_fail(err, KQ_E_MEMORY, "out of memory: a regex match");
        pcre2_jit_stack_assign(s->match_context, NULL, s->jit_stack);
        rc = pcre2_match(code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK, s->match, s->match_context);
    }
    *found = rc >= 0;
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) {
        char why[128] = "";
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
        return kq_fail(err, KQ_E_UNSUPPORTED, "the tokenizer's regex cannot be run on this text: %s", why);
    }
    if (*found) {
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(s->match);
        *start = v[0];
        *end = v[1];
        if (*end < *start)
            return kq_fail(err, KQ_E_UNSUPPORTED, "the tokenizer's regex matches backwards");
    }
    return KQ_OK;
}

/* Cut the text into the pattern's matches and what lies between them, in order, into s->span. The spans cover
 * the whole text. */
static kq_status find_spans(const kq_pattern *p, const char *text, size_t size, kq_tok_scratch *s,
                            kq_error *err)
{
    size_t done = 0, from = 0;
    kq_status status = KQ_OK;
    s->n_span = 0;
    while (from <= size && !status) {
        size_t start = size, end = size;
        bool found = false;
        if (p->code) {
            if ((status = run_regex(p->code, text, size, from, s, &start, &end, &found, err)))
                return status;
        } else {
            const char *at =
                from < size ? memmem(text + from, size - from, p->literal, p->literal_size) : NULL;
            if (at) {
                found = true;
                start = (size_t)(at - text);
                end = start + p->literal_size;
            }
        }
        if (!found)
            break;
        /* this would never end; only a pattern with \K could do it, and those are refused */
        if (end == start && start < from)
            break;
        if (start > done && (status = add_span(s, done, start - done, false, err)))
            return status;
        if (end > start || start > done)
            status = add_span(s, start, end - start, true, err);
        if (!status)
            status = kq_tok_steps(s, end - from + 1, err);
        done = end;
        from = end > start ? end : end < size ? end + kq_utf8_size((unsigned char)text[end]) : size + 1;
    }
    if (!status && done < size)
        status = add_span(s, done, size - done, false, err);
    return status;
}

/* Join or drop the spans of s->span as the behavior says (`tokenizers` calls it SplitDelimiterBehavior). */
static void apply_behavior(kq_tok_scratch *s, kq_behavior behavior)
{
    kq_span *v = s->span;
    size_t n = 0;
    bool before = false;
    if (behavior == KQ_REMOVED) {
        for (size_t i = 0; i < s->n_span; i++)
            if (!v[i].match)
                v[n++] = v[i];
        s->n_span = n;
    } else if (behavior == KQ_CONTIGUOUS || behavior == KQ_MERGED_PREVIOUS) {
        for (size_t i = 0; i < s->n_span; i++) {
            kq_span x = v[i];
            bool join = behavior == KQ_CONTIGUOUS ? n && v[n - 1].match == x.match : n && x.match && !before;
            before = x.match;
            if (join)
                v[n - 1].size = x.off + x.size - v[n - 1].off;
            else
                v[n++] = x;
        }
        s->n_span = n;
    } else if (behavior == KQ_MERGED_NEXT) {
        n = s->n_span; /* v[n] and all after it are the result so far, which grows to the front */
        for (size_t i = s->n_span; i-- > 0;) {
            kq_span x = v[i];
            bool join = n < s->n_span && x.match && !before;
            before = x.match;
            if (join) {
                v[n].size += v[n].off - x.off;
                v[n].off = x.off;
            } else {
                v[--n] = x;
            }
        }
        s->n_span -= n;
        memmove(v, v + n, s->n_span * sizeof *v);
    }
}

/* ---- normalisers --------------------------------------------------------------------------------------- */

static kq_status replace_all(const kq_norm *norm, const char *text, size_t size, kq_tok_scratch *s,
                             kq_buffer *out, kq_error *err)
{
    kq_status status = find_spans(&norm->pattern, text, size, s, err);
    for (size_t i = 0; i < s->n_span && !status; i++)
        status = s->span[i].match ? kq_buffer_add(out, norm->content, norm->content_size, err)
                                  : kq_buffer_add(out, text + s->span[i].off, s->span[i].size, err);
    return status;
}

kq_status kq_normalize(const kq_norm *norm, size_t n_norm, const char *text, size_t size, kq_tok_scratch *s,
                       const char **out, size_t *out_size, kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t i = 0; i < n_norm && !status && size; i++) {
        kq_buffer *to = &s->norm[text == s->norm[0].data];
        if (norm[i].kind == KQ_NORM_FORM) {
            /* Text below U+0300 is in NFC already, and ASCII is in every form. */
            unsigned char limit = norm[i].form == (UTF8PROC_STABLE | UTF8PROC_COMPOSE) ? 0xcc : 0x80;
            size_t j = 0;
            while (j < size && (unsigned char)text[j] < limit)
                j++;
            if (j == size)
                continue;
        }
        to->size = 0;
        if (norm[i].kind == KQ_NORM_FORM) {
            status = kq_normal_form(norm[i].form, text, size, s, to, err);
        } else if (norm[i].kind == KQ_NORM_PREPEND) {
            if (!(status = kq_buffer_add(to, norm[i].content, norm[i].content_size, err)))
                status = kq_buffer_add(to, text, size, err);
        } else {
            status = replace_all(&norm[i], text, size, s, to, err);
        }
        text = to->data ? to->data : "";
        size = to->size;
    }
    *out = text;
    *out_size = size;
    return status;
}

/* ---- pre-tokenizers ------------------------------------------------------------------------------------ */

static kq_status add_piece(kq_tok_scratch *s, int side, size_t off, size_t size, bool at_start, kq_error *err)
{
    if (!size)
        return KQ_OK;
    if (s->n_piece[side] >= s->cap_piece[side]) {
        void *block = s->piece[side];
        kq_status status = kq_grow(&block, &s->cap_piece[side], s->n_piece[side], s->n_piece[side] + 1,
                                   sizeof **s->piece, "the tokenizer", err);
        if (status)
            return status;
        s->piece[side] = block;
    }
    s->piece[side][s->n_piece[side]++] = (kq_piece){off, size, at_start};
    return KQ_OK;
}

static bool is_numeric(uint32_t cp)
{
    if (cp < 0x80)
        return cp >= '0' && cp <= '9';
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

/* Cut the text into single numeric characters and what lies between them, into s->span. */
static kq_status digit_spans(const char *text, size_t size, kq_tok_scratch *s, kq_error *err)
{
    kq_status status = KQ_OK;
    size_t done = 0;
    s->n_span = 0;
    for (size_t i = 0; i < size && !status;) {
        size_t n = kq_utf8_size((unsigned char)text[i]);
        if ((status = kq_tok_steps(s, 1, err)))
            break;
        if (is_numeric(kq_utf8_get(text + i))) {
            if (i > done)
                status = add_span(s, done, i - done, false, err);
            if (!status)
                status = add_span(s, i, n, true, err);
            done = i + n;
        }
        i += n;
    }
    if (!status && done < size)
        status = add_span(s, done, size - done, false, err);
    return status;
}

/* Append the text to out with each byte as its printable stand-in (kq_byte_char). */
static kq_status map_bytes(const char *text, size_t size, kq_buffer *out, kq_error *err)
{
    size_t most;
    if (!kq_mul_size(size, 2, &most) || !kq_add_size(most, out->size, &most))
        return kq_fail(err, KQ_E_MEMORY, "out of memory: a text of %zu bytes", size);
    if (most > out->cap) {
        void *block = out->data;
        kq_status status = kq_grow(&block, &out->cap, out->size, most, 1, "the tokenizer", err);
        if (status)
            return status;
        out->data = block;
    }
    char *to = out->data + out->size;
    for (size_t i = 0; i < size; i++) {
        unsigned char b = (unsigned char)text[i];
        if (b > 0x20 && b < 0x7f)
            *to++ = (char)b;
        else
            to += kq_utf8_put(kq_byte_char(b), to);
    }
    out->size = (size_t)(to - out->data);
    return KQ_OK;
}

/* One piece on its way through a pre-tokenizer: its text, which may be new, cut into s->span. */
typedef struct cut {
    const char *text;
    size_t size;
} cut;

/* The whole text as one span. */
static kq_status one_span(size_t size, kq_tok_scratch *s, kq_error *err)
{
    s->n_span = 0;
    return add_span(s, 0, size, false, err);
}

/* Metaspace: each space becomes the replacement, and one is put in front where the scheme says so. Then every
 * replacement begins a span. */
static kq_status cut_metaspace(const kq_pre *pre, bool at_start, cut *c, kq_tok_scratch *s, kq_error *err)
{
    kq_buffer *work = &s->work;
    const char *r = pre->replacement;
    const size_t rn = pre->replacement_size;
    const bool has = c->size >= rn && !memcmp(c->text, r, rn);
    kq_status status = KQ_OK;
    work->size = 0;
    if (!has && c->text[0] != ' ' &&
        (pre->prepend == KQ_PREPEND_ALWAYS || (pre->prepend == KQ_PREPEND_FIRST && at_start)))
        status = kq_buffer_add(work, r, rn, err);
    for (size_t i = 0; i < c->size && !status;) {
        const char *space = memchr(c->text + i, ' ', c->size - i);
        const size_t n = space ? (size_t)(space - c->text) - i : c->size - i;
        status = kq_buffer_add(work, c->text + i, n, err);
        if (!status && space)
            status = kq_buffer_add(work, r, rn, err);
        i += n + (space != NULL);
    }
    if (status)
        return status;
    *c = (cut){work->data, work->size};
    if (!pre->split)
        return one_span(c->size, s, err);
    const kq_pattern p = {NULL, pre->replacement, rn};
    if (!(status = find_spans(&p, c->text, c->size, s, err)))
        apply_behavior(s, KQ_MERGED_NEXT);
    return status;
}

static kq_status cut_byte_level(const kq_pre *pre, cut *c, kq_tok_scratch *s, kq_error *err)
{
    kq_status status;
    if (pre->add_prefix_space && c->text[0] != ' ') {
        s->work.size = 0;
        if ((status = kq_buffer_add(&s->work, " ", 1, err)) ||
            (status = kq_buffer_add(&s->work, c->text, c->size, err)))
            return status;
        *c = (cut){s->work.data, s->work.size};
    }
    return pre->use_regex ? find_spans(&pre->pattern, c->text, c->size, s, err) : one_span(c->size, s, err);
}

static kq_status cut_pattern(const kq_pre *pre, const cut *c, kq_tok_scratch *s, kq_error *err)
{
    const kq_status status = pre->kind == KQ_PRE_DIGITS ? digit_spans(c->text, c->size, s, err)
                                                        : find_spans(&pre->pattern, c->text, c->size, s, err);
    if (status)
        return status;
    for (size_t i = 0; pre->invert && i < s->n_span; i++)
        s->span[i].match = !s->span[i].match;
    apply_behavior(s, pre->behavior);
    return KQ_OK;
}

static bool makes_new_text(const kq_pre *pre)
{
    return pre->kind == KQ_PRE_METASPACE || pre->kind == KQ_PRE_BYTE_LEVEL;
}

/* Run one pre-tokenizer on one piece, the in.size bytes at base + in.off. Its pieces are added to side `to`.
 * ByteLevel and Metaspace append the text that they make to `fresh`. */
static kq_status run_pre(const kq_pre *pre, const char *base, kq_piece in, int to, kq_buffer *fresh,
                         kq_tok_scratch *s, kq_error *err)
{
    cut c = {base + in.off, in.size};
    kq_status status = pre->kind == KQ_PRE_METASPACE    ? cut_metaspace(pre, in.at_start, &c, s, err)
                       : pre->kind == KQ_PRE_BYTE_LEVEL ? cut_byte_level(pre, &c, s, err)
                                                        : cut_pattern(pre, &c, s, err);
    for (size_t i = 0; i < s->n_span && !status; i++) {
        const kq_span x = s->span[i];
        const bool at_start = in.at_start && x.off == 0;
        if (!makes_new_text(pre)) {
            status = add_piece(s, to, in.off + x.off, x.size, at_start, err);
            continue;
        }
        const size_t off = fresh->size;
        status = pre->kind == KQ_PRE_BYTE_LEVEL ? map_bytes(c.text + x.off, x.size, fresh, err)
                                                : kq_buffer_add(fresh, c.text + x.off, x.size, err);
        if (!status)
            status = add_piece(s, to, off, fresh->size - off, at_start, err);
    }
    return status;
}

kq_status kq_pretokenize(const kq_pre *pre, size_t n_pre, const char *text, size_t size, bool at_start,
                         kq_tok_scratch *s, kq_pieces *out, kq_error *err)
{
    int side = 0;
    s->n_piece[0] = 0;
    kq_status status = add_piece(s, 0, 0, size, at_start, err);
    for (size_t k = 0; k < n_pre && !status; k++) {
        int to = 1 - side;
        s->n_piece[to] = 0;
        /* of the two buffers the one that does not hold the text being read */
        kq_buffer *fresh = &s->text[text == s->text[0].data];
        if (makes_new_text(&pre[k]))
            fresh->size = 0;
        for (size_t i = 0; i < s->n_piece[side] && !status; i++)
            if (!(status = kq_tok_steps(s, s->piece[side][i].size, err)))
                status = run_pre(&pre[k], text, s->piece[side][i], to, fresh, s, err);
        if (makes_new_text(&pre[k]))
            text = fresh->data ? fresh->data : "";
        side = to;
    }
    *out = (kq_pieces){.base = text, .v = s->piece[side], .n = s->n_piece[side]};
    return status;
}

void kq_tok_scratch_free(kq_tok_scratch *s)
{
    for (int i = 0; i < 2; i++) {
        kq_free(s->norm[i].data);
        kq_free(s->text[i].data);
        kq_free(s->piece[i]);
    }
    kq_free(s->work.data);
    kq_free(s->valid.data);
    kq_free(s->span);
    kq_free(s->bpe);
    kq_free(s->heap);
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->match_context);
    pcre2_jit_stack_free(s->jit_stack);
    kq_bpe_cache_free(s->cache);
}
