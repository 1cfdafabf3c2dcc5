/* The GGUF writer: what it writes, our own reader reads back; what cannot be a GGUF file is refused, and
 * a file that failed never appears. (scripts/check_exports.py reads the same kind of file with the gguf
 * package.) */
#include "base/file.h"
#include "base/mem.h"
#include "format/gguf_write.h"

#include "format/bytes.h"

static kq_error err;
static const char path[] = "test_gguf_write.gguf";

static kq_gguf_writer *new_writer(void)
{
    kq_gguf_writer *w;
    unlink(path);
    check_ok(kq_gguf_writer_new(path, &w, &err));
    return w;
}

static void round_trip(void **s)
{
    (void)s;
    kq_gguf_writer *w = new_writer();
    const uint8_t u8 = 200;
    const int8_t i8 = -3;
    const uint16_t u16 = 60000;
    const int16_t i16 = -30000;
    const int32_t i32[] = {-1, 2, INT32_MIN};
    const uint64_t u64 = INT64_MAX;
    const int64_t i64 = INT64_MIN;
    const double f64 = 0.1;
    const float f32[] = {0.5f, -1e30f};
    const uint8_t flags[] = {1, 0, 1};
    const char *const words[] = {"", "\xc4\xa0the", "a b", "\xf0\x9f\xa6\x99"};
    check_ok(kq_gguf_writer_str(w, "general.architecture", "llama", &err));
    check_ok(kq_gguf_writer_number(w, "u8", KQ_GGUF_U8, &u8, &err));
    check_ok(kq_gguf_writer_number(w, "i8", KQ_GGUF_I8, &i8, &err));
    check_ok(kq_gguf_writer_number(w, "u16", KQ_GGUF_U16, &u16, &err));
    check_ok(kq_gguf_writer_number(w, "i16", KQ_GGUF_I16, &i16, &err));
    check_ok(kq_gguf_writer_u32(w, "u32", 4000000000u, &err));
    check_ok(kq_gguf_writer_number(w, "u64", KQ_GGUF_U64, &u64, &err));
    check_ok(kq_gguf_writer_number(w, "i64", KQ_GGUF_I64, &i64, &err));
    check_ok(kq_gguf_writer_f32(w, "f32", 0.1f, &err));
    check_ok(kq_gguf_writer_number(w, "f64", KQ_GGUF_F64, &f64, &err));
    check_ok(kq_gguf_writer_bool(w, "yes", true, &err));
    check_ok(kq_gguf_writer_array(w, "ints", KQ_GGUF_I32, i32, 3, &err));
    check_ok(kq_gguf_writer_array(w, "reals", KQ_GGUF_F32, f32, 2, &err));
    check_ok(kq_gguf_writer_array(w, "flags", KQ_GGUF_BOOL, flags, 3, &err));
    check_ok(kq_gguf_writer_array(w, "nothing", KQ_GGUF_U32, NULL, 0, &err));
    check_ok(kq_gguf_writer_strings(w, "words", words, 4, &err));
    assert_true(kq_gguf_writer_has(w, "words") && !kq_gguf_writer_has(w, "word"));

    /* an odd size, a matrix, blocks, and an empty tensor in the middle */
    const float a[] = {1, 2, 3};
    uint8_t q[2 * 34];
    for (size_t i = 0; i < sizeof q; i++)
        q[i] = (uint8_t)(7 * i);
    check_ok(kq_gguf_writer_declare(w, "a.weight", 0, 1, (const uint64_t[]){3}, &err));
    check_ok(kq_gguf_writer_declare(w, "empty", 0, 2, (const uint64_t[]){4, 0}, &err));
    check_ok(kq_gguf_writer_declare(w, "q.weight", 8, 2, (const uint64_t[]){32, 2}, &err));
    check_ok(kq_gguf_writer_declare(w, "z", 1, 4, (const uint64_t[]){1, 1, 1, 1}, &err));
    check_ok(kq_gguf_writer_data(w, a, 4, &err));
    assert_false(kq_path_exists(path));
    check_ok(kq_gguf_writer_data(w, a + 1, 8, &err));
    check_ok(kq_gguf_writer_data(w, q, sizeof q, &err));
    check_ok(kq_gguf_writer_data(w, "\x12\x34", 2, &err));
    check_ok(kq_gguf_writer_finish(w, &err));

    kq_gguf *g;
    check_ok(kq_gguf_open(path, &g, &err));
    int64_t i;
    double d;
    bool flag;
    const char *text;
    size_t n;
    assert_int_equal(kq_gguf_n_kv(g), 16);
    assert_true(kq_gguf_str_is(kq_gguf_find(g, "general.architecture"), 0, "llama"));
    const struct {
        const char *key;
        size_t at;
        int64_t value;
    } wanted[] = {
        {"u8", 0, 200},         {"i8", 0, -3},          {"u16", 0, 60000},     {"i16", 0, -30000},
        {"u32", 0, 4000000000}, {"i64", 0, INT64_MIN},  {"u64", 0, INT64_MAX}, {"ints", 0, -1},
        {"ints", 1, 2},         {"ints", 2, INT32_MIN},
    };
    for (size_t k = 0; k < sizeof wanted / sizeof *wanted; k++)
        if (!kq_gguf_int(kq_gguf_find(g, wanted[k].key), wanted[k].at, &i) || i != wanted[k].value)
            fail_msg("%s[%zu]", wanted[k].key, wanted[k].at);
    assert_true(kq_gguf_f64(kq_gguf_find(g, "f64"), 0, &d) && d == 0.1);
    assert_true(kq_gguf_f64(kq_gguf_find(g, "f32"), 0, &d) && d == (double)0.1f);
    assert_true(kq_gguf_f64(kq_gguf_find(g, "reals"), 1, &d) && d == (double)-1e30f);
    assert_true(kq_gguf_bool(kq_gguf_find(g, "flags"), 2, &flag) && flag &&
                kq_gguf_bool(kq_gguf_find(g, "flags"), 1, &flag) && !flag);
    assert_int_equal(kq_gguf_find(g, "nothing")->n, 0);
    for (size_t k = 0; k < 4; k++)
        assert_true(kq_gguf_str(kq_gguf_find(g, "words"), k, &text, &n) && n == strlen(words[k]) &&
                    !memcmp(text, words[k], n));
    assert_int_equal(kq_gguf_n_tensors(g), 4);
    const kq_gguf_tensor *t = kq_gguf_tensor_at(g, 0);
    assert_string_equal(t->name, "a.weight");
    assert_memory_equal(t->data, a, sizeof a);
    t = kq_gguf_tensor_at(g, 2);
    assert_true(t->type == 8 && t->rank == 2 && t->ne[0] == 32 && t->ne[1] == 2 && t->size_bytes == sizeof q);
    assert_memory_equal(t->data, q, sizeof q);
    assert_memory_equal(kq_gguf_tensor_at(g, 3)->data, "\x12\x34", 2);

    /* every pair copied to another file is the same pair there */
    static const char other[] = "test_gguf_copy.gguf";
    unlink(other);
    check_ok(kq_gguf_writer_new(other, &w, &err));
    for (size_t k = 0; k < kq_gguf_n_kv(g); k++)
        check_ok(kq_gguf_writer_copy(w, kq_gguf_kv_at(g, k), &err));
    check_ok(kq_gguf_writer_finish(w, &err));
    kq_gguf *h;
    check_ok(kq_gguf_open(other, &h, &err));
    assert_int_equal(kq_gguf_n_kv(h), kq_gguf_n_kv(g));
    for (size_t k = 0; k + 1 < kq_gguf_n_kv(g); k++) {
        const kq_gguf_kv *x = kq_gguf_kv_at(g, k), *y = kq_gguf_kv_at(h, k);
        assert_string_equal(x->key, y->key);
        assert_true(x->type == y->type && x->is_array == y->is_array && x->n == y->n);
        /* up to where the next pair starts, the bytes are the same */
        assert_memory_equal(
            x->data, y->data,
            (size_t)((const uint8_t *)kq_gguf_kv_at(g, k + 1)->data - (const uint8_t *)x->data));
    }
    kq_gguf_close(g);
    kq_gguf_close(h);
    unlink(path);
    unlink(other);
}

static void refuses(void **s)
{
    (void)s;
    kq_gguf_writer *w = new_writer();
    char long_name[65] = {0}, *long_key = calloc(70000, 1);
    memset(long_name, 'n', 64);
    memset(long_key, 'k', 65536);
    const uint64_t one[] = {1}, odd[] = {33}, huge[] = {1ull << 40, 1ull << 40}, negative[] = {1ull << 63},
                   large[] = {1ull << 62};
    check_ok(kq_gguf_writer_u32(w, "key", 1, &err));
    check_fails(kq_gguf_writer_u32(w, "key", 1, &err), KQ_E_ARG, "key is written twice");
    check_fails(kq_gguf_writer_u32(w, "", 1, &err), KQ_E_ARG, "0 bytes");
    check_fails(kq_gguf_writer_u32(w, long_key, 1, &err), KQ_E_ARG, "65536 bytes");
    check_fails(kq_gguf_writer_u32(w, "\xff", 1, &err), KQ_E_ARG, "UTF-8");
    check_fails(kq_gguf_writer_u32(w, "general.alignment", 64, &err), KQ_E_ARG, "alignment");
    check_fails(kq_gguf_writer_number(w, "array", KQ_GGUF_ARRAY, one, &err), KQ_E_ARG, "no numbers");
    check_fails(kq_gguf_writer_array(w, "many", KQ_GGUF_U64, one, SIZE_MAX / 4, &err), KQ_E_ARG,
                "no numbers");
    check_fails(kq_gguf_writer_declare(w, long_name, 0, 1, one, &err), KQ_E_ARG, "64 bytes");
    check_fails(kq_gguf_writer_declare(w, "", 0, 1, one, &err), KQ_E_ARG, "0 bytes");
    check_fails(kq_gguf_writer_declare(w, "x", 0, 0, one, &err), KQ_E_ARG, "dimensions");
    check_fails(kq_gguf_writer_declare(w, "x", 0, 5, one, &err), KQ_E_ARG, "dimensions");
    check_fails(kq_gguf_writer_declare(w, "x", 4, 1, one, &err), KQ_E_ARG, "type 4 is not known");
    check_fails(kq_gguf_writer_declare(w, "x", 8, 1, odd, &err), KQ_E_ARG,
                "x: rows of 33 weights are no whole number of Q8_0's blocks of 32");
    check_fails(kq_gguf_writer_declare(w, "x", 0, 2, huge, &err), KQ_E_ARG, "overflows");
    check_fails(kq_gguf_writer_declare(w, "x", 0, 1, negative, &err), KQ_E_ARG, "overflows");
    check_ok(kq_gguf_writer_declare(w, "large", 24, 1, large, &err));
    check_fails(kq_gguf_writer_declare(w, "larger", 24, 1, large, &err), KQ_E_ARG, "file's size overflows");
    check_fails(kq_gguf_writer_declare(w, "large", 0, 1, one, &err), KQ_E_ARG, "written twice");
    check_fails(kq_gguf_writer_finish(w, &err), KQ_E_ARG, "less data than declared");
    assert_false(kq_path_exists(path));
    free(long_key);
}

static void keeps_to_what_was_declared(void **s)
{
    (void)s;
    kq_gguf_writer *w = new_writer();
    const float x[4] = {0};
    check_ok(kq_gguf_writer_declare(w, "x", 0, 1, (const uint64_t[]){2}, &err));
    check_ok(kq_gguf_writer_declare(w, "y", 0, 1, (const uint64_t[]){2}, &err));
    check_ok(kq_gguf_writer_data(w, x, 4, &err));
    check_fails(kq_gguf_writer_u32(w, "late", 1, &err), KQ_E_ARG, "comes after");
    check_fails(kq_gguf_writer_declare(w, "late", 0, 1, (const uint64_t[]){2}, &err), KQ_E_ARG,
                "comes after");
    check_fails(kq_gguf_writer_data(w, x, 12, &err), KQ_E_ARG, "more data than tensor 0 of 2");
    check_fails(kq_gguf_writer_data(w, x, 4, &err), KQ_E_ARG, "earlier write failed");
    check_fails(kq_gguf_writer_finish(w, &err), KQ_E_ARG, "not written");
    assert_false(kq_path_exists(path));

    w = new_writer();
    check_ok(kq_gguf_writer_declare(w, "x", 0, 1, (const uint64_t[]){2}, &err));
    check_ok(kq_gguf_writer_data(w, x, 8, &err));
    check_fails(kq_gguf_writer_data(w, x, 4, &err), KQ_E_ARG, "more data than tensor 1 of 1");
    kq_gguf_writer_abort(w);
    kq_gguf_writer_abort(NULL);
    assert_false(kq_path_exists(path));
    assert_false(kq_path_exists("test_gguf_write.gguf.tmp"));

    w = new_writer(); /* nothing but metadata, nothing at all */
    check_ok(kq_gguf_writer_u32(w, "key", 7, &err));
    check_ok(kq_gguf_writer_finish(w, &err));
    w = new_writer();
    check_ok(kq_gguf_writer_finish(w, &err));
    kq_gguf *g;
    check_ok(kq_gguf_open(path, &g, &err));
    assert_int_equal(kq_gguf_n_kv(g) + kq_gguf_n_tensors(g), 0);
    kq_gguf_close(g);
    unlink(path);
}

/* Out of memory anywhere is an error, and no file. */
static void survives_failing_allocations(void **s)
{
    (void)s;
    static const char *const words[] = {"a", "b"};
    for (size_t n = 1;; n++) {
        kq_gguf_writer *w = NULL;
        unlink(path);
        kq_alloc_fail_after(n);
        kq_status status = kq_gguf_writer_new(path, &w, &err);
        if (!status) {
            (void)((status = kq_gguf_writer_strings(w, "words", words, 2, &err)) ||
                   (status = kq_gguf_writer_declare(w, "x", 0, 1, (const uint64_t[]){2}, &err)) ||
                   (status = kq_gguf_writer_data(w, words, 8, &err)));
            const kq_status last = kq_gguf_writer_finish(w, &err);
            assert_true(!status || last);
            status = last;
        }
        kq_alloc_fail_after(0);
        if (!status)
            break;
        assert_int_equal(status, KQ_E_MEMORY);
        assert_false(kq_path_exists(path));
        assert_true(n < 100);
    }
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(refuses),
        cmocka_unit_test(keeps_to_what_was_declared),
        cmocka_unit_test(survives_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
