/* Values: the arena they lie in, making them, from JSON, truth, equality, order, iteration. */
#include <stdio.h>

#include "jinja/internal.h"

/* ---- the arena, and leaving a run ---- */

enum { BLOCK = 64 << 10, POLL = 1 << 15 /* steps, about a thousandth of a second */ };
typedef struct j_block {
    struct j_block *next;
    size_t size, used;
} j_block;

void kq_j_fail(j_run *r, kq_status status, const char *format, ...)
{
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    r->status = kq_fail(r->err, status, "%s, line %d: %s", r->name, r->line, text);
    longjmp(r->out, 1);
}

void kq_j_spend(j_run *r, size_t steps)
{
    if (r->steps < steps)
        kq_j_fail(r, KQ_E_ARG, "the template takes more than %d steps", KQ_JINJA_MAX_STEPS);
    const size_t before = r->steps;
    r->steps -= steps;
    if (r->stop && before / POLL != r->steps / POLL && r->stop(r->stop_ctx))
        kq_j_fail(r, KQ_E_INTERRUPTED, "stopped");
}

void *kq_j_alloc(j_run *r, size_t n, size_t size)
{
    j_arena *a = r->arena;
    if (!kq_mul_size(n, size, &size) || size > KQ_JINJA_MAX_MEMORY)
        kq_j_fail(r, KQ_E_ARG, "the template needs more than %d MB", KQ_JINJA_MAX_MEMORY >> 20);
    size = (size + 15) & ~(size_t)15;
    if (!a->head || a->head->size - a->head->used < size) {
        const size_t block = size > BLOCK / 4 ? size : BLOCK;
        if (a->used + block > KQ_JINJA_MAX_MEMORY)
            kq_j_fail(r, KQ_E_ARG, "the template needs more than %d MB", KQ_JINJA_MAX_MEMORY >> 20);
        j_block *b = kq_alloc(1, sizeof *b + 16 + block);
        if (!b)
            kq_j_fail(r, KQ_E_MEMORY, "out of memory");
        *b = (j_block){.size = block};
        a->used += block;
        if (block == BLOCK || !a->head) {
            b->next = a->head;
            a->head = b;
        } else { /* a large one goes behind the one that is being filled */
            b->next = a->head->next;
            a->head->next = b;
            b->used = size;
            kq_j_spend(r, size / 64);
            return memset((char *)(b + 1) + 8, 0, size);
        }
    }
    char *p = (char *)(a->head + 1) + 8 + a->head->used;
    a->head->used += size;
    kq_j_spend(r, size / 64);
    return memset(p, 0, size);
}

void kq_j_grow(j_run *r, void *block, size_t *cap, size_t n, size_t size)
{
    if (n < *cap)
        return;
    const size_t bigger = *cap ? 2 * *cap : 4;
    void *old, *new = kq_j_alloc(r, bigger, size);
    memcpy(&old, block, sizeof old);
    if (n)
        memcpy(new, old, n * size);
    memcpy(block, &new, sizeof new);
    *cap = bigger;
}

void kq_j_arena_free(j_arena *a)
{
    for (j_block *b = a->head; b;) {
        j_block *next = b->next;
        kq_free(b);
        b = next;
    }
    kq_free(a);
}

/* ---- making values ---- */

j_val kq_j_str(j_run *r, const char *p, size_t n)
{
    j_str *s = kq_j_alloc(r, 1, sizeof *s);
    *s = (j_str){p, n, SIZE_MAX};
    return (j_val){.kind = J_STR, .s = s};
}

j_val kq_j_copy(j_run *r, const char *p, size_t n)
{
    char *copy = kq_j_alloc(r, n + 1, 1);
    if (n)
        memcpy(copy, p, n);
    return kq_j_str(r, copy, n);
}

j_val kq_j_cstr(j_run *r, const char *p)
{
    return kq_j_str(r, p, strlen(p));
}

bool kq_j_is(j_val v, const char *s)
{
    return v.kind == J_STR && v.s->n == strlen(s) && !memcmp(v.s->p, s, v.s->n);
}

j_val kq_j_list(j_run *r, j_kind kind, size_t cap)
{
    j_list *l = kq_j_alloc(r, 1, sizeof *l);
    l->cap = cap;
    l->v = cap ? kq_j_alloc(r, cap, sizeof *l->v) : NULL;
    return (j_val){.kind = kind, .l = l};
}

void kq_j_push(j_run *r, j_list *l, j_val v)
{
    kq_j_grow(r, &l->v, &l->cap, l->n, sizeof *l->v);
    l->v[l->n++] = v;
    j_tick(r);
}

j_val kq_j_pair(j_run *r, j_val a, j_val b)
{
    j_val v = kq_j_list(r, J_TUPLE, 2);
    kq_j_push(r, v.l, a);
    kq_j_push(r, v.l, b);
    return v;
}

j_val kq_j_iter(j_run *r, const j_list *items)
{
    j_iter *it = kq_j_alloc(r, 1, sizeof *it);
    it->items = *items;
    return (j_val){.kind = J_ITER, .it = it};
}

j_val kq_j_dict(j_run *r, size_t cap)
{
    j_dict *d = kq_j_alloc(r, 1, sizeof *d);
    d->cap = cap;
    d->key = cap ? kq_j_alloc(r, cap, sizeof *d->key) : NULL;
    d->value = cap ? kq_j_alloc(r, cap, sizeof *d->value) : NULL;
    return (j_val){.kind = J_DICT, .m = d};
}

static void hashable(j_run *r, j_val v)
{
    if (v.kind == J_LIST || v.kind == J_DICT)
        j_type_error(r, "a %s cannot be a key", kq_j_type_name(v));
    if (v.kind == J_TUPLE)
        for (size_t i = 0; i < v.l->n; i++) {
            kq_j_enter(r);
            hashable(r, v.l->v[i]);
            j_leave(r);
        }
}

static void dict_append(j_run *r, j_dict *d, j_val key, j_val value)
{
    size_t cap = d->cap;
    kq_j_grow(r, &d->key, &cap, d->n, sizeof *d->key);
    kq_j_grow(r, &d->value, &d->cap, d->n, sizeof *d->value);
    d->key[d->n] = key;
    d->value[d->n++] = value;
    j_tick(r);
}

const j_val *kq_j_dict_get(j_run *r, const j_dict *d, j_val key)
{
    hashable(r, key);
    kq_j_spend(r, 1 + d->n / 8);
    for (size_t i = 0; i < d->n; i++) {
        const j_val k = d->key[i];
        if (k.kind == J_STR && key.kind == J_STR   ? k.s->n == key.s->n && !memcmp(k.s->p, key.s->p, k.s->n)
            : k.kind == J_STR || key.kind == J_STR ? false
                                                   : kq_j_equal(r, k, key))
            return &d->value[i];
    }
    return NULL;
}

void kq_j_dict_set(j_run *r, j_dict *d, j_val key, j_val value)
{
    const j_val *old = kq_j_dict_get(r, d, key);
    if (old)
        d->value[old - d->value] = value;
    else
        dict_append(r, d, key, value);
}

void kq_j_enter(j_run *r)
{
    if (++r->value_depth > KQ_JINJA_MAX_VALUE_DEPTH)
        kq_j_fail(r, KQ_E_ARG, "more than %d lists and objects within each other", KQ_JINJA_MAX_VALUE_DEPTH);
    j_tick(r);
}

j_val kq_j_from_json(j_run *r, const json_t *v)
{
    const char *key;
    json_t *item;
    size_t i;
    j_val out = j_none();
    kq_j_enter(r);
    switch (json_typeof(v)) {
    case JSON_NULL: break;
    case JSON_TRUE:
    case JSON_FALSE: out = j_bool(json_is_true(v)); break;
    case JSON_INTEGER: out = j_int(json_integer_value(v)); break;
    case JSON_REAL: /* an integer of Python's beyond 64 bits comes as a real too, without its digits */
        if (!(json_real_value(v) > -0x1p63 && json_real_value(v) < 0x1p63))
            kq_j_fail(r, KQ_E_UNSUPPORTED, "a number of the messages, tools or arguments is beyond 64 bits");
        out = j_float(json_real_value(v));
        break;
    case JSON_STRING:
        out = kq_j_str(r, json_string_value(v), json_string_length(v));
        kq_j_spend(r, out.s->n / 64);
        if (!kq_j_valid_utf8(out.s->p, out.s->n))
            kq_j_fail(r, KQ_E_ARG, "a text of the messages, tools or arguments is not UTF-8");
        break;
    case JSON_ARRAY:
        out = kq_j_list(r, J_LIST, json_array_size(v));
        json_array_foreach(v, i, item) kq_j_push(r, out.l, kq_j_from_json(r, item));
        break;
    case JSON_OBJECT:
        out = kq_j_dict(r, json_object_size(v));
        json_object_foreach((json_t *)v, key, item)
        {
            const j_val k = kq_j_cstr(r, key);
            dict_append(r, out.m, k, kq_j_from_json(r, item)); /* a JSON object has no key twice */
        }
    }
    j_leave(r);
    return out;
}

/* ---- asking values ---- */

const char *kq_j_type_name(j_val v)
{
    static const char *const names[] = {"nothing", "Undefined", "NoneType",  "bool",      "int",
                                        "float",   "str",       "list",      "tuple",     "dict",
                                        "range",   "dict view", "generator", "namespace", "loop",
                                        "macro",   "method",    "function",  "cycler",    "joiner"};
    return names[v.kind];
}

bool kq_j_truth(j_run *r, j_val v)
{
    switch (v.kind) {
    case J_MISSING:
    case J_UNDEFINED:
    case J_NONE: return false;
    case J_BOOL: return v.b;
    case J_INT: return v.i != 0;
    case J_FLOAT: return v.d != 0;
    case J_LOOP: return v.loop->items->n != 0;
    case J_STR:
    case J_LIST:
    case J_TUPLE:
    case J_DICT:
    case J_RANGE:
    case J_VIEW: return kq_j_length(r, v) != 0;
    default: return true;
    }
}

static bool lists_equal(j_run *r, const j_list *a, const j_list *b)
{
    for (size_t i = 0; i < a->n && a->n == b->n; i++)
        if (!kq_j_equal(r, a->v[i], b->v[i]))
            return false;
    return a->n == b->n;
}

static bool dicts_equal(j_run *r, const j_dict *a, const j_dict *b)
{
    for (size_t i = 0; i < a->n && a->n == b->n; i++) {
        const j_val *other = kq_j_dict_get(r, b, a->key[i]);
        if (!other || !kq_j_equal(r, a->value[i], *other))
            return false;
    }
    return a->n == b->n;
}

/* int and float as Python compares them: exactly. -1, 0, 1; 2: NaN. */
static int order_numbers(j_val a, j_val b)
{
    if (a.kind != J_FLOAT && b.kind != J_FLOAT)
        return (j_whole(a) > j_whole(b)) - (j_whole(a) < j_whole(b));
    const long double x = a.kind == J_FLOAT ? (long double)a.d : (long double)j_whole(a),
                      y = b.kind == J_FLOAT ? (long double)b.d : (long double)j_whole(b);
    return x != x || y != y ? 2 : (x > y) - (x < y);
}

bool kq_j_equal(j_run *r, j_val a, j_val b)
{
    bool same = false;
    kq_j_enter(r);
    if (j_is_number(a) && j_is_number(b))
        same = order_numbers(a, b) == 0;
    else if (a.kind != b.kind)
        same = false;
    else
        switch (a.kind) {
        case J_STR:
            kq_j_spend(r, a.s->n / 64);
            same = a.s->n == b.s->n && !memcmp(a.s->p, b.s->p, a.s->n);
            break;
        case J_LIST:
        case J_TUPLE: same = lists_equal(r, a.l, b.l); break;
        case J_DICT: same = dicts_equal(r, a.m, b.m); break;
        case J_NONE:
        case J_UNDEFINED: same = true; break;
        case J_NAMESPACE: same = a.m == b.m; break;
        default:
            kq_j_fail(r, KQ_E_UNSUPPORTED, "comparing two values of type %s is not supported",
                      kq_j_type_name(a));
        }
    j_leave(r);
    return same;
}

static int order_text(const j_str *a, const j_str *b)
{
    /* of UTF-8, the order of code points */
    const int c = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);
    return c ? c : (a->n > b->n) - (a->n < b->n);
}

bool kq_j_less(j_run *r, j_val a, j_val b)
{
    bool less = false;
    if (j_is_number(a) && j_is_number(b))
        return order_numbers(a, b) == -1;
    if (a.kind != b.kind || (a.kind != J_STR && !j_is_list(a)))
        j_type_error(r, "a value of type %s and one of type %s have no order", kq_j_type_name(a),
                     kq_j_type_name(b));
    if (a.kind == J_STR) {
        kq_j_spend(r, a.s->n / 64 + 1);
        return order_text(a.s, b.s) < 0;
    }
    kq_j_enter(r);
    size_t i = 0;
    while (i < a.l->n && i < b.l->n && kq_j_equal(r, a.l->v[i], b.l->v[i]))
        i++;
    less = i < a.l->n && i < b.l->n ? kq_j_less(r, a.l->v[i], b.l->v[i]) : a.l->n < b.l->n;
    j_leave(r);
    return less;
}

/* Every place that is compared is paid for, so that no text and no pattern make it slow. */
const char *kq_j_find(j_run *r, const char *s, size_t n, const j_str *what)
{
    if (!what->n)
        return s;
    for (const char *end = s + n; (size_t)(end - s) >= what->n; s++) {
        const char *p = memchr(s, what->p[0], (size_t)(end - s) - what->n + 1);
        kq_j_spend(r, 1 + (p ? (size_t)(p - s) + what->n : (size_t)(end - s)) / 64);
        if (!p || !memcmp(p, what->p, what->n))
            return p;
        s = p;
    }
    return NULL;
}

bool kq_j_contains(j_run *r, j_val in, j_val what)
{
    if (in.kind == J_STR) {
        if (what.kind != J_STR)
            j_type_error(r, "'in' of a string wants a string, not %s", kq_j_type_name(what));
        return kq_j_find(r, in.s->p, in.s->n, what.s) != NULL;
    }
    if (in.kind == J_DICT)
        return kq_j_dict_get(r, in.m, what) != NULL;
    const j_list *items = kq_j_items(r, in);
    for (size_t i = 0; i < items->n; i++)
        if (kq_j_equal(r, items->v[i], what))
            return true;
    return false;
}

/* ---- iterating ---- */

static const j_list *chars_of(j_run *r, const j_str *s)
{
    j_list *l = kq_j_list(r, J_LIST, kq_j_chars(s)).l;
    for (size_t at = 0, size; at < s->n; at += size) {
        kq_j_cp(s->p + at, &size);
        kq_j_push(r, l, kq_j_str(r, s->p + at, size));
    }
    return l;
}

const j_list *kq_j_items(j_run *r, j_val v)
{
    static const j_list empty;
    switch (v.kind) {
    case J_UNDEFINED: return &empty;
    case J_LIST:
    case J_TUPLE: return v.l;
    case J_VIEW: return &v.view->items;
    case J_STR: return chars_of(r, v.s);
    case J_DICT: {
        j_list *l = kq_j_alloc(r, 1, sizeof *l);
        *l = (j_list){v.m->key, v.m->n, v.m->n};
        return l;
    }
    case J_RANGE: {
        j_list *l = kq_j_list(r, J_LIST, (size_t)v.r->n).l;
        for (int64_t i = 0; i < v.r->n; i++)
            kq_j_push(r, l, j_int(v.r->start + i * v.r->step));
        return l;
    }
    case J_ITER:
        if (v.it->used)
            return &empty;
        v.it->used = true;
        if (v.it->at) {
            j_list *rest = kq_j_alloc(r, 1, sizeof *rest);
            *rest = (j_list){v.it->items.v + v.it->at, v.it->items.n - v.it->at, 0};
            return rest;
        }
        return &v.it->items;
    default: j_type_error(r, "a value of type %s cannot be iterated", kq_j_type_name(v));
    }
}

j_list *kq_j_list_of(j_run *r, j_val v)
{
    const j_list *items = kq_j_items(r, v);
    j_list *l = kq_j_list(r, J_LIST, items->n).l;
    if (items->n)
        memcpy(l->v, items->v, items->n * sizeof *l->v);
    l->n = items->n;
    kq_j_spend(r, items->n);
    return l;
}

int64_t kq_j_length(j_run *r, j_val v)
{
    switch (v.kind) {
    case J_UNDEFINED: return 0;
    case J_STR: kq_j_spend(r, v.s->n / 64); return (int64_t)kq_j_chars(v.s);
    case J_LIST:
    case J_TUPLE: return (int64_t)v.l->n;
    case J_VIEW: return (int64_t)v.view->items.n;
    case J_DICT: return (int64_t)v.m->n;
    case J_RANGE: return v.r->n;
    case J_LOOP: return (int64_t)v.loop->items->n;
    default: j_type_error(r, "a value of type %s has no length", kq_j_type_name(v));
    }
}
