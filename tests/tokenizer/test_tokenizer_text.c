/* What a text may do to the tokenizer: Unicode normal forms, texts that once took hours, and a caller
 * that wants to stop. */
#include <utf8proc.h>

#include "base/rng.h"
#include "tokenizer/tokenizer_check.h"
#include "base/buffer.h"
#include "base/mem.h"
#include "base/utf8.h"

static const struct {
    const char *name;
    int options;
} forms[] = {
    {"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
    {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
    {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
    {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
};

static void check_form(size_t form, const char *text, size_t size, const char *want, size_t n_want,
                       const char *what, size_t index)
{
    kq_error err;
    kq_tok_scratch s = {0};
    kq_buffer out = {0};
    check_ok(kq_normal_form(forms[form].options, text, size, &s, &out, &err));
    if (out.size != n_want || (n_want && memcmp(out.data, want, n_want)))
        fail_msg("%s of %s %zu (%zu bytes): %zu bytes, want %zu", forms[form].name, what, index, size,
                 out.size, n_want);
    kq_free(out.data);
}

/* What unicodedata and `tokenizers` give; the texts one by one, and all of them as one text (which
 * begins runs in the middle of what is held). */
static void as_python_does(void **state)
{
    (void)state;
    kq_error err;
    json_t *all = golden_json("cases/21-normal-forms/forms.json"), *row;
    size_t i;
    assert_true(json_array_size(all) > 100);
    for (size_t f = 0; f < 4; f++) {
        kq_buffer text = {0}, want = {0};
        for (int round = 0; round < 40; round++)
            json_array_foreach(all, i, row) {
                const json_t *t = json_object_get(row, "text"), *w = json_object_get(row, forms[f].name);
                if (!round)
                    check_form(f, json_string_value(t), json_string_length(t), json_string_value(w),
                               json_string_length(w), "text", i);
                check_ok(kq_buffer_add(&text, json_string_value(t), json_string_length(t), &err));
                /* starters that compose with nothing */
                check_ok(kq_buffer_add(&text, i % 3 ? "-" : "\xe4\xb8\xad", i % 3 ? 1 : 3, &err));
                check_ok(kq_buffer_add(&want, json_string_value(w), json_string_length(w), &err));
                check_ok(kq_buffer_add(&want, i % 3 ? "-" : "\xe4\xb8\xad", i % 3 ? 1 : 3, &err));
            }
        check_form(f, text.data, text.size, want.data, want.size, "all texts", 0);
        kq_free(text.data);
        kq_free(want.data);
    }
    json_decref(all);
}

/* utf8proc's own way, on texts short enough for it: marks, Hangul and what composes, around the lengths
 * at which ours takes another path. */
static void as_utf8proc_does(void **state)
{
    (void)state;
    kq_rng rng = kq_rng_stream(21, "normal forms");
    static const uint32_t from[][2] = {{0x300, 0x36f},     {0x1100, 0x11c2}, {0xc0, 0x17f}, {0x900, 0xdff},
                                       {0xac00, 0xd7a3},   {0x591, 0x6dc},   {0x61, 0x7a},  {0xfb00, 0xfdfb},
                                       {0x1d158, 0x1d1ad}, {0x1f00, 0x1fff}};
    for (size_t i = 0; i < 600; i++) {
        static char text[5000 * 4];
        const size_t n = i < 560 ? 1 + kq_rng_u64(&rng) % 60 : 4080 + kq_rng_u64(&rng) % 40,
                     kinds = 1 + kq_rng_u64(&rng) % 10;
        size_t size = 0;
        for (size_t k = 0; k < n; k++) {
            const uint32_t *range = from[kq_rng_u64(&rng) % kinds];
            size +=
                kq_utf8_put(range[0] + (uint32_t)(kq_rng_u64(&rng) % (range[1] - range[0] + 1)), text + size);
        }
        for (size_t f = 0; f < 4; f++) {
            utf8proc_uint8_t *want = NULL;
            const utf8proc_ssize_t m = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)size,
                                                    &want, (utf8proc_option_t)forms[f].options);
            assert_true(m >= 0);
            check_form(f, text, size, (const char *)want, (size_t)m, "random text", i);
            free(want);
        }
    }
}

static kq_tokenizer *open_family(const char *family)
{
    kq_error err;
    kq_tokenizer *tok;
    char path[512];
    snprintf(path, sizeof path, "%s/tokenizer_%s.json", KRONQ_GOLDEN_DIR, family);
    check_ok(kq_tokenizer_open_file(path, &tok, &err));
    return tok;
}

typedef struct patience {
    size_t asked, until;
} patience;
static bool out_of_patience(void *ctx)
{
    patience *p = ctx;
    return ++p->asked > p->until;
}

/* Long runs of everything: many minutes where a step takes the square of a run (marks, of which there
 * are 2 MB: most of an hour), seconds in all where none does. Time is not looked at here: the test's own
 * limit ends a quadratic one. That the caller is asked throughout is. */
static void any_bytes_in_time(void **state)
{
    (void)state;
    enum { MOST = 1 << 21 };
    kq_error err;
    static const char *const families[] = {"qwen", "llama2", "smollm"};
    static const char *const unit[] = {"\xcc\x96\xcc\x80",
                                       "a",
                                       " ",
                                       "\n",
                                       "7",
                                       "<",
                                       "<|",
                                       "\xff",
                                       "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8",
                                       " \t",
                                       "'s",
                                       "\xef\xb7\xba",
                                       "\xf0\x9f\x91\xa8\xe2\x80\x8d",
                                       "\xe2\x96\x81",
                                       "the",
                                       "<s>",
                                       " <|l|> "};
    char *text = malloc(MOST);
    assert_non_null(text);
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        kq_tokenizer *tok = open_family(families[f]);
        for (size_t u = 0; u < sizeof unit / sizeof *unit; u++) {
            const size_t n = strlen(unit[u]), size = u || f ? MOST / 8 : MOST;
            int32_t *ids;
            size_t n_ids;
            patience p = {.until = SIZE_MAX}, brief = {.until = 3};
            for (size_t i = 0; i < size; i++)
                text[i] = unit[u][i % n];
            const kq_encode_options opt = {
                .add_special = true, .parse_special = true, .stop = out_of_patience, .ctx = &p};
            check_ok(kq_tokenizer_encode_with(tok, text, size, &opt, &ids, &n_ids, &err));
            kq_free(ids);
            assert_true(p.asked >= 2 && p.asked < 2 + MOST / 1024);
            if (p.asked <= brief.until)
                continue;
            const kq_encode_options stop = {.parse_special = true, .stop = out_of_patience, .ctx = &brief};
            check_fails(kq_tokenizer_encode_with(tok, text, size, &stop, &ids, &n_ids, &err),
                        KQ_E_INTERRUPTED, "stop");
            assert_int_equal(brief.asked, 4);
        }
        kq_tokenizer_close(tok);
    }
    free(text);
}

static void stops_before_it_starts(void **state)
{
    (void)state;
    kq_error err;
    kq_tokenizer *tok = open_family("smollm");
    int32_t *ids;
    size_t n;
    patience p = {0};
    const kq_encode_options opt = {.stop = out_of_patience, .ctx = &p};
    check_fails(kq_tokenizer_encode_with(tok, "a", 1, &opt, &ids, &n, &err), KQ_E_INTERRUPTED, "stop");
    kq_tokenizer_close(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_python_does),
        cmocka_unit_test(as_utf8proc_does),
        cmocka_unit_test(any_bytes_in_time),
        cmocka_unit_test(stops_before_it_starts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
