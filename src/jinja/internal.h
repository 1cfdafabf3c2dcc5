/* Inside the engine: values, the tree of a template, and a run. Not for other rooms.
 * Every value of a run lies in one arena, which is freed when the run ends; so nothing is freed before,
 * and an error leaves by longjmp to the top. */
#ifndef KQ_JINJA_INTERNAL_H
#define KQ_JINJA_INTERNAL_H

#include <setjmp.h>
#include <string.h>

#include "base/mem.h"
#include "jinja/jinja.h"

/* ---- values -------------------------------------------------------------------------------------------- */

typedef enum j_kind {
    J_MISSING, /* no value at all: an argument that was not given. Templates never see it */
    J_UNDEFINED,
    J_NONE,
    J_BOOL,
    J_INT,
    J_FLOAT,
    J_STR,
    J_LIST,
    J_TUPLE,
    J_DICT,
    J_RANGE,
    J_VIEW, /* d.items(), d.keys(), d.values() */
    J_ITER, /* a generator or iterator of Python's: walked once; it has no length */
    J_NAMESPACE,
    J_LOOP,
    J_MACRO,
    J_METHOD,
    J_FUNCTION,
    J_CYCLER,
    J_JOINER
} j_kind;

/* valid UTF-8; chars: code points, SIZE_MAX before they are counted */
typedef struct j_str {
    const char *p;
    size_t n;
    size_t chars;
} j_str;

typedef struct j_val {
    j_kind kind;
    /* STR: Markup (after |safe or |escape); UNDEFINED: an attribute that the sandbox hides */
    bool safe;
    union {
        bool b;
        int64_t i;
        double d;
        j_str *s;
        struct j_list *l; /* LIST, TUPLE */
        struct j_dict *m; /* DICT, NAMESPACE */
        struct j_range *r;
        struct j_view *view;
        struct j_iter *it; /* ITER, CYCLER, JOINER */
        struct j_loop *loop;
        struct j_macro *macro;
        struct j_method *method;
        int function;
        const char *why; /* UNDEFINED: a name, for messages; NULL: none */
    };
} j_val;

typedef struct j_list {
    j_val *v;
    size_t n, cap;
} j_list;
typedef struct j_dict {
    j_val *key, *value;
    size_t n, cap;
} j_dict; /* in order of insertion */
typedef struct j_range {
    int64_t start, stop, step, n;
} j_range;
typedef struct j_view {
    j_list items;
    const char *name;
} j_view;
typedef struct j_iter {
    j_list items;
    size_t at;
    bool used;
} j_iter;
/* changed: the arguments of the last loop.changed() */
typedef struct j_loop {
    const j_list *items;
    size_t i;
    int depth;
    j_val changed;
} j_loop;
typedef struct j_method {
    j_val self;
    const char *name;
} j_method;
typedef struct j_macro {
    const struct j_node *def;
    struct j_env *closure;
    bool is_caller;
} j_macro;

/* ---- the tree ------------------------------------------------------------------------------------------ */

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
typedef enum j_op {
    OP_ADD,
    OP_SUB,
    OP_MUL,
    OP_DIV,
    OP_FLOORDIV,
    OP_MOD,
    OP_POW,
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_IN,
    OP_NOT_IN
} j_op;

typedef struct j_body {
    struct j_node **v;
    size_t n, cap;
} j_body;
typedef struct j_node {
    j_type type;
    /* j_op; FILTER, TEST: index into their table, -1: not known; MACRO, FOR: whether the body names
     * caller, or loop */
    int op;
    int line;
    const char *name;         /* interned */
    j_val value;              /* CONST, DATA */
    struct j_node *a, *b, *c; /* of what has arguments: b, c are those after * and ** */
    /* items, positional arguments, a body; values of keyword arguments, an else body */
    j_body list, other;
    const char **key; /* names of keyword arguments, [other.n] */
} j_node;

struct kq_jinja {
    struct j_arena *arena;
    j_body body;
    const char *name;
    const char **used;
    size_t n_used, cap_used;
};

/* ---- a run (or a parse) -------------------------------------------------------------------------------- */

typedef struct j_arena {
    struct j_block *head;
    size_t used;
} j_arena;
typedef struct j_bind {
    const char *name;
    j_val v;
} j_bind;
typedef struct j_env {
    struct j_env *parent;
    j_bind *v;
    size_t n, cap;
} j_env;
typedef struct j_buf {
    char *p;
    size_t n, cap;
} j_buf;

typedef struct j_run {
    jmp_buf out;
    kq_error *err;
    kq_status status;
    j_arena *arena;
    const char *name; /* of the template */
    int line;
    size_t steps;            /* left */
    bool (*stop)(void *ctx); /* asked every POLL steps (value.c); NULL: none */
    void *stop_ctx;
    int depth, value_depth;
    j_env *env;
    j_buf *sink;
    const struct tm *now;
} j_run;

/* positional, and by name */
typedef struct j_args {
    j_val *v;
    size_t n;
    const char **key;
    j_val *kv;
    size_t n_kv;
} j_args;

/* Leave the run: "NAME, line N: message". */
void kq_j_fail(j_run *r, kq_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4), noreturn));
#define j_type_error(r, ...) kq_j_fail(r, KQ_E_ARG, __VA_ARGS__)
void *kq_j_alloc(j_run *r, size_t n, size_t size); /* cleared */
/* *block (a pointer to a pointer) holds n + 1 elements */
void kq_j_grow(j_run *r, void *block, size_t *cap, size_t n, size_t size);
void kq_j_arena_free(j_arena *a);
void kq_j_spend(j_run *r, size_t steps);
static inline void j_tick(j_run *r)
{
    kq_j_spend(r, 1);
}

/* ---- value.c ---- */
static inline j_val j_none(void)
{
    return (j_val){.kind = J_NONE};
}
static inline j_val j_bool(bool b)
{
    return (j_val){.kind = J_BOOL, .b = b};
}
static inline j_val j_int(int64_t i)
{
    return (j_val){.kind = J_INT, .i = i};
}
static inline j_val j_float(double d)
{
    return (j_val){.kind = J_FLOAT, .d = d};
}
static inline j_val j_undefined(const char *why)
{
    return (j_val){.kind = J_UNDEFINED, .why = why};
}
static inline bool j_is_list(j_val v)
{
    return v.kind == J_LIST || v.kind == J_TUPLE;
}
static inline bool j_is_number(j_val v)
{
    return v.kind == J_BOOL || v.kind == J_INT || v.kind == J_FLOAT;
}
static inline int64_t j_whole(j_val v)
{
    return v.kind == J_BOOL ? v.b : v.i;
} /* BOOL, INT */
static inline double j_real(j_val v)
{
    return v.kind == J_FLOAT ? v.d : (double)j_whole(v);
}
j_val kq_j_str(j_run *r, const char *p, size_t n); /* p is kept, not copied */
j_val kq_j_copy(j_run *r, const char *p, size_t n);
j_val kq_j_cstr(j_run *r, const char *p); /* a literal */
bool kq_j_is(j_val v, const char *s);     /* the string s */
j_val kq_j_list(j_run *r, j_kind kind, size_t cap);
void kq_j_push(j_run *r, j_list *l, j_val v);
j_val kq_j_pair(j_run *r, j_val a, j_val b); /* a tuple */
j_val kq_j_dict(j_run *r, size_t cap);
void kq_j_dict_set(j_run *r, j_dict *d, j_val key, j_val value);  /* replaces; unhashable keys fail */
const j_val *kq_j_dict_get(j_run *r, const j_dict *d, j_val key); /* NULL: not there */
j_val kq_j_from_json(j_run *r, const json_t *v);
const char *kq_j_type_name(j_val v);
bool kq_j_truth(j_run *r, j_val v);
bool kq_j_equal(j_run *r, j_val a, j_val b);
bool kq_j_less(j_run *r, j_val a, j_val b); /* a < b; what has no order fails */
/* what in s [n]; NULL: not there */
const char *kq_j_find(j_run *r, const char *s, size_t n, const j_str *what);
bool kq_j_contains(j_run *r, j_val in, j_val what);
/* iterate: the items; what cannot be iterated fails */
const j_list *kq_j_items(j_run *r, j_val v);
j_list *kq_j_list_of(j_run *r, j_val v); /* a fresh list of them */
int64_t kq_j_length(j_run *r, j_val v);
j_val kq_j_iter(j_run *r, const j_list *items);
void kq_j_enter(j_run *r); /* one level deeper in a value */
static inline void j_leave(j_run *r)
{
    r->value_depth--;
}

/* ---- text.c: str, repr, JSON ---- */
void kq_j_put(j_run *r, j_buf *b, const char *p, size_t n);
void kq_j_puts(j_run *r, j_buf *b, const char *s);
void kq_j_put_str(j_run *r, j_buf *b, j_val v); /* str(v) */
void kq_j_put_repr(j_run *r, j_buf *b, j_val v);
j_val kq_j_buf_str(j_run *r, const j_buf *b);
const j_str *kq_j_text(j_run *r, j_val v); /* str(v) */
/* json.dumps: indent NULL: one line; separators */
typedef struct j_dump {
    bool ascii, sort;
    const j_str *indent, *item, *key;
} j_dump;
void kq_j_dump(j_run *r, j_buf *b, j_val v, const j_dump *how, size_t level);
void kq_j_float_text(double d, char out[40]); /* Python's repr */
/* digits [. digits] [e digits], in any locale */
bool kq_j_parse_float(const char *p, size_t n, double *out);

/* ---- unicode.c ---- */
uint32_t kq_j_cp(const char *p, size_t *size); /* of valid UTF-8 */
size_t kq_j_utf8(uint32_t cp, char out[4]);
size_t kq_j_chars(const j_str *s);                /* code points */
size_t kq_j_offset(const j_str *s, size_t chars); /* bytes before that code point */
bool kq_j_space(uint32_t cp);                     /* str.isspace */
bool kq_j_printable(uint32_t cp);
bool kq_j_alpha(uint32_t cp);
typedef enum j_case { J_LOWER, J_UPPER, J_TITLE, J_CAPITALIZE, J_FILTER_TITLE } j_case;
j_val kq_j_case(j_run *r, const j_str *s, j_case how);
bool kq_j_all_case(j_run *r, const j_str *s, bool upper); /* str.isupper, str.islower */
/* chars NULL: white space */
j_val kq_j_strip(j_run *r, const j_str *s, const j_str *chars, bool left, bool right);
bool kq_j_valid_utf8(const char *p, size_t n);

/* ---- ops.c, attr.c ---- */
j_val kq_j_binary(j_run *r, j_op op, j_val a, j_val b);
bool kq_j_compare(j_run *r, j_op op, j_val a, j_val b);
j_val kq_j_negate(j_run *r, j_val v, bool minus);
j_val kq_j_percent(j_run *r, const j_str *format, j_val args);
j_val kq_j_escape(j_run *r, j_val v);
/* refuses a string marked safe, where Python would escape */
void kq_j_not_safe(j_run *r, j_val v, const char *what);
j_val kq_j_getattr(j_run *r, j_val v, const char *name); /* v.name */
j_val kq_j_getitem(j_run *r, j_val v, j_val key);        /* v[key] */
j_val kq_j_slice(j_run *r, j_val v, j_val start, j_val stop, j_val step);

/* ---- methods.c, filters*.c, tests.c, globals.c ---- */
/* Arguments to v[n]: names "a,b,c"; those not given are J_MISSING. Fails on too many, unknown or missing
 * ones (the first `needed` must be there). */
void kq_j_take(j_run *r, const char *what, const j_args *a, const char *names, size_t needed, j_val *v);
int64_t kq_j_want_int(j_run *r, j_val v, const char *what);
const j_str *kq_j_want_str(j_run *r, j_val v, const char *what);
/* HIDDEN: the sandbox refuses it; NOT_HERE: this engine does */
typedef enum j_known { J_NO_ATTRIBUTE, J_ATTRIBUTE, J_HIDDEN, J_NOT_HERE } j_known;
j_known kq_j_method_known(j_val v, const char *name);
j_val kq_j_call_method(j_run *r, const j_method *m, const j_args *a);
j_val kq_j_replace(j_run *r, const j_str *s, const j_str *old, const j_str *by, int64_t count);
j_val kq_j_splitlines(j_run *r, const j_str *s, bool keep);
j_val kq_j_join(j_run *r, const j_str *by, const j_list *items, bool convert);
int kq_j_filter_find(const char *name); /* -1: unknown */
j_val kq_j_filter(j_run *r, int filter, j_val v, const j_args *a);
typedef j_val (*j_filter)(j_run *r, j_val v, const j_args *a);
typedef struct j_filter_entry {
    const char *name;
    j_filter run;
} j_filter_entry;
/* filters_list.c; ends with a NULL */
extern const j_filter_entry kq_j_list_filters[];
int kq_j_test_find(const char *name);
bool kq_j_test(j_run *r, int test, j_val v, const j_args *a);
int kq_j_function_find(const char *name);
j_val kq_j_call_function(j_run *r, int function, const j_args *a);
j_val kq_j_call(j_run *r, j_val callee, const j_args *a); /* eval.c */
j_val kq_j_cycler_attr(j_run *r, j_val v, const char *name);
j_val kq_j_cycler_call(j_run *r, j_val v, const char *name); /* name NULL: a joiner */
j_val kq_j_loop_attr(j_run *r, j_val loop, const char *name);
j_val kq_j_loop_call(j_run *r, j_loop *loop, const char *name, const j_args *a);
j_val kq_j_strftime(j_run *r, const j_str *format);

/* ---- lexer.c, parser.c, expression.c ---- */
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
/* name: NAME, OP; interned */
typedef struct j_tok {
    j_tok_kind kind;
    int line;
    const char *name;
    j_val value;
} j_tok;
typedef struct j_parser {
    j_run *r;
    const char *s, *end, *at; /* source */
    int line, state;          /* of the lexer */
    bool line_starting;
    char closing[KQ_JINJA_MAX_NESTING];
    int n_closing;
    j_tok tok, next;
    bool has_next;
    int nesting, loops; /* loops: for statements around that break may leave */
    bool names_caller;
    /* within an if: a filter or test that is not known fails only when it is run, as in jinja2 */
    bool soft;
    const j_node *unknown; /* the first one elsewhere, NULL: none; what: "filter" or "test" */
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
const j_tok *kq_j_look(j_parser *p);
bool kq_j_at(const j_parser *p, j_tok_kind kind, const char *name); /* the token is this NAME or OP */
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

/* ---- eval.c, exec.c ---- */
j_val kq_j_eval(j_run *r, const j_node *n);
void kq_j_eval_args(j_run *r, const j_node *n, j_args *a);
/* fail if the filter or test is not known */
void kq_j_known(j_run *r, const j_node *n, const char *what);
typedef enum j_flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } j_flow;
j_flow kq_j_exec(j_run *r, const j_body *body);
j_val kq_j_call_macro(j_run *r, const j_macro *m, const j_args *a, const j_val *caller);
j_env *kq_j_push_env(j_run *r, j_env *parent);
void kq_j_define(j_run *r, j_env *e, const char *name, j_val v);

#endif
