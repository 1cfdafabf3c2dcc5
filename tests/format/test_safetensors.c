/* The safetensors reader on malformed files (one test a case, numbered as in the list of malformed
 * inputs), and the writer. What is valid and what is not follows the reference implementation's rules,
 * not this reader. */
#include <sys/resource.h>
#include <signal.h>

#include "base/file.h"
#include "format/safetensors_write.h"

#include "format/bytes.h"

static kq_error err;

/* Open exactly sized bytes; the file is closed again. */
static kq_status open_bytes(const bytes *b)
{
    uint8_t *copy = exact(b, b->n);
    kq_st_file *f;
    err.message[0] = 0;
    kq_status status = kq_st_open_memory(copy, b->n, "x.safetensors", &f, &err);
    if (!status)
        kq_st_close(f);
    free(copy);
    return status;
}

static kq_status open_header(const char *header, size_t n_data)
{
    bytes b = {0};
    st_file(&b, header, NULL, n_data);
    kq_status status = open_bytes(&b);
    free(b.p);
    return status;
}

#define ENTRY(name, dtype, shape, begin, end) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"
#define bad(header, n, words) check_fails(open_header(header, n), KQ_E_FORMAT, words)

static void raw(const void *data, size_t n, const char *words)
{
    bytes b = {0};
    put(&b, data, n);
    check_fails(open_bytes(&b), KQ_E_FORMAT, words);
    free(b.p);
}

static void case_01_empty(void **s)
{
    (void)s;
    raw("", 0, "0 bytes");
}
static void case_02_short(void **s)
{
    (void)s;
    raw("\2\0\0\0\0\0\0", 7, "7 bytes");
}
static void case_03_header_0(void **s)
{
    (void)s;
    raw("\0\0\0\0\0\0\0\0{}", 10, "'{'");
}
static void case_04_header_past_file(void **s)
{
    (void)s;
    raw("\3\0\0\0\0\0\0\0{}", 10, "does not fit");
}

static void case_05_header_huge(void **s)
{
    (void)s;
    raw("\377\377\377\377\377\377\377\377{}", 10, "at most");
    raw("\1\341\365\5\0\0\0\0{}", 10, "at most"); /* 100,000,001 */
}

static void case_06_not_utf8(void **s)
{
    (void)s;
    bad("{\"\xff\":1}", 0, "header is broken");
}

static void case_07_truncated_json(void **s)
{
    (void)s;
    bad("{", 0, "'{'");
    bad("{\"a\"", 0, "broken");
    bad("{\"a\":", 0, "broken");
}

static void case_08_leading_space(void **s)
{
    (void)s;
    bad(" {}", 0, "'{'");
}

static void case_09_trailing_space_is_valid(void **s)
{
    (void)s;
    check_ok(open_header("{" ENTRY("a", "F32", "[2]", "0", "8") "} \t\n  ", 8));
}

static void case_10_nesting(void **s)
{
    (void)s;
    bytes b = {0};
    size_t depth = 100000;
    put64(&b, 5 + depth);
    put_text(&b, "{\"a\":");
    for (size_t i = 0; i < depth; i++)
        put_text(&b, "[");
    check_fails(open_bytes(&b), KQ_E_FORMAT, "depth");
    free(b.p);
}

static void case_11_duplicate(void **s)
{
    (void)s;
    bad("{" ENTRY("a", "U8", "[1]", "0", "1") "," ENTRY("a", "U8", "[1]", "1", "2") "}", 2, "duplicate");
}

static void case_12_duplicate_escaped(void **s)
{
    (void)s;
    bad("{" ENTRY("a", "U8", "[1]", "0", "1") "," ENTRY("\\u0061", "U8", "[1]", "1", "2") "}", 2,
        "duplicate");
}

static void case_13_metadata(void **s)
{
    (void)s;
    bad("{\"__metadata__\":{\"a\":1}}", 0, "__metadata__");
    bad("{\"__metadata__\":[]}", 0, "__metadata__");
    bad("{" ENTRY("__metadata__", "U8", "[1]", "0", "1") "}", 1, "__metadata__");
    check_ok(open_header("{\"__metadata__\":{\"a\":\"b\"}}", 0));
}

static void case_14_begin_after_end(void **s)
{
    (void)s;
    bad("{" ENTRY("a", "U8", "[1]", "1", "0") "}", 1, "data_offsets");
}
static void case_15_end_past_file(void **s)
{
    (void)s;
    bad("{" ENTRY("a", "U8", "[2]", "0", "2") "}", 1, "complete");
}

static void case_16_overlap(void **s)
{
    (void)s;
    bytes b = {0};
    put_text(&b, "{");
    for (int i = 0; i < 10; i++) {
        char text[128];
        snprintf(text, sizeof text, "%s\"t%d\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}",
                 i ? "," : "", i);
        put_text(&b, text);
    }
    put(&b, "}", 2);
    bad((const char *)b.p, 16, "overlap");
    free(b.p);
    bad("{" ENTRY("a", "U8", "[2]", "0", "2") "," ENTRY("b", "U8", "[2]", "1", "3") "}", 3, "overlap");
}

static void case_17_hole(void **s)
{
    (void)s;
    bad("{" ENTRY("a", "U8", "[1]", "0", "1") "," ENTRY("b", "U8", "[1]", "2", "3") "}", 3, "hole");
    bad("{" ENTRY("a", "U8", "[1]", "1", "2") "}", 2, "hole");
}

static void case_18_trailing_bytes(void **s)
{
    (void)s;
    bad("{" ENTRY("a", "U8", "[1]", "0", "1") "}", 2, "belong to none");
}
static void case_19_two_bytes_missing(void **s)
{
    (void)s;
    bad("{" ENTRY("a", "F32", "[2]", "0", "8") "}", 6, "data_offsets");
}
static void case_20_size_mismatch(void **s)
{
    (void)s;
    bad("{" ENTRY("a", "F32", "[2]", "0", "4") "}", 4, "need 8");
}

static void case_21_overflow(void **s)
{
    (void)s;
    bad("{" ENTRY("a", "U8", "[2,18446744073709551614]", "0", "1") "}", 1, "big");
    bad("{" ENTRY("a", "U8", "[2,9223372036854775807]", "0", "1") "}", 1, "overflow");
    bad("{" ENTRY("a", "U8", "[4,9223372036854775807]", "0", "1") "}", 1, "overflow");
    bad("{" ENTRY("a", "F32", "[4611686018427387904]", "0", "0") "}", 0, "overflow");
}

static void case_22_unknown_dtype(void **s)
{
    (void)s;
    bad("{" ENTRY("a", "F33", "[1]", "0", "4") "}", 4, "F33");
}

static void case_23_odd_numbers(void **s)
{
    (void)s;
    bad("{" ENTRY("a", "U8", "[-1]", "0", "1") "}", 1, "shape[0]");
    bad("{" ENTRY("a", "U8", "[1.0]", "0", "1") "}", 1, "shape[0]");
    bad("{" ENTRY("a", "U8", "[1e3]", "0", "1") "}", 1, "shape[0]");
    bad("{" ENTRY("a", "U8", "[1e400]", "0", "1") "}", 1, "overflow");
    bad("{" ENTRY("a", "U8", "[1]", "-1", "0") "}", 1, "data_offsets");
    bad("{" ENTRY("a", "U8", "[1]", "0", "1.0") "}", 1, "data_offsets");
}

static void case_24_offsets_count(void **s)
{
    (void)s;
    bad("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, "data_offsets");
    bad("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1, "data_offsets");
    bad("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "data_offsets");
}

static void case_25_shape_not_a_list(void **s)
{
    (void)s;
    bad("{" ENTRY("a", "U8", "1", "0", "1") "}", 1, "shape");
    bad("{" ENTRY("a", "U8", "{}", "0", "1") "}", 1, "shape");
    bad("{\"a\":3}", 0, "key \"a\": found 3, an object is expected");
}

static void case_26_scalar_and_empty_are_valid(void **s)
{
    (void)s;
    check_ok(open_header("{" ENTRY("e", "F32", "[0,5]", "4", "4") "," ENTRY(
                             "s", "F32", "[]", "0", "4") "," ENTRY("z", "U8", "[0]", "0", "0") "}",
                         4));
    check_ok(open_header("{}", 0));
}

static void case_27_small_types(void **s)
{
    (void)s;
    check_ok(open_header("{" ENTRY("a", "F4", "[6]", "0", "3") "}", 3));
    check_ok(open_header("{" ENTRY("a", "F6_E2M3", "[4]", "0", "3") "}", 3));
    check_ok(open_header("{" ENTRY("a", "F8_E4M3", "[3]", "0", "3") "}", 3));
    bad("{" ENTRY("a", "F4", "[3]", "0", "2") "}", 2, "not whole");
    bad("{" ENTRY("a", "F8_E5M2", "[3]", "0", "2") "}", 2, "need 3");
}

static void case_28_names(void **s)
{
    (void)s;
    bad("{" ENTRY("a\\u0000b", "U8", "[1]", "0", "1") "}", 1, "broken");
    /* a name is never a path */
    check_ok(open_header("{" ENTRY("../../etc/passwd", "U8", "[1]", "0", "1") "}", 1));
    bytes b = {0};
    put_text(&b, "{\"");
    for (int i = 0; i < 65536; i++)
        put_text(&b, "x");
    put_text(&b, "\":{\"dtype\":\"U9\",\"shape\":[1],\"data_offsets\":[0,1]}}");
    put(&b, "", 1);
    bad((const char *)b.p, 1, "U9");
    free(b.p);
}

/* Every prefix of a valid file, and every single byte changed, gives an answer; a prefix is never
 * accepted. */
static void cut_and_changed_at_every_byte(void **s)
{
    (void)s;
    bytes b = {0};
    st_file(&b,
            "{\"__metadata__\":{\"k\":\"v\"}," ENTRY("a", "F32", "[2,1]", "0",
                                                     "8") "," ENTRY("b", "BF16", "[3]", "8", "14") "}",
            NULL, 14);
    check_ok(open_bytes(&b));
    for (size_t n = 0; n < b.n; n++) {
        bytes cut = {.p = b.p, .n = n};
        assert_int_equal(open_bytes(&cut), KQ_E_FORMAT);
    }
    for (size_t i = 0; i < b.n; i++)
        for (int bit = 0; bit < 8; bit++) {
            b.p[i] ^= (uint8_t)(1 << bit);
            (void)open_bytes(&b);
            b.p[i] ^= (uint8_t)(1 << bit);
        }
    free(b.p);
}

static void write_and_read(void **s)
{
    (void)s;
    kq_st_writer *w;
    kq_st_file *f;
    const size_t a[2] = {2, 3}, b[1] = {5}, none[2] = {0, 4};
    const float x[6] = {1, 2, 3, 4, 5, 6};
    const int8_t y[5] = {1, -1, 1, -1, 1};
    check_ok(kq_st_writer_new("w.safetensors", &w, &err));
    check_ok(kq_st_writer_meta(w, "key", "va\"lue\n", &err));
    check_ok(kq_st_writer_declare(w, "z \xc3\xa9", KQ_T_F32, 2, a, &err));
    check_ok(kq_st_writer_declare(w, "empty", KQ_T_BF16, 2, none, &err));
    check_ok(kq_st_writer_declare(w, "b", KQ_T_I8, 1, b, &err));
    check_ok(kq_st_writer_declare(w, "s", KQ_T_F32, 0, NULL, &err));
    check_fails(kq_st_writer_declare(w, "b", KQ_T_I8, 1, b, &err), KQ_E_ARG, "twice");
    check_fails(kq_st_writer_declare(w, "q", KQ_T_Q4_0, 1, b, &err), KQ_E_ARG, "Q4_0");
    check_fails(kq_st_writer_declare(w, "__metadata__", KQ_T_I8, 1, b, &err), KQ_E_ARG, "reserved");
    check_ok(kq_st_writer_data(w, x, 4, &err));
    check_ok(kq_st_writer_data(w, x + 1, 20, &err));
    check_ok(kq_st_writer_data(w, y, 5, &err));
    check_ok(kq_st_writer_data(w, x, 4, &err));
    assert_false(kq_path_exists("w.safetensors"));
    check_ok(kq_st_writer_finish(w, &err));
    check_ok(kq_st_open("w.safetensors", &f, &err));
    assert_int_equal(kq_st_n_tensors(f), 4);
    const kq_tensor *t = kq_st_find(f, "z \xc3\xa9");
    assert_non_null(t);
    assert_true(t == kq_st_tensor(f, 0) && t->rank == 2 && t->shape[1] == 3 && t->dtype == KQ_T_F32 &&
                (uintptr_t)t->data % 8 == 0);
    assert_memory_equal(t->data, x, sizeof x);
    assert_memory_equal(kq_st_find(f, "b")->data, y, sizeof y);
    assert_int_equal(kq_st_find(f, "s")->rank, 0);
    assert_int_equal(kq_st_find(f, "empty")->n_elem, 0);
    assert_null(kq_st_find(f, "c"));
    assert_string_equal(kq_st_meta(f, "key"), "va\"lue\n");
    assert_null(kq_st_meta(f, "other"));
    kq_st_close(f);
    unlink("w.safetensors");
}

static void wrong_amount_leaves_no_file(void **s)
{
    (void)s;
    const size_t a[1] = {2};
    const float x[3] = {1, 2, 3};
    for (int more = 0; more < 2; more++) {
        kq_st_writer *w;
        check_ok(kq_st_writer_new("w.safetensors", &w, &err));
        check_ok(kq_st_writer_declare(w, "a", KQ_T_F32, 1, a, &err));
        if (more)
            check_fails(kq_st_writer_data(w, x, 12, &err), KQ_E_ARG, "more data");
        else
            check_ok(kq_st_writer_data(w, x, 4, &err));
        assert_int_equal(kq_st_writer_finish(w, &err), KQ_E_ARG);
        assert_false(kq_path_exists("w.safetensors") || kq_path_exists("w.safetensors.tmp"));
    }
}

static void case_68_disk_full(void **s)
{
    (void)s;
    kq_st_writer *w;
    const size_t a[1] = {1 << 20};
    struct rlimit old, low;
    uint8_t *data = calloc(1 << 20, 4);
    assert_non_null(data);
    check_ok(kq_st_writer_new("w.safetensors", &w, &err));
    check_ok(kq_st_writer_declare(w, "a", KQ_T_F32, 1, a, &err));
    getrlimit(RLIMIT_FSIZE, &old);
    low = old;
    low.rlim_cur = 1 << 20;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &low);
    kq_status data_status = kq_st_writer_data(w, data, 4 << 20, &err), finish = kq_st_writer_finish(w, &err);
    setrlimit(RLIMIT_FSIZE, &old);
    free(data);
    assert_int_equal(data_status, KQ_E_IO);
    assert_int_equal(finish, KQ_E_IO);
    assert_false(kq_path_exists("w.safetensors") || kq_path_exists("w.safetensors.tmp"));
}

#define T(name) cmocka_unit_test(name)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(case_01_empty),
        T(case_02_short),
        T(case_03_header_0),
        T(case_04_header_past_file),
        T(case_05_header_huge),
        T(case_06_not_utf8),
        T(case_07_truncated_json),
        T(case_08_leading_space),
        T(case_09_trailing_space_is_valid),
        T(case_10_nesting),
        T(case_11_duplicate),
        T(case_12_duplicate_escaped),
        T(case_13_metadata),
        T(case_14_begin_after_end),
        T(case_15_end_past_file),
        T(case_16_overlap),
        T(case_17_hole),
        T(case_18_trailing_bytes),
        T(case_19_two_bytes_missing),
        T(case_20_size_mismatch),
        T(case_21_overflow),
        T(case_22_unknown_dtype),
        T(case_23_odd_numbers),
        T(case_24_offsets_count),
        T(case_25_shape_not_a_list),
        T(case_26_scalar_and_empty_are_valid),
        T(case_27_small_types),
        T(case_28_names),
        T(cut_and_changed_at_every_byte),
        T(write_and_read),
        T(wrong_amount_leaves_no_file),
        T(case_68_disk_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
