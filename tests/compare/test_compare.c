/* What rows share, how they are named, and a comparison's folder when its files are not what they should
 * be. */
#include <jansson.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "check.h"
#include "compare/compare.h"
#include "temp_folder.h"

#define MODEL KRONQ_GOLDEN_DIR "/tiny_cli/hf"
static const char *const text[] = {KRONQ_GOLDEN_DIR "/tiny_cli/text.txt"};

static kq_compare_row row(const char *spec, const char *method)
{
    kq_compare_row r = {.spec = spec, .options = kq_quantize_defaults()};
    r.options.calibration.text = text;
    r.options.calibration.n_text = 1;
    r.options.calibration.tokens = 512;
    r.options.calibration.seq_len = 32;
    r.options.calibration.method = method;
    return r;
}

static kq_compare_options options(void)
{
    kq_compare_options o = kq_compare_defaults();
    o.text = text;
    o.n_text = 1;
    o.ctx = 64;
    o.chunks = 2;
    return o;
}

/* Factors and passes of a list of rows, worked out by hand from what each estimate depends on. */
static void test_sharing(void **state)
{
    (void)state;
    enum { N = 16 };
    kq_compare_row r[N];
    static const struct {
        int factors;
        size_t pass;
    } want[N] = {{0, 0}, {0, 0}, {0, 0}, {1, 0}, {2, 0}, {-1, 0}, {3, 0},  {3, 0},
                 {4, 1}, {5, 2}, {6, 1}, {7, 3}, {8, 4}, {9, 5},  {10, 6}, {11, 7}};
    for (int i = 0; i < N; i++)
        r[i] = row("", "flipflop");
    /* other bits and another rounding: the same factors */
    r[1].options.bits = 3;
    r[2].options.common.seed = 4;       /* another seed: nothing in them is random */
    r[3].options.calibration.rho = 0.1; /* another estimate of the same gradients */
    r[4].options.calibration.tokens = 256;
    r[5].options.calibration.method = "none";
    r[6].options.calibration.method = "input-only"; /* looks at inputs: labels do not matter */
    r[7] = r[6];
    r[7].options.calibration.sampled_labels = true;
    r[7].options.bits = 3;
    /* drawn labels: another pass, and for every seed another */
    r[8].options.calibration.sampled_labels = true;
    r[9] = r[8];
    r[9].options.common.seed = 4;
    r[10] = r[8];
    r[10].options.calibration.method = "fastkron";
    r[11] = r[8];
    r[11].options.calibration.draws = 2;
    r[12].options.calibration.seq_len = 64;
    r[13].options.calibration.n_text = 0; /* text of the model's own: seeds differ */
    r[14] = r[13];
    r[14].options.common.seed = 4;
    r[15].options.calibration.method = "fastkron"; /* a random start */
    r[15].options.calibration.start_random = true;
    r[15].options.common.seed = 9;
    char spec[N][16];
    for (int i = 0; i < N; i++) {
        snprintf(spec[i], sizeof spec[i], "r%d", i);
        r[i].spec = spec[i];
    }
    const kq_compare_options o = options();
    kq_error err;
    kq_cmp c;
    check_ok(kq_cmp_open(MODEL, temp_folder, r, N, &o, &c, &err));
    assert_int_equal(c.n, N);
    for (int i = 0; i < N; i++) {
        if (c.row[i].factors != want[i].factors ||
            (want[i].factors >= 0 && c.factors[want[i].factors].pass != want[i].pass))
            fail_msg("row %d: factors %d of pass %zu, expected %d of %zu", i, c.row[i].factors,
                     c.row[i].factors < 0 ? 0 : c.factors[c.row[i].factors].pass, want[i].factors,
                     want[i].pass);
    }
    assert_int_equal(c.factors[0].waiting, 3);
    assert_int_equal(c.factors[0].seed, 0);
    kq_cmp_close(&c);
}

/* Names are files of the folder, whatever the spec; equal settings under two names are one row. */
static void test_names(void **state)
{
    (void)state;
    static const char *const spec[] = {"flipflop:rho=1e-1",
                                       "../../etc/passwd",
                                       "",
                                       ".",
                                       "a/b",
                                       "a:b",
                                       "flipflop:text=\xc3\xa9t\xc3\xa9.txt",
                                       "flipflop:text=a-path-that-is-so-long-that-no-file-name-would-take-it/"
                                       "and-then-goes-on-for-quite-a-while-longer-than-that.txt"};
    enum { N = sizeof spec / sizeof *spec };
    kq_compare_row r[N + 1];
    for (int i = 0; i < N; i++) {
        r[i] = row(spec[i], "none");
        r[i].options.sigma_reg = 0.01 * (i + 1);
    }
    r[N] = r[2];
    r[N].spec = "the third again";
    const kq_compare_options o = options();
    kq_error err;
    kq_cmp c;
    check_ok(kq_cmp_open(MODEL, temp_folder, r, N + 1, &o, &c, &err));
    assert_int_equal(c.n, N);
    assert_int_equal(c.n_same, 1);
    assert_string_equal(c.row[0].name, "flipflop_rho=1e-1-2bit-seed0");
    for (size_t i = 0; i < c.n; i++) {
        const char *name = c.row[i].name;
        assert_true(strlen(name) < KQ_CMP_NAME && *name != '.' && *name != '-');
        assert_int_equal(strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._=+-"),
                         strlen(name));
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(name, c.row[j].name);
    }
    kq_cmp_close(&c);
}

static void put(const char *name, const char *content)
{
    char *path;
    kq_error err;
    check_ok(kq_cmp_path(&path, temp_folder, NULL, name, "", &err));
    check_ok(kq_file_write(path, content, strlen(content), &err));
    kq_free(path);
}

#define ABOUT(texts, rows)                                                          \
    "{\"format\": 1, \"kronq\": \"0\", \"model\": \"m\", \"texts\": " texts         \
    ", \"tasks\": [], \"ctx\": 64, \"chunks\": 2, \"limit\": 0, \"isa\": \"ref\", " \
    "\"compute\": \"f32\", \"rows\": " rows "}"
#define ROW(bits, kld, modules, factors)                                                                     \
    "{\"row\": \"a\", \"spec\": \"s\", \"method\": \"none\", \"bits\": " bits                                \
    ", \"seed\": 0, \"tokens\": null, \"settings\": {}, \"factors\": " factors ", "                          \
    "\"seconds\": {\"calibration\": 1, \"factors\": null, \"rounding\": 2.5, \"evaluation\": 1}, "           \
    "\"peak_rss_bytes\": {\"calibration\": null, \"rounding\": 1, \"evaluation\": 1}, \"file_bytes\": 1, "   \
    "\"bpw\": 2, \"bpw_file\": 2.5, \"relative_mse\": 0.1, "                                                 \
    "\"predicted_loss\": null, \"modules\": " modules                                                        \
    ", \"texts\": [{\"text\": \"t\", \"ctx\": 64, \"windows\": 2, \"tokens\": 126, \"nll\": 2, \"ppl\": 7, " \
    "\"kld\": " kld ", \"kld_stderr\": 0.1, \"top1\": 0.5, \"top1_stderr\": 0.1, \"loss_rise\": 0.1, "       \
    "\"loss_rise_stderr\": 0.01, \"ppl_stderr\": 1, "                                                        \
    "\"reference_nll\": 1.9, \"reference_ppl\": 6.7}]}"

static void test_hostile(void **state)
{
    (void)state;
    static const struct {
        const char *about, *row, *words;
    } bad[] = {
        {"", NULL, "compare.json"},
        {"[1]", NULL, "a JSON object is expected"},
        {"{\"format\": 1, \"format\": 1}", NULL, "duplicate"},
        {"{}", NULL, "key \"format\" is missing: a whole number"},
        {ABOUT("[]", "3"), NULL, "key \"rows\": found 3, a list"},
        {ABOUT("[]", "[\"../a\"]"), NULL, "key \"rows[0]\": found"},
        {ABOUT("[]", "[\"a\", \"/etc/passwd\"]"), NULL, "key \"rows[1]\": found"},
        {ABOUT("[]", "[\"a\\u0000b\"]"), NULL, "compare.json"},
        {ABOUT("[]", "[\".\"]"), NULL, "key \"rows[0]\": found"},
        {ABOUT("[{\"name\": 1}]", "[]"), NULL, "key \"texts[0].name\": found 1"},
        {ABOUT("[]", "[\"a\"]"), "{}", "key \"row\" is missing"},
        {ABOUT("[]", "[\"a\"]"), ROW("\"2\"", "1", "{}", "\"f\""),
         "key \"bits\": found \"2\", a number from 1 to 32"},
        {ABOUT("[]", "[\"a\"]"), ROW("2", "null", "{}", "\"f\""), "key \"texts[0].kld\""},
        {ABOUT("[]", "[\"a\"]"), ROW("2", "1e999", "{}", "\"f\""), "rows/a.json"},
        {ABOUT("[]", "[\"a\"]"), ROW("2", "1", "[]", "\"f\""), "key \"modules\": found"},
        {ABOUT("[]", "[\"a\"]"), ROW("2", "1", "{\"m\": {\"bits\": 2}}", "\"f\""),
         "key \"modules.m.relative_mse\" is missing"},
        {ABOUT("[]", "[\"a\"]"), ROW("2", "1", "{}", "\"../../f\""), "key \"factors\": found \"../../f\""},
        {ABOUT("[{\"name\": \"other\"}]", "[\"a\"]"), ROW("2", "1", "{}", "\"f\""),
         "has no figures of other"},
    };
    char *path;
    kq_error err;
    json_t *about, *rows;
    check_ok(kq_cmp_path(&path, temp_folder, NULL, "rows", "", &err));
    check_ok(kq_mkdirs(path, &err));
    kq_free(path);
    check_fails(kq_cmp_read(temp_folder, &about, &rows, &err), KQ_E_IO, "no folder of `kronq compare`");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put("compare.json", bad[i].about);
        if (bad[i].row)
            put("rows/a.json", bad[i].row);
        check_fails(kq_cmp_read(temp_folder, &about, &rows, &err), KQ_E_FORMAT, bad[i].words);
        assert_null(about);
        assert_null(rows);
    }
    put("compare.json", ABOUT("[{\"name\": \"t\"}]", "[\"a\", \"not-there-yet\"]"));
    put("rows/a.json",
        ROW("2", "1",
            "{\"m\": {\"bits\": 2, \"relative_mse\": 0.1, \"predicted_loss\": null, \"shape\": [2, 2]}}",
            "\"f\""));
    check_ok(kq_cmp_read(temp_folder, &about, &rows, &err));
    assert_int_equal(json_array_size(rows), 1);
    json_decref(about);
    json_decref(rows);
    check_ok(kq_cmp_tables(temp_folder, NULL, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sharing), cmocka_unit_test(test_names),
                                       cmocka_unit_test(test_hostile)};
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
