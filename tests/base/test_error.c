/* Errors and warnings: one line each, whatever the file put into it; the error of a parallel loop. */
#include "check.h"
#include "base/first_error.h"
#include "base/warn.h"
#include "temp_folder.h"

static void test_fail(void **state)
{
    (void)state;
    kq_error err = {0};
    assert_int_equal(kq_fail(&err, KQ_E_SHAPE, "%s: %d rows", "a.bin", 7), KQ_E_SHAPE);
    assert_int_equal(err.status, KQ_E_SHAPE);
    assert_string_equal(err.message, "a.bin: 7 rows");
    assert_int_equal(kq_fail(NULL, KQ_E_IO, "%s", "x"), KQ_E_IO);

    /* what a file may have put into a name: line feeds, an escape sequence, delete; letters of other
     * scripts stay */
    kq_fail(&err, KQ_E_FORMAT, "name \"%s\"", "a\nb\r\t\x1b[31mc\x7f\x01 \xc3\xa9");
    assert_string_equal(err.message, "name \"a?b???[31mc?? \xc3\xa9\"");

    /* longer than the message holds: cut, terminated, nothing written past it */
    struct {
        kq_error err;
        char guard[16];
    } room;
    memset(&room, 0x5a, sizeof room);
    char *text = malloc(5001);
    assert_non_null(text);
    memset(text, 'x', 5000);
    text[5000] = 0;
    kq_fail(&room.err, KQ_E_IO, "%s", text);
    free(text);
    assert_int_equal(strlen(room.err.message), sizeof room.err.message - 1);
    for (size_t i = 0; i < sizeof room.guard; i++)
        assert_int_equal(room.guard[i], 0x5a);
}

static void keep_warning(void *ctx, const char *message)
{
    snprintf(ctx, 1024, "%s", message);
}

static void test_warn(void **state)
{
    (void)state;
    char got[1024] = "";
    kq_warn("nobody listens");
    kq_set_warning_handler(keep_warning, got);
    kq_warn("%s: %d\n\x1b[1m", "a.bin", 7);
    assert_string_equal(got, "a.bin: 7??[1m");
    kq_set_warning_handler(NULL, NULL);
    kq_warn("nobody listens again");
    assert_string_equal(got, "a.bin: 7??[1m");
}

/* Four items fail, the lowest of them last; all below it run whatever is known by then. */
static void test_first_error(void **state)
{
    (void)state;
    enum { N = 24 };
    static const size_t bad[] = {21, 13, 8, 3};
    for (int threads = 1; threads <= 8; threads *= 2) {
        kq_first_error f = KQ_FIRST_ERROR;
        kq_error err;
        int ran[N] = {0};
#pragma omp parallel for schedule(static, 1) num_threads(threads)
        for (size_t i = 0; i < N; i++) {
            kq_error e;
            if (kq_first_error_skip(&f, i))
                continue;
            ran[i] = 1;
            for (size_t k = 0; k < 4; k++)
                if (i == bad[k]) {
                    usleep((useconds_t)(5000 * k));
                    kq_first_error_note(&f, i, kq_fail(&e, k % 2 ? KQ_E_IO : KQ_E_NUMERIC, "item %zu", i),
                                        &e);
                }
            kq_first_error_note(&f, i, KQ_OK, NULL);
        }
        assert_int_equal(kq_first_error_get(&f, &err), KQ_E_IO);
        assert_int_equal(err.status, KQ_E_IO);
        assert_string_equal(err.message, "item 3");
        assert_int_equal(kq_first_error_get(&f, NULL), KQ_E_IO);
        for (size_t i = 0; i <= 3; i++)
            assert_true(ran[i]);
    }
    const kq_first_error none = KQ_FIRST_ERROR;
    assert_true(!kq_first_error_skip(&none, SIZE_MAX - 1));
    assert_int_equal(kq_first_error_get(&none, NULL), KQ_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fail),
        cmocka_unit_test(test_warn),
        cmocka_unit_test(test_first_error),
    };
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
