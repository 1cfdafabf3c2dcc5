/* Evaluates expressions: one function for each kind of node, which gives a value. */
#include "jinja/internal.h"

static py_val lookup(py_run *r, const char *name)
{
    for (const j_env *e = j_state(r)->env; e; e = e->parent)
        for (size_t i = 0; i < e->n; i++)
            if (e->v[i].name == name)
                return e->v[i].v;
    const int function = kq_j_function_find(name);
    if (function >= 0)
        return (py_val){.kind = PY_FUNCTION, .function = function};
    if (!strcmp(name, "lipsum"))
        kq_py_fail(r, KQ_E_UNSUPPORTED, "the function 'lipsum' is not supported");
    return py_undefined(name);
}

/* f(*list) */
static void spread_list(py_run *r, py_val list, py_args *a)
{
    const py_list *items = kq_py_items(r, list);
    py_val *v = kq_py_alloc(r, a->n + items->n + 1, sizeof *v);
    for (size_t i = 0; i < a->n + items->n; i++)
        v[i] = i < a->n ? a->v[i] : items->v[i - a->n];
    a->v = v;
    a->n += items->n;
}

/* f(**object) */
static void spread_dict(py_run *r, py_val dict, py_args *a)
{
    if (dict.kind != PY_DICT)
        py_type_error(r, "an object is wanted after **, not %s", kq_py_type_name(dict));
    const size_t n = a->n_kv + dict.m->n;
    const char **key = kq_py_alloc(r, n + 1, sizeof *key);
    py_val *v = kq_py_alloc(r, n + 1, sizeof *v);
    for (size_t i = 0; i < n; i++) {
        if (i < a->n_kv) {
            key[i] = a->key[i];
            v[i] = a->kv[i];
            continue;
        }
        const py_val k = dict.m->key[i - a->n_kv];
        if (k.kind != PY_STR)
            py_type_error(r, "the names of an object after ** are strings");
        char *name = kq_py_alloc(r, k.s->n + 1, 1);
        memcpy(name, k.s->p, k.s->n);
        key[i] = name;
        v[i] = dict.m->value[i - a->n_kv];
        kq_py_spend(r, i);
        for (size_t j = 0; j < i; j++)
            if (!strcmp(key[j], name))
                py_type_error(r, "the argument '%.40s' is given twice", name);
    }
    a->key = key;
    a->kv = v;
    a->n_kv = n;
}

void kq_j_eval_args(py_run *r, const j_node *n, py_args *a)
{
    *a = (py_args){.v = n->list.n ? kq_py_alloc(r, n->list.n, sizeof *a->v) : NULL,
                   .n = n->list.n,
                   .key = n->key,
                   .kv = n->other.n ? kq_py_alloc(r, n->other.n, sizeof *a->kv) : NULL,
                   .n_kv = n->other.n};
    for (size_t i = 0; i < n->list.n; i++)
        a->v[i] = kq_j_eval(r, n->list.v[i]);
    for (size_t i = 0; i < n->other.n; i++)
        a->kv[i] = kq_j_eval(r, n->other.v[i]);
    if (n->b)
        spread_list(r, kq_j_eval(r, n->b), a);
    if (n->c)
        spread_dict(r, kq_j_eval(r, n->c), a);
    r->line = n->line;
}

static py_val call_method(py_run *r, const py_method *m, const py_args *a)
{
    if (m->self.kind == PY_LOOP)
        return kq_j_loop_call(r, m->self.loop, m->name, a);
    if (m->self.kind == PY_CYCLER)
        return kq_j_cycler_call(r, m->self, m->name);
    return kq_py_call_method(r, m, a);
}

static py_val call(py_run *r, py_val callee, const py_args *a)
{
    py_val v[1];
    switch (callee.kind) {
    case PY_MACRO: return kq_j_call_macro(r, callee.macro, a, NULL);
    case PY_METHOD: return call_method(r, callee.method, a);
    case PY_FUNCTION: return kq_j_call_function(r, callee.function, a);
    case PY_JOINER: kq_py_match_args(r, "joiner", a, "", 0, v); return kq_j_cycler_call(r, callee, NULL);
    case PY_LOOP: kq_py_fail(r, KQ_E_UNSUPPORTED, "recursive loops are not supported");
    case PY_UNDEFINED:
        if (callee.safe)
            py_type_error(r, "'%.80s' is not allowed in a template's sandbox", callee.why);
        py_type_error(r, "'%.80s' is undefined, and cannot be called", callee.why ? callee.why : "a value");
    default: py_type_error(r, "a value of type %s cannot be called", kq_py_type_name(callee));
    }
}

static py_val list(py_run *r, const j_node *n)
{
    py_val v = kq_py_list(r, n->type == N_LIST ? PY_LIST : PY_TUPLE, n->list.n);
    for (size_t i = 0; i < n->list.n; i++)
        kq_py_push(r, v.l, kq_j_eval(r, n->list.v[i]));
    return v;
}

static py_val dict(py_run *r, const j_node *n)
{
    py_val v = kq_py_dict(r, n->list.n);
    for (size_t i = 0; i < n->list.n; i++) {
        const py_val key = kq_j_eval(r, n->list.v[i]);
        kq_py_dict_set(r, v.m, key, kq_j_eval(r, n->other.v[i]));
    }
    return v;
}

static py_val compare(py_run *r, const j_node *n)
{
    py_val left = kq_j_eval(r, n->a);
    for (size_t i = 0; i < n->list.n; i++) {
        const py_val right = kq_j_eval(r, n->list.v[i]->a);
        if (!kq_py_compare(r, (py_op)n->list.v[i]->op, left, right))
            return py_bool(false);
        left = right;
    }
    return py_bool(true);
}

static py_val concat(py_run *r, const j_node *n)
{
    py_buf b = {0};
    for (size_t i = 0; i < n->list.n; i++)
        kq_py_put_str(r, &b, kq_j_eval(r, n->list.v[i]));
    return kq_py_buf_str(r, &b);
}

static py_val slice(py_run *r, const j_node *n)
{
    const py_val missing = {.kind = PY_MISSING};
    const py_val of = kq_j_eval(r, n->a), start = n->b ? kq_j_eval(r, n->b) : missing,
                 stop = n->c ? kq_j_eval(r, n->c) : missing;
    return kq_j_slice(r, of, start, stop, n->list.n ? kq_j_eval(r, n->list.v[0]) : missing);
}

static py_val binary(py_run *r, const j_node *n)
{
    const py_val a = kq_j_eval(r, n->a), b = kq_j_eval(r, n->b);
    r->line = n->line;
    return kq_py_binary(r, (py_op)n->op, a, b);
}

static py_val eval(py_run *r, const j_node *n)
{
    py_args args;
    py_val v;
    switch (n->type) {
    case N_CONST: return n->value;
    case N_NAME: return lookup(r, n->name);
    case N_LIST:
    case N_TUPLE: return list(r, n);
    case N_DICT: return dict(r, n);
    case N_ATTR: return kq_j_getattr(r, kq_j_eval(r, n->a), n->name);
    case N_ITEM: v = kq_j_eval(r, n->a); return kq_j_getitem(r, v, kq_j_eval(r, n->b));
    case N_SLICE: return slice(r, n);
    case N_CALL:
        v = kq_j_eval(r, n->a);
        kq_j_eval_args(r, n, &args);
        return call(r, v, &args);
    case N_FILTER:
        v = kq_j_eval(r, n->a);
        kq_j_eval_args(r, n, &args);
        kq_j_known(r, n, "filter");
        return kq_j_filter(r, n->op, v, &args);
    case N_TEST:
        v = kq_j_eval(r, n->a);
        kq_j_eval_args(r, n, &args);
        kq_j_known(r, n, "test");
        return py_bool(kq_j_test(r, n->op, v, &args));
    case N_NOT: return py_bool(!kq_py_truth(r, kq_j_eval(r, n->a)));
    case N_NEG:
    case N_POS: return kq_py_negate(r, kq_j_eval(r, n->a), n->type == N_NEG);
    case N_AND: v = kq_j_eval(r, n->a); return kq_py_truth(r, v) ? kq_j_eval(r, n->b) : v;
    case N_OR: v = kq_j_eval(r, n->a); return kq_py_truth(r, v) ? v : kq_j_eval(r, n->b);
    case N_COND:
        if (kq_py_truth(r, kq_j_eval(r, n->a)))
            return kq_j_eval(r, n->b);
        return n->c ? kq_j_eval(r, n->c) : py_undefined("an inline if without else");
    case N_COMPARE: return compare(r, n);
    case N_CONCAT: return concat(r, n);
    case N_BINARY: return binary(r, n);
    default: kq_py_fail(r, KQ_E_UNSUPPORTED, "an expression of an unknown kind");
    }
}

py_val kq_j_eval(py_run *r, const j_node *n)
{
    if (++j_state(r)->depth > KQ_JINJA_MAX_DEPTH)
        kq_py_fail(r, KQ_E_ARG, "more than %d expressions, statements and macros within each other",
                   KQ_JINJA_MAX_DEPTH);
    py_tick(r);
    r->line = n->line;
    const py_val v = eval(r, n);
    j_state(r)->depth--;
    return v;
}
