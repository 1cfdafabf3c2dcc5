/* generation_config.json: what transformers' GenerationConfig makes of it, and what is left out with a
 * warning. */
#include <sys/stat.h>

#include "source/generation_config.h"

#include "format/bytes.h"

static kq_error err;
static kq_generation_config gen;
static char warned[2048];

static void on_warning(void *ctx, const char *message)
{
    (void)ctx;
    size_t n = strlen(warned);
    snprintf(warned + n, sizeof warned - n, "%s\n", message);
}

static kq_status read_text(const char *text)
{
    mkdir("gen_folder", 0777);
    write_text("gen_folder/generation_config.json", text);
    *warned = err.message[0] = 0;
    return kq_generation_config_read("gen_folder", 384, &gen, &err);
}

static void published(void **state)
{
    (void)state;
    check_ok(read_text("{\"bos_token_id\": 151643, \"do_sample\": true, \"eos_token_id\": [151, 153], "
                       "\"pad_token_id\": 151, \"temperature\": 0.6, \"top_k\": 20, "
                       "\"top_p\": 0.95, \"transformers_version\": \"4.51.0\"}"));
    assert_true(gen.exists && gen.n_eos == 2 && gen.eos_id[0] == 151 && gen.eos_id[1] == 153);
    assert_true(gen.has_do_sample && gen.do_sample && gen.has_temperature && gen.temperature == 0.6 &&
                gen.has_top_p && gen.top_p == 0.95);
    assert_true(gen.has_top_k && gen.top_k == 20 && !gen.has_min_p && !gen.has_repetition_penalty);
    assert_string_equal(warned, "");
    check_ok(read_text("{\"min_p\": 0.05, \"repetition_penalty\": 1.1, \"top_k\": 0, \"temperature\": null, "
                       "\"do_sample\": false, \"eos_token_id\": 7}"));
    assert_true(gen.has_min_p && gen.min_p == 0.05 && gen.has_repetition_penalty &&
                gen.repetition_penalty == 1.1 && gen.has_top_k && gen.top_k == 0);
    assert_true(!gen.has_temperature && gen.has_do_sample && !gen.do_sample && gen.n_eos == 1 &&
                gen.eos_id[0] == 7);
}

static void absent(void **state)
{
    (void)state;
    remove("gen_folder/generation_config.json");
    check_ok(kq_generation_config_read("gen_folder", 384, &gen, &err));
    assert_true(!gen.exists && !gen.n_eos && !gen.has_temperature);
    check_ok(read_text("{\"eos_token_id\": null}"));
    assert_true(gen.exists && !gen.n_eos);
    check_ok(read_text("{\"eos_token_id\": []}"));
    assert_true(gen.exists && !gen.n_eos);
}

/* What kronq has no like of is named; a value that asks for nothing is not. */
static void not_applied(void **state)
{
    (void)state;
    check_ok(read_text("{\"num_beams\": 1, \"guidance_scale\": null, \"min_length\": 0, \"bad_words_ids\": "
                       "[], \"top_k\": 5, \"num_return_sequences\": 1}"));
    assert_string_equal(gen.unread, "");
    check_ok(read_text("{\"num_beams\": 4, \"guidance_scale\": 1.5, \"bad_words_ids\": [[3]], "
                       "\"no_repeat_ngram_size\": 2}"));
    assert_string_equal(gen.unread, "no_repeat_ngram_size, bad_words_ids, guidance_scale, num_beams");
    assert_string_equal(warned, "");
    check_ok(read_text("{\"no_repeat_ngram_size\": 2, \"suppress_tokens\": [1], \"begin_suppress_tokens\": "
                       "[1], \"bad_words_ids\": [[1]], "
                       "\"sequence_bias\": [1], \"forced_bos_token_id\": 1, \"forced_eos_token_id\": 1, "
                       "\"min_length\": 1, \"min_new_tokens\": 1, "
                       "\"exponential_decay_length_penalty\": [1, 2], \"guidance_scale\": 2, \"num_beams\": "
                       "2, \"typical_p\": 0.5, \"top_h\": 1, "
                       "\"epsilon_cutoff\": 0.1, \"eta_cutoff\": 0.1, \"encoder_repetition_penalty\": 2, "
                       "\"encoder_no_repeat_ngram_size\": 2}"));
    assert_true(strlen(gen.unread) < sizeof gen.unread);
}

/* Left out, each with its warning; the rest of the file counts. */
static void warnings(void **state)
{
    (void)state;
    static const struct {
        const char *text, *word;
    } cases[] = {
        {"{\"eos_token_id\": [2, 384]}", "eos_token_id 384"},
        {"{\"eos_token_id\": [2, -1]}", "eos_token_id -1"},
        {"{\"eos_token_id\": [2, 1000000000000000019884624838656]}", "outside the vocabulary"},
        {"{\"eos_token_id\": 2, \"temperature\": \"hot\"}", "temperature"},
        {"{\"eos_token_id\": 2, \"temperature\": NaN}", "temperature"},
        {"{\"eos_token_id\": 2, \"temperature\": -0.5}", "temperature"},
        {"{\"eos_token_id\": 2, \"top_p\": 2}", "top_p"},
        {"{\"eos_token_id\": 2, \"top_p\": 0}", "top_p"},
        {"{\"eos_token_id\": 2, \"min_p\": 1.5}", "min_p"},
        {"{\"eos_token_id\": 2, \"top_k\": -1}", "top_k"},
        {"{\"eos_token_id\": 2, \"repetition_penalty\": 0}", "repetition_penalty"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_ok(read_text(cases[i].text));
        assert_true(gen.exists && gen.n_eos == 1 && gen.eos_id[0] == 2);
        assert_true(!gen.has_temperature && !gen.has_top_p && !gen.has_min_p && !gen.has_top_k &&
                    !gen.has_repetition_penalty);
        if (!strstr(warned, cases[i].word))
            fail_msg("%s: warned \"%s\"", cases[i].text, warned);
    }
    static const char *const broken[] = {
        "", "{", "[]", "7", "{\"a\": 'b'}", "\xef\xbb\xbf{}", "version https://git-lfs.github.com/spec/v1\n"};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        check_ok(read_text(broken[i]));
        assert_true(!gen.exists && strstr(warned, "not used"));
    }
}

static void refused(void **state)
{
    (void)state;
    static const char *const cases[] = {"{\"eos_token_id\": \"2\"}", "{\"eos_token_id\": true}",
                                        "{\"eos_token_id\": {}}",    "{\"eos_token_id\": [[2]]}",
                                        "{\"eos_token_id\": 1.5}",   "{\"eos_token_id\": NaN}"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_fails(read_text(cases[i]), KQ_E_FORMAT, "eos_token_id");
    char many[2048] = "{\"eos_token_id\": [0";
    for (int i = 1; i <= KQ_MAX_EOS; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many), ", %d", i);
    strcat(many, "]}");
    check_fails(read_text(many), KQ_E_UNSUPPORTED, "more than 64");
}

int main(void)
{
    kq_set_warning_handler(on_warning, NULL);
    const struct CMUnitTest tests[] = {cmocka_unit_test(published), cmocka_unit_test(not_applied),
                                       cmocka_unit_test(absent), cmocka_unit_test(warnings),
                                       cmocka_unit_test(refused)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove("gen_folder/generation_config.json");
    rmdir("gen_folder");
    return failed;
}
