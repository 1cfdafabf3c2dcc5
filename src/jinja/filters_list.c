/* Filters of lists and objects. A filter whose result is a generator in Python gives a value that can be
 * walked once and has no length, so that templates behave as they do there. */
#include "jinja/internal.h"

static bool given(py_val v)
{
    return v.kind != PY_MISSING;
}
static bool yes(py_run *r, py_val v)
{
    return given(v) && kq_py_truth(r, v);
}

/* The attribute "a.b.0" of an item, as jinja2's make_attrgetter finds it. Where no attribute is given, or
 * None, it is the item itself. */
py_val kq_j_attribute_of(py_run *r, py_val item, py_val attribute)
{
    if (!given(attribute) || attribute.kind == PY_NONE)
        return item;
    if (attribute.kind != PY_STR)
        return kq_j_getitem(r, item, attribute);
    const char *s = attribute.s->p, *end = s + attribute.s->n;
    for (;;) {
        const char *dot = memchr(s, '.', (size_t)(end - s)), *stop = dot ? dot : end;
        int64_t index = 0;
        bool digits = stop > s;
        for (const char *c = s; c < stop; c++) {
            digits &= *c >= '0' && *c <= '9' && index < 1000000;
            index = digits ? 10 * index + (*c - '0') : 0;
        }
        item = kq_j_getitem(r, item, digits ? py_int(index) : kq_py_copy(r, s, (size_t)(stop - s)));
        if (!dot)
            return item;
        s = dot + 1;
    }
}

static py_val folded(py_run *r, py_val v, bool case_sensitive)
{
    return v.kind == PY_STR && !case_sensitive ? kq_py_case(r, v.s, PY_LOWER) : v;
}

/* ---- one out of many ---- */

static py_val f_first(py_run *r, py_val x, const py_args *a)
{
    py_val v[1];
    kq_py_match_args(r, "first", a, "", 0, v);
    if (x.kind == PY_ITER) {
        if (x.it->used || x.it->at >= x.it->items.n)
            return py_undefined("the first item of nothing");
        return x.it->items.v[x.it->at++];
    }
    const py_list *items = kq_py_items(r, x);
    return items->n ? items->v[0] : py_undefined("the first item of nothing");
}

static py_val f_last(py_run *r, py_val x, const py_args *a)
{
    py_val v[1];
    kq_py_match_args(r, "last", a, "", 0, v);
    if (x.kind == PY_ITER)
        py_type_error(r, "last wants a list, not a generator");
    const py_list *items = kq_py_items(r, x);
    return items->n ? items->v[items->n - 1] : py_undefined("the last item of nothing");
}

static py_val extreme(py_run *r, py_val x, const py_args *a, bool most)
{
    py_val v[2];
    kq_py_match_args(r, most ? "max" : "min", a, "case_sensitive,attribute", 0, v);
    const py_list *items = kq_py_items(r, x);
    py_val best = py_undefined("the least or greatest of nothing"), best_key = best;
    for (size_t i = 0; i < items->n; i++) {
        const py_val key = folded(r, kq_j_attribute_of(r, items->v[i], v[1]), yes(r, v[0]));
        if (i == 0 || (most ? kq_py_less(r, best_key, key) : kq_py_less(r, key, best_key))) {
            best = items->v[i];
            best_key = key;
        }
    }
    return best;
}
static py_val f_min(py_run *r, py_val x, const py_args *a)
{
    return extreme(r, x, a, false);
}
static py_val f_max(py_run *r, py_val x, const py_args *a)
{
    return extreme(r, x, a, true);
}

static py_val f_sum(py_run *r, py_val x, const py_args *a)
{
    py_val v[2];
    kq_py_match_args(r, "sum", a, "attribute,start", 0, v);
    py_val total = given(v[1]) ? v[1] : py_int(0);
    if (total.kind == PY_STR)
        py_type_error(r, "sum does not join strings");
    const py_list *items = kq_py_items(r, x);
    for (size_t i = 0; i < items->n; i++) {
        const py_val item = kq_j_attribute_of(r, items->v[i], v[0]);
        if (item.kind == PY_FLOAT)
            /* Python 3.12 and 3.11 give different sums of floats */
            kq_py_fail(r, KQ_E_UNSUPPORTED, "sum of floats");
        total = kq_py_binary(r, PY_ADD, total, item);
    }
    return total;
}

static py_val f_join(py_run *r, py_val x, const py_args *a)
{
    py_val v[2];
    kq_py_match_args(r, "join", a, "d,attribute", 0, v);
    const py_str *by = given(v[0]) ? kq_py_text(r, v[0]) : kq_py_cstr(r, "").s;
    const py_list *items = kq_py_items(r, x);
    if (!given(v[1]) || v[1].kind == PY_NONE)
        return kq_py_join(r, by, items, true);
    py_list *of = kq_py_list(r, PY_LIST, items->n).l;
    for (size_t i = 0; i < items->n; i++)
        kq_py_push(r, of, kq_j_attribute_of(r, items->v[i], v[1]));
    return kq_py_join(r, by, of, true);
}

/* ---- another list ---- */

static py_val f_list(py_run *r, py_val x, const py_args *a)
{
    py_val v[1];
    kq_py_match_args(r, "list", a, "", 0, v);
    return (py_val){.kind = PY_LIST, .l = kq_py_list_of(r, x)};
}

static py_val f_items(py_run *r, py_val x, const py_args *a)
{
    py_val v[1];
    py_list pairs = {0};
    kq_py_match_args(r, "items", a, "", 0, v);
    if (x.kind != PY_DICT && x.kind != PY_UNDEFINED)
        py_type_error(r, "items wants an object, not %s", kq_py_type_name(x));
    for (size_t i = 0; x.kind == PY_DICT && i < x.m->n; i++)
        kq_py_push(r, &pairs, kq_py_pair(r, x.m->key[i], x.m->value[i]));
    return kq_py_iter(r, &pairs);
}

static py_val f_reverse(py_run *r, py_val x, const py_args *a)
{
    py_val v[1];
    kq_py_match_args(r, "reverse", a, "", 0, v);
    kq_py_not_safe(r, x, "reversed");
    const py_list *items = kq_py_items(r, x);
    py_list *back = kq_py_list(r, PY_LIST, items->n).l;
    for (size_t i = items->n; i-- > 0;)
        kq_py_push(r, back, items->v[i]);
    if (x.kind == PY_STR)
        return kq_py_join(r, kq_py_cstr(r, "").s, back, false);
    return x.kind == PY_ITER ? (py_val){.kind = PY_LIST, .l = back} : kq_py_iter(r, back);
}

typedef struct keyed {
    py_val key, item;
} keyed;

/* Sort v [n] by key. The sort is stable: equal keys stay in order. spare [n] is scratch. */
static void merge_sort(py_run *r, keyed *v, keyed *spare, size_t n, bool reverse)
{
    const size_t half = n / 2;
    if (n < 2)
        return;
    merge_sort(r, v, spare, half, reverse);
    merge_sort(r, v + half, spare, n - half, reverse);
    memcpy(spare, v, half * sizeof *v);
    for (size_t i = 0, j = half, k = 0; i < half; k++) {
        py_tick(r);
        const bool second = j < n && (reverse ? kq_py_less(r, spare[i].key, v[j].key)
                                              : kq_py_less(r, v[j].key, spare[i].key));
        v[k] = second ? v[j++] : spare[i++];
    }
}

static py_val sorted(py_run *r, const py_list *keys, const py_list *items, bool reverse)
{
    keyed *v = kq_py_alloc(r, items->n + 1, sizeof *v), *spare = kq_py_alloc(r, items->n + 1, sizeof *v);
    py_val out = kq_py_list(r, PY_LIST, items->n);
    for (size_t i = 0; i < items->n; i++)
        v[i] = (keyed){keys->v[i], items->v[i]};
    merge_sort(r, v, spare, items->n, reverse);
    for (size_t i = 0; i < items->n; i++)
        kq_py_push(r, out.l, v[i].item);
    return out;
}

static py_val f_sort(py_run *r, py_val x, const py_args *a)
{
    py_val v[3];
    kq_py_match_args(r, "sort", a, "reverse,case_sensitive,attribute", 0, v);
    const py_list *items = kq_py_items(r, x);
    py_list *keys = kq_py_list(r, PY_LIST, items->n).l;
    for (size_t i = 0; i < items->n; i++) { /* the attribute "a,b" means that the key is a list */
        py_val key = kq_py_list(r, PY_LIST, 1);
        if (v[2].kind == PY_STR) {
            const char *s = v[2].s->p, *end = s + v[2].s->n;
            for (const char *comma; s <= end; s = comma ? comma + 1 : end + 1) {
                comma = memchr(s, ',', (size_t)(end - s));
                kq_py_push(r, key.l,
                           folded(r,
                                  kq_j_attribute_of(r, items->v[i],
                                                    kq_py_copy(r, s, (size_t)((comma ? comma : end) - s))),
                                  yes(r, v[1])));
            }
        } else {
            kq_py_push(r, key.l, folded(r, kq_j_attribute_of(r, items->v[i], v[2]), yes(r, v[1])));
        }
        kq_py_push(r, keys, key);
    }
    return sorted(r, keys, items, yes(r, v[0]));
}

static py_val f_dictsort(py_run *r, py_val x, const py_args *a)
{
    py_val v[3];
    kq_py_match_args(r, "dictsort", a, "case_sensitive,by,reverse", 0, v);
    const bool by_value = given(v[1]) && kq_py_equals_text(v[1], "value");
    if (given(v[1]) && !by_value && !kq_py_equals_text(v[1], "key"))
        py_type_error(r, "dictsort sorts by key or value");
    if (x.kind != PY_DICT)
        py_type_error(r, "dictsort wants an object, not %s", kq_py_type_name(x));
    py_list *keys = kq_py_list(r, PY_LIST, x.m->n).l, *items = kq_py_list(r, PY_LIST, x.m->n).l;
    for (size_t i = 0; i < x.m->n; i++) {
        kq_py_push(r, keys, folded(r, by_value ? x.m->value[i] : x.m->key[i], yes(r, v[0])));
        kq_py_push(r, items, kq_py_pair(r, x.m->key[i], x.m->value[i]));
    }
    return sorted(r, keys, items, yes(r, v[2]));
}

static py_val f_unique(py_run *r, py_val x, const py_args *a)
{
    py_val v[2], seen = kq_py_dict(r, 0);
    py_list out = {0};
    kq_py_match_args(r, "unique", a, "case_sensitive,attribute", 0, v);
    const py_list *items = kq_py_items(r, x);
    for (size_t i = 0; i < items->n; i++) {
        const py_val key = folded(r, kq_j_attribute_of(r, items->v[i], v[1]), yes(r, v[0]));
        if (kq_py_dict_get(r, seen.m, key))
            continue;
        kq_py_dict_set(r, seen.m, key, py_none());
        kq_py_push(r, &out, items->v[i]);
    }
    return kq_py_iter(r, &out);
}

const j_filter_entry kq_j_list_filters[] = {
    {"dictsort", f_dictsort},
    {"first", f_first},
    {"items", f_items},
    {"join", f_join},
    {"last", f_last},
    {"list", f_list},
    {"max", f_max},
    {"min", f_min},
    {"reverse", f_reverse},
    {"sort", f_sort},
    {"sum", f_sum},
    {"unique", f_unique},
    {NULL, NULL},
};
