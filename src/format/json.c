/* One pass rewrites what jansson does not read the way Python does; then jansson parses. Most files need
 * no rewriting and are parsed as they are. */
#include "format/json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

enum { MAX_DIGITS = 4300 }; /* of an integer, as in Python (sys.int_info.default_max_str_digits) */

/* The text that is read, and what comes out. out NULL: only count. */
typedef struct pass {
    const char *at, *end;
    char *out;
    size_t n;
    bool changed;
} pass;

static void put(pass *p, const char *text, size_t n)
{
    if (p->out)
        memcpy(p->out + p->n, text, n);
    p->n += n;
}

/* Other text in the place of what was read. */
static void put_instead(pass *p, const char *text)
{
    put(p, text, strlen(text));
    p->changed = true;
}

/* ---- strings ---- */

/* The code unit of "\uXXXX" at s, -1 when that is not what stands there. */
static int unit_at(const char *s, const char *end)
{
    int unit = 0;
    if (end - s < 6 || s[0] != '\\' || s[1] != 'u')
        return -1;
    for (int i = 2; i < 6; i++) {
        int c = s[i], digit = c >= '0' && c <= '9'   ? c - '0'
                              : c >= 'a' && c <= 'f' ? c - 'a' + 10
                              : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                     : -1;
        if (digit < 0)
            return -1;
        unit = unit << 4 | digit;
    }
    return unit;
}

static bool is_high(int unit)
{
    return unit >= 0xd800 && unit < 0xdc00;
}
static bool is_low(int unit)
{
    return unit >= 0xdc00 && unit < 0xe000;
}

/* An escape: both halves of a pair, a lone surrogate, or anything else (jansson says if it is wrong). */
static void pass_escape(pass *p)
{
    int unit = unit_at(p->at, p->end);
    size_t n = unit >= 0 ? 6 : p->end - p->at < 2 ? 1 : 2;
    if (is_high(unit) && is_low(unit_at(p->at + 6, p->end)))
        n = 12;
    if (n == 6 && (is_high(unit) || is_low(unit)))
        put_instead(p, "\\ufffd");
    else
        put(p, p->at, n);
    p->at += n;
}

static void pass_string(pass *p)
{
    put(p, p->at++, 1);
    while (p->at < p->end && *p->at != '"') {
        const char *from = p->at;
        while (p->at < p->end && *p->at != '"' && *p->at != '\\')
            p->at++;
        put(p, from, (size_t)(p->at - from));
        if (p->at < p->end && *p->at == '\\')
            pass_escape(p);
    }
    if (p->at < p->end)
        put(p, p->at++, 1);
}

/* ---- numbers ---- */

/* A number's parts: digits before and after the point, and the exponent as written. */
typedef struct number {
    const char *whole, *fraction;
    size_t n_whole, n_fraction;
    long exponent;
    bool real;
    const char *end;
} number;

static const char *digits(const char *s, const char *end)
{
    while (s < end && *s >= '0' && *s <= '9')
        s++;
    return s;
}

/* Split a number that begins at s, after its sign. What is not a number ends early; jansson refuses it. */
static number split_number(const char *s, const char *end)
{
    number x = {.whole = s};
    x.end = digits(s, end);
    x.n_whole = (size_t)(x.end - s);
    x.fraction = x.end;
    if (end - x.end > 1 && *x.end == '.' && digits(x.end + 1, end) > x.end + 1) {
        x.fraction = x.end + 1;
        x.end = digits(x.fraction, end);
        x.n_fraction = (size_t)(x.end - x.fraction);
        x.real = true;
    }
    if (end - x.end > 1 && (*x.end == 'e' || *x.end == 'E')) {
        const char *from = x.end + 1;
        bool negative = *from == '-';
        from += *from == '-' || *from == '+';
        const char *to = digits(from, end);
        if (to == from)
            return x;
        for (const char *c = from; c < to && x.exponent < 100000000; c++)
            x.exponent = x.exponent * 10 + (*c - '0');
        x.exponent = negative ? -x.exponent : x.exponent;
        x.end = to;
        x.real = true;
    }
    return x;
}

/* Is it beyond a double's range? The digits go to strtod as a whole number with an exponent, without a
 * point: a locale may want another one. */
static bool infinite(const number *x)
{
    char text[480];
    size_t n = 0, total = x->n_whole + x->n_fraction, from = 0;
    bool more = false;
    while (from < total && (from < x->n_whole ? x->whole[from] : x->fraction[from - x->n_whole]) == '0')
        from++;
    if (from == total || (double)x->n_whole - (double)from + (double)x->exponent < 308)
        return false;
    for (size_t i = from; i < total; i++) {
        char c = i < x->n_whole ? x->whole[i] : x->fraction[i - x->n_whole];
        if (n < 400)
            text[n++] = c;
        else
            more |= c != '0';
    }
    if (more)
        text[n - 1] =
            text[n - 1] == '9'
                ? '9'
                : (char)(text[n - 1] + 1); /* the 400th digit decides nothing but a tie at the 309th */
    double scale = (double)x->n_whole - (double)from + (double)x->exponent - (double)n;
    if (scale > 400)
        return true;
    snprintf(text + n, sizeof text - n, "e%d", (int)scale);
    return strtod(text, NULL) > 1.7976931348623157e308;
}

static bool beyond_64_bits(const number *x, bool negative)
{
    const char *limit = negative ? "9223372036854775808" : "9223372036854775807";
    return x->n_whole > 19 || (x->n_whole == 19 && memcmp(x->whole, limit, 19) > 0);
}

/* False: more digits than Python takes. */
static bool pass_number(pass *p)
{
    const char *from = p->at;
    bool negative = *from == '-';
    number x = split_number(from + negative, p->end);
    if (!x.real && x.n_whole > MAX_DIGITS)
        return false;
    p->at = x.end;
    if (infinite(&x)) {
        put_instead(p, negative ? "\"-Infinity\"" : "\"Infinity\"");
        return true;
    }
    put(p, from, (size_t)(x.end - from));
    if (!x.real && beyond_64_bits(&x, negative))
        put_instead(p, ".0");
    return true;
}

/* ---- the text ---- */

static bool pass_word(pass *p, const char *word, const char *instead)
{
    size_t n = strlen(word);
    if ((size_t)(p->end - p->at) < n || memcmp(p->at, word, n))
        return false;
    put_instead(p, instead);
    p->at += n;
    return true;
}

/* NULL, or what is wrong and jansson would not say. */
static const char *pass_text(pass *p)
{
    while (p->at < p->end) {
        char c = *p->at;
        if (c == '"') {
            pass_string(p);
        } else if ((c == 'N' && pass_word(p, "NaN", "\"NaN\"")) ||
                   (c == 'I' && pass_word(p, "Infinity", "\"Infinity\"")) ||
                   (c == '-' && pass_word(p, "-Infinity", "\"-Infinity\""))) {
            continue;
        } else if (c == '-' || (c >= '0' && c <= '9')) {
            if (!pass_number(p))
                return "a whole number of more than 4300 digits";
        } else if (!c) { /* jansson overlooks it behind a number */
            return "a NUL byte";
        } else {
            put(p, p->at++, 1);
        }
    }
    return NULL;
}

kq_status kq_json_parse(const char *text, size_t size, const char *path, json_t **root, kq_error *err)
{
    char *copy = NULL;
    *root = NULL;
    if (kq_is_lfs_pointer(text, size))
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: not valid JSON: it is a Git LFS pointer, not the file itself; fetch it (git lfs "
                       "pull), or download the file again",
                       path);
    if (size >= 3 && !memcmp(text, "\xef\xbb\xbf", 3))
        return kq_fail(
            err, KQ_E_FORMAT,
            "%s: not valid JSON: it begins with a byte order mark (save the file as UTF-8 without one)",
            path);
    pass count = {.at = text, .end = text + size};
    const char *wrong = pass_text(&count);
    if (wrong)
        return kq_fail(err, KQ_E_FORMAT, "%s: not valid JSON: %s", path, wrong);
    if (count.changed) {
        kq_status status = kq_alloc_for((void **)&copy, count.n, 1, "the JSON text", err);
        if (status)
            return status;
        pass write = {.at = text, .end = text + size, .out = copy};
        (void)pass_text(&write);
    }
    json_error_t why;
    const kq_status status =
        kq_json_load(copy ? copy : text, copy ? count.n : size, JSON_ALLOW_NUL | JSON_DECODE_ANY, root, &why);
    kq_free(copy);
    if (status == KQ_E_FORMAT)
        return kq_fail(err, status, "%s: not valid JSON: %s (line %d)", path, why.text, why.line);
    return status ? kq_fail(err, status, "%s: %s", path, why.text) : KQ_OK;
}

kq_status kq_json_load(const char *text, size_t size, size_t flags, json_t **root, json_error_t *why)
{
    errno = 0;
    *root = json_loadb(text, size, flags, why);
    if (errno != ENOMEM && (*root || json_error_code(why) != json_error_out_of_memory))
        return *root ? KQ_OK : KQ_E_FORMAT;
    json_decref(*root);
    *root = NULL;
    snprintf(why->text, sizeof why->text, "out of memory: the JSON");
    return KQ_E_MEMORY;
}

kq_status kq_json_read(const char *path, size_t max_size, json_t **root, kq_error *err)
{
    char *text;
    size_t size;
    *root = NULL;
    kq_status status = kq_file_read(path, max_size, &text, &size, err);
    if (status)
        return status;
    status = kq_json_parse(text, size, path, root, err);
    kq_free(text);
    return status;
}

json_t *kq_json_again(const char *text)
{
    json_t *root = NULL;
    return text && !kq_json_parse(text, strlen(text), "JSON", &root, NULL) ? root : NULL;
}
