/* Finds filters and tests by name, for the parser and the evaluator. Filters that run another filter or a
 * test for each item are here too, and so are tests that ask whether a name is known: they need the whole
 * library. */
#include "jinja/internal.h"

static bool given(py_val v)
{
    return v.kind != PY_MISSING;
}

static const char *name_of(py_run *r, py_val v, const char *what)
{
    const py_str *s = kq_py_as_str(r, v, what);
    char *name = kq_py_alloc(r, s->n + 1, 1);
    memcpy(name, s->p, s->n);
    return name;
}

static py_val f_map(py_run *r, py_val x, const py_args *a)
{
    py_list out = {0};
    py_val v[2] = {{.kind = PY_MISSING}, {.kind = PY_MISSING}};
    int filter = -1;
    if (!kq_py_truth(r, x))
        return kq_py_iter(r, &out);
    if (!a->n) {
        kq_py_match_args(r, "map", a, "attribute,default", 1, v);
    } else {
        const char *name = name_of(r, a->v[0], "map");
        if ((filter = kq_j_filter_find(name)) < 0)
            kq_py_fail(r, KQ_E_UNSUPPORTED, "the filter '%.40s' is not supported", name);
    }
    const py_args rest = {.v = a->v + 1, .n = a->n - 1, .key = a->key, .kv = a->kv, .n_kv = a->n_kv};
    const py_list *items = kq_py_items(r, x);
    for (size_t i = 0; i < items->n; i++) {
        py_val item = filter >= 0 ? kq_j_filter(r, filter, items->v[i], &rest)
                                  : kq_j_attribute_of(r, items->v[i], v[0]);
        if (filter < 0 && item.kind == PY_UNDEFINED && given(v[1]) && v[1].kind != PY_NONE)
            item = v[1];
        kq_py_push(r, &out, item);
    }
    return kq_py_iter(r, &out);
}

static py_val choose(py_run *r, py_val x, const py_args *a, bool of_attribute, bool wanted)
{
    py_list out = {0};
    const size_t off = of_attribute;
    int test = -1;
    if (!kq_py_truth(r, x))
        return kq_py_iter(r, &out);
    if (a->n < off)
        py_type_error(r, "selectattr and rejectattr want the name of an attribute");
    if (a->n > off) {
        const char *name = name_of(r, a->v[off], "select");
        if ((test = kq_j_test_find(name)) < 0)
            kq_py_fail(r, KQ_E_UNSUPPORTED, "the test '%.40s' is not supported", name);
    }
    const py_args rest = {.v = a->v + off + 1,
                          .n = test >= 0 ? a->n - off - 1 : 0,
                          .key = a->key,
                          .kv = a->kv,
                          .n_kv = a->n_kv};
    const py_list *items = kq_py_items(r, x);
    for (size_t i = 0; i < items->n; i++) {
        const py_val v = of_attribute ? kq_j_attribute_of(r, items->v[i], a->v[0]) : items->v[i];
        if ((test >= 0 ? kq_j_test(r, test, v, &rest) : kq_py_truth(r, v)) == wanted)
            kq_py_push(r, &out, items->v[i]);
    }
    return kq_py_iter(r, &out);
}

static py_val f_select(py_run *r, py_val x, const py_args *a)
{
    return choose(r, x, a, false, true);
}

static py_val f_reject(py_run *r, py_val x, const py_args *a)
{
    return choose(r, x, a, false, false);
}

static py_val f_selectattr(py_run *r, py_val x, const py_args *a)
{
    return choose(r, x, a, true, true);
}

static py_val f_rejectattr(py_run *r, py_val x, const py_args *a)
{
    return choose(r, x, a, true, false);
}

static const j_filter_entry own_filters[] = {
    {"map", f_map},       {"reject", f_reject},         {"rejectattr", f_rejectattr},
    {"select", f_select}, {"selectattr", f_selectattr}, {NULL, NULL},
};

/* A filter's number is its position in these three tables, counted through. */
static const j_filter_entry *const filter_tables[] = {kq_j_value_filters, kq_j_list_filters, own_filters};
enum { N_TABLES = sizeof filter_tables / sizeof *filter_tables };

int kq_j_filter_find(const char *name)
{
    int number = 0;
    for (int t = 0; t < N_TABLES; t++)
        for (const j_filter_entry *e = filter_tables[t]; e->name; e++, number++)
            if (!strcmp(e->name, name))
                return number;
    return -1;
}

py_val kq_j_filter(py_run *r, int filter, py_val v, const py_args *a)
{
    py_tick(r);
    for (int t = 0; t < N_TABLES; t++)
        for (const j_filter_entry *e = filter_tables[t]; e->name; e++)
            if (!filter--)
                return e->run(r, v, a);
    kq_py_fail(r, KQ_E_UNSUPPORTED, "a filter of an unknown number");
}

/* ---- tests ---- */

enum { IS_FILTER = 1000, IS_TEST }; /* the numbers of two more tests, above those of tests.c */

int kq_j_test_find(const char *name)
{
    return !strcmp(name, "filter") ? IS_FILTER : !strcmp(name, "test") ? IS_TEST : kq_j_plain_test_find(name);
}

bool kq_j_test(py_run *r, int test, py_val v, const py_args *a)
{
    py_val none[1];
    py_tick(r);
    if (test < IS_FILTER)
        return kq_j_plain_test(r, test, v, a);
    const char *what = test == IS_FILTER ? "filter" : "test";
    kq_py_match_args(r, what, a, "", 0, none);
    const char *name = name_of(r, v, what);
    if ((test == IS_FILTER ? kq_j_filter_find(name) : kq_j_test_find(name)) < 0)
        kq_py_fail(r, KQ_E_UNSUPPORTED, "'is %s' of a name that is not known here", what);
    return true; /* never false: jinja2 knows more filters and tests than kronq */
}
