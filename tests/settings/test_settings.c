/* The table of settings: every row is whole and agrees with the rooms that know its words; texts become
 * members, ranges hold, and JSON has the types that files depend on. */
#include <jansson.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fisher/fisher.h"
#include "grid/mix.h"
#include "settings/settings.h"
#include "settings/words.h"
#include "trellis/trellis.h"

static kq_error err;

static const kq_setting *row(const char *name)
{
    const kq_setting *s = kq_setting_find(name, ~0u);
    assert_non_null(s);
    return s;
}

static kq_status set(kq_quantize_options *o, const char *name, const char *text)
{
    return kq_setting_set(KQ_QUANTIZE_OPTIONS, o, row(name), text, &err);
}

/* Every row is found by its name and each of its takers, has a member, a help text and a heading; its
 * default is a value of it; its help names its words. */
static void rows_are_whole(void **state)
{
    (void)state;
    size_t n;
    const kq_setting *s = kq_settings(&n);
    assert_true(n > 50);
    for (size_t i = 0; i < n; i++) {
        size_t members = 0;
        for (int id = 0; id < KQ_N_OPTIONS; id++)
            members += s[i].at[id] != 0;
        if (!members || !s[i].help || !s[i].group || !s[i].takers)
            fail_msg("%s: a member, a help text, a heading or a taker is missing", s[i].name);
        for (unsigned bit = 1; bit; bit <<= 1)
            if ((s[i].takers & bit) && kq_setting_find(s[i].name, bit) != &s[i])
                fail_msg("%s: another row of that name has the taker %u too", s[i].name, bit);
        const bool flag = s[i].type == KQ_SETTING_FLAG || s[i].type == KQ_SETTING_NOT;
        assert_int_equal(flag, s[i].argument == NULL);
        assert_false(s[i].type == KQ_SETTING_WORD && !s[i].words);
        if (s[i].with && !kq_setting_find(s[i].with, s[i].takers) && !(s[i].takers & KQ_FOR_EVAL_TEXT))
            fail_msg("%s: nobody who takes it takes %s", s[i].name, s[i].with);
        for (int id = 0; id < KQ_N_OPTIONS; id++) {
            char room[sizeof(kq_quantize_options)] = {0};
            memcpy(room, &(size_t){sizeof room}, sizeof(size_t));
            if (s[i].at[id] && s[i].value)
                check_ok(kq_setting_set((kq_options_id)id, room, &s[i], s[i].value, &err));
            if (s[i].at[id])
                assert_true(kq_setting_is_default((kq_options_id)id, room, &s[i]));
        }
    }
}

/* The help of a setting names each of its words, but for the long list of llama.cpp's types. */
static void help_names_the_words(void **state)
{
    (void)state;
    size_t n;
    const kq_setting *s = kq_settings(&n);
    for (size_t i = 0; i < n; i++) {
        char word[40];
        for (const char *w = s[i].words; w && *w;) {
            const size_t len = strcspn(w, " ");
            snprintf(word, sizeof word, "%.*s", (int)len, w);
            /* llama.cpp's many types are not named one by one */
            if (!strstr(s[i].help, word) && !kq_mix_find(word))
                fail_msg("%s: its help does not name %s", s[i].name, word);
            w += len + (w[len] == ' ');
        }
    }
}

/* Words of which the table has a copy for help and completion: what knows them takes each, and no word
 * is missing. */
static void words_are_those_of_the_rooms(void **state)
{
    (void)state;
    char word[40];
    size_t n_words = 0;
    for (const char *w = row("method")->words; *w; n_words++) {
        kq_method method;
        const size_t len = strcspn(w, " ");
        snprintf(word, sizeof word, "%.*s", (int)len, w);
        check_ok(kq_method_parse(word, &method, &err));
        w += len + (w[len] == ' ');
    }
    assert_int_equal(n_words, KQ_N_METHOD);
    for (const char *w = row("code")->words; *w;) {
        kq_code code;
        const size_t len = strcspn(w, " ");
        snprintf(word, sizeof word, "%.*s", (int)len, w);
        check_ok(kq_code_parse(word, &code, &err));
        w += len + (w[len] == ' ');
    }
    for (size_t t = 0; t < 2; t++) { /* of quantize: all mixtures; of export: these, F16, BF16 and F32 */
        const char *words = kq_setting_find("type", t ? KQ_FOR_EXPORT_GGUF : KQ_FOR_QUANTIZE_GGUF)->words;
        size_t n = 0, n_mix = 1;
        for (const char *w = words; *w;) {
            const size_t len = strcspn(w, " ");
            snprintf(word, sizeof word, "%.*s", (int)len, w);
            assert_true(kq_mix_find(word) || (t && strstr("F16 BF16 F32", word)));
            n += kq_mix_find(word) && strcmp(word, "Q2_K_S");
            w += len + (w[len] == ' ');
        }
        for (const char *w = kq_mix_names(); *w; w++)
            n_mix += *w == ' ';
        assert_int_equal(n, n_mix - 1); /* Q2_K_S is not offered */
    }
    for (int m = 0; m < KQ_N_METHOD; m++) {
        const char *name = kq_method_name((kq_method)m);
        assert_int_equal(kq_setting_counts_with(row("tol"), name), kq_method_iterates((kq_method)m));
        assert_int_equal(kq_setting_counts_with(row("passes"), name), m == KQ_YAQA_A);
        assert_int_equal(kq_setting_counts_with(row("early"), name), m == KQ_FLIPFLOP);
        assert_int_equal(kq_setting_counts_with(row("rho"), name),
                         m == KQ_FLIPFLOP || m == KQ_FLIPFLOP_TOKENS);
        assert_int_equal(kq_setting_counts_with(row("tokens"), name), m != KQ_NONE);
    }
}

static void texts_become_members(void **state)
{
    (void)state;
    kq_quantize_options o = kq_quantize_defaults();
    assert_int_equal(o.calibration.tokens, 32768);
    assert_true(o.calibration.rho == 1e-2 && o.calibration.tol == 1e-3 && o.sigma_reg == 0.1);
    assert_int_equal(o.shard_size, (size_t)8 << 30);
    check_ok(set(&o, "tokens", "96k"));
    assert_int_equal(o.calibration.tokens, 96 << 10);
    check_ok(set(&o, "rho", "1e-3"));
    assert_true(o.calibration.rho == 1e-3);
    check_ok(set(&o, "labels", "sampled"));
    assert_true(o.calibration.sampled_labels);
    check_ok(set(&o, "labels", "text"));
    assert_false(o.calibration.sampled_labels);
    check_ok(set(&o, "parse_special", "no"));
    assert_true(o.calibration.reading.spell_special);
    check_ok(set(&o, "parse_special", NULL));
    assert_false(o.calibration.reading.spell_special);
    check_ok(set(&o, "exact", NULL));
    assert_true(o.calibration.exact);
    static const struct {
        const char *text;
        size_t bytes;
    } sizes[] = {{"45000000", 45000000}, {"45M", 45 << 20},     {"45MiB", 45 << 20}, {"45MB", 45000000},
                 {"1.5G", 3UL << 29},    {"1.5GB", 1500000000}, {"2kB", 2000},       {"2KiB", 2048},
                 {"0.5M", 1 << 19},      {"7k", 7 << 10}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_ok(set(&o, "size", sizes[i].text));
        if (o.most_bytes != sizes[i].bytes)
            fail_msg("%s: %zu bytes, expected %zu", sizes[i].text, o.most_bytes, sizes[i].bytes);
    }
    check_ok(set(&o, "seed", "9223372036854775807"));
    assert_true(o.common.seed == INT64_MAX);
    check_ok(set(&o, "code", "1mad"));
    assert_string_equal(o.code, "1mad");
    const char *texts[] = {"a", "b"};
    check_ok(kq_setting_set_list(KQ_QUANTIZE_OPTIONS, &o, row("text"), texts, 2, &err));
    assert_true(o.calibration.text == texts && o.calibration.n_text == 2);
    check_ok(kq_setting_set_list(KQ_QUANTIZE_OPTIONS, &o, row("module_bits"), texts, 1, &err));
    assert_true(o.module_bits == texts && o.n_module_bits == 1);
    check_ok(kq_setting_set_list(KQ_QUANTIZE_OPTIONS, &o, row("tensor_type"), texts, 2, &err));
    assert_true(o.tensor_type == texts && o.n_tensor_type == 2);
}

/* What is no value is refused with the name, the value and what is expected, and changes nothing. */
static void nonsense_is_refused(void **state)
{
    (void)state;
    static const char *const wrong[][3] = {
        {"tokens", "1e9", "--tokens 1e9: a whole number is expected (k, M, G may follow)"},
        {"tokens", "-1", "--tokens -1: a whole number"},
        {"tokens", "0", "--tokens 0: at least 1 is expected, and at most 1e+15"},
        {"tokens", "99999999G", "a whole number"},
        {"seq_len", "1", "--seq-len 1: at least 2 is expected, and at most 1048576"},
        {"draws", "2000", "--draws 2000: 1 to 1024 is expected"},
        {"rho", "0", "--rho 0: more than 0 is expected"},
        {"rho", "nan", "--rho nan: a number of at least 0"},
        {"rho", "0x1p-3", "a number of at least 0"},
        {"rho", "1,5", "a number of at least 0"},
        {"rounds", "", "--rounds : a whole number is expected"},
        {"labels", "both", "--labels both: text or sampled"},
        {"exact", "perhaps", "--exact perhaps: yes or no"},
        {"code", "", "--code '': it may not be empty"},
        {"seed", "9223372036854775808", "a whole number below 2^63"},
        {"memory", "lots", "--memory lots: a size in bytes"},
        {"size", "45Mb", "--size 45Mb: a size in bytes"},
        {"size", "1.5", "a size in bytes"},
        {"size", "1.5.5M", "a size in bytes"},
        {"size", "-1M", "a size in bytes"},
        {"size", "1e3M", "a size in bytes"},
        {"size", "99999999999999G", "a size in bytes"},
        {"bpw", "0", "--bpw 0: more than 0"},
        {"memory", "0", "--memory 0: at least 1048576"},
        {"text", "a", "--text: is a list"},
        {"limit", "3", "--limit: is no setting of these options"},
    };
    kq_quantize_options o = kq_quantize_defaults();
    const kq_quantize_options before = o;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        check_fails(set(&o, wrong[i][0], wrong[i][1]), KQ_E_ARG, wrong[i][2]);
    check_fails(set(&o, "rounds", NULL), KQ_E_ARG, "--rounds: a value is missing");
    check_fails(kq_setting_set_list(KQ_QUANTIZE_OPTIONS, &o, row("rho"), NULL, 0, &err), KQ_E_ARG,
                "--rho: is no list");
    assert_memory_equal(&o, &before, sizeof o);
}

/* A struct of an older version, which ends before the member, is not written beyond its end. */
static void a_struct_that_ends_before_the_member(void **state)
{
    (void)state;
    kq_quantize_options o = kq_quantize_defaults();
    o.size = offsetof(kq_quantize_options, sweeps);
    check_ok(kq_setting_set(KQ_QUANTIZE_OPTIONS, &o, kq_setting_find("bits", KQ_FOR_QUANTIZE), "3", &err));
    check_fails(kq_setting_set(KQ_QUANTIZE_OPTIONS, &o, row("sweeps"), "3", &err), KQ_E_ARG,
                "--sweeps: is no setting of these options");
    assert_int_equal(o.sweeps, 0);
}

static void ranges_hold_in_the_library(void **state)
{
    (void)state;
    kq_quantize_options o = kq_quantize_defaults();
    check_ok(kq_settings_check(KQ_QUANTIZE_OPTIONS, ~0u, &o, &err));
    o.memory = 5;
    check_fails(kq_settings_check(KQ_QUANTIZE_OPTIONS, KQ_FOR_QUANTIZE, &o, &err), KQ_E_ARG,
                "--memory 5: at least 1048576 is expected");
    check_ok(kq_settings_check(KQ_QUANTIZE_OPTIONS, KQ_FOR_IMATRIX, &o, &err)); /* not its setting */
    o = kq_quantize_defaults();
    o.calibration.rho = NAN;
    check_fails(kq_settings_check(KQ_QUANTIZE_OPTIONS, KQ_FOR_QUANTIZE, &o, &err), KQ_E_ARG,
                "--rho nan: more than 0");
    o = kq_quantize_defaults();
    o.bits = 7;
    check_fails(kq_settings_check(KQ_QUANTIZE_OPTIONS, KQ_FOR_QUANTIZE, &o, &err), KQ_E_ARG,
                "--bits 7: 2, 3 or 4 are possible, or an average between them");
    check_ok(kq_settings_check(KQ_QUANTIZE_OPTIONS, KQ_FOR_QUANTIZE_GGUF, &o, &err));
    o.bits = 2.5;
    o.embed_bits = 5;
    check_fails(kq_settings_check(KQ_QUANTIZE_OPTIONS, KQ_FOR_QUANTIZE, &o, &err), KQ_E_ARG,
                "--embed-bits 5: 16, 8, 4, 3 or 2 are possible");
    o.embed_bits = 4;
    o.shrink = 1;
    check_fails(kq_settings_check(KQ_QUANTIZE_OPTIONS, KQ_FOR_QUANTIZE, &o, &err), KQ_E_ARG,
                "--shrink 1: from 0 to less than 1");
}

static void is_json(const kq_quantize_options *o, unsigned marks, const char *method, const char *expected)
{
    json_t *j = json_object();
    assert_true(kq_settings_write(KQ_QUANTIZE_OPTIONS, o, marks, method, j));
    char *text = json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(9));
    assert_string_equal(text, expected);
    free(text);
    json_decref(j);
}

/* The members of files, their order and their types. */
static void settings_in_files(void **state)
{
    (void)state;
    static const char *const texts[] = {"a.txt"};
    kq_quantize_options o = kq_quantize_defaults();
    is_json(&o, KQ_IN_FACTORS, "flipflop", "{\"rho\":0.01,\"rounds\":3,\"early\":16,\"exact\":false}");
    is_json(&o, KQ_IN_FACTORS, "flipflop-tokens", "{\"rho\":0.01,\"rounds\":3}");
    is_json(&o, KQ_IN_FACTORS, "yaqa-a", "{\"passes\":2}");
    is_json(&o, KQ_IN_FACTORS, "diag", "{\"tol\":0.001,\"max_iter\":32,\"start\":\"identity\"}");
    is_json(&o, KQ_IN_FACTORS, "kfac", "{}");
    is_json(&o, KQ_IN_CALIBRATION, "kfac", "{\"seq_len\":1024,\"batch\":1,\"labels\":\"text\"}");
    o.calibration.sampled_labels = o.calibration.reading.spell_special = true;
    o.calibration.reading.format = "json";
    is_json(&o, KQ_IN_CALIBRATION, "kfac",
            "{\"seq_len\":1024,\"batch\":1,\"labels\":\"sampled\",\"draws\":1}");
    o.calibration.text = texts;
    o.calibration.n_text = 1;
    is_json(&o, KQ_IN_CALIBRATION, "kfac",
            "{\"seq_len\":1024,\"batch\":1,\"labels\":\"sampled\",\"draws\":1,\"parse_special\":false,"
            "\"text_format\":\"json\"}");
    is_json(&o, KQ_IN_CHECKPOINT, NULL,
            "{\"code\":\"mul1\",\"sigma_reg\":0.1,\"shrink\":0.5,\"channel_scales\":\"curvature\","
            "\"only\":\"\",\"embed_bits\":4,\"head_bits\":4,\"sequential\":\"auto\",\"seed\":0}");
    is_json(&o, KQ_IN_GGUF, NULL,
            "{\"pure\":false,\"tensor_type\":[],\"fallback\":\"\",\"sweeps\":0,\"sigma_reg\":0.1,"
            "\"shrink\":0.5,\"only\":\"\"}");
    json_t *d = kq_setting_default_json(row("text_format"));
    assert_string_equal(json_string_value(d), "auto");
    json_decref(d);
    d = kq_setting_default_json(row("parse_special"));
    assert_true(json_is_true(d));
    json_decref(d);
}

/* Estimators called by themselves (kq_factor_defaults) have the defaults of the table. */
static void defaults_of_estimators(void **state)
{
    (void)state;
    const kq_calibration c = kq_quantize_defaults().calibration;
    const kq_factor_options f = kq_factor_defaults();
    assert_string_equal(c.method, kq_method_name(f.method));
    assert_true(c.rho == f.rho && c.tol == f.tol && c.exact == f.exact && c.start_random == f.start_random);
    assert_true(c.rounds == f.rounds && c.early == f.early && c.passes == f.passes);
    assert_int_equal(c.max_iter, f.max_iter);
}

/* What the files of one pass share goes from one struct to another; all else stays. */
static void copies_of_settings(void **state)
{
    (void)state;
    static const char *const texts[] = {"a.txt", "b.txt"};
    kq_quantize_options from = kq_quantize_defaults(), to = from;
    from.calibration.text = texts;
    from.calibration.n_text = 2;
    from.calibration.seq_len = 7;
    from.calibration.draws = 3;
    from.calibration.sampled_labels = from.calibration.reading.spell_special = true;
    from.calibration.tokens = from.calibration.batch = 5;
    from.calibration.rho = 5;
    kq_settings_copy(KQ_QUANTIZE_OPTIONS, &from, &to, KQ_OF_THE_PASS);
    assert_true(to.calibration.text == texts && to.calibration.n_text == 2 && to.calibration.seq_len == 7);
    assert_true(to.calibration.sampled_labels && to.calibration.draws == 3);
    assert_true(to.calibration.reading.spell_special);
    assert_true(to.calibration.tokens == 32768 && to.calibration.batch == 1 && to.calibration.rho == 0.01);
}

static void efforts_change_the_rows_that_name_them(void **state)
{
    (void)state;
    size_t n;
    const kq_setting *s = kq_settings(&n);
    kq_quantize_options usual = kq_quantize_defaults(), low = usual, normal = usual, high = usual;
    check_ok(kq_quantize_effort(&low, "low", &err));
    check_ok(kq_quantize_effort(&normal, "normal", &err));
    check_ok(kq_quantize_effort(&high, "high", &err));
    assert_memory_equal(&normal, &usual, sizeof usual);
    assert_true(low.calibration.tokens < usual.calibration.tokens &&
                high.calibration.tokens > usual.calibration.tokens);
    assert_string_equal(low.tune, "none");
    assert_true(high.tune_tokens > usual.tune_tokens);
    assert_int_equal(kq_quantize_effort(&low, "max", &err), KQ_E_ARG);
    assert_string_equal(err.message, "effort max: low, normal or high is expected");
    for (size_t i = 0; i < n; i++) { /* a value of an effort is one that the setting takes */
        kq_quantize_options o = usual;
        if (s[i].low)
            check_ok(kq_setting_set(KQ_QUANTIZE_OPTIONS, &o, &s[i], s[i].low, &err));
        if (s[i].high)
            check_ok(kq_setting_set(KQ_QUANTIZE_OPTIONS, &o, &s[i], s[i].high, &err));
        assert_true(!(s[i].low || s[i].high) || s[i].at[KQ_QUANTIZE_OPTIONS]);
    }
}

/* The words that a command line would have for every type. */
static void words_of_a_command_line(void **state)
{
    (void)state;
    static const char *const texts[] = {"a.txt", "b.txt"}, *const rules[] = {"down_proj=3"};
    static const char *const names[] = {"rho",   "labels", "exact", "parse_special", "text", "module_bits",
                                        "draws", "seed",   "start", "code",          "only", "rounds"};
    kq_quantize_options o = kq_quantize_defaults();
    o.calibration.rho = 0.1;
    o.calibration.sampled_labels = o.calibration.exact = o.calibration.reading.spell_special = true;
    o.calibration.text = texts;
    o.calibration.n_text = 2;
    o.module_bits = rules;
    o.n_module_bits = 1;
    o.only = "layers\\.3";
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        kq_setting_print(KQ_QUANTIZE_OPTIONS, &o, row(names[i]), f);
    fclose(f);
    assert_string_equal(text,
                        " --rho 0.1 --labels sampled --exact --no-parse-special --text a.txt --text b.txt "
                        "--module-bits 'down_proj=3' --draws 1 --seed 0 --start identity --code mul1 --only "
                        "'layers\\.3' --rounds 3");
    free(text);
}

/* Defaults and texts are read with a point, whatever the locale of the host program. */
static void commas(void **state)
{
    (void)state;
    if (!setlocale(LC_ALL, "de_DE.UTF-8"))
        skip();
    kq_quantize_options o = kq_quantize_defaults();
    check_ok(set(&o, "tol", "2.5e-1"));
    setlocale(LC_ALL, "C");
    assert_true(o.calibration.rho == 0.01 && o.calibration.tol == 0.25);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_whole),
        cmocka_unit_test(help_names_the_words),
        cmocka_unit_test(words_are_those_of_the_rooms),
        cmocka_unit_test(texts_become_members),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(a_struct_that_ends_before_the_member),
        cmocka_unit_test(ranges_hold_in_the_library),
        cmocka_unit_test(settings_in_files),
        cmocka_unit_test(defaults_of_estimators),
        cmocka_unit_test(copies_of_settings),
        cmocka_unit_test(words_of_a_command_line),
        cmocka_unit_test(commas),
        cmocka_unit_test(efforts_change_the_rows_that_name_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
