/* Filters of lists and objects. What is a generator in Python can be walked once and has no length here
 * either. */
#include "jinja/internal.h"

static bool given(j_val v)
{
    return v.kind != J_MISSING;
}
static bool yes(j_run *r, j_val v)
{
    return given(v) && kq_j_truth(r, v);
}

/* "a.b.0" of an item, as jinja2's make_attrgetter; attribute not given or None: the item itself. */
static j_val attribute_of(j_run *r, j_val item, j_val attribute)
{
    if (!given(attribute) || attribute.kind == J_NONE)
        return item;
    if (attribute.kind != J_STR)
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
        item = kq_j_getitem(r, item, digits ? j_int(index) : kq_j_copy(r, s, (size_t)(stop - s)));
        if (!dot)
            return item;
        s = dot + 1;
    }
}

static j_val folded(j_run *r, j_val v, bool case_sensitive)
{
    return v.kind == J_STR && !case_sensitive ? kq_j_case(r, v.s, J_LOWER) : v;
}

/* ---- one out of many ---- */

static j_val f_first(j_run *r, j_val x, const j_args *a)
{
    j_val v[1];
    kq_j_take(r, "first", a, "", 0, v);
    if (x.kind == J_ITER) {
        if (x.it->used || x.it->at >= x.it->items.n)
            return j_undefined("the first item of nothing");
        return x.it->items.v[x.it->at++];
    }
    const j_list *items = kq_j_items(r, x);
    return items->n ? items->v[0] : j_undefined("the first item of nothing");
}

static j_val f_last(j_run *r, j_val x, const j_args *a)
{
    j_val v[1];
    kq_j_take(r, "last", a, "", 0, v);
    if (x.kind == J_ITER)
        j_type_error(r, "last wants a list, not a generator");
    const j_list *items = kq_j_items(r, x);
    return items->n ? items->v[items->n - 1] : j_undefined("the last item of nothing");
}

static j_val extreme(j_run *r, j_val x, const j_args *a, bool most)
{
    j_val v[2];
    kq_j_take(r, most ? "max" : "min", a, "case_sensitive,attribute", 0, v);
    const j_list *items = kq_j_items(r, x);
    j_val best = j_undefined("the least or greatest of nothing"), best_key = best;
    for (size_t i = 0; i < items->n; i++) {
        const j_val key = folded(r, attribute_of(r, items->v[i], v[1]), yes(r, v[0]));
        if (i == 0 || (most ? kq_j_less(r, best_key, key) : kq_j_less(r, key, best_key))) {
            best = items->v[i];
            best_key = key;
        }
    }
    return best;
}
static j_val f_min(j_run *r, j_val x, const j_args *a)
{
    return extreme(r, x, a, false);
}
static j_val f_max(j_run *r, j_val x, const j_args *a)
{
    return extreme(r, x, a, true);
}

static j_val f_sum(j_run *r, j_val x, const j_args *a)
{
    j_val v[2];
    kq_j_take(r, "sum", a, "attribute,start", 0, v);
    j_val total = given(v[1]) ? v[1] : j_int(0);
    if (total.kind == J_STR)
        j_type_error(r, "sum does not join strings");
    const j_list *items = kq_j_items(r, x);
    for (size_t i = 0; i < items->n; i++) {
        const j_val item = attribute_of(r, items->v[i], v[0]);
        if (item.kind == J_FLOAT)
            kq_j_fail(r, KQ_E_UNSUPPORTED, "sum of floats"); /* Python 3.12 sums them another way than 3.11 */
        total = kq_j_binary(r, OP_ADD, total, item);
    }
    return total;
}

static j_val f_join(j_run *r, j_val x, const j_args *a)
{
    j_val v[2];
    kq_j_take(r, "join", a, "d,attribute", 0, v);
    const j_str *by = given(v[0]) ? kq_j_text(r, v[0]) : kq_j_cstr(r, "").s;
    const j_list *items = kq_j_items(r, x);
    if (!given(v[1]) || v[1].kind == J_NONE)
        return kq_j_join(r, by, items, true);
    j_list *of = kq_j_list(r, J_LIST, items->n).l;
    for (size_t i = 0; i < items->n; i++)
        kq_j_push(r, of, attribute_of(r, items->v[i], v[1]));
    return kq_j_join(r, by, of, true);
}

/* ---- another list ---- */

static j_val f_list(j_run *r, j_val x, const j_args *a)
{
    j_val v[1];
    kq_j_take(r, "list", a, "", 0, v);
    return (j_val){.kind = J_LIST, .l = kq_j_list_of(r, x)};
}

static j_val f_items(j_run *r, j_val x, const j_args *a)
{
    j_val v[1];
    j_list pairs = {0};
    kq_j_take(r, "items", a, "", 0, v);
    if (x.kind != J_DICT && x.kind != J_UNDEFINED)
        j_type_error(r, "items wants an object, not %s", kq_j_type_name(x));
    for (size_t i = 0; x.kind == J_DICT && i < x.m->n; i++)
        kq_j_push(r, &pairs, kq_j_pair(r, x.m->key[i], x.m->value[i]));
    return kq_j_iter(r, &pairs);
}

static j_val f_reverse(j_run *r, j_val x, const j_args *a)
{
    j_val v[1];
    kq_j_take(r, "reverse", a, "", 0, v);
    kq_j_not_safe(r, x, "reversed");
    const j_list *items = kq_j_items(r, x);
    j_list *back = kq_j_list(r, J_LIST, items->n).l;
    for (size_t i = items->n; i-- > 0;)
        kq_j_push(r, back, items->v[i]);
    if (x.kind == J_STR)
        return kq_j_join(r, kq_j_cstr(r, "").s, back, false);
    return x.kind == J_ITER ? (j_val){.kind = J_LIST, .l = back} : kq_j_iter(r, back);
}

typedef struct keyed {
    j_val key, item;
} keyed;

/* Stable, so that equal keys stay in order. */
static void merge_sort(j_run *r, keyed *v, keyed *spare, size_t n, bool reverse)
{
    const size_t half = n / 2;
    if (n < 2)
        return;
    merge_sort(r, v, spare, half, reverse);
    merge_sort(r, v + half, spare, n - half, reverse);
    memcpy(spare, v, half * sizeof *v);
    for (size_t i = 0, j = half, k = 0; i < half; k++) {
        j_tick(r);
        const bool second =
            j < n && (reverse ? kq_j_less(r, spare[i].key, v[j].key) : kq_j_less(r, v[j].key, spare[i].key));
        v[k] = second ? v[j++] : spare[i++];
    }
}

static j_val sorted(j_run *r, const j_list *keys, const j_list *items, bool reverse)
{
    keyed *v = kq_j_alloc(r, items->n + 1, sizeof *v), *spare = kq_j_alloc(r, items->n + 1, sizeof *v);
    j_val out = kq_j_list(r, J_LIST, items->n);
    for (size_t i = 0; i < items->n; i++)
        v[i] = (keyed){keys->v[i], items->v[i]};
    merge_sort(r, v, spare, items->n, reverse);
    for (size_t i = 0; i < items->n; i++)
        kq_j_push(r, out.l, v[i].item);
    return out;
}

static j_val f_sort(j_run *r, j_val x, const j_args *a)
{
    j_val v[3];
    kq_j_take(r, "sort", a, "reverse,case_sensitive,attribute", 0, v);
    const j_list *items = kq_j_items(r, x);
    j_list *keys = kq_j_list(r, J_LIST, items->n).l;
    for (size_t i = 0; i < items->n; i++) { /* attribute "a,b": a list of keys */
        j_val key = kq_j_list(r, J_LIST, 1);
        if (v[2].kind == J_STR) {
            const char *s = v[2].s->p, *end = s + v[2].s->n;
            for (const char *comma; s <= end; s = comma ? comma + 1 : end + 1) {
                comma = memchr(s, ',', (size_t)(end - s));
                kq_j_push(
                    r, key.l,
                    folded(r,
                           attribute_of(r, items->v[i], kq_j_copy(r, s, (size_t)((comma ? comma : end) - s))),
                           yes(r, v[1])));
            }
        } else {
            kq_j_push(r, key.l, folded(r, attribute_of(r, items->v[i], v[2]), yes(r, v[1])));
        }
        kq_j_push(r, keys, key);
    }
    return sorted(r, keys, items, yes(r, v[0]));
}

static j_val f_dictsort(j_run *r, j_val x, const j_args *a)
{
    j_val v[3];
    kq_j_take(r, "dictsort", a, "case_sensitive,by,reverse", 0, v);
    const bool by_value = given(v[1]) && kq_j_is(v[1], "value");
    if (given(v[1]) && !by_value && !kq_j_is(v[1], "key"))
        j_type_error(r, "dictsort sorts by key or value");
    if (x.kind != J_DICT)
        j_type_error(r, "dictsort wants an object, not %s", kq_j_type_name(x));
    j_list *keys = kq_j_list(r, J_LIST, x.m->n).l, *items = kq_j_list(r, J_LIST, x.m->n).l;
    for (size_t i = 0; i < x.m->n; i++) {
        kq_j_push(r, keys, folded(r, by_value ? x.m->value[i] : x.m->key[i], yes(r, v[0])));
        kq_j_push(r, items, kq_j_pair(r, x.m->key[i], x.m->value[i]));
    }
    return sorted(r, keys, items, yes(r, v[2]));
}

static j_val f_unique(j_run *r, j_val x, const j_args *a)
{
    j_val v[2], seen = kq_j_dict(r, 0);
    j_list out = {0};
    kq_j_take(r, "unique", a, "case_sensitive,attribute", 0, v);
    const j_list *items = kq_j_items(r, x);
    for (size_t i = 0; i < items->n; i++) {
        const j_val key = folded(r, attribute_of(r, items->v[i], v[1]), yes(r, v[0]));
        if (kq_j_dict_get(r, seen.m, key))
            continue;
        kq_j_dict_set(r, seen.m, key, j_none());
        kq_j_push(r, &out, items->v[i]);
    }
    return kq_j_iter(r, &out);
}

/* ---- with a filter or a test for each item ---- */

static const char *named(j_run *r, j_val v, const char *what)
{
    const j_str *s = kq_j_want_str(r, v, what);
    char *name = kq_j_alloc(r, s->n + 1, 1);
    memcpy(name, s->p, s->n);
    return name;
}

static j_val f_map(j_run *r, j_val x, const j_args *a)
{
    j_list out = {0};
    j_val v[2] = {{.kind = J_MISSING}, {.kind = J_MISSING}};
    int filter = -1;
    if (!kq_j_truth(r, x))
        return kq_j_iter(r, &out);
    if (!a->n) {
        kq_j_take(r, "map", a, "attribute,default", 1, v);
    } else {
        const char *name = named(r, a->v[0], "map");
        if ((filter = kq_j_filter_find(name)) < 0)
            kq_j_fail(r, KQ_E_UNSUPPORTED, "the filter '%.40s' is not supported", name);
    }
    const j_args rest = {.v = a->v + 1, .n = a->n - 1, .key = a->key, .kv = a->kv, .n_kv = a->n_kv};
    const j_list *items = kq_j_items(r, x);
    for (size_t i = 0; i < items->n; i++) {
        j_val item =
            filter >= 0 ? kq_j_filter(r, filter, items->v[i], &rest) : attribute_of(r, items->v[i], v[0]);
        if (filter < 0 && item.kind == J_UNDEFINED && given(v[1]) && v[1].kind != J_NONE)
            item = v[1];
        kq_j_push(r, &out, item);
    }
    return kq_j_iter(r, &out);
}

static j_val choose(j_run *r, j_val x, const j_args *a, bool of_attribute, bool wanted)
{
    j_list out = {0};
    const size_t off = of_attribute;
    int test = -1;
    if (!kq_j_truth(r, x))
        return kq_j_iter(r, &out);
    if (a->n < off)
        j_type_error(r, "selectattr and rejectattr want the name of an attribute");
    if (a->n > off) {
        const char *name = named(r, a->v[off], "select");
        if ((test = kq_j_test_find(name)) < 0)
            kq_j_fail(r, KQ_E_UNSUPPORTED, "the test '%.40s' is not supported", name);
    }
    const j_args rest = {.v = a->v + off + 1,
                         .n = test >= 0 ? a->n - off - 1 : 0,
                         .key = a->key,
                         .kv = a->kv,
                         .n_kv = a->n_kv};
    const j_list *items = kq_j_items(r, x);
    for (size_t i = 0; i < items->n; i++) {
        const j_val v = of_attribute ? attribute_of(r, items->v[i], a->v[0]) : items->v[i];
        if ((test >= 0 ? kq_j_test(r, test, v, &rest) : kq_j_truth(r, v)) == wanted)
            kq_j_push(r, &out, items->v[i]);
    }
    return kq_j_iter(r, &out);
}
static j_val f_select(j_run *r, j_val x, const j_args *a)
{
    return choose(r, x, a, false, true);
}
static j_val f_reject(j_run *r, j_val x, const j_args *a)
{
    return choose(r, x, a, false, false);
}
static j_val f_selectattr(j_run *r, j_val x, const j_args *a)
{
    return choose(r, x, a, true, true);
}
static j_val f_rejectattr(j_run *r, j_val x, const j_args *a)
{
    return choose(r, x, a, true, false);
}

const j_filter_entry kq_j_list_filters[] = {
    {"dictsort", f_dictsort},
    {"first", f_first},
    {"items", f_items},
    {"join", f_join},
    {"last", f_last},
    {"list", f_list},
    {"map", f_map},
    {"max", f_max},
    {"min", f_min},
    {"reject", f_reject},
    {"rejectattr", f_rejectattr},
    {"reverse", f_reverse},
    {"select", f_select},
    {"selectattr", f_selectattr},
    {"sort", f_sort},
    {"sum", f_sum},
    {"unique", f_unique},
    {NULL, NULL},
};
