/* Shared by the tokenizer tests: golden files, Rust-like replacement, a hash that Python has too. */
#ifndef KQ_TESTS_TOKENIZER_CHECK_H
#define KQ_TESTS_TOKENIZER_CHECK_H

#include <jansson.h>

#include "base/file.h"
#include "base/mem.h"
#include "check.h"

#include <unistd.h>
#include "tokenizer/internal.h"

static inline char *golden_read(const char *name, size_t *size)
{
    kq_error err;
    char path[512], *data = NULL;
    snprintf(path, sizeof path, "%s/%s", KRONQ_GOLDEN_DIR, name);
    check_ok(kq_file_read(path, 1 << 24, &data, size, &err));
    return data;
}

static inline json_t *golden_json(const char *name)
{
    size_t size;
    char *text = golden_read(name, &size);
    json_t *v = json_loadb(text, size, JSON_ALLOW_NUL, NULL);
    kq_free(text);
    assert_non_null(v);
    return v;
}

static inline uint64_t fnv1a(const char *s, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 0x100000001b3u;
    return h;
}

/* The decoded text as `tokenizers` shows it: ill-formed parts replaced. */
static inline void decoded_like_rust(const kq_tokenizer *tok, const int32_t *ids, size_t n, bool skip,
                                     kq_buffer *out)
{
    kq_error err;
    char *text;
    size_t size;
    check_ok(kq_tokenizer_decode(tok, ids, n, skip, &text, &size, &err));
    out->size = 0;
    check_ok(kq_utf8_lossy(text, size, out, &err));
    kq_free(text);
}

static inline void same_ids(const char *what, const int32_t *ids, size_t n, const json_t *want)
{
    size_t m = json_array_size(want), i = 0;
    while (i < n && i < m && ids[i] == json_integer_value(json_array_get(want, i)))
        i++;
    if (i < n || i < m)
        fail_msg("%s: %zu ids, want %zu; first difference at %zu (%d, want %d)", what, n, m, i,
                 i < n ? ids[i] : -1, i < m ? (int)json_integer_value(json_array_get(want, i)) : -1);
}

/* The whole mixed text and every short case of one family against what the `tokenizers` package gave. */
static inline void check_family(const kq_tokenizer *tok, const char *family)
{
    kq_error err;
    size_t size, n_want, n;
    int32_t *ids;
    char name[128], *text = golden_read("tokenizer_text.bin", &size), what[200];
    json_t *all = golden_json("tokenizer_cases.json"), *expect = json_object_get(all, family),
           *cases = json_object_get(expect, "cases"), *c;
    kq_buffer buf = {0};
    assert_true(size > 100000);
    assert_true(json_array_size(cases) > 50);
    snprintf(name, sizeof name, "tokenizer_%s.ids", family);
    char *want = golden_read(name, &n_want);
    n_want /= 2;
    check_ok(kq_tokenizer_encode(tok, text, size, true, true, &ids, &n, &err));
    for (size_t i = 0; i < n && i < n_want; i++) {
        int x = (unsigned char)want[2 * i] | (unsigned char)want[2 * i + 1] << 8;
        if (ids[i] != x)
            fail_msg("%s: id %zu of the mixed text is %d, want %d", family, i, ids[i], x);
    }
    assert_int_equal(n, n_want);
    for (int skip = 0; skip < 2; skip++) {
        decoded_like_rust(tok, ids, n, skip, &buf);
        snprintf(what, sizeof what, "%016llx", (unsigned long long)fnv1a(buf.data, buf.size));
        assert_string_equal(what,
                            json_string_value(json_object_get(expect, skip ? "decoded_skip" : "decoded")));
    }
    kq_free(ids);
    kq_free(want);
    kq_free(text);

    size_t i;
    json_array_foreach(cases, i, c) {
        const char *hex = json_string_value(json_object_get(c, "hex"));
        char raw[1024];
        size_t len = strlen(hex) / 2;
        assert_true(len <= sizeof raw);
        for (size_t j = 0; j < len; j++) {
            unsigned b;
            sscanf(hex + 2 * j, "%2x", &b);
            raw[j] = (char)b;
        }
        static const char *const kind[] = {"ids", "bare", "plain"};
        for (int k = 2; k >= 0; k--) {
            snprintf(what, sizeof what, "%s case %zu (%.80s) %s", family, i, hex, kind[k]);
            check_ok(kq_tokenizer_encode(tok, raw, len, k == 0, k != 2, &ids, &n, &err));
            same_ids(what, ids, n, json_object_get(c, kind[k]));
            if (k)
                kq_free(ids);
        }
        for (int skip = 0; skip < 2; skip++) {
            const json_t *d = json_object_get(c, skip ? "decoded_skip" : "decoded");
            decoded_like_rust(tok, ids, n, skip, &buf);
            if (buf.size != json_string_length(d) ||
                (buf.size && memcmp(buf.data, json_string_value(d), buf.size)))
                fail_msg("%s case %zu (%.80s): decoded \"%.*s\", want \"%s\"", family, i, hex, (int)buf.size,
                         buf.data, json_string_value(d));
        }
        kq_free(ids);
    }
    kq_free(buf.data);
    json_decref(all);
}

/* The side files made of a GGUF lie in dir, and nothing else; both are removed. */
static inline void check_side_files(const char *dir)
{
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                        "generation_config.json"};
    char path[256];
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(dir), 0);
}

#endif
