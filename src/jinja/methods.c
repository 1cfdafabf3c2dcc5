/* Methods of strings, lists and objects, as Python has them. */
#include <stdio.h>

#include "jinja/internal.h"

void kq_j_take(j_run *r, const char *what, const j_args *a, const char *names, size_t needed, j_val *v)
{
    size_t n = 0, used = 0;
    for (const char *s = names; *s; n++) {
        const size_t size = strcspn(s, ",");
        v[n] = (j_val){.kind = J_MISSING};
        if (n < a->n)
            v[n] = a->v[n];
        for (size_t i = 0; i < a->n_kv; i++)
            if (strlen(a->key[i]) == size && !memcmp(a->key[i], s, size)) {
                if (n < a->n)
                    j_type_error(r, "%s: the argument '%s' is given twice", what, a->key[i]);
                v[n] = a->kv[i];
                used++;
            }
        if (n < needed && v[n].kind == J_MISSING)
            j_type_error(r, "%s: an argument is missing", what);
        s += size + (s[size] == ',');
    }
    if (a->n > n || used < a->n_kv)
        j_type_error(r, "%s: too many arguments, or one of an unknown name", what);
}

int64_t kq_j_want_int(j_run *r, j_val v, const char *what)
{
    if (v.kind != J_INT && v.kind != J_BOOL)
        j_type_error(r, "%s wants an integer, not %s", what, kq_j_type_name(v));
    return j_whole(v);
}

const j_str *kq_j_want_str(j_run *r, j_val v, const char *what)
{
    if (v.kind != J_STR)
        j_type_error(r, "%s wants a string, not %s", what, kq_j_type_name(v));
    kq_j_not_safe(r, v, "an argument");
    return v.s;
}

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

j_known kq_j_method_known(j_val v, const char *name)
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
#define KNOWN(here, hidden, other)        \
    (one_of(name, here)     ? J_ATTRIBUTE \
     : one_of(name, hidden) ? J_HIDDEN    \
     : one_of(name, other)  ? J_NOT_HERE  \
                            : J_NO_ATTRIBUTE)
    switch (v.kind) {
    case J_STR: return v.safe ? J_NOT_HERE : KNOWN(str_here, " ", str_other);
    case J_LIST: return KNOWN(" count index copy ", list_hidden, " ");
    case J_TUPLE: return KNOWN(" count index ", " ", " ");
    case J_DICT: return KNOWN(" get items keys values copy ", dict_hidden, " fromkeys ");
    case J_BOOL:
    case J_INT: return KNOWN(" ", " ", int_other);
    case J_FLOAT: return KNOWN(" ", " ", float_other);
    case J_RANGE: return KNOWN(" ", " ", " count index start step stop ");
    case J_VIEW: return KNOWN(" ", " ", " isdisjoint mapping ");
    case J_ITER: return KNOWN(" ", " ", iter_other);
    case J_NONE: return J_NO_ATTRIBUTE;
    default: return J_NOT_HERE;
    }
}

/* ---- strings ---- */

static const char *find(j_run *r, const j_str *s, size_t from, const j_str *what)
{
    return kq_j_find(r, s->p + from, s->n - from, what);
}

static const char *find_last(j_run *r, const j_str *s, size_t to, const j_str *what)
{
    for (size_t i = to >= what->n ? to - what->n + 1 : 0, paid = 0; i-- > 0; paid += 1 + what->n / 64) {
        if (paid >= 64) {
            kq_j_spend(r, paid);
            paid = 0;
        }
        if (!memcmp(s->p + i, what->p, what->n))
            return s->p + i;
    }
    return NULL;
}

static j_val part(j_run *r, const char *from, const char *to)
{
    return kq_j_str(r, from, (size_t)(to - from));
}

j_val kq_j_replace(j_run *r, const j_str *s, const j_str *old, const j_str *by, int64_t count)
{
    j_buf b = {0};
    size_t at = 0, size;
    if (!old->n) { /* between all characters */
        while (count--) {
            kq_j_put(r, &b, by->p, by->n);
            if (at == s->n)
                break;
            kq_j_cp(s->p + at, &size);
            kq_j_put(r, &b, s->p + at, size);
            at += size;
            j_tick(r);
        }
        kq_j_put(r, &b, s->p + at, s->n - at);
        return kq_j_buf_str(r, &b);
    }
    kq_j_spend(r, s->n / 16);
    for (const char *p; count && (p = find(r, s, at, old)); count--) {
        kq_j_put(r, &b, s->p + at, (size_t)(p - s->p) - at);
        kq_j_put(r, &b, by->p, by->n);
        at = (size_t)(p - s->p) + old->n;
        j_tick(r);
    }
    kq_j_put(r, &b, s->p + at, s->n - at);
    return kq_j_buf_str(r, &b);
}

static void reverse(j_list *l)
{
    for (size_t i = 0; i < l->n / 2; i++) {
        const j_val v = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = v;
    }
}

static j_val split_space(j_run *r, const j_str *s, int64_t most)
{
    j_val out = kq_j_list(r, J_LIST, 0);
    size_t at = 0, size;
    kq_j_spend(r, s->n / 8);
    for (;;) {
        while (at < s->n && kq_j_space(kq_j_cp(s->p + at, &size)))
            at += size;
        if (at == s->n)
            return out;
        const size_t start = at;
        if (most-- == 0) { /* the rest, without the white space at its end */
            const j_str rest = {s->p + start, s->n - start, SIZE_MAX};
            kq_j_push(r, out.l, kq_j_strip(r, &rest, NULL, false, true));
            return out;
        }
        while (at < s->n && !kq_j_space(kq_j_cp(s->p + at, &size)))
            at += size;
        kq_j_push(r, out.l, kq_j_str(r, s->p + start, at - start));
    }
}

static j_val split(j_run *r, const j_str *s, const j_args *a, bool right)
{
    j_val v[2];
    kq_j_take(r, "split", a, "sep,maxsplit", 0, v);
    int64_t most = v[1].kind == J_MISSING ? -1 : kq_j_want_int(r, v[1], "split");
    if (v[0].kind == J_MISSING || v[0].kind == J_NONE) {
        if (right && most >= 0)
            kq_j_fail(r, KQ_E_UNSUPPORTED, "rsplit at white space with maxsplit");
        return split_space(r, s, most);
    }
    const j_str *by = kq_j_want_str(r, v[0], "split");
    if (!by->n)
        j_type_error(r, "split: the separator is empty");
    j_val out = kq_j_list(r, J_LIST, 0);
    size_t at = right ? s->n : 0;
    kq_j_spend(r, s->n / 16);
    for (const char *p; most && (p = right ? find_last(r, s, at, by) : find(r, s, at, by)); most--) {
        kq_j_push(r, out.l, right ? part(r, p + by->n, s->p + at) : part(r, s->p + at, p));
        at = (size_t)(p - s->p) + (right ? 0 : by->n);
    }
    kq_j_push(r, out.l, right ? part(r, s->p, s->p + at) : part(r, s->p + at, s->p + s->n));
    if (right)
        reverse(out.l);
    return out;
}

static bool line_end(uint32_t cp)
{
    return (cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
}

j_val kq_j_splitlines(j_run *r, const j_str *s, bool keep)
{
    j_val out = kq_j_list(r, J_LIST, 0);
    size_t start = 0, size;
    kq_j_spend(r, s->n / 8);
    for (size_t at = 0; at < s->n;) {
        const uint32_t cp = kq_j_cp(s->p + at, &size);
        size_t end = at;
        at += size;
        if (!line_end(cp))
            continue;
        at += cp == '\r' && at < s->n && s->p[at] == '\n';
        end = keep ? at : end;
        kq_j_push(r, out.l, kq_j_str(r, s->p + start, end - start));
        start = at;
    }
    if (start < s->n)
        kq_j_push(r, out.l, kq_j_str(r, s->p + start, s->n - start));
    return out;
}

j_val kq_j_join(j_run *r, const j_str *by, const j_list *items, bool convert)
{
    j_buf b = {0};
    for (size_t i = 0; i < items->n; i++) {
        if (!convert && items->v[i].kind != J_STR)
            j_type_error(r, "join wants strings; item %zu is of type %s", i, kq_j_type_name(items->v[i]));
        kq_j_not_safe(r, items->v[i], "joined");
        if (i)
            kq_j_put(r, &b, by->p, by->n);
        kq_j_put_str(r, &b, items->v[i]);
        j_tick(r);
    }
    return kq_j_buf_str(r, &b);
}

static bool has_affix(j_run *r, const j_str *s, j_val what, bool end)
{
    if (what.kind == J_TUPLE) {
        for (size_t i = 0; i < what.l->n; i++)
            if (what.l->v[i].kind == J_TUPLE ? (j_type_error(r, "startswith wants a tuple of strings"), false)
                                             : has_affix(r, s, what.l->v[i], end))
                return true;
        return false;
    }
    const j_str *x = kq_j_want_str(r, what, end ? "endswith" : "startswith");
    return x->n <= s->n && !memcmp(end ? s->p + s->n - x->n : s->p, x->p, x->n);
}

static j_val count(j_run *r, const j_str *s, const j_str *what)
{
    int64_t n = 0;
    kq_j_spend(r, s->n / 16);
    if (!what->n)
        return j_int((int64_t)kq_j_chars(s) + 1);
    for (const char *p = s->p; (p = kq_j_find(r, p, (size_t)(s->p + s->n - p), what)); p += what->n)
        n++;
    return j_int(n);
}

static j_val find_index(j_run *r, const j_str *s, const j_str *what, const char *name)
{
    const bool last = *name == 'r';
    kq_j_spend(r, s->n / (last ? 2 : 16) + 1);
    const char *p = last ? find_last(r, s, s->n, what) : find(r, s, 0, what);
    if (!p && strstr(name, "index"))
        j_type_error(r, "%s: the substring is not there", name);
    const j_str before = {s->p, p ? (size_t)(p - s->p) : 0, SIZE_MAX};
    return j_int(p ? (int64_t)kq_j_chars(&before) : -1);
}

static j_val partition(j_run *r, const j_str *s, const j_str *by, bool right)
{
    j_val out = kq_j_list(r, J_TUPLE, 3);
    if (!by->n)
        j_type_error(r, "partition: the separator is empty");
    kq_j_spend(r, s->n / 2);
    const char *p = right ? find_last(r, s, s->n, by) : find(r, s, 0, by), *end = s->p + s->n;
    kq_j_push(r, out.l, p ? part(r, s->p, p) : right ? kq_j_cstr(r, "") : part(r, s->p, end));
    kq_j_push(r, out.l, p ? part(r, p, p + by->n) : kq_j_cstr(r, ""));
    kq_j_push(r, out.l, p ? part(r, p + by->n, end) : right ? part(r, s->p, end) : kq_j_cstr(r, ""));
    return out;
}

/* isdigit and friends: beyond ASCII only letters and marks are told apart. */
static bool all_of(j_run *r, const j_str *s, const char *name)
{
    size_t size;
    kq_j_spend(r, s->n / 8);
    for (size_t at = 0; at < s->n; at += size) {
        const uint32_t cp = kq_j_cp(s->p + at, &size);
        const bool digit = cp >= '0' && cp <= '9', alpha = kq_j_alpha(cp);
        if (cp >= 0x80 && !alpha && strcmp(name, "isspace") && strcmp(name, "isalpha"))
            kq_j_fail(r, KQ_E_UNSUPPORTED, "%s of U+%04X is not supported", name, cp);
        if (!(!strcmp(name, "isdigit")   ? digit
              : !strcmp(name, "isalpha") ? alpha
              : !strcmp(name, "isspace") ? kq_j_space(cp)
                                         : alpha || digit))
            return false;
    }
    return s->n > 0;
}

/* "{} {0} {name}".format(...), without conversions and format specs */
static j_val format(j_run *r, const j_str *s, const j_args *a)
{
    j_buf b = {0};
    size_t next = 0;
    for (size_t i = 0; i < s->n; i++) {
        const char c = s->p[i];
        if ((c == '{' || c == '}') && i + 1 < s->n && s->p[i + 1] == c) {
            kq_j_put(r, &b, &c, 1);
            i++;
            continue;
        }
        if (c == '}')
            j_type_error(r, "format: a single '}'");
        if (c != '{') {
            kq_j_put(r, &b, &c, 1);
            continue;
        }
        const char *from = s->p + i + 1, *to = memchr(from, '}', s->n - i - 1);
        if (!to)
            j_type_error(r, "format: a single '{'");
        const size_t n = (size_t)(to - from);
        const j_val *v = NULL;
        if (!n && next != SIZE_MAX && next < a->n)
            v = &a->v[next++];
        else if (n == 1 && *from >= '0' && *from <= '9' && next == 0 && (size_t)(*from - '0') < a->n)
            v = &a->v[*from - '0'];
        for (size_t k = 0; k < a->n_kv && !v && n; k++)
            if (strlen(a->key[k]) == n && !memcmp(a->key[k], from, n))
                v = &a->kv[k];
        if (!v)
            kq_j_fail(r, KQ_E_UNSUPPORTED, "format: '{%.*s}' is not supported, or not given",
                      n < 40 ? (int)n : 40, from);
        kq_j_not_safe(r, *v, "formatted");
        kq_j_put_str(r, &b, *v);
        i = (size_t)(to - s->p);
        j_tick(r);
    }
    return kq_j_buf_str(r, &b);
}

static j_val strip(j_run *r, const j_str *s, const j_args *a, const char *name)
{
    j_val v[1];
    kq_j_take(r, name, a, "chars", 0, v);
    const j_str *chars = v[0].kind == J_MISSING || v[0].kind == J_NONE ? NULL : kq_j_want_str(r, v[0], name);
    return kq_j_strip(r, s, chars, name[0] != 'r', name[0] != 'l');
}

static j_val remove_affix(j_run *r, const j_str *s, j_val what, bool end)
{
    const j_str *x = kq_j_want_str(r, what, "removeprefix");
    const bool there = has_affix(r, s, what, end);
    return kq_j_str(r, s->p + (there && !end ? x->n : 0), s->n - (there ? x->n : 0));
}

static j_val str_method(j_run *r, const j_str *s, const char *name, const j_args *a)
{
    static const struct {
        const char *name;
        j_case how;
    } cases[] = {{"lower", J_LOWER}, {"upper", J_UPPER}, {"title", J_TITLE}, {"capitalize", J_CAPITALIZE}};
    j_val v[3];
    if (a->n_kv && strcmp(name, "split") && strcmp(name, "rsplit") && strcmp(name, "splitlines") &&
        strcmp(name, "format"))
        j_type_error(r, "%s takes no arguments by name", name); /* as in Python up to 3.12 */
    if (!strcmp(name, "strip") || !strcmp(name, "lstrip") || !strcmp(name, "rstrip"))
        return strip(r, s, a, name);
    if (!strcmp(name, "split") || !strcmp(name, "rsplit"))
        return split(r, s, a, *name == 'r');
    if (!strcmp(name, "format"))
        return format(r, s, a);
    if (!strcmp(name, "splitlines")) {
        kq_j_take(r, name, a, "keepends", 0, v);
        return kq_j_splitlines(r, s, v[0].kind != J_MISSING && kq_j_truth(r, v[0]));
    }
    if (!strcmp(name, "replace")) {
        kq_j_take(r, name, a, "old,new,count", 2, v);
        return kq_j_replace(r, s, kq_j_want_str(r, v[0], name), kq_j_want_str(r, v[1], name),
                            v[2].kind == J_MISSING ? -1 : kq_j_want_int(r, v[2], name));
    }
    for (size_t i = 0; i < 4; i++)
        if (!strcmp(name, cases[i].name)) {
            kq_j_take(r, name, a, "", 0, v);
            return kq_j_case(r, s, cases[i].how);
        }
    if (!strncmp(name, "is", 2)) {
        kq_j_take(r, name, a, "", 0, v);
        return j_bool(!strcmp(name, "isupper") || !strcmp(name, "islower")
                          ? kq_j_all_case(r, s, name[2] == 'u')
                          : all_of(r, s, name));
    }
    if (a->n > 1)
        kq_j_fail(r, KQ_E_UNSUPPORTED, "%s with a start and an end is not supported", name);
    kq_j_take(r, name, a, "x", 1, v);
    if (!strcmp(name, "startswith") || !strcmp(name, "endswith"))
        return j_bool(has_affix(r, s, v[0], *name == 'e'));
    if (!strcmp(name, "join"))
        return kq_j_join(r, s, kq_j_items(r, v[0]), false);
    if (!strcmp(name, "removeprefix") || !strcmp(name, "removesuffix"))
        return remove_affix(r, s, v[0], name[6] == 's');
    const j_str *x = kq_j_want_str(r, v[0], name);
    if (!strcmp(name, "count"))
        return count(r, s, x);
    if (!strcmp(name, "partition") || !strcmp(name, "rpartition"))
        return partition(r, s, x, *name == 'r');
    return find_index(r, s, x, name);
}

/* ---- lists and objects ---- */

static j_val list_method(j_run *r, j_val self, const char *name, const j_args *a)
{
    j_val v[1];
    if (!strcmp(name, "copy")) {
        kq_j_take(r, name, a, "", 0, v);
        return (j_val){.kind = J_LIST, .l = kq_j_list_of(r, self)};
    }
    if (a->n > 1)
        kq_j_fail(r, KQ_E_UNSUPPORTED, "%s with a start and an end is not supported", name);
    kq_j_take(r, name, a, "x", 1, v);
    int64_t n = 0;
    for (size_t i = 0; i < self.l->n; i++)
        if (kq_j_equal(r, self.l->v[i], v[0])) {
            if (*name == 'i')
                return j_int((int64_t)i);
            n++;
        }
    if (*name == 'i')
        j_type_error(r, "index: the value is not in the list");
    return j_int(n);
}

static j_val dict_method(j_run *r, const j_dict *d, const char *name, const j_args *a)
{
    j_val v[2];
    if (!strcmp(name, "get")) {
        kq_j_take(r, name, a, "key,default", 1, v);
        if (a->n_kv)
            j_type_error(r, "get takes no arguments by name");
        const j_val *found = kq_j_dict_get(r, d, v[0]);
        return found ? *found : v[1].kind == J_MISSING ? j_none() : v[1];
    }
    kq_j_take(r, name, a, "", 0, v);
    if (!strcmp(name, "copy")) {
        j_val out = kq_j_dict(r, d->n);
        for (size_t i = 0; i < d->n; i++)
            kq_j_dict_set(r, out.m, d->key[i], d->value[i]);
        return out;
    }
    j_view *view = kq_j_alloc(r, 1, sizeof *view);
    view->name = *name == 'i' ? "dict_items" : *name == 'k' ? "dict_keys" : "dict_values";
    for (size_t i = 0; i < d->n; i++)
        kq_j_push(r, &view->items,
                  *name == 'i'   ? kq_j_pair(r, d->key[i], d->value[i])
                  : *name == 'k' ? d->key[i]
                                 : d->value[i]);
    return (j_val){.kind = J_VIEW, .view = view};
}

j_val kq_j_call_method(j_run *r, const j_method *m, const j_args *a)
{
    switch (m->self.kind) {
    case J_STR: return str_method(r, m->self.s, m->name, a);
    case J_LIST:
    case J_TUPLE: return list_method(r, m->self, m->name, a);
    case J_DICT: return dict_method(r, m->self.m, m->name, a);
    case J_LOOP: return kq_j_loop_call(r, m->self.loop, m->name, a);
    case J_CYCLER: return kq_j_cycler_call(r, m->self, m->name);
    default:
        kq_j_fail(r, KQ_E_UNSUPPORTED, "'%.40s' of a value of type %s is not supported", m->name,
                  kq_j_type_name(m->self));
    }
}
