/* Statements, scopes, macros; and the run of a whole template. */
#include "jinja/internal.h"

/* ---- scopes ---- */

j_env *kq_j_push_env(j_run *r, j_env *parent)
{
    j_env *e = kq_j_alloc(r, 1, sizeof *e);
    e->parent = parent;
    return e;
}

void kq_j_define(j_run *r, j_env *e, const char *name, j_val v)
{
    j_tick(r);
    for (size_t i = 0; i < e->n; i++)
        if (e->v[i].name == name) {
            e->v[i].v = v;
            return;
        }
    kq_j_grow(r, &e->v, &e->cap, e->n, sizeof *e->v);
    e->v[e->n++] = (j_bind){name, v};
}

static void assign(j_run *r, const j_node *target, j_val v)
{
    r->line = target->line;
    if (target->type == N_NAME) {
        kq_j_define(r, r->env, target->name, v);
    } else if (target->type == N_NSREF) {
        const j_val ns = kq_j_eval(r, target->a);
        if (ns.kind != J_NAMESPACE)
            j_type_error(r, "'%.40s' is no namespace; its attributes cannot be assigned", target->a->name);
        if (target->name[0] == '_')
            j_type_error(r, "the name of a namespace's attribute does not begin with '_'");
        kq_j_dict_set(r, ns.m, kq_j_cstr(r, target->name), v);
    } else {
        const j_list *items = kq_j_items(r, v);
        if (items->n != target->list.n)
            j_type_error(r, "%zu values for %zu names", items->n, target->list.n);
        for (size_t i = 0; i < items->n; i++)
            assign(r, target->list.v[i], items->v[i]);
    }
}

/* Run a body into a string, in a scope of its own. */
static j_val captured(j_run *r, const j_body *body, j_env *scope)
{
    j_buf b = {0}, *sink = r->sink;
    j_env *env = r->env;
    r->env = scope;
    r->sink = &b;
    kq_j_exec(r, body);
    r->env = env;
    r->sink = sink;
    return kq_j_buf_str(r, &b);
}

/* The filters of {% filter %} and {% set x | f %}, whose innermost value is v. */
static j_val filtered(j_run *r, const j_node *n, j_val v)
{
    j_args args;
    if (!n)
        return v;
    v = filtered(r, n->a, v);
    kq_j_eval_args(r, n, &args);
    kq_j_known(r, n, "filter");
    return kq_j_filter(r, n->op, v, &args);
}

/* ---- macros ---- */

static const j_val *by_name(const j_args *a, const char *name)
{
    for (size_t i = 0; i < a->n_kv; i++)
        if (!strcmp(a->key[i], name))
            return &a->kv[i];
    return NULL;
}

j_val kq_j_call_macro(j_run *r, const j_macro *m, const j_args *a, const j_val *caller)
{
    const j_node *def = m->def;
    const j_body *params = &def->a->list, *defaults = &def->a->other;
    const char *name = def->name ? def->name : "caller";
    size_t used = 0;
    if (a->n > params->n)
        j_type_error(r, "%s takes %zu arguments, %zu are given", name, params->n, a->n);
    if (++r->depth > KQ_JINJA_MAX_DEPTH)
        kq_j_fail(r, KQ_E_ARG, "more than %d expressions, statements and macros within each other",
                  KQ_JINJA_MAX_DEPTH);
    j_env *scope = kq_j_push_env(r, m->closure), *env = r->env;
    for (size_t i = 0; i < params->n; i++) {
        const char *param = params->v[i]->name;
        const j_val *named = by_name(a, param);
        if (named && i < a->n)
            j_type_error(r, "%s: the argument '%s' is given twice", name, param);
        used += named != NULL;
        j_val v = named ? *named : i < a->n ? a->v[i] : j_undefined(param);
        if (!named && i >= a->n && i + defaults->n >= params->n) {
            r->env = scope;
            v = kq_j_eval(r, defaults->v[i + defaults->n - params->n]);
            r->env = env;
        }
        kq_j_define(r, scope, param, v);
    }
    if (used < a->n_kv)
        j_type_error(r, "%s has no parameter of the name given", name);
    if (caller && !def->op)
        j_type_error(r, "%s does not use caller", name);
    if (def->op)
        kq_j_define(r, scope, def->key[0], caller ? *caller : j_undefined("caller"));
    const j_val v = captured(r, &def->list, scope);
    r->depth--;
    return v;
}

static j_val macro(j_run *r, const j_node *def)
{
    j_macro *m = kq_j_alloc(r, 1, sizeof *m);
    *m = (j_macro){.def = def, .closure = r->env};
    return (j_val){.kind = J_MACRO, .macro = m};
}

static j_val call_block(j_run *r, const j_node *n)
{
    j_args args;
    const j_val caller = macro(r, n), callee = kq_j_eval(r, n->b->a);
    kq_j_eval_args(r, n->b, &args);
    if (callee.kind != J_MACRO)
        kq_j_fail(r, KQ_E_UNSUPPORTED, "{%% call %%} of something other than a macro");
    return kq_j_call_macro(r, callee.macro, &args, &caller);
}

/* ---- loops ---- */

/* Whether the filter of a loop may give another answer after the body has run: it reads something that a
 * body can change. */
static bool changeable(j_run *r, const j_node *n)
{
    for (size_t i = 0; n->key && n->key[i]; i++)
        for (const j_env *e = r->env; e; e = e->parent)
            for (size_t k = 0; k < e->n; k++)
                if (e->v[k].name == n->key[i] &&
                    (e->v[k].v.kind == J_NAMESPACE || e->v[k].v.kind >= J_LOOP || e->v[k].v.kind == J_ITER))
                    return true;
    return false;
}

static bool passes(j_run *r, const j_node *n, j_env *scope, j_val item)
{
    j_env *env = r->env;
    r->env = scope;
    assign(r, n->a, item);
    const bool pass = kq_j_truth(r, kq_j_eval(r, n->c));
    r->env = env;
    return pass;
}

static const j_list *chosen(j_run *r, const j_node *n, const j_list *items)
{
    j_list *out = kq_j_list(r, J_LIST, 0).l;
    for (size_t i = 0; i < items->n; i++)
        if (passes(r, n, kq_j_push_env(r, r->env), items->v[i]))
            kq_j_push(r, out, items->v[i]);
    return out;
}

/* n->op: the body names loop. */
static j_flow for_loop(j_run *r, const j_node *n)
{
    const j_list *items = kq_j_items(r, kq_j_eval(r, n->b));
    /* then Python's generator asks the filter between the bodies */
    const bool late = n->c && changeable(r, n);
    bool any = false;
    j_env *outer = r->env;
    if (late && n->op)
        kq_j_fail(r, KQ_E_UNSUPPORTED,
                  "a loop that uses loop, and a filter whose values its body may change");
    if (n->c && !late)
        items = chosen(r, n, items);
    j_loop *loop = kq_j_alloc(r, 1, sizeof *loop);
    *loop = (j_loop){.items = items, .depth = 1}; /* only recursive loops go deeper */
    for (size_t i = 0; i < items->n; i++) {
        j_env *scope = kq_j_push_env(r, outer);
        j_tick(r);
        if (late && !passes(r, n, scope, items->v[i]))
            continue;
        loop->i = i;
        r->env = scope;
        assign(r, n->a, items->v[i]);
        if (n->op)
            kq_j_define(r, scope, n->name, (j_val){.kind = J_LOOP, .loop = loop});
        const j_flow flow = kq_j_exec(r, &n->list);
        r->env = outer;
        /* jinja2 runs else too when every iteration ended by continue or break */
        any |= flow == FLOW_ON;
        if (flow == FLOW_BREAK)
            break;
    }
    if (any || !n->other.n)
        return FLOW_ON;
    r->env = kq_j_push_env(r, outer);
    const j_flow flow = kq_j_exec(r, &n->other);
    r->env = outer;
    return flow;
}

static j_flow if_else(j_run *r, const j_node *n)
{
    for (;; n = n->c) {
        if (kq_j_truth(r, kq_j_eval(r, n->a)))
            return kq_j_exec(r, &n->list);
        if (!n->c)
            return kq_j_exec(r, &n->other);
    }
}

static void with(j_run *r, const j_node *n)
{
    j_env *scope = kq_j_push_env(r, r->env), *env = r->env;
    for (size_t i = 0; i < n->a->list.n; i++)
        kq_j_define(r, scope, n->a->list.v[i]->name, kq_j_eval(r, n->a->other.v[i]));
    r->env = scope;
    kq_j_exec(r, &n->list);
    r->env = env;
}

static j_flow statement(j_run *r, const j_node *n)
{
    switch (n->type) {
    case N_DATA: kq_j_put(r, r->sink, n->value.s->p, n->value.s->n); break;
    case N_PRINT:
        for (size_t i = 0; i < n->list.n; i++)
            kq_j_put_str(r, r->sink, kq_j_eval(r, n->list.v[i]));
        break;
    case N_IF: return if_else(r, n);
    case N_FOR: return for_loop(r, n);
    case N_SET: assign(r, n->a, kq_j_eval(r, n->b)); break;
    case N_SET_BLOCK:
        assign(r, n->a, filtered(r, n->b, captured(r, &n->list, kq_j_push_env(r, r->env))));
        break;
    case N_FILTER_BLOCK:
        kq_j_put_str(r, r->sink, filtered(r, n->b, captured(r, &n->list, kq_j_push_env(r, r->env))));
        break;
    case N_GENERATION: kq_j_put_str(r, r->sink, captured(r, &n->list, kq_j_push_env(r, r->env))); break;
    case N_MACRO: kq_j_define(r, r->env, n->name, macro(r, n)); break;
    case N_CALL_BLOCK: kq_j_put_str(r, r->sink, call_block(r, n)); break;
    case N_WITH: with(r, n); break;
    case N_BREAK: return FLOW_BREAK;
    case N_CONTINUE: return FLOW_CONTINUE;
    default: kq_j_fail(r, KQ_E_UNSUPPORTED, "a statement of an unknown kind");
    }
    return FLOW_ON;
}

j_flow kq_j_exec(j_run *r, const j_body *body)
{
    j_flow flow = FLOW_ON;
    if (++r->depth > KQ_JINJA_MAX_DEPTH)
        kq_j_fail(r, KQ_E_ARG, "more than %d expressions, statements and macros within each other",
                  KQ_JINJA_MAX_DEPTH);
    for (size_t i = 0; i < body->n && flow == FLOW_ON; i++) {
        j_tick(r);
        r->line = body->v[i]->line;
        flow = statement(r, body->v[i]);
    }
    r->depth--;
    return flow;
}

/* ---- a whole template ---- */

static void define_variables(j_run *r, const kq_jinja *t, const json_t *variables)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)variables, key, v) for (size_t i = 0; i < t->n_used;
                                                          i++) if (!strcmp(t->used[i], key))
    { /* those that it names nowhere are left out */
        kq_j_define(r, r->env, t->used[i], kq_j_from_json(r, v));
        break;
    }
}

kq_status kq_jinja_render(const kq_jinja *t, const json_t *variables, const struct tm *now,
                          bool (*stop)(void *ctx), void *ctx, char **text, size_t *size, kq_error *err)
{
    *text = NULL;
    *size = 0;
    j_arena *arena = kq_calloc(1, sizeof *arena);
    if (!arena)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: %s", t->name);
    j_buf out = {0};
    j_run r = {.err = err,
               .arena = arena,
               .name = t->name,
               .steps = KQ_JINJA_MAX_STEPS,
               .sink = &out,
               .now = now,
               .stop = stop,
               .stop_ctx = ctx};
    if (!setjmp(r.out)) {
        r.env = kq_j_push_env(&r, NULL);
        define_variables(&r, t, variables);
        kq_j_exec(&r, &t->body);
        if (!(*text = kq_alloc(out.n + 1, 1)))
            kq_j_fail(&r, KQ_E_MEMORY, "out of memory");
        if (out.n)
            memcpy(*text, out.p, out.n);
        (*text)[out.n] = 0;
        *size = out.n;
    }
    kq_j_arena_free(arena);
    return r.status;
}
