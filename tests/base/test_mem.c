/* Checked sizes, aligned blocks, allocations that fail on purpose, the peak, texts of any length, the clock.
 */
#include "check.h"
#include <sys/mman.h>
#include "base/mem.h"
#include "base/text.h"
#include "base/time.h"
#include "temp_folder.h"

static void test_sizes(void **state)
{
    (void)state;
    size_t r = 42;
    assert_true(kq_mul_size(6, 7, &r) && r == 42);
    assert_true(kq_mul_size(SIZE_MAX, 1, &r) && r == SIZE_MAX);
    assert_true(kq_mul_size(SIZE_MAX, 0, &r) && r == 0);
    r = 42;
    assert_false(kq_mul_size(SIZE_MAX / 2 + 1, 2, &r));
    assert_false(kq_mul_size((size_t)1 << 32, (size_t)1 << 32, &r));
    assert_false(kq_add_size(SIZE_MAX, 1, &r));
    assert_int_equal(r, 42);
    assert_true(kq_add_size(SIZE_MAX - 1, 1, &r) && r == SIZE_MAX);
}

static void test_alloc(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 63, 64, 65, 4097};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *a = kq_alloc(sizes[i], 1), *b = kq_calloc(sizes[i], 1);
        assert_non_null(a);
        assert_non_null(b);
        assert_int_equal((uintptr_t)a % 64, 0);
        assert_int_equal((uintptr_t)b % 64, 0);
        memset(a, 1, sizes[i]);
        for (size_t j = 0; j < sizes[i]; j++)
            assert_int_equal(b[j], 0);
        kq_free(a);
        kq_free(b);
    }
    kq_free(NULL);
    assert_null(kq_alloc(SIZE_MAX, 2));
    assert_null(kq_alloc(SIZE_MAX - 10, 1)); /* overflows only when rounded up to 64 */
    assert_null(kq_calloc(SIZE_MAX / 8, 16));
    kq_error err = {0};
    void *block = &err;
    check_fails(kq_alloc_for(&block, SIZE_MAX / 4, 8, "a layer", &err), KQ_E_MEMORY, "a layer");
    assert_null(block);
    check_ok(kq_alloc_for(&block, 3, 8, "a layer", &err));
    kq_free(block);

    /* injected failures: the third allocation from now, once */
    kq_alloc_fail_after(3);
    void *a = kq_alloc(1, 1), *b = kq_calloc(1, 1), *c = kq_alloc(1, 1), *d = kq_alloc(1, 1);
    assert_non_null(a);
    assert_non_null(b);
    assert_null(c);
    assert_non_null(d);
    kq_alloc_fail_after(1);
    check_fails(kq_alloc_for(&block, 1, 1, "a thing", &err), KQ_E_MEMORY, "a thing");
    kq_alloc_fail_after(1);
    kq_alloc_fail_after(0);
    void *e = kq_alloc(1, 1);
    assert_non_null(e);
    kq_free(a);
    kq_free(b);
    kq_free(d);
    kq_free(e);
}

static void test_peak(void **state)
{
    (void)state;
    size_t before = kq_peak_rss_bytes(), size = (size_t)64 << 20;
    assert_true(before > 100000);
    volatile char *block = kq_alloc(size, 1);
    assert_non_null(block);
    for (size_t i = 0; i < size; i += 4096)
        block[i] = 1;
    size_t during = kq_peak_rss_bytes();
    kq_free((void *)block);
    size_t after = kq_peak_rss_bytes();
    if (during < before + size / 2 ||
        after < before + size / 2) /* the system counts pages in batches: not exact to the byte */
        fail_msg("peak %zu, with 64 MB more %zu, freed %zu", before, during, after);

    /* Started anew it forgets what was given back: to the system, since an allocator may keep it (ASan's
     * does). */
    volatile char *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(pages != MAP_FAILED);
    for (size_t i = 0; i < size; i += 4096)
        pages[i] = 1;
    during = kq_peak_rss_bytes();
    munmap((void *)pages, size);
    if (kq_peak_rss_reset())
        assert_true(kq_peak_rss_bytes() < during - size / 2);
    else
        print_message("the system does not let the peak be reset\n");
}

static void test_time(void **state)
{
    (void)state;
    char text[32];
    assert_string_equal(kq_duration(599.4, text), "599 s");
    assert_string_equal(kq_duration(600, text), "10 min");
    assert_string_equal(kq_duration(7199, text), "120 min");
    assert_string_equal(kq_duration(9000, text), "2.5 h");
    double t0 = kq_now_s();
    usleep(20000);
    double t1 = kq_now_s();
    assert_true(t1 - t0 >= 0.0199 && t1 - t0 < 30);
}

static void test_format(void **state)
{
    (void)state;
    kq_error err;
    char *text, *twice;
    assert_int_equal(kq_format(&text, &err, "%s/%s-%05d", "dir", "block", 12), KQ_OK);
    assert_string_equal(text, "dir/block-00012");
    assert_int_equal(kq_format(&twice, &err, "%s%5000s", text, "x"), KQ_OK);
    assert_int_equal(strlen(twice), 5015);
    kq_free(text);
    kq_free(twice);
    kq_alloc_fail_after(1);
    assert_int_equal(kq_format(&text, &err, "%d", 1), KQ_E_MEMORY);
    assert_null(text);
    kq_alloc_fail_after(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes), cmocka_unit_test(test_alloc),  cmocka_unit_test(test_peak),
        cmocka_unit_test(test_time),  cmocka_unit_test(test_format),
    };
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
