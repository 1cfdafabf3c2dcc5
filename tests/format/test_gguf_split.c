/* GGUFs in several parts: read as one file from the first part, and every fault refused by name. */
#include "format/gguf.h"

#include "format/bytes.h"

static kq_error err;

/* tensors: one letter each; numbers below 0: the key is not there */
typedef struct part {
    int no, count, total;
    const char *tensors, *arch;
} part;

static void kv_u16(bytes *b, const char *key, int v)
{
    put_string(b, key);
    put32(b, 2);
    put(b, (uint8_t[]){(uint8_t)v, (uint8_t)(v >> 8)}, 2);
}

static void write_part(const char *path, part p)
{
    const uint64_t four[4] = {4, 1, 1, 1};
    bytes b = {0};
    const size_t n = strlen(p.tensors);
    gguf_header(&b, n, (p.no >= 0) + (p.count >= 0) + (p.total >= 0) + (p.arch != NULL));
    if (p.arch)
        kv_str(&b, "general.architecture", p.arch);
    if (p.no >= 0)
        kv_u16(&b, "split.no", p.no);
    if (p.count >= 0)
        kv_u16(&b, "split.count", p.count);
    if (p.total >= 0)
        kv_u32(&b, "split.tensors.count", (uint32_t)p.total);
    for (size_t i = 0; i < n; i++)
        gguf_info(&b, (char[]){p.tensors[i], 0}, 1, four, 0, 32 * i);
    if (n)
        pad_to(&b, 32);
    for (size_t i = 0; i < n; i++) {
        putf(&b, (float)p.tensors[i]); /* a tensor's first value is its letter */
        put(&b, NULL, 28);
    }
    write_file(path, b.p, b.n);
    free(b.p);
}

static const char *const names[] = {"s-00001-of-00003.gguf", "s-00002-of-00003.gguf",
                                    "s-00003-of-00003.gguf"};

/* Three good parts, of which one (none: -1) is another. */
static void write_parts(int which, part other)
{
    const part good[] = {{0, 3, 4, "ab", "llama"}, {1, 3, 4, "c", NULL}, {2, 3, 4, "d", NULL}};
    for (int i = 0; i < 3; i++)
        write_part(names[i], i == which ? other : good[i]);
}

static void refused(int which, part other, const char *words)
{
    kq_gguf *g;
    write_parts(which, other);
    err.message[0] = 0;
    check_fails(kq_gguf_open(names[0], &g, &err), KQ_E_FORMAT, words);
    assert_null(g);
}

static void parts_are_one_file(void **s)
{
    (void)s;
    kq_gguf *g;
    write_parts(-1, (part){0});
    check_ok(kq_gguf_open(names[0], &g, &err));
    assert_int_equal(kq_gguf_n_tensors(g), 4);
    for (size_t i = 0; i < 4; i++) {
        const kq_gguf_tensor *t = kq_gguf_tensor_at(g, i);
        float first;
        memcpy(&first, t->data, 4);
        assert_true(t->name[0] == "abcd"[i] && first == (float)t->name[0]);
        assert_string_equal(t->file, names[i < 2 ? 0 : i - 1]);
    }
    kq_gguf_close(g);
    write_parts(0, (part){0, 3, 2, "", "llama"}); /* --no-tensor-first-split */
    write_part(names[1], (part){1, 3, 2, "c", NULL});
    write_part(names[2], (part){2, 3, 2, "d", NULL});
    check_ok(kq_gguf_open(names[0], &g, &err));
    assert_int_equal(kq_gguf_n_tensors(g), 2);
    kq_gguf_close(g);
    write_part("one.gguf", (part){0, 1, 2, "ab", "llama"}); /* a count of 1 is no split */
    check_ok(kq_gguf_open("one.gguf", &g, &err));
    kq_gguf_close(g);
}

static void faults(void **s)
{
    (void)s;
    kq_gguf *g;
    write_parts(-1, (part){0});
    check_fails(kq_gguf_open(names[1], &g, &err), KQ_E_ARG,
                "is part 2 of 3 of a model: open the first part, s-00001-of-00003.gguf");
    check_fails(kq_gguf_open(names[2], &g, &err), KQ_E_ARG, "is part 3 of 3");
    remove(names[2]);
    check_fails(kq_gguf_open(names[0], &g, &err), KQ_E_IO, "s-00003-of-00003.gguf: part 3 of 3 is missing");
    write_part("other.gguf", (part){0, 3, 4, "ab", "llama"});
    check_fails(kq_gguf_open("other.gguf", &g, &err), KQ_E_FORMAT, "whose names end in");
    write_part("other.gguf", (part){1, 3, 4, "ab", NULL});
    check_fails(kq_gguf_open("other.gguf", &g, &err), KQ_E_ARG, "name ends in -00001-of-00003.gguf");
    refused(1, (part){2, 3, 4, "c", NULL}, "is part 3 of 3");
    refused(1, (part){1, 4, 4, "c", NULL}, "is part 2 of 4");
    refused(1, (part){1, 3, 9, "c", NULL}, "9 tensors");
    refused(1, (part){1, 3, 4, "c", "qwen3"}, "general.architecture");
    refused(1, (part){-1, -1, -1, "c", NULL}, "no part");
    refused(1, (part){1, 3, 4, "a", NULL}, "tensor a appears twice");
    refused(2, (part){2, 3, 4, "", NULL}, "hold 3 tensors, split.tensors.count says 4");
    refused(0, (part){0, 3, -1, "ab", "llama"}, "split.tensors.count");
    refused(0, (part){-1, 3, 4, "ab", "llama"}, "split.no");
    refused(0, (part){7, 3, 4, "ab", "llama"}, "split.no");
    refused(0, (part){0, 65535, 4, "ab", "llama"}, "whose names end in");
    write_parts(-1, (part){0});
    write_file(names[1], "GGUF", 4);
    check_fails(kq_gguf_open(names[0], &g, &err), KQ_E_FORMAT, "s-00002-of-00003.gguf");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(parts_are_one_file), cmocka_unit_test(faults)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
