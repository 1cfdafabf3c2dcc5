/* Strings and paths that are made to measure. */
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"

#include "check.h"

static kq_error err;

static void is(kq_status status, char **text, const char *expected)
{
    assert_int_equal(status, KQ_OK);
    assert_string_equal(*text, expected);
    kq_free(*text);
}

static void paths(void **state)
{
    (void)state;
    char *p;
    is(kq_path_in(&p, &err, "a", "b"), &p, "a/b");
    is(kq_path_in(&p, &err, "a/", "b-%03d", 7), &p, "a/b-007");
    is(kq_path_in(&p, &err, "/", "%s.json", "b"), &p, "/b.json");
    is(kq_path_in(&p, &err, ".", "%s", "b"), &p, "./b");
    is(kq_path_dir("a", &p, &err), &p, ".");
    is(kq_path_dir("/a", &p, &err), &p, "/");
    is(kq_path_dir("a/b/c", &p, &err), &p, "a/b");
    is(kq_path_dir("a/b/", &p, &err), &p, "a/b");
}

/* Longer than any buffer that was ever on a stack here. */
static void long_text(void **state)
{
    (void)state;
    enum { LONG = 100000 };
    char *dir = kq_alloc(LONG + 1, 1), *p;
    memset(dir, 'd', LONG);
    dir[LONG] = 0;
    check_ok(kq_path_in(&p, &err, dir, "%zu", (size_t)42));
    assert_int_equal(strlen(p), LONG + 3);
    assert_string_equal(p + LONG, "/42");
    kq_free(p);
    kq_free(dir);
}

static void without_memory(void **state)
{
    (void)state;
    char *p;
    for (size_t n = 1; n <= 2; n++) {
        kq_alloc_fail_after(n);
        assert_int_equal(kq_path_in(&p, &err, "a", "b"), KQ_E_MEMORY);
        kq_alloc_fail_after(0);
        assert_null(p);
    }
    kq_alloc_fail_after(1);
    assert_int_equal(kq_format(&p, NULL, "%d", 3), KQ_E_MEMORY);
    kq_alloc_fail_after(0);
    assert_null(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(paths), cmocka_unit_test(long_text),
                                       cmocka_unit_test(without_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
