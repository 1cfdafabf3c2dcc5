/* What Python's str does with a text, by code points: lengths, white space, upper and lower case, lines and
 * replacing. Filters and methods share it. */
#include "pyvalue/str.h"

#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"
#include "pyvalue/print.h"
#include "pyvalue/unicode.h"

size_t kq_py_offset(const py_str *s, size_t chars)
{
    size_t at = 0;
    if (kq_py_chars(s) == s->n)
        return chars < s->n ? chars : s->n;
    while (chars && at < s->n) {
        at++;
        while (at < s->n && ((unsigned char)s->p[at] & 0xc0) == 0x80)
            at++;
        chars--;
    }
    return at;
}

typedef enum cased { UNCASED, LOWER, UPPER, TITLE } cased;

/* Characters of other categories that Unicode calls cased too (circled letters, ordinals) are refused:
 * the installed utf8proc does not list them. */
static cased case_of(py_run *r, uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LL: return LOWER;
    case UTF8PROC_CATEGORY_LU: return UPPER;
    case UTF8PROC_CATEGORY_LT: return TITLE;
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_NL: kq_py_fail(r, KQ_E_UNSUPPORTED, "the case of U+%04X is not known here", cp);
    case UTF8PROC_CATEGORY_LO:
        if (cp == 0xaa || cp == 0xba)
            kq_py_fail(r, KQ_E_UNSUPPORTED, "the case of U+%04X is not known here", cp);
        return UNCASED;
    case UTF8PROC_CATEGORY_SO:
        if ((cp >= 0x24b6 && cp <= 0x24e9) || (cp >= 0x1f130 && cp <= 0x1f189))
            kq_py_fail(r, KQ_E_UNSUPPORTED, "the case of U+%04X is not known here", cp);
        return UNCASED;
    default: return UNCASED;
    }
}

bool kq_py_all_case(py_run *r, const py_str *s, bool upper)
{
    bool any = false;
    kq_py_spend(r, s->n / 8);
    for (size_t at = 0, size; at < s->n; at += size) {
        const cased c = case_of(r, kq_py_code_point(s->p + at, &size));
        if (c == TITLE || c == (upper ? LOWER : UPPER))
            return false;
        any |= c != UNCASED;
    }
    return any;
}

static void put_case(py_run *r, py_buf *b, uint32_t cp, py_case how)
{
    char out[4];
    if (how == PY_LOWER) {
        if (cp == 0x3a3) /* the lower case of a sigma depends on the characters around it */
            kq_py_fail(r, KQ_E_UNSUPPORTED, "the lower case of U+03A3 is not supported");
        if (cp == 0x130) {
            kq_py_puts(r, b, "i\xcc\x87");
            return;
        }
        kq_py_put(r, b, out, kq_utf8_put((uint32_t)utf8proc_tolower((utf8proc_int32_t)cp), out));
        return;
    }
    const kq_py_special_case *s = kq_py_special_case_of(cp);
    if (s && (how == PY_UPPER || s->title)) {
        kq_py_puts(r, b, how == PY_UPPER ? s->upper : s->title);
        return;
    }
    const utf8proc_int32_t mapped =
        how == PY_UPPER ? utf8proc_toupper((utf8proc_int32_t)cp) : utf8proc_totitle((utf8proc_int32_t)cp);
    kq_py_put(r, b, out, kq_utf8_put((uint32_t)mapped, out));
}

/* The words of jinja2's title filter begin after white space, '-' and opening brackets. */
static bool word_break(uint32_t cp)
{
    return kq_py_is_space(cp) || cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<';
}

py_val kq_py_case(py_run *r, const py_str *s, py_case how)
{
    py_buf b = {0};
    bool start = true;
    kq_py_spend(r, s->n / 4);
    for (size_t at = 0, size; at < s->n; at += size) {
        const uint32_t cp = kq_py_code_point(s->p + at, &size);
        switch (how) {
        case PY_LOWER:
        case PY_UPPER: put_case(r, &b, cp, how); break;
        case PY_CAPITALIZE:
            put_case(r, &b, cp, start ? PY_TITLE : PY_LOWER);
            start = false;
            break;
        case PY_TITLE:
            put_case(r, &b, cp, start ? PY_TITLE : PY_LOWER);
            start = case_of(r, cp) == UNCASED;
            break;
        case PY_FILTER_TITLE: /* item[0].upper() + item[1:].lower(); a run of word breaks is an item too */
            put_case(r, &b, cp, start ? PY_UPPER : PY_LOWER);
            start = word_break(cp);
        }
    }
    return kq_py_buf_str(r, &b);
}

static bool stripped(uint32_t cp, const char *p, size_t size, const py_str *chars)
{
    return chars ? memmem(chars->p, chars->n, p, size) != NULL : kq_py_is_space(cp);
}

py_val kq_py_strip(py_run *r, const py_str *s, const py_str *chars, bool left, bool right)
{
    size_t lo = 0, hi = s->n, size;
    kq_py_spend(r, s->n / 64);
    while (left && lo < hi) {
        const uint32_t cp = kq_py_code_point(s->p + lo, &size);
        if (!stripped(cp, s->p + lo, size, chars))
            break;
        lo += size;
    }
    while (right && hi > lo) {
        size_t at = hi - 1;
        while (at > lo && ((unsigned char)s->p[at] & 0xc0) == 0x80)
            at--;
        const uint32_t cp = kq_py_code_point(s->p + at, &size);
        if (!stripped(cp, s->p + at, size, chars))
            break;
        hi = at;
    }
    if (chars)
        kq_py_spend(r, (s->n - (hi - lo)) * (1 + chars->n / 16));
    return kq_py_str(r, s->p + lo, hi - lo);
}

/* ---- replacing, lines, joining ---- */

py_val kq_py_replace(py_run *r, const py_str *s, const py_str *old, const py_str *by, int64_t count)
{
    py_buf b = {0};
    size_t at = 0, size;
    if (!old->n) { /* an empty `old` stands between all characters */
        while (count--) {
            kq_py_put(r, &b, by->p, by->n);
            if (at == s->n)
                break;
            kq_py_code_point(s->p + at, &size);
            kq_py_put(r, &b, s->p + at, size);
            at += size;
            py_tick(r);
        }
        kq_py_put(r, &b, s->p + at, s->n - at);
        return kq_py_buf_str(r, &b);
    }
    kq_py_spend(r, s->n / 16);
    for (const char *p; count && (p = kq_py_find(r, s->p + at, s->n - at, old)); count--) {
        kq_py_put(r, &b, s->p + at, (size_t)(p - s->p) - at);
        kq_py_put(r, &b, by->p, by->n);
        at = (size_t)(p - s->p) + old->n;
        py_tick(r);
    }
    kq_py_put(r, &b, s->p + at, s->n - at);
    return kq_py_buf_str(r, &b);
}

static bool line_end(uint32_t cp)
{
    return (cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
}

py_val kq_py_splitlines(py_run *r, const py_str *s, bool keep)
{
    py_val out = kq_py_list(r, PY_LIST, 0);
    size_t start = 0, size;
    kq_py_spend(r, s->n / 8);
    for (size_t at = 0; at < s->n;) {
        const uint32_t cp = kq_py_code_point(s->p + at, &size);
        size_t end = at;
        at += size;
        if (!line_end(cp))
            continue;
        at += cp == '\r' && at < s->n && s->p[at] == '\n';
        end = keep ? at : end;
        kq_py_push(r, out.l, kq_py_str(r, s->p + start, end - start));
        start = at;
    }
    if (start < s->n)
        kq_py_push(r, out.l, kq_py_str(r, s->p + start, s->n - start));
    return out;
}

py_val kq_py_join(py_run *r, const py_str *by, const py_list *items, bool convert)
{
    py_buf b = {0};
    for (size_t i = 0; i < items->n; i++) {
        if (!convert && items->v[i].kind != PY_STR)
            py_type_error(r, "join wants strings; item %zu is of type %s", i, kq_py_type_name(items->v[i]));
        kq_py_not_safe(r, items->v[i], "joined");
        if (i)
            kq_py_put(r, &b, by->p, by->n);
        kq_py_put_str(r, &b, items->v[i]);
        py_tick(r);
    }
    return kq_py_buf_str(r, &b);
}
