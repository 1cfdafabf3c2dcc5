/* Small templates against jinja2 (golden file: scripts/make_chat_cases.py), refusals by name, and bounds. */
#include "check.h"

#include <time.h>

#include "base/mem.h"
#include "jinja/jinja.h"

static const struct tm now = {.tm_sec = 0,
                              .tm_min = 20,
                              .tm_hour = 3,
                              .tm_mday = 26,
                              .tm_mon = 6,
                              .tm_year = 125,
                              .tm_wday = 6,
                              .tm_yday = 206};

/* Render; NULL with *err filled otherwise. */
static char *run(const char *source, size_t size, const json_t *vars, size_t *n, kq_error *err)
{
    kq_jinja *t = NULL;
    char *text = NULL;
    err->status = KQ_OK;
    kq_status status = kq_jinja_parse(source, size, "test", &t, err);
    if (!status)
        status = kq_jinja_render(t, vars, &now, NULL, NULL, &text, n, err);
    assert_int_equal(status, err->status);
    kq_jinja_free(t);
    return text;
}

static void against_jinja2(void **state)
{
    (void)state;
    json_t *all = json_load_file(KRONQ_GOLDEN_DIR "/chat/expressions.json", 0, NULL), *c;
    size_t i, equal = 0, both = 0, refused = 0, wrong = 0;
    assert_true(json_array_size(json_object_get(all, "cases")) >= 3000);
    json_array_foreach(json_object_get(all, "cases"), i, c) {
        const json_t *source = json_array_get(c, 0), *want = json_array_get(c, 1);
        kq_error err;
        size_t n;
        char *text = run(json_string_value(source), json_string_length(source),
                         json_object_get(all, "variables"), &n, &err);
        if (text && json_is_string(want) && n == json_string_length(want) &&
            !memcmp(text, json_string_value(want), n))
            equal++;
        else if (!text && json_is_null(want))
            both++;
        else if (!text && err.status == KQ_E_UNSUPPORTED) {
            refused++;
            print_message("refused: %s\n  %s\n", json_string_value(source), err.message);
        } else {
            wrong++;
            print_message("%s\n  gives %s\n  want  %s\n", json_string_value(source),
                          text ? text : err.message,
                          want && json_is_string(want) ? json_string_value(want) : "an error");
        }
        kq_free(text);
    }
    print_message("%zu equal, %zu fail in both, %zu refused here, %zu wrong\n", equal, both, refused, wrong);
    assert_int_equal(wrong, 0);
    assert_true(refused * 25 < equal + both); /* by name, never a guess; and rare */
    json_decref(all);
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *source;
        kq_status status;
        const char *words;
    } cases[] = {
        {"a\n{{ x | groupby('a') }}", KQ_E_UNSUPPORTED,
         "test, line 2: the filter 'groupby' is not supported"},
        {"{{ x | nosuch }}", KQ_E_UNSUPPORTED, "'nosuch'"},
        {"{{ x is nosuch }}", KQ_E_UNSUPPORTED, "the test 'nosuch'"},
        {"{% if false %}\n{% for x in [1] %}{{ x | nosuch }}{% endfor %}{% endif %}", KQ_E_UNSUPPORTED,
         "line 2: the filter 'nosuch'"},
        {"{% if false %}{% elif 1 is nosuch %}{% endif %}", KQ_E_UNSUPPORTED, "the test 'nosuch'"},
        {"{% for x in [1] if x is nosuch %}{% endfor %}", KQ_E_UNSUPPORTED, "the test 'nosuch'"},
        {"{% if 0 %}{% set a | nosuch %}{% endset %}{% endif %}", KQ_E_UNSUPPORTED, "'nosuch'"},
        {"{% if 0 %}{% macro f(a=1 | nosuch) %}{% endmacro %}{% endif %}", KQ_E_UNSUPPORTED, "'nosuch'"},
        {"{% if 0 %}{% endif %}{{ 1 | nosuch }}", KQ_E_UNSUPPORTED, "'nosuch'"},
        {"{{ (1 if 1 else 2) | nosuch }}", KQ_E_UNSUPPORTED, "'nosuch'"},
        {"{% macro f(a) %}{{ a }}{% endmacro %}{{ f(*[1, 2]) }}", KQ_E_ARG,
         "f takes 1 arguments, 2 are given"},
        {"{% macro f(a) %}{{ a }}{% endmacro %}{{ f(**{'a': 1, 'b': 2}) }}", KQ_E_ARG, "no parameter"},
        {"{% macro f(a) %}{{ a }}{% endmacro %}{{ f(a=1, **{'a': 1}) }}", KQ_E_ARG, "'a' is given twice"},
        {"{{ dict(**nothing) }}", KQ_E_ARG, "an object is wanted after **"},
        {"{{ range(*5) }}", KQ_E_ARG, "int"},
        {"{{ m[, 1] }}", KQ_E_FORMAT, "begins with a comma"},
        {"{{ range(*[1], 2) }}", KQ_E_FORMAT, "the last ones"},
        {"{{ dict(**{}, a=1) }}", KQ_E_FORMAT, "the last ones"},
        {"{{ namespace(nothing) }}", KQ_E_ARG, "nothing is undefined"},
        {"\n\n{% include 'x' %}", KQ_E_UNSUPPORTED, "line 3: {% include %}"},
        {"{% for x in [1] recursive %}{% endfor %}", KQ_E_UNSUPPORTED, "recursive"},
        {"{% do x %}", KQ_E_FORMAT, "unknown tag {% do %}"},
        {"{% if true %}", KQ_E_FORMAT, "ends before"},
        {"{{ x", KQ_E_FORMAT, "'}}' is wanted"},
        {"{{ 'a' }", KQ_E_FORMAT, "unexpected '}'"},
        {"{% break %}", KQ_E_FORMAT, "not in a loop"},
        {"{{ 'abc'.swapcase() }}", KQ_E_UNSUPPORTED, "'swapcase' of a value of type str"},
        {"{{ [].append(1) }}", KQ_E_ARG, "'append' is not allowed"},
        {"{{ ''.__class__ }}", KQ_E_UNSUPPORTED, "__class__"},
        {"{{ nothing.more }}", KQ_E_ARG, "nothing is undefined"},
        {"{{ nothing() }}", KQ_E_ARG, "'nothing' is undefined"},
        {"{{ raise_exception('no, ' ~ 1) }}", KQ_E_ARG, "the template refuses these messages: no, 1"},
        {"{{ 9223372036854775807 + 1 }}", KQ_E_UNSUPPORTED, "beyond 64 bits"},
        {"{{ 99999999999999999999 }}", KQ_E_UNSUPPORTED, "beyond 64 bits"},
        {"{{ strftime_now('%Q') }}", KQ_E_UNSUPPORTED, "strftime_now"},
        {"{{ [1] | map('upper') }}", KQ_E_UNSUPPORTED, "generator"},
        {"\xff", KQ_E_FORMAT, "UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kq_error err;
        size_t n;
        char *text = run(cases[i].source, strlen(cases[i].source), NULL, &n, &err);
        if (text || err.status != cases[i].status || !strstr(err.message, cases[i].words))
            fail_msg("%s: %s (status %d), want status %d, \"%s\"", cases[i].source, text ? text : err.message,
                     err.status, cases[i].status, cases[i].words);
    }
}

/* Values from transformers 5.23 with jinja2 3.1.6: arguments after * and **; filters and tests that are
 * not known, within an if that is not taken. */
static void calls_and_ifs(void **state)
{
    (void)state;
    static const struct {
        const char *source, *want;
    } cases[] = {
        {"{% macro f(a, b='B', c='C') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(*['x', 'y']) }} {{ f('x', "
         "*['y'], **{'c': 'z'}) }} {{ f(*nothing, a=1) }} "
         "{{ f(c=3, *('p', 'q')) }} {{ [f][0](*[1, 2, 3]) }}",
         "xyC xyz 1BC pq3 123"},
        {"{{ range(*[1, 4]) | list }}{{ 'a,b,c'.split(*[',', 1]) }}{{ 'x' | replace(*['x', 'y']) }}{{ "
         "dict(a=1, **{'b': 2}) }}",
         "[1, 2, 3]['a', 'b,c']y{'a': 1, 'b': 2}"},
        {"{{ dict(*nothing) }}", "{}"},
        {"{% if false %}{{ 1 | nosuch }}{{ 1 is nosuch }}{% else %}ok{% endif %}{{ 2 | nosuch if 0 else 'b' "
         "}}{{ 'c' if 1 else 1 | nosuch }}"
         "{{ ('d' if 1 else 2) if 1 or 2 is nosuch }}",
         "okbcd"},
        {"{% if false %}{% for x in [1] | nosuch %}{% endfor %}{% endif %}k", "k"},
        {"{% if 0 %}{% with a = 1 | nosuch %}{% endwith %}{% set b = 1 | nosuch %}{% endif %}k", "k"},
        {"{% if 0 %}{% if 1 %}{{ 1 | nosuch }}{% endif %}{% endif %}k", "k"},
        {"{% if 0 %}{% call range(1 | nosuch) %}{% endcall %}{% endif %}k", "k"},
        {"{{ [1 | nosuch] if 0 else 'k' }}{{ {'a': 1 | nosuch}[1 | nosuch] if 0 else 'k' }}", "kk"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kq_error err;
        size_t n;
        char *text = run(cases[i].source, strlen(cases[i].source), NULL, &n, &err);
        if (!text || strcmp(text, cases[i].want))
            fail_msg("%s: %s, want %s", cases[i].source, text ? text : err.message, cases[i].want);
        kq_free(text);
    }
}

static bool soon(void *ctx)
{
    return --*(int *)ctx < 0;
}

/* A run ends when its caller says so, however much it has left to do. */
static void stopped(void **state)
{
    (void)state;
    static const char *const sources[] = {
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set x = ('a' * 1000000) + 'b' %}{% for i in range(99999) %}{{ x.rfind('aaab' ~ i) }}{% endfor "
        "%}"};
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        kq_error err;
        kq_jinja *t = NULL;
        char *text = NULL;
        size_t n;
        int left = 3;
        check_ok(kq_jinja_parse(sources[i], strlen(sources[i]), "test", &t, &err));
        check_fails(kq_jinja_render(t, NULL, &now, soon, &left, &text, &n, &err), KQ_E_INTERRUPTED,
                    "stopped");
        assert_int_equal(left, -1);
        kq_jinja_free(t);
    }
}

static void bounds(void **state)
{
    (void)state;
    static const char *const sources[] = {
        "{{ range(1000000000) | list }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ "
        "ns.s }}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{{ 9 ** 9 ** 9 ** 9 }}",
        "{{ 2 ** 999999999999 }}",
        "{{ 'a' * 1000000000 }}",
        "{{ [0] * 1000000000 }}",
        "{{ 'ab' * 10000000 * 10000000 }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l "
        "}}",
        "{% set ns = namespace(l=[0]) %}{% for i in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ "
        "ns.l == ns.l }}{{ ns.l | tojson }}",
        "{% set ns = namespace(l=[0]) %}{% for i in range(40) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
        "{% set x = 'a' * 1000000 %}{% for i in range(99999) %}{{ x.replace('a', 'bb') | length }}{% endfor "
        "%}",
        "{% set x = ('a' * 1000000) + 'b' %}{% for i in range(99999) %}{{ x.rfind('aaab' ~ i) }}{% endfor %}",
        "{{ 'a'.replace('', 'b' * 30000000) | upper | title }}",
        "{{ 'x' | indent(1000000000) }}",
        "{{ ('a\\n' * 1000000) | indent(100000) }}",
        "{{ '%s' * 1000000 % (1, 2) }}",
        "{% for i in range(99999) %}{{ "
        "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaa' * 10 }}{% endfor %}",
    };
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        kq_error err;
        size_t n;
        const clock_t begin = clock(); /* the process's own time: others may be busy, too */
        char *text = run(sources[i], strlen(sources[i]), NULL, &n, &err);
        const double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
        if (text || !strstr(err.message, "test, line 1: "))
            fail_msg("%s: %s", sources[i], text ? "a text" : err.message);
        if (seconds > 30) /* 3 s at most without sanitizers */
            fail_msg("%s: %.1f s", sources[i], seconds);
        print_message("%.2f s: %s\n", seconds, err.message);
    }
}

/* Sources that nest without end, and the largest one. */
static void deep_sources(void **state)
{
    (void)state;
    static const char *const unit[] = {
        "(",    "[",    "{1:",      "-",  "not ", "1 if 1 else ", "{% if 1 %}", "{% for a in b %}",
        "a.b(", "1 + ", "a|upper|", "{#", "'\\",  "1 ~ ",         "x["};
    enum { SIZE = 600000 };
    char *s = malloc(SIZE + 3);
    for (size_t i = 0; i < sizeof unit / sizeof *unit; i++)
        for (int print = 0; print < 2; print++) {
            const size_t n = strlen(unit[i]);
            kq_error err;
            size_t size, k = print ? 3 : 0;
            memcpy(s, "{{ ", 3);
            for (; k + n <= SIZE; k += n)
                memcpy(s + k, unit[i], n);
            kq_free(run(s, k, NULL, &size, &err));
        }
    kq_error err;
    kq_jinja *t;
    char *big = calloc(KQ_JINJA_MAX_SOURCE + 1, 1);
    check_fails(kq_jinja_parse(big, KQ_JINJA_MAX_SOURCE + 1, "test", &t, &err), KQ_E_ARG, "bytes");
    free(big);
    free(s);
}

static void variables_and_time(void **state)
{
    (void)state;
    kq_error err;
    size_t n;
    json_t *vars = json_pack("{s:f, s:s%, s:[i,f]}", "big", 1e30, "nul", "a\0b", (size_t)3, "l", 3, 3.0);
    static const char source[] =
        "{{ l }} {{ nul | length }} {{ strftime_now('%d %b %Y %-d %H:%M %A %j%%') }}";
    char *text = run(source, sizeof source - 1, vars, &n, &err);
    assert_non_null(text);
    assert_string_equal(text, "[3, 3.0] 3 26 Jul 2025 26 03:20 Saturday 207%");
    kq_free(text);
    assert_null(run("{{ big }}", 9, vars, &n, &err)); /* perhaps an integer whose digits are lost */
    assert_int_equal(err.status, KQ_E_UNSUPPORTED);
    json_decref(vars);
}

/* Every allocation of a parse and a render fails once. */
static void out_of_memory(void **state)
{
    (void)state;
    static const char source[] = "{% for x in range(3000) %}{{ [x, 'a' ~ x] | tojson }}{% endfor %}";
    bool done = false;
    for (size_t k = 1; k < 200 && !done; k++) {
        kq_error err;
        kq_jinja *t = NULL;
        char *text = NULL;
        size_t n;
        kq_alloc_fail_after(k);
        kq_status status = kq_jinja_parse(source, sizeof source - 1, "test", &t, &err);
        if (!status)
            status = kq_jinja_render(t, NULL, &now, NULL, NULL, &text, &n, &err);
        kq_alloc_fail_after(0);
        if (status)
            assert_int_equal(status, KQ_E_MEMORY);
        done = !status;
        kq_free(text);
        kq_jinja_free(t);
    }
    assert_true(done);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(against_jinja2),
                                       cmocka_unit_test(refusals),
                                       cmocka_unit_test(calls_and_ifs),
                                       cmocka_unit_test(stopped),
                                       cmocka_unit_test(bounds),
                                       cmocka_unit_test(deep_sources),
                                       cmocka_unit_test(variables_and_time),
                                       cmocka_unit_test(out_of_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
