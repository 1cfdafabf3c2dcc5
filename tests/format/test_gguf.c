/* The GGUF reader on malformed files (one test a case, numbered as in the list of malformed inputs) and
 * its typed access. What is valid follows llama.cpp's gguf.cpp. */
#include "format/gguf.h"

#include "format/bytes.h"

static kq_error err;
static const uint64_t four[4] = {4, 1, 1, 1};

static kq_status open_bytes(const bytes *b)
{
    uint8_t *copy = exact(b, b->n);
    kq_gguf *g;
    err.message[0] = 0;
    kq_status status = kq_gguf_open_memory(copy, b->n, "x.gguf", &g, &err);
    if (!status)
        kq_gguf_close(g);
    free(copy);
    return status;
}

static void expect(bytes *b, kq_status status, const char *words)
{
    check_fails(open_bytes(b), status, words);
    free(b->p);
    *b = (bytes){0};
}

static void expect_ok(bytes *b)
{
    check_ok(open_bytes(b));
    free(b->p);
    *b = (bytes){0};
}

static void valid(bytes *b)
{
    gguf_header(b, 2, 4);
    kv_str(b, "general.architecture", "llama");
    kv_u32(b, "general.alignment", 16);
    put_string(b, "list");
    put32(b, 9);
    put32(b, 8);
    put64(b, 3);
    put_string(b, "a");
    put_string(b, "");
    put_string(b, "xyz");
    /* i16: -2, 1 */
    put_string(b, "ints");
    put32(b, 9);
    put32(b, 3);
    put64(b, 2);
    put(b, "\376\377\1\0", 4);
    gguf_info(b, "a", 1, four, 0, 0);
    gguf_info(b, "b", 1, (const uint64_t[]){3}, 0, 16);
    pad_to(b, 16);
    put(b, NULL, 16 + 12);
}

static void typed_access(void **s)
{
    (void)s;
    bytes b = {0};
    kq_gguf *g;
    valid(&b);
    check_ok(kq_gguf_open_memory(b.p, b.n, "x.gguf", &g, &err));
    const char *text;
    size_t n;
    int64_t i;
    double d;
    bool flag;
    assert_true(kq_gguf_str(kq_gguf_find(g, "list"), 2, &text, &n) && n == 3 && !memcmp(text, "xyz", 3));
    assert_true(kq_gguf_str(kq_gguf_find(g, "list"), 1, &text, &n) && n == 0);
    assert_false(kq_gguf_str(kq_gguf_find(g, "list"), 3, &text, &n));
    assert_false(kq_gguf_str(kq_gguf_find(g, "ints"), 0, &text, &n));
    assert_true(kq_gguf_int(kq_gguf_find(g, "ints"), 0, &i) && i == -2);
    assert_true(kq_gguf_f64(kq_gguf_find(g, "ints"), 1, &d) && d == 1);
    assert_false(kq_gguf_int(kq_gguf_find(g, "ints"), 2, &i));
    assert_false(kq_gguf_bool(kq_gguf_find(g, "ints"), 0, &flag));
    assert_false(kq_gguf_int(kq_gguf_find(g, "absent"), 0, &i));
    assert_true(kq_gguf_str_is(kq_gguf_find(g, "general.architecture"), 0, "llama"));
    assert_int_equal(kq_gguf_n_tensors(g), 2);
    assert_int_equal(kq_gguf_tensor_at(g, 1)->data - kq_gguf_tensor_at(g, 0)->data, 16);
    assert_int_equal(kq_gguf_tensor_at(g, 1)->size_bytes, 12);
    kq_gguf_close(g);
    free(b.p);
}

static void case_38_bad_magic(void **s)
{
    (void)s;
    bytes b = {0};
    put(&b, "GGML\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24);
    expect(&b, KQ_E_FORMAT, "no GGUF");
    expect(&b, KQ_E_FORMAT, "no GGUF"); /* empty */
}

static void case_39_versions(void **s)
{
    (void)s;
    static const uint32_t versions[] = {0, 1, 4, 0x03000000};
    for (size_t i = 0; i < 4; i++) {
        bytes b = {0};
        gguf_header(&b, 0, 0);
        memcpy(b.p + 4, &versions[i], 4);
        expect(&b, KQ_E_UNSUPPORTED, i < 3 ? "version" : "big-endian");
    }
    bytes b = {0};
    gguf_header(&b, 0, 0);
    b.p[4] = 2;
    expect_ok(&b);
}

static void case_40_counts(void **s)
{
    (void)s;
    static const uint64_t counts[] = {UINT64_MAX, (uint64_t)1 << 63, 1, 1000000};
    bytes b = {0};
    for (size_t i = 0; i < 4; i++) {
        gguf_header(&b, counts[i], 0);
        expect(&b, KQ_E_FORMAT, "do not fit");
        gguf_header(&b, 0, counts[i]);
        expect(&b, KQ_E_FORMAT, "do not fit");
    }
}

static void case_41_key_length(void **s)
{
    (void)s;
    bytes b = {0};
    gguf_header(&b, 0, 1);
    put64(&b, UINT64_MAX);
    put(&b, NULL, 32);
    expect(&b, KQ_E_FORMAT, "longer than the file");
}

static void case_42_empty_key(void **s)
{
    (void)s;
    bytes b = {0};
    gguf_header(&b, 0, 1);
    kv_u32(&b, "", 1);
    expect(&b, KQ_E_FORMAT, "empty");
    gguf_header(&b, 0, 1);
    put64(&b, 3);
    put(&b, "a\0b", 3);
    put32(&b, 4);
    put32(&b, 1);
    expect(&b, KQ_E_FORMAT, "zero byte");
}

static void case_43_duplicate_key(void **s)
{
    (void)s;
    bytes b = {0};
    gguf_header(&b, 0, 3);
    kv_u32(&b, "k", 1);
    kv_u32(&b, "other", 1);
    kv_u32(&b, "k", 2);
    expect(&b, KQ_E_FORMAT, "k appears twice");
}

static void case_44_duplicate_tensor(void **s)
{
    (void)s;
    bytes b = {0};
    gguf_header(&b, 2, 0);
    gguf_info(&b, "t", 1, four, 0, 0);
    gguf_info(&b, "t", 1, four, 0, 32);
    pad_to(&b, 32);
    put(&b, NULL, 64);
    expect(&b, KQ_E_FORMAT, "t appears twice");
}

static void case_45_value_types(void **s)
{
    (void)s;
    static const uint32_t types[] = {13, 100, UINT32_MAX};
    bytes b = {0};
    for (size_t i = 0; i < 3; i++) {
        gguf_header(&b, 0, 1);
        put_string(&b, "k");
        put32(&b, types[i]);
        put64(&b, 0);
        expect(&b, KQ_E_FORMAT, "value type");
        gguf_header(&b, 0, 1);
        put_string(&b, "k");
        put32(&b, 9);
        put32(&b, types[i]);
        put64(&b, 0);
        expect(&b, KQ_E_FORMAT, "value type");
    }
}

static void case_46_array_of_arrays(void **s)
{
    (void)s;
    bytes b = {0};
    gguf_header(&b, 0, 1);
    put_string(&b, "k");
    for (int i = 0; i < 1000; i++) {
        put32(&b, 9);
        if (i)
            put64(&b, 1);
    }
    expect(&b, KQ_E_FORMAT, "arrays of arrays");
}

static void case_47_array_count(void **s)
{
    (void)s;
    bytes b = {0};
    for (uint32_t type = 0; type < 13; type++) {
        if (type == 9)
            continue;
        gguf_header(&b, 0, 1);
        put_string(&b, "k");
        put32(&b, 9);
        put32(&b, type);
        put64(&b, (uint64_t)1 << 63);
        expect(&b, KQ_E_FORMAT, "do not fit");
    }
}

static void case_48_string_length(void **s)
{
    (void)s;
    bytes b = {0};
    gguf_header(&b, 0, 1);
    put_string(&b, "k");
    put32(&b, 8);
    put64(&b, 100);
    put_text(&b, "short");
    expect(&b, KQ_E_FORMAT, "longer than the file");
    gguf_header(&b, 0, 1);
    put_string(&b, "k");
    put32(&b, 9);
    put32(&b, 8);
    put64(&b, 2);
    put_string(&b, "a");
    put64(&b, UINT64_MAX - 3);
    expect(&b, KQ_E_FORMAT, "longer than the file");
}

static void case_49_small_file_big_request(void **s)
{
    (void)s;
    bytes b = {0};
    gguf_header(&b, 0, 1);
    put_string(&b, "k");
    put32(&b, 9);
    put32(&b, 0);
    put64(&b, (uint64_t)1 << 30);
    put(&b, NULL, 160 - b.n);
    expect(&b, KQ_E_FORMAT, "do not fit");
    gguf_header(&b, 1, 0);
    gguf_info(&b, "t", 1, (const uint64_t[]){(uint64_t)1 << 28}, 0, 0);
    put(&b, NULL, 160 - b.n);
    expect(&b, KQ_E_FORMAT, "passes the end");
}

static void case_50_alignment(void **s)
{
    (void)s;
    static const uint32_t bad[] = {0, 13, UINT32_MAX};
    bytes b = {0};
    for (size_t i = 0; i < 3; i++) {
        gguf_header(&b, 0, 1);
        kv_u32(&b, "general.alignment", bad[i]);
        expect(&b, KQ_E_FORMAT, "power of two");
    }
    gguf_header(&b, 0, 1);
    put_string(&b, "general.alignment");
    put32(&b, 5);
    put32(&b, 32);
    expect(&b, KQ_E_FORMAT, "32-bit unsigned");
    for (uint32_t big = 30; big < 32; big++) {
        gguf_header(&b, 1, 1);
        kv_u32(&b, "general.alignment", 1u << big);
        gguf_info(&b, "t", 1, four, 0, 0);
        put(&b, NULL, 64);
        expect(&b, KQ_E_FORMAT, "passes the end");
    }
}

static void case_51_dimensions(void **s)
{
    (void)s;
    static const uint32_t ranks[] = {0, 5, UINT32_MAX};
    bytes b = {0};
    for (size_t i = 0; i < 3; i++) {
        gguf_header(&b, 1, 0);
        put_string(&b, "t");
        put32(&b, ranks[i]);
        put(&b, NULL, 100);
        expect(&b, KQ_E_FORMAT, "dimensions");
    }
}

static void one_tensor(bytes *b, uint32_t rank, const uint64_t *ne, uint32_t type, size_t n_data)
{
    gguf_header(b, 1, 0);
    gguf_info(b, "t", rank, ne, type, 0);
    pad_to(b, 32);
    put(b, NULL, n_data);
}

static void case_52_negative_and_zero(void **s)
{
    (void)s;
    bytes b = {0};
    one_tensor(&b, 1, (const uint64_t[]){(uint64_t)-4}, 0, 64);
    expect(&b, KQ_E_FORMAT, "negative");
    one_tensor(&b, 2, (const uint64_t[]){4, 0}, 0, 0);
    expect_ok(&b);
}

static void case_53_product_overflow(void **s)
{
    (void)s;
    bytes b = {0};
    one_tensor(&b, 2, (const uint64_t[]){(uint64_t)1 << 32, (uint64_t)1 << 32}, 0, 64);
    expect(&b, KQ_E_FORMAT, "overflows");
    one_tensor(&b, 3, (const uint64_t[]){(uint64_t)1 << 31, (uint64_t)1 << 31, 2}, 0, 64);
    expect(&b, KQ_E_FORMAT, "overflows");
}

static void case_54_bytes_overflow(void **s)
{
    (void)s;
    bytes b = {0};
    one_tensor(&b, 1, (const uint64_t[]){(uint64_t)1 << 62}, 0, 64);
    expect(&b, KQ_E_FORMAT, "overflows");
    one_tensor(&b, 1, (const uint64_t[]){((uint64_t)1 << 62) - 1}, 0, 64);
    expect(&b, KQ_E_FORMAT, "overflows"); /* the padding passes 2^64 */
}

static void case_55_sum_overflow(void **s)
{
    (void)s;
    const uint64_t ne[1] = {0x7FFFFFFFFFFFFFC0};
    bytes b = {0};
    gguf_header(&b, 3, 0);
    gguf_info(&b, "a", 1, ne, 24, 0);
    gguf_info(&b, "b", 1, ne, 24, ne[0]);
    gguf_info(&b, "c", 1, ne, 24, 2 * ne[0]);
    put(&b, NULL, 64);
    expect(&b, KQ_E_FORMAT, "overflows");
}

static void case_56_row_not_whole_blocks(void **s)
{
    (void)s;
    bytes b = {0};
    one_tensor(&b, 2, (const uint64_t[]){31, 32}, 2, 1000);
    expect(&b, KQ_E_FORMAT, "block of 32");
    one_tensor(&b, 1, (const uint64_t[]){128}, 12, 1000);
    expect(&b, KQ_E_FORMAT, "block of 256");
}

static void case_57_offsets(void **s)
{
    (void)s;
    static const uint64_t offsets[] = {1, 16, 64, (uint64_t)1 << 40, UINT64_MAX};
    bytes b = {0};
    for (size_t i = 0; i < 5; i++) {
        gguf_header(&b, 2, 0);
        gguf_info(&b, "a", 1, four, 0, 0);
        gguf_info(&b, "b", 1, four, 0, offsets[i]);
        pad_to(&b, 32);
        put(&b, NULL, 128);
        expect(&b, KQ_E_FORMAT, "expected 32");
    }
}

static void case_58_data_too_small(void **s)
{
    (void)s;
    bytes b = {0};
    one_tensor(&b, 1, (const uint64_t[]){256}, 14, 209);
    expect(&b, KQ_E_FORMAT, "passes the end");
    one_tensor(&b, 1, (const uint64_t[]){256}, 14, 210);
    expect_ok(&b);
    one_tensor(&b, 1, (const uint64_t[]){256}, 153, 4096);
    expect(&b, KQ_E_UNSUPPORTED, "153");
}

static void case_59_narrow_elements(void **s)
{
    (void)s;
    bytes b = {0};
    kq_gguf *g;
    gguf_header(&b, 0, 1);
    put_string(&b, "tokenizer.ggml.token_type");
    put32(&b, 9);
    put32(&b, 0);
    put64(&b, 3);
    put(&b, "\1\2\377", 3);
    uint8_t *copy = exact(&b, b.n);
    check_ok(kq_gguf_open_memory(copy, b.n, "x.gguf", &g, &err));
    int64_t v = 0;
    assert_true(kq_gguf_int(kq_gguf_find(g, "tokenizer.ggml.token_type"), 2, &v) && v == 255);
    assert_false(kq_gguf_int(kq_gguf_find(g, "tokenizer.ggml.token_type"), 3, &v));
    kq_gguf_close(g);
    free(copy);
    free(b.p);
}

/* Every prefix is refused, every flipped bit gives an answer. */
static void case_61_cut_and_changed_at_every_byte(void **s)
{
    (void)s;
    bytes b = {0};
    valid(&b);
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

static void many_keys_are_not_quadratic(void **s)
{
    (void)s;
    bytes b = {0};
    enum { N = 200000 };
    gguf_header(&b, 0, N);
    for (int i = 0; i < N; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%d", i);
        kv_u32(&b, key, 1);
    }
    expect_ok(&b);
}

#define T(name) cmocka_unit_test(name)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(typed_access),
        T(case_38_bad_magic),
        T(case_39_versions),
        T(case_40_counts),
        T(case_41_key_length),
        T(case_42_empty_key),
        T(case_43_duplicate_key),
        T(case_44_duplicate_tensor),
        T(case_45_value_types),
        T(case_46_array_of_arrays),
        T(case_47_array_count),
        T(case_48_string_length),
        T(case_49_small_file_big_request),
        T(case_50_alignment),
        T(case_51_dimensions),
        T(case_52_negative_and_zero),
        T(case_53_product_overflow),
        T(case_54_bytes_overflow),
        T(case_55_sum_overflow),
        T(case_56_row_not_whole_blocks),
        T(case_57_offsets),
        T(case_58_data_too_small),
        T(case_59_narrow_elements),
        T(case_61_cut_and_changed_at_every_byte),
        T(many_keys_are_not_quadratic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
