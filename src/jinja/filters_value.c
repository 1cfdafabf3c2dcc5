/* Filters of one value: text, numbers, JSON. They do what jinja2/filters.py (3.1.6) does, except tojson,
 * which does what transformers' own tojson does. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "jinja/internal.h"

static bool given(py_val v)
{
    return v.kind != PY_MISSING;
}

/* jinja2's soft_str: a value that is no string becomes one; a string that is marked safe stays so. */
static py_val soft(py_run *r, py_val v)
{
    if (v.kind == PY_STR)
        return v;
    py_buf b = {0};
    kq_py_put_str(r, &b, v);
    return kq_py_buf_str(r, &b);
}

static const py_str *plain(py_run *r, py_val v, const char *filter)
{
    kq_py_not_safe(r, v, filter);
    return kq_py_text(r, v);
}

static py_val f_trim(py_run *r, py_val x, const py_args *a)
{
    py_val v[1];
    kq_py_match_args(r, "trim", a, "chars", 0, v);
    py_val out =
        kq_py_strip(r, kq_py_text(r, x),
                    given(v[0]) && v[0].kind != PY_NONE ? kq_py_as_str(r, v[0], "trim") : NULL, true, true);
    out.safe = x.kind == PY_STR && x.safe;
    return out;
}

static py_val cased(py_run *r, py_val x, const py_args *a, py_case how, const char *name)
{
    py_val v[1];
    kq_py_match_args(r, name, a, "", 0, v);
    py_val out = kq_py_case(r, kq_py_text(r, x), how);
    out.safe = x.kind == PY_STR && x.safe && how != PY_FILTER_TITLE;
    return out;
}
static py_val f_upper(py_run *r, py_val x, const py_args *a)
{
    return cased(r, x, a, PY_UPPER, "upper");
}
static py_val f_lower(py_run *r, py_val x, const py_args *a)
{
    return cased(r, x, a, PY_LOWER, "lower");
}
static py_val f_capitalize(py_run *r, py_val x, const py_args *a)
{
    return cased(r, x, a, PY_CAPITALIZE, "capitalize");
}
static py_val f_title(py_run *r, py_val x, const py_args *a)
{
    kq_py_not_safe(r, x, "given to title");
    return cased(r, x, a, PY_FILTER_TITLE, "title");
}

static py_val f_replace(py_run *r, py_val x, const py_args *a)
{
    py_val v[3];
    kq_py_match_args(r, "replace", a, "old,new,count", 2, v);
    return kq_py_replace(r, kq_py_text(r, x), plain(r, v[0], "given to replace"),
                         plain(r, v[1], "given to replace"),
                         given(v[2]) && v[2].kind != PY_NONE ? kq_py_as_int(r, v[2], "replace") : -1);
}

static py_val f_default(py_run *r, py_val x, const py_args *a)
{
    py_val v[2];
    kq_py_match_args(r, "default", a, "default_value,boolean", 0, v);
    const bool boolean = given(v[1]) && kq_py_truth(r, v[1]);
    return x.kind == PY_UNDEFINED || (boolean && !kq_py_truth(r, x))
               ? (given(v[0]) ? v[0] : kq_py_cstr(r, ""))
               : x;
}

static py_val f_string(py_run *r, py_val x, const py_args *a)
{
    py_val v[1];
    kq_py_match_args(r, "string", a, "", 0, v);
    return soft(r, x);
}

static py_val f_safe(py_run *r, py_val x, const py_args *a)
{
    py_val v[1], out = kq_py_str(r, kq_py_text(r, x)->p, kq_py_text(r, x)->n);
    kq_py_match_args(r, "safe", a, "", 0, v);
    out.safe = true;
    return out;
}

static py_val f_escape(py_run *r, py_val x, const py_args *a)
{
    py_val v[1];
    kq_py_match_args(r, "escape", a, "", 0, v);
    return kq_py_escape(r, x);
}

static py_val f_length(py_run *r, py_val x, const py_args *a)
{
    py_val v[1];
    kq_py_match_args(r, "length", a, "", 0, v);
    return py_int(kq_py_length(r, x));
}

/* ---- numbers ---- */

/* Python's int(text): white space around, a sign, digits with single underscores between them. */
static bool whole_text(py_run *r, const py_str *s, int64_t *out)
{
    const py_str *t = kq_py_strip(r, s, NULL, true, true).s;
    size_t i = t->n && (*t->p == '-' || *t->p == '+');
    const bool minus = i && *t->p == '-';
    int64_t v = 0;
    if (i == t->n)
        return false;
    for (bool underscore = true; i < t->n; i++) {
        const char c = t->p[i];
        if ((unsigned char)c >= 0x80)
            kq_py_fail(r, KQ_E_UNSUPPORTED, "int of digits that are not ASCII");
        if (c == '_' && !underscore && i + 1 < t->n) {
            underscore = true;
            continue;
        }
        if (c < '0' || c > '9')
            return false;
        underscore = false;
        if (__builtin_mul_overflow(v, 10, &v) ||
            (minus ? __builtin_sub_overflow(v, c - '0', &v) : __builtin_add_overflow(v, c - '0', &v)))
            kq_py_fail(r, KQ_E_UNSUPPORTED, "an integer beyond 64 bits");
    }
    *out = v;
    return true;
}

/* Python's float(text). "inf", "nan" and rare forms like "1." are refused. */
static bool real_text(py_run *r, const py_str *s, double *out)
{
    const py_str *t = kq_py_strip(r, s, NULL, true, true).s;
    const size_t sign = t->n && (*t->p == '-' || *t->p == '+');
    if (t->n > sign && kq_py_parse_float(t->p + sign, t->n - sign, out) && t->p[sign] != '-') {
        *out = sign && *t->p == '-' ? -*out : *out;
        return true;
    }
    for (size_t i = 0; i < t->n; i++)
        if (!strchr("0123456789.eE+-_", t->p[i]) && !strchr("infatyINFATY", t->p[i]))
            return false;
    if (t->n)
        kq_py_fail(r, KQ_E_UNSUPPORTED, "a number written as '%.*s'", t->n < 40 ? (int)t->n : 40, t->p);
    return false;
}

static py_val truncated(py_run *r, double d, py_val otherwise)
{
    if (isnan(d) || isinf(d))
        return otherwise;
    if (!(d > -0x1p63 && d < 0x1p63))
        kq_py_fail(r, KQ_E_UNSUPPORTED, "an integer beyond 64 bits");
    return py_int((int64_t)d);
}

static py_val f_int(py_run *r, py_val x, const py_args *a)
{
    py_val v[2];
    int64_t i;
    double d;
    kq_py_match_args(r, "int", a, "default,base", 0, v);
    const py_val otherwise = given(v[0]) ? v[0] : py_int(0);
    if (given(v[1]) && (v[1].kind != PY_INT || v[1].i != 10))
        kq_py_fail(r, KQ_E_UNSUPPORTED, "int with a base other than 10");
    if (x.kind == PY_UNDEFINED)
        py_type_error(r, "%.80s is undefined", x.why ? x.why : "a value");
    if (x.kind == PY_FLOAT)
        return truncated(r, x.d, otherwise);
    if (x.kind == PY_INT || x.kind == PY_BOOL)
        return py_int(py_whole(x));
    if (x.kind != PY_STR)
        return otherwise;
    if (whole_text(r, x.s, &i))
        return py_int(i);
    return real_text(r, x.s, &d) ? truncated(r, d, otherwise) : otherwise;
}

static py_val f_float(py_run *r, py_val x, const py_args *a)
{
    py_val v[1];
    double d;
    kq_py_match_args(r, "float", a, "default", 0, v);
    if (x.kind == PY_UNDEFINED)
        py_type_error(r, "%.80s is undefined", x.why ? x.why : "a value");
    if (py_is_number(x))
        return py_float(py_real(x));
    if (x.kind == PY_STR && real_text(r, x.s, &d))
        return py_float(d);
    return given(v[0]) ? v[0] : py_float(0);
}

static py_val f_abs(py_run *r, py_val x, const py_args *a)
{
    py_val v[1];
    kq_py_match_args(r, "abs", a, "", 0, v);
    if (!py_is_number(x))
        py_type_error(r, "abs wants a number, not %s", kq_py_type_name(x));
    return x.kind == PY_FLOAT ? py_float(fabs(x.d)) : kq_py_negate(r, py_int(py_whole(x)), py_whole(x) < 0);
}

static py_val f_round(py_run *r, py_val x, const py_args *a)
{
    py_val v[2];
    char text[400];
    kq_py_match_args(r, "round", a, "precision,method", 0, v);
    const int64_t precision = given(v[0]) ? kq_py_as_int(r, v[0], "round") : 0;
    const char *method = given(v[1]) ? (kq_py_equals_text(v[1], "common")  ? "common"
                                        : kq_py_equals_text(v[1], "ceil")  ? "ceil"
                                        : kq_py_equals_text(v[1], "floor") ? "floor"
                                                                           : NULL)
                                     : "common";
    if (!method)
        py_type_error(r, "round: the method is common, ceil or floor");
    if (!py_is_number(x))
        py_type_error(r, "round wants a number, not %s", kq_py_type_name(x));
    if (precision < 0 || precision > 15)
        kq_py_fail(r, KQ_E_UNSUPPORTED, "round to %lld places", (long long)precision);
    if (*method == 'c' && method[1] == 'o') {
        if (x.kind != PY_FLOAT)
            return py_int(py_whole(x));
        if (!isfinite(x.d))
            kq_py_fail(r, KQ_E_UNSUPPORTED, "round of a number that is not finite");
        /* rounded correctly, as in Python, and read back in the same locale */
        snprintf(text, sizeof text, "%.*f", (int)precision, x.d);
        return py_float(strtod(text, NULL));
    }
    const double scale = pow(10, (double)precision), y = py_real(x) * scale;
    if (!(fabs(y) < 0x1p53))
        kq_py_fail(r, KQ_E_UNSUPPORTED, "round of a number so large");
    return py_float((*method == 'f' ? floor(y) : ceil(y)) / scale);
}

/* ---- JSON, lines ---- */

static py_val f_tojson(py_run *r, py_val x, const py_args *a)
{
    py_val v[4];
    py_buf b = {0};
    kq_py_match_args(r, "tojson", a, "ensure_ascii,indent,separators,sort_keys", 0, v);
    py_dump how = {.ascii = given(v[0]) && kq_py_truth(r, v[0]), .sort = given(v[3]) && kq_py_truth(r, v[3])};
    const bool indented = given(v[1]) && v[1].kind != PY_NONE;
    how.item = kq_py_cstr(r, indented ? "," : ", ").s;
    how.key = kq_py_cstr(r, ": ").s;
    if (indented && v[1].kind == PY_STR) {
        how.indent = v[1].s;
    } else if (indented) {
        const int64_t n = kq_py_as_int(r, v[1], "tojson");
        char *spaces = kq_py_alloc(r, n > 0 && n < 1000 ? (size_t)n + 1 : 1, 1);
        if (n >= 1000)
            kq_py_fail(r, KQ_E_ARG, "tojson: an indent of %lld", (long long)n);
        memset(spaces, ' ', n > 0 ? (size_t)n : 0);
        how.indent = kq_py_str(r, spaces, n > 0 ? (size_t)n : 0).s;
    }
    if (given(v[2]) && v[2].kind != PY_NONE) {
        if (!py_is_list(v[2]) || v[2].l->n != 2)
            py_type_error(r, "tojson: separators are two strings");
        how.item = kq_py_as_str(r, v[2].l->v[0], "tojson");
        how.key = kq_py_as_str(r, v[2].l->v[1], "tojson");
    }
    kq_py_dump(r, &b, x, &how, 0);
    return kq_py_buf_str(r, &b);
}

static py_val f_indent(py_run *r, py_val x, const py_args *a)
{
    py_val v[3];
    py_buf b = {0}, by = {0};
    kq_py_match_args(r, "indent", a, "width,first,blank", 0, v);
    const bool first = given(v[1]) && kq_py_truth(r, v[1]), blank = given(v[2]) && kq_py_truth(r, v[2]);
    if (given(v[0]) && v[0].kind == PY_STR)
        kq_py_put(r, &by, v[0].s->p, v[0].s->n);
    else
        for (int64_t n = given(v[0]) ? kq_py_as_int(r, v[0], "indent") : 4; n > 0; n--) {
            kq_py_put(r, &by, " ", 1);
            py_tick(r);
        }
    const py_str *s = kq_py_as_str(r, x, "indent");
    kq_py_put(r, &b, s->p, s->n);
    kq_py_put(r, &b, "\n", 1); /* without this the last line end would be lost */
    const py_list *lines = kq_py_splitlines(r, kq_py_buf_str(r, &b).s, false).l;
    b = (py_buf){0};
    for (size_t i = 0; i < lines->n; i++) {
        if (i)
            kq_py_put(r, &b, "\n", 1);
        if (i ? blank || lines->v[i].s->n : first)
            kq_py_put(r, &b, by.p, by.n);
        kq_py_put(r, &b, lines->v[i].s->p, lines->v[i].s->n);
    }
    return kq_py_buf_str(r, &b);
}

static py_val f_wordcount(py_run *r, py_val x, const py_args *a)
{
    py_val v[1];
    const py_str *s = kq_py_text(r, x);
    int64_t n = 0;
    kq_py_match_args(r, "wordcount", a, "", 0, v);
    kq_py_spend(r, s->n / 8);
    for (size_t i = 0, in = 0; i < s->n; i++) {
        const char c = s->p[i];
        if ((unsigned char)c >= 0x80)
            kq_py_fail(r, KQ_E_UNSUPPORTED, "wordcount of a text that is not ASCII");
        const bool word =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
        n += word && !in;
        in = word;
    }
    return py_int(n);
}

static py_val f_format(py_run *r, py_val x, const py_args *a)
{
    py_val args = kq_py_list(r, PY_TUPLE, a->n);
    if (a->n_kv)
        kq_py_fail(r, KQ_E_UNSUPPORTED, "format with arguments by name");
    for (size_t i = 0; i < a->n; i++)
        kq_py_push(r, args.l, a->v[i]);
    return kq_py_percent(r, plain(r, x, "formatted"), args);
}

const j_filter_entry kq_j_value_filters[] = {
    {"abs", f_abs},         {"capitalize", f_capitalize},
    {"count", f_length},    {"d", f_default},
    {"default", f_default}, {"e", f_escape},
    {"escape", f_escape},   {"float", f_float},
    {"format", f_format},   {"indent", f_indent},
    {"int", f_int},         {"length", f_length},
    {"lower", f_lower},     {"replace", f_replace},
    {"round", f_round},     {"safe", f_safe},
    {"string", f_string},   {"title", f_title},
    {"tojson", f_tojson},   {"trim", f_trim},
    {"upper", f_upper},     {"wordcount", f_wordcount},
    {NULL, NULL},
};
