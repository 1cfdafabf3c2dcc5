/* Every splitting pattern that kronq knows cuts texts where `tokenizers` does
 * (scripts/make_golden_patterns.py). */
#include "tokenizer/tokenizer_check.h"
#include "base/buffer.h"
#include "base/mem.h"

static void check_text(const kq_pre *pre, const json_t *text, const char *want, size_t index)
{
    kq_error err;
    kq_tok_scratch s = {0};
    const char *t = json_string_value(text);
    kq_pieces pieces;
    kq_buffer sizes = {0};
    char hash[20];
    check_ok(kq_pretokenize(pre, 1, t, json_string_length(text), true, &s, &pieces, &err));
    for (size_t i = 0; i < pieces.n; i++) {
        char one[32];
        const int len = snprintf(one, sizeof one, "%zu,", pieces.v[i].size);
        check_ok(kq_buffer_add(&sizes, one, (size_t)len, &err));
    }
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)fnv1a(sizes.data, sizes.size));
    if (strcmp(hash, want) != 0)
        fail_msg("pattern \"%.80s\", text %zu \"%s\": pieces of %.*s", kq_pattern_known(index), index, t,
                 (int)sizes.size, sizes.data ? sizes.data : "");
    kq_free(sizes.data);
    kq_tok_scratch_free(&s);
}

static void as_tokenizers_cuts(void **state)
{
    (void)state;
    kq_error err;
    json_t *all = golden_json("cases/patterns/patterns.json"), *p, *t;
    size_t i, j;
    json_array_foreach(json_object_get(all, "patterns"), i, p) {
        const json_t *text = json_object_get(p, "pattern");
        kq_pre pre = {.kind = KQ_PRE_SPLIT, .behavior = KQ_ISOLATED};
        assert_string_equal(kq_pattern_known(i), json_string_value(text));
        check_ok(
            kq_pattern_regex(json_string_value(text), json_string_length(text), "test", &pre.pattern, &err));
        json_array_foreach(json_object_get(all, "texts"), j, t)
            check_text(&pre, t, json_string_value(json_array_get(json_object_get(p, "pieces"), j)), i);
        kq_pattern_free(&pre.pattern);
    }
    assert_null(kq_pattern_known(i));
    json_decref(all);
}

/* 2 MB of one character: hours where a pattern is quadratic in a run. */
static void linear_in_runs(void **state)
{
    (void)state;
    enum { SIZE = 1 << 21 };
    kq_error err;
    static const char *const unit[] = {" ",  "\n",           "a",       "A", "1", "'", "-", "\xcc\x81", " \t",
                                       "a ", "\xe4\xb8\xad", "\xca\xb0"};
    char *text = malloc(SIZE + 1);
    assert_non_null(text);
    for (size_t i = 0; kq_pattern_known(i); i++) {
        kq_pre pre = {.kind = KQ_PRE_SPLIT, .behavior = KQ_ISOLATED};
        check_ok(
            kq_pattern_regex(kq_pattern_known(i), strlen(kq_pattern_known(i)), "test", &pre.pattern, &err));
        for (size_t u = 0; u < sizeof unit / sizeof *unit; u++) {
            kq_tok_scratch s = {0};
            kq_pieces pieces;
            /* spaces are what patterns go back over */
            const size_t k = strlen(unit[u]), size = SIZE / (u ? 16 : 1) / k * k;
            for (size_t j = 0; j < size; j++)
                text[j] = unit[u][j % k];
            text[size] = 'x';
            check_ok(kq_pretokenize(&pre, 1, text, size + 1, true, &s, &pieces, &err));
            kq_tok_scratch_free(&s);
        }
        kq_pattern_free(&pre.pattern);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(as_tokenizers_cuts),
                                       cmocka_unit_test(linear_in_runs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
