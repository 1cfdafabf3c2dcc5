/* Tests: what stands behind "is". jinja2/tests.py (3.1.6) is the referee. */
#include "jinja/internal.h"

static void none(j_run *r, const j_args *a, const char *what)
{
    j_val v[1];
    kq_j_take(r, what, a, "", 0, v);
}

static j_val one(j_run *r, const j_args *a, const char *what)
{
    j_val v[1];
    kq_j_take(r, what, a, "other", 1, v);
    return v[0];
}

/* Tests that look at the value's type alone. */
static bool type_test(j_run *r, const char *name, j_val v)
{
    const j_kind k = v.kind;
    switch (name[0]) {
    case 'b': return k == J_BOOL;
    case 'c':
        return k == J_MACRO || k == J_METHOD || k == J_FUNCTION || k == J_CYCLER || k == J_JOINER ||
               k == J_LOOP || k == J_UNDEFINED;
    case 'd': return k != J_UNDEFINED;
    case 'e': return k == J_STR && v.safe;
    case 'f': return name[1] == 'l' ? k == J_FLOAT : k == J_BOOL && !v.b;
    case 'i':
        if (name[1] == 'n')
            return k == J_INT;
        return k == J_UNDEFINED || k == J_STR || j_is_list(v) || k == J_DICT || k == J_RANGE || k == J_VIEW ||
               k == J_ITER || k == J_LOOP;
    case 'm': return k == J_DICT;
    case 'n': return name[1] == 'o' ? k == J_NONE : j_is_number(v);
    case 's':
        if (name[1] == 't')
            return k == J_STR;
        return k == J_UNDEFINED || k == J_STR || j_is_list(v) || k == J_DICT || k == J_RANGE;
    case 't': return k == J_BOOL && v.b;
    case 'u': return k == J_UNDEFINED;
    default: kq_j_fail(r, KQ_E_UNSUPPORTED, "the test '%s'", name);
    }
}

static bool is_same(j_run *r, j_val a, j_val b)
{
    if (a.kind != b.kind)
        return false;
    if (a.kind == J_NONE || a.kind == J_BOOL)
        return a.kind == J_NONE || a.b == b.b;
    kq_j_fail(r, KQ_E_UNSUPPORTED, "'sameas' of two values of type %s is not supported", kq_j_type_name(a));
}

static bool is_case(j_run *r, j_val v, bool upper)
{
    return kq_j_all_case(r, kq_j_text(r, v), upper);
}

/* The table: kind 't': by type alone; 'c': a comparison (op); else a letter of its own. */
static const struct {
    const char *name;
    char kind;
    j_op op;
} tests[] = {
    {"boolean", 't', 0}, {"callable", 't', 0},    {"defined", 't', 0},      {"escaped", 't', 0},
    {"false", 't', 0},   {"float", 't', 0},       {"integer", 't', 0},      {"iterable", 't', 0},
    {"mapping", 't', 0}, {"none", 't', 0},        {"number", 't', 0},       {"sequence", 't', 0},
    {"string", 't', 0},  {"true", 't', 0},        {"undefined", 't', 0},    {"==", 'c', OP_EQ},
    {"eq", 'c', OP_EQ},  {"equalto", 'c', OP_EQ}, {"!=", 'c', OP_NE},       {"ne", 'c', OP_NE},
    {"<", 'c', OP_LT},   {"lt", 'c', OP_LT},      {"lessthan", 'c', OP_LT}, {"<=", 'c', OP_LE},
    {"le", 'c', OP_LE},  {">", 'c', OP_GT},       {"gt", 'c', OP_GT},       {"greaterthan", 'c', OP_GT},
    {">=", 'c', OP_GE},  {"ge", 'c', OP_GE},      {"in", 'c', OP_IN},       {"odd", 'o', 0},
    {"even", 'o', 0},    {"divisibleby", 'd', 0}, {"sameas", 's', 0},       {"lower", 'l', 0},
    {"upper", 'l', 0},   {"filter", 'f', 0},      {"test", 'f', 0},
};

int kq_j_test_find(const char *name)
{
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (!strcmp(tests[i].name, name))
            return (int)i;
    return -1;
}

bool kq_j_test(j_run *r, int test, j_val v, const j_args *a)
{
    const char *name = tests[test].name;
    j_val other;
    j_tick(r);
    switch (tests[test].kind) {
    case 't': none(r, a, name); return type_test(r, name, v);
    case 'c': return kq_j_compare(r, tests[test].op, v, one(r, a, name));
    case 's': return is_same(r, v, one(r, a, name));
    case 'l': none(r, a, name); return is_case(r, v, *name == 'u');
    case 'f': { /* jinja2 knows more filters than this engine */
        none(r, a, name);
        const j_str *s = kq_j_want_str(r, v, name);
        char *text = kq_j_alloc(r, s->n + 1, 1);
        memcpy(text, s->p, s->n);
        if ((*name == 'f' ? kq_j_filter_find(text) : kq_j_test_find(text)) < 0)
            kq_j_fail(r, KQ_E_UNSUPPORTED, "'is %s' of a name that is not known here", name);
        return true;
    }
    default: break;
    }
    other = tests[test].kind == 'd' ? one(r, a, name) : j_int(2);
    if (tests[test].kind == 'o')
        none(r, a, name);
    const j_val rest =
        v.kind == J_STR ? (j_type_error(r, "'%s' of a string", name), v) : kq_j_binary(r, OP_MOD, v, other);
    return kq_j_equal(r, rest, j_int(*name == 'o'));
}
