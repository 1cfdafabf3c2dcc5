/* Inside the room: the tree of a template, the parser, the library and a run. Values, and what Python does
 * with them, are in src/pyvalue/. The files from the bottom up: library (filters, tests, functions), lexer,
 * expression, parser, eval, exec. eval and exec call each other, because a macro is a value whose call runs
 * statements. */
#ifndef KQ_JINJA_INTERNAL_H
#define KQ_JINJA_INTERNAL_H

#include <string.h>

#include "base/mem.h"
#include "jinja/jinja.h"
#include "pyvalue/methods.h"
#include "pyvalue/ops.h"
#include "pyvalue/print.h"
#include "pyvalue/str.h"
#include "pyvalue/unicode.h"

/* ---- the tree ---- */

typedef enum j_type {
    N_CONST,
    N_NAME,
    N_LIST,
    N_TUPLE,
    N_DICT,
    N_ATTR,
    N_ITEM,
    N_SLICE,
    N_CALL,
    N_FILTER,
    N_TEST,
    N_NOT,
    N_NEG,
    N_POS,
    N_AND,
    N_OR,
    N_COND,
    N_COMPARE,
    N_CONCAT,
    N_BINARY,
    N_NSREF,
    N_DATA,
    N_PRINT,
    N_IF,
    N_FOR,
    N_SET,
    N_SET_BLOCK,
    N_MACRO,
    N_CALL_BLOCK,
    N_FILTER_BLOCK,
    N_GENERATION,
    N_WITH,
    N_BREAK,
    N_CONTINUE
} j_type;

typedef struct j_body {
    struct j_node **v;
    size_t n, cap;
} j_body;
typedef struct j_node {
    j_type type;
    /* an operator: its py_op; FILTER, TEST: the index into their table, -1: not known; MACRO: does the body
     * name `caller`; FOR: does the body name `loop` */
    int op;
    int line;
    const char *name;         /* interned */
    py_val value;             /* CONST, DATA */
    struct j_node *a, *b, *c; /* where there are arguments, b and c are those after * and ** */
    /* list: items, positional arguments, or a body; other: values of keyword arguments, or an else body */
    j_body list, other;
    const char **key; /* names of keyword arguments, [other.n] */
} j_node;

struct kq_jinja {
    struct py_arena *arena;
    j_body body;
    const char *name;
    const char **used;
    size_t n_used, cap_used;
};

/* ---- a run ---- */

typedef struct j_bind {
    const char *name;
    py_val v;
} j_bind;
typedef struct j_env {
    struct j_env *parent;
    j_bind *v;
    size_t n, cap;
} j_env;

/* One rendering of a template: the run of its values, and where the evaluator is. */
typedef struct j_render {
    py_run run; /* the first member: j_state turns a pointer to it into one to the render */
    int depth;  /* nodes and macros within each other */
    j_env *env;
    py_buf *sink; /* takes what is printed */
    const struct tm *now;
} j_render;
/* The render that a run belongs to. Only a run that renders has one; a run that parses has none. */
static inline j_render *j_state(py_run *r)
{
    return (j_render *)(void *)r;
}

/* ---- the library: library.c; filters_*.c, tests.c, globals.c ---- */

typedef py_val (*j_filter)(py_run *r, py_val v, const py_args *a);
typedef struct j_filter_entry {
    const char *name;
    j_filter run;
} j_filter_entry;
/* The tables of filters; each ends with a NULL name. */
extern const j_filter_entry kq_j_value_filters[], kq_j_list_filters[];
int kq_j_filter_find(const char *name); /* -1: unknown */
py_val kq_j_filter(py_run *r, int filter, py_val v, const py_args *a);
int kq_j_test_find(const char *name); /* -1: unknown */
bool kq_j_test(py_run *r, int test, py_val v, const py_args *a);
/* The same for the tests of tests.c, which need no other filter or test. */
int kq_j_plain_test_find(const char *name);
bool kq_j_plain_test(py_run *r, int test, py_val v, const py_args *a);
/* The attribute "a.b.0" of an item, as jinja2's make_attrgetter finds it. attribute MISSING or None: the item
 * itself. */
py_val kq_j_attribute_of(py_run *r, py_val item, py_val attribute);
int kq_j_function_find(const char *name); /* -1: unknown */
py_val kq_j_call_function(py_run *r, int function, const py_args *a);
/* Attributes and methods of a cycler and of a loop. name NULL: the call of a joiner. */
py_val kq_j_cycler_attr(py_run *r, py_val v, const char *name);
py_val kq_j_cycler_call(py_run *r, py_val v, const char *name);
py_val kq_j_loop_attr(py_run *r, py_val loop, const char *name);
py_val kq_j_loop_call(py_run *r, py_loop *loop, const char *name, const py_args *a);

/* ---- attr.c ---- */

py_val kq_j_getattr(py_run *r, py_val v, const char *name); /* v.name */
py_val kq_j_getitem(py_run *r, py_val v, py_val key);       /* v[key] */
py_val kq_j_slice(py_run *r, py_val v, py_val start, py_val stop, py_val step);

/* ---- lexer.c, expression.c, parser.c ---- */

typedef enum j_tok_kind {
    T_END,
    T_DATA,
    T_VAR_BEGIN,
    T_VAR_END,
    T_BLOCK_BEGIN,
    T_BLOCK_END,
    T_NAME,
    T_STRING,
    T_INT,
    T_FLOAT,
    T_OP
} j_tok_kind;
/* One token of a template. name: of NAME and OP, interned. */
typedef struct j_tok {
    j_tok_kind kind;
    int line;
    const char *name;
    py_val value;
} j_tok;
typedef struct j_parser {
    py_run *r;
    const char *s, *end, *at; /* source */
    int line, state;          /* of the lexer */
    bool line_starting;
    char closing[KQ_JINJA_MAX_NESTING];
    int n_closing;
    j_tok tok, next;
    bool has_next;
    int nesting, loops; /* loops: how many for statements around it break may leave */
    bool names_caller;
    /* inside an if: a filter or test that is not known fails only when it is run, as in jinja2 */
    bool soft;
    const j_node *unknown; /* the first filter or test outside an if that is not known, NULL: none; what:
                              "filter" or "test" */
    const char *unknown_what;
    struct {
        const char **v;
        size_t n, cap;
    } names[256];
    kq_jinja *t;
} j_parser;
void kq_j_lex_start(j_parser *p, const char *source, size_t size);
j_tok kq_j_lex(j_parser *p);
const char *kq_j_intern(j_parser *p, const char *s, size_t n);
void kq_j_advance(j_parser *p);
const j_tok *kq_j_peek(j_parser *p);
bool kq_j_is_at(const j_parser *p, j_tok_kind kind, const char *name); /* the token is this NAME or OP */
bool kq_j_skip(j_parser *p, j_tok_kind kind, const char *name);
void kq_j_expect(j_parser *p, j_tok_kind kind, const char *name);
const char *kq_j_expect_name(j_parser *p);
void kq_j_deeper(j_parser *p);
void kq_j_no_unknown(j_parser *p); /* fail if there is one */
j_node *kq_j_node(j_parser *p, j_type type, int line);
void kq_j_add(j_parser *p, j_body *body, j_node *n);
j_node *kq_j_expression(j_parser *p, bool with_cond);
j_node *kq_j_tuple(j_parser *p, bool with_cond, bool parentheses, const char *end_name);
j_node *kq_j_primary(j_parser *p);
j_node *kq_j_filters(j_parser *p, j_node *node, bool start_inline);

/* Fail if the filter or test of a node is not known. Called when the node runs, or when it is parsed outside
 * an if. */
void kq_j_known(py_run *r, const j_node *n, const char *what);

/* ---- eval.c, exec.c ---- */

py_val kq_j_eval(py_run *r, const j_node *n);
void kq_j_eval_args(py_run *r, const j_node *n, py_args *a);
typedef enum j_flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } j_flow;
j_flow kq_j_exec(py_run *r, const j_body *body);
py_val kq_j_call_macro(py_run *r, const py_macro *m, const py_args *a, const py_val *caller);
j_env *kq_j_push_env(py_run *r, j_env *parent);
void kq_j_define(py_run *r, j_env *e, const char *name, py_val v);

#endif
