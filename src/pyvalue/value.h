/* Python's values, as far as the Jinja templates of chat models see them: numbers, strings, lists, tuples,
 * objects, ranges, views, generators. The template language's own kinds (loops, macros, functions) are kinds
 * of values too, but what they do is in the jinja room. */
#ifndef KQ_PYVALUE_VALUE_H
#define KQ_PYVALUE_VALUE_H

#include <jansson.h>

#include "pyvalue/run.h"

typedef enum py_kind {
    PY_MISSING, /* no value: an argument that was not given. Templates never see it */
    PY_UNDEFINED,
    PY_NONE,
    PY_BOOL,
    PY_INT,
    PY_FLOAT,
    PY_STR,
    PY_LIST,
    PY_TUPLE,
    PY_DICT,
    PY_RANGE,
    PY_VIEW, /* d.items(), d.keys(), d.values() */
    PY_ITER, /* a generator or iterator: it is walked once and has no length */
    PY_NAMESPACE,
    PY_LOOP,
    PY_MACRO,
    PY_METHOD,
    PY_FUNCTION,
    PY_CYCLER,
    PY_JOINER
} py_kind;

/* A text in valid UTF-8. chars: its number of code points, SIZE_MAX before they are counted. */
typedef struct py_str {
    const char *p;
    size_t n;
    size_t chars;
} py_str;

typedef struct py_val {
    py_kind kind;
    /* STR: it is marked safe (after |safe or |escape); UNDEFINED: the sandbox hides this attribute */
    bool safe;
    union {
        bool b;
        int64_t i;
        double d;
        py_str *s;
        struct py_list *l; /* LIST, TUPLE */
        struct py_dict *m; /* DICT, NAMESPACE */
        struct py_range *r;
        struct py_view *view;
        struct py_iter *it; /* ITER, CYCLER, JOINER */
        struct py_loop *loop;
        struct py_macro *macro;
        struct py_method *method;
        int function;
        const char *why; /* UNDEFINED: the name of what is undefined, for messages; NULL: none */
    };
} py_val;

typedef struct py_list {
    py_val *v;
    size_t n, cap;
} py_list;
typedef struct py_dict {
    py_val *key, *value;
    size_t n, cap;
} py_dict; /* in order of insertion */
typedef struct py_range {
    int64_t start, stop, step, n;
} py_range;
typedef struct py_view {
    py_list items;
    const char *name;
} py_view;
typedef struct py_iter {
    py_list items;
    size_t at;
    bool used;
} py_iter;
/* A loop's variable `loop`. changed: the arguments of the last loop.changed(). */
typedef struct py_loop {
    const py_list *items;
    size_t i;
    int depth;
    py_val changed;
} py_loop;
typedef struct py_method {
    py_val self;
    const char *name;
} py_method;
typedef struct py_macro {
    const struct j_node *def;
    struct j_env *closure;
    bool is_caller;
} py_macro; /* jinja's */

/* ---- making and asking simple values ---- */

static inline py_val py_none(void)
{
    return (py_val){.kind = PY_NONE};
}
static inline py_val py_bool(bool b)
{
    return (py_val){.kind = PY_BOOL, .b = b};
}
static inline py_val py_int(int64_t i)
{
    return (py_val){.kind = PY_INT, .i = i};
}
static inline py_val py_float(double d)
{
    return (py_val){.kind = PY_FLOAT, .d = d};
}
static inline py_val py_undefined(const char *why)
{
    return (py_val){.kind = PY_UNDEFINED, .why = why};
}
static inline bool py_is_list(py_val v)
{
    return v.kind == PY_LIST || v.kind == PY_TUPLE;
}
static inline bool py_is_number(py_val v)
{
    return v.kind == PY_BOOL || v.kind == PY_INT || v.kind == PY_FLOAT;
}
static inline int64_t py_whole(py_val v)
{
    return v.kind == PY_BOOL ? v.b : v.i;
} /* BOOL, INT */
static inline double py_real(py_val v)
{
    return v.kind == PY_FLOAT ? v.d : (double)py_whole(v);
}
py_val kq_py_str(py_run *r, const char *p, size_t n); /* p is kept, not copied */
py_val kq_py_copy(py_run *r, const char *p, size_t n);
py_val kq_py_cstr(py_run *r, const char *p);     /* a literal */
bool kq_py_equals_text(py_val v, const char *s); /* the string s */
size_t kq_py_chars(const py_str *s);             /* code points; counted once */
const char *kq_py_type_name(py_val v);           /* as Python says it */
/* Fail on a string that is marked safe, where Python would escape what is joined with it. what: the
 * operation, for messages. */
void kq_py_not_safe(py_run *r, py_val v, const char *what);

/* ---- lists and objects ---- */

py_val kq_py_list(py_run *r, py_kind kind, size_t cap);
void kq_py_push(py_run *r, py_list *l, py_val v);
py_val kq_py_pair(py_run *r, py_val a, py_val b); /* a tuple */
py_val kq_py_dict(py_run *r, size_t cap);
/* Set an entry. An old entry with this key is replaced; a key that cannot be hashed in Python fails. */
void kq_py_dict_set(py_run *r, py_dict *d, py_val key, py_val value);
const py_val *kq_py_dict_get(py_run *r, const py_dict *d, py_val key); /* NULL: not there */
/* A value from JSON. The strings of v are not copied, so v must outlive the run. */
py_val kq_py_from_json(py_run *r, const json_t *v);

/* ---- truth, equality, order ---- */

bool kq_py_truth(py_run *r, py_val v);
bool kq_py_equal(py_run *r, py_val a, py_val b);
bool kq_py_less(py_run *r, py_val a, py_val b); /* a < b; values without an order fail */
/* The first occurrence of `what` in s [n]; NULL: there is none. */
const char *kq_py_find(py_run *r, const char *s, size_t n, const py_str *what);
bool kq_py_contains(py_run *r, py_val in, py_val what);

/* ---- iterating ---- */

/* The items of a value; a value that cannot be iterated fails. A generator (ITER) gives its items once. */
const py_list *kq_py_items(py_run *r, py_val v);
py_list *kq_py_list_of(py_run *r, py_val v); /* a fresh list of them */
int64_t kq_py_length(py_run *r, py_val v);
py_val kq_py_iter(py_run *r, const py_list *items); /* a generator of them */

#endif
