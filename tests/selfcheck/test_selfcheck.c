/* The self-check passes on this machine, for every instruction set and with features switched off; and a
 * kernel that errs is told by name. */
#include "check.h"

#include <jansson.h>

#include "selfcheck/selfcheck.h"

static json_t *run(const char *isa, const char *without)
{
    kq_error err;
    char *text = NULL;
    if (without)
        setenv("KRONQ_WITHOUT", without, 1);
    else
        unsetenv("KRONQ_WITHOUT");
    check_ok(kq_selfcheck(&(kq_common){.isa = isa}, &text, &err));
    assert_non_null(text);
    json_t *report = json_loads(text, 0, NULL);
    free(text);
    assert_non_null(report);
    assert_int_equal(json_integer_value(json_object_get(report, "failed")), 0);
    return report;
}

static size_t count(const json_t *report, const char *isa)
{
    size_t i, n = 0;
    json_t *entry;
    json_array_foreach(json_object_get(report, "checks"), i, entry)
        n += !strcmp(json_string_value(json_object_get(entry, "isa")), isa);
    return n;
}

static size_t with_all; /* checks with all features; test_passes comes first */

static void test_passes(void **state)
{
    (void)state;
    json_t *all = run(NULL, NULL), *ref = run("ref", NULL);
    const size_t isas = (size_t)kq_isa_best();
    printf("%zu checks here, %zu with plain C only\n", json_array_size(json_object_get(all, "checks")),
           json_array_size(json_object_get(ref, "checks")));
    /* with plain C only, the two matrix products of the libraries are left (block integers follow
     * KRONQ_ISA, not --isa) */
    assert_in_range(json_array_size(json_object_get(ref, "checks")), 2, 3);
    if (isas >= KQ_ISA_AVX2)
        assert_true(count(all, "avx2") >= 20 + 10 + 15 + 15);
    if (isas >= KQ_ISA_AVX512)
        assert_true(count(all, "avx512") >= 20 + 10 + 15);
    with_all = json_array_size(json_object_get(all, "checks"));
    json_decref(all);
    json_decref(ref);
}

/* Without VNNI and VBMI the packed products of AVX-512 are AVX2's, and there are no block integers. */
static void test_features(void **state)
{
    (void)state;
    if (!kq_cpu_has(KQ_CPU_VNNI) || !kq_cpu_has(KQ_CPU_VBMI)) {
        printf("SKIP: this processor has no VNNI or no VBMI\n");
        skip();
    }
    json_t *without = run(NULL, "vnni,vbmi");
    assert_int_equal(with_all, json_array_size(json_object_get(without, "checks")) + 15 + 1);
    json_decref(without);
    kq_error err;
    setenv("KRONQ_WITHOUT", "vnni,sse9", 1);
    check_fails(kq_selfcheck(NULL, NULL, &err), KQ_E_ARG, "sse9");
    unsetenv("KRONQ_WITHOUT");
}

static void test_failure(void **state)
{
    (void)state;
    kq_error err;
    kq_common common = {0};
    kq_checker c = {.common = &common, .list = json_array(), .total = 1};
    check_ok(kq_checker_note(&c, "kern", "dot", "avx2", 1e-7, 1e-6, &err));
    assert_int_equal(c.failed, 0);
    check_ok(kq_checker_note(&c, "kern", "add", "avx2", 0.25, 0, &err));
    check_ok(kq_checker_note(&c, "kern", "max", "avx2", NAN, 1e30, &err));
    assert_int_equal(c.failed, 2);
    assert_string_equal(c.first, "kern/add on avx2 is off by 0.25, at most 0 is allowed");
    json_decref(c.list);
    const float want[] = {1, -4, 2}, got[] = {1, -4.5f, 2}, bad[] = {1, NAN, 2};
    assert_true(kq_check_distance(got, want, 3) == 0.125);
    assert_true(isnan(kq_check_distance(bad, want, 3)));
}

static int stop(void *ctx, const char *stage, double fraction, const char *note)
{
    (void)note;
    assert_non_null(stage);
    assert_true(fraction > 0 && fraction <= 1);
    ++*(int *)ctx;
    return 1;
}

static void test_stops(void **state)
{
    (void)state;
    kq_error err;
    int calls = 0;
    assert_int_equal(kq_selfcheck(&(kq_common){.progress = stop, .ctx = &calls}, NULL, &err),
                     KQ_E_INTERRUPTED);
    assert_int_equal(calls, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_passes), cmocka_unit_test(test_features),
                                       cmocka_unit_test(test_failure), cmocka_unit_test(test_stops)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
