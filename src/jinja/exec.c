/* Runs statements and whole templates. Scopes and macros are here too, because a macro is a value whose call
 * runs statements in a scope of its own. */
#include "jinja/internal.h"

/* ---- scopes ---- */

j_env *kq_j_push_env(py_run *r, j_env *parent)
{
    j_env *e = kq_py_alloc(r, 1, sizeof *e);
    e->parent = parent;
    return e;
}

void kq_j_define(py_run *r, j_env *e, const char *name, py_val v)
{
    py_tick(r);
    for (size_t i = 0; i < e->n; i++)
        if (e->v[i].name == name) {
            e->v[i].v = v;
            return;
        }
    kq_py_grow(r, &e->v, &e->cap, e->n, sizeof *e->v);
    e->v[e->n++] = (j_bind){name, v};
}

static void assign(py_run *r, const j_node *target, py_val v)
{
    r->line = target->line;
    if (target->type == N_NAME) {
        kq_j_define(r, j_state(r)->env, target->name, v);
    } else if (target->type == N_NSREF) {
        const py_val ns = kq_j_eval(r, target->a);
        if (ns.kind != PY_NAMESPACE)
            py_type_error(r, "'%.40s' is no namespace; its attributes cannot be assigned", target->a->name);
        if (target->name[0] == '_')
            py_type_error(r, "the name of a namespace's attribute does not begin with '_'");
        kq_py_dict_set(r, ns.m, kq_py_cstr(r, target->name), v);
    } else {
        const py_list *items = kq_py_items(r, v);
        if (items->n != target->list.n)
            py_type_error(r, "%zu values for %zu names", items->n, target->list.n);
        for (size_t i = 0; i < items->n; i++)
            assign(r, target->list.v[i], items->v[i]);
    }
}

/* Run a body in a scope of its own; its output is the string that is returned. */
static py_val captured(py_run *r, const j_body *body, j_env *scope)
{
    py_buf b = {0}, *sink = j_state(r)->sink;
    j_env *env = j_state(r)->env;
    j_state(r)->env = scope;
    j_state(r)->sink = &b;
    kq_j_exec(r, body);
    j_state(r)->env = env;
    j_state(r)->sink = sink;
    return kq_py_buf_str(r, &b);
}

/* Apply the filters of {% filter %} or {% set x | f %} to v. */
static py_val filtered(py_run *r, const j_node *n, py_val v)
{
    py_args args;
    if (!n)
        return v;
    v = filtered(r, n->a, v);
    kq_j_eval_args(r, n, &args);
    kq_j_known(r, n, "filter");
    return kq_j_filter(r, n->op, v, &args);
}

/* ---- macros ---- */

static const py_val *by_name(const py_args *a, const char *name)
{
    for (size_t i = 0; i < a->n_kv; i++)
        if (!strcmp(a->key[i], name))
            return &a->kv[i];
    return NULL;
}

py_val kq_j_call_macro(py_run *r, const py_macro *m, const py_args *a, const py_val *caller)
{
    const j_node *def = m->def;
    const j_body *params = &def->a->list, *defaults = &def->a->other;
    const char *name = def->name ? def->name : "caller";
    size_t used = 0;
    if (a->n > params->n)
        py_type_error(r, "%s takes %zu arguments, %zu are given", name, params->n, a->n);
    if (++j_state(r)->depth > KQ_JINJA_MAX_DEPTH)
        kq_py_fail(r, KQ_E_ARG, "more than %d expressions, statements and macros within each other",
                   KQ_JINJA_MAX_DEPTH);
    j_env *scope = kq_j_push_env(r, m->closure), *env = j_state(r)->env;
    for (size_t i = 0; i < params->n; i++) {
        const char *param = params->v[i]->name;
        const py_val *named = by_name(a, param);
        if (named && i < a->n)
            py_type_error(r, "%s: the argument '%s' is given twice", name, param);
        used += named != NULL;
        py_val v = named ? *named : i < a->n ? a->v[i] : py_undefined(param);
        if (!named && i >= a->n && i + defaults->n >= params->n) {
            j_state(r)->env = scope;
            v = kq_j_eval(r, defaults->v[i + defaults->n - params->n]);
            j_state(r)->env = env;
        }
        kq_j_define(r, scope, param, v);
    }
    if (used < a->n_kv)
        py_type_error(r, "%s has no parameter of the name given", name);
    if (caller && !def->op)
        py_type_error(r, "%s does not use caller", name);
    if (def->op)
        kq_j_define(r, scope, def->key[0], caller ? *caller : py_undefined("caller"));
    const py_val v = captured(r, &def->list, scope);
    j_state(r)->depth--;
    return v;
}

static py_val macro(py_run *r, const j_node *def)
{
    py_macro *m = kq_py_alloc(r, 1, sizeof *m);
    *m = (py_macro){.def = def, .closure = j_state(r)->env};
    return (py_val){.kind = PY_MACRO, .macro = m};
}

static py_val call_block(py_run *r, const j_node *n)
{
    py_args args;
    const py_val caller = macro(r, n), callee = kq_j_eval(r, n->b->a);
    kq_j_eval_args(r, n->b, &args);
    if (callee.kind != PY_MACRO)
        kq_py_fail(r, KQ_E_UNSUPPORTED, "{%% call %%} of something other than a macro");
    return kq_j_call_macro(r, callee.macro, &args, &caller);
}

/* ---- loops ---- */

/* Can the body of a loop change what the loop's filter answers? It can when the filter reads something that a
 * body can change. */
static bool changeable(py_run *r, const j_node *n)
{
    for (size_t i = 0; n->key && n->key[i]; i++)
        for (const j_env *e = j_state(r)->env; e; e = e->parent)
            for (size_t k = 0; k < e->n; k++)
                if (e->v[k].name == n->key[i] && (e->v[k].v.kind == PY_NAMESPACE ||
                                                  e->v[k].v.kind >= PY_LOOP || e->v[k].v.kind == PY_ITER))
                    return true;
    return false;
}

static bool passes(py_run *r, const j_node *n, j_env *scope, py_val item)
{
    j_env *env = j_state(r)->env;
    j_state(r)->env = scope;
    assign(r, n->a, item);
    const bool pass = kq_py_truth(r, kq_j_eval(r, n->c));
    j_state(r)->env = env;
    return pass;
}

static const py_list *chosen(py_run *r, const j_node *n, const py_list *items)
{
    py_list *out = kq_py_list(r, PY_LIST, 0).l;
    for (size_t i = 0; i < items->n; i++)
        if (passes(r, n, kq_j_push_env(r, j_state(r)->env), items->v[i]))
            kq_py_push(r, out, items->v[i]);
    return out;
}

/* Run a for statement. n->op says whether its body uses the variable `loop`. */
static j_flow for_loop(py_run *r, const j_node *n)
{
    const py_list *items = kq_py_items(r, kq_j_eval(r, n->b));
    /* Python's generator asks the filter before each body; the order matters only then */
    const bool late = n->c && changeable(r, n);
    bool any = false;
    j_env *outer = j_state(r)->env;
    if (late && n->op)
        kq_py_fail(r, KQ_E_UNSUPPORTED,
                   "a loop that uses loop, and a filter whose values its body may change");
    if (n->c && !late)
        items = chosen(r, n, items);
    py_loop *loop = kq_py_alloc(r, 1, sizeof *loop);
    *loop = (py_loop){.items = items, .depth = 1}; /* only a recursive loop has a greater depth */
    for (size_t i = 0; i < items->n; i++) {
        j_env *scope = kq_j_push_env(r, outer);
        py_tick(r);
        if (late && !passes(r, n, scope, items->v[i]))
            continue;
        loop->i = i;
        j_state(r)->env = scope;
        assign(r, n->a, items->v[i]);
        if (n->op)
            kq_j_define(r, scope, n->name, (py_val){.kind = PY_LOOP, .loop = loop});
        const j_flow flow = kq_j_exec(r, &n->list);
        j_state(r)->env = outer;
        /* jinja2 runs else also when every iteration ended by continue or break */
        any |= flow == FLOW_ON;
        if (flow == FLOW_BREAK)
            break;
    }
    if (any || !n->other.n)
        return FLOW_ON;
    j_state(r)->env = kq_j_push_env(r, outer);
    const j_flow flow = kq_j_exec(r, &n->other);
    j_state(r)->env = outer;
    return flow;
}

static j_flow if_else(py_run *r, const j_node *n)
{
    for (;; n = n->c) {
        if (kq_py_truth(r, kq_j_eval(r, n->a)))
            return kq_j_exec(r, &n->list);
        if (!n->c)
            return kq_j_exec(r, &n->other);
    }
}

static void with(py_run *r, const j_node *n)
{
    j_env *scope = kq_j_push_env(r, j_state(r)->env), *env = j_state(r)->env;
    for (size_t i = 0; i < n->a->list.n; i++)
        kq_j_define(r, scope, n->a->list.v[i]->name, kq_j_eval(r, n->a->other.v[i]));
    j_state(r)->env = scope;
    kq_j_exec(r, &n->list);
    j_state(r)->env = env;
}

static j_flow statement(py_run *r, const j_node *n)
{
    switch (n->type) {
    case N_DATA: kq_py_put(r, j_state(r)->sink, n->value.s->p, n->value.s->n); break;
    case N_PRINT:
        for (size_t i = 0; i < n->list.n; i++)
            kq_py_put_str(r, j_state(r)->sink, kq_j_eval(r, n->list.v[i]));
        break;
    case N_IF: return if_else(r, n);
    case N_FOR: return for_loop(r, n);
    case N_SET: assign(r, n->a, kq_j_eval(r, n->b)); break;
    case N_SET_BLOCK:
        assign(r, n->a, filtered(r, n->b, captured(r, &n->list, kq_j_push_env(r, j_state(r)->env))));
        break;
    case N_FILTER_BLOCK:
        kq_py_put_str(r, j_state(r)->sink,
                      filtered(r, n->b, captured(r, &n->list, kq_j_push_env(r, j_state(r)->env))));
        break;
    case N_GENERATION:
        kq_py_put_str(r, j_state(r)->sink, captured(r, &n->list, kq_j_push_env(r, j_state(r)->env)));
        break;
    case N_MACRO: kq_j_define(r, j_state(r)->env, n->name, macro(r, n)); break;
    case N_CALL_BLOCK: kq_py_put_str(r, j_state(r)->sink, call_block(r, n)); break;
    case N_WITH: with(r, n); break;
    case N_BREAK: return FLOW_BREAK;
    case N_CONTINUE: return FLOW_CONTINUE;
    default: kq_py_fail(r, KQ_E_UNSUPPORTED, "a statement of an unknown kind");
    }
    return FLOW_ON;
}

j_flow kq_j_exec(py_run *r, const j_body *body)
{
    j_flow flow = FLOW_ON;
    if (++j_state(r)->depth > KQ_JINJA_MAX_DEPTH)
        kq_py_fail(r, KQ_E_ARG, "more than %d expressions, statements and macros within each other",
                   KQ_JINJA_MAX_DEPTH);
    for (size_t i = 0; i < body->n && flow == FLOW_ON; i++) {
        py_tick(r);
        r->line = body->v[i]->line;
        flow = statement(r, body->v[i]);
    }
    j_state(r)->depth--;
    return flow;
}

/* ---- a whole template ---- */

static void define_variables(py_run *r, const kq_jinja *t, const json_t *variables)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)variables, key, v)
        for (size_t i = 0; i < t->n_used; i++)
            if (!strcmp(t->used[i], key)) { /* variables that the template never names are left out */
                kq_j_define(r, j_state(r)->env, t->used[i], kq_py_from_json(r, v));
                break;
            }
}

kq_status kq_jinja_render(const kq_jinja *t, const json_t *variables, const struct tm *now,
                          bool (*stop)(void *ctx), void *ctx, char **text, size_t *size, kq_error *err)
{
    *text = NULL;
    *size = 0;
    py_arena *arena = kq_calloc(1, sizeof *arena);
    if (!arena)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: %s", t->name);
    py_buf out = {0};
    j_render render = {.run = {.err = err,
                               .arena = arena,
                               .name = t->name,
                               .steps = KQ_PY_MAX_STEPS,
                               .stop = stop,
                               .stop_ctx = ctx},
                       .sink = &out,
                       .now = now};
    py_run *r = &render.run;
    if (!setjmp(r->out)) {
        render.env = kq_j_push_env(r, NULL);
        define_variables(r, t, variables);
        kq_j_exec(r, &t->body);
        if (!(*text = kq_alloc(out.n + 1, 1)))
            kq_py_fail(r, KQ_E_MEMORY, "out of memory");
        if (out.n)
            memcpy(*text, out.p, out.n);
        (*text)[out.n] = 0;
        *size = out.n;
    }
    kq_py_arena_free(arena);
    return r->status;
}
