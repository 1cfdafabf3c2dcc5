/* Methods of strings, lists and objects, as Python has them. A method of Python's that is not built here is
 * refused by name, so that a template never gets a wrong answer. */
#include "pyvalue/methods.h"

#include <string.h>

#include "pyvalue/print.h"
#include "pyvalue/str.h"
#include "pyvalue/unicode.h"

/* ---- what has which attribute in Python ---- */

static bool one_of(const char *name, const char *list)
{
    const size_t n = strlen(name);
    if (!n || strchr(name, ' '))
        return false;
    for (const char *s = list; (s = strstr(s, name)); s += n)
        if (s[-1] == ' ' && s[n] == ' ')
            return true;
    return false;
}

py_known kq_py_has_attribute(py_val v, const char *name)
{
    static const char str_here[] = " capitalize count endswith find format index isalnum isalpha isdigit "
                                   "islower isspace isupper join lower lstrip partition removeprefix"
                                   " removesuffix replace rfind rindex rpartition rsplit rstrip split "
                                   "splitlines startswith strip title upper ";
    static const char str_other[] =
        " casefold center encode expandtabs format_map isascii isdecimal isidentifier isnumeric isprintable "
        "istitle ljust maketrans rjust swapcase"
        " translate zfill ";
    static const char list_hidden[] = " append clear extend insert pop remove reverse sort ";
    static const char dict_hidden[] = " clear pop popitem setdefault update ";
    static const char int_other[] = " as_integer_ratio bit_count bit_length conjugate denominator from_bytes "
                                    "imag is_integer numerator real to_bytes ";
    static const char float_other[] = " as_integer_ratio conjugate fromhex hex imag is_integer real ";
    static const char iter_other[] =
        " close send throw gi_code gi_frame gi_running gi_suspended gi_yieldfrom ";
#define KNOWN(here, hidden, other)         \
    (one_of(name, here)     ? PY_ATTRIBUTE \
     : one_of(name, hidden) ? PY_HIDDEN    \
     : one_of(name, other)  ? PY_NOT_HERE  \
                            : PY_NO_ATTRIBUTE)
    switch (v.kind) {
    case PY_STR: return v.safe ? PY_NOT_HERE : KNOWN(str_here, " ", str_other);
    case PY_LIST: return KNOWN(" count index copy ", list_hidden, " ");
    case PY_TUPLE: return KNOWN(" count index ", " ", " ");
    case PY_DICT: return KNOWN(" get items keys values copy ", dict_hidden, " fromkeys ");
    case PY_BOOL:
    case PY_INT: return KNOWN(" ", " ", int_other);
    case PY_FLOAT: return KNOWN(" ", " ", float_other);
    case PY_RANGE: return KNOWN(" ", " ", " count index start step stop ");
    case PY_VIEW: return KNOWN(" ", " ", " isdisjoint mapping ");
    case PY_ITER: return KNOWN(" ", " ", iter_other);
    case PY_NONE: return PY_NO_ATTRIBUTE;
    default: return PY_NOT_HERE;
    }
}

/* ---- strings ---- */

static const char *find(py_run *r, const py_str *s, size_t from, const py_str *what)
{
    return kq_py_find(r, s->p + from, s->n - from, what);
}

static const char *find_last(py_run *r, const py_str *s, size_t to, const py_str *what)
{
    for (size_t i = to >= what->n ? to - what->n + 1 : 0, paid = 0; i-- > 0; paid += 1 + what->n / 64) {
        if (paid >= 64) {
            kq_py_spend(r, paid);
            paid = 0;
        }
        if (!memcmp(s->p + i, what->p, what->n))
            return s->p + i;
    }
    return NULL;
}

static py_val part(py_run *r, const char *from, const char *to)
{
    return kq_py_str(r, from, (size_t)(to - from));
}

static void reverse(py_list *l)
{
    for (size_t i = 0; i < l->n / 2; i++) {
        const py_val v = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = v;
    }
}

static py_val split_space(py_run *r, const py_str *s, int64_t most)
{
    py_val out = kq_py_list(r, PY_LIST, 0);
    size_t at = 0, size;
    kq_py_spend(r, s->n / 8);
    for (;;) {
        while (at < s->n && kq_py_is_space(kq_py_code_point(s->p + at, &size)))
            at += size;
        if (at == s->n)
            return out;
        const size_t start = at;
        if (most-- == 0) { /* the rest of the text is the last item, without the white space at its end */
            const py_str rest = {s->p + start, s->n - start, SIZE_MAX};
            kq_py_push(r, out.l, kq_py_strip(r, &rest, NULL, false, true));
            return out;
        }
        while (at < s->n && !kq_py_is_space(kq_py_code_point(s->p + at, &size)))
            at += size;
        kq_py_push(r, out.l, kq_py_str(r, s->p + start, at - start));
    }
}

static py_val split(py_run *r, const py_str *s, const py_args *a, bool right)
{
    py_val v[2];
    kq_py_match_args(r, "split", a, "sep,maxsplit", 0, v);
    int64_t most = v[1].kind == PY_MISSING ? -1 : kq_py_as_int(r, v[1], "split");
    if (v[0].kind == PY_MISSING || v[0].kind == PY_NONE) {
        if (right && most >= 0)
            kq_py_fail(r, KQ_E_UNSUPPORTED, "rsplit at white space with maxsplit");
        return split_space(r, s, most);
    }
    const py_str *by = kq_py_as_str(r, v[0], "split");
    if (!by->n)
        py_type_error(r, "split: the separator is empty");
    py_val out = kq_py_list(r, PY_LIST, 0);
    size_t at = right ? s->n : 0;
    kq_py_spend(r, s->n / 16);
    for (const char *p; most && (p = right ? find_last(r, s, at, by) : find(r, s, at, by)); most--) {
        kq_py_push(r, out.l, right ? part(r, p + by->n, s->p + at) : part(r, s->p + at, p));
        at = (size_t)(p - s->p) + (right ? 0 : by->n);
    }
    kq_py_push(r, out.l, right ? part(r, s->p, s->p + at) : part(r, s->p + at, s->p + s->n));
    if (right)
        reverse(out.l);
    return out;
}

static bool has_affix(py_run *r, const py_str *s, py_val what, bool end)
{
    if (what.kind == PY_TUPLE) {
        for (size_t i = 0; i < what.l->n; i++)
            if (what.l->v[i].kind == PY_TUPLE
                    ? (py_type_error(r, "startswith wants a tuple of strings"), false)
                    : has_affix(r, s, what.l->v[i], end))
                return true;
        return false;
    }
    const py_str *x = kq_py_as_str(r, what, end ? "endswith" : "startswith");
    return x->n <= s->n && !memcmp(end ? s->p + s->n - x->n : s->p, x->p, x->n);
}

static py_val count(py_run *r, const py_str *s, const py_str *what)
{
    int64_t n = 0;
    kq_py_spend(r, s->n / 16);
    if (!what->n)
        return py_int((int64_t)kq_py_chars(s) + 1);
    for (const char *p = s->p; (p = kq_py_find(r, p, (size_t)(s->p + s->n - p), what)); p += what->n)
        n++;
    return py_int(n);
}

static py_val find_index(py_run *r, const py_str *s, const py_str *what, const char *name)
{
    const bool last = *name == 'r';
    kq_py_spend(r, s->n / (last ? 2 : 16) + 1);
    const char *p = last ? find_last(r, s, s->n, what) : find(r, s, 0, what);
    if (!p && strstr(name, "index"))
        py_type_error(r, "%s: the substring is not there", name);
    const py_str before = {s->p, p ? (size_t)(p - s->p) : 0, SIZE_MAX};
    return py_int(p ? (int64_t)kq_py_chars(&before) : -1);
}

static py_val partition(py_run *r, const py_str *s, const py_str *by, bool right)
{
    py_val out = kq_py_list(r, PY_TUPLE, 3);
    if (!by->n)
        py_type_error(r, "partition: the separator is empty");
    kq_py_spend(r, s->n / 2);
    const char *p = right ? find_last(r, s, s->n, by) : find(r, s, 0, by), *end = s->p + s->n;
    kq_py_push(r, out.l, p ? part(r, s->p, p) : right ? kq_py_cstr(r, "") : part(r, s->p, end));
    kq_py_push(r, out.l, p ? part(r, p, p + by->n) : kq_py_cstr(r, ""));
    kq_py_push(r, out.l, p ? part(r, p + by->n, end) : right ? part(r, s->p, end) : kq_py_cstr(r, ""));
    return out;
}

/* The methods isdigit, isalpha, isspace and isalnum. Of the characters beyond ASCII only letters and white
 * space are known; any other one is refused. */
static bool all_of(py_run *r, const py_str *s, const char *name)
{
    size_t size;
    kq_py_spend(r, s->n / 8);
    for (size_t at = 0; at < s->n; at += size) {
        const uint32_t cp = kq_py_code_point(s->p + at, &size);
        const bool digit = cp >= '0' && cp <= '9', alpha = kq_py_is_alpha(cp);
        if (cp >= 0x80 && !alpha && strcmp(name, "isspace") && strcmp(name, "isalpha"))
            kq_py_fail(r, KQ_E_UNSUPPORTED, "%s of U+%04X is not supported", name, cp);
        if (!(!strcmp(name, "isdigit")   ? digit
              : !strcmp(name, "isalpha") ? alpha
              : !strcmp(name, "isspace") ? kq_py_is_space(cp)
                                         : alpha || digit))
            return false;
    }
    return s->n > 0;
}

/* "{} {0} {name}".format(...), without conversions ("!r") and format specifications (":>8"). */
static py_val format(py_run *r, const py_str *s, const py_args *a)
{
    py_buf b = {0};
    size_t next = 0;
    for (size_t i = 0; i < s->n; i++) {
        const char c = s->p[i];
        if ((c == '{' || c == '}') && i + 1 < s->n && s->p[i + 1] == c) {
            kq_py_put(r, &b, &c, 1);
            i++;
            continue;
        }
        if (c == '}')
            py_type_error(r, "format: a single '}'");
        if (c != '{') {
            kq_py_put(r, &b, &c, 1);
            continue;
        }
        const char *from = s->p + i + 1, *to = memchr(from, '}', s->n - i - 1);
        if (!to)
            py_type_error(r, "format: a single '{'");
        const size_t n = (size_t)(to - from);
        const py_val *v = NULL;
        if (!n && next != SIZE_MAX && next < a->n)
            v = &a->v[next++];
        else if (n == 1 && *from >= '0' && *from <= '9' && next == 0 && (size_t)(*from - '0') < a->n)
            v = &a->v[*from - '0'];
        for (size_t k = 0; k < a->n_kv && !v && n; k++)
            if (strlen(a->key[k]) == n && !memcmp(a->key[k], from, n))
                v = &a->kv[k];
        if (!v)
            kq_py_fail(r, KQ_E_UNSUPPORTED, "format: '{%.*s}' is not supported, or not given",
                       n < 40 ? (int)n : 40, from);
        kq_py_not_safe(r, *v, "formatted");
        kq_py_put_str(r, &b, *v);
        i = (size_t)(to - s->p);
        py_tick(r);
    }
    return kq_py_buf_str(r, &b);
}

static py_val strip(py_run *r, const py_str *s, const py_args *a, const char *name)
{
    py_val v[1];
    kq_py_match_args(r, name, a, "chars", 0, v);
    const py_str *chars =
        v[0].kind == PY_MISSING || v[0].kind == PY_NONE ? NULL : kq_py_as_str(r, v[0], name);
    return kq_py_strip(r, s, chars, name[0] != 'r', name[0] != 'l');
}

static py_val remove_affix(py_run *r, const py_str *s, py_val what, bool end)
{
    const py_str *x = kq_py_as_str(r, what, "removeprefix");
    const bool there = has_affix(r, s, what, end);
    return kq_py_str(r, s->p + (there && !end ? x->n : 0), s->n - (there ? x->n : 0));
}

static py_val str_method(py_run *r, const py_str *s, const char *name, const py_args *a)
{
    static const struct {
        const char *name;
        py_case how;
    } cases[] = {
        {"lower", PY_LOWER}, {"upper", PY_UPPER}, {"title", PY_TITLE}, {"capitalize", PY_CAPITALIZE}};
    py_val v[3];
    if (a->n_kv && strcmp(name, "split") && strcmp(name, "rsplit") && strcmp(name, "splitlines") &&
        strcmp(name, "format"))
        py_type_error(r, "%s takes no arguments by name", name); /* Python up to 3.12 has none either */
    if (!strcmp(name, "strip") || !strcmp(name, "lstrip") || !strcmp(name, "rstrip"))
        return strip(r, s, a, name);
    if (!strcmp(name, "split") || !strcmp(name, "rsplit"))
        return split(r, s, a, *name == 'r');
    if (!strcmp(name, "format"))
        return format(r, s, a);
    if (!strcmp(name, "splitlines")) {
        kq_py_match_args(r, name, a, "keepends", 0, v);
        return kq_py_splitlines(r, s, v[0].kind != PY_MISSING && kq_py_truth(r, v[0]));
    }
    if (!strcmp(name, "replace")) {
        kq_py_match_args(r, name, a, "old,new,count", 2, v);
        return kq_py_replace(r, s, kq_py_as_str(r, v[0], name), kq_py_as_str(r, v[1], name),
                             v[2].kind == PY_MISSING ? -1 : kq_py_as_int(r, v[2], name));
    }
    for (size_t i = 0; i < 4; i++)
        if (!strcmp(name, cases[i].name)) {
            kq_py_match_args(r, name, a, "", 0, v);
            return kq_py_case(r, s, cases[i].how);
        }
    if (!strncmp(name, "is", 2)) {
        kq_py_match_args(r, name, a, "", 0, v);
        return py_bool(!strcmp(name, "isupper") || !strcmp(name, "islower")
                           ? kq_py_all_case(r, s, name[2] == 'u')
                           : all_of(r, s, name));
    }
    if (a->n > 1)
        kq_py_fail(r, KQ_E_UNSUPPORTED, "%s with a start and an end is not supported", name);
    kq_py_match_args(r, name, a, "x", 1, v);
    if (!strcmp(name, "startswith") || !strcmp(name, "endswith"))
        return py_bool(has_affix(r, s, v[0], *name == 'e'));
    if (!strcmp(name, "join"))
        return kq_py_join(r, s, kq_py_items(r, v[0]), false);
    if (!strcmp(name, "removeprefix") || !strcmp(name, "removesuffix"))
        return remove_affix(r, s, v[0], name[6] == 's');
    const py_str *x = kq_py_as_str(r, v[0], name);
    if (!strcmp(name, "count"))
        return count(r, s, x);
    if (!strcmp(name, "partition") || !strcmp(name, "rpartition"))
        return partition(r, s, x, *name == 'r');
    return find_index(r, s, x, name);
}

/* ---- lists and objects ---- */

static py_val list_method(py_run *r, py_val self, const char *name, const py_args *a)
{
    py_val v[1];
    if (!strcmp(name, "copy")) {
        kq_py_match_args(r, name, a, "", 0, v);
        return (py_val){.kind = PY_LIST, .l = kq_py_list_of(r, self)};
    }
    if (a->n > 1)
        kq_py_fail(r, KQ_E_UNSUPPORTED, "%s with a start and an end is not supported", name);
    kq_py_match_args(r, name, a, "x", 1, v);
    int64_t n = 0;
    for (size_t i = 0; i < self.l->n; i++)
        if (kq_py_equal(r, self.l->v[i], v[0])) {
            if (*name == 'i')
                return py_int((int64_t)i);
            n++;
        }
    if (*name == 'i')
        py_type_error(r, "index: the value is not in the list");
    return py_int(n);
}

static py_val dict_method(py_run *r, const py_dict *d, const char *name, const py_args *a)
{
    py_val v[2];
    if (!strcmp(name, "get")) {
        kq_py_match_args(r, name, a, "key,default", 1, v);
        if (a->n_kv)
            py_type_error(r, "get takes no arguments by name");
        const py_val *found = kq_py_dict_get(r, d, v[0]);
        return found ? *found : v[1].kind == PY_MISSING ? py_none() : v[1];
    }
    kq_py_match_args(r, name, a, "", 0, v);
    if (!strcmp(name, "copy")) {
        py_val out = kq_py_dict(r, d->n);
        for (size_t i = 0; i < d->n; i++)
            kq_py_dict_set(r, out.m, d->key[i], d->value[i]);
        return out;
    }
    py_view *view = kq_py_alloc(r, 1, sizeof *view);
    view->name = *name == 'i' ? "dict_items" : *name == 'k' ? "dict_keys" : "dict_values";
    for (size_t i = 0; i < d->n; i++)
        kq_py_push(r, &view->items,
                   *name == 'i'   ? kq_py_pair(r, d->key[i], d->value[i])
                   : *name == 'k' ? d->key[i]
                                  : d->value[i]);
    return (py_val){.kind = PY_VIEW, .view = view};
}

py_val kq_py_call_method(py_run *r, const py_method *m, const py_args *a)
{
    switch (m->self.kind) {
    case PY_STR: return str_method(r, m->self.s, m->name, a);
    case PY_LIST:
    case PY_TUPLE: return list_method(r, m->self, m->name, a);
    case PY_DICT: return dict_method(r, m->self.m, m->name, a);
    default:
        kq_py_fail(r, KQ_E_UNSUPPORTED, "'%.40s' of a value of type %s is not supported", m->name,
                   kq_py_type_name(m->self));
    }
}
