/* Strings by code points: lengths, places, white space, upper and lower case, as Python's str has them. */
#include <utf8proc.h>

#include "jinja/case_table.h"
#include "jinja/internal.h"

uint32_t kq_j_cp(const char *p, size_t *size)
{
    const unsigned char *s = (const unsigned char *)p;
    *size = s[0] < 0x80 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    return *size == 1   ? s[0]
           : *size == 2 ? (uint32_t)(s[0] & 0x1f) << 6 | (s[1] & 0x3f)
           : *size == 3 ? (uint32_t)(s[0] & 0x0f) << 12 | (uint32_t)(s[1] & 0x3f) << 6 | (s[2] & 0x3f)
                        : (uint32_t)(s[0] & 0x07) << 18 | (uint32_t)(s[1] & 0x3f) << 12 |
                              (uint32_t)(s[2] & 0x3f) << 6 | (s[3] & 0x3f);
}

size_t kq_j_utf8(uint32_t cp, char out[4])
{
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)cp, (utf8proc_uint8_t *)out);
}

bool kq_j_valid_utf8(const char *p, size_t n)
{
    for (size_t at = 0; at < n;) {
        utf8proc_int32_t cp;
        const utf8proc_ssize_t size =
            utf8proc_iterate((const utf8proc_uint8_t *)p + at, (utf8proc_ssize_t)(n - at), &cp);
        if (size <= 0)
            return false;
        at += (size_t)size;
    }
    return true;
}

size_t kq_j_chars(const j_str *s)
{
    size_t n = 0;
    if (s->chars != SIZE_MAX)
        return s->chars;
    for (size_t i = 0; i < s->n; i++)
        n += ((unsigned char)s->p[i] & 0xc0) != 0x80;
    /* strings of a run belong to one thread; constants of a template are counted when they are made */
    ((j_str *)s)->chars = n;
    return n;
}

size_t kq_j_offset(const j_str *s, size_t chars)
{
    size_t at = 0;
    if (kq_j_chars(s) == s->n)
        return chars < s->n ? chars : s->n;
    while (chars && at < s->n) {
        at++;
        while (at < s->n && ((unsigned char)s->p[at] & 0xc0) == 0x80)
            at++;
        chars--;
    }
    return at;
}

bool kq_j_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f ||
           cp == 0x3000;
}

bool kq_j_printable(uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    case UTF8PROC_CATEGORY_ZS: return cp == ' ';
    default: return true;
    }
}

bool kq_j_alpha(uint32_t cp)
{
    const utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

typedef enum cased { UNCASED, LOWER, UPPER, TITLE } cased;

/* Characters of other categories that Unicode calls cased too (circled letters, ordinals) are refused:
 * the installed utf8proc does not list them. */
static cased case_of(j_run *r, uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LL: return LOWER;
    case UTF8PROC_CATEGORY_LU: return UPPER;
    case UTF8PROC_CATEGORY_LT: return TITLE;
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_NL: kq_j_fail(r, KQ_E_UNSUPPORTED, "the case of U+%04X is not known here", cp);
    case UTF8PROC_CATEGORY_LO:
        if (cp == 0xaa || cp == 0xba)
            kq_j_fail(r, KQ_E_UNSUPPORTED, "the case of U+%04X is not known here", cp);
        return UNCASED;
    case UTF8PROC_CATEGORY_SO:
        if ((cp >= 0x24b6 && cp <= 0x24e9) || (cp >= 0x1f130 && cp <= 0x1f189))
            kq_j_fail(r, KQ_E_UNSUPPORTED, "the case of U+%04X is not known here", cp);
        return UNCASED;
    default: return UNCASED;
    }
}

bool kq_j_all_case(j_run *r, const j_str *s, bool upper)
{
    bool any = false;
    kq_j_spend(r, s->n / 8);
    for (size_t at = 0, size; at < s->n; at += size) {
        const cased c = case_of(r, kq_j_cp(s->p + at, &size));
        if (c == TITLE || c == (upper ? LOWER : UPPER))
            return false;
        any |= c != UNCASED;
    }
    return any;
}

static void put_case(j_run *r, j_buf *b, uint32_t cp, j_case how)
{
    char out[4];
    if (how == J_LOWER) {
        if (cp == 0x3a3) /* its lower case depends on what stands around it */
            kq_j_fail(r, KQ_E_UNSUPPORTED, "the lower case of U+03A3 is not supported");
        if (cp == 0x130) {
            kq_j_puts(r, b, "i\xcc\x87");
            return;
        }
        kq_j_put(r, b, out, kq_j_utf8((uint32_t)utf8proc_tolower((utf8proc_int32_t)cp), out));
        return;
    }
    for (const kq_j_special_case *s = kq_j_special_cases; s->cp && s->cp <= cp; s++)
        if (s->cp == cp && (how == J_UPPER || s->title)) {
            kq_j_puts(r, b, how == J_UPPER ? s->upper : s->title);
            return;
        }
    const utf8proc_int32_t mapped =
        how == J_UPPER ? utf8proc_toupper((utf8proc_int32_t)cp) : utf8proc_totitle((utf8proc_int32_t)cp);
    kq_j_put(r, b, out, kq_j_utf8((uint32_t)mapped, out));
}

/* The words of jinja2's title filter begin after white space, '-' and opening brackets. */
static bool word_break(uint32_t cp)
{
    return kq_j_space(cp) || cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<';
}

j_val kq_j_case(j_run *r, const j_str *s, j_case how)
{
    j_buf b = {0};
    bool start = true;
    kq_j_spend(r, s->n / 4);
    for (size_t at = 0, size; at < s->n; at += size) {
        const uint32_t cp = kq_j_cp(s->p + at, &size);
        switch (how) {
        case J_LOWER:
        case J_UPPER: put_case(r, &b, cp, how); break;
        case J_CAPITALIZE:
            put_case(r, &b, cp, start ? J_TITLE : J_LOWER);
            start = false;
            break;
        case J_TITLE:
            put_case(r, &b, cp, start ? J_TITLE : J_LOWER);
            start = case_of(r, cp) == UNCASED;
            break;
        case J_FILTER_TITLE: /* item[0].upper() + item[1:].lower(), a run of breaks being an item too */
            put_case(r, &b, cp, start ? J_UPPER : J_LOWER);
            start = word_break(cp);
        }
    }
    return kq_j_buf_str(r, &b);
}

static bool stripped(uint32_t cp, const char *p, size_t size, const j_str *chars)
{
    return chars ? memmem(chars->p, chars->n, p, size) != NULL : kq_j_space(cp);
}

j_val kq_j_strip(j_run *r, const j_str *s, const j_str *chars, bool left, bool right)
{
    size_t lo = 0, hi = s->n, size;
    kq_j_spend(r, s->n / 64);
    while (left && lo < hi) {
        const uint32_t cp = kq_j_cp(s->p + lo, &size);
        if (!stripped(cp, s->p + lo, size, chars))
            break;
        lo += size;
    }
    while (right && hi > lo) {
        size_t at = hi - 1;
        while (at > lo && ((unsigned char)s->p[at] & 0xc0) == 0x80)
            at--;
        const uint32_t cp = kq_j_cp(s->p + at, &size);
        if (!stripped(cp, s->p + at, size, chars))
            break;
        hi = at;
    }
    if (chars)
        kq_j_spend(r, (s->n - (hi - lo)) * (1 + chars->n / 16));
    return kq_j_str(r, s->p + lo, hi - lo);
}
