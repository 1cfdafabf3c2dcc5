/* Parses statements: from tokens to the tree of a whole template. Expressions are parsed by expression.c. */
#include <stdio.h>

#include "jinja/internal.h"

#define bad(p, ...) ((p)->r->line = (p)->tok.line, kq_py_fail((p)->r, KQ_E_FORMAT, __VA_ARGS__))
#define not_here(p, ...) ((p)->r->line = (p)->tok.line, kq_py_fail((p)->r, KQ_E_UNSUPPORTED, __VA_ARGS__))

static j_node *statement(j_parser *p);

/* Parse everything up to a tag with one of the names `ends` (its last entry is NULL; NULL: to the end of the
 * template). Afterwards the tag's name is the current token. */
static void body(j_parser *p, j_body *out, const char *const *ends)
{
    kq_j_deeper(p);
    for (;;) {
        j_node *n;
        const int line = p->tok.line;
        switch (p->tok.kind) {
        case T_END:
            if (ends)
                bad(p, "the template ends before {%% %s %%}", ends[0]);
            p->nesting--;
            return;
        case T_DATA:
            n = kq_j_node(p, N_DATA, line);
            n->value = p->tok.value;
            kq_j_advance(p);
            break;
        case T_VAR_BEGIN:
            kq_j_advance(p);
            n = kq_j_node(p, N_PRINT, line);
            kq_j_add(p, &n->list, kq_j_tuple(p, true, false, NULL));
            kq_j_expect(p, T_VAR_END, NULL);
            break;
        case T_BLOCK_BEGIN:
            kq_j_advance(p);
            for (size_t i = 0; ends && ends[i]; i++)
                if (kq_j_is_at(p, T_NAME, ends[i])) {
                    p->nesting--;
                    return;
                }
            n = statement(p);
            kq_j_expect(p, T_BLOCK_END, NULL);
            break;
        default: bad(p, "the template is broken here");
        }
        kq_j_add(p, out, n);
    }
}

/* Parse the body of a statement, from behind its tag to the end tag, whose name is consumed. soft: the
 * statement is an if. */
static const char *inner(j_parser *p, j_body *out, bool soft, const char *end, const char *end2,
                         const char *end3)
{
    const char *const ends[] = {end, end2, end3, NULL};
    const bool outer = p->soft;
    kq_j_skip(p, T_OP, ":");
    kq_j_expect(p, T_BLOCK_END, NULL);
    p->soft = soft;
    body(p, out, ends);
    p->soft = outer;
    return kq_j_expect_name(p);
}

/* Parse a body that break cannot leave, because it becomes a string or belongs to a function. */
static void closed_inner(j_parser *p, j_body *out, const char *end)
{
    const int loops = p->loops;
    p->loops = 0;
    inner(p, out, false, end, NULL, NULL);
    p->loops = loops;
}

static j_node *store_name(j_parser *p)
{
    j_node *n = kq_j_node(p, N_NAME, p->tok.line);
    n->name = kq_j_expect_name(p);
    static const char *const taken[] = {"true", "True", "false", "False", "none", "None"};
    for (size_t i = 0; i < 6; i++)
        if (!strcmp(n->name, taken[i]))
            bad(p, "'%s' cannot be assigned", n->name);
    if (!strcmp(n->name, "loop") || !strcmp(n->name, "caller") || !strcmp(n->name, "self"))
        not_here(p, "assigning to '%s' is not supported", n->name);
    return n;
}

/* Parse what a value is assigned to: a name, namespace.attribute, or several names with commas. */
static j_node *target(j_parser *p, bool with_namespace, const char *end_name)
{
    j_node *all = kq_j_node(p, N_TUPLE, p->tok.line);
    bool several = false;
    kq_j_deeper(p);
    for (;;) {
        if (p->tok.kind == T_BLOCK_END || kq_j_is_at(p, T_OP, ")") ||
            (end_name && kq_j_is_at(p, T_NAME, end_name)))
            break;
        if (kq_j_skip(p, T_OP, "(")) {
            kq_j_add(p, &all->list, target(p, with_namespace, NULL));
            kq_j_expect(p, T_OP, ")");
        } else {
            j_node *n = store_name(p);
            if (with_namespace && kq_j_skip(p, T_OP, ".")) {
                n->type = N_NSREF;
                n->a = kq_j_node(p, N_NAME, n->line);
                n->a->name = n->name;
                n->name = kq_j_expect_name(p);
            }
            kq_j_add(p, &all->list, n);
        }
        if (!kq_j_skip(p, T_OP, ","))
            break;
        several = true;
    }
    p->nesting--;
    if (!all->list.n)
        bad(p, "a name to assign to is wanted");
    return several ? all : all->list.v[0];
}

/* Parse the filters of a block. */
static j_node *hard_filters(j_parser *p, bool start_inline)
{
    const bool soft = p->soft;
    p->soft = false;
    j_node *n = kq_j_filters(p, NULL, start_inline);
    p->soft = soft;
    return n;
}

static j_node *set(j_parser *p, int line)
{
    j_node *n = kq_j_node(p, N_SET, line);
    n->a = target(p, true, NULL);
    if (kq_j_skip(p, T_OP, "=")) {
        n->b = kq_j_tuple(p, true, false, NULL);
        return n;
    }
    n->type = N_SET_BLOCK;
    n->b = hard_filters(p, false);
    closed_inner(p, &n->list, "endset");
    return n;
}

/* Parse a for statement. n->op: does the body name `loop`; n->key: the names that the filter reads, ended by
 * NULL. */
static j_node *for_loop(j_parser *p, int line)
{
    j_node *n = kq_j_node(p, N_FOR, line);
    n->a = target(p, false, "in");
    kq_j_expect(p, T_NAME, "in");
    n->b = kq_j_tuple(p, false, false, "recursive");
    const size_t test = p->t->n_used;
    const bool soft = p->soft;
    p->soft = false;
    if (kq_j_skip(p, T_NAME, "if"))
        n->c = kq_j_expression(p, true);
    p->soft = soft;
    if (kq_j_is_at(p, T_NAME, "recursive"))
        not_here(p, "recursive loops are not supported");
    const size_t first = p->t->n_used;
    n->key = kq_py_alloc(p->r, first - test + 1, sizeof *n->key);
    if (first > test)
        memcpy(n->key, p->t->used + test, (first - test) * sizeof *n->key);
    n->name = kq_j_intern(p, "loop", 4);
    p->loops++;
    const char *end = inner(p, &n->list, false, "endfor", "else", NULL);
    p->loops--;
    for (size_t i = first; i < p->t->n_used; i++)
        n->op |= p->t->used[i] == n->name;
    if (!strcmp(end, "else"))
        inner(p, &n->other, false, "endfor", NULL, NULL);
    return n;
}

/* Parse an if statement. n->c is the next test, that of elif. */
static j_node *if_else(j_parser *p, int line)
{
    j_node *first = kq_j_node(p, N_IF, line);
    const bool soft = p->soft;
    for (j_node *n = first;;) {
        p->soft = true;
        n->a = kq_j_tuple(p, false, false, NULL);
        p->soft = soft;
        const char *end = inner(p, &n->list, true, "elif", "else", "endif");
        if (!strcmp(end, "else"))
            inner(p, &n->other, true, "endif", NULL, NULL);
        if (strcmp(end, "elif"))
            return first;
        n = n->c = kq_j_node(p, N_IF, p->tok.line);
    }
}

/* Parse the parameters of a function into n->list, and the defaults of the last ones into n->other. */
static j_node *signature(j_parser *p)
{
    j_node *n = kq_j_node(p, N_LIST, p->tok.line);
    const bool soft = p->soft;
    p->soft = false;
    kq_j_expect(p, T_OP, "(");
    while (!kq_j_is_at(p, T_OP, ")")) {
        if (n->list.n)
            kq_j_expect(p, T_OP, ",");
        kq_j_add(p, &n->list, store_name(p));
        if (kq_j_skip(p, T_OP, "="))
            kq_j_add(p, &n->other, kq_j_expression(p, true));
        else if (n->other.n)
            bad(p, "a parameter without a default follows one with a default");
        if (n->list.n > 64)
            not_here(p, "more than 64 parameters");
    }
    p->soft = soft;
    kq_j_expect(p, T_OP, ")");
    return n;
}

/* Parse the body of a function. n->op: does it name `caller`. */
static void function_body(j_parser *p, j_node *n, const char *end)
{
    const bool outer = p->names_caller;
    p->names_caller = false;
    closed_inner(p, &n->list, end);
    n->op = p->names_caller;
    if (n->op) {
        n->key = kq_py_alloc(p->r, 1, sizeof *n->key);
        n->key[0] = kq_j_intern(p, "caller", 6);
    }
    p->names_caller |= outer;
}

static j_node *call_block(j_parser *p, int line)
{
    j_node *n = kq_j_node(p, N_CALL_BLOCK, line);
    n->a = kq_j_is_at(p, T_OP, "(") ? signature(p) : kq_j_node(p, N_LIST, line);
    n->b = kq_j_expression(p, true);
    if (n->b->type != N_CALL)
        bad(p, "{%% call %%} wants a call");
    function_body(p, n, "endcall");
    return n;
}

static j_node *with(j_parser *p, int line)
{
    j_node *n = kq_j_node(p, N_WITH, line);
    n->a = kq_j_node(p, N_LIST, line);
    while (p->tok.kind != T_BLOCK_END) {
        if (n->a->list.n)
            kq_j_expect(p, T_OP, ",");
        kq_j_add(p, &n->a->list, store_name(p));
        kq_j_expect(p, T_OP, "=");
        kq_j_add(p, &n->a->other, kq_j_expression(p, true));
    }
    closed_inner(p, &n->list, "endwith");
    return n;
}

static j_node *statement(j_parser *p)
{
    static const char *const refused[] = {"block", "extends", "include", "import", "from", "autoescape"};
    const int line = p->tok.line;
    const char *tag = kq_j_expect_name(p);
    j_node *n;
    if (!strcmp(tag, "set"))
        return set(p, line);
    if (!strcmp(tag, "for"))
        return for_loop(p, line);
    if (!strcmp(tag, "if"))
        return if_else(p, line);
    if (!strcmp(tag, "call"))
        return call_block(p, line);
    if (!strcmp(tag, "with"))
        return with(p, line);
    if (!strcmp(tag, "macro")) {
        n = kq_j_node(p, N_MACRO, line);
        n->name = store_name(p)->name;
        n->a = signature(p);
        function_body(p, n, "endmacro");
        return n;
    }
    if (!strcmp(tag, "generation")) {
        n = kq_j_node(p, N_GENERATION, line);
        function_body(p, n, "endgeneration");
        return n;
    }
    if (!strcmp(tag, "filter")) {
        n = kq_j_node(p, N_FILTER_BLOCK, line);
        n->b = hard_filters(p, true);
        closed_inner(p, &n->list, "endfilter");
        return n;
    }
    if (!strcmp(tag, "print")) {
        n = kq_j_node(p, N_PRINT, line);
        while (p->tok.kind != T_BLOCK_END) {
            if (n->list.n)
                kq_j_expect(p, T_OP, ",");
            kq_j_add(p, &n->list, kq_j_expression(p, true));
        }
        return n;
    }
    if (!strcmp(tag, "break") || !strcmp(tag, "continue")) {
        if (!p->loops)
            bad(p, "{%% %s %%} is not in a loop, or would leave a block", tag);
        return kq_j_node(p, *tag == 'b' ? N_BREAK : N_CONTINUE, line);
    }
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (!strcmp(tag, refused[i]))
            not_here(p, "{%% %s %%} is not supported", tag);
    bad(p, "unknown tag {%% %.40s %%}", tag);
}

kq_status kq_jinja_parse(const char *source, size_t size, const char *name, kq_jinja **out, kq_error *err)
{
    *out = NULL;
    py_arena *arena = kq_calloc(1, sizeof *arena);
    if (!arena)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: %s", name);
    py_run r = {.err = err, .arena = arena, .name = name, .steps = KQ_PY_MAX_STEPS};
    if (setjmp(r.out)) {
        kq_py_arena_free(arena);
        return r.status;
    }
    if (size > KQ_JINJA_MAX_SOURCE)
        kq_py_fail(&r, KQ_E_ARG, "the template has %zu bytes, more than %d", size, KQ_JINJA_MAX_SOURCE);
    if (kq_utf8_valid(source, size) != size)
        kq_py_fail(&r, KQ_E_FORMAT, "the template is not UTF-8");
    j_parser *p = kq_py_alloc(&r, 1, sizeof *p);
    kq_jinja *t = kq_py_alloc(&r, 1, sizeof *t);
    p->r = &r;
    p->t = t;
    kq_j_lex_start(p, source, size);
    kq_j_advance(p);
    body(p, &t->body, NULL);
    kq_j_no_unknown(p);
    t->arena = arena;
    t->name = kq_j_intern(p, name, strlen(name));
    *out = t;
    return KQ_OK;
}

void kq_jinja_free(kq_jinja *t)
{
    if (t)
        kq_py_arena_free(t->arena);
}

bool kq_jinja_names(const kq_jinja *t, const char *name)
{
    for (size_t i = 0; i < t->n_used; i++)
        if (!strcmp(t->used[i], name))
            return true;
    return false;
}
