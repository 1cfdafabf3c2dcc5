/* Parses expressions: from tokens to a tree, with Jinja's precedence of operators. In case of doubt it does
 * what jinja2/parser.py (3.1.6) does. */
#include "jinja/internal.h"

#define bad(p, ...) ((p)->r->line = (p)->tok.line, kq_py_fail((p)->r, KQ_E_FORMAT, __VA_ARGS__))
#define not_here(p, ...) ((p)->r->line = (p)->tok.line, kq_py_fail((p)->r, KQ_E_UNSUPPORTED, __VA_ARGS__))

/* ---- the stream of tokens ---- */

void kq_j_advance(j_parser *p)
{
    p->tok = p->has_next ? p->next : kq_j_lex(p);
    p->has_next = false;
}

const j_tok *kq_j_peek(j_parser *p)
{
    if (!p->has_next)
        p->next = kq_j_lex(p);
    p->has_next = true;
    return &p->next;
}

bool kq_j_is_at(const j_parser *p, j_tok_kind kind, const char *name)
{
    return p->tok.kind == kind && (!name || !strcmp(p->tok.name, name));
}

bool kq_j_skip(j_parser *p, j_tok_kind kind, const char *name)
{
    const bool there = kq_j_is_at(p, kind, name);
    if (there)
        kq_j_advance(p);
    return there;
}

static const char *token_text(const j_tok *t)
{
    static const char *const kinds[] = {"the end of the template",
                                        "text",
                                        "'{{'",
                                        "'}}'",
                                        "'{%'",
                                        "'%}'",
                                        "a name",
                                        "a string",
                                        "a number",
                                        "a number",
                                        "a sign"};
    return t->kind == T_NAME || t->kind == T_OP ? t->name : kinds[t->kind];
}

void kq_j_expect(j_parser *p, j_tok_kind kind, const char *name)
{
    static const char *const kinds[] = {"the end", "text",     "{{",       "}}",       "{%",    "%}",
                                        "a name",  "a string", "a number", "a number", "a sign"};
    if (!kq_j_skip(p, kind, name))
        bad(p, "'%.40s' is wanted before %.40s", name ? name : kinds[kind], token_text(&p->tok));
}

const char *kq_j_expect_name(j_parser *p)
{
    const char *name = p->tok.name;
    kq_j_expect(p, T_NAME, NULL);
    return name;
}

void kq_j_deeper(j_parser *p)
{
    if (++p->nesting > KQ_JINJA_MAX_NESTING)
        kq_py_fail(p->r, KQ_E_ARG, "more than %d expressions or statements within each other",
                   KQ_JINJA_MAX_NESTING);
}

j_node *kq_j_node(j_parser *p, j_type type, int line)
{
    j_node *n = kq_py_alloc(p->r, 1, sizeof *n);
    py_tick(p->r);
    n->type = type;
    n->line = line;
    return n;
}

void kq_j_add(j_parser *p, j_body *body, j_node *n)
{
    kq_py_grow(p->r, &body->v, &body->cap, body->n, sizeof *body->v);
    body->v[body->n++] = n;
}

static j_node *binary(j_parser *p, j_type type, int op, j_node *a, j_node *b)
{
    j_node *n = kq_j_node(p, type, a->line);
    n->op = op;
    n->a = a;
    n->b = b;
    return n;
}

/* ---- primaries ---- */

static j_node *constant(j_parser *p, py_val v)
{
    j_node *n = kq_j_node(p, N_CONST, p->tok.line);
    n->value = v;
    if (v.kind == PY_STR)
        kq_py_chars(v.s); /* counted now, because threads share the template later */
    return n;
}

static j_node *name(j_parser *p)
{
    const char *s = p->tok.name;
    const bool yes = !strcmp(s, "true") || !strcmp(s, "True");
    if (yes || !strcmp(s, "false") || !strcmp(s, "False"))
        return constant(p, py_bool(yes));
    if (!strcmp(s, "none") || !strcmp(s, "None"))
        return constant(p, py_none());
    if (!strcmp(s, "varargs") || !strcmp(s, "kwargs") || !strcmp(s, "self"))
        not_here(p, "the name '%s' is not supported", s);
    p->names_caller |= !strcmp(s, "caller");
    j_node *n = kq_j_node(p, N_NAME, p->tok.line);
    n->name = s;
    kq_py_grow(p->r, &p->t->used, &p->t->cap_used, p->t->n_used, sizeof *p->t->used);
    p->t->used[p->t->n_used++] = s;
    return n;
}

static j_node *list(j_parser *p)
{
    j_node *n = kq_j_node(p, N_LIST, p->tok.line);
    kq_j_expect(p, T_OP, "[");
    while (!kq_j_is_at(p, T_OP, "]")) {
        if (n->list.n)
            kq_j_expect(p, T_OP, ",");
        if (kq_j_is_at(p, T_OP, "]"))
            break;
        kq_j_add(p, &n->list, kq_j_expression(p, true));
    }
    kq_j_expect(p, T_OP, "]");
    return n;
}

static j_node *dict(j_parser *p)
{
    j_node *n = kq_j_node(p, N_DICT, p->tok.line);
    kq_j_expect(p, T_OP, "{");
    while (!kq_j_is_at(p, T_OP, "}")) {
        if (n->list.n)
            kq_j_expect(p, T_OP, ",");
        if (kq_j_is_at(p, T_OP, "}"))
            break;
        kq_j_add(p, &n->list, kq_j_expression(p, true));
        kq_j_expect(p, T_OP, ":");
        kq_j_add(p, &n->other, kq_j_expression(p, true));
    }
    kq_j_expect(p, T_OP, "}");
    return n;
}

j_node *kq_j_primary(j_parser *p)
{
    j_node *n;
    if (kq_j_is_at(p, T_OP, "["))
        return list(p);
    if (kq_j_is_at(p, T_OP, "{"))
        return dict(p);
    if (kq_j_skip(p, T_OP, "(")) {
        n = kq_j_tuple(p, true, true, NULL);
        kq_j_expect(p, T_OP, ")");
        return n;
    }
    if (p->tok.kind == T_STRING) { /* neighbouring strings are one string */
        py_buf b = {0};
        n = constant(p, p->tok.value);
        kq_j_advance(p);
        if (p->tok.kind != T_STRING)
            return n;
        kq_py_put_str(p->r, &b, n->value);
        for (; p->tok.kind == T_STRING; kq_j_advance(p))
            kq_py_put_str(p->r, &b, p->tok.value);
        n->value = kq_py_buf_str(p->r, &b);
        kq_py_chars(n->value.s);
        return n;
    }
    if (p->tok.kind == T_NAME)
        n = name(p);
    else if (p->tok.kind == T_INT || p->tok.kind == T_FLOAT)
        n = constant(p, p->tok.value);
    else
        bad(p, "unexpected %.40s", token_text(&p->tok));
    kq_j_advance(p);
    return n;
}

/* ---- what follows a primary ---- */

/* Parse arguments in parentheses: positional ones into n->list, the values and names of the others into
 * n->other and n->key. */
static void arguments(j_parser *p, j_node *n)
{
    size_t cap = 0;
    kq_j_expect(p, T_OP, "(");
    for (bool first = true; !kq_j_is_at(p, T_OP, ")"); first = false) {
        if (!first) {
            kq_j_expect(p, T_OP, ",");
            if (kq_j_is_at(p, T_OP, ")"))
                break;
        }
        const bool named = kq_j_is_at(p, T_OP, "**");
        /* * and ** may come once each, in this order, after all other arguments */
        if (named || kq_j_is_at(p, T_OP, "*")) {
            if (n->c || (!named && n->b))
                bad(p, "the arguments after * and ** are the last ones");
            kq_j_advance(p);
            *(named ? &n->c : &n->b) = kq_j_expression(p, true);
            continue;
        }
        if (n->c || (n->b && !(p->tok.kind == T_NAME && kq_j_peek(p)->kind == T_OP &&
                               !strcmp(kq_j_peek(p)->name, "="))))
            bad(p, "the arguments after * and ** are the last ones");
        const j_tok *next = p->tok.kind == T_NAME ? kq_j_peek(p) : NULL;
        if (next && next->kind == T_OP && !strcmp(next->name, "=")) {
            kq_py_grow(p->r, &n->key, &cap, n->other.n, sizeof *n->key);
            n->key[n->other.n] = p->tok.name;
            for (size_t i = 0; i < n->other.n; i++)
                if (n->key[i] == p->tok.name)
                    bad(p, "the argument '%.40s' is given twice", p->tok.name);
            kq_j_advance(p);
            kq_j_advance(p);
            kq_j_add(p, &n->other, kq_j_expression(p, true));
        } else {
            if (n->other.n)
                bad(p, "an argument without a name follows one with a name");
            kq_j_add(p, &n->list, kq_j_expression(p, true));
        }
    }
    kq_j_expect(p, T_OP, ")");
}

static j_node *slice_part(j_parser *p)
{
    return kq_j_is_at(p, T_OP, ":") || kq_j_is_at(p, T_OP, "]") || kq_j_is_at(p, T_OP, ",")
               ? NULL
               : kq_j_expression(p, true);
}

/* Parse [key] or [start:stop:step] behind the expression `of`. */
static j_node *subscript(j_parser *p, j_node *of)
{
    const int line = p->tok.line;
    j_node *n = kq_j_node(p, N_ITEM, line);
    n->a = of;
    kq_j_expect(p, T_OP, "[");
    if (kq_j_is_at(p, T_OP, "]"))
        bad(p, "a subscript is empty");
    j_node *first = slice_part(p);
    if (kq_j_is_at(p, T_OP, ",")) {
        if (!first)
            bad(p, "a subscript begins with a comma");
        n->b = kq_j_node(p, N_TUPLE, line);
        kq_j_add(p, &n->b->list, first);
        while (kq_j_skip(p, T_OP, ","))
            kq_j_add(p, &n->b->list, kq_j_expression(p, true));
    } else if (!kq_j_is_at(p, T_OP, ":")) {
        n->b = first;
    } else {
        n->type = N_SLICE;
        n->b = first;
        kq_j_advance(p);
        n->c = slice_part(p);
        if (kq_j_skip(p, T_OP, ":")) {
            j_node *step = slice_part(p);
            if (step)
                kq_j_add(p, &n->list, step);
        }
    }
    kq_j_expect(p, T_OP, "]");
    return n;
}

static j_node *call(j_parser *p, j_node *of)
{
    j_node *n = kq_j_node(p, N_CALL, p->tok.line);
    n->a = of;
    arguments(p, n);
    return n;
}

static j_node *postfix(j_parser *p, j_node *n)
{
    for (;;) {
        if (kq_j_is_at(p, T_OP, "[")) {
            n = subscript(p, n);
        } else if (kq_j_is_at(p, T_OP, "(")) {
            n = call(p, n);
        } else if (kq_j_is_at(p, T_OP, ".")) {
            j_node *of = n;
            n = kq_j_node(p, N_ATTR, p->tok.line);
            n->a = of;
            kq_j_advance(p);
            if (p->tok.kind == T_INT) {
                n->type = N_ITEM;
                n->b = constant(p, p->tok.value);
                kq_j_advance(p);
            } else {
                n->name = kq_j_expect_name(p);
            }
        } else {
            return n;
        }
    }
}

static const char *dotted(j_parser *p)
{
    const char *s = kq_j_expect_name(p);
    if (kq_j_is_at(p, T_OP, "."))
        not_here(p, "'%.40s.' is not supported as the name of a filter or test", s);
    return s;
}

/* Remember the first filter or test that is not known. */
static void note(j_parser *p, const j_node *n, const char *what)
{
    if (n->op >= 0 || p->soft || p->unknown)
        return;
    p->unknown = n;
    p->unknown_what = what;
}

void kq_j_no_unknown(j_parser *p)
{
    if (p->unknown)
        kq_j_known(p->r, p->unknown, p->unknown_what);
}

j_node *kq_j_filters(j_parser *p, j_node *node, bool start_inline)
{
    while (start_inline || kq_j_skip(p, T_OP, "|")) {
        start_inline = false;
        j_node *n = kq_j_node(p, N_FILTER, p->tok.line);
        n->a = node;
        n->name = dotted(p);
        n->op = kq_j_filter_find(n->name);
        note(p, n, "filter");
        if (kq_j_is_at(p, T_OP, "("))
            arguments(p, n);
        node = n;
    }
    return node;
}

static j_node *test(j_parser *p, j_node *of)
{
    j_node *n = kq_j_node(p, N_TEST, p->tok.line);
    kq_j_advance(p);
    const bool negated = kq_j_skip(p, T_NAME, "not");
    n->a = of;
    n->name = dotted(p);
    n->op = kq_j_test_find(n->name);
    note(p, n, "test");
    const j_tok *t = &p->tok;
    if (kq_j_is_at(p, T_OP, "(")) {
        arguments(p, n);
    } else if ((t->kind == T_NAME && strcmp(t->name, "else") && strcmp(t->name, "or") &&
                strcmp(t->name, "and")) ||
               t->kind == T_STRING || t->kind == T_INT || t->kind == T_FLOAT || kq_j_is_at(p, T_OP, "[") ||
               kq_j_is_at(p, T_OP, "{")) {
        if (kq_j_is_at(p, T_NAME, "is"))
            bad(p, "tests cannot be chained with is");
        kq_j_add(p, &n->list, postfix(p, kq_j_primary(p)));
    }
    return negated ? binary(p, N_NOT, 0, n, NULL) : n;
}

static j_node *filters_and_tests(j_parser *p, j_node *n)
{
    for (;;) {
        if (kq_j_is_at(p, T_OP, "|"))
            n = kq_j_filters(p, n, false);
        else if (kq_j_is_at(p, T_NAME, "is"))
            n = test(p, n);
        else if (kq_j_is_at(p, T_OP, "("))
            n = call(p, n);
        else
            return n;
    }
}

/* ---- operators, from the tightest ---- */

static j_node *unary(j_parser *p, bool with_filter)
{
    const bool minus = kq_j_is_at(p, T_OP, "-");
    j_node *n;
    if (minus || kq_j_is_at(p, T_OP, "+")) {
        const int line = p->tok.line;
        kq_j_advance(p);
        kq_j_deeper(p);
        n = kq_j_node(p, minus ? N_NEG : N_POS, line);
        n->a = unary(p, false);
        p->nesting--;
    } else {
        n = kq_j_primary(p);
    }
    n = postfix(p, n);
    return with_filter ? filters_and_tests(p, n) : n;
}

static j_node *power(j_parser *p)
{
    j_node *n = unary(p, true);
    while (kq_j_skip(p, T_OP, "**"))
        n = binary(p, N_BINARY, PY_POW, n, unary(p, true));
    return n;
}

static j_node *product(j_parser *p)
{
    static const struct {
        const char *name;
        py_op op;
    } ops[] = {{"*", PY_MUL}, {"/", PY_DIV}, {"//", PY_FLOORDIV}, {"%", PY_MOD}};
    j_node *n = power(p);
    for (;;) {
        size_t i = 0;
        while (i < 4 && !kq_j_skip(p, T_OP, ops[i].name))
            i++;
        if (i == 4)
            return n;
        n = binary(p, N_BINARY, ops[i].op, n, power(p));
    }
}

static j_node *concat(j_parser *p)
{
    j_node *n = product(p);
    if (!kq_j_is_at(p, T_OP, "~"))
        return n;
    j_node *all = kq_j_node(p, N_CONCAT, n->line);
    kq_j_add(p, &all->list, n);
    while (kq_j_skip(p, T_OP, "~"))
        kq_j_add(p, &all->list, product(p));
    return all;
}

static j_node *sum(j_parser *p)
{
    j_node *n = concat(p);
    for (;;) {
        const bool plus = kq_j_is_at(p, T_OP, "+");
        if (!plus && !kq_j_is_at(p, T_OP, "-"))
            return n;
        kq_j_advance(p);
        n = binary(p, N_BINARY, plus ? PY_ADD : PY_SUB, n, concat(p));
    }
}

/* Parse a chain of comparisons, a < b <= c: n->a is the first operand, n->list has the others, and the op of
 * each says how it is compared with the one before. */
static j_node *comparison(j_parser *p)
{
    static const struct {
        const char *name;
        py_op op;
    } ops[] = {{"==", PY_EQ}, {"!=", PY_NE}, {"<=", PY_LE}, {">=", PY_GE}, {"<", PY_LT}, {">", PY_GT}};
    j_node *first = sum(p), *n = NULL;
    for (;;) {
        size_t i = 0;
        int op;
        while (i < 6 && !kq_j_skip(p, T_OP, ops[i].name))
            i++;
        if (i < 6) {
            op = (int)ops[i].op;
        } else if (kq_j_skip(p, T_NAME, "in")) {
            op = PY_IN;
        } else if (kq_j_is_at(p, T_NAME, "not") && kq_j_peek(p)->kind == T_NAME &&
                   !strcmp(kq_j_peek(p)->name, "in")) {
            kq_j_advance(p);
            kq_j_advance(p);
            op = PY_NOT_IN;
        } else {
            return n ? n : first;
        }
        if (!n)
            n = binary(p, N_COMPARE, 0, first, NULL);
        kq_j_add(p, &n->list, binary(p, N_BINARY, op, sum(p), NULL));
    }
}

static j_node *negation(j_parser *p)
{
    if (!kq_j_is_at(p, T_NAME, "not"))
        return comparison(p);
    kq_j_advance(p);
    kq_j_deeper(p);
    j_node *n = binary(p, N_NOT, 0, negation(p), NULL);
    p->nesting--;
    return n;
}

static j_node *conjunction(j_parser *p)
{
    j_node *n = negation(p);
    while (kq_j_skip(p, T_NAME, "and"))
        n = binary(p, N_AND, 0, n, negation(p));
    return n;
}

static j_node *disjunction(j_parser *p)
{
    j_node *n = conjunction(p);
    while (kq_j_skip(p, T_NAME, "or"))
        n = binary(p, N_OR, 0, n, conjunction(p));
    return n;
}

/* Parse an expression. With with_cond it may be `a if b else c`, which becomes N_COND with b, a, c. */
j_node *kq_j_expression(j_parser *p, bool with_cond)
{
    const j_node *unknown = p->unknown;
    const bool soft = p->soft;
    kq_j_deeper(p);
    j_node *n = disjunction(p);
    while (with_cond && kq_j_skip(p, T_NAME, "if")) {
        p->unknown = unknown; /* the expression before the if is conditional too */
        p->soft = true;
        j_node *all = binary(p, N_COND, 0, disjunction(p), n);
        if (kq_j_skip(p, T_NAME, "else"))
            all->c = kq_j_expression(p, true);
        n = all;
    }
    p->soft = soft;
    p->nesting--;
    return n;
}

/* Parse an expression, or several with commas between them, which are a tuple. */
j_node *kq_j_tuple(j_parser *p, bool with_cond, bool parentheses, const char *end_name)
{
    j_node *n = kq_j_node(p, N_TUPLE, p->tok.line);
    bool several = false;
    for (bool first = true;; first = false) {
        if (!first)
            kq_j_expect(p, T_OP, ",");
        if (p->tok.kind == T_VAR_END || p->tok.kind == T_BLOCK_END || kq_j_is_at(p, T_OP, ")") ||
            (end_name && kq_j_is_at(p, T_NAME, end_name)))
            break;
        kq_j_add(p, &n->list, kq_j_expression(p, with_cond));
        if (!kq_j_is_at(p, T_OP, ","))
            break;
        several = true;
    }
    if (!several && n->list.n)
        return n->list.v[0];
    if (!several && !parentheses)
        bad(p, "an expression is wanted before %.40s", token_text(&p->tok));
    return n;
}

void kq_j_known(py_run *r, const j_node *n, const char *what)
{
    r->line = n->line;
    if (n->op < 0)
        kq_py_fail(r, KQ_E_UNSUPPORTED, "the %s '%.40s' is not supported", what, n->name);
}
