/* Tests: what stands behind "is" in an expression. They do what jinja2/tests.py (3.1.6) does. */
#include "jinja/internal.h"

static void none(py_run *r, const py_args *a, const char *what)
{
    py_val v[1];
    kq_py_match_args(r, what, a, "", 0, v);
}

static py_val operand(py_run *r, const py_args *a, const char *what)
{
    py_val v[1];
    kq_py_match_args(r, what, a, "other", 1, v);
    return v[0];
}

/* The tests that depend on the value's type alone. */
static bool type_test(py_run *r, const char *name, py_val v)
{
    const py_kind k = v.kind;
    switch (name[0]) {
    case 'b': return k == PY_BOOL;
    case 'c':
        return k == PY_MACRO || k == PY_METHOD || k == PY_FUNCTION || k == PY_CYCLER || k == PY_JOINER ||
               k == PY_LOOP || k == PY_UNDEFINED;
    case 'd': return k != PY_UNDEFINED;
    case 'e': return k == PY_STR && v.safe;
    case 'f': return name[1] == 'l' ? k == PY_FLOAT : k == PY_BOOL && !v.b;
    case 'i':
        if (name[1] == 'n')
            return k == PY_INT;
        return k == PY_UNDEFINED || k == PY_STR || py_is_list(v) || k == PY_DICT || k == PY_RANGE ||
               k == PY_VIEW || k == PY_ITER || k == PY_LOOP;
    case 'm': return k == PY_DICT;
    case 'n': return name[1] == 'o' ? k == PY_NONE : py_is_number(v);
    case 's':
        if (name[1] == 't')
            return k == PY_STR;
        return k == PY_UNDEFINED || k == PY_STR || py_is_list(v) || k == PY_DICT || k == PY_RANGE;
    case 't': return k == PY_BOOL && v.b;
    case 'u': return k == PY_UNDEFINED;
    default: kq_py_fail(r, KQ_E_UNSUPPORTED, "the test '%s'", name);
    }
}

static bool is_same(py_run *r, py_val a, py_val b)
{
    if (a.kind != b.kind)
        return false;
    if (a.kind == PY_NONE || a.kind == PY_BOOL)
        return a.kind == PY_NONE || a.b == b.b;
    kq_py_fail(r, KQ_E_UNSUPPORTED, "'sameas' of two values of type %s is not supported", kq_py_type_name(a));
}

static bool is_case(py_run *r, py_val v, bool upper)
{
    return kq_py_all_case(r, kq_py_text(r, v), upper);
}

/* The table of tests. Kind 't': by type alone; 'c': a comparison, by op; every other test has a letter of its
 * own. */
static const struct {
    const char *name;
    char kind;
    py_op op;
} tests[] = {
    {"boolean", 't', 0}, {"callable", 't', 0},    {"defined", 't', 0},      {"escaped", 't', 0},
    {"false", 't', 0},   {"float", 't', 0},       {"integer", 't', 0},      {"iterable", 't', 0},
    {"mapping", 't', 0}, {"none", 't', 0},        {"number", 't', 0},       {"sequence", 't', 0},
    {"string", 't', 0},  {"true", 't', 0},        {"undefined", 't', 0},    {"==", 'c', PY_EQ},
    {"eq", 'c', PY_EQ},  {"equalto", 'c', PY_EQ}, {"!=", 'c', PY_NE},       {"ne", 'c', PY_NE},
    {"<", 'c', PY_LT},   {"lt", 'c', PY_LT},      {"lessthan", 'c', PY_LT}, {"<=", 'c', PY_LE},
    {"le", 'c', PY_LE},  {">", 'c', PY_GT},       {"gt", 'c', PY_GT},       {"greaterthan", 'c', PY_GT},
    {">=", 'c', PY_GE},  {"ge", 'c', PY_GE},      {"in", 'c', PY_IN},       {"odd", 'o', 0},
    {"even", 'o', 0},    {"divisibleby", 'd', 0}, {"sameas", 's', 0},       {"lower", 'l', 0},
    {"upper", 'l', 0},
};

int kq_j_plain_test_find(const char *name)
{
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (!strcmp(tests[i].name, name))
            return (int)i;
    return -1;
}

bool kq_j_plain_test(py_run *r, int test, py_val v, const py_args *a)
{
    const char *name = tests[test].name;
    py_val other;
    switch (tests[test].kind) {
    case 't': none(r, a, name); return type_test(r, name, v);
    case 'c': return kq_py_compare(r, tests[test].op, v, operand(r, a, name));
    case 's': return is_same(r, v, operand(r, a, name));
    case 'l': none(r, a, name); return is_case(r, v, *name == 'u');
    default: break;
    }
    other = tests[test].kind == 'd' ? operand(r, a, name) : py_int(2);
    if (tests[test].kind == 'o')
        none(r, a, name);
    const py_val rest = v.kind == PY_STR ? (py_type_error(r, "'%s' of a string", name), v)
                                         : kq_py_binary(r, PY_MOD, v, other);
    return kq_py_equal(r, rest, py_int(*name == 'o'));
}
