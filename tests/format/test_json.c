/* kq_json_parse against Python's json.loads (tests/golden/json_cases.txt), against mutated texts, and in
 * linear time. */
#include <time.h>

#include "base/mem.h"
#include "base/rng.h"
#include "format/json.h"

#include "check.h"

/* ---- the value as scripts/make_golden_json.py writes it ---- */

static void write_value(FILE *f, const json_t *v)
{
    const char *key;
    json_t *item;
    size_t i;
    switch (json_typeof(v)) {
    case JSON_NULL: fputc('n', f); return;
    case JSON_TRUE: fputc('t', f); return;
    case JSON_FALSE: fputc('f', f); return;
    case JSON_INTEGER: fprintf(f, "i%" JSON_INTEGER_FORMAT, json_integer_value(v)); return;
    case JSON_REAL: fprintf(f, "r%.17g", json_real_value(v)); return;
    case JSON_STRING:
        fputc('s', f);
        for (i = 0; i < json_string_length(v); i++)
            fprintf(f, "%02x", (unsigned char)json_string_value(v)[i]);
        fputc(';', f);
        return;
    case JSON_ARRAY:
        fputc('[', f);
        json_array_foreach(v, i, item)
            write_value(f, item);
        fputc(']', f);
        return;
    case JSON_OBJECT: break;
    }
    fputc('{', f);
    json_object_foreach((json_t *)v, key, item) {
        fputc('s', f);
        for (const char *c = key; *c; c++)
            fprintf(f, "%02x", (unsigned char)*c);
        fputc(';', f);
        write_value(f, item);
    }
    fputc('}', f);
}

/* What one text gives: "refused", or the value. free() it. */
static char *read_text(const char *text, size_t size)
{
    json_t *root;
    kq_error err;
    char *out = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&out, &n);
    /* no NUL behind it: the address sanitizer sees one byte too far */
    char *exact = malloc(size ? size : 1);
    assert_true(f && exact);
    memcpy(exact, text, size);
    if (kq_json_parse(exact, size, "x.json", &root, &err)) {
        assert_non_null(strstr(err.message, "x.json: not valid JSON: "));
        fputs("refused", f);
    } else {
        write_value(f, root);
    }
    json_decref(root);
    free(exact);
    fclose(f);
    return out;
}

static int nibble(char c)
{
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

static void test_python(void **state)
{
    (void)state;
    FILE *f = fopen(KRONQ_GOLDEN_DIR "/json_cases.txt", "r");
    char *line = NULL;
    size_t cap = 0, cases = 0, read = 0;
    ssize_t n;
    assert_non_null(f);
    while ((n = getline(&line, &cap, f)) > 0) {
        line[n - 1] = 0;
        char *space = strchr(line, ' ');
        size_t size = (size_t)(space - line) / 2;
        for (size_t i = 0; i < size; i++)
            line[i] = (char)(nibble(line[2 * i]) << 4 | nibble(line[2 * i + 1]));
        char *got = read_text(line, size);
        if (strcmp(got, space + 1))
            fail_msg("%.*s: got %.200s, Python has %.200s", (int)size, line, got, space + 1);
        read += strcmp(got, "refused") != 0;
        free(got);
        cases++;
    }
    free(line);
    fclose(f);
    assert_true(cases > 300 && read > 100 && read < cases);
}

static void test_messages(void **state)
{
    (void)state;
    json_t *root;
    kq_error err;
    check_fails(kq_json_parse("{\n\"a\": 'b'}", 11, "f.json", &root, &err), KQ_E_FORMAT,
                "f.json: not valid JSON: invalid token near ''' (line 2)");
    check_fails(kq_json_parse("\xef\xbb\xbf{}", 5, "f.json", &root, &err), KQ_E_FORMAT, "byte order mark");
    check_fails(kq_json_parse("{\"a\\u0000\": 1}", 14, "f.json", &root, &err), KQ_E_FORMAT,
                "NUL byte in object key");
    check_fails(kq_json_read("no-such-file.json", 100, &root, &err), KQ_E_IO, "no-such-file.json");
    assert_null(root);
    static char deep[10000]; /* nesting is bounded, whatever the size */
    memset(deep, '[', sizeof deep);
    check_fails(kq_json_parse(deep, sizeof deep, "deep.json", &root, &err), KQ_E_FORMAT,
                "maximum parsing depth");
    kq_alloc_fail_after(1);
    check_fails(kq_json_parse("[NaN]", 5, "f.json", &root, &err), KQ_E_MEMORY, "out of memory");
    kq_alloc_fail_after(0);
}

/* Any answer is right, but memory errors are not. */
static void test_mutated(void **state)
{
    (void)state;
    static const char seed[] = "{\"a\": [1, -2.5e3, NaN, -Infinity, 1e999, 123456789012345678901234567890], "
                               "\"b\\ud83d\\ude00\\ud800\": {\"\\\\\": \"\\u0000\"}, \"a\": null}";
    static const char bytes[] = "{}[]\",:\\/ue0123456789dDcCaAfN.+-EIi ntl\n\xc3\xa9";
    kq_rng rng = kq_rng_stream(12, "json");
    for (int round = 0; round < 30000; round++) {
        char text[sizeof seed];
        size_t n = sizeof seed - 1;
        memcpy(text, seed, sizeof seed);
        for (size_t k = kq_rng_u64(&rng) % 4 + 1; k; k--)
            text[kq_rng_u64(&rng) % n] =
                kq_rng_u64(&rng) % 8 ? bytes[kq_rng_u64(&rng) % (sizeof bytes - 1)] : (char)kq_rng_u64(&rng);
        free(read_text(text, kq_rng_u64(&rng) % 4 ? n : kq_rng_u64(&rng) % n));
    }
}

/* Long runs of what is rewritten: 2 MB each must not take the square of their length (which would be
 * hours). */
static void test_linear(void **state)
{
    (void)state;
    static const char *const units[] = {"\\ud800", "\\\\", "x"};
    static const char *const items[] = {"NaN,", "1e999,", "99999999999999999999,", "\"\\udc00\","};
    const size_t size = 2 << 20;
    char *text = malloc(size + 16);
    json_t *root;
    kq_error err;
    assert_non_null(text);
    clock_t start = clock();
    for (size_t i = 0; i < 3; i++) {
        size_t n = 0;
        for (text[n++] = '"'; n < size; n += strlen(units[i]))
            memcpy(text + n, units[i], strlen(units[i]));
        text[n++] = '"';
        check_ok(kq_json_parse(text, n, "long.json", &root, &err));
        json_decref(root);
    }
    for (size_t i = 0; i < 4; i++) {
        size_t n = 0;
        for (text[n++] = '['; n < size; n += strlen(items[i]))
            memcpy(text + n, items[i], strlen(items[i]));
        text[n - 1] = ']';
        check_ok(kq_json_parse(text, n, "long.json", &root, &err));
        json_decref(root);
    }
    memset(text, '9', size); /* one number */
    check_fails(kq_json_parse(text, size, "long.json", &root, &err), KQ_E_FORMAT, "4300 digits");
    text[1] = '.';
    check_ok(kq_json_parse(text, size, "long.json", &root, &err));
    assert_true(json_real_value(root) == 10.0);
    json_decref(root);
    free(text);
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_python), cmocka_unit_test(test_messages),
                                       cmocka_unit_test(test_mutated), cmocka_unit_test(test_linear)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
