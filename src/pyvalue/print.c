/* Values as text: Python's str and repr, and JSON as Python's json.dumps writes it. */
#include "pyvalue/print.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pyvalue/unicode.h"

void kq_py_put(py_run *r, py_buf *b, const char *p, size_t n)
{
    if (n > KQ_PY_MAX_OUTPUT - b->n)
        kq_py_fail(r, KQ_E_ARG, "a text grows beyond %d MB", KQ_PY_MAX_OUTPUT >> 20);
    if (b->cap - b->n < n) {
        const size_t cap = 2 * (b->n + n) + 32;
        char *p2 = kq_py_alloc(r, cap, 1);
        if (b->n)
            memcpy(p2, b->p, b->n);
        b->p = p2;
        b->cap = cap;
    }
    if (n)
        memcpy(b->p + b->n, p, n);
    b->n += n;
    kq_py_spend(r, n / 64);
}

void kq_py_puts(py_run *r, py_buf *b, const char *s)
{
    kq_py_put(r, b, s, strlen(s));
}

py_val kq_py_buf_str(py_run *r, const py_buf *b)
{
    return kq_py_str(r, b->p ? b->p : "", b->n);
}

/* ---- numbers ---- */

/* The shortest decimal that reads back as d (> 0), as 0.d1d2... * 10^*point: its digits, whose number is
 * returned, and *point. */
static int shortest(double d, char digits[20], int *point)
{
    char text[40];
    int n = 0;
    for (int precision = 0; precision < 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, d);
        if (strtod(text, NULL) == d)
            break;
    }
    for (const char *s = text; *s && *s != 'e'; s++)
        if (*s >= '0' && *s <= '9') /* this leaves out the decimal point, whatever it is in the locale */
            digits[n++] = *s;
    *point = atoi(strchr(text, 'e') + 1) + 1;
    while (n > 1 && digits[n - 1] == '0')
        n--;
    return n;
}

void kq_py_float_text(double d, char out[40])
{
    char digits[20], *s = out;
    int point;
    if (isnan(d) || isinf(d)) {
        strcpy(out, isnan(d) ? "nan" : d < 0 ? "-inf" : "inf");
        return;
    }
    if (signbit(d))
        *s++ = '-';
    if (d == 0) {
        strcpy(s, "0.0");
        return;
    }
    const int n = shortest(fabs(d), digits, &point);
    if (point > 16 || point < -3) {
        *s++ = digits[0];
        if (n > 1) {
            *s++ = '.';
            memcpy(s, digits + 1, (size_t)n - 1);
            s += n - 1;
        }
        sprintf(s, "e%c%02d", point > 0 ? '+' : '-', abs(point - 1));
        return;
    }
    if (point <= 0) {
        *s++ = '0';
        *s++ = '.';
        for (int i = point; i < 0; i++)
            *s++ = '0';
    }
    for (int i = 0; i < n || i < point; i++) {
        if (i == point && i)
            *s++ = '.';
        *s++ = i < n ? digits[i] : '0';
    }
    if (point >= n && point > 0) {
        *s++ = '.';
        *s++ = '0';
    }
    *s = 0;
}

bool kq_py_parse_float(const char *p, size_t n, double *out)
{
    /* jansson converts it, because it knows the locale's decimal point; JSON has no leading zeros */
    while (n > 1 && p[0] == '0' && p[1] >= '0' && p[1] <= '9') {
        p++;
        n--;
    }
    json_t *v = json_loadb(p, n, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, NULL);
    const bool ok = json_is_real(v);
    *out = json_real_value(v);
    json_decref(v);
    return ok;
}

/* ---- str and repr ---- */

static void put_float(py_run *r, py_buf *b, double d)
{
    char text[40];
    kq_py_float_text(d, text);
    kq_py_puts(r, b, text);
}

static void put_int(py_run *r, py_buf *b, int64_t i)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)i);
    kq_py_puts(r, b, text);
}

static void repr_text(py_run *r, py_buf *b, const py_str *s)
{
    const char quote = s->n && memchr(s->p, '\'', s->n) && !memchr(s->p, '"', s->n) ? '"' : '\'';
    size_t size;
    kq_py_put(r, b, &quote, 1);
    for (size_t at = 0; at < s->n; at += size) {
        const uint32_t cp = kq_py_code_point(s->p + at, &size);
        char text[12];
        if (cp == (unsigned char)quote || cp == '\\')
            snprintf(text, sizeof text, "\\%c", (char)cp);
        else if (cp == '\n' || cp == '\t' || cp == '\r')
            strcpy(text, cp == '\n' ? "\\n" : cp == '\t' ? "\\t" : "\\r");
        else if (!kq_py_is_printable(cp))
            snprintf(text, sizeof text, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
        else {
            kq_py_put(r, b, s->p + at, size);
            continue;
        }
        kq_py_puts(r, b, text);
    }
    kq_py_put(r, b, &quote, 1);
    kq_py_spend(r, s->n / 8);
}

static void repr_items(py_run *r, py_buf *b, const py_list *l, const char *open, const char *close)
{
    kq_py_puts(r, b, open);
    for (size_t i = 0; i < l->n; i++) {
        if (i)
            kq_py_puts(r, b, ", ");
        kq_py_put_repr(r, b, l->v[i]);
    }
    kq_py_puts(r, b, close);
}

void kq_py_put_repr(py_run *r, py_buf *b, py_val v)
{
    kq_py_enter(r);
    switch (v.kind) {
    case PY_NONE: kq_py_puts(r, b, "None"); break;
    case PY_BOOL: kq_py_puts(r, b, v.b ? "True" : "False"); break;
    case PY_INT: put_int(r, b, v.i); break;
    case PY_FLOAT: put_float(r, b, v.d); break;
    case PY_UNDEFINED: kq_py_puts(r, b, "Undefined"); break;
    case PY_STR:
        kq_py_not_safe(r, v, "printed within a list or object");
        repr_text(r, b, v.s);
        break;
    case PY_LIST: repr_items(r, b, v.l, "[", "]"); break;
    case PY_TUPLE: repr_items(r, b, v.l, "(", v.l->n == 1 ? ",)" : ")"); break;
    case PY_VIEW:
        kq_py_puts(r, b, v.view->name);
        repr_items(r, b, &v.view->items, "([", "])");
        break;
    case PY_RANGE:
        kq_py_puts(r, b, "range(");
        put_int(r, b, v.r->start);
        kq_py_puts(r, b, ", ");
        put_int(r, b, v.r->stop);
        if (v.r->step != 1) {
            kq_py_puts(r, b, ", ");
            put_int(r, b, v.r->step);
        }
        kq_py_puts(r, b, ")");
        break;
    case PY_DICT:
        kq_py_puts(r, b, "{");
        for (size_t i = 0; i < v.m->n; i++) {
            kq_py_puts(r, b, i ? ", " : "");
            kq_py_put_repr(r, b, v.m->key[i]);
            kq_py_puts(r, b, ": ");
            kq_py_put_repr(r, b, v.m->value[i]);
        }
        kq_py_puts(r, b, "}");
        break;
    default:
        kq_py_fail(r, KQ_E_UNSUPPORTED, "printing a value of type %s is not supported", kq_py_type_name(v));
    }
    py_leave(r);
}

void kq_py_put_str(py_run *r, py_buf *b, py_val v)
{
    if (v.kind == PY_STR)
        kq_py_put(r, b, v.s->p, v.s->n);
    else if (v.kind != PY_UNDEFINED)
        kq_py_put_repr(r, b, v);
}

const py_str *kq_py_text(py_run *r, py_val v)
{
    if (v.kind == PY_STR)
        return v.s;
    py_buf b = {0};
    kq_py_put_str(r, &b, v);
    return kq_py_buf_str(r, &b).s;
}

/* ---- JSON ---- */

static void dump_text(py_run *r, py_buf *b, const py_str *s, bool ascii)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    size_t size, start = 0;
    kq_py_puts(r, b, "\"");
    for (size_t at = 0; at < s->n; at += size) {
        const uint32_t cp = kq_py_code_point(s->p + at, &size);
        const char *simple = cp && cp < 0x80 ? memchr(from, (int)cp, sizeof from - 1) : NULL;
        char text[16];
        if (!simple && cp >= 0x20 && !(ascii && cp >= 0x7f + (cp == 0x7f)))
            continue;
        kq_py_put(r, b, s->p + start, at - start);
        if (simple)
            snprintf(text, sizeof text, "\\%c", to[simple - from]);
        else if (cp < 0x10000)
            snprintf(text, sizeof text, "\\u%04x", cp);
        else
            snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10),
                     0xdc00 + ((cp - 0x10000) & 0x3ff));
        kq_py_puts(r, b, text);
        start = at + size;
    }
    kq_py_put(r, b, s->p + start, s->n - start);
    kq_py_puts(r, b, "\"");
    kq_py_spend(r, s->n / 8);
}

static void new_line(py_run *r, py_buf *b, const py_dump *how, size_t level)
{
    if (!how->indent)
        return;
    kq_py_puts(r, b, "\n");
    for (size_t i = 0; i < level; i++)
        kq_py_put(r, b, how->indent->p, how->indent->n);
}

static void dump_scalar(py_run *r, py_buf *b, py_val v, const py_dump *how, bool key)
{
    if (v.kind == PY_STR)
        dump_text(r, b, v.s, how->ascii);
    else if (v.kind == PY_NONE || v.kind == PY_BOOL || v.kind == PY_INT || v.kind == PY_FLOAT) {
        kq_py_puts(r, b, key ? "\"" : "");
        if (v.kind == PY_INT)
            put_int(r, b, v.i);
        else if (v.kind == PY_FLOAT && (isnan(v.d) || isinf(v.d)))
            kq_py_puts(r, b, isnan(v.d) ? "NaN" : v.d < 0 ? "-Infinity" : "Infinity");
        else if (v.kind == PY_FLOAT)
            put_float(r, b, v.d);
        else
            kq_py_puts(r, b, v.kind == PY_NONE ? "null" : v.b ? "true" : "false");
        kq_py_puts(r, b, key ? "\"" : "");
    } else
        py_type_error(r, "tojson of a value of type %s", kq_py_type_name(v));
}

static py_val sorted_keys(py_run *r, py_val dict)
{
    const py_list keys = {dict.m->key, dict.m->n, dict.m->n};
    py_list *sorted = kq_py_list(r, PY_LIST, keys.n).l;
    /* insertion sort, which keeps equal keys in order; objects are small */
    for (size_t i = 0; i < keys.n; i++) {
        size_t at = sorted->n;
        kq_py_push(r, sorted, keys.v[i]);
        while (at && kq_py_less(r, keys.v[i], sorted->v[at - 1])) {
            sorted->v[at] = sorted->v[at - 1];
            at--;
        }
        sorted->v[at] = keys.v[i];
    }
    py_val out = kq_py_dict(r, keys.n);
    for (size_t i = 0; i < sorted->n; i++)
        kq_py_dict_set(r, out.m, sorted->v[i], *kq_py_dict_get(r, dict.m, sorted->v[i]));
    return out;
}

void kq_py_dump(py_run *r, py_buf *b, py_val v, const py_dump *how, size_t level)
{
    const bool dict = v.kind == PY_DICT;
    if (!dict && !py_is_list(v)) {
        dump_scalar(r, b, v, how, false);
        return;
    }
    kq_py_enter(r);
    if (dict && how->sort)
        v = sorted_keys(r, v);
    const size_t n = dict ? v.m->n : v.l->n;
    kq_py_puts(r, b, dict ? "{" : "[");
    for (size_t i = 0; i < n; i++) {
        if (i)
            kq_py_put(r, b, how->item->p, how->item->n);
        new_line(r, b, how, level + 1);
        if (dict) {
            dump_scalar(r, b, v.m->key[i], how, true);
            kq_py_put(r, b, how->key->p, how->key->n);
        }
        kq_py_dump(r, b, dict ? v.m->value[i] : v.l->v[i], how, level + 1);
    }
    if (n)
        new_line(r, b, how, level);
    kq_py_puts(r, b, dict ? "}" : "]");
    py_leave(r);
}
