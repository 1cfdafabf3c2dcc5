/* Filters of one value: text, numbers, JSON. jinja2/filters.py (3.1.6) is the referee; tojson is
 * transformers'. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "jinja/internal.h"

static bool given(j_val v)
{
    return v.kind != J_MISSING;
}

/* soft_str: what is no string becomes one. A string marked safe stays so. */
static j_val soft(j_run *r, j_val v)
{
    if (v.kind == J_STR)
        return v;
    j_buf b = {0};
    kq_j_put_str(r, &b, v);
    return kq_j_buf_str(r, &b);
}

static const j_str *plain(j_run *r, j_val v, const char *filter)
{
    kq_j_not_safe(r, v, filter);
    return kq_j_text(r, v);
}

static j_val f_trim(j_run *r, j_val x, const j_args *a)
{
    j_val v[1];
    kq_j_take(r, "trim", a, "chars", 0, v);
    j_val out =
        kq_j_strip(r, kq_j_text(r, x),
                   given(v[0]) && v[0].kind != J_NONE ? kq_j_want_str(r, v[0], "trim") : NULL, true, true);
    out.safe = x.kind == J_STR && x.safe;
    return out;
}

static j_val cased(j_run *r, j_val x, const j_args *a, j_case how, const char *name)
{
    j_val v[1];
    kq_j_take(r, name, a, "", 0, v);
    j_val out = kq_j_case(r, kq_j_text(r, x), how);
    out.safe = x.kind == J_STR && x.safe && how != J_FILTER_TITLE;
    return out;
}
static j_val f_upper(j_run *r, j_val x, const j_args *a)
{
    return cased(r, x, a, J_UPPER, "upper");
}
static j_val f_lower(j_run *r, j_val x, const j_args *a)
{
    return cased(r, x, a, J_LOWER, "lower");
}
static j_val f_capitalize(j_run *r, j_val x, const j_args *a)
{
    return cased(r, x, a, J_CAPITALIZE, "capitalize");
}
static j_val f_title(j_run *r, j_val x, const j_args *a)
{
    kq_j_not_safe(r, x, "given to title");
    return cased(r, x, a, J_FILTER_TITLE, "title");
}

static j_val f_replace(j_run *r, j_val x, const j_args *a)
{
    j_val v[3];
    kq_j_take(r, "replace", a, "old,new,count", 2, v);
    return kq_j_replace(r, kq_j_text(r, x), plain(r, v[0], "given to replace"),
                        plain(r, v[1], "given to replace"),
                        given(v[2]) && v[2].kind != J_NONE ? kq_j_want_int(r, v[2], "replace") : -1);
}

static j_val f_default(j_run *r, j_val x, const j_args *a)
{
    j_val v[2];
    kq_j_take(r, "default", a, "default_value,boolean", 0, v);
    const bool boolean = given(v[1]) && kq_j_truth(r, v[1]);
    return x.kind == J_UNDEFINED || (boolean && !kq_j_truth(r, x)) ? (given(v[0]) ? v[0] : kq_j_cstr(r, ""))
                                                                   : x;
}

static j_val f_string(j_run *r, j_val x, const j_args *a)
{
    j_val v[1];
    kq_j_take(r, "string", a, "", 0, v);
    return soft(r, x);
}

static j_val f_safe(j_run *r, j_val x, const j_args *a)
{
    j_val v[1], out = kq_j_str(r, kq_j_text(r, x)->p, kq_j_text(r, x)->n);
    kq_j_take(r, "safe", a, "", 0, v);
    out.safe = true;
    return out;
}

static j_val f_escape(j_run *r, j_val x, const j_args *a)
{
    j_val v[1];
    kq_j_take(r, "escape", a, "", 0, v);
    return kq_j_escape(r, x);
}

static j_val f_length(j_run *r, j_val x, const j_args *a)
{
    j_val v[1];
    kq_j_take(r, "length", a, "", 0, v);
    return j_int(kq_j_length(r, x));
}

/* ---- numbers ---- */

/* int(text): white space around, a sign, digits with single underscores. */
static bool whole_text(j_run *r, const j_str *s, int64_t *out)
{
    const j_str *t = kq_j_strip(r, s, NULL, true, true).s;
    size_t i = t->n && (*t->p == '-' || *t->p == '+');
    const bool minus = i && *t->p == '-';
    int64_t v = 0;
    if (i == t->n)
        return false;
    for (bool underscore = true; i < t->n; i++) {
        const char c = t->p[i];
        if ((unsigned char)c >= 0x80)
            kq_j_fail(r, KQ_E_UNSUPPORTED, "int of digits that are not ASCII");
        if (c == '_' && !underscore && i + 1 < t->n) {
            underscore = true;
            continue;
        }
        if (c < '0' || c > '9')
            return false;
        underscore = false;
        if (__builtin_mul_overflow(v, 10, &v) ||
            (minus ? __builtin_sub_overflow(v, c - '0', &v) : __builtin_add_overflow(v, c - '0', &v)))
            kq_j_fail(r, KQ_E_UNSUPPORTED, "an integer beyond 64 bits");
    }
    *out = v;
    return true;
}

/* float(text), but not "inf", "nan" and forms like "1." that are rare: those are refused. */
static bool real_text(j_run *r, const j_str *s, double *out)
{
    const j_str *t = kq_j_strip(r, s, NULL, true, true).s;
    const size_t sign = t->n && (*t->p == '-' || *t->p == '+');
    if (t->n > sign && kq_j_parse_float(t->p + sign, t->n - sign, out) && t->p[sign] != '-') {
        *out = sign && *t->p == '-' ? -*out : *out;
        return true;
    }
    for (size_t i = 0; i < t->n; i++)
        if (!strchr("0123456789.eE+-_", t->p[i]) && !strchr("infatyINFATY", t->p[i]))
            return false;
    if (t->n)
        kq_j_fail(r, KQ_E_UNSUPPORTED, "a number written as '%.*s'", t->n < 40 ? (int)t->n : 40, t->p);
    return false;
}

static j_val truncated(j_run *r, double d, j_val otherwise)
{
    if (isnan(d) || isinf(d))
        return otherwise;
    if (!(d > -0x1p63 && d < 0x1p63))
        kq_j_fail(r, KQ_E_UNSUPPORTED, "an integer beyond 64 bits");
    return j_int((int64_t)d);
}

static j_val f_int(j_run *r, j_val x, const j_args *a)
{
    j_val v[2];
    int64_t i;
    double d;
    kq_j_take(r, "int", a, "default,base", 0, v);
    const j_val otherwise = given(v[0]) ? v[0] : j_int(0);
    if (given(v[1]) && (v[1].kind != J_INT || v[1].i != 10))
        kq_j_fail(r, KQ_E_UNSUPPORTED, "int with a base other than 10");
    if (x.kind == J_UNDEFINED)
        j_type_error(r, "%.80s is undefined", x.why ? x.why : "a value");
    if (x.kind == J_FLOAT)
        return truncated(r, x.d, otherwise);
    if (x.kind == J_INT || x.kind == J_BOOL)
        return j_int(j_whole(x));
    if (x.kind != J_STR)
        return otherwise;
    if (whole_text(r, x.s, &i))
        return j_int(i);
    return real_text(r, x.s, &d) ? truncated(r, d, otherwise) : otherwise;
}

static j_val f_float(j_run *r, j_val x, const j_args *a)
{
    j_val v[1];
    double d;
    kq_j_take(r, "float", a, "default", 0, v);
    if (x.kind == J_UNDEFINED)
        j_type_error(r, "%.80s is undefined", x.why ? x.why : "a value");
    if (j_is_number(x))
        return j_float(j_real(x));
    if (x.kind == J_STR && real_text(r, x.s, &d))
        return j_float(d);
    return given(v[0]) ? v[0] : j_float(0);
}

static j_val f_abs(j_run *r, j_val x, const j_args *a)
{
    j_val v[1];
    kq_j_take(r, "abs", a, "", 0, v);
    if (!j_is_number(x))
        j_type_error(r, "abs wants a number, not %s", kq_j_type_name(x));
    return x.kind == J_FLOAT ? j_float(fabs(x.d)) : kq_j_negate(r, j_int(j_whole(x)), j_whole(x) < 0);
}

static j_val f_round(j_run *r, j_val x, const j_args *a)
{
    j_val v[2];
    char text[400];
    kq_j_take(r, "round", a, "precision,method", 0, v);
    const int64_t precision = given(v[0]) ? kq_j_want_int(r, v[0], "round") : 0;
    const char *method = given(v[1]) ? (kq_j_is(v[1], "common")  ? "common"
                                        : kq_j_is(v[1], "ceil")  ? "ceil"
                                        : kq_j_is(v[1], "floor") ? "floor"
                                                                 : NULL)
                                     : "common";
    if (!method)
        j_type_error(r, "round: the method is common, ceil or floor");
    if (!j_is_number(x))
        j_type_error(r, "round wants a number, not %s", kq_j_type_name(x));
    if (precision < 0 || precision > 15)
        kq_j_fail(r, KQ_E_UNSUPPORTED, "round to %lld places", (long long)precision);
    if (*method == 'c' && method[1] == 'o') {
        if (x.kind != J_FLOAT)
            return j_int(j_whole(x));
        if (!isfinite(x.d))
            kq_j_fail(r, KQ_E_UNSUPPORTED, "round of a number that is not finite");
        /* correctly rounded, as Python's; read back in the same locale */
        snprintf(text, sizeof text, "%.*f", (int)precision, x.d);
        return j_float(strtod(text, NULL));
    }
    const double scale = pow(10, (double)precision), y = j_real(x) * scale;
    if (!(fabs(y) < 0x1p53))
        kq_j_fail(r, KQ_E_UNSUPPORTED, "round of a number so large");
    return j_float((*method == 'f' ? floor(y) : ceil(y)) / scale);
}

/* ---- JSON, lines ---- */

static j_val f_tojson(j_run *r, j_val x, const j_args *a)
{
    j_val v[4];
    j_buf b = {0};
    kq_j_take(r, "tojson", a, "ensure_ascii,indent,separators,sort_keys", 0, v);
    j_dump how = {.ascii = given(v[0]) && kq_j_truth(r, v[0]), .sort = given(v[3]) && kq_j_truth(r, v[3])};
    const bool indented = given(v[1]) && v[1].kind != J_NONE;
    how.item = kq_j_cstr(r, indented ? "," : ", ").s;
    how.key = kq_j_cstr(r, ": ").s;
    if (indented && v[1].kind == J_STR) {
        how.indent = v[1].s;
    } else if (indented) {
        const int64_t n = kq_j_want_int(r, v[1], "tojson");
        char *spaces = kq_j_alloc(r, n > 0 && n < 1000 ? (size_t)n + 1 : 1, 1);
        if (n >= 1000)
            kq_j_fail(r, KQ_E_ARG, "tojson: an indent of %lld", (long long)n);
        memset(spaces, ' ', n > 0 ? (size_t)n : 0);
        how.indent = kq_j_str(r, spaces, n > 0 ? (size_t)n : 0).s;
    }
    if (given(v[2]) && v[2].kind != J_NONE) {
        if (!j_is_list(v[2]) || v[2].l->n != 2)
            j_type_error(r, "tojson: separators are two strings");
        how.item = kq_j_want_str(r, v[2].l->v[0], "tojson");
        how.key = kq_j_want_str(r, v[2].l->v[1], "tojson");
    }
    kq_j_dump(r, &b, x, &how, 0);
    return kq_j_buf_str(r, &b);
}

static j_val f_indent(j_run *r, j_val x, const j_args *a)
{
    j_val v[3];
    j_buf b = {0}, by = {0};
    kq_j_take(r, "indent", a, "width,first,blank", 0, v);
    const bool first = given(v[1]) && kq_j_truth(r, v[1]), blank = given(v[2]) && kq_j_truth(r, v[2]);
    if (given(v[0]) && v[0].kind == J_STR)
        kq_j_put(r, &by, v[0].s->p, v[0].s->n);
    else
        for (int64_t n = given(v[0]) ? kq_j_want_int(r, v[0], "indent") : 4; n > 0; n--) {
            kq_j_put(r, &by, " ", 1);
            j_tick(r);
        }
    const j_str *s = kq_j_want_str(r, x, "indent");
    kq_j_put(r, &b, s->p, s->n);
    kq_j_put(r, &b, "\n", 1); /* so that the last line end is kept */
    const j_list *lines = kq_j_splitlines(r, kq_j_buf_str(r, &b).s, false).l;
    b = (j_buf){0};
    for (size_t i = 0; i < lines->n; i++) {
        if (i)
            kq_j_put(r, &b, "\n", 1);
        if (i ? blank || lines->v[i].s->n : first)
            kq_j_put(r, &b, by.p, by.n);
        kq_j_put(r, &b, lines->v[i].s->p, lines->v[i].s->n);
    }
    return kq_j_buf_str(r, &b);
}

static j_val f_wordcount(j_run *r, j_val x, const j_args *a)
{
    j_val v[1];
    const j_str *s = kq_j_text(r, x);
    int64_t n = 0;
    kq_j_take(r, "wordcount", a, "", 0, v);
    kq_j_spend(r, s->n / 8);
    for (size_t i = 0, in = 0; i < s->n; i++) {
        const char c = s->p[i];
        if ((unsigned char)c >= 0x80)
            kq_j_fail(r, KQ_E_UNSUPPORTED, "wordcount of a text that is not ASCII");
        const bool word =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
        n += word && !in;
        in = word;
    }
    return j_int(n);
}

static j_val f_format(j_run *r, j_val x, const j_args *a)
{
    j_val args = kq_j_list(r, J_TUPLE, a->n);
    if (a->n_kv)
        kq_j_fail(r, KQ_E_UNSUPPORTED, "format with arguments by name");
    for (size_t i = 0; i < a->n; i++)
        kq_j_push(r, args.l, a->v[i]);
    return kq_j_percent(r, plain(r, x, "formatted"), args);
}

static const j_filter_entry filters[] = {
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
};
enum { N_FILTERS = sizeof filters / sizeof *filters };

int kq_j_filter_find(const char *name)
{
    for (int i = 0; i < N_FILTERS; i++)
        if (!strcmp(filters[i].name, name))
            return i;
    for (int i = 0; kq_j_list_filters[i].name; i++)
        if (!strcmp(kq_j_list_filters[i].name, name))
            return N_FILTERS + i;
    return -1;
}

j_val kq_j_filter(j_run *r, int filter, j_val v, const j_args *a)
{
    j_tick(r);
    return filter < N_FILTERS ? filters[filter].run(r, v, a)
                              : kq_j_list_filters[filter - N_FILTERS].run(r, v, a);
}
