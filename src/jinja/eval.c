/* Expressions. */
#include "jinja/internal.h"

static j_val lookup(j_run *r, const char *name)
{
    for (const j_env *e = r->env; e; e = e->parent)
        for (size_t i = 0; i < e->n; i++)
            if (e->v[i].name == name)
                return e->v[i].v;
    const int function = kq_j_function_find(name);
    if (function >= 0)
        return (j_val){.kind = J_FUNCTION, .function = function};
    if (!strcmp(name, "lipsum"))
        kq_j_fail(r, KQ_E_UNSUPPORTED, "the function 'lipsum' is not supported");
    return j_undefined(name);
}

/* f(*list) */
static void spread_list(j_run *r, j_val list, j_args *a)
{
    const j_list *items = kq_j_items(r, list);
    j_val *v = kq_j_alloc(r, a->n + items->n + 1, sizeof *v);
    for (size_t i = 0; i < a->n + items->n; i++)
        v[i] = i < a->n ? a->v[i] : items->v[i - a->n];
    a->v = v;
    a->n += items->n;
}

/* f(**object) */
static void spread_dict(j_run *r, j_val dict, j_args *a)
{
    if (dict.kind != J_DICT)
        j_type_error(r, "an object is wanted after **, not %s", kq_j_type_name(dict));
    const size_t n = a->n_kv + dict.m->n;
    const char **key = kq_j_alloc(r, n + 1, sizeof *key);
    j_val *v = kq_j_alloc(r, n + 1, sizeof *v);
    for (size_t i = 0; i < n; i++) {
        if (i < a->n_kv) {
            key[i] = a->key[i];
            v[i] = a->kv[i];
            continue;
        }
        const j_val k = dict.m->key[i - a->n_kv];
        if (k.kind != J_STR)
            j_type_error(r, "the names of an object after ** are strings");
        char *name = kq_j_alloc(r, k.s->n + 1, 1);
        memcpy(name, k.s->p, k.s->n);
        key[i] = name;
        v[i] = dict.m->value[i - a->n_kv];
        kq_j_spend(r, i);
        for (size_t j = 0; j < i; j++)
            if (!strcmp(key[j], name))
                j_type_error(r, "the argument '%.40s' is given twice", name);
    }
    a->key = key;
    a->kv = v;
    a->n_kv = n;
}

void kq_j_eval_args(j_run *r, const j_node *n, j_args *a)
{
    *a = (j_args){.v = n->list.n ? kq_j_alloc(r, n->list.n, sizeof *a->v) : NULL,
                  .n = n->list.n,
                  .key = n->key,
                  .kv = n->other.n ? kq_j_alloc(r, n->other.n, sizeof *a->kv) : NULL,
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

j_val kq_j_call(j_run *r, j_val callee, const j_args *a)
{
    j_val v[1];
    switch (callee.kind) {
    case J_MACRO: return kq_j_call_macro(r, callee.macro, a, NULL);
    case J_METHOD: return kq_j_call_method(r, callee.method, a);
    case J_FUNCTION: return kq_j_call_function(r, callee.function, a);
    case J_JOINER: kq_j_take(r, "joiner", a, "", 0, v); return kq_j_cycler_call(r, callee, NULL);
    case J_LOOP: kq_j_fail(r, KQ_E_UNSUPPORTED, "recursive loops are not supported");
    case J_UNDEFINED:
        if (callee.safe)
            j_type_error(r, "'%.80s' is not allowed in a template's sandbox", callee.why);
        j_type_error(r, "'%.80s' is undefined, and cannot be called", callee.why ? callee.why : "a value");
    default: j_type_error(r, "a value of type %s cannot be called", kq_j_type_name(callee));
    }
}

void kq_j_known(j_run *r, const j_node *n, const char *what)
{
    r->line = n->line;
    if (n->op < 0)
        kq_j_fail(r, KQ_E_UNSUPPORTED, "the %s '%.40s' is not supported", what, n->name);
}

static j_val list(j_run *r, const j_node *n)
{
    j_val v = kq_j_list(r, n->type == N_LIST ? J_LIST : J_TUPLE, n->list.n);
    for (size_t i = 0; i < n->list.n; i++)
        kq_j_push(r, v.l, kq_j_eval(r, n->list.v[i]));
    return v;
}

static j_val dict(j_run *r, const j_node *n)
{
    j_val v = kq_j_dict(r, n->list.n);
    for (size_t i = 0; i < n->list.n; i++) {
        const j_val key = kq_j_eval(r, n->list.v[i]);
        kq_j_dict_set(r, v.m, key, kq_j_eval(r, n->other.v[i]));
    }
    return v;
}

static j_val compare(j_run *r, const j_node *n)
{
    j_val left = kq_j_eval(r, n->a);
    for (size_t i = 0; i < n->list.n; i++) {
        const j_val right = kq_j_eval(r, n->list.v[i]->a);
        if (!kq_j_compare(r, (j_op)n->list.v[i]->op, left, right))
            return j_bool(false);
        left = right;
    }
    return j_bool(true);
}

static j_val concat(j_run *r, const j_node *n)
{
    j_buf b = {0};
    for (size_t i = 0; i < n->list.n; i++)
        kq_j_put_str(r, &b, kq_j_eval(r, n->list.v[i]));
    return kq_j_buf_str(r, &b);
}

static j_val slice(j_run *r, const j_node *n)
{
    const j_val missing = {.kind = J_MISSING};
    const j_val of = kq_j_eval(r, n->a), start = n->b ? kq_j_eval(r, n->b) : missing,
                stop = n->c ? kq_j_eval(r, n->c) : missing;
    return kq_j_slice(r, of, start, stop, n->list.n ? kq_j_eval(r, n->list.v[0]) : missing);
}

static j_val binary(j_run *r, const j_node *n)
{
    const j_val a = kq_j_eval(r, n->a), b = kq_j_eval(r, n->b);
    r->line = n->line;
    return kq_j_binary(r, (j_op)n->op, a, b);
}

static j_val eval(j_run *r, const j_node *n)
{
    j_args args;
    j_val v;
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
        return kq_j_call(r, v, &args);
    case N_FILTER:
        v = kq_j_eval(r, n->a);
        kq_j_eval_args(r, n, &args);
        kq_j_known(r, n, "filter");
        return kq_j_filter(r, n->op, v, &args);
    case N_TEST:
        v = kq_j_eval(r, n->a);
        kq_j_eval_args(r, n, &args);
        kq_j_known(r, n, "test");
        return j_bool(kq_j_test(r, n->op, v, &args));
    case N_NOT: return j_bool(!kq_j_truth(r, kq_j_eval(r, n->a)));
    case N_NEG:
    case N_POS: return kq_j_negate(r, kq_j_eval(r, n->a), n->type == N_NEG);
    case N_AND: v = kq_j_eval(r, n->a); return kq_j_truth(r, v) ? kq_j_eval(r, n->b) : v;
    case N_OR: v = kq_j_eval(r, n->a); return kq_j_truth(r, v) ? v : kq_j_eval(r, n->b);
    case N_COND:
        if (kq_j_truth(r, kq_j_eval(r, n->a)))
            return kq_j_eval(r, n->b);
        return n->c ? kq_j_eval(r, n->c) : j_undefined("an inline if without else");
    case N_COMPARE: return compare(r, n);
    case N_CONCAT: return concat(r, n);
    case N_BINARY: return binary(r, n);
    default: kq_j_fail(r, KQ_E_UNSUPPORTED, "an expression of an unknown kind");
    }
}

j_val kq_j_eval(j_run *r, const j_node *n)
{
    if (++r->depth > KQ_JINJA_MAX_DEPTH)
        kq_j_fail(r, KQ_E_ARG, "more than %d expressions, statements and macros within each other",
                  KQ_JINJA_MAX_DEPTH);
    j_tick(r);
    r->line = n->line;
    const j_val v = eval(r, n);
    r->depth--;
    return v;
}
