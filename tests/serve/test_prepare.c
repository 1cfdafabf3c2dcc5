/* Where tokens are in the text they came from, against Hugging Face's tokenizers
 * (scripts/make_serve_golden.py). */
#include "check.h"

#include <jansson.h>

#include "base/mem.h"
#include "serve/prepare.h"

static void offsets(void **state)
{
    (void)state;
    kq_error err;
    json_t *cases = json_load_file(KRONQ_GOLDEN_DIR "/serve_offsets.json", 0, NULL), *one;
    size_t c, n_wrong = 0;
    assert_true(json_array_size(cases) > 50);
    json_array_foreach(cases, c, one) {
        const char *text = json_string_value(json_object_get(one, "text")),
                   *name = json_string_value(json_object_get(one, "tokenizer"));
        const json_t *want = json_object_get(one, "offsets"), *ids_want = json_object_get(one, "ids");
        const bool special = json_is_true(json_object_get(one, "add_special"));
        char path[512];
        kq_tokenizer *tok;
        int32_t *ids;
        size_t n, characters = 0;
        snprintf(path, sizeof path, KRONQ_GOLDEN_DIR "/%s", name);
        check_ok(kq_tokenizer_open_file(path, &tok, &err));
        check_ok(kq_tokenizer_encode(tok, text, strlen(text), special, true, &ids, &n, &err));
        assert_int_equal(n, json_array_size(ids_want));
        size_t *offset = kq_prompt_offsets(tok, text, strlen(text), special, ids, n);
        assert_non_null(offset);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(ids[i], json_integer_value(json_array_get(ids_want, i)));
            if ((json_int_t)offset[i] != json_integer_value(json_array_get(want, i))) {
                printf("%s: \"%s\": token %zu of %zu (%d) is at %zu, expected %lld\n", name, text, i, n,
                       ids[i], offset[i], (long long)json_integer_value(json_array_get(want, i)));
                n_wrong++;
            }
        }
        for (const char *s = text; *s; s++)
            characters += ((unsigned char)*s & 0xC0) != 0x80;
        assert_int_equal(offset[n], characters);
        kq_free(offset);
        kq_free(ids);
        kq_tokenizer_close(tok);
    }
    json_decref(cases);
    assert_int_equal(n_wrong, 0);
}

/* Anything may come: random ids with a text that has nothing to do with them. */
static void strange(void **state)
{
    (void)state;
    kq_error err;
    kq_tokenizer *tok;
    static const char *const texts[] = {"", "x", "the quick brown fox jumps over the lazy dog",
                                        "\xef\xbf\xbd\xef\xbf\xbd", "    "};
    check_ok(kq_tokenizer_open_file(KRONQ_GOLDEN_DIR "/tokenizer_llama2.json", &tok, &err));
    kq_rng rng = kq_rng_stream(3, "offsets");
    for (int i = 0; i < 2000; i++) {
        int32_t ids[40];
        const size_t n = kq_rng_u64(&rng) % 40;
        const char *text = texts[kq_rng_u64(&rng) % 5];
        for (size_t k = 0; k < n; k++)
            ids[k] = (int32_t)(kq_rng_u64(&rng) % 1400);
        size_t *offset = kq_prompt_offsets(tok, text, strlen(text), i % 2, ids, n);
        assert_non_null(offset);
        for (size_t k = 0; k < n; k++)
            assert_true(offset[k] <= offset[k + 1] && offset[k + 1] <= strlen(text));
        kq_free(offset);
    }
    kq_tokenizer_close(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(offsets), cmocka_unit_test(strange)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
