/* Python's values without a template around them: text of numbers, repr, JSON, order, bounds. What templates
 * do with them is compared with jinja2 by tests/jinja. Expected texts are Python 3.11's. */
#include <setjmp.h>
#include <stdlib.h>

#include "base/mem.h"
#include "pyvalue/methods.h"
#include "pyvalue/ops.h"
#include "pyvalue/print.h"
#include "pyvalue/str.h"
#include "pyvalue/unicode.h"

#include "check.h"

static kq_error error;

static py_run start(void)
{
    py_run r = {.err = &error, .name = "test", .line = 1, .steps = KQ_PY_MAX_STEPS};
    r.arena = kq_calloc(1, sizeof *r.arena);
    assert_non_null(r.arena);
    return r;
}

/* Does a run of f fail with this message? */
static void fails(void (*f)(py_run *r), const char *part)
{
    py_run r = start();
    if (!setjmp(r.out)) {
        f(&r);
        fail_msg("no error; expected: %s", part);
    }
    if (!strstr(error.message, part))
        fail_msg("\"%s\" is not in \"%s\"", part, error.message);
    kq_py_arena_free(r.arena);
}

static void float_text(void **state)
{
    (void)state;
    static const struct {
        double x;
        const char *text;
    } cases[] = {{0.1, "0.1"},
                 {1e16, "1e+16"},
                 {123456789012345680.0, "1.2345678901234568e+17"},
                 {1e15, "1000000000000000.0"},
                 {0.0001, "0.0001"},
                 {0.00001, "1e-05"},
                 {-0.0, "-0.0"},
                 {1.0 / 3, "0.3333333333333333"},
                 {5e-324, "5e-324"},
                 {100.0, "100.0"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[40];
        double back;
        kq_py_float_text(cases[i].x, text);
        assert_string_equal(text, cases[i].text);
        const size_t sign = *text == '-';
        assert_true(kq_py_parse_float(text + sign, strlen(text + sign), &back));
        assert_true(back == (sign ? -cases[i].x : cases[i].x));
    }
}

static py_val parse(py_run *r, json_t **owner, const char *text)
{
    *owner = json_loads(text, JSON_DECODE_ANY, NULL);
    assert_non_null(*owner);
    return kq_py_from_json(r, *owner);
}

static void repr_and_json(void **state)
{
    (void)state;
    py_run r = start();
    json_t *owner = NULL;
    assert_int_equal(setjmp(r.out), 0);
    const py_val v = parse(&r, &owner, "{\"b\": [1, 2.5, null, true], \"a\": \"it's\\n\xc3\xa9\"}");
    py_buf b = {0};
    kq_py_put_repr(&r, &b, v);
    kq_py_put(&r, &b, "", 1);
    assert_string_equal(b.p, "{'b': [1, 2.5, None, True], 'a': \"it's\\n\xc3\xa9\"}");
    const py_dump how = {
        .ascii = true, .sort = true, .item = kq_py_cstr(&r, ", ").s, .key = kq_py_cstr(&r, ": ").s};
    b = (py_buf){0};
    kq_py_dump(&r, &b, v, &how, 0);
    kq_py_put(&r, &b, "", 1);
    assert_string_equal(b.p, "{\"a\": \"it's\\n\\u00e9\", \"b\": [1, 2.5, null, true]}");
    json_decref(owner);
    kq_py_arena_free(r.arena);
}

static void operators(void **state)
{
    (void)state;
    py_run r = start();
    assert_int_equal(setjmp(r.out), 0);
    assert_int_equal(kq_py_binary(&r, PY_FLOORDIV, py_int(-7), py_int(2)).i, -4);
    assert_int_equal(kq_py_binary(&r, PY_MOD, py_int(-7), py_int(2)).i, 1);
    assert_true(kq_py_binary(&r, PY_DIV, py_int(1), py_int(4)).d == 0.25);
    assert_true(kq_py_equal(&r, py_int(1), py_float(1)) && kq_py_equal(&r, py_bool(true), py_int(1)));
    assert_false(kq_py_equal(&r, py_int((1LL << 53) + 1), py_float(0x1p53)));
    assert_true(kq_py_less(&r, kq_py_cstr(&r, "Z"), kq_py_cstr(&r, "a")));
    kq_py_arena_free(r.arena);
}

static void characters(void **state)
{
    (void)state;
    assert_true(kq_py_is_space(0x1c) && kq_py_is_space(0x3000) && !kq_py_is_space(0x200b));
    assert_string_equal(kq_py_special_case_of(0xfb01)->title, "Fi");
    assert_string_equal(kq_py_special_case_of(0xdf)->upper, "SS");
    assert_null(kq_py_special_case_of('a'));
    py_run r = start();
    assert_int_equal(setjmp(r.out), 0);
    assert_true(kq_py_equals_text(kq_py_case(&r, kq_py_cstr(&r, "\xef\xac\x81x").s, PY_CAPITALIZE), "Fix"));
    assert_true(
        kq_py_equals_text(kq_py_strip(&r, kq_py_cstr(&r, "\xe3\x80\x80 a ").s, NULL, true, true), "a"));
    kq_py_arena_free(r.arena);
}

static void too_many_steps(py_run *r)
{
    for (;;)
        kq_py_spend(r, 1000);
}

static void too_much_memory(py_run *r)
{
    for (;;)
        kq_py_alloc(r, 1 << 20, 1);
}

static void too_long(py_run *r)
{
    kq_py_binary(r, PY_MUL, kq_py_cstr(r, "12345678"), py_int(1 << 26));
}

static void too_deep(py_run *r)
{
    py_val v = kq_py_list(r, PY_LIST, 1);
    for (int i = 0; i < 2 * KQ_PY_MAX_VALUE_DEPTH; i++) {
        const py_val outer = kq_py_list(r, PY_LIST, 1);
        kq_py_push(r, outer.l, v);
        v = outer;
    }
    py_buf b = {0};
    kq_py_put_repr(r, &b, v);
}

static void too_big(py_run *r)
{
    kq_py_binary(r, PY_ADD, py_int(INT64_MAX), py_int(1));
}

static void list_as_key(py_run *r)
{
    kq_py_dict_set(r, kq_py_dict(r, 1).m, kq_py_list(r, PY_LIST, 0), py_none());
}

static void bounds(void **state)
{
    (void)state;
    fails(too_many_steps, "more than 50000000 steps");
    fails(too_much_memory, "more than 256 MB");
    fails(too_long, "beyond 32 MB");
    fails(too_deep, "more than 200 lists and objects");
    fails(too_big, "an integer beyond 64 bits");
    fails(list_as_key, "a list cannot be a key");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(float_text), cmocka_unit_test(repr_and_json),
                                       cmocka_unit_test(operators), cmocka_unit_test(characters),
                                       cmocka_unit_test(bounds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
