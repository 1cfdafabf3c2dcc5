/* Values: making them, also from JSON; their truth, equality and order; iterating over them. An object keeps
 * its entries in the order of insertion and is searched from the front, because objects in messages and tools
 * are small. */
#include "pyvalue/value.h"

#include <string.h>

#include "base/utf8.h"
#include "pyvalue/unicode.h"

/* ---- making values ---- */

py_val kq_py_str(py_run *r, const char *p, size_t n)
{
    py_str *s = kq_py_alloc(r, 1, sizeof *s);
    *s = (py_str){p, n, SIZE_MAX};
    return (py_val){.kind = PY_STR, .s = s};
}

py_val kq_py_copy(py_run *r, const char *p, size_t n)
{
    char *copy = kq_py_alloc(r, n + 1, 1);
    if (n)
        memcpy(copy, p, n);
    return kq_py_str(r, copy, n);
}

py_val kq_py_cstr(py_run *r, const char *p)
{
    return kq_py_str(r, p, strlen(p));
}

size_t kq_py_chars(const py_str *s)
{
    size_t n = 0;
    if (s->chars != SIZE_MAX)
        return s->chars;
    for (size_t i = 0; i < s->n; i++)
        n += ((unsigned char)s->p[i] & 0xc0) != 0x80;
    /* no race: a run's strings belong to one thread, and a template's constants were counted when they were
     * made */
    ((py_str *)s)->chars = n;
    return n;
}

bool kq_py_equals_text(py_val v, const char *s)
{
    return v.kind == PY_STR && v.s->n == strlen(s) && !memcmp(v.s->p, s, v.s->n);
}

py_val kq_py_list(py_run *r, py_kind kind, size_t cap)
{
    py_list *l = kq_py_alloc(r, 1, sizeof *l);
    l->cap = cap;
    l->v = cap ? kq_py_alloc(r, cap, sizeof *l->v) : NULL;
    return (py_val){.kind = kind, .l = l};
}

void kq_py_push(py_run *r, py_list *l, py_val v)
{
    kq_py_grow(r, &l->v, &l->cap, l->n, sizeof *l->v);
    l->v[l->n++] = v;
    py_tick(r);
}

py_val kq_py_pair(py_run *r, py_val a, py_val b)
{
    py_val v = kq_py_list(r, PY_TUPLE, 2);
    kq_py_push(r, v.l, a);
    kq_py_push(r, v.l, b);
    return v;
}

py_val kq_py_iter(py_run *r, const py_list *items)
{
    py_iter *it = kq_py_alloc(r, 1, sizeof *it);
    it->items = *items;
    return (py_val){.kind = PY_ITER, .it = it};
}

py_val kq_py_dict(py_run *r, size_t cap)
{
    py_dict *d = kq_py_alloc(r, 1, sizeof *d);
    d->cap = cap;
    d->key = cap ? kq_py_alloc(r, cap, sizeof *d->key) : NULL;
    d->value = cap ? kq_py_alloc(r, cap, sizeof *d->value) : NULL;
    return (py_val){.kind = PY_DICT, .m = d};
}

static void hashable(py_run *r, py_val v)
{
    if (v.kind == PY_LIST || v.kind == PY_DICT)
        py_type_error(r, "a %s cannot be a key", kq_py_type_name(v));
    if (v.kind == PY_TUPLE)
        for (size_t i = 0; i < v.l->n; i++) {
            kq_py_enter(r);
            hashable(r, v.l->v[i]);
            py_leave(r);
        }
}

static void dict_append(py_run *r, py_dict *d, py_val key, py_val value)
{
    size_t cap = d->cap;
    kq_py_grow(r, &d->key, &cap, d->n, sizeof *d->key);
    kq_py_grow(r, &d->value, &d->cap, d->n, sizeof *d->value);
    d->key[d->n] = key;
    d->value[d->n++] = value;
    py_tick(r);
}

const py_val *kq_py_dict_get(py_run *r, const py_dict *d, py_val key)
{
    hashable(r, key);
    kq_py_spend(r, 1 + d->n / 8);
    for (size_t i = 0; i < d->n; i++) {
        const py_val k = d->key[i];
        if (k.kind == PY_STR && key.kind == PY_STR   ? k.s->n == key.s->n && !memcmp(k.s->p, key.s->p, k.s->n)
            : k.kind == PY_STR || key.kind == PY_STR ? false
                                                     : kq_py_equal(r, k, key))
            return &d->value[i];
    }
    return NULL;
}

void kq_py_dict_set(py_run *r, py_dict *d, py_val key, py_val value)
{
    const py_val *old = kq_py_dict_get(r, d, key);
    if (old)
        d->value[old - d->value] = value;
    else
        dict_append(r, d, key, value);
}

py_val kq_py_from_json(py_run *r, const json_t *v)
{
    const char *key;
    json_t *item;
    size_t i;
    py_val out = py_none();
    kq_py_enter(r);
    switch (json_typeof(v)) {
    case JSON_NULL: break;
    case JSON_TRUE:
    case JSON_FALSE: out = py_bool(json_is_true(v)); break;
    case JSON_INTEGER: out = py_int(json_integer_value(v)); break;
    case JSON_REAL: /* an integer beyond 64 bits was read as a real and has lost its digits (format/json.h) */
        if (!(json_real_value(v) > -0x1p63 && json_real_value(v) < 0x1p63))
            kq_py_fail(r, KQ_E_UNSUPPORTED, "a number of the messages, tools or arguments is beyond 64 bits");
        out = py_float(json_real_value(v));
        break;
    case JSON_STRING:
        out = kq_py_str(r, json_string_value(v), json_string_length(v));
        kq_py_spend(r, out.s->n / 64);
        if (kq_utf8_valid(out.s->p, out.s->n) != out.s->n)
            kq_py_fail(r, KQ_E_ARG, "a text of the messages, tools or arguments is not UTF-8");
        break;
    case JSON_ARRAY:
        out = kq_py_list(r, PY_LIST, json_array_size(v));
        json_array_foreach(v, i, item)
            kq_py_push(r, out.l, kq_py_from_json(r, item));
        break;
    case JSON_OBJECT:
        out = kq_py_dict(r, json_object_size(v));
        json_object_foreach((json_t *)v, key, item) {
            const py_val k = kq_py_cstr(r, key);
            dict_append(r, out.m, k, kq_py_from_json(r, item)); /* a JSON object has no key twice */
        }
    }
    py_leave(r);
    return out;
}

/* ---- asking values ---- */

const char *kq_py_type_name(py_val v)
{
    static const char *const names[] = {"nothing", "Undefined", "NoneType",  "bool",      "int",
                                        "float",   "str",       "list",      "tuple",     "dict",
                                        "range",   "dict view", "generator", "namespace", "loop",
                                        "macro",   "method",    "function",  "cycler",    "joiner"};
    return names[v.kind];
}

bool kq_py_truth(py_run *r, py_val v)
{
    switch (v.kind) {
    case PY_MISSING:
    case PY_UNDEFINED:
    case PY_NONE: return false;
    case PY_BOOL: return v.b;
    case PY_INT: return v.i != 0;
    case PY_FLOAT: return v.d != 0;
    case PY_LOOP: return v.loop->items->n != 0;
    case PY_STR:
    case PY_LIST:
    case PY_TUPLE:
    case PY_DICT:
    case PY_RANGE:
    case PY_VIEW: return kq_py_length(r, v) != 0;
    default: return true;
    }
}

static bool lists_equal(py_run *r, const py_list *a, const py_list *b)
{
    for (size_t i = 0; i < a->n && a->n == b->n; i++)
        if (!kq_py_equal(r, a->v[i], b->v[i]))
            return false;
    return a->n == b->n;
}

static bool dicts_equal(py_run *r, const py_dict *a, const py_dict *b)
{
    for (size_t i = 0; i < a->n && a->n == b->n; i++) {
        const py_val *other = kq_py_dict_get(r, b, a->key[i]);
        if (!other || !kq_py_equal(r, a->value[i], *other))
            return false;
    }
    return a->n == b->n;
}

/* Compare an int or float with another exactly, as Python does. Returns -1, 0 or 1; 2: one is NaN. */
static int order_numbers(py_val a, py_val b)
{
    if (a.kind != PY_FLOAT && b.kind != PY_FLOAT)
        return (py_whole(a) > py_whole(b)) - (py_whole(a) < py_whole(b));
    const long double x = a.kind == PY_FLOAT ? (long double)a.d : (long double)py_whole(a),
                      y = b.kind == PY_FLOAT ? (long double)b.d : (long double)py_whole(b);
    return x != x || y != y ? 2 : (x > y) - (x < y);
}

bool kq_py_equal(py_run *r, py_val a, py_val b)
{
    bool same = false;
    kq_py_enter(r);
    if (py_is_number(a) && py_is_number(b))
        same = order_numbers(a, b) == 0;
    else if (a.kind != b.kind)
        same = false;
    else
        switch (a.kind) {
        case PY_STR:
            kq_py_spend(r, a.s->n / 64);
            same = a.s->n == b.s->n && !memcmp(a.s->p, b.s->p, a.s->n);
            break;
        case PY_LIST:
        case PY_TUPLE: same = lists_equal(r, a.l, b.l); break;
        case PY_DICT: same = dicts_equal(r, a.m, b.m); break;
        case PY_NONE:
        case PY_UNDEFINED: same = true; break;
        case PY_NAMESPACE: same = a.m == b.m; break;
        default:
            kq_py_fail(r, KQ_E_UNSUPPORTED, "comparing two values of type %s is not supported",
                       kq_py_type_name(a));
        }
    py_leave(r);
    return same;
}

static int order_text(const py_str *a, const py_str *b)
{
    /* the order of the bytes of UTF-8 is the order of the code points */
    const int c = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);
    return c ? c : (a->n > b->n) - (a->n < b->n);
}

bool kq_py_less(py_run *r, py_val a, py_val b)
{
    bool less = false;
    if (py_is_number(a) && py_is_number(b))
        return order_numbers(a, b) == -1;
    if (a.kind != b.kind || (a.kind != PY_STR && !py_is_list(a)))
        py_type_error(r, "a value of type %s and one of type %s have no order", kq_py_type_name(a),
                      kq_py_type_name(b));
    if (a.kind == PY_STR) {
        kq_py_spend(r, a.s->n / 64 + 1);
        return order_text(a.s, b.s) < 0;
    }
    kq_py_enter(r);
    size_t i = 0;
    while (i < a.l->n && i < b.l->n && kq_py_equal(r, a.l->v[i], b.l->v[i]))
        i++;
    less = i < a.l->n && i < b.l->n ? kq_py_less(r, a.l->v[i], b.l->v[i]) : a.l->n < b.l->n;
    py_leave(r);
    return less;
}

/* Every position that is compared counts as steps, so that no text and no pattern can make the
 * search slow. */
const char *kq_py_find(py_run *r, const char *s, size_t n, const py_str *what)
{
    if (!what->n)
        return s;
    for (const char *end = s + n; (size_t)(end - s) >= what->n; s++) {
        const char *p = memchr(s, what->p[0], (size_t)(end - s) - what->n + 1);
        kq_py_spend(r, 1 + (p ? (size_t)(p - s) + what->n : (size_t)(end - s)) / 64);
        if (!p || !memcmp(p, what->p, what->n))
            return p;
        s = p;
    }
    return NULL;
}

bool kq_py_contains(py_run *r, py_val in, py_val what)
{
    if (in.kind == PY_STR) {
        if (what.kind != PY_STR)
            py_type_error(r, "'in' of a string wants a string, not %s", kq_py_type_name(what));
        return kq_py_find(r, in.s->p, in.s->n, what.s) != NULL;
    }
    if (in.kind == PY_DICT)
        return kq_py_dict_get(r, in.m, what) != NULL;
    const py_list *items = kq_py_items(r, in);
    for (size_t i = 0; i < items->n; i++)
        if (kq_py_equal(r, items->v[i], what))
            return true;
    return false;
}

void kq_py_not_safe(py_run *r, py_val v, const char *what)
{
    if (v.kind == PY_STR && v.safe)
        kq_py_fail(r, KQ_E_UNSUPPORTED, "a string after |safe or |escape is %s: not supported", what);
}

/* ---- iterating ---- */

static const py_list *chars_of(py_run *r, const py_str *s)
{
    py_list *l = kq_py_list(r, PY_LIST, kq_py_chars(s)).l;
    for (size_t at = 0, size; at < s->n; at += size) {
        kq_py_code_point(s->p + at, &size);
        kq_py_push(r, l, kq_py_str(r, s->p + at, size));
    }
    return l;
}

const py_list *kq_py_items(py_run *r, py_val v)
{
    static const py_list empty;
    switch (v.kind) {
    case PY_UNDEFINED: return &empty;
    case PY_LIST:
    case PY_TUPLE: return v.l;
    case PY_VIEW: return &v.view->items;
    case PY_STR: return chars_of(r, v.s);
    case PY_DICT: {
        py_list *l = kq_py_alloc(r, 1, sizeof *l);
        *l = (py_list){v.m->key, v.m->n, v.m->n};
        return l;
    }
    case PY_RANGE: {
        py_list *l = kq_py_list(r, PY_LIST, (size_t)v.r->n).l;
        for (int64_t i = 0; i < v.r->n; i++)
            kq_py_push(r, l, py_int(v.r->start + i * v.r->step));
        return l;
    }
    case PY_ITER:
        if (v.it->used)
            return &empty;
        v.it->used = true;
        if (v.it->at) {
            py_list *rest = kq_py_alloc(r, 1, sizeof *rest);
            *rest = (py_list){v.it->items.v + v.it->at, v.it->items.n - v.it->at, 0};
            return rest;
        }
        return &v.it->items;
    default: py_type_error(r, "a value of type %s cannot be iterated", kq_py_type_name(v));
    }
}

py_list *kq_py_list_of(py_run *r, py_val v)
{
    const py_list *items = kq_py_items(r, v);
    py_list *l = kq_py_list(r, PY_LIST, items->n).l;
    if (items->n)
        memcpy(l->v, items->v, items->n * sizeof *l->v);
    l->n = items->n;
    kq_py_spend(r, items->n);
    return l;
}

int64_t kq_py_length(py_run *r, py_val v)
{
    switch (v.kind) {
    case PY_UNDEFINED: return 0;
    case PY_STR: kq_py_spend(r, v.s->n / 64); return (int64_t)kq_py_chars(v.s);
    case PY_LIST:
    case PY_TUPLE: return (int64_t)v.l->n;
    case PY_VIEW: return (int64_t)v.view->items.n;
    case PY_DICT: return (int64_t)v.m->n;
    case PY_RANGE: return v.r->n;
    case PY_LOOP: return (int64_t)v.loop->items->n;
    default: py_type_error(r, "a value of type %s has no length", kq_py_type_name(v));
    }
}
